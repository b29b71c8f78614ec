"""Interpolation: what a measured series says at the points of a grid, and where it says nothing.

A grid point is filled only between two measured neighbours that are close enough, or, where values are taken as they
are, within half a period of one. Nothing is extrapolated.
"""

from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

Bools: TypeAlias = npt.NDArray[np.bool_]
Floats: TypeAlias = npt.NDArray[np.float64]
Indices: TypeAlias = npt.NDArray[np.intp]
Int64s: TypeAlias = npt.NDArray[np.int64]
Rule: TypeAlias = Literal["nearest", "hold", "linear", "cumulative"]

_STRIDE: Final = 1024


@dataclass(frozen=True, slots=True)
class Neighbours:
    """The measured items around each grid point.

    Attributes:
        before: `(G,)` index of the last item at or before the point, -1 where there is none.
        since_ns: `(G,)` time since that item.
        until_ns: `(G,)` time until the next item.
        bridged: `(G,)` the point lies on an item, or between two that are at most `max_gap_ns` apart.
    """

    before: Indices
    since_ns: Int64s
    until_ns: Int64s
    bridged: Bools

    @classmethod
    def of(cls, t_ns: Int64s, grid_ns: Int64s, max_gap_ns: float) -> "Neighbours":
        """Find the neighbours of every grid point among `(n,)` ascending times, n > 0."""
        before = np.searchsorted(t_ns, grid_ns, side="right") - 1
        since_ns = grid_ns - t_ns[np.maximum(before, 0)]
        until_ns = t_ns[np.minimum(before + 1, len(t_ns) - 1)] - grid_ns
        inside = (before >= 0) & (before < len(t_ns) - 1)
        bridged = (inside & (since_ns + until_ns <= max_gap_ns)) | ((before >= 0) & (since_ns == 0))
        return cls(before, since_ns, until_ns, bridged)

    def nearest(self, count: int, period_ns: int) -> tuple[Indices, Bools]:
        """Index of the nearest item (the earlier of two equals), and where it may be used."""
        later = (self.before < 0) | ((self.before < count - 1) & (self.until_ns < self.since_ns))
        index = self.before + later
        distance_ns = np.abs(np.where(later, self.until_ns, self.since_ns))
        return index, self.bridged | (2 * distance_ns <= period_ns)


def fill_nearest(
    items: npt.NDArray[Any],
    t_ns: Int64s,
    grid_ns: Int64s,
    max_gap_ns: float,
    period_ns: int,
    out: npt.NDArray[Any],
    mask: Bools,
) -> list[int]:
    """Write the nearest item to every grid point that is not filled yet, for sound.

    As `Neighbours` says, but many times faster: looked up for every 1024th point, and where items and points run side
    by side from one of these to another, only checked in between.

    Args:
        items: `(n, C)` items.
        t_ns: `(n,)` their times, ascending.
        grid_ns: `(G,)` times of the points, evenly spaced to the nanosecond, G > 1.
        max_gap_ns: Largest gap between two items that is bridged.
        period_ns: Nominal time between items.
        out: `(C, G)`, written where an item may be used.
        mask: `(G,)`, set there.

    Returns:
        Indices among which the first and the last item used are.
    """
    if not len(t_ns):
        return []
    marks = np.append(np.arange(0, len(grid_ns) - 1, _STRIDE), len(grid_ns) - 1)
    found, _ = Neighbours.of(t_ns, grid_ns[marks], max_gap_ns).nearest(len(t_ns), period_ns)
    # An item less than half a step away, on a grid where all of them are, has no rival.
    limit_ns = min(int(grid_ns[-1] - grid_ns[0]) // (len(grid_ns) - 1) - 1, period_ns)
    used: list[int] = []
    open_points = ~mask
    for run in np.split(np.arange(len(marks)), 1 + np.flatnonzero(np.diff(found - marks))):
        a, b, first = int(marks[run[0]]), int(marks[run[-1]]) + 1, int(found[run[0]])
        distance_ns = t_ns[first : first + b - a] - grid_ns[a:b]
        if 2 * max(int(distance_ns.max()), -int(distance_ns.min())) < limit_ns and not mask[a:b].any():
            out[:, a:b] = items[first : first + b - a].T
            mask[a:b], open_points[a:b] = True, False
            used += (first, first + b - a - 1)
    rest = np.flatnonzero(open_points)
    if len(rest):
        index, filled = Neighbours.of(t_ns, grid_ns[rest], max_gap_ns).nearest(len(t_ns), period_ns)
        rest, index = rest[filled], index[filled]
        out[:, rest] = items[index].T
        mask[rest] = True
        used += index[[0, -1]].tolist() if len(index) else []
    return used


def read_rule(values: Floats, near: Neighbours, rule: Rule, period_ns: int) -> tuple[Floats, Bools]:
    """Values at the grid points by one rule, and where they may be used."""
    if rule == "nearest":
        index, filled = near.nearest(len(values), period_ns)
        return values[np.clip(index, 0, len(values) - 1)], filled
    before = values[np.maximum(near.before, 0)]
    if rule == "hold":
        return before, near.bridged
    after = values[np.minimum(near.before + 1, len(values) - 1)]
    span_ns = near.since_ns + near.until_ns
    share = near.since_ns / np.where(span_ns > 0, span_ns, 1)
    rise = after - before
    if rule == "cumulative":
        # A counter that falls was reset in between; what it read on the way is not known, so the old reading stands.
        rise = np.maximum(rise, 0.0)
    return before + share * rise, near.bridged
