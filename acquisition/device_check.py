"""`devices --check`: what a device really delivers over some seconds: rate, jitter, losses, size and first item.

Jitter is the arrival against a straight line through the device's own time, or through its item numbers where it has no
clock: what `sync` has to see through, not what remains after it.
"""

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np
import numpy.typing as npt

from acquisition.driver import DeviceError, Driver
from acquisition.packet import Packet, SensorRows, StreamInfo, item_range

SECONDS: Final = 5.0
OPEN_S: Final = 12.0
"""Opening and closing one device may take this long together; a network camera may wait 10 s for its first picture."""

TOLERANCE: Final = 0.02
"""A rate that is off by more is said; drivers and the loss count go by the nominal one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceCheck:
    """What one device delivered.

    Attributes:
        problem: Why it cannot be used as it is, in one line, or None.
        items: Frames, sample instants, rows or photos that came.
        rate_hz: Items per second as they came, or None with too few.
        nominal_hz: The rate that the stream is set to.
        jitter_ms: Standard deviation of arrival against the fitted line.
        jitter_p99_ms: 99th percentile of the same, by amount.
        drops: Items lost by the device's numbers, or by its stamps where it does not number.
        first_s: From the call to open to the first item.
        form: Size and format of the items.
    """

    problem: str | None = None
    items: int = 0
    rate_hz: float | None = None
    nominal_hz: float = 0.0
    jitter_ms: float | None = None
    jitter_p99_ms: float | None = None
    drops: int = 0
    first_s: float | None = None
    form: str = ""

    @property
    def line(self) -> str:
        """The outcome for a human."""
        if self.problem is not None and not self.items:
            return self.problem
        parts = [f"opens; {self.form}", f"{self.items} items", f"{self.drops} lost"]
        if self.rate_hz is not None and self.jitter_ms is not None and self.jitter_p99_ms is not None:
            parts.insert(1, f"{self.rate_hz:.2f} Hz (set: {self.nominal_hz:g})")
            parts.append(f"jitter {self.jitter_ms:.2f} ms (p99 {self.jitter_p99_ms:.2f})")
        if self.first_s is not None:
            parts.append(f"first after {self.first_s:.2f} s")
        return "; ".join([", ".join(parts), *([self.problem] if self.problem else [])])


def check_devices(lanes: Sequence[Sequence[Driver]], seconds: float = SECONDS) -> list[list[DeviceCheck]]:
    """Open closed drivers, listen to each for `seconds`, and close them; what hangs is left behind and said.

    Args:
        lanes: Drivers that are checked one after the other; lanes run beside each other.
        seconds: How long to listen to each.

    Returns:
        One outcome per driver, in the same order, after `seconds` and `OPEN_S` per driver of the longest lane at most.
    """
    begin_s = time.monotonic()
    hung = DeviceCheck(problem=f"did not answer within {OPEN_S:g} s; unplug it and plug it in again")
    done = [[hung] * len(lane) for lane in lanes]

    def run(lane: Sequence[Driver], outcomes: list[DeviceCheck]) -> None:
        for index, driver in enumerate(lane):
            outcomes[index] = check_device(driver, seconds)

    threads = [
        threading.Thread(target=run, args=pair, name="device-check", daemon=True)
        for pair in zip(lanes, done, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread, lane in zip(threads, lanes, strict=True):
        thread.join(max(0.0, begin_s + len(lane) * (seconds + OPEN_S) - time.monotonic()))
    return [list(outcomes) for outcomes in done]


def check_device(driver: Driver, seconds: float = SECONDS) -> DeviceCheck:
    """Open one closed driver, listen for `seconds` and close it (blocks as long as the device does)."""
    begin_ns = time.monotonic_ns()
    packets: list[_Seen] = []
    try:
        driver.open()
        end_s = time.monotonic() + seconds
        while (left_s := end_s - time.monotonic()) > 0:
            packet = driver.read(left_s)
            if packet is not None:
                packets.append(_Seen.of(driver.info, packet))
        told = driver.health().problem
    except DeviceError as error:
        return DeviceCheck(problem=str(error))
    except Exception as error:  # a driver may be somebody else's code, and fail in any way
        return DeviceCheck(problem=f"{type(error).__name__}: {error}; correct its driver")
    finally:
        driver.close()
    return _judged(driver.info, packets, (begin_ns, seconds), told)


@dataclass(frozen=True, slots=True)
class _Seen:
    """A packet without its data: first number, items, the number or device time (ns) of its newest item, arrival."""

    segment: int
    first: int
    count: int
    axis: int | None
    arrival_ns: int

    @classmethod
    def of(cls, info: StreamInfo, packet: Packet) -> "_Seen":
        payload, stamp_ns = packet.payload, packet.t_device_ns
        first, count = item_range(packet)
        if isinstance(payload, SensorRows):
            stamp_ns = None if payload.t_device_ns is None else int(payload.t_device_ns[-1])
        axis = stamp_ns if info.device_clock == "stamps" else first + count - 1
        return cls(packet.segment, first, count, axis, packet.t_arrival_ns)


def _judged(info: StreamInfo, seen: list[_Seen], span: tuple[int, float], told: str | None) -> DeviceCheck:
    form = _form(info)
    if not seen:
        waits = info.modality == "post_images"  # a photo comes when there is a weld
        silent = f"opens, but sent nothing in {span[1]:g} s ({told or 'no error'}); check its settings and its sender"
        return DeviceCheck(problem=None if waits else silent, nominal_hz=info.rate_hz, form=form)
    last = seen[-1].segment
    run = [one for one in seen if one.segment == last]
    arrival_ns = np.array([one.arrival_ns for one in run], np.float64)
    numbers = np.array([one.first + one.count for one in run], np.float64)
    rate_hz = jitter_ms = p99_ms = None
    stamped = [one for one in run if one.axis is not None]
    if info.rate_hz and len(run) >= 10 and np.ptp(numbers) > 0:
        rate_hz = 1e9 / _line(numbers, arrival_ns)[0]
    if rate_hz is not None and len(stamped) >= 10 and np.ptp([one.axis for one in stamped]) > 0:
        axis = np.array([one.axis for one in stamped], np.float64)
        late_ms = _line(axis, np.array([one.arrival_ns for one in stamped], np.float64))[1] / 1e6
        jitter_ms, p99_ms = float(np.std(late_ms)), float(np.percentile(np.abs(late_ms - np.median(late_ms)), 99))
    drops = sum(max(0, b.first - a.first - a.count) for a, b in pairwise(run))
    if info.device_clock == "stamps" and not info.has_counter:
        drops += _stamp_drops(info, stamped)
    problem = None
    if last > seen[0].segment:
        problem = f"broke off {last - seen[0].segment} times; check its cable and power"
    elif rate_hz is not None and abs(rate_hz / info.rate_hz - 1) > TOLERANCE:
        problem = f"sends {rate_hz:.2f} items per second, not {info.rate_hz:g}; set its rate in the cell file"
    return DeviceCheck(
        problem=problem,
        items=sum(one.count for one in seen),
        rate_hz=rate_hz,
        nominal_hz=info.rate_hz,
        jitter_ms=jitter_ms,
        jitter_p99_ms=p99_ms,
        drops=drops,
        first_s=(seen[0].arrival_ns - span[0]) / 1e9,
        form=form,
    )


def _line(x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]) -> tuple[float, npt.NDArray[np.float64]]:
    """Slope and residuals `(n,)` of a line through points; those far off it (a start-up burst) do not draw it."""
    x, y = x - x[0], y - y[0]
    kept = np.ones(len(x), bool)
    for _ in range(3):
        slope, offset = np.polyfit(x[kept], y[kept], 1)
        off = y - slope * x - offset
        near = np.abs(off - np.median(off)) <= 5 * np.median(np.abs(off - np.median(off))) + 1
        if near.sum() < max(3, len(x) // 2) or np.ptp(x[near]) == 0:
            break
        kept = near
    return float(slope), off


def _stamp_drops(info: StreamInfo, seen: list[_Seen]) -> int:
    """Items that the stamps say are missing between packets, by the nominal rate."""
    lost = 0
    for before, after in pairwise(seen):
        assert before.axis is not None
        assert after.axis is not None
        lost += max(0, round((after.axis - before.axis) * info.rate_hz / 1e9) - after.count)
    return lost


def _form(info: StreamInfo) -> str:
    """Size and format of a stream's items."""
    if info.modality == "video":
        return f"{info.width}x{info.height} {info.dtype}"
    if info.modality == "post_images":
        return "photos"
    return f"{len(info.channels)} x {info.dtype} ({', '.join(info.channels)})"
