"""The recorder's threads: one that writes what comes, and one for what waits long for the disk."""

import logging
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Final

from acquisition.packet import CLOCKS_STREAM, EVENTS_STREAM, Packet, Photo, VideoFrame
from recordings.preroll_ring import lost
from recordings.recorder import IngestedPacket, Item, RecorderCore, run_now

log = logging.getLogger(__name__)


class Recorder:
    """Runs a `RecorderCore` on a thread named `recorder`; the ingest thread never waits for the disk.

    A second thread, `finisher`, completes welds, so that nothing waits in memory behind that: what is in memory only is
    what a kill costs.

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
        self._later: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        core.later = self._later.put
        self._thread = threading.Thread(target=self._run, name="recorder", daemon=True)
        self._finisher = threading.Thread(target=self._run_later, name="finisher", daemon=True)
        self._thread.start()
        self._finisher.start()

    @property
    def buffered_bytes(self) -> int:
        """Bytes waiting between ingest and disk."""
        return max(0, self._bytes - self._taken)

    def put(self, item: Item) -> None:
        """Hand over an item; a device packet that finds the buffer full is dropped and counted."""
        if isinstance(item, IngestedPacket):
            size = _size(item.packet)
            name = item.packet.stream
            spool, payload = self.core.spool, item.packet.payload
            if spool is not None:
                spool.received(item.packet)
                spool.decided(item.packet)
            # What was decided is small, and without it no weld would open or close: it is never dropped.
            if self.buffered_bytes + size > self.LIMIT_BYTES and name not in (CLOCKS_STREAM, EVENTS_STREAM):
                if item.keyframe:
                    self._key_due.add(name)
                if name not in self.overrun:
                    self.core.on_problem(f"{name}: the disk is too slow, packets are not recorded; use a faster disk")
                self.overrun[name] = self.overrun.get(name, 0) + 1
                self._queue.put(lost(item.packet, "overrun"))
                return
            if name in self._key_due:
                self._key_due.remove(name)
                item = replace(item, keyframe=True)
            if isinstance(payload, Photo):
                owner = self.core.welds.get(payload.weld_hint or "")
                noting = [] if owner is None or owner.writer is None else [owner.writer]
            else:
                noting = self.core.noting
            for writer in noting:
                if name in writer.manifest.streams or name == EVENTS_STREAM:
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
                self._guard(partial(self.core.handle, item), type(item).__name__)
                if isinstance(item, IngestedPacket):
                    self._taken += _size(item.packet)
            now = time.monotonic()
            if now - last_flush > 0.2:
                last_flush = now
                self.core.flush()
            if now - last_space > 1.0:
                last_space = now
                self.core.check_space()

    def _run_later(self) -> None:
        while (act := self._later.get()) is not None:
            self._guard(act, "a finished weld")

    def _guard(self, act: Callable[[], None], what: str) -> None:
        """Do something; what nobody foresaw is told and does not end the thread."""
        try:
            act()
        except Exception as error:
            log.exception("the recorder failed on %s", what)
            self.core.on_problem(f"recorder: {type(error).__name__}: {error}; see the log")

    def close(self, timeout_s: float = 30.0) -> bool:
        """Write what is queued and end; False when the disk did not keep up within `timeout_s`."""
        deadline = time.monotonic() + timeout_s
        self._queue.put(None)
        self._thread.join(timeout_s)
        self._later.put(None)
        self._finisher.join(max(0.0, deadline - time.monotonic()))
        done = not self._thread.is_alive() and not self._finisher.is_alive()
        if done:
            self.core.later = run_now
            if self.core.spool is not None:
                self.core.spool.close()
        return done


def _size(packet: Packet) -> int:
    payload = packet.payload
    if isinstance(payload, VideoFrame):
        return payload.pixels.nbytes
    if isinstance(payload, Photo):
        return len(payload.data)
    return 1024
