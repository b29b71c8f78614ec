"""Large pretrained backbones in the place of small encoders, behind the same interface.

`Backbones` answers like `WeldSmall`; a modality without a backbone keeps its small encoder. All of it is frozen.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, Final, Protocol

import numpy.typing as npt
from torch import Tensor, nn

from models.backbone_config import MODALITIES, Backbone, BackbonesConfig, BackboneSettings
from models.backbone_folder import WEIGHTS, load_pretrained, weights_folder
from models.backbone_models import AudioBackbone, PhotoBackbone, VideoBackbone, check_frames
from models.detector_contract import DetectorError
from models.network_state import converted, fill
from models.small_encoders import Tokens, WeldSmall, WeldSmallConfig
from sync.sample import SampleSpec

_SMALL: Final = {"video": "video_encoder.", "audio": "audio_encoder.", "photos": "photo_encoder."}


class Encoders(Protocol):
    """Frozen encoders of windows and photos; see `WeldSmall` for shapes and masks."""

    @property
    def config(self) -> WeldSmallConfig:
        """Sizes, and everything but its own state that the tokens depend on; part of the key of cached tokens."""

    def video(self, frames: Tensor, mask: Tensor) -> Tokens:
        """Encode frames."""

    def audio(self, waveform: Tensor, mask: Tensor) -> Tokens:
        """Encode sound."""

    def photos(self, images: Tensor, mask: Tensor) -> list[Tensor]:
        """Encode views."""

    def state_dict(self) -> Mapping[str, Tensor]:
        """Give what a checkpoint holds of it."""

    def parameters(self) -> Iterator[nn.Parameter]:
        """Give all parameters."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Large:
    """The backbones of a run; None where a small encoder stays.

    Attributes:
        settings: Of the run.
        root: Folder of all weights.
        video: Of video.
        audio: Of sound.
        photos: Of photos.
    """

    settings: BackboneSettings = field(default_factory=BackboneSettings)
    root: str = ""
    video: VideoBackbone | None = None
    audio: AudioBackbone | None = None
    photos: PhotoBackbone | None = None

    @property
    def models(self) -> dict[str, Any]:
        """The networks themselves."""
        return {name: getattr(self, name).model for name in MODALITIES if getattr(self, name) is not None}

    @property
    def records(self) -> dict[str, Backbone]:
        """What their tokens depend on."""
        return {name: getattr(self, name).record for name in self.models}


class Backbones:
    """See `Encoders`; small encoders with large ones in the place of some."""

    def __init__(self, small: WeldSmall, large: Large) -> None:
        self.small = small.eval().requires_grad_(False)
        self.large = large
        self.config = BackbonesConfig.of(small.config, large.records, large.settings, large.root)

    def video(self, frames: Tensor, mask: Tensor) -> Tokens:
        """Encode frames; with V-JEPA 2 to tokens of `step` frames together, region by region."""
        return (self.large.video or self.small.video)(frames, mask)

    def audio(self, waveform: Tensor, mask: Tensor) -> Tokens:
        """Encode sound; with AST to tokens of stretches of time, band by band."""
        return (self.large.audio or self.small.audio)(waveform, mask)

    def photos(self, images: Tensor, mask: Tensor) -> list[Tensor]:
        """Encode views; with DINO all levels have the same patches."""
        return (self.large.photos or self.small.photos)(images, mask)

    def state_dict(self) -> Mapping[str, Tensor]:
        """Give the tensors of the small encoders that are in use."""
        used = tuple(prefix for name, prefix in _SMALL.items() if name not in self.config.backbones)
        return {name: tensor for name, tensor in self.small.state_dict().items() if name.startswith(used)}

    def parameters(self) -> Iterator[nn.Parameter]:
        """Give all parameters, those of the backbones too."""
        return chain.from_iterable(network.parameters() for network in (self.small, *self.large.models.values()))


def load_backbones(settings: BackboneSettings, sample: SampleSpec, weights: Path | None = None) -> Large:
    """Load the backbones that the settings of a run name.

    Args:
        settings: Of the run.
        sample: What its samples are cut to.
        weights: Folder of all weights, see `weights_folder`.

    Raises:
        DetectorError: One is absent, incomplete, of another type, or cannot take these samples; one line.
    """
    if not settings.folders:
        return Large()
    large = _load(settings, weights_folder(weights), sample.audio_rate_hz)
    if large.video is not None:
        check_frames(large.video.record.step, sample.frames)
    return large


def with_backbones(small: WeldSmall, large: Large) -> Encoders:
    """Put backbones in the place of small encoders, and freeze everything."""
    encoders: Encoders = Backbones(small, large) if large.records else small.eval().requires_grad_(False)
    assert not any(p.requires_grad for p in encoders.parameters())
    return encoders


def encoders_of(
    configuration: Mapping[str, Any], state: Mapping[str, npt.NDArray[Any]], weights: Path | None = None
) -> Encoders:
    """Make the encoders of a checkpoint, frozen.

    Args:
        configuration: Of the checkpoint; `encoders` is read.
        state: Its arrays.
        weights: Folder of all weights, see `weights_folder`; without any, where they lay when it was trained.

    Raises:
        DetectorError: The checkpoint does not fit this version, or the backbones are not those that it was trained
            with; one line.
    """
    given = configuration.get("encoders")
    large = isinstance(given, Mapping) and "backbones" in given
    config = converted(configuration, "encoders", BackbonesConfig if large else WeldSmallConfig)
    small = WeldSmall(config)
    encoders = with_backbones(small, _reloaded(config, weights) if isinstance(config, BackbonesConfig) else Large())
    fill(small, "encoders", state, only=encoders.state_dict())
    return encoders


def _load(settings: BackboneSettings, root: Path, rate_hz: int) -> Large:
    found = {name: load_pretrained(name, root / folder) for name, folder in settings.folders.items()}
    return Large(
        settings=settings,
        root=str(root),
        video=VideoBackbone(found["video"], settings) if "video" in found else None,
        audio=AudioBackbone(found["audio"], settings, rate_hz) if "audio" in found else None,
        photos=PhotoBackbone(found["photos"], settings) if "photos" in found else None,
    )


def _reloaded(config: BackbonesConfig, weights: Path | None) -> Large:
    """Load the backbones of a checkpoint, and compare them with those that it was trained with."""
    root = weights_folder(weights, config.root)
    large = _load(config.settings, root, config.audio_rate_hz)
    for name, folder in config.settings.folders.items():
        wanted, found = config.backbones.get(name), large.records[name]
        if wanted is None or (wanted.kind, wanted.digest) != (found.kind, found.digest):
            raise DetectorError(
                f"{root / folder}: not the weights that the checkpoint was trained with; give the folder that holds "
                f"those by --weights DIR or {WEIGHTS}, or train it again"
            )
        if wanted != found:
            raise DetectorError(f"{root / folder}: this version prepares {name} in another way; train it again")
    return large
