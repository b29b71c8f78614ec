"""Which pretrained backbones stand in for the small encoders, and what a checkpoint remembers of them.

Their weights have gigabytes and are never copied into a checkpoint: it keeps a digest of them, and where they lay.
"""

from dataclasses import dataclass, field, fields
from math import prod
from pathlib import PurePath
from typing import Final, NamedTuple

from models.small_encoders import WeldSmallConfig

MODALITIES: Final = {"video": "video", "audio": "audio", "photos": "post_images"}
"""What a backbone can encode, and the key of the sample contract that it reads."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BackboneSettings:
    """`[backbones]`: folders of pretrained models, below the folder of all weights. None keeps the small encoder.

    Attributes:
        video: V-JEPA 2.
        audio: Audio spectrogram transformer (AST).
        photos: DINOv2 or DINOv3.
        video_regions: Regions of a frame, down and across; one token each, of a few frames together.
        audio_regions: Stretches of time and bands of frequency; one token each.
        photo_edge: Shorter edge that photos are scaled to, pixels.
    """

    video: str | None = None
    audio: str | None = None
    photos: str | None = None
    video_regions: tuple[int, int] = (3, 4)
    audio_regions: tuple[int, int] = (16, 2)
    photo_edge: int = 224

    def __post_init__(self) -> None:
        """Refuse names that lead elsewhere, and sizes that cannot be."""
        for name, folder in self.folders.items():
            if not folder or PurePath(folder).name != folder:
                raise ValueError(f"{name} is '{folder}'; give the name of a folder, and where it lies by --weights")
        for name in ("video_regions", "audio_regions"):
            if min(getattr(self, name)) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; give at least 1 each")
        if self.photo_edge < 1:
            raise ValueError(f"photo_edge is {self.photo_edge}; give at least 1")

    @property
    def folders(self) -> dict[str, str]:
        """The modalities that have a backbone, with its folder."""
        named = {"video": self.video, "audio": self.audio, "photos": self.photos}
        return {name: folder for name, folder in named.items() if folder is not None}

    @property
    def small(self) -> list[str]:
        """Keys of the sample contract that are left to the small encoders."""
        return [key for name, key in MODALITIES.items() if name not in self.folders]


@dataclass(frozen=True, slots=True, kw_only=True)
class Backbone:
    """All that the tokens of a backbone depend on, beside what it is shown.

    Attributes:
        kind: `model_type` of its configuration.
        digest: XXH3-128 (hex) over its configuration and weights.
        width: Of its tokens.
        step: Frames of video that share a token.
        regions: See `BackboneSettings`; empty for photos.
        preprocessing: What is done to its input, with every number.
    """

    kind: str
    digest: str
    width: int
    step: int = 1
    regions: tuple[int, ...] = ()
    preprocessing: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BackbonesConfig(WeldSmallConfig):
    """Small encoders, some of which backbones stand in for; stored in the checkpoint.

    Its `repr` is part of the key of cached tokens, and leaves out by which name and where the weights were found.

    Attributes:
        backbones: By the names of `MODALITIES`.
        settings: Of the run.
        root: Folder of all weights when it was trained.
    """

    backbones: dict[str, Backbone]
    settings: BackboneSettings = field(repr=False)
    root: str = field(repr=False)

    @classmethod
    def of(
        cls, small: WeldSmallConfig, backbones: dict[str, Backbone], settings: BackboneSettings, root: str
    ) -> "BackbonesConfig":
        """Add backbones to a configuration of small encoders."""
        sizes = {f.name: getattr(small, f.name) for f in fields(WeldSmallConfig)}
        return cls(**sizes, backbones=backbones, settings=settings, root=root)


class TokenSizes(NamedTuple):
    """Number and width of the tokens of a window, as `CausalFilmConfig` names them."""

    video_tokens: int
    video_width: int
    audio_tokens: int
    audio_width: int


def token_sizes(config: WeldSmallConfig, frames: int) -> TokenSizes:
    """Give the sizes of the tokens of windows of `frames` frames."""
    backbones = config.backbones if isinstance(config, BackbonesConfig) else {}
    video, audio = (config.video_tokens(frames), config.width), (config.audio_tokens, config.width)
    if (large := backbones.get("video")) is not None:
        video = frames // large.step * prod(large.regions), large.width
    if (large := backbones.get("audio")) is not None:
        audio = prod(large.regions), large.width
    return TokenSizes(*video, *audio)


def photo_widths(config: WeldSmallConfig) -> tuple[int, int, int]:
    """Give the widths of the three levels of patch features."""
    photos = config.backbones.get("photos") if isinstance(config, BackbonesConfig) else None
    width = config.photo_width if photos is None else photos.width
    return width, width, width
