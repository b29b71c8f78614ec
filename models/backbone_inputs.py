"""What pretrained backbones are shown: scaled and normalised as in their own training.

The `repr` of an input names every number that matters, and so is part of the key of cached tokens. Contents under a
false mask are replaced here, before the first layer.
- Video: A. Bardes et al., V-JEPA 2, 2025: shorter edge to 256 / 224 of the crop, centre crop, ImageNet statistics.
- Photos: M. Oquab et al., DINOv2, 2023; O. Siméoni et al., DINOv3, 2025: ImageNet statistics. Whole views, not crops,
  since a crack may lie at the edge; both take any multiple of their patch.
- Sound: Y. Gong et al., AST, Interspeech 2021: Kaldi filter banks at 16 kHz, divided by *twice* the deviation.
"""

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional

Colour = tuple[float, float, float]
IMAGENET_MEAN: Final[Colour] = (0.485, 0.456, 0.406)
IMAGENET_STD: Final[Colour] = (0.229, 0.224, 0.225)
_FRAME_S: Final = 0.025
_SHIFT_S: Final = 0.010


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoInput:
    """Centre crops.

    Attributes:
        resize: The shorter edge becomes this long, pixels.
        crop: Side of the square that is kept.
        mean: Of red, green and blue, of 1.
        std: Their deviation.
    """

    resize: int
    crop: int
    mean: Colour = IMAGENET_MEAN
    std: Colour = IMAGENET_STD

    def __call__(self, frames: Tensor, mask: Tensor) -> Tensor:
        """Turn gray frames `(B, T, 1, H, W)` with mask `(B, T)` into `(B, T, 3, crop, crop)`, zero where masked."""
        seen = mask[..., None, None, None]
        gray = torch.where(seen, frames, 0).flatten(0, 1)
        height, width = gray.shape[-2:]
        short = min(height, width)
        gray = _resized(gray, int(self.resize * height / short), int(self.resize * width / short))
        top, left = (round((edge - self.crop) / 2) for edge in gray.shape[-2:])
        gray = gray[..., top : top + self.crop, left : left + self.crop]
        colour = _normalised(gray, self.mean, self.std).reshape(*mask.shape, 3, self.crop, self.crop)
        return torch.where(seen, colour, 0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class PhotoInput:
    """Whole views, in their own proportions as far as whole patches allow.

    Attributes:
        edge: The shorter edge becomes about this long, pixels.
        patch: Both edges are multiples of this.
        mean: Of red, green and blue, of 1.
        std: Their deviation.
    """

    edge: int
    patch: int
    mean: Colour = IMAGENET_MEAN
    std: Colour = IMAGENET_STD

    def __call__(self, images: Tensor) -> Tensor:
        """Turn views `(n, 3, h, w)` uint8 into `(n, 3, H, W)`."""
        height, width = images.shape[-2:]
        scale = self.edge / min(height, width) / self.patch
        down, across = (max(1, round(edge * scale)) * self.patch for edge in (height, width))
        return _normalised(_resized(images, down, across), self.mean, self.std)


@dataclass(frozen=True, slots=True, kw_only=True)
class SoundInput:
    """Logarithmic mel filter banks every 10 ms, in clips of exactly the length that the backbone takes.

    Attributes:
        bands: Mel bands.
        frames: Spectra of a clip; a longer sound becomes several clips, the last is filled up.
        rate_hz: The sound is resampled to this.
        mean: Of the logarithms in AudioSet.
        std: Their deviation.
    """

    bands: int
    frames: int
    rate_hz: int = 16_000
    mean: float = -4.2677393
    std: float = 4.5689974

    def __call__(self, waveform: Tensor, mask: Tensor, rate_hz: int) -> tuple[Tensor, Tensor, Tensor]:
        """Turn sound `(B, C, L)` int16 or int32 with mask `(B, L)` into clips.

        Returns:
            Clips `(B, n, frames, bands)`, what is known `(B, n, frames)` and what is no filling `(n, frames)`. A
            spectrum into which an unmeasured sample enters is not known, and is filled as the end of a clip is.
        """
        from torchaudio.compliance import kaldi
        from torchaudio.functional import resample

        full_scale = -1.0 / torch.iinfo(waveform.dtype).min
        sound = torch.where(mask[:, None], waveform, 0).float().mean(dim=1) * full_scale  # (B, L)
        sound = resample(sound, rate_hz, self.rate_hz)
        holes = functional.adaptive_max_pool1d((~mask).float()[:, None], sound.shape[-1])
        frame, shift = round(_FRAME_S * self.rate_hz), round(_SHIFT_S * self.rate_hz)
        known = functional.max_pool1d(holes, frame, shift)[:, 0] == 0.0  # (B, G)
        levels = torch.stack(
            [
                kaldi.fbank(
                    one[None],
                    sample_frequency=self.rate_hz,
                    frame_length=1000 * _FRAME_S,
                    frame_shift=1000 * _SHIFT_S,
                    window_type="hanning",
                    num_mel_bins=self.bands,
                )
                for one in sound
            ]
        )  # (B, G, bands)
        levels = torch.where(known[..., None], levels, 0.0)
        rest = -levels.shape[1] % self.frames
        real = functional.pad(known.new_ones(known.shape[1]), (0, rest)).reshape(-1, self.frames)
        clips = functional.pad(levels, (0, 0, 0, rest)).reshape(len(levels), *real.shape, self.bands)
        return (
            (clips - self.mean) / (2.0 * self.std),
            functional.pad(known, (0, rest)).reshape(len(levels), *real.shape),
            real,
        )


def _resized(images: Tensor, height: int, width: int) -> Tensor:
    """Scale images `(n, c, h, w)` to float32, averaging where they shrink."""
    return functional.interpolate(
        images.float(), size=(height, width), mode="bilinear", align_corners=False, antialias=True
    )


def _normalised(images: Tensor, mean: Colour, std: Colour) -> Tensor:
    """Normalise levels of 0 to 255 per colour; gray `(n, 1, h, w)` becomes three colours."""
    middle, spread = (torch.tensor(values, device=images.device)[:, None, None] for values in (mean, std))
    return (images / 255.0 - middle) / spread
