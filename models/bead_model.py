"""The bead that a weld's settings lead to, and how unusual a bead is, by itself and for its settings.

A ridge in closed form from current, voltage and arc time (a seam of given length is the shorter welded, the faster the
torch) to the result tokens, with squares and products: bead geometry follows power laws of them. Without sensors, the
strongest directions of picture and sound take the place of the settings. It is what the network starts from: a few
hundred welds teach a ridge with a dozen inputs, but not a network with a million weights.

Then two Gaussians of good welds (Ledoit and Wolf): of the tokens, and of what a prediction leaves of them. The
logarithm of the ratio of the two distances tells whether photos fit this process worse than they fit good welds in
general; a bead that is merely unusual is far in both.
Ridge: A. Hoerl and R. Kennard, "Ridge regression", Technometrics 1970.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from models.detector_contract import DetectorError, Pattern
from models.gaussian import Gaussian
from models.network_state import array_of
from models.result_tokens import ResultTokensConfig
from models.statistics import FOLDS, MIN_WELDS, NAMES, PARTS, WIDTH, folds_of
from sync.sample import SampleSpec

Values = npt.NDArray[np.float64]

KINDS: Final = ("sensors", "video", "audio", "video+audio")
"""What a bead can be predicted from: the sensors if they are there, for they hold the settings."""
DIRECTIONS: Final = 3
"""Principal directions of the weld's mean statistics that stand for the settings of one modality without sensors."""
_STRENGTH: Final = 30.0
"""Of the ridge; between 3 and 100 it hardly matters for some hundred welds."""
_EDGE: Final = 2
"""Windows at each end of a weld that are left out of its means, where it has enough of them."""
_LARGEST: Final = 4.0
_CURRENT = PARTS["sensors"].start + NAMES["sensors"].index("current_a.level")
_VOLTAGE = PARTS["sensors"].start + NAMES["sensors"].index("voltage_v.level")


@dataclass(frozen=True, slots=True, kw_only=True)
class Bead:
    """One good weld to learn from.

    Attributes:
        session: Its session.
        statistics: `(n, W)` plain statistics of its windows, NaN where not known.
        arc_s: How long its arc burned.
        result: `(K, R)` its result tokens.
    """

    session: str
    statistics: Values
    arc_s: float
    result: npt.NDArray[np.float32]


def kind_of(used: Pattern) -> str:
    """Tell what a bead is predicted from, given the process modalities that are there."""
    return "sensors" if "sensors" in used else "+".join(m for m in ("video", "audio") if m in used)


def arc_seconds(index: npt.NDArray[np.int64], spec: SampleSpec) -> float:
    """Tell how long the windows of a weld reach."""
    return float(index.max()) * spec.hop_s + spec.window_s if len(index) else 0.0


class BeadModel:
    """See the module."""

    def __init__(self, state: Mapping[str, npt.NDArray[Any]], config: ResultTokensConfig) -> None:
        """Take the arrays that `state` has given, among others.

        Raises:
            DetectorError: One is missing or of another size.
        """
        self._kept = _kept(config)
        count = len(self._kept)
        shapes: dict[str, tuple[int, ...]] = {"marginal.mean": (count,), "marginal.covariance": (count, count)}
        for m in ("video", "audio"):
            width = len(NAMES[m])
            shapes |= {f"{m}.mean": (width,), f"{m}.map": (width, DIRECTIONS)}
        for kind in KINDS:
            inputs = _inputs(kind)
            terms = inputs + inputs * (inputs + 1) // 2
            shapes |= {f"{kind}.centre": (2, inputs), f"{kind}.terms": (2, terms), f"{kind}.ridge": (terms + 1, count)}
            shapes |= {f"{kind}.left.mean": (count,), f"{kind}.left.covariance": (count, count)}
        self._arrays = {
            name: np.asarray(array_of(state, f"bead.{name}", shape), dtype=np.float32) for name, shape in shapes.items()
        }
        self._shape = (config.tokens, config.width)
        self._gaussians = {
            name: Gaussian(
                mean=self._arrays[f"{name}.mean"].astype(np.float64),
                covariance=self._arrays[f"{name}.covariance"].astype(np.float64),
            )
            for name in ("marginal", *(f"{kind}.left" for kind in KINDS))
        }

    @classmethod
    def fit(cls, beads: Sequence[Bead], config: ResultTokensConfig) -> "BeadModel":
        """Fit on good welds with photos; what a prediction leaves is taken from folds of sessions left out of it.

        Raises:
            DetectorError: There are fewer than `MIN_WELDS`.
        """
        if len(beads) < MIN_WELDS:
            raise DetectorError(
                f"{len(beads)} good training welds have both photos and windows; at least {MIN_WELDS} are needed: "
                "record and label more"
            )
        kept = _kept(config)
        table = np.stack([bead.result.reshape(-1)[kept] for bead in beads]).astype(np.float64)
        arrays: dict[str, npt.NDArray[Any]] = {}
        for m in ("video", "audio"):
            arrays[f"{m}.mean"], arrays[f"{m}.map"] = _directions(
                np.stack([_means(bead.statistics)[PARTS[m]] for bead in beads])
            )
        folds = folds_of([bead.session for bead in beads], FOLDS)
        for kind in KINDS:
            inputs = np.stack([_read(kind, bead.statistics, bead.arc_s, arrays) for bead in beads])
            known = np.isfinite(inputs)
            count = known.sum(axis=0).clip(1)
            mean = np.where(known, inputs, 0.0).sum(axis=0) / count
            spread = np.sqrt(np.square(np.where(known, inputs - mean, 0.0)).sum(axis=0) / count)
            arrays[f"{kind}.centre"] = np.stack([mean, np.where(spread > 1e-6, spread, 1.0)])
            terms = _products(_standard(inputs, arrays[f"{kind}.centre"]))
            sd = terms.std(axis=0)
            arrays[f"{kind}.terms"] = np.stack([terms.mean(axis=0), np.where(sd > 1e-6, sd, 1.0)])
            terms = _standard(terms, arrays[f"{kind}.terms"])
            arrays[f"{kind}.ridge"] = _ridge(terms, table)
            left = table.copy()
            for fold in np.unique(folds):
                rest = folds != fold
                if rest.any():
                    left[~rest] -= _apply(_ridge(terms[rest], table[rest]), terms[~rest])
            arrays |= _gaussian(f"{kind}.left", left)
        arrays |= _gaussian("marginal", table)
        return cls({f"bead.{name}": array for name, array in arrays.items()}, config)

    def predict(self, statistics: Values, arc_s: float, used: Pattern) -> npt.NDArray[np.float32]:
        """Predict the result tokens `(K, R)` of a weld.

        Args:
            statistics: `(n, W)` plain statistics of its windows; those of modalities not in `used` are not looked at.
            arc_s: How long its arc burned.
            used: Process modalities to predict from, at least one.
        """
        kind = kind_of(used)
        inputs = _read(kind, statistics, arc_s, self._arrays)[None]
        terms = _products(_standard(inputs, self._arrays[f"{kind}.centre"]))
        terms = _standard(terms, self._arrays[f"{kind}.terms"])
        out = np.zeros(self._shape[0] * self._shape[1], dtype=np.float32)
        out[self._kept] = _apply(self._arrays[f"{kind}.ridge"], terms)[0]
        return out.reshape(self._shape)

    def distance(self, result: npt.NDArray[Any]) -> float:
        """Tell how unusual result tokens `(K, R)` are: log of the squared Mahalanobis distance per direction."""
        return self._log("marginal", result)

    def distance_left(self, left: npt.NDArray[Any], used: Pattern) -> float:
        """Tell the same of what a prediction from `used` leaves of the result tokens, `(K, R)`."""
        return self._log(f"{kind_of(used)}.left", left)

    def state(self) -> dict[str, npt.NDArray[np.float32]]:
        """Give the arrays of a checkpoint."""
        return {f"bead.{name}": array for name, array in self._arrays.items()}

    def _log(self, name: str, tokens: npt.NDArray[Any]) -> float:
        row = np.asarray(tokens.reshape(-1)[self._kept], dtype=np.float64)
        return float(np.log(self._gaussians[name].distance(row) + 1e-9))


def _kept(config: ResultTokensConfig) -> npt.NDArray[np.intp]:
    """Give the places of tokens laid in one row that are not filling."""
    return np.flatnonzero(np.arange(config.width) < np.array(config.kept)[:, None])


def _inputs(kind: str) -> int:
    return 3 if kind == "sensors" else 1 + DIRECTIONS * len(kind.split("+"))


def _means(statistics: Values) -> Values:
    """Average a weld's windows without its ends, `(W,)`, NaN where nothing is known."""
    rows = statistics[_EDGE:-_EDGE] if len(statistics) > 3 * _EDGE else statistics
    known = np.isfinite(rows)
    count = known.sum(axis=0)
    total = np.where(known, rows, 0.0).sum(axis=0)
    return np.asarray(np.where(count > 0, total / np.maximum(count, 1), np.nan))


def _read(kind: str, statistics: Values, arc_s: float, arrays: Mapping[str, npt.NDArray[Any]]) -> Values:
    """Read the settings, or what stands for them."""
    means = _means(statistics) if len(statistics) else np.full(WIDTH, np.nan)
    time = np.log(max(arc_s, 0.1))
    if kind == "sensors":
        return np.array([np.log(max(means[_CURRENT], 1.0)), means[_VOLTAGE], time])
    parts = []
    for m in kind.split("+"):
        off = np.nan_to_num(means[PARTS[m]] - arrays[f"{m}.mean"])
        parts.append(off @ arrays[f"{m}.map"])
    return np.array([*np.concatenate(parts), time])


def _standard(values: Values, scale: npt.NDArray[Any]) -> Values:
    """Standardise, what is not known to the mean, and nothing further out than good welds ever are."""
    return np.asarray(np.nan_to_num(np.clip((values - scale[0]) / scale[1], -_LARGEST, _LARGEST)))


def _products(x: Values) -> Values:
    """Append squares and products of the columns."""
    i, j = np.triu_indices(x.shape[1])
    return np.hstack([x, x[:, i] * x[:, j]])


def _directions(means: Values) -> tuple[Values, Values]:
    """Give the mean of weld means and the map onto their strongest directions, each of unit variance."""
    known = np.isfinite(means)
    mean = np.where(known, means, 0.0).sum(axis=0) / known.sum(axis=0).clip(1)
    off = np.where(known, means - mean, 0.0)
    scale = off.std(axis=0)
    scale = np.where(scale > 1e-9, scale, 1.0)
    powers, directions = np.linalg.eigh((off / scale).T @ (off / scale) / len(off))
    order = np.argsort(-powers)[:DIRECTIONS]
    return mean, directions[:, order] / np.sqrt(powers[order].clip(1e-6)) / scale[:, None]


def _ridge(terms: Values, table: Values) -> Values:
    """Regress `(n, d)` on standardised `(n, t)`; the last row of the result is the intercept."""
    mean = table.mean(axis=0)
    weights = np.linalg.solve(terms.T @ terms + _STRENGTH * np.eye(terms.shape[1]), terms.T @ (table - mean))
    return np.vstack([weights, mean - terms.mean(axis=0) @ weights])


def _apply(ridge: npt.NDArray[Any], terms: Values) -> Values:
    return np.asarray(terms @ ridge[:-1] + ridge[-1])


def _gaussian(name: str, rows: Values) -> dict[str, npt.NDArray[Any]]:
    fitted = Gaussian.fit(rows, np.arange(len(rows)))
    return {f"{name}.mean": fitted.mean, f"{name}.covariance": fitted.covariance}
