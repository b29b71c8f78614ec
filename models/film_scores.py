"""From distances to z-scores: what is usual among good welds, per presence pattern and phase.

Scales are taken from good welds of the validation sessions, which no network was fitted on: those that were fitted on
are predicted too well, and some modalities more so than others. Each step (single distances, groups, their mean) has a
mean and sd of its own, because neither the largest nor the mean of z-scores is a z-score.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from scipy.special import log_ndtr

from models.detector_contract import PHASES, PROCESS, PROCESS_PATTERNS
from models.network_state import array_of

Values = npt.NDArray[np.float64]

STATISTICS: Final = "statistics"
RESTORED: Final = tuple(f"restored_{m}" for m in PROCESS)
PARTS: Final = (*PROCESS, *RESTORED, STATISTICS)
"""What is judged of a window: what the network cannot predict from others, or restore, and the plain statistics."""
PHOTO_PARTS: Final = ("tokens", "restored_error")
"""What is judged of photos: how unusual their tokens are, and the largest errors of restoring them."""
ENOUGH: Final = 30
"""A pattern and phase that was seen less often than this takes the scale of all phases."""
_GROUPS: Final = ((PROCESS, "sensors"), (RESTORED, "restored_audio"), ((STATISTICS,), STATISTICS))
"""Parts of each group, and which of them speaks for it where it is known; chosen on development welds."""
_PARTS: Final = len(PROCESS_PATTERNS), len(PHASES)


@dataclass(frozen=True, slots=True, kw_only=True)
class FilmScales:
    """Mean and sd, on the last axis, of good welds; (0, 1) where nothing was there to learn from. And the gain.

    Attributes:
        distances: `(7, 3, 7, 2)` log distances of windows, per pattern, phase and part.
        groups: `(7, 3, 3, 2)` the three groups: predicted from others, restored from all, plain statistics.
        window: `(7, 3, 2)` their mean.
        process: `(7, 2)` weld scores of stage `process`.
        photo_parts: `(2, 2)` see `PHOTO_PARTS`, logarithms.
        photo: `(2,)` their mean.
        relation: `(7, 2)` log distance of what the process leaves unexplained of the photos, minus that of the photos.
        whole: `(7, 2)` combined weld scores with photos.
        tokens: `(7, K, 2)` log squared difference of each result token from what the process predicts.
        gain: `(7, 1)` share of the network's correction of the predicted result that holds for welds it never saw.
    """

    distances: Values
    groups: Values
    window: Values
    process: Values
    photo_parts: Values
    photo: Values
    relation: Values
    whole: Values
    tokens: Values
    gain: Values

    @classmethod
    def unit(cls, tokens: int) -> "FilmScales":
        """Give scales that change nothing, for `tokens` result tokens."""
        shapes = {
            "distances": (*_PARTS, len(PARTS)),
            "groups": (*_PARTS, len(_GROUPS)),
            "window": _PARTS,
            "process": _PARTS[:1],
            "photo_parts": (len(PHOTO_PARTS),),
            "photo": (),
            "relation": _PARTS[:1],
            "whole": _PARTS[:1],
            "tokens": (_PARTS[0], tokens),
        }
        scales = {name: np.broadcast_to([0.0, 1.0], (*shape, 2)).copy() for name, shape in shapes.items()}
        return cls(**scales, gain=np.zeros((_PARTS[0], 1)))

    @classmethod
    def from_state(cls, state: Mapping[str, npt.NDArray[Any]], tokens: int) -> "FilmScales":
        """Take the scales out of a checkpoint's arrays; raises `DetectorError` when they do not fit."""
        unit = cls.unit(tokens)
        shapes = {item.name: getattr(unit, item.name).shape for item in fields(cls)}
        return cls(
            **{n: np.asarray(array_of(state, f"scale.{n}", shape), dtype=np.float64) for n, shape in shapes.items()}
        )

    def state(self) -> dict[str, Values]:
        """Give the arrays of a checkpoint."""
        return {f"scale.{item.name}": getattr(self, item.name) for item in fields(self)}


def window_score(scales: FilmScales, distances: Values, pattern: int, phase: int) -> float:
    """Judge the `(7,)` log distances of one window; NaN when none is known."""
    z = standardised(group_scores(scales, distances, pattern, phase), scales.groups[pattern, phase])
    return float(standardised(np.asarray(mean_of_known(z)), scales.window[pattern, phase]))


def group_scores(scales: FilmScales, distances: Values, pattern: int, phase: int) -> Values:
    """Give the z-score of each group: that of its speaker, or the mean of its parts; NaN where nothing is known."""
    z = dict(zip(PARTS, standardised(distances, scales.distances[pattern, phase]), strict=True))
    return np.array(
        [
            z[speaker] if np.isfinite(z[speaker]) else mean_of_known(np.array([z[part] for part in parts]))
            for parts, speaker in _GROUPS
        ]
    )


def combined(parts: Values) -> float:
    """Combine z-scores of a weld into one: a large one counts alone, several moderate ones add up.

    Fisher's method for p-values of a normal distribution, as a scale only: the parts are neither normal nor
    independent, and what is usual of the result is measured. R. A. Fisher, "Statistical methods for research
    workers", 1932.
    """
    return float(-log_ndtr(-parts).sum())


def standardised(values: Values, scale: Values) -> Values:
    """Give `(values - mean) / sd`."""
    return np.asarray((values - scale[..., 0]) / scale[..., 1])


def mean_of_known(values: Values) -> float:
    """Average what is known; NaN when nothing is."""
    known = values[np.isfinite(values)]
    return float(known.mean()) if known.size else float("nan")


def usual(table: Values) -> Values:
    """Give mean and sd of each column of `(n, k)` values, NaN = unknown: `(k, 2)`; (0, 1) with fewer than two."""
    out = np.tile([0.0, 1.0], (table.shape[1], 1))
    for j, column in enumerate(table.T):
        x = column[np.isfinite(column)]
        if x.size > 1:
            out[j] = x.mean(), max(float(x.std()), 1e-6)
    return out


def fit_windows(rows: Sequence[tuple[int, int, Values]]) -> dict[str, Values]:
    """Fit `distances`, `groups` and `window` on good windows.

    Args:
        rows: Of each window and each pattern that it has: number of the pattern, of the phase, `(7,)` log distances.
    """
    scales = FilmScales.unit(1)
    patterns, phases = (np.array([row[i] for row in rows], dtype=np.int64) for i in (0, 1))
    table = np.array([row[2] for row in rows]).reshape(-1, len(PARTS))
    for p in range(_PARTS[0]):
        mine = patterns == p
        for phase in range(_PARTS[1]):
            here = mine & (phases == phase)
            if np.count_nonzero(here) < ENOUGH:
                here = mine
            scales.distances[p, phase] = usual(table[here])
            groups = np.array([group_scores(scales, row, p, phase) for row in table[here]]).reshape(-1, len(_GROUPS))
            scales.groups[p, phase] = usual(groups)
            means = [mean_of_known(row) for row in standardised(groups, scales.groups[p, phase])]
            scales.window[p, phase] = usual(np.array(means).reshape(-1, 1))[0]
    return {"distances": scales.distances, "groups": scales.groups, "window": scales.window}
