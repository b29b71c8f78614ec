"""The lower envelope of one-sided noise: the line that latency can only lie above.

A delivery is never early, only late. Of all (device time, arrival - device time) points the true clock offset is
therefore the lower edge, and jitter, stalls and queues are all on one side of it. The line below all points that is
nearest to them on average is the edge of their lower convex hull that spans their mean time (Moon, Skelly, Towsley,
"Estimation and removal of clock skew from network delay measurements", INFOCOM 1999).
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Floats: TypeAlias = npt.NDArray[np.float64]


def lower_hull(x: Sequence[float], y: Sequence[float]) -> list[tuple[float, float]]:
    """Lower convex hull of points with ascending `x` (monotone chain, O(n))."""
    hull: list[tuple[float, float]] = []
    for px, py in zip(x, y, strict=True):
        while len(hull) > 1:
            (ax, ay), (bx, by) = hull[-2], hull[-1]
            if (bx - ax) * (py - ay) > (by - ay) * (px - ax):
                break
            hull.pop()
        hull.append((px, py))
    return hull


def lower_slope(x: Sequence[float], y: Sequence[float]) -> float:
    """Slope of the hull edge over the mean of `x`; 0 where fewer than two distinct `x` exist."""
    hull = lower_hull(x, y)
    middle = sum(x) / len(x)
    for (ax, ay), (bx, by) in pairwise(hull):
        if bx >= middle and bx > ax:
            return (by - ay) / (bx - ax)
    return 0.0


def interval_minima(x: Floats, y: Floats, count: int) -> npt.NDArray[np.intp]:
    """Index of the lowest point in each of `count` equal intervals of ascending `x`; empty intervals have none."""
    inner = np.linspace(x[0], x[-1], count + 1)[1:-1]
    edges = np.unique(np.concatenate(([0], np.searchsorted(x, inner), [len(x)])))
    return np.array([a + np.argmin(y[a:b]) for a, b in pairwise(edges.tolist())], np.intp)


def robust_slope(x: Floats, y: Floats) -> tuple[float, float]:
    """Least-squares slope that points far above the line hardly pull, with its standard error.

    Cauchy weights on the upper side only, re-weighted six times: interval minima are nearly symmetric, but an interval
    in which everything was late lies high above the rest.
    """
    weight = np.ones_like(x)
    slope = error = 0.0
    for _ in range(6):
        x_mean, y_mean = np.average(x, weights=weight), np.average(y, weights=weight)
        dx = x - x_mean
        spread = float(np.sum(weight * dx * dx))
        if spread == 0.0:
            return 0.0, 0.0
        slope = float(np.sum(weight * dx * (y - y_mean)) / spread)
        rest = y - y_mean - slope * dx
        scale = 1.4826 * float(np.median(np.abs(rest - np.median(rest)))) + 1.0
        error = scale / spread**0.5
        weight = 1.0 / (1.0 + np.maximum(rest / (2.0 * scale), 0.0) ** 2)
    return slope, error
