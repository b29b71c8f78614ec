"""The lower envelope of one-sided noise: the line that latency can only lie above.

A delivery is never early, only late. Of all (device time, arrival - device time) points the true clock offset is
therefore the lower edge, and jitter, stalls and queues are all on one side of it. The line below all points that is
nearest to them on average is the edge of their lower convex hull that spans their mean time (Moon, Skelly, Towsley,
"Estimation and removal of clock skew from network delay measurements", INFOCOM 1999).
It is robust, and where `sync.clock_fit` begins.
"""

from collections.abc import Sequence
from itertools import pairwise


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
