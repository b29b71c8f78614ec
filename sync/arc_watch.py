"""`ArcWatch`: what every stream shows of a weld's arc, kept while packets come in, and how late each one shows it."""

from collections import deque
from collections.abc import Mapping
from typing import Final

import numpy as np
import numpy.typing as npt

from acquisition.packet import Packet, SampleBlock, SensorRows, StreamInfo, VideoFrame
from sync.arc import ArcConfig, arc_edges_current, arc_edges_light, arc_edges_sound, frame_light
from sync.clock import ClockTable
from sync.edges import Edge, light_edge, sensor_edge, sound_edge
from sync.latency import Residual, residual_of

Int64s = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Arc = tuple[int, int]

_AROUND_NS: Final = 4_000_000_000
"""What is kept on either side of an edge; streams of one weld differ by up to two seconds."""

_RECENT_NS: Final = 10_000_000_000
"""What is kept until an edge may be announced."""

_EDGES: Final = 8
"""Edges that are remembered; welds may overlap."""

_COARSE: Final = 10
"""Values of the fine envelope that make one of the coarse one, in which the arc is looked for."""

_INFERRED_NS: Final = 14_000_000
"""Standard deviation of real rows about the even times that were inferred for them."""


class _Envelope:
    """Level of a sound above about 2 kHz, a value per millisecond, whatever the blocks it comes in."""

    def __init__(self, info: StreamInfo) -> None:
        self._info = info
        self._half = max(1, round(info.rate_hz / 4000))
        self._rest = np.zeros(0)
        self._next: tuple[int, int] | None = None

    def push(self, packet: Packet, block: SampleBlock, t_ns: int) -> tuple[Int64s, Floats]:
        """Take a block that begins at cell time `t_ns`; returns middles and dB of full scale of the values."""
        rate_hz, reach = self._info.rate_hz, 2 * self._half
        if self._next != (packet.segment, block.first_sample):
            self._rest = np.zeros(0)
        self._next = (packet.segment, block.first_sample + len(block.samples))
        mono = block.samples[:, 0] if block.samples.shape[1] == 1 else block.samples.mean(axis=1)
        begin = -len(self._rest)
        x = np.concatenate((self._rest, mono / -float(np.iinfo(block.samples.dtype).min)))
        self._rest = x[-2 * reach :]
        if len(x) <= 2 * reach:
            return np.zeros(0, np.int64), np.zeros(0)
        power = self._minus_mean(self._minus_mean(x)) ** 2
        count = max(1, round(1e3 * len(power) / rate_hz))
        bounds = np.arange(count + 1) * len(power) // count
        level = 10.0 * np.log10(np.add.reduceat(power, bounds[:-1]) / np.diff(bounds) + 1e-15)
        middles = begin + reach + (bounds[:-1] + bounds[1:]) / 2
        return t_ns + np.rint(middles * (1e9 / rate_hz)).astype(np.int64), level

    def _minus_mean(self, x: Floats) -> Floats:
        """Take the moving mean of half a millisecond off: a high-pass whose cost does not grow with the rate."""
        n = 2 * self._half + 1
        total = np.concatenate(([0.0], np.cumsum(x)))
        high: Floats = x[self._half : len(x) - self._half] - (total[n:] - total[:-n]) / n
        return high


class _Trace:
    """Levels of one stream with their cell times: the last seconds, and what lies around the remembered edges."""

    def __init__(self, info: StreamInfo, everything: bool) -> None:
        self.info = info
        self._everything = everything
        self._recent: deque[tuple[Int64s, Floats]] = deque()
        self._kept: list[tuple[Int64s, Floats]] = []
        self.envelope = _Envelope(info) if info.modality == "audio" else None

    def add(self, t_ns: Int64s, levels: Floats, edges_ns: "deque[int]") -> None:
        """Take values and forget those that are neither recent nor near an edge."""
        if not len(t_ns):
            return
        self._recent.append((t_ns, levels))
        while not self._everything and self._recent[0][0][-1] < t_ns[-1] - _RECENT_NS:
            chunk = self._recent.popleft()
            if any(abs(int(chunk[0][0]) - edge_ns) <= _AROUND_NS for edge_ns in edges_ns):
                self._kept.append(chunk)

    def forget(self, edges_ns: "deque[int]") -> None:
        """Drop what was kept for edges that are not remembered any more."""
        oldest_ns = min(edges_ns) - _AROUND_NS
        self._kept = [chunk for chunk in self._kept if chunk[0][-1] >= oldest_ns]

    def values(self, span: Arc | None) -> tuple[Int64s, Floats]:
        """All values, ascending in time, or those around an arc."""
        chunks = [*self._kept, *self._recent]
        if not chunks:
            return np.zeros(0, np.int64), np.zeros((0, 2))
        t_ns = np.concatenate([chunk[0] for chunk in chunks])
        levels = np.concatenate([chunk[1] for chunk in chunks])
        ascending = t_ns > np.concatenate(([np.iinfo(np.int64).min], np.maximum.accumulate(t_ns)[:-1]))
        if span is not None:
            ascending &= (t_ns >= span[0] - _AROUND_NS) & (t_ns <= span[1] + _AROUND_NS)
        return t_ns[ascending], levels[ascending]


class ArcWatch:
    """Watches the arc in every stream: constant memory, cheap per packet, and a pure function of the packets.

    Live, `edge` announces each arc edge as it is decided, and what lies around it is kept; `residuals` then compares
    the streams when the weld closes. Owned by one thread.
    """

    def __init__(
        self, infos: Mapping[str, StreamInfo], config: ArcConfig | None = None, *, everything: bool = False
    ) -> None:
        """Watch streams; photos and sensors without current are ignored.

        Args:
            infos: Streams by name.
            config: When the arc counts as burning; None for the defaults.
            everything: Keep all levels (about 16 kB a second and sound stream), for a recording that has an end.
        """
        self._config, self._everything = config or ArcConfig(), everything
        self._edges_ns: deque[int] = deque()
        self._traces: dict[str, _Trace] = {}
        for info in infos.values():
            self.add_stream(info)

    def add_stream(self, info: StreamInfo) -> None:
        """Watch one more stream, or one that has changed."""
        if info.modality != "post_images" and (info.modality != "sensors" or "current_a" in info.channels):
            self._traces[info.name] = _Trace(info, self._everything)

    def take(self, packet: Packet, clocks: ClockTable, light: float | None = None) -> None:
        """Take a packet of a device.

        Args:
            packet: The packet.
            clocks: The clocks in force for it.
            light: Its `frame_light`, where that is known already.
        """
        trace, payload = self._traces.get(packet.stream), packet.payload
        if trace is None:
            return
        info = trace.info
        if isinstance(payload, VideoFrame):
            level = frame_light(payload.pixels) if light is None else light
            t_ns = np.array([clocks.cell_time_ns(info, packet)], np.int64)
            trace.add(t_ns, np.array([[level]]), self._edges_ns)
        elif isinstance(payload, SampleBlock) and trace.envelope is not None:
            t_ns, levels = trace.envelope.push(packet, payload, clocks.cell_time_ns(info, packet))
            trace.add(t_ns, levels[:, np.newaxis], self._edges_ns)
        elif isinstance(payload, SensorRows):
            names = [name for name in ("current_a", "voltage_v") if name in info.channels]
            columns = payload.values[:, [info.channels.index(name) for name in names]]
            trace.add(clocks.cell_times_ns(info, packet), columns, self._edges_ns)

    def edge(self, t_ns: int) -> None:
        """Remember what lies around an arc edge, 10 s at most after it happened."""
        self._edges_ns.append(t_ns)
        if len(self._edges_ns) > _EDGES:
            self._edges_ns.popleft()
            for trace in self._traces.values():
                trace.forget(self._edges_ns)

    def arcs(self) -> dict[str, Arc]:
        """Give, per stream that shows it, the arc that belongs to the sensors' longest one: (on, off) in cell time."""
        reference = self._reference(None)
        near = None if reference is None else reference[1]
        found = {name: self._arc(trace, near, None) for name, trace in self._traces.items()}
        return {name: arc for name, arc in found.items() if arc is not None}

    def residuals(self, arc_on_ns: int | None = None, arc_off_ns: int | None = None) -> dict[str, Residual]:
        """Say how late each stream shows the arc against the sensors; without sensors nothing can be said.

        Args:
            arc_on_ns: Begin of the weld's arc as decided; None takes the longest arc of the sensors.
            arc_off_ns: Its end.
        """
        span = None if arc_on_ns is None or arc_off_ns is None else (arc_on_ns, arc_off_ns)
        reference = self._reference(span)
        if reference is None:
            return {}
        name, arc = reference
        theirs = self._edges(self._traces[name], arc, span)
        residuals = {name: Residual(offset_ms=0.0, sigma_ms=0.0)}
        for other, trace in self._traces.items():
            mine = None if other == name else self._arc(trace, arc, span)
            if mine is not None and (one := residual_of(self._edges(trace, mine, span), theirs)) is not None:
                residuals[other] = one
        return residuals

    def _reference(self, span: Arc | None) -> tuple[str, Arc] | None:
        """Return the sensor stream that shows the arc, and the arc in it."""
        for name, trace in self._traces.items():
            if trace.info.modality == "sensors" and (arc := self._arc(trace, span, span)) is not None:
                return name, arc
        return None

    def _arc(self, trace: _Trace, near: Arc | None, span: Arc | None) -> Arc | None:
        """Return the arc that overlaps `near` most, or the longest one."""
        t_ns, levels = trace.values(span)
        if trace.info.modality == "sensors":
            arcs = arc_edges_current(t_ns, levels[:, 0], _voltage(levels), self._config)
        elif trace.info.modality == "video":
            arcs = arc_edges_light(t_ns, levels[:, 0], self._config)
        else:
            whole = len(t_ns) // _COARSE * _COARSE
            power = 10.0 ** (levels[:whole, 0].reshape(-1, _COARSE) / 10.0)
            arcs = arc_edges_sound(t_ns[:whole:_COARSE], 10.0 * np.log10(power.mean(axis=1)), self._config)
        if not arcs:
            return None
        low, high = near or (0, 0)
        return max(arcs, key=lambda arc: arc[1] - arc[0] if near is None else min(arc[1], high) - max(arc[0], low))

    def _edges(self, trace: _Trace, arc: Arc, span: Arc | None) -> tuple[Edge | None, Edge | None]:
        """Time arc-on and arc-off of a stream as exactly as it shows them."""
        t_ns, levels = trace.values(span)
        found = []
        for at_ns, rising in zip(arc, (True, False), strict=True):
            if trace.info.modality == "sensors":
                edge = sensor_edge(t_ns, levels[:, 0], _voltage(levels), at_ns, rising=rising, config=self._config)
            elif trace.info.modality == "video":
                edge = light_edge(t_ns, levels[:, 0], at_ns, rising=rising)
            else:
                edge = sound_edge(t_ns, levels[:, 0], at_ns)
            if edge is not None and trace.info.inferred_time:
                edge = Edge(t_ns=edge.t_ns, sigma_ns=round(float(np.hypot(edge.sigma_ns, _INFERRED_NS))))
            found.append(edge)
        return found[0], found[1]


def _voltage(levels: Floats) -> Floats | None:
    return levels[:, 1] if levels.shape[1] > 1 else None
