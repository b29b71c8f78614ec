"""Interpolation: what a measured series says at the points of a grid, and where it says nothing.

A grid point is filled only between two measured neighbours that are close enough, or, where values are taken as they
are, within half a period of one. Nothing is extrapolated.
"""

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

Bools: TypeAlias = npt.NDArray[np.bool_]
Floats: TypeAlias = npt.NDArray[np.float64]
Indices: TypeAlias = npt.NDArray[np.intp]
Int64s: TypeAlias = npt.NDArray[np.int64]
Rule: TypeAlias = Literal["nearest", "hold", "linear", "cumulative"]


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
