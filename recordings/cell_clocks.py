"""The online clocks of a cell's streams, and what they were where a weld begins."""

from collections import deque

from acquisition.packet import ClockUpdate, Packet, StreamInfo
from sync.clock import ClockTable, CountedClock, Missed, StreamClock, observe_packet, stream_clock
from sync.clock_fault import ClockFault


class CellClocks:
    """Owns the online clock of every device stream; owned by the ingest thread.

    Attributes:
        table: Clocks in force.
        faults: Unusable device stamps so far, per stream.
    """

    def __init__(self) -> None:
        self.table = ClockTable()
        self.faults: dict[str, int] = {}
        self._online: dict[str, StreamClock | None] = {}
        self._history: dict[str, deque[Packet]] = {}

    def observe(
        self, packet: Packet, info: StreamInfo, known_segment: int | None
    ) -> tuple[ClockUpdate | None, ClockFault | None]:
        """Take a packet; returns the change of its stream's clock and the fault of its stamps, where there are any.

        Args:
            packet: A device packet.
            info: Its stream.
            known_segment: The stream's segment so far, None before its first packet.
        """
        name = packet.stream
        if name not in self._online or packet.segment != known_segment:
            self._online[name] = stream_clock(info, packet.segment, self._online.get(name))
        clock = self._online[name]
        if clock is None:
            return None, None
        before = sum(clock.faults.values())
        update = observe_packet(clock, info, packet)
        self.faults[name] = self.faults.get(name, 0) + sum(clock.faults.values()) - before
        if update is not None:
            self.table.apply(update)
        return update, clock.fault

    def missed(self, stream: str) -> Missed | None:
        """What the stream's newest packet showed to be missing, where only the driver counts."""
        clock = self._online.get(stream)
        return clock.missed if isinstance(clock, CountedClock) else None

    def remember(self, stream: str, made: Packet) -> None:
        """Keep a change of a stream's clock, as the packet that it became."""
        self._history.setdefault(stream, deque()).append(made)

    def forget(self, stream: str, order: int) -> None:
        """Drop changes of a stream's clock that were replaced before `order`."""
        history = self._history.get(stream, deque())
        while len(history) > 1 and history[1].order < order:
            history.popleft()

    @property
    def remembered(self) -> int:
        """Changes kept, of all streams."""
        return sum(len(history) for history in self._history.values())

    def at(self, order: int) -> list[Packet]:
        """The changes in force at `order`: per stream the newest one below it."""
        below = [[made for made in history if made.order < order] for history in self._history.values()]
        return sorted((made[-1] for made in below if made), key=lambda made: made.order)
