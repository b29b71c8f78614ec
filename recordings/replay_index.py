"""Where everything of a recorded weld lies, by place and by time, from its tables alone: what a seek goes by."""

from typing import Final

import numpy as np
import numpy.typing as npt

from acquisition.packet import CLOCKS_STREAM, EVENTS_STREAM, Event
from recordings.columns import event_packet
from recordings.reader import WeldReader
from recordings.status import Gap

Int64s = npt.NDArray[np.int64]

TICKS: Final = frozenset({"mark", "label", "stream_lost", "stream_back"})
"""Events that a whole weld is marked with, beside its photos."""
_MOST_GAPS: Final = 50
_MOST_TICKS: Final = 100
_STALE_NS: Final = 2 * 10**9
_PAUSE_NS: Final = 60 * 10**9


class ReplayIndex:
    """Places and times of a weld's packets.

    Attributes:
        origin_ns: Position 0: arrival of the first process packet.
        end_ns: Arrival of the last packet; of the last one before a pause of more than a minute, where photos came so
            much later.
        gaps: The first located losses.
        ticks: The first marks, photos, lost streams: cell time, kind, note or stream.
    """

    def __init__(self, reader: WeldReader) -> None:
        """Read the tables of `reader`.

        Raises:
            WeldError: One is damaged.
        """
        names = [EVENTS_STREAM, *reader.infos]
        places = {name: reader.places(name) for name in (*names, CLOCKS_STREAM)}
        order = np.concatenate([place for place, _, _ in places.values()])
        arrival_ns = np.concatenate([arrival for _, arrival, _ in places.values()])
        by_place = np.argsort(order, kind="stable")
        self._places = order[by_place]
        self._reached_ns = np.maximum.accumulate(arrival_ns[by_place]) if len(order) else order
        self._items = {name: (place, np.r_[0, np.cumsum(items)]) for name, (place, _, items) in places.items()}
        process = [name for name, info in reader.infos.items() if info.modality != "post_images"]
        self._videos = [name for name in process if reader.infos[name].modality == "video" and len(places[name][0])]
        densest = max(process, key=lambda name: len(places[name][0]), default=None)
        self._steps = places[(self._videos or [densest or EVENTS_STREAM])[0]][0]
        firsts = [places[name][0][0] for name in process if len(places[name][0])]
        self.first_place = int(min(firsts)) if firsts else int(self._places[0]) if len(order) else 0
        # The clock snapshot in front of a weld is older than the weld; time starts at its first process packet.
        self.origin_ns = max(reader.manifest.origin_ns, int(self._reached_ns[0]) if len(order) else 0)
        pauses = np.flatnonzero(np.diff(np.maximum(self._reached_ns, self.origin_ns)) > _PAUSE_NS)
        last = int(pauses[0]) if len(pauses) else -1
        self.end_ns = max(self.origin_ns, int(self._reached_ns[last]) if len(order) else 0)
        self.gaps: list[Gap] = []
        self.ticks: list[tuple[int, str, str]] = []
        for row in reader.table(EVENTS_STREAM).iter_rows(named=True):
            packet = event_packet(row)
            assert isinstance(packet.payload, Event)
            self._note(packet.payload, packet.t_arrival_ns)
        for name in reader.infos.keys() - set(process):
            photos = reader.table(name).select("t_arrival_ns", "name").rows()
            self.ticks += [(t_ns, "photo", file) for t_ns, file in photos]
        self.ticks = sorted(self.ticks)[:_MOST_TICKS]

    def _note(self, event: Event, known_ns: int) -> None:
        t_ns = known_ns if event.t_ns is None else event.t_ns
        if event.kind == "gap" and len(self.gaps) < _MOST_GAPS:
            self.gaps.append(gap_of(event, known_ns))
        elif event.kind in TICKS:
            self.ticks.append((t_ns, event.kind, str(event.data.get("note") or event.data.get("stream") or "")))

    def place_at(self, t_ns: int) -> int:
        """Return the last place that had arrived by a time, or -1."""
        found = int(np.searchsorted(self._reached_ns, t_ns, side="right"))
        return int(self._places[found - 1]) if found else -1

    def time_at(self, place: int) -> int:
        """Return the time by which everything up to a place had arrived."""
        found = int(np.searchsorted(self._places, place, side="right"))
        return max(self.origin_ns, int(self._reached_ns[found - 1])) if found else self.origin_ns

    def begin_for(self, place: int) -> int | None:
        """Return where to begin so that every camera's newest picture at `place` is there; None for the beginning.

        A camera that was silent for longer than 2 s by then does not count.
        """
        newest = [self._newest(self._items[name][0], place) for name in self._videos]
        since_ns = self.time_at(place) - _STALE_NS
        begin = min((frame for frame in newest if frame >= 0 and self.time_at(frame) > since_ns), default=place)
        return None if begin <= self.first_place else begin

    def step(self, place: int, frames: int) -> int | None:
        """Return the place of the frame that lies `frames` after the newest one at `place` (negative: before).

        None without any frame.
        """
        if not len(self._steps):
            return None
        now = int(np.searchsorted(self._steps, place, side="right")) - 1
        return int(self._steps[min(max(0, now + frames), len(self._steps) - 1)])

    def items_before(self, stream: str, place: int) -> int:
        """Count the items of a stream before a place."""
        places, items = self._items[stream]
        return int(items[np.searchsorted(places, place)])

    @staticmethod
    def _newest(places: Int64s, place: int) -> int:
        found = int(np.searchsorted(places, place, side="right"))
        return int(places[found - 1]) if found else -1


def gap_of(event: Event, known_ns: int) -> Gap:
    """Return the located loss that a gap event tells of."""
    data = event.data
    return Gap(
        stream=str(data["stream"]),
        t_ns=known_ns if event.t_ns is None else event.t_ns,
        missing=int(data["missing"]),
        seconds=float(data["seconds"]),
        reason=str(data["reason"]),
    )
