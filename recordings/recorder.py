"""The recorder: keeps a short ring of encoded packets, and writes every weld that opens from that ring on.

Video is encoded always, so that a weld can begin before its trigger; overlapping welds share the encoded packets.
`RecorderCore` does the work, synchronously; `recorder_thread` runs it behind a bounded queue.
"""

import json
import logging
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from acquisition.packet import CLOCKS_STREAM, EVENTS_STREAM, Event, Packet, Photo, StreamInfo, VideoFrame
from recordings.cell import Cell
from recordings.ingest import clock_snapshot
from recordings.late_additions import add_edit, add_label, add_packet, add_scores
from recordings.manifest import LabelEntry, MetadataEntry, UtcPair
from recordings.opening import Coding, WeldHead, markers, remove_marker, write_marker
from recordings.preroll_rebuild import rebuild_openings
from recordings.preroll_ring import Item as RingItem
from recordings.preroll_ring import LostItem, PrerollRing, add_loss
from recordings.preroll_spool import PrerollSpool
from recordings.recovery import recover
from recordings.utc import utc_pair
from recordings.verdict import Score, Verdict
from recordings.video_encoder import VideoEncoder
from recordings.weld_folder import MANIFEST, TRUTH, RecordingError, WeldError
from recordings.weld_writer import WeldWriter

log = logging.getLogger(__name__)

KEPT_WELDS: Final = 50
"""Finalised welds that are remembered; words about older ones find their folder."""

_ROOM_AGAIN_S: Final = 60.0
"""How long nothing is looked for to delete after nothing was found."""


def run_now(act: Callable[[], None]) -> None:
    """Do something at once; what `RecorderCore.later` is without threads."""
    act()


def recover_open_welds(root: Path) -> list[str]:
    """Finish the welds that dead capture processes left open under `root`; returns one line per weld.

    One that cannot be finished (yet) is tried again at the next start.
    """
    lines = rebuild_openings(root)
    for marker, folder in markers(root):
        # Without a manifest the process died before it kept anything of the weld.
        for report in recover(folder) if folder != root and (folder / MANIFEST).exists() else []:
            lost = ", ".join(f"{name} {loss['seconds']:.2f} s" for name, loss in report.losses.items())
            said = f"{report.state} after a crash; lost: {lost or 'nothing'}"
            lines.append(f"{folder.name}: {said}" if report.ok else report.problems[0])
            if not report.ok:
                break
        else:
            marker.unlink()
    return lines


@dataclass(slots=True)
class WeldFile:
    """A weld as the recorder knows it.

    Attributes:
        key: Weld key.
        folder: Where it is written.
        writer: The open writer, or None once it is being finalised, or failed.
        failed: The writer that failed, while packets of the weld are still to be counted.
        last_order: Last process packet, once known.
        problem: Why it failed, or None.
        unsaved: Its manifest has changed.
        finishing: Nothing more is written but words about it; its files are being completed.
        finalised: All files are complete.
    """

    key: str
    folder: Path
    writer: WeldWriter | None
    failed: WeldWriter | None = None
    last_order: int | None = None
    problem: str | None = None
    unsaved: bool = False
    finishing: bool = False
    finalised: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelWeld:
    """Order to the recorder: label a weld that is still open, or an older one by its folder."""

    key: str
    entry: LabelEntry


@dataclass(frozen=True, slots=True, kw_only=True)
class DescribeWeld:
    """Order to the recorder: change what is said about a weld, open or not."""

    key: str
    entry: MetadataEntry


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishWeld:
    """Order to the recorder: nothing more will come for this weld (`truth` for simulated welds)."""

    key: str
    truth: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class IngestedPacket:
    """A packet with the ingest thread's word on whether it must be coded as a keyframe."""

    packet: Packet
    keyframe: bool


Item = IngestedPacket | LostItem | Score | Verdict | LabelWeld | DescribeWeld | FinishWeld


@dataclass
class RecorderCore:
    """Writes welds; every method runs on one thread, but what it gives to `later`.

    Attributes:
        cell: The cell file.
        infos: Streams by name (may grow).
        root: Folder of all recordings.
        session: Session name written into every weld.
        source: `live` or `simulated`.
        utc: Reads a (cell clock, UTC) pair.
        welds: Welds by key.
        metadata: part, program, operator, ... for the next weld.
        on_problem: Called with one line when something could not be kept, from any thread.
        later: Runs what waits long for the disk (completing a weld, adding to a finished one), one after the other.
        spool: Keeps the pre-roll of welds that are cut off while they open, or None.
        ring: What a weld begins with.
    """

    cell: Cell
    infos: Mapping[str, StreamInfo]
    root: Path
    session: str
    source: str = "live"
    utc: Callable[[], UtcPair] = utc_pair
    on_problem: Callable[[str], None] = log.error
    welds: dict[str, WeldFile] = field(default_factory=dict)
    metadata: dict[str, Any] = field(default_factory=dict)
    later: Callable[[Callable[[], None]], None] = run_now
    spool: PrerollSpool | None = None
    stopped_for_space: bool = False
    ring: PrerollRing = field(init=False)
    _encoders: dict[str, VideoEncoder] = field(default_factory=dict)
    _told_of_ring: bool = False
    _making_room: bool = False
    _room_after_s: float = 0.0

    def __post_init__(self) -> None:
        """Make the ring that the cell file asks for."""
        self.ring = PrerollRing(self.cell.record, self.cell.arc)

    def handle(self, item: Item) -> None:
        """Take one item; trouble with one weld never reaches another."""
        if isinstance(item, IngestedPacket):
            self._packet(item.packet, item.keyframe)
        elif isinstance(item, LostItem):
            self._lose(item)
        elif isinstance(item, Score | Verdict):
            self._add(item.weld, lambda writer: writer.score(item), lambda folder: add_scores(folder, [item]))
        elif isinstance(item, LabelWeld):
            self._add(
                item.key,
                lambda writer: writer.manifest.labels.append(item.entry),
                lambda folder: add_label(folder, item.entry),
            )
            self._with_writer(item.key, lambda writer: writer.save_manifest())
        elif isinstance(item, DescribeWeld):
            self._add(
                item.key,
                lambda writer: writer.manifest.edits.append(item.entry),
                lambda folder: add_edit(folder, item.entry),
            )
            self._with_writer(item.key, lambda writer: writer.save_manifest())
        else:
            self._finish(item)

    def flush(self) -> None:
        """Push what is buffered to the disk; call every 250 ms."""
        for key, weld in list(self.welds.items()):
            if weld.writer is not None:
                self._with_writer(key, lambda writer: writer.flush())
            if weld.unsaved:
                weld.unsaved = False
                self._with_writer(key, lambda writer: writer.save_manifest())

    @property
    def noting(self) -> list[WeldWriter]:
        """Writers of the welds that packets still belong to, also where the disk takes none of them any more."""
        writers = [weld.writer or weld.failed for weld in list(self.welds.values()) if weld.last_order is None]
        return [writer for writer in writers if writer is not None]

    def _packet(self, packet: Packet, keyframe: bool) -> None:
        payload = packet.payload
        if isinstance(payload, Photo):
            self._photo(packet, payload)
            return
        if isinstance(payload, VideoFrame):
            items: list[RingItem] = list(self._encode(packet, keyframe))
        else:
            items = [packet]
        self._keep(items)
        earlier = list(self.welds.values())
        if isinstance(payload, Event) and payload.kind == "weld_open" and payload.weld is not None:
            self._open(packet, payload)  # gets this packet, too, from the ring
        for weld in earlier:
            mine = isinstance(payload, Event) and payload.weld == weld.key
            if weld.last_order is None or mine:
                self._write(weld.key, items)
        if isinstance(payload, Event) and payload.weld in self.welds:
            self._note(self.welds[payload.weld], payload)

    def _keep(self, items: list[RingItem]) -> None:
        """Put items into the ring, and into the files that stand in for it after a kill."""
        self.ring.add(items)
        if self.ring.problem is not None and not self._told_of_ring:
            self._told_of_ring = True
            self.on_problem(self.ring.problem)
        if self.spool is not None and not self.stopped_for_space:
            problem = self.spool.append(items, self._head(), self.utc, self.ring.oldest_order)
            if problem is not None:
                self.on_problem(problem)

    def _lose(self, item: LostItem) -> None:
        """Tell the welds that lack an item that they do."""
        self.ring.miss(item)
        for weld in self.welds.values():
            if weld.writer is not None and weld.last_order is None and item.stream in weld.writer.manifest.streams:
                record = weld.writer.manifest.streams[item.stream]
                add_loss(record.losses, item, record.info.rate_hz)
                weld.unsaved = True

    def _head(self) -> WeldHead:
        return WeldHead(
            cell=self.cell.name,
            session=self.session,
            source="simulated" if self.source == "simulated" else "live",
            metadata=self.cell.metadata | self.metadata,
            infos=dict(self.infos),
            codings={
                name: Coding(info=encoder.info, codec=encoder.codec, extradata=encoder.extradata)
                for name, encoder in self._encoders.items()
            },
        )

    def _encode(self, packet: Packet, keyframe: bool) -> list[RingItem]:
        encoder = self._encoders.get(packet.stream)
        assert isinstance(packet.payload, VideoFrame)
        height, width = packet.payload.pixels.shape
        if encoder is None or (encoder.info.height, encoder.info.width) != (height, width):
            info = replace(self.infos[packet.stream], height=height, width=width)
            lossless = self.cell.record.video == "lossless"
            encoder = VideoEncoder(info, lossless=lossless, first_arrival_ns=packet.t_arrival_ns)
            self._encoders[packet.stream] = encoder
        if keyframe:
            encoder.force_keyframe()
        return [*encoder.encode(packet)]

    def _open(self, packet: Packet, event: Event) -> None:
        assert event.weld is not None
        key, first_order, utc, head = event.weld, int(event.data["first_order"]), self.utc(), self._head()
        weld = self.welds[key] = WeldFile(key, head.folder(self.root, packet, utc), None)
        try:
            if self.stopped_for_space:
                weld.problem = f"not recorded: less than {self.cell.record.reserve_gb:g} GB are free at {self.root}"
                self.on_problem(f"{key}: {weld.problem}; free some space")
                return
            manifest = head.manifest(packet, utc)
            before, missing = self.ring.since(first_order, head.infos)
            for name, losses in missing.items():
                manifest.streams[name].losses += losses
            write_marker(self.root, key, weld.folder)
            weld.writer = WeldWriter(weld.folder, manifest, self._encoders, expected=before)
            if self.spool is not None:
                received = self.spool.received_of(key)
                weld.writer.catch_up(received.marks, received.last_order, self.ring.before(first_order))
            self._write(key, [*clock_snapshot(event), *before])
            self._with_writer(key, lambda writer: writer.flush())
            self._with_writer(key, lambda writer: writer.save_manifest())
        except (OSError, RecordingError) as error:
            self._failed(weld, error)
        finally:
            if self.spool is not None:
                self.spool.opened(key)

    def _note(self, weld: WeldFile, event: Event) -> None:
        """Keep the manifest in step with the weld's own events."""
        if weld.failed is not None and event.kind == "weld_close":
            weld.last_order = int(event.data["last_order"])
            self._let_go(weld)
        if weld.writer is None:
            return
        manifest = weld.writer.manifest
        if event.kind == "arc_off":
            manifest.arc_off_ns = event.t_ns
        elif event.kind == "weld_close":
            manifest.last_order = weld.last_order = int(event.data["last_order"])
            manifest.utc.append(self.utc())
        else:
            return
        self._with_writer(weld.key, lambda writer: writer.save_manifest())

    def _photo(self, packet: Packet, photo: Photo) -> None:
        owner = self.welds.get(photo.weld_hint or "")
        # To other welds, recorded now or begun later in its past, a photo is a note that accounts for its order.
        note = Event(kind="photo", weld=photo.weld_hint, data={"name": photo.name})
        noted = replace(packet, stream=EVENTS_STREAM, payload=note)
        self._keep([noted])
        for weld in list(self.welds.values()):
            if weld is not owner and weld.last_order is None:
                self._write(weld.key, [noted])
        if owner is not None and owner.writer is not None:
            self._write(owner.key, [packet])
        else:
            self.later(lambda: self._late_photo(packet, photo))

    def _late_photo(self, packet: Packet, photo: Photo) -> None:
        """Add a photo to the finished weld that it names, of this run or an older one; keep any other beside the welds.

        Nothing is lost: a photo that cannot be added is kept beside the welds, too.
        """
        why = "no weld expects it"
        if photo.weld_hint is not None:
            from recordings.catalogue import find_weld

            weld = self.welds.get(photo.weld_hint)
            try:
                folder = weld.folder if weld is not None else find_weld(self.root, photo.weld_hint)
                if folder is not None:
                    add_packet(folder, packet)
                    return
            except (OSError, WeldError, RecordingError) as error:
                why = str(error)
        try:
            folder = self.root / self.cell.name / "unassigned"
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{packet.order:09d}_{Path(photo.name).name}").write_bytes(photo.data)
            self.on_problem(f"photo {photo.name}: {why}; kept in {folder}")
        except OSError as error:
            self.on_problem(f"photo {photo.name}: cannot be kept ({error}); check the disk of {self.root}")

    def _finish(self, order: FinishWeld) -> None:
        weld = self.welds.get(order.key)
        if weld is not None:
            self._let_go(weld)
        if weld is None or weld.writer is None:
            return
        writer, weld.writer, weld.finishing = weld.writer, None, True
        self.later(lambda: self._finalise(weld, writer, order.truth))
        finalised = [key for key, file in self.welds.items() if file.finalised]
        for key in finalised[: max(0, len(finalised) - KEPT_WELDS)]:
            del self.welds[key]

    def _finalise(self, weld: WeldFile, writer: WeldWriter, truth: dict[str, Any] | None) -> None:
        """Complete the files of a weld; takes long on a slow disk."""
        try:
            if truth is not None:
                (weld.folder / TRUTH).write_text(json.dumps(truth, indent=1), encoding="utf-8")
            writer.finalise()
            remove_marker(self.root, weld.key)
            weld.finalised = True
        except (OSError, RecordingError) as error:
            writer.abandon()
            self._failed(weld, error)
        finally:
            weld.finishing = False

    def check_space(self) -> None:
        """Stop recording cleanly below the free-space reserve, and go on above it; call every second.

        Where the cell file says so, room is made before it comes to that.
        """
        try:
            free = shutil.disk_usage(_existing(self.root)).free
        except OSError as error:
            self.on_problem(f"{self.root}: {error.strerror}; check the disk")
            return
        due = not self._making_room and time.monotonic() >= self._room_after_s
        if free < self.cell.record.delete_below_gb * 1e9 and due:
            self._making_room = True
            self.later(self._make_room)
        short = free < self.cell.record.reserve_gb * 1e9
        if short and not self.stopped_for_space:
            self.on_problem(
                f"{self.root}: {free / 1e9:.2f} GB free, below the reserve of {self.cell.record.reserve_gb:g} GB; "
                "recording stopped, free some space"
            )
            for key in [key for key, weld in self.welds.items() if weld.writer is not None]:
                self.welds[key].problem = "ended early: disk full"
                self._finish(FinishWeld(key=key))
            if self.spool is not None:
                self.spool.clear()
        self.stopped_for_space = short

    def _make_room(self) -> None:
        from recordings.retention import make_room

        lines: list[str] = []
        try:
            lines = make_room(self.root, self.cell.name, round(self.cell.record.delete_below_gb * 1e9))
        except (OSError, WeldError) as error:
            self.on_problem(f"{self.root}: no room could be made: {error}; free some space")
        finally:
            self._making_room = False
        for line in lines:
            self.on_problem(line)
        if not lines:  # nothing may go: looking again every second would list all welds every second
            self._room_after_s = time.monotonic() + _ROOM_AGAIN_S

    def _write(self, key: str, items: Iterable[RingItem]) -> None:
        """Write items of streams that the weld knows; a device found only after its beginning is left out."""

        def write(writer: WeldWriter) -> None:
            known = {*writer.manifest.streams, EVENTS_STREAM, CLOCKS_STREAM}
            for item in items:
                if item.stream in known:
                    writer.write(item)

        self._with_writer(key, write)

    def _add(self, key: str, open_weld: Callable[[WeldWriter], object], finished: Callable[[Path], object]) -> None:
        """Add words to a weld: to its writer while it is open, to its folder once it is finished, this run's or not."""
        weld = self.welds.get(key)
        if weld is not None and weld.writer is not None:
            self._with_writer(key, open_weld)
        else:
            self.later(lambda: self._add_to_folder(key, weld, finished))

    def _add_to_folder(self, key: str, weld: WeldFile | None, finished: Callable[[Path], object]) -> None:
        # It brings a table library along, which a process that only records has no use for.
        from recordings.catalogue import find_weld

        try:
            folder = weld.folder if weld is not None else find_weld(self.root, key)
            if folder is None:
                self.on_problem(f"weld {key}: is not under {self.root}; name a weld that is listed")
            elif weld is None or weld.finalised:
                finished(folder)
            else:
                self.on_problem(f"weld {key}: {weld.problem or 'is not finished'}; nothing was added, recover it first")
        except (OSError, WeldError, RecordingError) as error:
            self.on_problem(f"weld {key}: {error}; its recording is unchanged")

    def _with_writer(self, key: str, act: Callable[[WeldWriter], object]) -> None:
        weld = self.welds.get(key)
        if weld is None or weld.writer is None:
            return
        try:
            act(weld.writer)
        except (OSError, RecordingError) as error:
            self._failed(weld, error)

    def _failed(self, weld: WeldFile, error: Exception) -> None:
        weld.problem = str(error)
        if weld.writer is not None:
            weld.writer.stop()
        # What comes until the weld closes is lost, too: it is still counted.
        weld.failed, weld.writer = weld.writer, None
        if weld.last_order is not None:
            self._let_go(weld)
        self.on_problem(f"weld {weld.key}: {error}")

    def _let_go(self, weld: WeldFile) -> None:
        """Leave a weld that failed to recovery."""
        if weld.failed is not None:
            weld.failed.abandon()
            weld.failed = None


def _existing(path: Path) -> Path:
    while not path.exists():
        path = path.parent
    return path
