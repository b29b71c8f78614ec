"""What the calibration behind a verdict is worth: how many welds and sessions, and how far off alpha may be."""

import math
from functools import lru_cache
from typing import Final

from PySide6.QtCore import QCoreApplication

translate = QCoreApplication.translate

_LEVEL: Final = 0.9
_HALVINGS: Final = 40


def calibration_words(n: int, sessions: int, alpha: float, needed: int) -> tuple[str, str]:
    """Say what good welds stand behind the p-value, at length and in short.

    Args:
        n: Good welds of this cell that verdicts are compared with.
        sessions: Sessions that they come from.
        alpha: False-alarm rate aimed at.
        needed: Good welds without which there is no verdict.
    """
    if not n:
        words = translate("Calibration", "not calibrated for this cell: {0} of {1} good welds").format(n, needed)
        return words, translate("Calibration", "not calibrated: {0} of {1} good welds").format(n, needed)
    if n < needed:
        words = translate("Calibration", "calibrating {0} of {1} good welds, {2} sessions").format(n, needed, sessions)
        return words, translate("Calibration", "calibrating {0} of {1}, {2} sessions").format(n, needed, sessions)
    low, high = (100 * end for end in false_alarm_range(n, alpha))
    words = translate("Calibration", "n {0} good welds, {1} sessions; 90 % range {2:.1f}–{3:.1f} %")
    short = translate("Calibration", "n {0}, {1} sessions; 90 %: {2:.1f}–{3:.1f} %")
    return words.format(n, sessions, low, high), short.format(n, sessions, low, high)


@lru_cache(maxsize=64)
def false_alarm_range(n: int, alpha: float) -> tuple[float, float]:
    """Give the range that the true false-alarm rate lies in for 90 % of the sets of `n` calibration welds.

    The rate is Beta(k, n + 1 - k) distributed with k = floor(alpha (n + 1)); its quantiles are found by halving, so
    that the screen needs no scipy. V. Vovk, "Conditional validity of inductive conformal predictors", 2012.

    Returns:
        Lower and upper end; (0, 0) where `n` is too small for any alarm.
    """
    k = math.floor(alpha * (n + 1) + 1e-9)
    if k == 0:
        return 0.0, 0.0
    return _quantile(n, k, (1 - _LEVEL) / 2), _quantile(n, k, (1 + _LEVEL) / 2)


def _quantile(n: int, k: int, share: float) -> float:
    """Find the rate x with P(Beta(k, n + 1 - k) <= x) = P(at least k of n happen at rate x) = `share`."""
    low, high = 0.0, 1.0
    for _ in range(_HALVINGS):
        x = (low + high) / 2
        fewer = math.fsum(math.exp(_log_choose(n, i) + i * math.log(x) + (n - i) * math.log1p(-x)) for i in range(k))
        low, high = (x, high) if 1 - fewer < share else (low, x)
    return (low + high) / 2


def _log_choose(n: int, i: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(i + 1) - math.lgamma(n - i + 1)
