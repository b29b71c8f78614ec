"""Conformal p-values per weld: how many good welds of this cell score as high as this one.

For welds exchangeable with the calibration welds, a good weld is called NO-GO with probability at most alpha, at every
moment of the weld, because the calibration scores are maxima over whole welds. The same calibration welds are masked to
all 15 presence patterns. Sessions break exchangeability, so the rate is also measured (`models.evaluation`).

Source: Vovk, Gammerman & Shafer, "Algorithmic Learning in a Random World" (2005); Bates et al., "Testing for outliers
with conformal p-values" (2023).
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import beta

from models.detector_contract import PATTERNS, Pattern

Values = npt.NDArray[np.float64]


def welds_needed(alpha: float) -> int:
    """Tell how many calibration welds a NO-GO at `alpha` needs at least: with fewer no p-value gets that small."""
    return math.ceil(1.0 / alpha - 1e-9) - 1


def p_value(calibration: Values, score: float) -> float:
    """Give `(1 + #{calibration >= score}) / (n + 1)`."""
    return float((1 + np.count_nonzero(calibration >= score)) / (calibration.size + 1))


def threshold(calibration: Values, alpha: float) -> float | None:
    """Give the score above which `p_value <= alpha`, or None when there are too few calibration welds."""
    n = calibration.size
    allowed = math.floor(alpha * (n + 1) + 1e-9) - 1
    return float(np.sort(calibration)[n - 1 - allowed]) if 0 <= allowed < n else None


def false_alarm_range(n: int, alpha: float, level: float = 0.9) -> tuple[float, float]:
    """Give the range of the true false-alarm rate over calibration sets of `n` good welds (a Beta distribution)."""
    k = math.floor(alpha * (n + 1) + 1e-9)
    if k == 0:
        return 0.0, 0.0
    return float(beta.ppf((1 - level) / 2, k, n + 1 - k)), float(beta.ppf((1 + level) / 2, k, n + 1 - k))


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """Scores of held-out good welds of one cell.

    Attributes:
        cell: Name of the cell they were welded in; the calibration says nothing of any other.
        scores: `(15, n)` weld scores under each of `PATTERNS`; NaN where a weld lacks a modality of the pattern.
        welds: Their keys.
        sessions: The session of each.
        utc: When it was made, ISO 8601.
    """

    cell: str
    scores: Values
    welds: tuple[str, ...]
    sessions: tuple[str, ...]
    utc: str

    def of(self, pattern: Pattern) -> Values:
        """Give the calibration scores of a presence pattern."""
        row = self.scores[PATTERNS.index(pattern)]
        return np.asarray(row[~np.isnan(row)])
