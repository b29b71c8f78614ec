"""The floor: Mahalanobis distance of plain statistics from those of good welds.

Little else than meters and a Gaussian, and yet most of what deep models report on such data is within its reach: every
network is shown beside it. The distance of the present modalities is that of the marginal Gaussian; the score is the
z of its logarithm against good welds that the Gaussian did not see (folds of whole sessions).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from models.detector_contract import (
    PHASES,
    PHOTOS,
    PROCESS,
    PROCESS_PATTERNS,
    START_WINDOWS,
    Detector,
    DetectorError,
    Encoded,
    Pattern,
    Phase,
    same_spec,
)
from models.gaussian import MIN_SLOT, Gaussian, Standardiser, Values, fit_standardised, log_distance
from models.photo_statistics import PHOTO_STATISTICS, photo_statistics
from models.window_statistics import (
    AUDIO_STATISTICS,
    SENSOR_STATISTICS,
    VIDEO_STATISTICS,
    audio_statistics,
    sensor_statistics,
    video_statistics,
)
from sync.sample import SampleSpec, Weld4MSample

NAMES: Final[dict[str, tuple[str, ...]]] = {
    "video": VIDEO_STATISTICS,
    "audio": AUDIO_STATISTICS,
    "sensors": SENSOR_STATISTICS,
}
PARTS: Final[dict[str, slice]] = {}
for _m in PROCESS:
    _first = sum(len(NAMES[other]) for other in PARTS)
    PARTS[_m] = slice(_first, _first + len(NAMES[_m]))
WIDTH: Final = sum(len(names) for names in NAMES.values())
SLOTS: Final = START_WINDOWS + 2
"""One per window of the start, where gas and wire settle second by second; one for steady, one for the end."""
FOLDS: Final = 5
MIN_WELDS: Final = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedWeld:
    """A weld as training, calibration and evaluation see it."""

    key: str
    session: str
    label: int
    windows: Sequence[Encoded]
    photos: Encoded | None


class StatisticsDetector(Detector):
    """See the module; `state` and `from_state` are what a checkpoint holds."""

    name = "statistics"

    def __init__(
        self,
        spec: SampleSpec,
        process: tuple[Standardiser, Gaussian],
        result: tuple[Standardiser, Gaussian] | None,
        scales: Mapping[str, Values],
    ) -> None:
        """Assemble a fitted detector.

        Args:
            spec: What samples are cut to.
            process: Model of window statistics.
            result: Model of photo statistics, or None when it was fitted on welds without photos.
            scales: Mean and sd, on the last axis, of good welds' `window` log distances (7 patterns, 3 phases, 2),
                `process` weld scores (7, 2) and `result` log distances (2,).
        """
        self.spec = spec
        self._process = process
        self._result = result
        self._scales = scales

    def encode_window(self, window: Weld4MSample) -> Encoded:
        """See `Detector`."""
        same_spec(window.spec, self.spec, self.name)
        return encode_window(window)

    def encode_photos(self, sample: Weld4MSample) -> Encoded | None:
        """See `Detector`."""
        same_spec(sample.spec, self.spec, self.name)
        return None if self._result is None else encode_photos(sample)

    def window_score(self, window: Encoded, pattern: Pattern) -> float:
        """See `Detector`."""
        used = tuple(m for m in PROCESS if m in pattern and m in window.present)
        if not used:
            return float("nan")
        mean, sd = self._scales["window"][PROCESS_PATTERNS.index(used), PHASES.index(window.phase(used))]
        return float((_window_distance(self._process, window, used) - mean) / sd)

    def photo_score(self, photos: Encoded) -> float:
        """See `Detector`."""
        if self._result is None:
            return float("nan")
        mean, sd = self._scales["result"]
        return float((_photo_distance(self._result, photos) - mean) / sd)

    def whole_score(self, windows: Sequence[Encoded], photos: Encoded, pattern: Pattern) -> float:
        """Give the larger z of process and result: statistics know no relation between the two."""
        used = tuple(m for m in PROCESS if m in pattern)
        process = self.weld_score(windows, None, used)
        if np.isnan(process):
            return self.photo_score(photos)
        mean, sd = self._scales["process"][PROCESS_PATTERNS.index(used)]
        return max(float((process - mean) / sd), self.photo_score(photos))

    def state(self) -> dict[str, npt.NDArray[np.float64]]:
        """See `Detector`."""
        arrays = {f"scale.{name}": values for name, values in self._scales.items()}
        for part, model in (("process", self._process), ("result", self._result)):
            if model is not None:
                arrays |= {f"{part}.location": model[0].location, f"{part}.scale": model[0].scale}
                arrays |= {f"{part}.mean": model[1].mean, f"{part}.covariance": model[1].covariance}
        return arrays

    @classmethod
    def from_state(cls, spec: SampleSpec, state: Mapping[str, npt.NDArray[Any]]) -> "StatisticsDetector":
        """Rebuild a detector; raises `DetectorError` when an array is missing or has another shape."""
        photos = "result.mean" in state
        widths = {"process": (SLOTS, WIDTH)} | ({"result": (1, len(PHOTO_STATISTICS))} if photos else {})
        models = {part: _model_from(state, part, *size) for part, size in widths.items()}
        shapes = {"window": (len(PROCESS_PATTERNS), len(PHASES), 2), "process": (len(PROCESS_PATTERNS), 2)}
        shapes |= {"result": (2,)} if photos else {}
        scales = {name: _array(state, f"scale.{name}", shape) for name, shape in shapes.items()}
        return cls(spec, models["process"], models.get("result"), scales)

    @classmethod
    def fit(
        cls, spec: SampleSpec, welds: Sequence[EncodedWeld], progress: Callable[[str], None] = lambda _: None
    ) -> "StatisticsDetector":
        """Fit on good welds; raises `DetectorError` when there are fewer than `MIN_WELDS` with windows."""
        welds = [w for w in welds if w.windows]
        if len(welds) < MIN_WELDS:
            raise DetectorError(f"{len(welds)} good training welds have windows; at least {MIN_WELDS} are needed")
        photos = sum(w.photos is not None for w in welds) >= MIN_WELDS
        progress(f"fitting {WIDTH} window statistics on {sum(len(w.windows) for w in welds)} windows")
        process = _fit_process(welds)
        result = _fit_result(welds) if photos else None
        progress("scoring welds that the fit did not see, by folds of sessions")
        return cls(spec, process, result, _held_out_scales(spec, welds, photos))


def encode_window(window: Weld4MSample) -> Encoded:
    """Take the statistics of every present process modality of a window."""
    values: dict[str, npt.NDArray[np.float64]] = {}
    phases: dict[str, Phase] = {}
    i, s = window.index, window.duration_ns / 1e9
    present = tuple(m for m in PROCESS if m in window.present and getattr(window, f"{m}_mask").any())
    if "video" in present:
        values["video"], phases["video"] = video_statistics(window.video, window.video_mask, i, s)
    if "audio" in present:
        values["audio"], phases["audio"] = audio_statistics(
            window.audio, window.audio_mask, window.spec.audio_rate_hz, i, s
        )
    if "sensors" in present:
        values["sensors"], phases["sensors"] = sensor_statistics(window.sensors, window.sensors_mask, i, s)
    return Encoded(index=i, present=present, values=values, phases=phases)


def encode_photos(sample: Weld4MSample) -> Encoded | None:
    """Take the statistics of the photos of a weld; None without a photo."""
    if not sample.post_images_mask.any():
        return None
    values = photo_statistics(sample.post_images, sample.post_images_mask)
    return Encoded(index=-1, present=(PHOTOS,), values={PHOTOS: values})


def side_by_side(window: Encoded, used: Pattern) -> Values:
    """Lay the statistics of the modalities used side by side, `(WIDTH,)`, the others NaN."""
    row = np.full(WIDTH, np.nan)
    for m in used:
        row[PARTS[m]] = window.values[m]
    return row


def slots_of(index: int, phases: Mapping[str, Phase]) -> npt.NDArray[np.int64]:
    """Give the slot of each element of a row, `(WIDTH,)`."""
    slots = np.zeros(WIDTH, dtype=np.int64)
    for m, phase in phases.items():
        slots[PARTS[m]] = min(index, START_WINDOWS - 1) if phase == "start" else SLOTS - 1 - (phase != "end")
    return slots


def _row(window: Encoded, used: Pattern) -> tuple[Values, npt.NDArray[np.int64]]:
    return side_by_side(window, used), slots_of(window.index, window.phases)


def _window_distance(model: tuple[Standardiser, Gaussian], window: Encoded, used: Pattern) -> float:
    return log_distance(model, *_row(window, used))


def _photo_distance(model: tuple[Standardiser, Gaussian], photos: Encoded) -> float:
    values = photos.values[PHOTOS]
    return log_distance(model, values, np.zeros(values.size, dtype=np.int64))


def _fit_process(welds: Sequence[EncodedWeld]) -> tuple[Standardiser, Gaussian]:
    laid = [_row(window, window.present) for weld in welds for window in weld.windows]
    rows, slots = np.stack([r for r, _ in laid]), np.stack([s for _, s in laid])
    groups = np.repeat(np.arange(len(welds)), [len(weld.windows) for weld in welds])
    return fit_standardised(rows, slots, SLOTS, groups)


def _fit_result(welds: Sequence[EncodedWeld]) -> tuple[Standardiser, Gaussian]:
    rows = np.stack([w.photos.values[PHOTOS] for w in welds if w.photos is not None])
    slots = np.zeros(rows.shape, dtype=np.int64)
    return fit_standardised(rows, slots, 1, np.arange(len(rows)))


def folds_of(sessions: Sequence[str], count: int) -> npt.NDArray[np.int64]:
    """Deal whole sessions, in order of their first appearance, to `count` folds; single welds if there is one only."""
    names = list(dict.fromkeys(sessions))
    if len(names) == 1:
        return np.arange(len(sessions)) % count
    return np.array([names.index(s) % min(count, len(names)) for s in sessions], dtype=np.int64)


def _held_out_scales(spec: SampleSpec, welds: Sequence[EncodedWeld], photos: bool) -> dict[str, Values]:
    """Get mean and sd of scores of good welds that the fit did not see, as `__init__` describes them."""
    folds = folds_of([w.session for w in welds], FOLDS)
    logs: list[tuple[int, int, float]] = []
    result_logs: list[float] = []
    held: list[tuple[EncodedWeld, tuple[Standardiser, Gaussian]]] = []
    for fold in np.unique(folds):
        rest = [w for w, f in zip(welds, folds, strict=True) if f != fold]
        model = _fit_process(rest)
        photo_model = _fit_result(rest) if photos and any(w.photos is not None for w in rest) else None
        for weld in (w for w, f in zip(welds, folds, strict=True) if f == fold):
            held.append((weld, model))
            for window in weld.windows:
                for p, pattern in enumerate(PROCESS_PATTERNS):
                    if set(pattern) <= set(window.present):
                        phase = PHASES.index(window.phase(pattern))
                        logs.append((p, phase, _window_distance(model, window, pattern)))
            if photo_model is not None and weld.photos is not None:
                result_logs.append(_photo_distance(photo_model, weld.photos))
    scales = {"window": _scales_by_phase(logs), "process": np.zeros((len(PROCESS_PATTERNS), 2))}
    if photos:
        scales["result"] = _mean_and_sd(result_logs)
    scorers = {id(model): StatisticsDetector(spec, model, None, scales) for _, model in held}
    for p, pattern in enumerate(PROCESS_PATTERNS):
        scores = [scorers[id(model)].weld_score(weld.windows, None, pattern) for weld, model in held]
        scales["process"][p] = _mean_and_sd([s for s in scores if not np.isnan(s)])
    return scales


def _scales_by_phase(logs: Sequence[tuple[int, int, float]]) -> Values:
    """Get mean and sd per pattern and phase; a phase seen too rarely takes those of all phases."""
    table = np.array(logs).reshape(-1, 3)
    out = np.zeros((len(PROCESS_PATTERNS), len(PHASES), 2))
    for p in range(len(PROCESS_PATTERNS)):
        of_pattern = table[table[:, 0] == p]
        for phase in range(len(PHASES)):
            x = of_pattern[of_pattern[:, 1] == phase, 2]
            out[p, phase] = _mean_and_sd(x if x.size >= MIN_SLOT else of_pattern[:, 2])
    return out


def _mean_and_sd(x: Sequence[float] | Values) -> Values:
    """Give mean and sd, and (0, 1) where training has not a pair of values: a score without meaning, yet finite."""
    return np.array([np.mean(x), max(float(np.std(x)), 1e-6)]) if len(x) > 1 else np.array([0.0, 1.0])


def _array(state: Mapping[str, npt.NDArray[Any]], name: str, shape: tuple[int, ...]) -> Values:
    if name not in state:
        raise DetectorError(f"the checkpoint has no array '{name}'; train it again with this version")
    if state[name].shape != shape:
        raise DetectorError(
            f"the checkpoint's '{name}' has shape {state[name].shape}, this version wants {shape}; train it again"
        )
    return np.asarray(state[name], dtype=np.float64)


def _model_from(
    state: Mapping[str, npt.NDArray[Any]], part: str, slots: int, width: int
) -> tuple[Standardiser, Gaussian]:
    location, scale = (_array(state, f"{part}.{name}", (slots, width)) for name in ("location", "scale"))
    mean, covariance = _array(state, f"{part}.mean", (width,)), _array(state, f"{part}.covariance", (width, width))
    return Standardiser(location=location, scale=scale), Gaussian(mean=mean, covariance=covariance)
