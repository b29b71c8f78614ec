"""Latency between modalities: how late each stream sees the arc against the sensors, weld by weld and over welds."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypedDict

import numpy as np
import numpy.typing as npt

from sync.edges import Edge

Floats = npt.NDArray[np.float64]

_REJECT: Final = 4.0
"""Deviations, in robust standard deviations, beyond which a weld is no sample of the latency."""

_CONSTANT_MS: Final = 50.0
"""Largest spread from weld to weld of a latency that one number can describe."""


class Residual(TypedDict):
    """How late a stream is against the sensors in one weld (negative: it leads), and the standard deviation of that."""

    offset_ms: float
    sigma_ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """Latency of one stream over many welds.

    Attributes:
        latency_ms: Weighted mean of the welds that agree.
        sigma_ms: Its standard error.
        spread_ms: Standard deviation from weld to weld beyond what the edges' own uncertainty explains; None for fewer
            than three welds.
        welds: How many agree.
        rejected: How many were left out as outliers.
        constant: The spread is small enough for one number to be of use.
    """

    latency_ms: float
    sigma_ms: float
    spread_ms: float | None
    welds: int
    rejected: int
    constant: bool


def residual_of(edges: tuple[Edge | None, Edge | None], reference: tuple[Edge | None, Edge | None]) -> Residual | None:
    """Compare the arc-on and arc-off of a stream with those of the sensors.

    The two differences are weighted by their certainty. Where they contradict each other, which a wrong edge or a bad
    clock does, the standard error is taken from the two of them.

    Args:
        edges: Arc-on and arc-off of the stream; None where its recording lacks it.
        reference: Those of the sensors.

    Returns:
        The residual, or None where no edge was seen in both.
    """
    pairs = [(mine, theirs) for mine, theirs in zip(edges, reference, strict=True) if mine and theirs]
    if not pairs:
        return None
    late_ms = np.array([(mine.t_ns - theirs.t_ns) / 1e6 for mine, theirs in pairs])
    sigma_ms = np.array([np.hypot(mine.sigma_ns, theirs.sigma_ns) / 1e6 for mine, theirs in pairs])
    weight = sigma_ms**-2.0
    mean_ms = float(weight @ late_ms / weight.sum())
    apart_ms = float(np.ptp(late_ms))
    least_ms = apart_ms / 2 if apart_ms > 2 * np.hypot.reduce(sigma_ms) else 0.0
    return Residual(offset_ms=mean_ms, sigma_ms=max(float(weight.sum() ** -0.5), least_ms))


def calibrate_latency(residuals: Sequence[Residual]) -> Latency:
    """Pool one stream's residuals over welds: median, outliers out, then a random-effects mean.

    Source of the spread: DerSimonian and Laird, Meta-analysis in clinical trials, 1986.

    Raises:
        ValueError: There is no residual.
    """
    if not residuals:
        raise ValueError("no weld shows the arc in this stream and in the sensors; record welds with both")
    late_ms = np.array([one["offset_ms"] for one in residuals])
    sigma_ms = np.array([max(one["sigma_ms"], 1e-3) for one in residuals])
    from_median = np.abs(late_ms - np.median(late_ms))
    scale_ms = np.hypot(1.4826 * float(np.median(from_median)), sigma_ms)
    kept = from_median <= _REJECT * scale_ms
    late_ms, sigma_ms = late_ms[kept], sigma_ms[kept]
    spread_ms = _spread_between(late_ms, sigma_ms)
    weight = 1.0 / (sigma_ms**2 + (spread_ms or 0.0) ** 2)
    return Latency(
        latency_ms=float(weight @ late_ms / weight.sum()),
        sigma_ms=float(weight.sum() ** -0.5),
        spread_ms=spread_ms,
        welds=len(late_ms),
        rejected=int((~kept).sum()),
        constant=spread_ms is None or spread_ms <= _CONSTANT_MS,
    )


def _spread_between(late_ms: Floats, sigma_ms: Floats) -> float | None:
    n = len(late_ms)
    if n < 3:
        return None
    weight = sigma_ms**-2.0
    mean_ms = weight @ late_ms / weight.sum()
    excess = float(weight @ (late_ms - mean_ms) ** 2) - (n - 1)
    return float(np.sqrt(max(0.0, excess / (weight.sum() - (weight**2).sum() / weight.sum()))))
