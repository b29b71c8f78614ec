"""The pre-roll on disk: what the ring holds, also in files that outlive a killed process (but not a power cut).

A weld that is being opened has its pre-roll in memory only. Should the process be killed just then, `preroll_rebuild`
writes the weld again from here. A spool is a folder `<root>/.open/spool-<pid>-*`:

* `NNNNNNNN.items`: segments of about two seconds, deleted as the ring forgets what they hold. A record is its length
  (int32), its XXH3-64 and a msgpack list of one message's frames (`acquisition.wire`); the last one may be torn;
* `opening.bin`: the `weld_open` packets of the welds whose pre-roll is not on disk yet, memory-mapped; of one that has
  closed meanwhile also its last order and the last item of every stream until then;
* `marks.bin`: the last item received of every stream (`recordings.marks`); its lock says that the process lives.
"""

import contextlib
import logging
import mmap
import os
import shutil
import struct
import tempfile
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import msgspec
import xxhash

from acquisition.packet import ClockUpdate, Event, Packet, item_range
from acquisition.wire import message_frames, packet_frames
from recordings.manifest import UtcPair
from recordings.marks import Mark, Marks
from recordings.opening import OPEN_WELDS, WeldHead
from recordings.preroll_ring import Item
from recordings.video_encoder import EncodedFrame
from recordings.weld_folder import MARKS

log = logging.getLogger(__name__)

SPOOL: Final = "spool-"
UNBORN: Final = "new-"
OPENING: Final = "opening.bin"
SEGMENT: Final = ".items"
FRAME: Final = "EncodedFrame"
HEAD: Final = "WeldHead"
CLOSED: Final = "Closed"

RECORD: Final = struct.Struct("<iQ")
SLOTS: Final = 8
SLOT_BYTES: Final = 1 << 15

_SEGMENT_NS: Final = 2_000_000_000
_SEGMENT_BYTES: Final = 64_000_000
_PAUSE_NS: Final = 10_000_000_000
"""After an error of the disk nothing is spooled for this long."""


class Closed(msgspec.Struct, frozen=True, kw_only=True):
    """How far a weld had come on the ingest thread.

    Attributes:
        last_order: Its last packet, None while it is not closed.
        marks: The last item received of every stream until then.
    """

    last_order: int | None
    marks: dict[str, Mark]


class PrerollSpool:
    """One process's spool. `received` and `decided` are for the ingest thread and cost no system call.

    All other methods are for the recorder thread. An error of the disk is returned once in words; it costs the
    protection of what is spooled, nothing else.

    Attributes:
        folder: Its folder.
    """

    def __init__(self, root: Path, streams: Sequence[str]) -> None:
        """Make an empty spool.

        Args:
            root: Folder of all recordings.
            streams: The cell's device streams, of which what is received is noted.

        Raises:
            OSError: The disk is full or gone.
        """
        parent = root / OPEN_WELDS
        parent.mkdir(parents=True, exist_ok=True)
        # Locked before it has its name, so that nobody takes it for one that a dead process left.
        made = Path(tempfile.mkdtemp(prefix=UNBORN, dir=parent))
        self._marks = Marks(made / MARKS, [*streams])
        self._known = frozenset(streams)
        self._newest: dict[str, Mark] = {}
        # Written, not just sized: a hole would be filled by a page fault, and on a full disk that kills the process.
        (made / OPENING).write_bytes(bytes(SLOTS * SLOT_BYTES))
        with (made / OPENING).open("r+b") as file:
            self._slots = mmap.mmap(file.fileno(), 0)
        self._opening: list[tuple[str, int] | None] = [None] * SLOTS
        self._closed: dict[str, Closed] = {}
        self._lock = threading.Lock()
        self.folder = made.rename(parent / f"{SPOOL}{os.getpid()}-{made.name.removeprefix(UNBORN)}")
        self._segments: list[tuple[Path, int]] = []
        self._file: int | None = None
        self._number = 0
        self._begun_ns = 0
        self._written = 0
        self._last_order = 0
        self._head: WeldHead | None = None
        self._clocks: dict[str, Packet] = {}
        self._paused_until_ns = 0

    # -- ingest thread ---------------------------------------------------------------------------------------------

    def received(self, packet: Packet) -> None:
        """Note that a packet was received, before anybody else is told of it."""
        if packet.stream not in self._known:
            return
        first, items = item_range(packet)
        before = self._newest.get(packet.stream)
        self._marks.note(
            packet.stream,
            order=packet.order,
            segment=packet.segment,
            seq=packet.seq,
            item=first + items,
            arrival_ns=packet.t_arrival_ns,
            items=items,
        )
        self._newest[packet.stream] = Mark(
            first_order=packet.order if before is None else before.first_order,
            last_order=packet.order,
            segment=packet.segment,
            seq=packet.seq,
            item=first + items,
            arrival_ns=packet.t_arrival_ns,
            items=items + (0 if before is None else before.items),
        )

    def decided(self, packet: Packet) -> None:
        """Keep the decision to open a weld, and to close it, until `opened` says that its pre-roll is on disk.

        Args:
            packet: A `weld_open` or `weld_close`; anything else is passed by.
        """
        event = packet.payload
        if not isinstance(event, Event) or event.weld is None:
            return
        with self._lock:
            if event.kind == "weld_open" and None in self._opening:
                self._put(self._opening.index(None), event.weld, 0, _record(packet_frames(packet, 0)[1:]))
            elif event.kind == "weld_close":
                for slot, held in enumerate(self._opening):
                    if held is not None and held[0] == event.weld:
                        closed = Closed(last_order=int(event.data["last_order"]), marks=self._newest.copy())
                        self._closed[event.weld] = closed
                        meta = {"closed": msgspec.to_builtins(closed)}
                        self._put(slot, event.weld, held[1], _record(message_frames("", CLOSED, meta, 0)[1:]))

    def _put(self, slot: int, key: str, used: int, record: bytes) -> None:
        """Append a record to a slot, its head last: half a record is none."""
        if used + len(record) <= SLOT_BYTES:
            at = slot * SLOT_BYTES + used
            self._slots[at + RECORD.size : at + len(record)] = record[RECORD.size :]
            self._slots[at : at + RECORD.size] = record[: RECORD.size]
            self._opening[slot] = key, used + len(record)

    # -- recorder thread -------------------------------------------------------------------------------------------

    def received_of(self, key: str) -> Closed:
        """The last item received of every stream, until a weld that is being opened closed, or so far."""
        with self._lock:
            return self._closed.get(key) or Closed(last_order=None, marks=self._newest.copy())

    def opened(self, key: str) -> None:
        """The weld needs the spool no longer: its pre-roll is on disk, or it is not recorded."""
        with self._lock:
            self._closed.pop(key, None)
            for slot, held in enumerate(self._opening):
                if held is not None and held[0] == key:
                    at = slot * SLOT_BYTES
                    self._slots[at : at + held[1]] = bytes(held[1])
                    self._opening[slot] = None

    def append(
        self, items: Sequence[Item], head: WeldHead, utc: Callable[[], UtcPair], oldest_order: int
    ) -> str | None:
        """Write what has come to the ring, and delete what the ring has forgotten.

        Args:
            items: The newest items, in order.
            head: What holds for them.
            utc: Reads a (cell clock, UTC) pair, which dates welds.
            oldest_order: Order of the oldest item of the ring.

        Returns:
            Why nothing is spooled from now on, in one line, or None.
        """
        for item in items:
            if isinstance(item, Packet) and isinstance(item.payload, ClockUpdate):
                self._clocks[item.payload.of_stream] = item
        if not items or items[-1].t_arrival_ns < self._paused_until_ns:
            return None
        now_ns = items[-1].t_arrival_ns
        try:
            full = now_ns - self._begun_ns > _SEGMENT_NS or self._written > _SEGMENT_BYTES
            if self._file is None or full or head != self._head:
                self._begin(head, utc(), now_ns)
            self._write(b"".join(_item_record(item) for item in items))
            self._last_order = items[-1].order
            while self._segments and self._segments[0][1] < oldest_order:
                self._segments.pop(0)[0].unlink(missing_ok=True)
        except OSError as error:
            self.clear()
            self._paused_until_ns = now_ns + _PAUSE_NS
            return f"{self.folder}: {error.strerror}; a weld that is cut off while it begins may lose its pre-roll"
        return None

    def _begin(self, head: WeldHead, utc: UtcPair, now_ns: int) -> None:
        """Begin a segment: what holds for its items, and the clocks in force, for none before it may be left."""
        self._end()
        self._number += 1
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | getattr(os, "O_BINARY", 0)
        self._file = os.open(self.folder / f"{self._number:08d}{SEGMENT}", flags, 0o644)
        self._head, self._begun_ns, self._written = head, now_ns, 0
        meta = {"head": msgspec.msgpack.encode(head), "utc": msgspec.to_builtins(utc)}
        clocks = (_item_record(packet) for packet in self._clocks.values())
        self._write(_record(message_frames("", HEAD, meta, 0)[1:]) + b"".join(clocks))

    def _write(self, data: bytes) -> None:
        assert self._file is not None
        view = memoryview(data)
        while view:
            view = view[os.write(self._file, view) :]
        self._written += len(data)

    def _end(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._segments.append((self.folder / f"{self._number:08d}{SEGMENT}", self._last_order))
            self._file = None

    def clear(self) -> None:
        """Delete what is spooled so far: there is no room for it, or it is not whole any more."""
        with contextlib.suppress(OSError):
            self._end()
        for path in self.folder.glob(f"*{SEGMENT}"):
            with contextlib.suppress(OSError):
                path.unlink()
        self._segments.clear()

    def close(self) -> None:
        """End in order: nothing is left to be rebuilt, and the folder goes."""
        with contextlib.suppress(OSError):
            self._end()
        self._slots.close()
        self._marks.close()
        shutil.rmtree(self.folder, ignore_errors=True)


def _item_record(item: Item) -> bytes:
    if isinstance(item, Packet):
        return _record(packet_frames(item, 0)[1:])
    meta = {name: getattr(item, name) for name in EncodedFrame.__dataclass_fields__ if name != "data"}
    return _record([*message_frames("", FRAME, meta, 0)[1:], item.data])


def _record(frames: "list[bytes | memoryview]") -> bytes:
    data = msgspec.msgpack.encode(frames)
    return RECORD.pack(len(data), xxhash.xxh3_64_intdigest(data)) + data
