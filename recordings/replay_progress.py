"""What a reader of a replay reports of itself, so that the replay waits for it: `docs/replay.md`."""

import time
from collections.abc import Callable
from typing import Any, Final

from acquisition.packet import Event, Packet
from recordings.replay_readers import packet_bytes
from recordings.status import CellStatus

SEEK: Final = "replay_seek"
"""Kind of the event that a replay puts before everything that does not continue what was before it."""
EVERY_S: Final = 0.1
EVERY_PACKETS: Final = 200
EVERY_BYTES: Final = 8 * 2**20


class Progress:
    """Counts what one reader has handled; owned by its thread.

    Nothing is reported while no replay is on.
    """

    def __init__(self, reader: str, clock: Callable[[], float] = time.monotonic) -> None:
        """Count for `reader`, a name that no other reader of the replay has; `clock` gives seconds."""
        self._reader = reader
        self._clock = clock
        self._replayed = False
        self._order = self._seek = 0
        self._packets = self._bytes = 0
        self._reported_s = clock() - EVERY_S

    def follow(self, status: CellStatus) -> None:
        """Learn from a status whether this is a replay."""
        self._replayed = status.replay is not None

    def handled(self, packet: Packet) -> None:
        """Count a packet that was handled."""
        if isinstance(packet.payload, Event) and packet.payload.kind == SEEK:
            self._seek = packet.seq
        self._order = packet.order
        self._packets += 1
        self._bytes += packet_bytes(packet)

    def due(self) -> dict[str, Any] | None:
        """Return what to send with command `progress` now, or None; ask after every packet, and when nothing came."""
        if not self._replayed:
            return None
        now_s = self._clock()
        if self._packets < EVERY_PACKETS and self._bytes < EVERY_BYTES and now_s - self._reported_s < EVERY_S:
            return None
        self._reported_s, self._packets, self._bytes = now_s, 0, 0
        return {"reader": self._reader, "order": self._order, "seek": self._seek}
