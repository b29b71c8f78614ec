"""What a replay has shown so far, as the capture process would tell it: rows of streams, losses, clocks, the weld."""

from dataclasses import dataclass, replace
from datetime import UTC, datetime

from acquisition.packet import ClockUpdate, Event, Packet, Photo, item_range
from recordings.reader import WeldReader
from recordings.replay_index import ReplayIndex, gap_of
from recordings.status import Gap, StreamStatus, WeldStatus
from recordings.verdict import Score, Verdict
from sync.clock import ClockTable


@dataclass(slots=True)
class _Counts:
    """What one stream has shown so far."""

    received: int = 0
    dropped: int = 0
    last_ns: int | None = None


class ReplayTally:
    """Counts what is published; begun anew with every seek.

    Attributes:
        weld: The row of the weld.
        gaps: Losses up to here.
        clocks: Clocks in force.
        scores: What the detector said of this weld's windows, wherever the replay stood; by window.
    """

    def __init__(self, reader: WeldReader, index: ReplayIndex) -> None:
        """Count for the weld of `reader`, from its beginning."""
        self._reader = reader
        self._index = index
        self.scores: dict[int, Score] = {}
        self._verdict: Verdict | None = None
        self.begin(None)

    def begin(self, place: int | None) -> None:
        """Begin anew at a place, with what came before it counted; None: at the beginning, with nothing said yet."""
        reader = self._reader
        counts = {name: 0 if place is None else self._index.items_before(name, place) for name in reader.infos}
        self._counts = {name: _Counts(received=received) for name, received in counts.items()}
        self._sync: dict[str, dict[str, float]] = {}
        self.gaps: list[Gap] = []
        self.clocks = ClockTable()
        if place is None:
            self.scores.clear()
            self._verdict = None
        photos = [name for name, info in reader.infos.items() if info.modality == "post_images"]
        manifest = reader.manifest
        self.weld = WeldStatus(
            key=manifest.key,
            path=str(reader.folder),
            phase="welding",
            started_utc=datetime.fromtimestamp(manifest.utc[0].utc_ns / 1e9, tz=UTC).isoformat()
            if manifest.utc
            else "",
            arc_on_ns=manifest.arc_on_ns,
            arc_off_ns=manifest.arc_off_ns,
            verdict=self._verdict,
            label=manifest.label,
            photos=sum(counts[name] for name in photos),
            photos_expected=sum(manifest.streams[name].items for name in photos),
            present=self._verdict.present if self._verdict else (),
            problem=None,
        )

    def take(self, packet: Packet) -> None:
        """Count a packet that is published."""
        payload = packet.payload
        if isinstance(payload, Event):
            self._happen(payload, packet.t_arrival_ns)
        elif isinstance(payload, ClockUpdate):
            self.clocks.apply(payload)
        elif packet.stream in self._counts:
            counts = self._counts[packet.stream]
            counts.received += 1 if isinstance(payload, Photo) else item_range(packet)[1]
            counts.last_ns = packet.t_arrival_ns
            if isinstance(payload, Photo):
                self.weld = replace(self.weld, photos=self.weld.photos + 1)

    def _happen(self, event: Event, known_ns: int) -> None:
        if event.kind == "gap":
            gap = gap_of(event, known_ns)
            self.gaps.append(gap)
            if gap.stream in self._counts:
                self._counts[gap.stream].dropped += gap.missing
        elif event.kind == "sync":
            self._sync = event.data["offsets"]
        elif event.kind == "weld_close":
            self.weld = replace(self.weld, phase="photos")
        elif event.kind == "photos_done":
            self.weld = replace(self.weld, phase="judged")

    def judged(self, said: Score | Verdict) -> None:
        """Keep what the detector said of this weld."""
        if said.weld != self.weld.key:
            return
        if isinstance(said, Score):
            self.scores[said.window] = said
        else:
            self._verdict = said
            self.weld = replace(self.weld, verdict=said, present=said.present)

    def rows(self, position_ns: int, speed: float) -> list[StreamStatus]:
        """Give the row of every stream; `speed` is 0 while nothing moves."""
        return [self._row(name, counts, position_ns, speed) for name, counts in self._counts.items()]

    def _row(self, name: str, counts: _Counts, position_ns: int, speed: float) -> StreamStatus:
        info = self._reader.infos[name]
        age_s = None if counts.last_ns is None else max(0.0, (position_ns - counts.last_ns) / 1e9)
        return StreamStatus(
            name=name,
            modality=info.modality,
            info=info,
            state="streaming" if age_s is not None else "closed",
            required=False,
            rate_hz=info.rate_hz * speed,
            received=counts.received,
            dropped=counts.dropped,
            age_s=age_s,
            offset_ms=None,
            drift_ppm=None,
            sigma_ms=None,
            problem=None,
            segment=0,
            sync_ms=self._sync.get(name, {}).get("offset_ms"),
            sync_sigma_ms=self._sync.get(name, {}).get("sigma_ms"),
        )
