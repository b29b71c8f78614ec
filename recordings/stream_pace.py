"""How far every device stream has come, and how late and how unevenly its items arrive; constant memory."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Final

from acquisition.packet import StreamInfo

OVERDUE_NS: Final = 20_000_000
"""At the end, an item is lost once it is this late, or twice as late as any item of its stream before."""


@dataclass(slots=True)
class _Pace:
    """One stream: cell time reached, last arrival, greatest lateness, longest pause, items of its newest packet."""

    reached_ns: int
    arrived_ns: int
    latest_ns: int
    longest_ns: int = 0
    items: int = 0


class StreamPace:
    """Follows the packets of all device streams; owned by the ingest thread."""

    def __init__(self) -> None:
        self._streams: dict[str, _Pace] = {}

    def __iter__(self) -> Iterator[str]:
        """Names of the streams that have delivered."""
        return iter(self._streams)

    def note(self, name: str, *, end_ns: int, arrival_ns: int, items: int, after_loss: bool) -> None:
        """Take note of a packet.

        Args:
            name: Its stream.
            end_ns: Cell time of its last item.
            arrival_ns: Its arrival.
            items: How many items it holds.
            after_loss: Items before it were lost, so the pause before it says nothing about the stream's pace.
        """
        pace = self._streams.get(name)
        if pace is None:
            pace = self._streams[name] = _Pace(end_ns, arrival_ns, max(arrival_ns - end_ns, 0))
        pace.reached_ns = max(end_ns, pace.reached_ns)
        if not after_loss:
            pace.longest_ns = max(arrival_ns - pace.arrived_ns, pace.longest_ns)
        pace.arrived_ns = arrival_ns
        pace.latest_ns = max(arrival_ns - end_ns, pace.latest_ns)
        pace.items = items

    def arrived_ns(self, name: str) -> int | None:
        """Arrival of the stream's newest packet."""
        pace = self._streams.get(name)
        return None if pace is None else pace.arrived_ns

    def slowest_ns(self, without: Collection[str]) -> int:
        """Cell time that the slowest stream has reached, those in `without` left out; 0 where none is left."""
        return min((pace.reached_ns for name, pace in self._streams.items() if name not in without), default=0)

    def overdue(self, info: StreamInfo, now_ns: int) -> int:
        """Items of a stream that should be here by now, in whole packets.

        A stream whose items come unevenly is given as long as it ever took, and a quarter more.
        """
        pace = self._streams[info.name]
        if now_ns - pace.arrived_ns < max(OVERDUE_NS, 1.25 * pace.longest_ns):
            return 0
        if not info.rate_hz or not pace.items:
            return 0
        late_ns = info.latency_ns + max(OVERDUE_NS, 2 * pace.latest_ns)
        return max(0, int((now_ns - late_ns - pace.reached_ns) * info.rate_hz / 1e9 / pace.items)) * pace.items
