"""A fitted detector on disk: a folder with `model.safetensors` (arrays) and `model.json` (everything else).

Never a pickle: opening a checkpoint runs no code of its own. A digest over the description, and in it one over the
arrays, finds whatever was changed afterwards; it is no signature, so it does not say who wrote it.
"""

import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import xxhash
from safetensors import SafetensorError
from safetensors.numpy import load, save

from models.conformal import Calibration
from models.detector_contract import PATTERNS, Detector, DetectorError
from sync.sample import SampleSpec

VERSION: Final = 2
ARRAYS: Final = "model.safetensors"
DESCRIPTION: Final = "model.json"


DETECTORS: Final = ("statistics", "causal-film")
"""Kinds of detector that a checkpoint can hold; the code of each is loaded when it is needed."""


class CalibrationRecord(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A `Calibration` without its scores, which are the array `calibration.<number>`."""

    cell: str
    welds: list[str]
    sessions: list[str]
    utc: str


class TrainingRecord(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a detector was fitted on.

    Attributes:
        welds: Keys of the training welds; they may never calibrate or test it.
        sessions: Their sessions, each once.
        held_out: Keys of good welds that training set aside for calibration.
        validation: Keys of welds that stopped the training; they may never calibrate or test it either.
        digest: XXH3-128 (hex) over the manifests of the training welds.
        utc: When, ISO 8601.
        seconds: Wall time that it took, where known.
    """

    welds: list[str]
    sessions: list[str]
    held_out: list[str]
    digest: str
    utc: str
    validation: list[str] = []
    seconds: float | None = None


class Description(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`model.json`.

    Attributes:
        version: Of this format.
        detector: One of `DETECTORS`.
        spec: What samples are cut to.
        training: What it was fitted on.
        calibrations: Of which cells.
        patterns: Presence patterns that calibrations have a row for.
        arrays_digest: XXH3-128 (hex) over `model.safetensors`.
        versions: Of what it was made with.
        configuration: What the detector needs beside arrays; empty for statistics.
        digest: `description_digest` of all the others.
    """

    version: int
    detector: str
    spec: SampleSpec
    training: TrainingRecord
    calibrations: list[CalibrationRecord]
    patterns: list[list[str]]
    arrays_digest: str
    versions: dict[str, str]
    configuration: dict[str, Any] = {}
    digest: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A detector with where it comes from and which cells it is calibrated for.

    Attributes:
        detector: The detector, fitted.
        training: What it was fitted on.
        calibrations: By cell name.
        digest: First 8 hex digits over all its arrays, thus equal for equal runs; empty before it was saved.
    """

    detector: Detector
    training: TrainingRecord
    calibrations: dict[str, Calibration] = field(default_factory=dict)
    digest: str = ""

    @property
    def title(self) -> str:
        """Name and digest, as verdicts show them."""
        return f"{self.detector.name}-{self.digest}"


def save_checkpoint(folder: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint; the description is replaced last, so that a half-written one is noticed by its digest."""
    arrays = dict(checkpoint.detector.state())
    calibrations = list(checkpoint.calibrations.values())
    arrays |= {f"calibration.{i}": c.scores for i, c in enumerate(calibrations)}
    data = save({name: np.ascontiguousarray(array).reshape(array.shape) for name, array in arrays.items()})
    description = Description(
        version=VERSION,
        detector=checkpoint.detector.name,
        spec=checkpoint.detector.spec,
        training=checkpoint.training,
        calibrations=[
            CalibrationRecord(cell=c.cell, welds=list(c.welds), sessions=list(c.sessions), utc=c.utc)
            for c in calibrations
        ],
        patterns=[list(p) for p in PATTERNS],
        arrays_digest=xxhash.xxh3_128_hexdigest(data),
        versions={"python": platform.python_version()} | {n: version(n) for n in checkpoint.detector.made_with},
        configuration=checkpoint.detector.configuration(),
    )
    # The digest is of what a reader finds in the file, not of what is written: JSON knows no tuples.
    fields = msgspec.json.decode(msgspec.json.encode(description))
    fields["digest"] = description_digest(fields)
    folder.mkdir(parents=True, exist_ok=True)
    text = msgspec.json.format(msgspec.json.encode(fields), indent=1)
    for name, content in ((ARRAYS, data), (DESCRIPTION, text)):
        fresh = folder / f"{name}.new"
        fresh.write_bytes(content)
        fresh.replace(folder / name)


def description_digest(fields: Mapping[str, Any]) -> str:
    """Give XXH3-128 (hex) over the canonical JSON of everything that `model.json` holds but its own digest."""
    others = {name: value for name, value in fields.items() if name != "digest"}
    return xxhash.xxh3_128_hexdigest(msgspec.json.encode(others, order="deterministic"))


def load_checkpoint(folder: Path, spec: SampleSpec | None = None) -> Checkpoint:
    """Read a checkpoint.

    Args:
        folder: Its folder.
        spec: The spec that samples will be cut to, where the caller has no choice; None takes the checkpoint's own.

    Raises:
        DetectorError: It is absent, unreadable, changed, of another version, spec or shape; one line.
    """
    description, data = _read(folder)
    if spec is not None and spec != description.spec:
        wanted = asdict(spec)
        key = next(k for k, v in asdict(description.spec).items() if v != wanted[k])
        raise DetectorError(
            f"{folder}: trained on samples with {key} = {asdict(description.spec)[key]}, asked for {wanted[key]}; "
            "train it again or use the spec of the checkpoint"
        )
    try:
        arrays: dict[str, Any] = load(data)
    except SafetensorError as error:
        raise DetectorError(f"{folder / ARRAYS}: {error}; copy the checkpoint again or train it again") from error
    try:
        detector = _detector(description, arrays)
    except DetectorError as error:
        raise DetectorError(f"{folder}: {error}") from error
    calibrations = {}
    for i, record in enumerate(description.calibrations):
        scores = arrays.get(f"calibration.{i}")
        if scores is None or scores.shape != (len(PATTERNS), len(record.welds)):
            raise DetectorError(f"{folder}: the calibration for cell '{record.cell}' does not fit; run calibrate again")
        calibrations[record.cell] = Calibration(
            cell=record.cell,
            scores=scores,
            welds=tuple(record.welds),
            sessions=tuple(record.sessions),
            utc=record.utc,
        )
    return Checkpoint(
        detector=detector,
        training=description.training,
        calibrations=calibrations,
        digest=description.arrays_digest[:8],
    )


def _detector(description: Description, arrays: dict[str, Any]) -> Detector:
    """Make the detector; torch is loaded for a network only."""
    if description.detector == "statistics":
        from models.statistics import StatisticsDetector

        return StatisticsDetector.from_state(description.spec, arrays)
    from models.film_detector import FilmDetector

    return FilmDetector.from_state(description.spec, description.configuration, arrays)


def _read(folder: Path) -> tuple[Description, bytes]:
    """Read both files and check that they belong to each other and to this version."""
    try:
        text, data = (folder / DESCRIPTION).read_bytes(), (folder / ARRAYS).read_bytes()
    except OSError as error:
        raise DetectorError(f"{folder}: no checkpoint ({error.strerror}: {error.filename}); train one first") from error
    try:
        found = msgspec.json.decode(text, type=dict[str, Any])
        if found.get("version") != VERSION or found.get("detector") not in DETECTORS:
            raise DetectorError(
                f"{folder}: a '{found.get('detector')}' checkpoint of version {found.get('version')}; "
                f"this program reads {' and '.join(DETECTORS)} of version {VERSION}: train it again"
            )
        description = msgspec.convert(found, Description)
        if description.digest != description_digest(found):
            raise DetectorError(
                f"{folder / DESCRIPTION}: changed after it was written; copy the checkpoint again or train it again"
            )
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise DetectorError(f"{folder / DESCRIPTION}: {error}; copy the checkpoint again or train it again") from error
    if description.patterns != [list(p) for p in PATTERNS]:
        raise DetectorError(f"{folder}: calibrated for other presence patterns; train it again with this version")
    if xxhash.xxh3_128_hexdigest(data) != description.arrays_digest:
        raise DetectorError(
            f"{folder}: {ARRAYS} does not belong to {DESCRIPTION}; copy the checkpoint again or train it again"
        )
    return description, data
