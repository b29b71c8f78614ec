"""Back-pressure of a replay: who reads it, how far each has come, and whether the slowest must be waited for."""

import logging
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import msgspec

from acquisition.packet import Packet, Photo, SampleBlock, SensorRows, VideoFrame

log = logging.getLogger(__name__)

AHEAD_PACKETS: Final = 1000
"""Half of what a publisher's and a reader's queue hold each, so that neither overflows."""
AHEAD_BYTES: Final = 64 * 2**20
SILENT_S: Final = 2.0
_REMEMBERED: Final = 8000


class Reported(msgspec.Struct, frozen=True, kw_only=True):
    """What a reader reports: its name, the order of its last packet, the number of the last seek before that."""

    reader: str
    order: int
    seek: int = 0


@dataclass(slots=True)
class _Reader:
    """One reader: what it has handled of all that was sent, and when it was last heard of and last moved on."""

    packets: int
    sent_bytes: int
    last: Reported
    heard_s: float
    moved_s: float
    silent: bool = False


class ReplayReaders:
    """Follows the readers of a replay; owned by its thread."""

    def __init__(self, on_silent: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        """Start without a reader.

        Args:
            on_silent: Called with the name of a reader that is waited for no longer.
            clock: Gives seconds.
        """
        self._on_silent = on_silent
        self._clock = clock
        self._readers: dict[str, _Reader] = {}
        self._packets = 0
        self._bytes = 0
        self._marks: dict[tuple[int, int], tuple[int, int]] = {}
        self._oldest: deque[tuple[int, int]] = deque()

    def sent(self, seek: int, packet: Packet) -> None:
        """Note that a packet was published."""
        self._packets += 1
        self._bytes += packet_bytes(packet)
        key = (seek, packet.order)
        if key not in self._marks:
            self._oldest.append(key)
        self._marks[key] = (self._packets, self._bytes)
        if len(self._oldest) > _REMEMBERED:
            del self._marks[self._oldest.popleft()]

    def report(self, reported: Reported) -> None:
        """Take what a reader reports. A new one, and one that was left out, counts from now on."""
        now_s = self._clock()
        mark = self._marks.get((reported.seek, reported.order))
        reader = self._readers.get(reported.reader)
        if reader is None:
            packets, sent_bytes = mark or (self._packets, self._bytes)
            self._readers[reported.reader] = _Reader(packets, sent_bytes, reported, now_s, now_s)
            return
        reader.heard_s = now_s
        if reported != reader.last:
            reader.last, reader.moved_s = reported, now_s
            if reader.silent:
                log.info("reader '%s' of the replay is back", reported.reader)
                reader.silent = False
                reader.packets, reader.sent_bytes = mark or (self._packets, self._bytes)
        if mark is not None and mark[0] > reader.packets:
            reader.packets, reader.sent_bytes = mark
        if reader.packets == self._packets:
            reader.moved_s = now_s

    def full(self) -> bool:
        """Whether the slowest reader must come on first; one that is silent or stands still for 2 s is left out."""
        behind = False
        for name, reader in self._readers.items():
            if reader.silent:
                continue
            if self._packets - reader.packets < AHEAD_PACKETS and self._bytes - reader.sent_bytes < AHEAD_BYTES:
                continue
            if self._clock() - min(reader.heard_s, reader.moved_s) > SILENT_S:
                reader.silent = True
                self._on_silent(name)
            else:
                behind = True
        return behind


def packet_bytes(packet: Packet) -> int:
    """Return about how many bytes a packet takes in memory."""
    payload = packet.payload
    if isinstance(payload, VideoFrame):
        return payload.pixels.nbytes
    if isinstance(payload, SampleBlock):
        return payload.samples.nbytes
    if isinstance(payload, SensorRows):
        return payload.values.nbytes
    return len(payload.data) if isinstance(payload, Photo) else 256
