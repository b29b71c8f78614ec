"""V-JEPA 2, AST, DINOv2 and DINOv3, frozen: from samples to tokens or patch features.

Tokens are averages over regions of the backbone's own, so that Causal-FiLM is given about as many as by the small
encoders. Sources: see `models.backbone_inputs`.
"""

from collections.abc import Callable
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn import functional

from models.backbone_config import Backbone, BackboneSettings
from models.backbone_folder import Pretrained
from models.backbone_inputs import PhotoInput, SoundInput, VideoInput
from models.detector_contract import DetectorError
from models.small_encoders import Tokens

_TOGETHER: Final = 8
"""Inputs that a backbone is given at once; 8192 tokens of 64 frames fill memory quickly."""


class VideoBackbone:
    """V-JEPA 2: every few frames give one token per region."""

    def __init__(self, found: Pretrained, settings: BackboneSettings) -> None:
        self.model = _frozen(found.model)
        sizes = found.model.config
        # 256 / 224, as in its own training: 292 for a crop of 256.
        self.input = VideoInput(resize=int(sizes.crop_size * 256 / 224), crop=sizes.crop_size)
        self.side = sizes.crop_size // _edge(sizes.patch_size)
        self.regions = settings.video_regions
        self.record = _record(found, self.input, regions=self.regions, step=sizes.tubelet_size)

    def __call__(self, frames: Tensor, mask: Tensor) -> Tokens:
        """Encode frames `(B, T, 1, H, W)` with mask `(B, T)`; a token into which an unmeasured frame enters is invalid.

        Raises:
            DetectorError: T is no multiple of the frames that share a token.
        """
        check_frames(self.record.step, mask.shape[1])
        tokens = _in_parts(
            self.model,
            lambda pixels: self.model(pixel_values_videos=pixels, skip_predictor=True).last_hidden_state,
            self.input(frames, mask),
        )  # (B, T/step * side * side, D), and no CLS
        maps = tokens.reshape(len(mask), -1, self.side, self.side, tokens.shape[-1]).movedim(-1, 1)
        known = (
            mask.reshape(len(mask), -1, self.record.step)
            .all(dim=2)[..., None, None]
            .expand(-1, -1, self.side, self.side)
        )
        return _pooled(maps, known, (maps.shape[2], *self.regions))


class AudioBackbone:
    """AST: stretches of time and bands of frequency give one token each."""

    def __init__(self, found: Pretrained, settings: BackboneSettings, rate_hz: int) -> None:
        self.model = _frozen(found.model)
        sizes = found.model.config
        self.rate_hz = rate_hz
        self.input = SoundInput(bands=sizes.num_mel_bins, frames=sizes.max_length)
        self.patch, self.stride = _edge(sizes.patch_size), sizes.time_stride
        self.regions = settings.audio_regions
        self.record = _record(found, self.input, regions=self.regions)

    def __call__(self, waveform: Tensor, mask: Tensor) -> Tokens:
        """Encode sound `(B, C, L)` with mask `(B, L)`."""
        clips, known, real = self.input(waveform, mask, self.rate_hz)
        tokens = _in_parts(self.model, lambda mel: self.model(input_values=mel).last_hidden_state, clips.flatten(0, 1))
        there = self._columns(real).flatten()  # of n clips, side by side
        columns = self._columns(known.flatten(0, 1)).reshape(len(mask), -1)
        grid = tokens[:, 2:].reshape(
            len(mask), clips.shape[1], -1, columns.shape[1] // clips.shape[1], tokens.shape[-1]
        )
        maps = grid.permute(0, 4, 1, 3, 2).flatten(2, 3)[
            :, :, there
        ]  # (B, D, columns, bands) without CLS, distillation
        certain = columns[:, there, None].expand(-1, -1, maps.shape[-1])
        return _pooled(maps[..., None], certain[..., None], (*self.regions, 1))

    def _columns(self, spectra: Tensor) -> Tensor:
        """Tell of flags `(n, frames)` which columns of patches rest on at least half of their spectra."""
        share = functional.avg_pool1d(spectra.float()[:, None], self.patch, self.stride)
        return share[:, 0] >= 0.5


class PhotoBackbone:
    """DINOv2 or DINOv3: patch features after a third, two thirds and all of the layers, without CLS and registers."""

    def __init__(self, found: Pretrained, settings: BackboneSettings) -> None:
        self.model = _frozen(found.model)
        sizes = found.model.config
        layers = sizes.num_hidden_layers
        self.layers = (-(-layers // 3), -(-2 * layers // 3), layers)  # 0 is the embedding
        self.first = 1 + getattr(sizes, "num_register_tokens", 0)
        self.norm = found.model.norm if found.kind == "dinov3_vit" else found.model.layernorm
        self.input = PhotoInput(edge=settings.photo_edge, patch=_edge(sizes.patch_size))
        self.record = _record(found, self.input)

    def __call__(self, images: Tensor, mask: Tensor) -> list[Tensor]:
        """Encode views `(B, N, 3, h, w)` uint8 with mask `(B, N)`; only those that are there are looked at."""
        seen = images[mask] if mask.any() else torch.zeros_like(images[:1, 0])
        found = _in_parts(self.model, self._levels, self.input(seen))  # (n, 3, P, C)
        levels = found.new_zeros(*mask.shape, *found.shape[1:])
        if mask.any():
            levels[mask] = found
        return list(levels.unbind(dim=2))

    def _levels(self, pixels: Tensor) -> Tensor:
        states = self.model(pixel_values=pixels, output_hidden_states=True).hidden_states
        return torch.stack([self.norm(states[i])[:, self.first :] for i in self.layers], dim=1)


def check_frames(step: int, frames: int) -> None:
    """Refuse windows whose frames a video backbone cannot take `step` by `step`."""
    if frames % step:
        raise DetectorError(
            f"frames is {frames}, and the video backbone takes {step} together; give a multiple of {step} in [sample]"
        )


def _record(found: Pretrained, prepared: object, *, regions: tuple[int, ...] = (), step: int = 1) -> Backbone:
    return Backbone(
        kind=found.kind,
        digest=found.digest,
        width=found.model.config.hidden_size,
        step=step,
        regions=regions,
        preprocessing=repr(prepared),
    )


def _frozen(model: Any) -> Any:
    """Make sure that nothing in it learns or drops out, and put it on the GPU if there is one."""
    model.eval().requires_grad_(False)
    assert not model.training
    return model.to("cuda" if torch.cuda.is_available() else "cpu")


@torch.no_grad()
def _in_parts(model: Any, encode: Callable[[Tensor], Tensor], inputs: Tensor) -> Tensor:
    """Encode inputs a few at a time where the model lies; the result comes back to the CPU."""
    return torch.cat([encode(part.to(model.device)).cpu() for part in torch.split(inputs, _TOGETHER)])


def _pooled(maps: Tensor, known: Tensor, size: tuple[int, int, int]) -> Tokens:
    """Average features `(B, D, a, b, c)` over regions, where they are known `(B, a, b, c)`.

    Returns:
        One token per region; it is valid if at least half of the region is known.
    """
    share = functional.adaptive_avg_pool3d(known.float()[:, None], size)
    mean = functional.adaptive_avg_pool3d(torch.where(known[:, None], maps, 0.0), size) / share.clamp_min(1e-6)
    valid = (share >= 0.5).flatten(1)
    return Tokens(torch.where(valid[..., None], mean.flatten(2).mT, 0.0), valid)


def _edge(size: Any) -> int:
    """Give the edge of square patches, however a configuration says it."""
    edges = {size} if isinstance(size, int) else set(size)
    if len(edges) != 1:
        raise DetectorError(f"patches of {tuple(size)} pixels are not square; such backbones are not supported")
    return int(edges.pop())
