"""Exact detection metrics and their intervals. Scores are never clamped or rounded; ties are handled as ties."""

from collections.abc import Callable
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.stats import beta, betabinom, rankdata

Values = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

BOOTSTRAP: Final = 2000


def auroc(scores: Values, positive: Flags) -> float | None:
    """Give the probability that a positive outscores a negative, ties counted half; None without both kinds."""
    n_positive = int(np.count_nonzero(positive))
    n_negative = positive.size - n_positive
    if not n_positive or not n_negative:
        return None
    ranks = rankdata(scores)
    return float((ranks[positive].sum() - n_positive * (n_positive + 1) / 2) / (n_positive * n_negative))


def _counts(scores: Values, positive: Flags) -> tuple[Values, Values]:
    """Count true and false positives at every distinct threshold, from the strictest on."""
    order = np.argsort(-scores, kind="stable")
    ordered = scores[order]
    last = np.append(ordered[1:] != ordered[:-1], True)  # equal scores are one threshold
    hits = positive[order]
    return np.cumsum(hits)[last].astype(np.float64), np.cumsum(~hits)[last].astype(np.float64)


def average_precision(scores: Values, positive: Flags) -> float | None:
    """Give the step-wise area under precision over recall; None without a positive."""
    if not positive.any():
        return None
    true, false = _counts(scores, positive)
    recall = true / true[-1]
    return float(np.sum(np.diff(recall, prepend=0.0) * true / (true + false)))


def f1_max(scores: Values, positive: Flags) -> float | None:
    """Give the largest F1 over all thresholds; read it beside the prevalence p, for "all bad" has 2p / (1 + p)."""
    if not positive.any():
        return None
    true, false = _counts(scores, positive)
    return float(np.max(2 * true / (true + false + true[-1])))


def fpr_at_tpr(scores: Values, positive: Flags, tpr: float = 0.95) -> float | None:
    """Give the smallest false-positive rate whose true-positive rate is at least `tpr`; None without both kinds."""
    if not positive.any() or positive.all():
        return None
    true, false = _counts(scores, positive)
    first = int(np.argmax(true >= tpr * true[-1] - 1e-9))
    return float(false[first] / false[-1])


def bootstrap_interval(
    metric: Callable[[Values, Flags], float | None],
    scores: Values,
    positive: Flags,
    *,
    level: float = 0.95,
    draws: int = BOOTSTRAP,
    seed: int = 0,
) -> tuple[float, float] | None:
    """Give the percentile interval of a metric over welds drawn with replacement within each kind; None without both.

    Drawing within each kind keeps the prevalence, which is a choice of the test set and not a finding.
    """
    bad, good = np.flatnonzero(positive), np.flatnonzero(~positive)
    if not bad.size or not good.size:
        return None
    rng = np.random.default_rng(seed)
    flags = np.concatenate([np.ones(bad.size, dtype=np.bool_), np.zeros(good.size, dtype=np.bool_)])
    found = []
    for _ in range(draws):
        drawn = np.concatenate([rng.choice(bad, bad.size), rng.choice(good, good.size)])
        value = metric(scores[drawn], flags)
        if value is not None:
            found.append(value)
    low, high = np.percentile(found, [50 * (1 - level), 50 * (1 + level)])
    return float(low), float(high)


def binomial_interval(count: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Give the exact (Clopper-Pearson) interval of a rate of which `count` of `n` were seen."""
    tail = (1 - level) / 2
    low = 0.0 if count == 0 else float(beta.ppf(tail, count, n - count + 1))
    high = 1.0 if count == n else float(beta.ppf(1 - tail, count + 1, n - count))
    return low, high


def beta_binomial_interval(allowed: int, calibrated: int, n: int, level: float = 0.9) -> tuple[int, int]:
    """Give the range of false alarms expected among `n` exchangeable good welds.

    Args:
        allowed: `floor(alpha * (calibrated + 1))`, at least 1.
        calibrated: Calibration welds behind the threshold.
        n: Good test welds.
        level: Probability of the range (at least).
    """
    law = betabinom(n, allowed, calibrated + 1 - allowed)
    return int(law.ppf((1 - level) / 2)), int(law.ppf((1 + level) / 2))
