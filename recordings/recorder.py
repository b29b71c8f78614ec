"""The recorder: keeps a short ring of encoded packets, and writes every weld that opens from that ring on.

Video is encoded always, so that a weld can begin before its trigger; overlapping welds share the encoded packets.
`RecorderCore` does the work, synchronously; `Recorder` runs it on a thread behind a bounded queue.
"""

import json
import logging
import queue
import shutil
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from acquisition.packet import CLOCKS_STREAM, EVENTS_STREAM, Event, Packet, Photo, StreamInfo, VideoFrame
from recordings.cell import Cell
from recordings.ingest import clock_snapshot
from recordings.late_additions import add_label, add_scores
from recordings.manifest import LabelEntry, Manifest, StreamRecord, UtcPair
from recordings.recovery import recover
from recordings.verdict import Score, Verdict
from recordings.video_encoder import EncodedFrame, VideoEncoder
from recordings.weld_folder import MANIFEST, RecordingError, WeldError
from recordings.weld_writer import WeldWriter

log = logging.getLogger(__name__)

OPEN_WELDS: Final = ".open"
"""Folder in a root that names the welds being written, so that a restart finds them without searching."""

_RING_S: Final = 12.0


def utc_now() -> str:
    """UTC now, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def utc_pair() -> UtcPair:
    """Read the cell clock and UTC together."""
    before = time.monotonic_ns()
    utc_ns = time.time_ns()
    after = time.monotonic_ns()
    return UtcPair(monotonic_ns=(before + after) // 2, utc_ns=utc_ns, uncertainty_ns=(after - before) // 2 + 1)


def recover_open_welds(root: Path) -> list[str]:
    """Finish the welds that a dead capture process left open under `root`; returns one line per weld.

    One that cannot be finished (yet) is tried again at the next start.
    """
    lines = []
    marker: Path
    for marker in sorted((root / OPEN_WELDS).glob("*")):
        folder = root / marker.read_text(encoding="utf-8").strip()
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
        writer: The open writer, or None once finalised or failed.
        last_order: Last process packet, once known.
        problem: Why it failed, or None.
        finalised: All files are complete.
    """

    key: str
    folder: Path
    writer: WeldWriter | None
    last_order: int | None = None
    problem: str | None = None
    finalised: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelWeld:
    """Order to the recorder: label a weld that is still open, or an older one by its folder."""

    key: str
    entry: LabelEntry


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


Item = IngestedPacket | Score | Verdict | LabelWeld | FinishWeld


@dataclass
class RecorderCore:
    """Writes welds; every method runs on one thread.

    Attributes:
        cell: The cell file.
        infos: Streams by name (may grow).
        root: Folder of all recordings.
        session: Session name written into every weld.
        source: `live` or `simulated`.
        utc: Reads a (cell clock, UTC) pair.
        welds: Welds by key.
        metadata: part, program, operator, ... for the next weld.
        on_problem: Called with one line when something could not be kept.
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
    stopped_for_space: bool = False
    _ring: deque[Packet | EncodedFrame] = field(default_factory=deque)
    _encoders: dict[str, VideoEncoder] = field(default_factory=dict)

    def handle(self, item: Item) -> None:
        """Take one item; trouble with one weld never reaches another."""
        if isinstance(item, IngestedPacket):
            self._packet(item.packet, item.keyframe)
        elif isinstance(item, Score | Verdict):
            self._add(item.weld, lambda writer: writer.score(item), lambda folder: add_scores(folder, [item]))
        elif isinstance(item, LabelWeld):
            self._add(
                item.key,
                lambda writer: writer.manifest.labels.append(item.entry),
                lambda folder: add_label(folder, item.entry),
            )
        else:
            self._finish(item)

    def flush(self) -> None:
        """Push what is buffered to the disk; call every 250 ms."""
        for key, weld in list(self.welds.items()):
            if weld.writer is not None:
                self._with_writer(key, lambda writer: writer.flush())

    @property
    def writers(self) -> list[WeldWriter]:
        """Writers of the welds that still take process packets."""
        return [w.writer for w in list(self.welds.values()) if w.writer is not None and w.last_order is None]

    def _packet(self, packet: Packet, keyframe: bool) -> None:
        payload = packet.payload
        if isinstance(payload, Photo):
            self._photo(packet, payload)
            return
        if isinstance(payload, VideoFrame):
            items: list[Packet | EncodedFrame] = list(self._encode(packet, keyframe))
        else:
            items = [packet]
        self._ring.extend(items)
        horizon_ns = packet.t_arrival_ns - round((self.cell.record.pre_s + _RING_S) * 1e9)
        while self._ring and self._ring[0].t_arrival_ns < horizon_ns:
            self._ring.popleft()
        earlier = list(self.welds.values())
        if isinstance(payload, Event) and payload.kind == "weld_open" and payload.weld is not None:
            self._open(packet, payload)  # gets this packet, too, from the ring
        for weld in earlier:
            mine = isinstance(payload, Event) and payload.weld == weld.key
            if weld.last_order is None or mine:
                self._write(weld.key, items)
        if isinstance(payload, Event) and payload.weld in self.welds:
            self._note(self.welds[payload.weld], payload)

    def _encode(self, packet: Packet, keyframe: bool) -> list[EncodedFrame]:
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
        return encoder.encode(packet)

    def _open(self, packet: Packet, event: Event) -> None:
        assert event.weld is not None
        key, first_order = event.weld, int(event.data["first_order"])
        utc = self.utc()
        start_utc_ns = utc.utc_ns - utc.monotonic_ns + (event.t_ns or packet.t_arrival_ns)
        day = datetime.fromtimestamp(start_utc_ns / 1e9, tz=UTC).strftime("%Y-%m-%d")
        folder = self.root / self.cell.name / day / key
        weld = self.welds[key] = WeldFile(key, folder, None)
        if self.stopped_for_space:
            weld.problem = f"not recorded: less than {self.cell.record.reserve_gb:g} GB are free at {self.root}"
            self.on_problem(f"{key}: {weld.problem}; free some space")
            return
        manifest = Manifest(
            key=key,
            cell=self.cell.name,
            session=self.session,
            state="open",
            streams={n: StreamRecord(info=i, files=[], codec="") for n, i in self.infos.items()},
            utc=[utc],
            first_order=first_order,
            origin_ns=int(event.data["origin_ns"]),
            arc_on_ns=event.t_ns,
            metadata=self.cell.metadata | self.metadata,
            source="simulated" if self.source == "simulated" else "live",
        )
        try:
            marker = self.root / OPEN_WELDS / key
            marker.parent.mkdir(parents=True, exist_ok=True)
            marker.write_text(str(folder.relative_to(self.root)), encoding="utf-8")
            before = [item for item in self._ring if item.order >= first_order]
            weld.writer = WeldWriter(folder, manifest, self._encoders, expected=before)
        except (OSError, RecordingError) as error:
            self._failed(weld, error)
            return
        self._write(key, clock_snapshot(event))
        self._write(key, before)
        self._with_writer(key, lambda writer: writer.flush())
        self._with_writer(key, lambda writer: writer.save_manifest())

    def _note(self, weld: WeldFile, event: Event) -> None:
        """Keep the manifest in step with the weld's own events."""
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
        self._ring.append(noted)
        for weld in list(self.welds.values()):
            if weld is not owner and weld.last_order is None:
                self._write(weld.key, [noted])
        if owner is not None and owner.writer is not None:
            self._write(owner.key, [packet])
            return
        try:
            folder = self.root / self.cell.name / "unassigned"
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{packet.order:09d}_{Path(photo.name).name}").write_bytes(photo.data)
            self.on_problem(f"photo {photo.name}: no weld expects it; kept in {folder}")
        except OSError as error:
            self.on_problem(f"photo {photo.name}: cannot be kept ({error}); check the disk of {self.root}")

    def _finish(self, order: FinishWeld) -> None:
        weld = self.welds.get(order.key)
        if weld is None or weld.writer is None:
            return
        try:
            if order.truth is not None:
                (weld.folder / "truth.json").write_text(json.dumps(order.truth, indent=1), encoding="utf-8")
            weld.writer.finalise()
            (self.root / OPEN_WELDS / weld.key).unlink(missing_ok=True)
        except (OSError, RecordingError) as error:
            self._failed(weld, error)
            return
        weld.writer = None
        weld.finalised = True

    def check_space(self) -> None:
        """Stop recording cleanly below the free-space reserve, and go on above it; call every second."""
        try:
            free = shutil.disk_usage(_existing(self.root)).free
        except OSError as error:
            self.on_problem(f"{self.root}: {error.strerror}; check the disk")
            return
        short = free < self.cell.record.reserve_gb * 1e9
        if short and not self.stopped_for_space:
            self.on_problem(
                f"{self.root}: {free / 1e9:.2f} GB free, below the reserve of {self.cell.record.reserve_gb:g} GB; "
                "recording stopped, free some space"
            )
            for key in [key for key, weld in self.welds.items() if weld.writer is not None]:
                self.welds[key].problem = "ended early: disk full"
                self._finish(FinishWeld(key=key))
        self.stopped_for_space = short

    def _write(self, key: str, items: Iterable[Packet | EncodedFrame]) -> None:
        """Write items of streams that the weld knows; a device found only after its beginning is left out."""

        def write(writer: WeldWriter) -> None:
            known = {*writer.manifest.streams, EVENTS_STREAM, CLOCKS_STREAM}
            for item in items:
                if item.stream in known:
                    writer.write(item)

        self._with_writer(key, write)

    def _add(self, key: str, open_weld: Callable[[WeldWriter], object], finished: Callable[[Path], object]) -> None:
        """Add words to a weld: to its writer while it is open, to its folder once it is finished."""
        weld = self.welds.get(key)
        if weld is None or not weld.finalised:
            self._with_writer(key, open_weld)
            return
        try:
            finished(weld.folder)
        except (OSError, WeldError) as error:
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
            weld.writer.abandon()
        weld.writer = None
        self.on_problem(f"weld {weld.key}: {error}")


class Recorder:
    """Runs a `RecorderCore` on a thread named `recorder`; the ingest thread never waits for the disk.

    Attributes:
        core: The core; read its `welds` from other threads, change nothing.
        overrun: Device packets that found the queue full and were not recorded, per stream.
    """

    LIMIT_BYTES: Final = 512 * 2**20

    def __init__(self, core: RecorderCore) -> None:
        """Start the thread."""
        self.core = core
        self.overrun: dict[str, int] = {}
        self._key_due: set[str] = set()
        self._queue: queue.SimpleQueue[Item | None] = queue.SimpleQueue()
        self._bytes = 0
        self._taken = 0
        self._thread = threading.Thread(target=self._run, name="recorder", daemon=True)
        self._thread.start()

    @property
    def buffered_bytes(self) -> int:
        """Bytes waiting between ingest and disk."""
        return max(0, self._bytes - self._taken)

    def put(self, item: Item) -> None:
        """Hand over an item; a device packet that finds the buffer full is dropped and counted."""
        if isinstance(item, IngestedPacket):
            size = _size(item.packet)
            name = item.packet.stream
            # What was decided is small, and without it no weld would open or close: it is never dropped.
            if self.buffered_bytes + size > self.LIMIT_BYTES and name not in (CLOCKS_STREAM, EVENTS_STREAM):
                if item.keyframe:
                    self._key_due.add(name)
                if name not in self.overrun:
                    self.core.on_problem(f"{name}: the disk is too slow, packets are not recorded; use a faster disk")
                self.overrun[name] = self.overrun.get(name, 0) + 1
                return
            if name in self._key_due:
                self._key_due.remove(name)
                item = replace(item, keyframe=True)
            for writer in self.core.writers:
                if item.packet.stream in writer.manifest.streams:
                    writer.received(item.packet)
            self._bytes += size
        self._queue.put(item)

    def _run(self) -> None:
        last_flush = last_space = time.monotonic()
        while True:
            try:
                item = self._queue.get(timeout=0.1)
            except queue.Empty:
                pass
            else:
                if item is None:
                    return
                try:
                    self.core.handle(item)
                except Exception as error:
                    log.exception("the recorder failed on %s", type(item).__name__)
                    self.core.on_problem(f"recorder: {type(error).__name__}: {error}; see the log")
                if isinstance(item, IngestedPacket):
                    self._taken += _size(item.packet)
            now = time.monotonic()
            if now - last_flush > 0.2:
                last_flush = now
                self.core.flush()
            if now - last_space > 1.0:
                last_space = now
                self.core.check_space()

    def close(self, timeout_s: float = 30.0) -> bool:
        """Write what is queued and end; False when the disk did not keep up within `timeout_s`."""
        self._queue.put(None)
        self._thread.join(timeout_s)
        return not self._thread.is_alive()


def _size(packet: Packet) -> int:
    payload = packet.payload
    if isinstance(payload, VideoFrame):
        return payload.pixels.nbytes
    if isinstance(payload, Photo):
        return len(payload.data)
    return 1024


def _existing(path: Path) -> Path:
    while not path.exists():
        path = path.parent
    return path
