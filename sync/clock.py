"""Clocks: from the time axis of each device to the cell clock.

What is seen of a device clock is (device time, arrival on the cell clock); arrival is never early, only late, by a
random latency whose lower end is the clock's line (`sync.lateness`). `OnlineClock` follows the line causally while
recording, `fit_stream` finds it at leisure, `ClockTable` applies what was recorded. The constant part of the latency
cannot be seen in one stream and is left to the arc edges that all streams share.
"""

from typing import Final, TypeAlias

import numpy as np

from acquisition.packet import ClockUpdate, Packet, SampleBlock, SensorRows, StreamInfo, VideoFrame
from sync.clock_fault import ClockFault, FaultKind
from sync.clock_fit import ClockFit, fit_clock, fit_stream
from sync.clock_model import PPB, ClockModel, Int64s
from sync.counted_clock import CountedClock
from sync.item_count import Missed
from sync.online_clock import UNTIMED, OnlineClock

__all__ = [
    "UNTIMED",
    "ClockFault",
    "ClockFit",
    "ClockModel",
    "ClockTable",
    "CountedClock",
    "Int64s",
    "Missed",
    "OnlineClock",
    "StreamClock",
    "device_time_ns",
    "fit_clock",
    "fit_stream",
    "observe_packet",
    "stream_clock",
]

StreamClock: TypeAlias = OnlineClock | CountedClock

_LONGEST_PACKET_NS: Final = 10 * PPB
"""No driver holds rows back for longer."""


def _sample_ns(info: StreamInfo, number: int) -> int:
    """Device time of sample `number` of a sample-counted stream, exact for every rate."""
    num, den = info.rate_hz.as_integer_ratio()
    return number * den * PPB // num


def _sample_ns_array(info: StreamInfo, first: int, n: int) -> Int64s:
    num, den = info.rate_hz.as_integer_ratio()
    if (first + n) * den * PPB < 2**63:
        return np.arange(first, first + n, dtype=np.int64) * (den * PPB) // num
    return np.array([number * den * PPB // num for number in range(first, first + n)], np.int64)


def device_time_ns(info: StreamInfo, packet: Packet) -> int | None:
    """Device time that belongs to the packet's arrival: that of its newest item, or the end of a sound block.

    This is what `OnlineClock.observe` wants to see. None where the stream has no device clock, or this packet no stamp.
    """
    payload = packet.payload
    if info.device_clock == "samples":
        if isinstance(payload, SampleBlock):
            return _sample_ns(info, payload.first_sample + len(payload.samples))
        if isinstance(payload, SensorRows):
            return _sample_ns(info, payload.first_row + len(payload.values) - 1)
        if isinstance(payload, VideoFrame):
            return _sample_ns(info, packet.seq)
    elif info.device_clock == "stamps":
        if isinstance(payload, SensorRows) and payload.t_device_ns is not None and len(payload.t_device_ns):
            return int(payload.t_device_ns[-1])
        return packet.t_device_ns
    return None


def stream_clock(info: StreamInfo, segment: int, former: StreamClock | None) -> StreamClock | None:
    """Begin the online clock of a stream's segment.

    Args:
        info: The stream.
        segment: Its new segment.
        former: The clock of the segment before, which knows crystal and bus already.

    Returns:
        A clock for stamps or a device's counter, one that also finds losses where only the driver counts, or None for a
        stream without any time of its own.
    """
    if info.device_clock == "none":
        return None
    if info.device_clock == "samples" and not info.has_counter:
        return CountedClock(
            info.name, segment, 1e9 / info.rate_hz, former if isinstance(former, CountedClock) else None
        )
    return OnlineClock(info.name, segment, former if isinstance(former, OnlineClock) else None)


def observe_packet(clock: StreamClock, info: StreamInfo, packet: Packet) -> ClockUpdate | None:
    """Let a packet's stamps or numbers be seen by its clock, before it is timed.

    A packet without a stamp, or whose rows disagree among themselves, falls back to arrival.
    """
    device_ns = device_time_ns(info, packet)
    if isinstance(clock, OnlineClock):
        what = "missing" if device_ns is None else _row_fault(info, packet, clock.newest_ns)
        if what is not None:
            return clock.distrust(packet.t_arrival_ns, what)
    return None if device_ns is None else clock.observe(device_ns, packet.t_arrival_ns, _span_ns(info, packet))


def _span_ns(info: StreamInfo, packet: Packet) -> int:
    """Device time from a packet's first item to what `device_time_ns` gives."""
    payload = packet.payload
    if isinstance(payload, SampleBlock):
        return _sample_ns(info, len(payload.samples))
    if isinstance(payload, SensorRows) and info.device_clock == "samples":
        return _sample_ns(info, len(payload.values))
    if isinstance(payload, SensorRows) and payload.t_device_ns is not None and len(payload.t_device_ns):
        return int(payload.t_device_ns[-1]) - int(payload.t_device_ns[0])
    return 0


def _row_fault(info: StreamInfo, packet: Packet, newest_ns: int | None) -> FaultKind | None:
    """Tell rows that run backwards, overlap the packet before, or are hours apart; `observe` sees the last one only."""
    payload = packet.payload
    if info.device_clock != "stamps" or not isinstance(payload, SensorRows) or payload.t_device_ns is None:
        return None
    stamps = payload.t_device_ns
    if len(stamps) < 2:
        return None
    first_ns, last_ns = int(stamps[0]), int(stamps[-1])
    if (stamps[1:] < stamps[:-1]).any() or (newest_ns is not None and first_ns < newest_ns <= last_ns):
        return "backwards"
    return "jumped" if last_ns - first_ns > _LONGEST_PACKET_NS else None


class ClockTable:
    """The clock in force per stream: a fold of `ClockUpdate`, the same while ingesting, judging and replaying."""

    def __init__(self) -> None:
        self._updates: dict[str, ClockUpdate] = {}
        self._models: dict[str, ClockModel] = {}

    def apply(self, update: ClockUpdate) -> None:
        """Put a clock change into force for the packets that follow."""
        self._updates[update.of_stream] = update
        self._models[update.of_stream] = ClockModel.from_update(update)

    def snapshot(self) -> list[ClockUpdate]:
        """All clock changes in force, by stream name."""
        return [self._updates[name] for name in sorted(self._updates)]

    def model(self, stream: str, segment: int) -> ClockModel | None:
        """The model in force for a stream's segment, or None."""
        update = self._updates.get(stream)
        return self._models[stream] if update is not None and update.segment == segment else None

    def cell_times_ns(self, info: StreamInfo, packet: Packet) -> Int64s:
        """Cell time of every item of a packet: one per frame, `(n,)` int64 per sensor row or sound sample.

        Without a model or device stamp, arrival counts; a sound block then begins at its arrival. The stream's
        calibrated latency is taken off.
        """
        return self._items_ns(info, packet) - info.latency_ns

    def cell_time_ns(self, info: StreamInfo, packet: Packet) -> int:
        """Cell time of the packet's first item."""
        return self._item_ns(info, packet, 0) - info.latency_ns

    def last_cell_time_ns(self, info: StreamInfo, packet: Packet) -> int:
        """Cell time of the packet's last item; of a sound block, its end."""
        payload = packet.payload
        if isinstance(payload, SampleBlock):
            return self._item_ns(info, packet, len(payload.samples)) - info.latency_ns
        return self._item_ns(info, packet, -1) - info.latency_ns

    def _items_ns(self, info: StreamInfo, packet: Packet) -> Int64s:
        """Times of all items as they arrive."""
        payload = packet.payload
        model = self.model(packet.stream, packet.segment)
        if isinstance(payload, SampleBlock):
            n = len(payload.samples)
            if model is not None and info.device_clock == "samples":
                return model.to_cell_ns_array(_sample_ns_array(info, payload.first_sample, n))
            return packet.t_arrival_ns + _sample_ns_array(info, 0, n)
        if isinstance(payload, SensorRows):
            stamps_ns = payload.t_device_ns if info.device_clock == "stamps" else None
            if info.device_clock == "samples":
                stamps_ns = _sample_ns_array(info, payload.first_row, len(payload.values))
            return payload.t_arrival_ns if model is None or stamps_ns is None else model.to_cell_ns_array(stamps_ns)
        return np.array([self._item_ns(info, packet, 0)], np.int64)

    def _item_ns(self, info: StreamInfo, packet: Packet, index: int) -> int:
        """Time of one item as it arrives: through the model by its stamp, or its number; else its arrival."""
        payload = packet.payload
        model = self.model(packet.stream, packet.segment)
        if isinstance(payload, SampleBlock):
            if model is None or info.device_clock != "samples":
                return packet.t_arrival_ns + _sample_ns(info, index)
            return model.to_cell_ns(_sample_ns(info, payload.first_sample + index))
        arrival_ns, number, stamp_ns = packet.t_arrival_ns, packet.seq, packet.t_device_ns
        if isinstance(payload, SensorRows):
            if not len(payload.values):
                return arrival_ns
            arrival_ns = int(payload.t_arrival_ns[index])
            number = payload.first_row + index % len(payload.values)
            stamp_ns = None if payload.t_device_ns is None else int(payload.t_device_ns[index])
        if model is not None and info.device_clock == "samples":
            return model.to_cell_ns(_sample_ns(info, number))
        if model is not None and info.device_clock == "stamps" and stamp_ns is not None:
            return model.to_cell_ns(stamp_ns)
        return arrival_ns
