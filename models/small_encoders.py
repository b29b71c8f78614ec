"""`weld-small`: small encoders of the four modalities, trained on the user's own welds and then frozen.

They need no download and run on one core beside the live path. Phase one is `pretraining_loss` on unlabelled welds;
afterwards they are frozen, and their tokens are cached.
- Video: 4x4 patch stem and channels-last convolutions (a stride-2 stem costs ten times as much); each frame gives
  tokens of `video_regions`, the mean and the largest value of every feature map, for spatter is small and rare.
- Sound: log-mel from `torch.stft` up to half the sample rate, the absolute level kept; convolution over time.
- Sensors: segments of rows, read by a GRU in both directions.
- Photos: patch features of three levels, of the colour relative to the view's own median: light differs by session.
Masked reconstruction: K. He et al., "Masked autoencoders are scalable vision learners", CVPR 2022 (the idea; here
convolutions see the holes). Contrast: A. van den Oord et al., "Representation learning with contrastive predictive
coding", 2018 (InfoNCE).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Final, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

MAX_PARAMETERS: Final = 2_400_000
_LN10: Final = 2.302585092994046
_MIN_DETAIL: Final = 1e-4
"""Mean square of the logarithm of light; a 1 % ripple, about the noise of a camera."""
_USUAL_DETAIL: Final = 1e-2
"""The unit of the detail that pretraining predicts, so that it does not drown the other losses at the beginning."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WeldSmallConfig:
    """Sizes of the encoders; stored in the checkpoint.

    Attributes:
        width: D, width of the tokens of video, sound and sensors.
        video_regions: Regions of a frame, down and across; one token each.
        audio_rate_hz: Sample rate of the sound.
        audio_bands: Mel bands between 0 and half of that.
        audio_window_s: Length of the Fourier window.
        audio_hop_s: Distance of two spectra.
        audio_tokens: Tokens of a window of sound.
        sensor_channels: F.
        sensor_tokens: Tokens of a window of sensors.
        photo_width: C of every level of the photos.
        contrast_width: Width in which embeddings are compared while pretraining.
        temperature: Of InfoNCE.
        masked_share: Share of each input that pretraining hides.
    """

    width: int = 128
    video_regions: tuple[int, int] = (3, 2)
    audio_rate_hz: int = 16_000
    audio_bands: int = 64
    audio_window_s: float = 0.032
    audio_hop_s: float = 0.010
    audio_tokens: int = 32
    sensor_channels: int = 6
    sensor_tokens: int = 16
    photo_width: int = 64
    contrast_width: int = 64
    temperature: float = 0.1
    masked_share: float = 0.5

    def __post_init__(self) -> None:
        """Refuse sizes that cannot be built."""
        if self.width < 2 or self.width % 2:
            raise ValueError(f"width is {self.width}; give an even number")
        for name in ("audio_rate_hz", "audio_bands", "audio_tokens", "sensor_tokens", "photo_width", "contrast_width"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; give at least 1")
        if not 0.0 < self.masked_share < 1.0:
            raise ValueError(f"masked_share is {self.masked_share}; give a share between 0 and 1")

    def video_tokens(self, frames: int) -> int:
        """Count the video tokens of a window of `frames` frames."""
        return frames * self.video_regions[0] * self.video_regions[1]


class Tokens(NamedTuple):
    """Tokens of one modality.

    Attributes:
        values: `(B, N, D)` float32, zero where not valid.
        valid: `(B, N)` bool.
    """

    values: Tensor
    valid: Tensor


class WeldSmall(nn.Module):
    """See the module. Contents under a false mask are replaced before the first layer."""

    def __init__(self, config: WeldSmallConfig) -> None:
        super().__init__()
        self.config = config
        self.video_encoder = VideoEncoder(config)
        self.audio_encoder = AudioEncoder(config)
        self.sensor_encoder = SensorEncoder(config)
        self.photo_encoder = PhotoEncoder(config)
        self.contrast_heads = nn.ModuleDict(
            {name: nn.Linear(config.width, config.contrast_width) for name in ("video", "audio", "sensors")}
            | {"post_images": nn.Linear(config.photo_width, config.contrast_width)}
        )

    def video(self, frames: Tensor, mask: Tensor) -> Tokens:
        """Encode frames `(B, T, 1, H, W)` uint8 with mask `(B, T)` to `T` times `video_regions` tokens."""
        return self.video_encoder.tokens(self.video_encoder.maps(_light(frames, mask)), mask)

    def audio(self, waveform: Tensor, mask: Tensor) -> Tokens:
        """Encode sound `(B, C, L)` int16 or int32 with mask `(B, L)` to `audio_tokens` tokens."""
        level, known = self.audio_encoder.levels(waveform, mask)
        return self.audio_encoder.tokens(self.audio_encoder.trunk(level), known)

    def sensors(self, rows: Tensor, mask: Tensor) -> Tokens:
        """Encode rows `(B, S, F)`, normalised with training statistics, with mask `(B, S, F)` to `sensor_tokens`."""
        return self.sensor_encoder.tokens(torch.where(mask, rows, 0.0), mask)

    def photos(self, images: Tensor, mask: Tensor) -> list[Tensor]:
        """Encode views `(B, N, 3, h, w)` uint8 with mask `(B, N)` to patch features `(B, N, P_l, C_l)`, fine first.

        The features of dropped views are zero.
        """
        levels = self.photo_encoder.maps(_relative_colour(images, mask).flatten(0, 1))  # each (B*N, C, h_l, w_l)
        patches = [x.flatten(2).mT.reshape(*mask.shape, -1, x.shape[1]) for x in levels]
        return [torch.where(mask[..., None, None], x, 0.0) for x in patches]

    def pretraining_loss(
        self, batch: Mapping[str, Tensor], generator: torch.Generator
    ) -> tuple[Tensor, dict[str, float]]:
        """Reconstruct what is hidden and recognise which modalities, or views, belong together.

        Args:
            batch: Samples under the keys of the sample contract (`video`, `video_mask`, ...); sensors normalised with
                training statistics. Any modality may be absent from the mapping or masked.
            generator: Source of the holes, on the CPU.

        Returns:
            The loss, and its parts for the log. Without anything to learn from the loss is zero, with a gradient.
        """
        parts: dict[str, Tensor] = {}
        embeddings: dict[str, tuple[Tensor, Tensor]] = {}
        share = self.config.masked_share
        if "video" in batch:
            parts["video"], tokens = self.video_encoder.reconstruct(
                _light(batch["video"], batch["video_mask"]), batch["video_mask"], share, generator
            )
            embeddings["video"] = self._embedding("video", tokens)
        if "audio" in batch:
            parts["audio"], tokens = self.audio_encoder.reconstruct(
                batch["audio"], batch["audio_mask"], share, generator
            )
            embeddings["audio"] = self._embedding("audio", tokens)
        if "sensors" in batch:
            parts["sensors"], tokens = self.sensor_encoder.reconstruct(
                batch["sensors"], batch["sensors_mask"], share, generator
            )
            embeddings["sensors"] = self._embedding("sensors", tokens)
        for one, other in combinations(embeddings, 2):
            both = embeddings[one][1] & embeddings[other][1]
            parts[f"{one}-{other}"] = self._contrast(embeddings[one][0][both], embeddings[other][0][both])
        if "post_images" in batch:
            parts |= self._photo_losses(batch["post_images"], batch["post_images_mask"], generator)
        zero = next(self.parameters()).sum() * 0.0
        total = torch.stack([zero, *parts.values()]).sum()
        return total, {name: float(value.detach()) for name, value in parts.items()}

    def _photo_losses(self, images: Tensor, mask: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """Reconstruct hidden patches of two random views of each weld, and find the other view of the same weld."""
        first, second = _two_views(mask, generator)
        rows = torch.arange(len(mask), device=mask.device)
        pair = torch.stack([images[rows, first], images[rows, second]], dim=1)  # (B, 2, 3, h, w)
        pair_mask = torch.stack([mask[rows, first], mask[rows, second]], dim=1)
        loss, pooled = self.photo_encoder.reconstruct(
            _relative_colour(pair, pair_mask).flatten(0, 1), pair_mask.flatten(), self.config.masked_share, generator
        )
        embedded = functional.normalize(self.contrast_heads["post_images"](pooled), dim=-1).reshape(len(mask), 2, -1)
        both = pair_mask.all(dim=1) & (first != second)
        return {"post_images": loss, "views": self._contrast(embedded[both, 0], embedded[both, 1])}

    def _embedding(self, name: str, tokens: Tokens) -> tuple[Tensor, Tensor]:
        """Pool tokens to `(B, contrast_width)` of length one; the flag says where there were any."""
        count = tokens.valid.sum(dim=1, keepdim=True)
        pooled = tokens.values.sum(dim=1) / count.clamp_min(1)
        return functional.normalize(self.contrast_heads[name](pooled), dim=-1), count[:, 0] > 0

    def _contrast(self, one: Tensor, other: Tensor) -> Tensor:
        """Symmetric InfoNCE of rows that belong together; zero for fewer than two."""
        if len(one) < 2:
            return one.sum() * 0.0
        similarity = one @ other.T / self.config.temperature
        truth = torch.arange(len(one), device=one.device)
        return (functional.cross_entropy(similarity, truth) + functional.cross_entropy(similarity.T, truth)) / 2


class VideoEncoder(nn.Module):
    """Frames one by one to feature maps of a 16th of their size, pooled over regions."""

    def __init__(self, config: WeldSmallConfig) -> None:
        super().__init__()
        self.regions = config.video_regions
        half = config.width // 2  # mean and maximum are concatenated
        self.trunk = nn.Sequential(
            nn.Conv2d(1, 32, 4, stride=4),
            nn.GELU(),
            nn.Conv2d(32, half, 3, stride=2, padding=1),
            nn.GELU(),
            nn.Conv2d(half, half, 3, stride=2, padding=1),
            nn.GELU(),
            nn.Conv2d(half, half, 3, padding=1),
        ).to(memory_format=torch.channels_last)
        self.painter = nn.Conv2d(half, 64 + 1, 1)

    def maps(self, light: Tensor) -> Tensor:
        """Give feature maps `(B, T, C, H/16, W/16)` of `_light` frames."""
        flat = light.flatten(0, 1).contiguous(memory_format=torch.channels_last)  # (B*T, 1, H, W)
        features: Tensor = self.trunk(flat)
        return features.reshape(*light.shape[:2], *features.shape[1:])

    def tokens(self, maps: Tensor, mask: Tensor) -> Tokens:
        """Pool maps over regions: mean and maximum, side by side."""
        flat = maps.flatten(0, 1)
        pooled = torch.cat(
            [functional.adaptive_avg_pool2d(flat, self.regions), functional.adaptive_max_pool2d(flat, self.regions)],
            dim=1,
        )  # (B*T, D, down, across)
        values = pooled.flatten(2).mT.reshape(*mask.shape, -1, pooled.shape[1])  # (B, T, R, D)
        valid = mask[..., None].expand(values.shape[:3])
        return Tokens(torch.where(valid[..., None], values, 0.0).flatten(1, 2), valid.flatten(1, 2))

    def reconstruct(
        self, light: Tensor, mask: Tensor, share: float, generator: torch.Generator
    ) -> tuple[Tensor, Tokens]:
        """Paint hidden 16x16 blocks at half resolution; returns the error and the tokens of what was left to see."""
        frames = _padded(light.flatten(0, 1), 16)  # (B*T, 1, H, W)
        hidden = _hidden_blocks(frames, share, generator)
        seen = torch.where(_blown_up(hidden, 16), 0.0, frames)
        maps = self.maps(seen.reshape(*mask.shape, *seen.shape[1:]))
        painted = self.painter(maps.flatten(0, 1))  # (B*T, 65, h, w)
        return _painting_error(painted, frames, hidden, mask.flatten()), self.tokens(maps, mask)


class AudioEncoder(nn.Module):
    """Sound to log-mel spectra to features over time, pooled to a fixed number of tokens."""

    filters: Tensor
    window: Tensor

    def __init__(self, config: WeldSmallConfig) -> None:
        super().__init__()
        self.hop = round(config.audio_hop_s * config.audio_rate_hz)
        self.length = round(config.audio_window_s * config.audio_rate_hz)
        self.count = config.audio_tokens
        half, bands = config.width // 2, config.audio_bands
        filters = _mel_filters(config.audio_rate_hz, self.length // 2 + 1, bands)
        self.register_buffer("filters", filters, persistent=False)
        self.register_buffer("window", torch.hann_window(self.length), persistent=False)
        self.trunk = nn.Sequential(
            nn.Conv1d(bands, config.width, 5, stride=2, padding=2),
            nn.GELU(),
            nn.Conv1d(config.width, config.width, 3, padding=1),
            nn.GELU(),
            nn.Conv1d(config.width, half, 3, padding=1),
        )
        self.painter = nn.Conv1d(half, 2 * bands, 1)

    def levels(self, waveform: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Give band levels `(B, bands, 2G)`, 20 dB re -60 dBFS as the unit, and where they are known `(B, 2G)`.

        A spectrum into which an unmeasured sample enters is not known, and zero.
        """
        full_scale = -1.0 / torch.iinfo(waveform.dtype).min
        sound = torch.where(mask[:, None], waveform, 0).float().mean(dim=1) * full_scale  # (B, L)
        spectra = torch.stft(
            sound, self.length, self.hop, window=self.window, pad_mode="constant", return_complex=True
        )  # (B, bins, G)
        power = (spectra.real.square() + spectra.imag.square()) * (2.0 / self.window.sum()).square()
        level = (self.filters @ power + 1e-12).log() * (10.0 / _LN10)  # dB re a full-scale sine
        holes = functional.max_pool1d((~mask).float()[:, None], self.length, self.hop, padding=self.length // 2)[:, 0]
        count = min(level.shape[-1], holes.shape[-1]) // 2 * 2
        known = holes[:, :count] == 0.0
        return torch.where(known[:, None], level[..., :count] / 20.0 + 3.0, 0.0), known

    def tokens(self, maps: Tensor, known: Tensor) -> Tokens:
        """Pool features over time: mean and maximum, side by side; a token is valid if half of its spectra are."""
        sure = functional.adaptive_avg_pool1d(known.float()[:, None], self.count)[:, 0]
        valid = sure >= 0.5
        pooled = torch.cat(
            [functional.adaptive_avg_pool1d(maps, self.count), functional.adaptive_max_pool1d(maps, self.count)], dim=1
        ).mT  # (B, N, D)
        return Tokens(torch.where(valid[..., None], pooled, 0.0), valid)

    def reconstruct(
        self, waveform: Tensor, mask: Tensor, share: float, generator: torch.Generator
    ) -> tuple[Tensor, Tokens]:
        """Restore hidden spans of 8 spectra; returns the error and the tokens of what was left to hear."""
        level, known = self.levels(waveform, mask)
        frames = level.shape[-1]
        spans = torch.rand(len(level), -(-frames // 8), generator=generator) < share
        hidden = spans.repeat_interleave(8, dim=1)[:, :frames].to(level.device)  # (B, 2G)
        maps = self.trunk(torch.where(hidden[:, None], 0.0, level))  # (B, C, G)
        even, odd = self.painter(maps).chunk(2, dim=1)  # (B, bands, G) each
        painted = torch.stack([even, odd], dim=-1).flatten(2)
        return _masked_error(painted, level, (hidden & known)[:, None]), self.tokens(maps, known)


class SensorEncoder(nn.Module):
    """Rows in segments of equal length, read forwards and backwards."""

    def __init__(self, config: WeldSmallConfig) -> None:
        super().__init__()
        self.count = config.sensor_tokens
        self.channels = config.sensor_channels
        self.rows = 8
        self.reader = nn.Linear(2 * self.rows * config.sensor_channels, config.width)
        self.gru = nn.GRU(config.width, config.width // 2, batch_first=True, bidirectional=True)
        self.painter = nn.Linear(config.width, self.rows * config.sensor_channels)

    def tokens(self, rows: Tensor, mask: Tensor) -> Tokens:
        """Encode rows that are zero where not measured."""
        values, known = self._segments(rows, mask)
        states = self._states(values, known)
        valid = known.flatten(2).any(dim=2)
        return Tokens(torch.where(valid[..., None], states, 0.0), valid)

    def reconstruct(
        self, rows: Tensor, mask: Tensor, share: float, generator: torch.Generator
    ) -> tuple[Tensor, Tokens]:
        """Restore hidden segments from the states that pass over them; returns the error and the other tokens."""
        values, known = self._segments(torch.where(mask, rows, 0.0), mask)
        hidden = (torch.rand(len(rows), self.count, generator=generator) < share).to(rows.device)
        shown = known * ~hidden[..., None, None]
        states = self._states(values * shown, shown)
        painted = self.painter(states).reshape(values.shape)
        valid = shown.flatten(2).any(dim=2)
        tokens = Tokens(torch.where(valid[..., None], states, 0.0), valid)
        return _masked_error(painted, values, (known == 1.0) & hidden[..., None, None]), tokens

    def _segments(self, rows: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Bring rows to `count * self.rows` grid points; `(B, N, rows, F)` values and measured shares."""
        points = self.count * self.rows
        known = functional.adaptive_avg_pool1d(mask.float().mT, points)
        values = functional.adaptive_avg_pool1d(rows.mT, points) / known.clamp_min(1e-6)
        shape = (len(rows), self.count, self.rows, self.channels)
        return values.mT.reshape(shape), known.mT.reshape(shape)

    def _states(self, values: Tensor, known: Tensor) -> Tensor:
        """Read segments both ways: `(B, N, D)`."""
        states: Tensor = self.gru(functional.gelu(self.reader(torch.cat([values, known], dim=-1).flatten(2))))[0]
        return states


class PhotoEncoder(nn.Module):
    """Photos to feature maps of a 4th, an 8th and a 16th of their size."""

    def __init__(self, config: WeldSmallConfig) -> None:
        super().__init__()
        c = config.photo_width
        self.stages = nn.ModuleList(
            [
                nn.Sequential(nn.Conv2d(3, c, 4, stride=4), nn.GELU(), nn.Conv2d(c, c, 3, padding=1)),
                nn.Sequential(nn.GELU(), nn.Conv2d(c, c, 3, stride=2, padding=1)),
                nn.Sequential(
                    nn.GELU(), nn.Conv2d(c, c, 3, stride=2, padding=1), nn.GELU(), nn.Conv2d(c, c, 3, padding=1)
                ),
            ]
        ).to(memory_format=torch.channels_last)
        self.painter = nn.Conv2d(c, 3 * 64 + 3, 1)

    def maps(self, colour: Tensor) -> list[Tensor]:
        """Give feature maps `(n, C, h_l, w_l)` of `_relative_colour` views `(n, 3, h, w)`, fine first."""
        x = _padded(colour, 16).contiguous(memory_format=torch.channels_last)
        levels = []
        for stage in self.stages:
            x = stage(x)
            levels.append(x)
        return levels

    def reconstruct(
        self, colour: Tensor, mask: Tensor, share: float, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Paint hidden 16x16 blocks at half resolution; returns the error and the pooled coarsest map `(n, C)`."""
        colour = _padded(colour, 16)
        hidden = _hidden_blocks(colour, share, generator)
        coarsest = self.maps(torch.where(_blown_up(hidden, 16), 0.0, colour))[-1]
        return _painting_error(self.painter(coarsest), colour, hidden, mask), coarsest.mean(dim=(2, 3))


def _light(frames: Tensor, mask: Tensor) -> Tensor:
    """Compress gray levels, which an arc spreads over two decades: natural logarithm re 40, zero where masked."""
    known = torch.where(mask[..., None, None, None], frames, 0)
    return torch.where(mask[..., None, None, None], ((known.float() + 8.0) / 40.0).log(), 0.0)


def _relative_colour(images: Tensor, mask: Tensor) -> Tensor:
    """Give the logarithm of colour relative to the view's median gray, zero where masked."""
    seen = mask[..., None, None, None]
    known = torch.where(seen, images, 0).float() + 4.0
    median = known.mean(dim=2).flatten(2).median(dim=2).values  # (B, N)
    return torch.where(seen, (known / median[..., None, None, None]).log(), 0.0)


def _padded(images: Tensor, multiple: int) -> Tensor:
    """Pad height and width with zeros, below and on the right, to multiples."""
    height, width = images.shape[-2:]
    return functional.pad(images, (0, -width % multiple, 0, -height % multiple))


def _hidden_blocks(images: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Choose 16x16 blocks of images `(n, C, H, W)`: `(n, 1, H/16, W/16)` bool."""
    count, _, height, width = images.shape
    return (torch.rand(count, 1, height // 16, width // 16, generator=generator) < share).to(images.device)


def _painting_error(painted: Tensor, images: Tensor, hidden: Tensor, mask: Tensor) -> Tensor:
    """Compare with images `(n, C, H, W)`: hidden blocks at half resolution, and how much detail each block has.

    Where a droplet flies cannot be told from the blocks around it, but how many there are can; and it is the detail,
    not the light, in which most faults show.
    """
    shown = mask[:, None, None, None]
    blocks = functional.pixel_unshuffle(functional.avg_pool2d(images, 2), 8)  # (n, C*64, H/16, W/16)
    fine = images - functional.avg_pool2d(images, 5, stride=1, padding=2, count_include_pad=False)
    detail = ((functional.avg_pool2d(fine.square(), 16) + _MIN_DETAIL) / _USUAL_DETAIL).log() / 2.0
    count = blocks.shape[1]
    return _masked_error(painted[:, :count], blocks, hidden & shown) + _masked_error(painted[:, count:], detail, shown)


def _blown_up(blocks: Tensor, size: int) -> Tensor:
    return blocks.repeat_interleave(size, dim=-2).repeat_interleave(size, dim=-1)


def _masked_error(found: Tensor, wanted: Tensor, counted: Tensor) -> Tensor:
    """Mean smooth-L1 error of the elements counted; zero without any."""
    error = functional.smooth_l1_loss(found, wanted, reduction="none")
    counted = counted.expand_as(error)
    return (error * counted).sum() / counted.sum().clamp_min(1)


def _two_views(mask: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Choose two different present views of each weld, as far as there are two: two index vectors `(B,)`."""
    lottery = torch.rand(mask.shape, generator=generator).to(mask.device) + mask.float()
    order = lottery.argsort(dim=1, descending=True)
    return order[:, 0], order[:, min(1, mask.shape[1] - 1)]


def _mel_filters(rate_hz: int, bins: int, bands: int) -> Tensor:
    """Triangular mel filters `(bands, bins)` of unit sum, from 0 to half the rate (HTK formula, 2595 and 700 Hz).

    Low bands that are narrower than a Fourier bin take the nearest bin.
    """
    top = 2595.0 * torch.log10(torch.tensor(1.0 + rate_hz / 2 / 700.0))
    edges = 700.0 * (10.0 ** (torch.linspace(0.0, float(top), bands + 2) / 2595.0) - 1.0)
    hertz = torch.linspace(0.0, rate_hz / 2, bins)
    width = rate_hz / 2 / (bins - 1)
    rise = (hertz - edges[:-2, None]) / (edges[1:-1] - edges[:-2]).clamp_min(width)[:, None]
    fall = (edges[2:, None] - hertz) / (edges[2:] - edges[1:-1]).clamp_min(width)[:, None]
    filters = torch.minimum(rise, fall).clamp_min(0.0)
    nearest = functional.one_hot((edges[1:-1] / width).round().long().clamp(max=bins - 1), bins).float()
    filters = torch.where(filters.sum(dim=1, keepdim=True) > 0.0, filters, nearest)
    return filters / filters.sum(dim=1, keepdim=True)
