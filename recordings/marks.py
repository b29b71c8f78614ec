"""The marks file: the last item received per stream, memory-mapped, so that it outlives a killed process.

After a power cut it may be older than the data; `Marks.same_boot` tells the two apart.
"""

import mmap
import struct
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from recordings.weld_folder import WeldError

try:
    import fcntl
except ImportError:  # Windows: no advisory locks, so a weld being recorded is not protected from `recover`
    fcntl = None  # type: ignore[assignment]

_RECORD: Final = struct.Struct("<8q")
_HEADER_BYTES: Final = 4096
_MASK: Final = (1 << 63) - 1


class _Header(msgspec.Struct, frozen=True):
    boot: str
    streams: list[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """What had been received of one stream.

    Attributes:
        first_order: `order` of the first packet counted.
        last_order: `order` of the last packet received.
        segment: Its segment.
        seq: Its `seq`.
        item: Number of the item after its last one (frame, sample, row).
        arrival_ns: Its arrival.
        items: Items received from `first_order` on.
    """

    first_order: int
    last_order: int
    segment: int
    seq: int
    item: int
    arrival_ns: int
    items: int


class Marks:
    """One writer's marks file. Thread-safe; a note costs a few microseconds and no system call.

    Every stream has two 64-byte records that are written in turn, each with a check word, so that a kill in the
    middle of one leaves the other.
    """

    def __init__(self, path: Path, streams: list[str]) -> None:
        header = msgspec.json.encode(_Header(boot=_boot(), streams=streams))
        if len(header) > _HEADER_BYTES:
            raise WeldError(f"{path}: the names of {len(streams)} streams do not fit; use fewer or shorter ones")
        # Written, not just sized: a hole would be filled by a page fault, and on a full disk that kills the process.
        self._file = path.open("w+b")
        self._file.write(header.ljust(_HEADER_BYTES, b"\n") + bytes(2 * _RECORD.size * len(streams)))
        self._file.flush()
        if fcntl is not None:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self._map = mmap.mmap(self._file.fileno(), 0)
        self._slots = {name: _HEADER_BYTES + 2 * _RECORD.size * i for i, name in enumerate(streams)}
        self._marks: dict[str, Mark] = {}
        self._turn = dict.fromkeys(streams, 0)
        self._lock = threading.Lock()

    def note(
        self,
        stream: str,
        *,
        order: int,
        segment: int,
        seq: int,
        item: int,
        arrival_ns: int,
        items: int,
        restart: bool = False,
    ) -> None:
        """Note that a packet of `items` items, ending before item number `item`, was received.

        With `restart` counting begins with this packet.
        """
        with self._lock:
            if self._map.closed:
                return  # the weld is complete, or was let go, between the packet's coming and this
            before = None if restart else self._marks.get(stream)
            mark = Mark(
                first_order=order if before is None else before.first_order,
                last_order=order,
                segment=segment,
                seq=seq,
                item=item,
                arrival_ns=arrival_ns,
                items=items + (0 if before is None else before.items),
            )
            self._marks[stream] = mark
            turn = self._turn[stream]
            self._turn[stream] = 1 - turn
            _RECORD.pack_into(self._map, self._slots[stream] + turn * _RECORD.size, *_words(mark))

    def close(self) -> None:
        """Let go of the file; it stays on disk."""
        with self._lock:
            self._map.close()
            self._file.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class MarksFile:
    """What a marks file says.

    Attributes:
        same_boot: The machine has run ever since, so the marks are not older than the data.
        marks: Per stream, None where nothing was received.
    """

    same_boot: bool
    marks: dict[str, Mark | None]


def read_marks(path: Path) -> MarksFile | None:
    """Read a marks file; None when it is absent or unreadable (then a loss can only be bounded)."""
    try:
        data = path.read_bytes()
        header = msgspec.json.decode(data[:_HEADER_BYTES].rstrip(b"\n\0"), type=_Header)
    except (OSError, UnicodeDecodeError, msgspec.MsgspecError):
        return None
    if len(data) < _HEADER_BYTES + 2 * _RECORD.size * len(header.streams):
        return None
    marks: dict[str, Mark | None] = {}
    for i, name in enumerate(header.streams):
        newest: Mark | None = None
        for turn in (0, 1):
            *words, check = _RECORD.unpack_from(data, _HEADER_BYTES + (2 * i + turn) * _RECORD.size)
            mark = Mark(**dict(zip(Mark.__dataclass_fields__, words, strict=True)))
            if check == _check(words) and (newest is None or mark.last_order > newest.last_order):
                newest = mark
        marks[name] = newest
    return MarksFile(same_boot=header.boot == _boot(), marks=marks)


def being_written(path: Path) -> bool:
    """Tell whether a living process holds this marks file."""
    if fcntl is None:
        return False
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False


def _words(mark: Mark) -> list[int]:
    words = [getattr(mark, name) for name in Mark.__dataclass_fields__]
    return [*words, _check(words)]


def _check(words: list[int]) -> int:
    """Return a check word that no all-zero record has."""
    check = 0x5765_6C64
    for word in words:
        check = (check * 1_000_003 ^ word) & _MASK
    return check


def _boot() -> str:
    """Return what tells one run of the machine from the next (Linux), or nothing."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""
