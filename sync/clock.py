"""Clocks: from the time axis of each device to the cell clock, causally while recording and at leisure afterwards.

What is seen of a device clock is (device time, arrival on the cell clock); arrival is never early, only late, so the
clock is the lower envelope of their differences (`sync.envelope`). The constant part of the latency cannot be seen in
one stream and is left to the arc edges that all streams share.
"""

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from acquisition.packet import ClockUpdate, Packet, SampleBlock, SensorRows, StreamInfo, VideoFrame
from sync.envelope import interval_minima, lower_slope, robust_slope

_PPB: Final = 10**9
_MAX_DRIFT: Final = 500e-6
"""No working crystal is further off; a steeper envelope is jitter."""

Int64s = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClockModel:
    """One straight piece of a device clock; the attributes are those of `ClockUpdate`."""

    ref_ns: int
    offset_ns: int
    drift_ppb: int
    sigma_ns: int

    @classmethod
    def from_update(cls, update: ClockUpdate) -> "ClockModel":
        """Take the model out of a recorded clock change."""
        return cls(
            ref_ns=update.ref_ns, offset_ns=update.offset_ns, drift_ppb=update.drift_ppb, sigma_ns=update.sigma_ns
        )

    def to_cell_ns(self, device_ns: int) -> int:
        """Cell time of a device time, in exact integers (floor division)."""
        return device_ns + self.offset_ns + (device_ns - self.ref_ns) * self.drift_ppb // _PPB

    def to_cell_ns_array(self, device_ns: Int64s) -> Int64s:
        """Cell times of device times, equal to `to_cell_ns` element by element."""
        # Whole seconds apart from the rest: the plain product overflows int64 after a day at 100 ppm.
        seconds, rest = np.divmod(device_ns - self.ref_ns, _PPB)
        cell_ns: Int64s = device_ns + self.offset_ns + seconds * self.drift_ppb + rest * self.drift_ppb // _PPB
        return cell_ns


def _sample_ns(info: StreamInfo, number: int) -> int:
    """Device time of sample `number` of a sample-counted stream, exact for every rate."""
    num, den = info.rate_hz.as_integer_ratio()
    return number * den * _PPB // num


def _sample_ns_array(info: StreamInfo, first: int, n: int) -> Int64s:
    num, den = info.rate_hz.as_integer_ratio()
    if (first + n) * den * _PPB < 2**63:
        return np.arange(first, first + n, dtype=np.int64) * (den * _PPB) // num
    return np.array([number * den * _PPB // num for number in range(first, first + n)], np.int64)


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
        payload = packet.payload
        model = self.model(packet.stream, packet.segment)
        if isinstance(payload, SampleBlock):
            if model is not None and info.device_clock == "samples":
                device_ns = _sample_ns_array(info, payload.first_sample, len(payload.samples))
                return model.to_cell_ns_array(device_ns) - info.latency_ns
            return packet.t_arrival_ns - info.latency_ns + _sample_ns_array(info, 0, len(payload.samples))
        if isinstance(payload, SensorRows):
            stamps_ns = payload.t_device_ns if info.device_clock == "stamps" else None
            if info.device_clock == "samples":
                stamps_ns = _sample_ns_array(info, payload.first_row, len(payload.values))
            if model is None or stamps_ns is None:
                return payload.t_arrival_ns - info.latency_ns
            return model.to_cell_ns_array(stamps_ns) - info.latency_ns
        return np.array([self._single_ns(info, packet, model)], np.int64)

    def cell_time_ns(self, info: StreamInfo, packet: Packet) -> int:
        """Cell time of the packet's first item."""
        payload = packet.payload
        if isinstance(payload, SensorRows):
            times = self.cell_times_ns(info, packet)
            return int(times[0]) if len(times) else packet.t_arrival_ns - info.latency_ns
        model = self.model(packet.stream, packet.segment)
        if isinstance(payload, SampleBlock):
            if model is None or info.device_clock != "samples":
                return packet.t_arrival_ns - info.latency_ns
            return model.to_cell_ns(_sample_ns(info, payload.first_sample)) - info.latency_ns
        return self._single_ns(info, packet, model)

    def last_cell_time_ns(self, info: StreamInfo, packet: Packet) -> int:
        """Cell time of the packet's last item; of a sound block, its end."""
        payload = packet.payload
        if isinstance(payload, SensorRows):
            times = self.cell_times_ns(info, packet)
            return int(times[-1]) if len(times) else packet.t_arrival_ns - info.latency_ns
        if isinstance(payload, SampleBlock):
            n = len(payload.samples)
            model = self.model(packet.stream, packet.segment)
            if model is None or info.device_clock != "samples":
                return packet.t_arrival_ns - info.latency_ns + _sample_ns(info, n)
            return model.to_cell_ns(_sample_ns(info, payload.first_sample + n)) - info.latency_ns
        return self.cell_time_ns(info, packet)

    @staticmethod
    def _single_ns(info: StreamInfo, packet: Packet, model: ClockModel | None) -> int:
        """Cell time of a frame: its stamp, or its number where the driver counts, through the model; else arrival."""
        if model is None:
            return packet.t_arrival_ns - info.latency_ns
        if info.device_clock == "samples":
            return model.to_cell_ns(_sample_ns(info, packet.seq)) - info.latency_ns
        if info.device_clock != "stamps" or packet.t_device_ns is None:
            return packet.t_arrival_ns - info.latency_ns
        return model.to_cell_ns(packet.t_device_ns) - info.latency_ns


@dataclass(slots=True)
class _Bin:
    """The least late observation of one interval of device time."""

    number: int
    x: int
    y: int
    count: int = 1


@dataclass(frozen=True, slots=True)
class _Envelope:
    """The line that no delivery was ahead of: arrival minus device time `y` at device time `x`."""

    x: int
    y: int
    slope: float

    def at(self, device_ns: int) -> int:
        return self.y + round(self.slope * (device_ns - self.x))


class OnlineClock:
    """The clock of one stream and segment as packets come in: causal, constant memory, at most four changes a second.

    Keeps the least late observation of each half second of the last minute and steers the model towards their lower
    envelope. The model is a continuous chain of straight pieces, each joined to the one before at the previous
    observation, and its slope never differs from the envelope's by more than 2 %: cell time can bend but never step
    back.

    Attributes:
        stream: Stream name.
        segment: Segment of the stream.
        model: The model in force.
        resets: How often the device clock was found to have stepped.
    """

    _BIN_NS: Final = 500_000_000
    _BINS: Final = 120
    _REVIEW_NS: Final = 250_000_000
    _HORIZON_NS: Final = 1_000_000_000
    _DRIFT_SPAN_NS: Final = 8_000_000_000
    _PRIOR_DRIFT: Final = 50e-6
    _MAX_BEND: Final = 20_000e-6
    _STEP_NS: Final = 100_000_000
    _STEP_HELD_NS: Final = 500_000_000
    _TOLERANCE_NS: Final = 20_000
    _UNKNOWN_NS: Final = 10_000_000

    def __init__(self, stream: str, segment: int) -> None:
        self.stream = stream
        self.segment = segment
        self.model = ClockModel(ref_ns=0, offset_ns=0, drift_ppb=0, sigma_ns=self._UNKNOWN_NS)
        self.resets = 0
        self._bins: list[_Bin] = []
        self._previous_ns: int | None = None
        self._reviewed_ns = 0
        self._late_since_ns: int | None = None
        self._late_count = 0
        self._envelope = _Envelope(0, 0, 0.0)
        self._mean_late_ns = 0.0

    def observe(self, device_ns: int, arrival_ns: int) -> ClockUpdate | None:
        """Take one observation, before its packet is timed.

        Args:
            device_ns: Device time of the packet's newest item (`device_time_ns`).
            arrival_ns: Its arrival on the cell clock.

        Returns:
            The change to record in front of this packet, or None while the model stands. The first call returns one.
        """
        if self._previous_ns is None:
            return self._restart(device_ns, arrival_ns, arrival_ns)
        # Against the envelope, not the model: a bent model would wander off through a long silence.
        late_ns = arrival_ns - device_ns - self._envelope.at(device_ns)
        if device_ns < self._previous_ns or late_ns < -self._STEP_NS or self._late_too_long(late_ns, arrival_ns):
            # The device clock stepped. Its new time must still not lie before what was already handed out.
            self.resets += 1
            return self._restart(device_ns, arrival_ns, self.model.to_cell_ns(self._previous_ns) + 1)
        update = None
        if late_ns <= self._STEP_NS:
            self._mean_late_ns += 0.02 * (max(late_ns, 0) - self._mean_late_ns)
            self._remember(device_ns, arrival_ns - device_ns)
            if device_ns - self._reviewed_ns >= self._REVIEW_NS:
                self._reviewed_ns = device_ns
                update = self._review(self._previous_ns, device_ns)
        self._previous_ns = device_ns
        return update

    def _late_too_long(self, late_ns: int, arrival_ns: int) -> bool:
        """Tell a clock that was set back from a stall: a stall's backlog drains, a step stays."""
        if late_ns <= self._STEP_NS:
            self._late_since_ns = None
            return False
        if self._late_since_ns is None:
            self._late_since_ns, self._late_count = arrival_ns, 0
        self._late_count += 1
        return self._late_count >= 3 and arrival_ns - self._late_since_ns >= self._STEP_HELD_NS

    def _restart(self, device_ns: int, arrival_ns: int, at_least_ns: int) -> ClockUpdate:
        self._bins = [_Bin(device_ns // self._BIN_NS, device_ns, arrival_ns - device_ns)]
        self._previous_ns = self._reviewed_ns = device_ns
        self._late_since_ns = None
        self._envelope = _Envelope(device_ns, arrival_ns - device_ns, 0.0)
        cell_ns = max(arrival_ns, at_least_ns)
        return self._change(device_ns, cell_ns, 0.0, self._UNKNOWN_NS)

    def _remember(self, x: int, y: int) -> None:
        newest = self._bins[-1]
        if x // self._BIN_NS != newest.number:
            self._bins.append(_Bin(x // self._BIN_NS, x, y))
            if len(self._bins) > self._BINS:
                del self._bins[0]
            return
        newest.count += 1
        if y < newest.y:
            newest.x, newest.y = x, y

    def _review(self, previous_ns: int, device_ns: int) -> ClockUpdate | None:
        """Fit the envelope and bend the model towards it, from the previous observation on."""
        x0, y0 = self._bins[0].x, self._bins[0].y
        xs = [float(b.x - x0) for b in self._bins]
        ys = [float(b.y - y0) for b in self._bins]
        slope = 0.0
        if xs[-1] >= self._DRIFT_SPAN_NS:
            slope = min(max(lower_slope(xs, ys), -_MAX_DRIFT), _MAX_DRIFT)
        level = min(y - slope * x for x, y in zip(xs, ys, strict=True))
        excess = sorted(y - level - slope * x for x, y in zip(xs, ys, strict=True))
        sigma_ns = self._sigma_ns(xs[-1], excess[len(excess) // 2])
        self._envelope = _Envelope(x0, y0 + round(level), slope)
        horizon_ns = max(self._HORIZON_NS, device_ns - previous_ns)
        ahead_ns = previous_ns + horizon_ns
        target_ns = ahead_ns + self._envelope.at(ahead_ns)
        if (
            abs(target_ns - self.model.to_cell_ns(ahead_ns)) <= self._TOLERANCE_NS
            and sigma_ns > self.model.sigma_ns // 2
        ):
            return None
        # One nanosecond pays for the rounding of two models, so that equal device times stay in order too.
        joined_ns = self.model.to_cell_ns(previous_ns) + 1
        wanted = (target_ns - joined_ns) / horizon_ns - 1.0
        bend = min(max(wanted - slope, -self._MAX_BEND), self._MAX_BEND)
        return self._change(previous_ns, joined_ns, slope + bend, sigma_ns)

    def _sigma_ns(self, span_ns: float, excess_ns: float) -> int:
        """Uncertainty of the envelope: its sampling error, and the drift that a short span cannot show.

        How far the half-second minima lie above the envelope says how rare an almost undelayed delivery is.
        """
        count = sum(b.count for b in self._bins)
        sampling = max(2.0 * self._mean_late_ns / math.sqrt(count), 0.3 * excess_ns)
        unseen = self._PRIOR_DRIFT * span_ns if span_ns < self._DRIFT_SPAN_NS else 0.0
        settled = min(1.0, span_ns / 2e9)
        return round(math.hypot(sampling, unseen) + (1.0 - settled) * self._UNKNOWN_NS) + 1

    def _change(self, ref_ns: int, cell_ns: int, drift: float, sigma_ns: int) -> ClockUpdate:
        self.model = ClockModel(
            ref_ns=ref_ns, offset_ns=cell_ns - ref_ns, drift_ppb=round(drift * _PPB), sigma_ns=sigma_ns
        )
        return ClockUpdate(
            of_stream=self.stream,
            segment=self.segment,
            ref_ns=ref_ns,
            offset_ns=cell_ns - ref_ns,
            drift_ppb=self.model.drift_ppb,
            sigma_ns=sigma_ns,
        )


def fit_clock(device_ns: Int64s, arrival_ns: Int64s) -> ClockModel:
    """Fit one line to a whole segment, offline.

    The lower hull gives a slope that no spike can disturb; a robust regression through the least late observation of
    32 intervals then averages over the whole span.

    Args:
        device_ns: `(n,)` ascending device times of one segment.
        arrival_ns: `(n,)` their arrivals.

    Returns:
        The model; `sigma_ns` covers the offset at the ends of the span, drift included.

    Raises:
        ValueError: Fewer than two observations.
    """
    if len(device_ns) < 2:
        raise ValueError(f"a clock fit needs at least 2 observations and got {len(device_ns)}; use the arrival times")
    ref_ns = int(device_ns[len(device_ns) // 2])
    base_ns = int(arrival_ns[0] - device_ns[0])
    x = (device_ns - ref_ns).astype(np.float64)
    y = (arrival_ns - device_ns - base_ns).astype(np.float64)
    slope = min(max(lower_slope(x.tolist(), y.tolist()), -_MAX_DRIFT), _MAX_DRIFT)
    lowest = interval_minima(x, y - slope * x, min(32, max(2, len(x) // 4)))
    refined, error = robust_slope(x[lowest], (y - slope * x)[lowest])
    slope = min(max(slope + refined, -_MAX_DRIFT), _MAX_DRIFT)
    rest = y - slope * x
    level = float(rest.min())
    sampling = max(2.0 * float(np.median(rest) - level) / len(x) ** 0.5, 0.3 * float(np.median(rest[lowest]) - level))
    half_span = float(x[-1] - x[0]) / 2
    return ClockModel(
        ref_ns=ref_ns,
        offset_ns=base_ns + round(level),
        drift_ppb=round(slope * _PPB),
        sigma_ns=round(math.hypot(sampling, error * half_span)) + 1,
    )
