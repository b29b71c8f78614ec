"""A weld whose recorder was killed while it opened: written again from the dead process's spool, pre-roll and all."""

import contextlib
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec
import xxhash

from acquisition.packet import CLOCKS_STREAM, EVENTS_STREAM, ClockUpdate, Event, Packet, item_range
from acquisition.wire import Header, TransportError, UnreadableError, read_header, read_packet, topic_frame
from recordings.ingest import clock_snapshot
from recordings.manifest import Loss, Manifest, UtcPair
from recordings.marks import read_marks
from recordings.opening import OPEN_WELDS, WeldHead, write_marker
from recordings.preroll_ring import REASON, Item
from recordings.preroll_spool import (
    CLOSED,
    FRAME,
    HEAD,
    OPENING,
    RECORD,
    SEGMENT,
    SLOT_BYTES,
    SLOTS,
    SPOOL,
    UNBORN,
    Closed,
)
from recordings.video_encoder import EncodedFrame
from recordings.weld_folder import MANIFEST, MARKS, RecordingError, WeldError, force_to_disk, load_manifest
from recordings.weld_writer import WeldWriter

try:
    import fcntl
except ImportError:  # Windows: no advisory locks, as for the marks of a weld
    fcntl = None  # type: ignore[assignment]


_UNBORN_S: Final = 60.0
"""A spool that has no name after this long never will: its process died while making it."""


@dataclass(slots=True)
class _Spooled:
    """What a spool holds.

    Attributes:
        items: In order.
        head: The newest one.
        utc: The newest pair.
        torn: The last record read was not whole.
        whole: Nothing was left out; a torn last record is none.
    """

    items: list[Item] = field(default_factory=list)
    head: WeldHead | None = None
    utc: UtcPair | None = None
    torn: bool = False
    whole: bool = True


def rebuild_openings(path: Path) -> list[str]:
    """Write again the welds at or below `path` that dead processes were opening; call it before recovering them.

    Afterwards such a weld is an open one like any other: `recover` finishes it and counts, by its marks, what was
    received and is not on disk. A weld that cannot be rebuilt (spool missing, damaged, or of another run of the
    machine) stays as it is. Spools that have served are deleted, those of living processes are left alone. May be
    killed at any instant and called again.

    Args:
        path: A root of recordings, a weld folder, or anything in between.

    Returns:
        One line per weld that could not be written; it is tried again at the next call.
    """
    path = path.absolute()
    root = next((base for base in (path, *path.parents[:3]) if (base / OPEN_WELDS).is_dir()), None)
    problems: list[str] = []
    if root is None:
        return problems
    for unborn in (root / OPEN_WELDS).glob(f"{UNBORN}*"):
        if time.time() - unborn.stat().st_mtime > _UNBORN_S:
            shutil.rmtree(unborn, ignore_errors=True)
    for spool in sorted((root / OPEN_WELDS).glob(f"{SPOOL}*")):
        with _taken(spool) as taken:
            if not taken:
                continue
            left, spooled, marks = 0, None, read_marks(spool / MARKS)
            for slot, weld_open, closed in _openings(spool):
                spooled = spooled or _read(spool)
                try:
                    folder = _folder(root, spooled, weld_open)
                    if folder is not None and not folder.is_relative_to(path):
                        left += 1
                        continue
                    if folder is not None and marks is not None and marks.same_boot:
                        received = {name: mark for name, mark in marks.marks.items() if mark is not None}
                        closed = closed or Closed(last_order=None, marks=received)
                        _rebuild(root, folder, spooled, weld_open, closed)
                    _free(spool, slot)
                except (WeldError, RecordingError, OSError) as error:
                    problems.append(str(error))
                    left += 1
        if not left:
            shutil.rmtree(spool, ignore_errors=True)
    return problems


@contextlib.contextmanager
def _taken(spool: Path) -> Iterator[bool]:
    """Hold a dead process's spool; False where a living one (or another rebuild) has it."""
    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context((spool / MARKS).open("rb"))
            if fcntl is not None:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            taken = False
        else:
            taken = True
        yield taken


def _openings(spool: Path) -> list[tuple[int, Packet, Closed | None]]:
    """Give the welds that were being opened, by their slot, with how far those had come that have closed."""
    found = []
    try:
        data = (spool / OPENING).read_bytes()
    except OSError:
        data = b""
    for slot in range(min(SLOTS, len(data) // SLOT_BYTES)):
        weld_open, closed = None, None
        with contextlib.suppress(UnreadableError, ValueError, KeyError):
            for header, frames in _Records(data[slot * SLOT_BYTES : (slot + 1) * SLOT_BYTES]):
                if header.kind == CLOSED:
                    closed = msgspec.convert(header.meta["closed"], Closed)
                else:
                    weld_open = read_packet(header, frames)
        if weld_open is not None and isinstance(weld_open.payload, Event) and weld_open.payload.weld is not None:
            found.append((slot, weld_open, closed))
    return found


def _free(spool: Path, slot: int) -> None:
    """Say that the weld of a slot needs the spool no longer."""
    with (spool / OPENING).open("r+b") as file:
        file.seek(slot * SLOT_BYTES)
        file.write(bytes(RECORD.size))


class _Records:
    """The whole records at the beginning of some bytes, as headers and frames.

    Attributes:
        whole: After iterating: the bytes ended with a record.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.whole = False

    def __iter__(self) -> Iterator[tuple[Header, list[bytes]]]:
        data, at = self._data, 0
        while at + RECORD.size <= len(data):
            length, check = RECORD.unpack_from(data, at)
            body = data[at + RECORD.size : at + RECORD.size + max(0, length)]
            if not body or len(body) < length or xxhash.xxh3_64_intdigest(body) != check:
                return
            try:
                frames = msgspec.msgpack.decode(body, type=list[bytes])
                yield read_header([topic_frame(""), *frames])[1], frames[1:]
            except (ValueError, TransportError):
                return
            at += RECORD.size + length
        self.whole = at == len(data)


def _read(spool: Path) -> _Spooled:
    """Read a spool up to its end, or to the first record that is damaged: what lies behind it may have a hole."""
    found, clocks = _Spooled(), set[int]()
    for path in sorted(spool.glob(f"*{SEGMENT}")):
        found.whole = found.whole and not found.torn
        if not found.whole:
            break
        records = _Records(path.read_bytes())
        try:
            for header, frames in records:
                if header.kind == HEAD:
                    found.head = msgspec.msgpack.decode(header.meta["head"], type=WeldHead)
                    found.utc = msgspec.convert(header.meta["utc"], UtcPair)
                    continue
                item = _item(header, frames)
                if isinstance(item, Packet) and isinstance(item.payload, ClockUpdate):
                    if item.order in clocks:
                        continue
                    clocks.add(item.order)
                found.items.append(item)
        except (ValueError, KeyError, TypeError):
            found.torn = True
        found.torn = found.torn or not records.whole
    found.items.sort(key=lambda item: item.order)
    return found


def _item(header: Header, frames: Sequence[bytes]) -> Item:
    if header.kind == FRAME:
        return EncodedFrame(**header.meta, data=frames[0])
    return read_packet(header, frames)


def _folder(root: Path, spooled: _Spooled, weld_open: Packet) -> Path | None:
    """Where the weld lies, or will; None when that cannot be known any more."""
    event = weld_open.payload
    assert isinstance(event, Event)
    if spooled.head is None or spooled.utc is None:
        return None
    computed = spooled.head.folder(root, weld_open, spooled.utc)
    marker = root / OPEN_WELDS / computed.name
    named = root / marker.read_text(encoding="utf-8").strip() if marker.is_file() else computed
    return named if named.name == computed.name and named.resolve().is_relative_to(root.resolve()) else computed


def _rebuild(root: Path, folder: Path, spooled: _Spooled, weld_open: Packet, closed: Closed) -> None:
    """Write one weld, unless it was finished meanwhile or the spool knows less of it than its folder may."""
    exists = (folder / MANIFEST).exists()
    if exists and (load_manifest(folder).state != "open" or not spooled.whole):
        return
    assert spooled.head is not None
    assert spooled.utc is not None
    manifest = spooled.head.manifest(weld_open, spooled.utc)
    items = _beginning(spooled, weld_open, manifest, closed.last_order)
    manifest.last_order = closed.last_order
    if not items:
        return
    write_marker(root, manifest.key, folder)
    # What it holds is a part of what the spool holds. Without its manifest it is no weld, should this be cut off.
    (folder / MANIFEST).unlink(missing_ok=True)
    if folder.exists():
        shutil.rmtree(folder)
    writer = WeldWriter(folder, manifest, spooled.head.codings, expected=items)
    try:
        event = weld_open.payload
        assert isinstance(event, Event)
        for item in (*clock_snapshot(event), *items):
            writer.write(item)
        before = [item for item in spooled.items if item.order < manifest.first_order]
        writer.catch_up(closed.marks, closed.last_order, before)
        writer.flush()
        writer.save_manifest()
    finally:
        writer.abandon()
    for file in (*folder.iterdir(), folder):
        force_to_disk(file)


def _is_about(item: Item, key: str) -> bool:
    return isinstance(item, Packet) and isinstance(item.payload, Event) and item.payload.weld == key


def _beginning(spooled: _Spooled, weld_open: Packet, manifest: Manifest, last_order: int | None) -> list[Item]:
    """Give the weld's items; what its streams lack before the first of them goes into the manifest, as a bound."""
    known = {*manifest.streams, EVENTS_STREAM, CLOCKS_STREAM}
    mine = [
        item
        for item in spooled.items
        if item.order >= manifest.first_order
        and item.stream in known
        and (last_order is None or item.order <= last_order or _is_about(item, manifest.key))
    ]
    if all(item.order != weld_open.order for item in mine):
        mine = sorted([*mine, weld_open], key=lambda item: item.order)
    late = not any(item.order == manifest.first_order for item in mine)
    begun: dict[str, Item] = {}
    items: list[Item] = []
    for item in mine:
        if isinstance(item, EncodedFrame) and item.stream not in begun and not item.keyframe:
            late = True
            continue
        begun.setdefault(item.stream, item)
        items.append(item)
    for name, record in manifest.streams.items() if late else ():
        first = begun.get(name)
        rate_hz = record.info.rate_hz
        if first is None or not rate_hz:
            continue
        number = item_range(first)[0] if isinstance(first, Packet) else first.seq
        missing = round((first.t_arrival_ns - manifest.origin_ns) * rate_hz / 1e9)
        if missing > 0:
            loss = Loss(
                t_ns=manifest.origin_ns,
                first=max(0, number - missing),
                missing=missing,
                seconds=missing / rate_hz,
                reason=REASON,
                exact=False,
            )
            record.losses.append(loss)
    return items if any(item.stream in manifest.streams for item in items) else []
