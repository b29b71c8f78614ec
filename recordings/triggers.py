"""What begins and ends a weld: the arc as it is seen, and a signal from outside (robot controller, PLC).

A pure function of the packets, so that a replay decides as the cell did.
"""

from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

import numpy as np

from acquisition.packet import Packet, SampleBlock, SensorRows, StreamInfo, VideoFrame
from recordings.cell import Cell
from sync.arc import SOURCES, ArcDetector, ArcEdge, block_sound_level
from sync.clock import ClockTable

EXTERNAL: Final = "external"
"""Name of a trigger that is neither an arc nor a hand."""

HIGH: Final = 0.5
"""An external channel above this triggers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Signal:
    """Something that begins or ends a weld, or an arc that turned out to be none.

    Attributes:
        kind: `begin`, `end`, or `short` for an arc that ended before `shortest_s`.
        t_ns: Cell time, back-dated; of a short arc, its beginning.
        source: What it was seen in: `current`, `light`, `sound` or `external`.
        seconds: How long a short arc burnt.
    """

    kind: Literal["begin", "end", "short"]
    t_ns: int
    source: str
    seconds: float = 0.0


Ends: TypeAlias = Literal["arc", "external", "manual"]


def ended_by(trigger: str) -> Ends:
    """What ends a weld that `trigger` began: the same kind of thing."""
    if trigger in SOURCES:
        return "arc"
    return "external" if trigger == EXTERNAL else "manual"


class Triggers:
    """Turns packets into signals; owned by the ingest thread."""

    def __init__(self, cell: Cell) -> None:
        """Watch for what the cell file names."""
        record = cell.record
        self._arc = ArcDetector(cell.arc, [source for source in SOURCES if source in record.triggers])
        self._shortest_ns = round(record.shortest_s * 1e9)
        self._pending: ArcEdge | None = None
        self._currents: dict[str, tuple[int, int]] = {}
        self._stream, _, self._channel = record.external.partition(".")
        self._column: int | None = None
        self._high = False

    def add_stream(self, info: StreamInfo) -> None:
        """Look for the arc's channels, and for the external one, in a stream whose device has opened."""
        if info.modality == "sensors" and {"current_a", "voltage_v"} <= set(info.channels):
            self._currents[info.name] = (info.channels.index("current_a"), info.channels.index("voltage_v"))
        if info.name == self._stream:
            self._column = info.channels.index(self._channel) if self._channel in info.channels else None

    def problem(self, info: StreamInfo) -> str | None:
        """Say why an opened stream cannot be the external trigger that the cell file takes it for."""
        if info.name != self._stream or self._channel in info.channels:
            return None
        has, named = ", ".join(info.channels) or "none", f"{self._stream}.{self._channel}"
        return f"external = '{named}': {info.name} has no such channel (it has {has}); it triggers nothing"

    def take(
        self, packet: Packet, info: StreamInfo, clocks: ClockTable, end_ns: int, light: float | None
    ) -> list[Signal]:
        """Take a device packet.

        Args:
            packet: The packet.
            info: Its stream.
            clocks: The clocks in force for it.
            end_ns: Cell time of its last item.
            light: `frame_light` of a frame.
        """
        signals = [
            signal for edge in self._edges(packet, info, clocks, end_ns, light) for signal in self._arc_edge(edge)
        ]
        if self._pending is not None and self._arc.seen_ns - self._pending.t_ns >= self._shortest_ns:
            signals.append(self._begin(self._pending))
        if packet.stream == self._stream and self._column is not None and isinstance(packet.payload, SensorRows):
            signals += self._external(
                clocks.cell_times_ns(info, packet).tolist(), packet.payload.values[:, self._column]
            )
        return signals

    def finish(self) -> list[Signal]:
        """Nothing more will come: an arc that has not burnt for `shortest_s` yet is too short."""
        return [] if self._pending is None else [self._short(self._pending, self._arc.seen_ns)]

    def _edges(
        self, packet: Packet, info: StreamInfo, clocks: ClockTable, end_ns: int, light: float | None
    ) -> list[ArcEdge]:
        payload = packet.payload
        if isinstance(payload, SensorRows) and packet.stream in self._currents:
            current, voltage = self._currents[packet.stream]
            t_ns = clocks.cell_times_ns(info, packet)
            return self._arc.sensors(t_ns, payload.values[:, current], payload.values[:, voltage])
        if isinstance(payload, VideoFrame) and light is not None:
            return self._arc.light(end_ns, light)
        if isinstance(payload, SampleBlock) and "sound" in self._arc.sources:
            return self._arc.sound(end_ns, block_sound_level(payload.samples, payload.rate_hz))
        return []

    def _arc_edge(self, edge: ArcEdge) -> list[Signal]:
        if edge.kind == "arc_on":
            if self._shortest_ns:
                self._pending = edge
                return []
            return [self._begin(edge)]
        end = Signal(kind="end", t_ns=edge.t_ns, source=edge.source)
        if self._pending is None:
            return [end]
        if edge.t_ns - self._pending.t_ns >= self._shortest_ns:
            return [self._begin(self._pending), end]
        return [self._short(self._pending, edge.t_ns)]

    def _begin(self, edge: ArcEdge) -> Signal:
        self._pending = None
        return Signal(kind="begin", t_ns=edge.t_ns, source=edge.source)

    def _short(self, edge: ArcEdge, end_ns: int) -> Signal:
        self._pending = None
        return Signal(kind="short", t_ns=edge.t_ns, source=edge.source, seconds=max(0, end_ns - edge.t_ns) / 1e9)

    def _external(self, times_ns: list[int], values: "np.ndarray[tuple[int], np.dtype[np.float64]]") -> list[Signal]:
        """Find where the channel rises above `HIGH` and falls below; a row without a reading says nothing."""
        signals = []
        for t_ns, value in zip(times_ns, values.tolist(), strict=True):
            if np.isfinite(value) and (value > HIGH) != self._high:
                self._high = value > HIGH
                signals.append(Signal(kind="begin" if self._high else "end", t_ns=t_ns, source=EXTERNAL))
        return signals
