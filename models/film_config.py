"""The settings of one training run of Causal-FiLM: one TOML file, defaults in the dataclasses.

A wrong setting stops with its line and the fix. The settings of a run are kept in its folder (`run.json`), and a run is
continued only with the settings that it was begun with.
"""

import dataclasses
import difflib
import math
import re
import tomllib
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec

from models.backbone_config import BackboneSettings, token_sizes
from models.causal_film import CausalFilmConfig
from models.detector_contract import DetectorError
from models.result_tokens import ResultTokensConfig
from models.small_encoders import WeldSmallConfig
from sync.sample import SampleSpec

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionShares:
    """`[sessions]`: how the sessions of the training welds are shared out; what is left fits the networks.

    Attributes:
        validation: Share of the sessions that stops the training and sets the scales of weld scores.
        calibration: Share of the sessions that calibrates; nothing else ever sees them.
    """

    validation: float = 0.15
    calibration: float = 0.25

    def __post_init__(self) -> None:
        """Refuse shares that leave nothing to fit on."""
        for name in ("validation", "calibration"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; give a share from 0 to below 1")
        if self.validation + self.calibration > 0.9:
            raise ValueError(
                f"validation and calibration take {self.validation + self.calibration:g}; leave 0.1 to fit"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseSettings:
    """`[pretraining]` and `[training]`: how long, how fast.

    Attributes:
        epochs: Passes at most; an epoch draws `windows_per_weld` windows of each weld.
        windows_per_weld: Windows drawn of each weld in an epoch.
        batch: Windows (or welds, where a weld is one example) per step.
        learning_rate: Of AdamW, after warm-up; a cosine takes it down to nearly nothing.
        weight_decay: Of AdamW.
        warm_up: Share of the steps in which the rate rises.
        clip: Largest norm of a gradient.
        patience: Epochs without a better validation loss after which it ends.
    """

    epochs: int = 30
    windows_per_weld: int = 2
    batch: int = 16
    learning_rate: float = 3e-4
    weight_decay: float = 1e-2
    warm_up: float = 0.08
    clip: float = 1.0
    patience: int = 8

    def __post_init__(self) -> None:
        """Refuse numbers that cannot train."""
        for name in ("epochs", "windows_per_weld", "batch", "patience"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; give at least 1")
        for name in ("learning_rate", "clip"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise ValueError(f"{name} is {getattr(self, name)}; give a number above 0")
        if not 0 <= self.weight_decay < math.inf:
            raise ValueError(f"weight_decay is {self.weight_decay}; give 0 or more")
        if not 0 <= self.warm_up < 1:
            raise ValueError(f"warm_up is {self.warm_up}; give a share from 0 to below 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultSettings:
    """`[result]`: the tokens of the photos; see `ResultTokensConfig`."""

    words: int = 64
    bands: int = 3
    width: int = 16
    directions: int = 4

    def __post_init__(self) -> None:
        """Refuse sizes that cannot be built."""
        ResultTokensConfig(**dataclasses.asdict(self))


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkSettings:
    """`[model]`: sizes and ablations of the network; see `CausalFilmConfig`, which has the same names."""

    width: int = 128
    process_tokens: int = 32
    heads: int = 4
    ff: int = 256
    encoder_blocks: int = 2
    decoder_blocks: int = 2
    bottleneck_dropout: float = 0.2
    film: bool = True
    attention: Literal["linear", "softmax"] = "linear"
    noise: bool = True
    bidirectional: bool = False
    sensor_encoder: Literal["gru", "conv"] = "gru"
    fusion: Literal["film", "flat"] = "film"
    smooth_l1: float = 1.0

    def __post_init__(self) -> None:
        """Refuse sizes that cannot be built."""
        CausalFilmConfig(**dataclasses.asdict(self))


@dataclass(frozen=True, slots=True, kw_only=True)
class FilmRun:
    """A whole file.

    Attributes:
        seed: Of the sessions, the weights and every draw.
        threads: Numeric threads while training; the same number gives the same numbers.
        modality_dropout: Chance that a training window is cut down to a random set of its modalities.
        sample: `[sample]`, what samples are cut to.
        sessions: `[sessions]`.
        encoders: `[encoders]`, the small encoders.
        backbones: `[backbones]`, large ones in the place of some of them.
        result: `[result]`, the tokens of the photos.
        model: `[model]`, the network.
        pretraining: `[pretraining]`.
        training: `[training]`.
    """

    seed: int = 0
    threads: int = 2
    modality_dropout: float = 0.5
    sample: SampleSpec = field(default_factory=SampleSpec)
    sessions: SessionShares = field(default_factory=SessionShares)
    encoders: WeldSmallConfig = field(default_factory=WeldSmallConfig)
    backbones: BackboneSettings = field(default_factory=BackboneSettings)
    result: ResultSettings = field(default_factory=ResultSettings)
    model: NetworkSettings = field(default_factory=NetworkSettings)
    pretraining: PhaseSettings = field(default_factory=lambda: PhaseSettings(epochs=8, learning_rate=1e-3, patience=4))
    training: PhaseSettings = field(default_factory=lambda: PhaseSettings(epochs=10, patience=4))

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        if self.threads < 1:
            raise ValueError(f"threads is {self.threads}; give at least 1")
        if not 0 <= self.modality_dropout < 1:
            raise ValueError(f"modality_dropout is {self.modality_dropout}; give a share from 0 to below 1")
        if self.encoders.audio_rate_hz != self.sample.audio_rate_hz:
            rates = f"{self.encoders.audio_rate_hz} and {self.sample.audio_rate_hz}"
            raise ValueError(f"encoders and sample differ in audio_rate_hz ({rates}); give both the same")

    def network(
        self, result_tokens: int, result_width: int, encoders: WeldSmallConfig | None = None
    ) -> CausalFilmConfig:
        """Give the network's configuration, whose sizes follow from the encoders and the samples.

        Args:
            result_tokens: K.
            result_width: R.
            encoders: Sizes of the encoders that are used, where they are not the small ones alone.
        """
        sizes = token_sizes(encoders or self.encoders, self.sample.frames)
        return CausalFilmConfig(
            video_tokens=sizes.video_tokens,
            audio_tokens=sizes.audio_tokens,
            video_width=sizes.video_width,
            audio_width=sizes.audio_width,
            result_tokens=result_tokens,
            result_width=result_width,
            sensor_channels=self.encoders.sensor_channels,
            sensor_tokens=self.encoders.sensor_tokens,
            **dataclasses.asdict(self.model),
        )


def load_run(path: Path | None) -> FilmRun:
    """Read and check the settings of a run; None gives the defaults.

    Raises:
        DetectorError: Anything wrong, with its line and the fix.
    """
    if path is None:
        return FilmRun()
    try:
        text = path.read_text(encoding="utf-8")
        found = tomllib.loads(text)
    except OSError as error:
        raise DetectorError(f"{path}: cannot be read ({error.strerror}); name a configuration file") from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise DetectorError(f"{path}: not valid TOML: {error}; correct that line") from error
    try:
        return _build(FilmRun, found, "", FilmRun())
    except _Wrong as wrong:
        line = _line(text, wrong.table, wrong.key)
        raise DetectorError(f"{path}:{line}: {wrong}") from wrong


class _Wrong(ValueError):
    """A setting is wrong; where it stands follows from table and key."""

    def __init__(self, table: str, key: str | None, what: str) -> None:
        super().__init__(what)
        self.table = table
        self.key = key


def _build(kind: type[T], values: Mapping[str, Any], table: str, defaults: T) -> T:
    """Make `kind` from a table; what it does not name is taken from `defaults`."""
    hints = typing.get_type_hints(kind)
    names = [item.name for item in dataclasses.fields(typing.cast(Any, kind))]
    checked: dict[str, Any] = {}
    for key, value in values.items():
        where = f"[{table}]" if table else "the file"
        if key not in names:
            near = difflib.get_close_matches(key, names, 1, 0.5)
            fix = f"did you mean '{near[0]}'?" if near else f"known are: {', '.join(sorted(names))}"
            raise _Wrong(table, key, f"unknown setting '{key}' in {where}; {fix}")
        if dataclasses.is_dataclass(hints[key]):
            if not isinstance(value, dict):
                raise _Wrong(table, key, f"'{key}' is {value!r}, not a table; write a line [{key}] instead")
            inner = f"{table}.{key}" if table else key
            checked[key] = _build(typing.cast(type[Any], hints[key]), value, inner, getattr(defaults, key))
            continue
        try:
            checked[key] = msgspec.convert(value, hints[key])
        except msgspec.ValidationError as error:
            raise _Wrong(table, key, f"'{key}' is {value!r}: {error}; correct the value") from error
    try:
        return typing.cast(T, dataclasses.replace(typing.cast(Any, defaults), **checked))
    except _Wrong:
        raise
    except ValueError as error:
        named = next((name for name in checked if re.search(rf"\b{name}\b", str(error))), None)
        raise _Wrong(table, named, str(error)) from error


def _line(text: str, table: str, key: str | None) -> int:
    """Give the line on which a key, or else the header of its table, stands."""
    current, header_line = "", 1
    for number, line in enumerate(text.splitlines(), 1):
        header = re.match(r"\s*\[\s*([^\[\]]+?)\s*\]\s*(#.*)?$", line)
        if header:
            current = header[1]
            header_line = number if current in (table, key) else header_line
        name = re.match(r"\s*[\"']?([\w-]+)[\"']?\s*=", line)
        if name and current == table and name[1] == key:
            return number
    return header_line
