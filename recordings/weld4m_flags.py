"""What is known about the values of Weld-4M sensors and marked, never altered: stops, signs, a channel that is none.

Feed is wire consumed over the whole seconds since a counter began, so it measures nothing of its own; but in files
without times it tells how fast the rows came.
"""

from typing import Final

import numpy as np
import numpy.typing as npt

from acquisition.packet import SENSOR_CHANNELS
from sync.arc import SATURATED_V

_SATURATED: Final = {"current_a": 819.0, "voltage_v": SATURATED_V}
_ROUNDING: Final = 0.006
"""Feed has two decimals."""
_ENOUGH_ROWS: Final = 20
_ENOUGH_SECONDS: Final = 5
_SHARE: Final = 0.95


def value_flags(values: npt.NDArray[np.float64]) -> dict[str, dict[str, int]]:
    """Count negative and saturated values per channel; channels and counts of zero are left out.

    Args:
        values: `(n, 6)` in the order of `SENSOR_CHANNELS`.
    """
    flags: dict[str, dict[str, int]] = {}
    for name, column in zip(SENSOR_CHANNELS, values.T, strict=True):
        counts = {"negative": int((column < 0).sum())}
        if name in _SATURATED:
            counts["saturated"] = int((column >= _SATURATED[name]).sum())
        if any(counts.values()):
            flags[name] = {what: n for what, n in counts.items() if n}
    return flags


def feed_rows_per_s(values: npt.NDArray[np.float64]) -> float | None:
    """Rows per second of the counter behind Feed, or None where Feed is not wire over whole seconds.

    Only rows in which chance would hardly do it are judged: the feeds of neighbouring seconds must lie at least four
    roundings apart.

    Args:
        values: `(n, 6)` in the order of `SENSOR_CHANNELS`.
    """
    feed, wire = (values[:, SENSOR_CHANNELS.index(name)] for name in ("feed", "wire_mm"))
    rows = np.flatnonzero(np.isfinite(feed) & np.isfinite(wire) & (feed > 0) & (wire > 0))
    second = np.maximum(np.rint(wire[rows] / feed[rows]), 1.0)
    telling = feed[rows] / second > 4 * _ROUNDING
    rows, second = rows[telling], second[telling]
    if len(rows) < _ENOUGH_ROWS or len(np.unique(second)) < _ENOUGH_SECONDS:
        return None
    fits = np.abs(feed[rows] - wire[rows] / second) <= _ROUNDING
    forward = np.diff(second)
    if fits.mean() < _SHARE or ((forward == 0) | (forward == 1)).mean() < _SHARE - 0.05:
        return None
    ticks = np.flatnonzero(forward == 1) + 1  # the first row of each second, the counter's restart apart
    rows, second, half = rows[ticks], second[ticks], len(ticks) // 2
    if half < _ENOUGH_SECONDS:
        return None
    apart = second[half:] - second[: len(second) - half]
    rates = (rows[half:] - rows[: len(rows) - half])[apart > 0] / apart[apart > 0]  # after Theil and Sen: a median
    return round(float(np.median(rates)), 3) if len(rates) else None
