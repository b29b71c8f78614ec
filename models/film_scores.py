"""From residuals of Causal-FiLM to z-scores: what is usual among good welds, per presence pattern and phase.

Residuals are heavy-tailed and differ by orders of magnitude between modalities: their logarithms are compared. Each
step (single residuals, their two groups, the larger of the two) has a mean and sd of its own, because the larger of two
z-scores is no z-score.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from models.detector_contract import PHASES, PROCESS, PROCESS_PATTERNS, DetectorError

Values = npt.NDArray[np.float64]

KINDS: Final = ("", "_error")
"""Residuals of a prediction: the cosine distance of its tokens, and the mean of its largest errors."""
WINDOW_RESIDUALS: Final = tuple(f"{name}{kind}" for name in (*PROCESS, "process") for kind in KINDS)
"""Columns of the residuals of a window; all but the last two are of predictions from other modalities."""
ENOUGH: Final = 30
"""A pattern and phase that was seen less often than this takes the scale of all phases."""
_CROSS: Final = len(KINDS) * len(PROCESS)
_PARTS: Final = len(PROCESS_PATTERNS), len(PHASES)


@dataclass(frozen=True, slots=True, kw_only=True)
class FilmScales:
    """Mean and sd, on the last axis, of good welds; (0, 1) where nothing was there to learn from.

    Attributes:
        residuals: `(7, 3, 8, 2)` log residuals of windows, per pattern and phase.
        groups: `(7, 3, 2, 2)` the two groups: predicted from others, restored.
        window: `(7, 3, 2)` the larger of the two.
        process: `(7, 2)` weld scores of stage `process`.
        photo_residuals: `(2, 2)` log residuals of the restored result.
        photo: `(2,)` their mean.
        result_residuals: `(7, 2, 2)` log residuals of the result predicted from the process.
        result: `(7, 2)` their mean.
        whole: `(7, 2)` combined weld scores with photos.
        tokens: `(7, K, 2)` distance of each result token from what the process predicts.
    """

    residuals: Values
    groups: Values
    window: Values
    process: Values
    photo_residuals: Values
    photo: Values
    result_residuals: Values
    result: Values
    whole: Values
    tokens: Values

    @classmethod
    def unit(cls, tokens: int) -> "FilmScales":
        """Give scales that change nothing, for `tokens` result tokens."""
        shapes = {
            "residuals": (*_PARTS, len(WINDOW_RESIDUALS)),
            "groups": (*_PARTS, 2),
            "window": _PARTS,
            "process": _PARTS[:1],
            "photo_residuals": (len(KINDS),),
            "photo": (),
            "result_residuals": (_PARTS[0], len(KINDS)),
            "result": _PARTS[:1],
            "whole": _PARTS[:1],
            "tokens": (_PARTS[0], tokens),
        }
        return cls(**{name: np.broadcast_to([0.0, 1.0], (*shape, 2)).copy() for name, shape in shapes.items()})

    @classmethod
    def from_state(cls, state: Mapping[str, npt.NDArray[Any]], tokens: int) -> "FilmScales":
        """Take the scales out of a checkpoint's arrays; raises `DetectorError` when they do not fit."""
        unit = cls.unit(tokens)
        found = {}
        for item in fields(cls):
            name, wanted = f"scale.{item.name}", getattr(unit, item.name).shape
            array = state.get(name)
            if array is None or array.shape != wanted:
                shape = None if array is None else array.shape
                raise DetectorError(f"the checkpoint's '{name}' has shape {shape}, wanted {wanted}; train it again")
            found[item.name] = np.asarray(array, dtype=np.float64)
        return cls(**found)

    def state(self) -> dict[str, Values]:
        """Give the arrays of a checkpoint."""
        return {f"scale.{item.name}": getattr(self, item.name) for item in fields(self)}


def window_score(scales: FilmScales, residuals: Values, pattern: int, phase: int) -> float:
    """Judge the `(8,)` log residuals of one window; NaN when none is known."""
    groups = group_scores(scales, residuals, pattern, phase)
    if not np.isfinite(groups).any():
        return float("nan")
    z = standardised(groups, scales.groups[pattern, phase])
    return float(standardised(np.asarray(np.nanmax(z)), scales.window[pattern, phase]))


def group_scores(scales: FilmScales, residuals: Values, pattern: int, phase: int) -> Values:
    """Average the z-scores of each of the two groups; NaN for one without a known residual."""
    z = standardised(residuals, scales.residuals[pattern, phase])
    return np.array([mean_of_known(z[:_CROSS]), mean_of_known(z[_CROSS:])])


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
    """Fit `residuals`, `groups` and `window` on good windows.

    Args:
        rows: Of each window and each pattern that it has: number of the pattern, of the phase, `(8,)` log residuals.
    """
    scales = FilmScales.unit(1)
    patterns, phases = (np.array([row[i] for row in rows], dtype=np.int64) for i in (0, 1))
    table = np.array([row[2] for row in rows]).reshape(-1, len(WINDOW_RESIDUALS))
    for p in range(_PARTS[0]):
        mine = patterns == p
        for phase in range(_PARTS[1]):
            here = mine & (phases == phase)
            if np.count_nonzero(here) < ENOUGH:
                here = mine
            scales.residuals[p, phase] = usual(table[here])
            groups = np.array([group_scores(scales, row, p, phase) for row in table[here]]).reshape(-1, 2)
            scales.groups[p, phase] = usual(groups)
            z = standardised(groups, scales.groups[p, phase])
            largest = np.where(np.isfinite(z), z, -np.inf).max(axis=1, initial=-np.inf)
            scales.window[p, phase] = usual(largest[:, None])[0]
    return {"residuals": scales.residuals, "groups": scales.groups, "window": scales.window}
