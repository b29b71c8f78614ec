"""What `bench sync` compares with: four published ways to put the time axis of a device on the host's clock.

Each gets one unbroken piece of a stream and gives the cell time of every delivery. Restarts are taken off their hands:
they are told where the true ones are.
"""

from collections.abc import Callable
from importlib import import_module
from itertools import pairwise
from types import SimpleNamespace
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

Int64s: TypeAlias = npt.NDArray[np.int64]
Floats: TypeAlias = npt.NDArray[np.float64]
Baseline: TypeAlias = Callable[[Int64s, Int64s, float], Int64s]
"""Cell time of `(n,)` deliveries from their device times, their arrivals and the nominal rate (0 where irregular)."""

_OFFSETS_S: Final = 5.0
"""How often the Lab Streaming Layer measures a clock offset."""
_PARTS_S: Final = 5.0
_QUANTILE: Final = 0.02


class BenchError(RuntimeError):
    """A bench cannot run; the message names what is missing and the next step."""


def nearest_timestamp(device_ns: Int64s, arrival_ns: Int64s, rate_hz: float) -> Int64s:  # noqa: ARG001
    """Take the arrival as it is."""
    return arrival_ns


def lower_envelope(device_ns: Int64s, arrival_ns: Int64s, rate_hz: float) -> Int64s:  # noqa: ARG001
    """Lay a least-squares line through the 2 % quantile of arrival minus device time in every 5 s.

    Twice, because drift within 5 s shifts a quantile.
    """
    x, y = _differences(device_ns, arrival_ns)
    part = (x // _PARTS_S).astype(np.int64)
    starts = np.flatnonzero(np.diff(part, prepend=-1))
    line = np.zeros(2)
    for _ in range(2):
        rest = y - np.polyval(line, x)
        parts = zip(np.split(x, starts[1:]), np.split(rest, starts[1:]), strict=True)
        points = np.array([(px.mean(), np.quantile(py, _QUANTILE)) for px, py in parts])
        degree = min(1, len(points) - 1)
        line = line + np.pad(np.polyfit(points[:, 0], points[:, 1], degree), (1 - degree, 0))
    return _placed(device_ns, arrival_ns, np.polyval(line, x))


def lower_hull(device_ns: Int64s, arrival_ns: Int64s, rate_hz: float) -> Int64s:  # noqa: ARG001
    """Take the line below all points that is nearest to them in the mean: the hull edge over their mean device time.

    Source: Moon, Skelly, Towsley, "Estimation and removal of clock skew from network delay measurements", INFOCOM 1999.
    """
    x, y = _differences(device_ns, arrival_ns)
    hull: list[tuple[float, float]] = []
    for px, py in zip(x.tolist(), y.tolist(), strict=True):
        while len(hull) > 1:
            (ax, ay), (bx, by) = hull[-2:]
            if (bx - ax) * (py - ay) > (by - ay) * (px - ax):
                break
            hull.pop()
        hull.append((px, py))
    middle = float(x.mean())
    slope, level = 0.0, float(y.min())
    for (ax, ay), (bx, by) in pairwise(hull):
        if ax <= middle <= bx and bx > ax:
            slope = (by - ay) / (bx - ax)
            level = ay - slope * ax
    return _placed(device_ns, arrival_ns, level + slope * x)


def pyxdf_times(device_ns: Int64s, arrival_ns: Int64s, rate_hz: float) -> Int64s:
    """Let pyxdf do it: clock synchronisation, then de-jitter, by its own functions with its own thresholds.

    The Lab Streaming Layer measures clock offsets by round trips every 5 s; in their place stands the least late
    delivery of every 5 s. An irregular stream declares rate 0, which pyxdf does not de-jitter.

    Raises:
        BenchError: pyxdf is not installed.
    """
    pyxdf = _pyxdf()
    x, y = _differences(device_ns, arrival_ns)
    part = (x // _OFFSETS_S).astype(np.int64)
    ends = [*np.flatnonzero(np.diff(part, prepend=-1)).tolist(), len(x)]
    least = [a + int(np.argmin(y[a:b])) for a, b in pairwise(ends)]
    stream = SimpleNamespace(
        time_stamps=x.copy(),
        srate=rate_hz,
        tdiff=1.0 / rate_hz if rate_hz else 0.0,
        clock_times=x[least].tolist() if y.any() else [],
        clock_values=y[least].tolist() if y.any() else [],
        effective_srate=0.0,
        segments=[],
        clock_segments=[],
    )
    streams = {0: stream}
    pyxdf._clock_sync(streams)
    pyxdf._jitter_removal(streams)
    return _placed(device_ns, arrival_ns, stream.time_stamps - x)


BASELINES: Final[dict[str, Baseline]] = {
    "pyxdf": pyxdf_times,
    "nearest": nearest_timestamp,
    "envelope": lower_envelope,
    "hull": lower_hull,
}


def _differences(device_ns: Int64s, arrival_ns: Int64s) -> tuple[Floats, Floats]:
    """Seconds of device time since the first delivery, and how much later than the first each arrived by it."""
    offset_ns = arrival_ns - device_ns
    return (device_ns - device_ns[0]) / 1e9, (offset_ns - offset_ns[0]) / 1e9


def _placed(device_ns: Int64s, arrival_ns: Int64s, later_s: npt.NDArray[np.floating[Any]]) -> Int64s:
    times_ns: Int64s = device_ns + (arrival_ns[0] - device_ns[0]) + np.rint(later_s * 1e9).astype(np.int64)
    return times_ns


def _pyxdf() -> Any:
    try:
        return import_module("pyxdf.pyxdf")
    except ImportError as error:
        raise BenchError("pyxdf is not installed, and the comparison needs it; run `pip install pyxdf`") from error
