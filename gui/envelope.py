"""Minimum and maximum per pixel column, kept in a ring: a curve costs the same whatever its sample rate."""

from typing import Final

import numpy as np
import numpy.typing as npt

COLUMNS: Final = 1200
COLUMN_NS: Final = 25_000_000
SPAN_S: Final = COLUMNS * COLUMN_NS / 1e9
"""The time axis shows this many seconds."""


class EnvelopeRing:
    """The last `COLUMNS` columns of one channel; column `c` covers cell time from `c * COLUMN_NS` on."""

    def __init__(self) -> None:
        """Start empty."""
        self._column = np.full(COLUMNS, -1, np.int64)
        self._low = np.zeros(COLUMNS)
        self._high = np.zeros(COLUMNS)
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
        columns = columns[starts][-COLUMNS:]
        low, high = low[-COLUMNS:], high[-COLUMNS:]
        slots = columns % COLUMNS
        same = self._column[slots] == columns
        self._low[slots] = np.where(same, np.minimum(self._low[slots], low), low)
        self._high[slots] = np.where(same, np.maximum(self._high[slots], high), high)
        self._column[slots] = columns
        self.newest_ns, self.newest = int(times_ns[-1]), float(values[-1])

    def columns(self, now_ns: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Give the filled columns of the last `SPAN_S` seconds before `now_ns`: numbers, minima, maxima, by time."""
        last = now_ns // COLUMN_NS
        slots = (last + 1 + np.arange(COLUMNS)) % COLUMNS
        columns = self._column[slots]
        seen = (columns > last - COLUMNS) & (columns <= last)
        slots = slots[seen]
        return columns[seen], self._low[slots], self._high[slots]

    def at(self, t_ns: int, within_columns: int) -> float | None:
        """Give the value shown at `t_ns`: of the nearest filled column at most `within_columns` before it."""
        column = t_ns // COLUMN_NS
        candidates = np.arange(column, column - within_columns - 1, -1)
        slots = candidates % COLUMNS
        found = np.flatnonzero(self._column[slots] == candidates)
        return float(self._high[slots[found[0]]]) if len(found) else None


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
