"""What a report needs beside the result of an evaluation: the score of every weld, and the curves drawn from them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from models.detector_contract import DetectorError, Pattern
from models.metrics import Flags, Values, auroc

GOOD: Final = "good"
GRID: Final = np.linspace(0.0, 1.0, 101)
"""False-positive rates at which a ROC band is drawn."""
_BAND_DRAWS: Final = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class RowScores:
    """The scores behind one row of an evaluation.

    Attributes:
        modalities: The presence pattern of the row.
        scores: `(n,)` weld scores, larger is more abnormal; NaN where a weld lacks a modality.
        p_values: `(n,)` conformal p-values; NaN where there is no score, or the weld's cell was not calibrated.
    """

    modalities: Pattern
    scores: Values
    p_values: Values


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportDetails:
    """Every judged weld of an evaluation.

    Attributes:
        keys: `n` weld keys.
        classes: What each is; all but `good` are positives (a class name, or a test-only set such as `swap`).
        sessions: The session of each.
        known_sessions: Sessions that training or calibration also saw.
        rows: One entry per row of the evaluation, in its order.
    """

    keys: tuple[str, ...]
    classes: tuple[str, ...]
    sessions: tuple[str, ...]
    known_sessions: frozenset[str]
    rows: tuple[RowScores, ...]

    @property
    def bad(self) -> Flags:
        """`(n,)` which welds are positives."""
        return np.array([c != GOOD for c in self.classes], dtype=np.bool_)

    @property
    def known(self) -> Flags:
        """`(n,)` which welds are of a session that training or calibration also saw."""
        return np.array([s in self.known_sessions for s in self.sessions], dtype=np.bool_)

    @property
    def bad_classes(self) -> list[str]:
        """Classes of the positives, in name order."""
        return sorted(set(self.classes) - {GOOD})

    def of_class(self, name: str) -> Flags:
        """`(n,)` which welds are of a class."""
        return np.array([c == name for c in self.classes], dtype=np.bool_)

    def row(self, modalities: Sequence[str]) -> RowScores:
        """Find the scores under a presence pattern.

        Raises:
            DetectorError: There are none.
        """
        for row in self.rows:
            if row.modalities == tuple(modalities):
                return row
        named = "+".join(modalities)
        raise DetectorError(f"report: no scores for the row {named}; give the details of the same evaluation")

    def check(self, result: dict[str, Any]) -> None:
        """Make sure that these are the scores behind `result`.

        Raises:
            DetectorError: Lengths differ, or a row's AUROC is not that of its scores.
        """
        n = len(self.keys)
        lengths = {len(self.classes), len(self.sessions), *(a.size for r in self.rows for a in (r.scores, r.p_values))}
        if lengths != {n}:
            raise DetectorError(f"report: {n} welds, but lists of {sorted(lengths)} entries; give one entry per weld")
        for row in result["rows"]:
            found = self.row(row["modalities"])
            judged = ~np.isnan(found.scores)
            value = auroc(found.scores[judged], self.bad[judged])
            if (value is None) != (row["auroc"] is None) or (value is not None and abs(value - row["auroc"]) > 1e-9):
                raise DetectorError(
                    f"report: the scores of {'+'.join(row['modalities'])} give AUROC {value}, the result says "
                    f"{row['auroc']}; give the details of the same evaluation"
                )


def against_good(details: ReportDetails, scores: Values, name: str | None = None) -> tuple[Values, Flags]:
    """Return (scores, is bad) of the judged good welds and of the bad ones of a class (None: of all)."""
    wanted = ~details.bad | (details.bad if name is None else details.of_class(name))
    kept = wanted & ~np.isnan(scores)
    return scores[kept], details.bad[kept]


def roc_curve(scores: Values, bad: Flags) -> tuple[Values, Values]:
    """Return false- and true-positive rates at every distinct threshold, (0, 0) and (1, 1) included.

    Both kinds must be there. Welds of equal score are one step, drawn as a slope.
    """
    thresholds = np.unique(scores)[::-1]
    good, poor = np.sort(scores[~bad]), np.sort(scores[bad])
    false = (good.size - np.searchsorted(good, thresholds)) / good.size
    true = (poor.size - np.searchsorted(poor, thresholds)) / poor.size
    return np.concatenate(([0.0], false)), np.concatenate(([0.0], true))


def roc_band(scores: Values, bad: Flags, *, level: float = 0.95, seed: int = 0) -> tuple[Values, Values]:
    """Return the pointwise percentile band of the ROC at `GRID`, over welds drawn with replacement in each kind."""
    rng = np.random.default_rng(seed)
    good, poor = scores[~bad], scores[bad]
    flags = np.arange(scores.size) >= good.size
    found = np.empty((_BAND_DRAWS, GRID.size))
    for k in range(_BAND_DRAWS):
        drawn = np.concatenate((rng.choice(good, good.size), rng.choice(poor, poor.size)))
        found[k] = np.interp(GRID, *_upper(*roc_curve(drawn, flags)))
    low, high = np.percentile(found, (50 * (1 - level), 50 * (1 + level)), axis=0)
    return low, high


def _upper(false: Values, true: Values) -> tuple[Values, Values]:
    """Keep the highest point above each false-positive rate, as interpolation needs."""
    last = np.append(false[1:] != false[:-1], True)
    return false[last], true[last]


def difference(first: Values, second: Values, bad: Flags, *, draws: int = 1000, seed: int = 0) -> tuple[float, ...]:
    """Return AUROC(first) - AUROC(second) on the same welds, and its paired 95 % bootstrap interval."""
    rng = np.random.default_rng(seed)
    good, poor = np.flatnonzero(~bad), np.flatnonzero(bad)
    flags = np.arange(bad.size) >= good.size
    found = []
    for _ in range(draws):
        drawn = np.concatenate((rng.choice(good, good.size), rng.choice(poor, poor.size)))
        found.append((auroc(first[drawn], flags) or 0.0) - (auroc(second[drawn], flags) or 0.0))
    value = (auroc(first, bad) or 0.0) - (auroc(second, bad) or 0.0)
    low, high = np.percentile(found, (2.5, 97.5))
    return value, float(low), float(high)
