"""Minimum and maximum per pixel column, kept in a ring: a curve costs the same whatever its sample rate."""

from typing import Final

import numpy as np
import numpy.typing as npt

COLUMNS: Final = 1200
COLUMN_NS: Final = 25_000_000
SPAN_S: Final = COLUMNS * COLUMN_NS / 1e9
"""The time axis of a live cell shows this many seconds."""


class EnvelopeRing:
    """The last columns of one channel; column `c` covers cell time from `c * COLUMN_NS` on."""

    def __init__(self, capacity: int = COLUMNS) -> None:
        """Start empty; `capacity` is how many columns are kept."""
        self._column = np.full(capacity, -1, np.int64)
        self._low = np.zeros(capacity)
        self._high = np.zeros(capacity)
        self.newest_ns: int | None = None
        self.newest: float | None = None

    def clear(self) -> None:
        """Forget everything."""
        self._column.fill(-1)
        self.newest_ns = self.newest = None

    def push(self, times_ns: npt.NDArray[np.int64], values: npt.NDArray[np.float64]) -> None:
        """Add samples at rising cell times, `(n,)` each; NaN is nothing measured."""
        measured = np.isfinite(values)
        if not measured.all():
            times_ns, values = times_ns[measured], values[measured]
        if not len(times_ns):
            return
        columns = times_ns // COLUMN_NS
        starts = np.flatnonzero(np.diff(columns, prepend=columns[0] - 1))
        low, high = np.minimum.reduceat(values, starts), np.maximum.reduceat(values, starts)
        capacity = len(self._column)
        columns = columns[starts][-capacity:]
        low, high = low[-capacity:], high[-capacity:]
        slots = columns % capacity
        same = self._column[slots] == columns
        self._low[slots] = np.where(same, np.minimum(self._low[slots], low), low)
        self._high[slots] = np.where(same, np.maximum(self._high[slots], high), high)
        self._column[slots] = columns
        self.newest_ns, self.newest = int(times_ns[-1]), float(values[-1])

    def columns(
        self, from_ns: int, to_ns: int
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Give the filled columns after `from_ns` up to `to_ns`: numbers, minima, maxima, `(n,)` each, by time."""
        last = to_ns // COLUMN_NS
        first = max(from_ns // COLUMN_NS, last - len(self._column)) + 1
        wanted = np.arange(first, last + 1)
        slots = wanted % len(self._column)
        seen = self._column[slots] == wanted
        slots = slots[seen]
        return wanted[seen], self._low[slots], self._high[slots]

    def at(self, t_ns: int, within_columns: int) -> float | None:
        """Give the value shown at `t_ns`: of the nearest filled column at most `within_columns` before it."""
        column = t_ns // COLUMN_NS
        candidates = np.arange(column, column - within_columns - 1, -1)
        slots = candidates % len(self._column)
        found = np.flatnonzero(self._column[slots] == candidates)
        return float(self._high[slots[found[0]]]) if len(found) else None


def thinned(
    columns: npt.NDArray[np.int64],
    low: npt.NDArray[np.float64],
    high: npt.NDArray[np.float64],
    most: int = 2 * COLUMNS,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64], npt.NDArray[np.float64], int]:
    """Join neighbouring columns until at most about `most` are left; no minimum and no maximum is lost.

    Returns:
        What is left, `(m,)` each, and how many columns were joined to one.
    """
    step = max(1, -(-len(columns) // most))
    if step == 1:
        return columns, low, high, step
    starts = np.flatnonzero(np.diff(columns // step, prepend=-1))
    return columns[starts], np.minimum.reduceat(low, starts), np.maximum.reduceat(high, starts), step


def broken_line(
    columns: npt.NDArray[np.int64],
    low: npt.NDArray[np.float64],
    high: npt.NDArray[np.float64],
    break_after: int,
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Join columns to one line that goes down and up in each, with a NaN wherever more than `break_after` are empty.

    Returns:
        x in columns and y, `(m,)` each.
    """
    x, y = np.repeat(columns.astype(np.float64), 2), np.empty(2 * len(columns))
    y[0::2], y[1::2] = low, high
    breaks = 2 * (np.flatnonzero(np.diff(columns) > break_after) + 1)
    return np.insert(x, breaks, np.nan), np.insert(y, breaks, np.nan)
