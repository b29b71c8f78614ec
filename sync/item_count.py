"""Losses in streams that only the driver counts: the count lags, so lateness rises by whole items and stays there."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from sync.clock_model import Int64s
from sync.lateness import Floats

_WINDOW: Final = 12
_LEVEL_WINDOW: Final = 64
_LONGEST_STALL: Final = 1024
_LOW: Final = 0.1
_CHUNK: Final = 4096
_CERTAIN: Final = 6.0
_ROUNDS: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Missed:
    """Deliveries that never came.

    Attributes:
        index: Index of the first delivery after the loss.
        count: How many are missing.
    """

    index: int
    count: int


def find_missed(count_ns: Int64s, arrival_ns: Int64s, unit_ns: int) -> tuple[list[Missed], float]:
    """Find the losses of a whole segment.

    Args:
        count_ns: `(n,)` ascending: what the driver counted, at the nominal rate.
        arrival_ns: `(n,)` arrivals.
        unit_ns: Nominal time of one delivery.

    Returns:
        The losses in order, and the slope of arrival against the count without them (true over nominal period, minus
        one).
    """
    if len(count_ns) <= 2 * _WINDOW:
        return [], 0.0
    x = (count_ns - count_ns[0]).astype(np.float64)
    late = (arrival_ns - arrival_ns[0] - (count_ns - count_ns[0])).astype(np.float64)
    slope = _lag_slope(x, late)
    missed: list[Missed] = []
    for _ in range(_ROUNDS):
        missed = _steps(late - slope * x, unit_ns * (1.0 + slope))
        added = np.zeros(len(x))
        for loss in missed:
            added[loss.index :] += loss.count * unit_ns
        slope = _lag_slope(x + added, late - added)
    return missed, slope


def _lag_slope(x: Floats, late: Floats) -> float:
    """Median slope between deliveries a sixteenth of the recording apart: most pairs have no loss between them."""
    lag = max(len(x) // 16, min(len(x) // 2, _WINDOW))
    return float(np.median((late[lag:] - late[:-lag]) / (x[lag:] - x[:-lag])))


def _steps(rest: Floats, unit: float) -> list[Missed]:
    """Where the least of the next deliveries is later than that of the last ones by more than jitter ever makes it."""
    rest = rest.copy()
    missed: list[Missed] = []
    begin = _WINDOW
    low = sliding_window_view(rest, _WINDOW).min(axis=1)
    step = low[_WINDOW:] - low[:-_WINDOW]
    noise = 1.4826 * float(np.median(np.abs(step - np.median(step))))
    enough = max(0.5 * unit, _CERTAIN * noise)
    while begin + _WINDOW <= len(rest):
        low = sliding_window_view(rest[begin - _WINDOW : begin + _CHUNK + _WINDOW], _WINDOW).min(axis=1)
        step = low[_WINDOW:] - low[:-_WINDOW]
        found = np.flatnonzero(step > enough)
        if not len(found):
            begin += _CHUNK
            continue
        # A spike right before a loss makes a step of its own; the loss is the larger one.
        near = step[found[0] : found[0] + 2 * _WINDOW]
        at = begin + int(found[0]) + int(np.argmax(near > 0.5 * near.max()))
        begin = at + 1
        end = _level_end(rest, at, enough, unit)
        before = rest[max(missed[-1].index if missed else 0, at - _LEVEL_WINDOW) : at]
        units = round(float(np.quantile(rest[at:end], _LOW) - np.quantile(before, _LOW)) / unit)
        if units > 0:
            # The last ones before the loss may have been late too, but none after it can be less late than the loss.
            too_early = rest[at : min(at + 2 * _WINDOW, end)] < before.min() + (units - 0.5) * unit
            at += int(np.flatnonzero(too_early)[-1]) + 1 if too_early.any() else 0
            missed.append(Missed(index=at, count=units))
            rest[at:] -= units * unit
            begin = at + 1
    return missed


def _level_end(rest: Floats, at: int, enough: float, unit: float) -> int:
    """End of the deliveries that show the level reached at `at`: the next loss, but not before a stall is over."""
    end = min(at + _LEVEL_WINDOW, len(rest))
    while end < len(rest) and end - at < _LONGEST_STALL:
        half = (at + end) // 2
        if rest[at:half].min() - rest[half:end].min() <= 1.5 * unit:
            break
        end = min(end + _LEVEL_WINDOW, len(rest))
    low = sliding_window_view(rest[at : end + _WINDOW], _WINDOW).min(axis=1)
    later = np.flatnonzero(low[_WINDOW:] - low[:-_WINDOW] > enough)
    return at + _WINDOW + int(later[0]) if len(later) else end
