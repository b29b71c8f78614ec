"""A recorder that is killed while a weld opens: records a hand-made cell into argv[1], and tells on stdout what it got.

It dies by its own hand at the place that argv[2] names: `decided` (the decision waits for the recorder), `spooled` (the
recorder has it, nothing of the weld is on disk), `closed` (the same, but the weld's end has come meanwhile), or a
number (so many items of the weld are written). By then some more packets have come, which wait in memory and are lost.
"""

import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

from acquisition.packet import Event, Packet, item_range
from recordings.ingest import Ingest
from recordings.preroll_spool import PrerollSpool
from recordings.recorder import IngestedPacket, Item, RecorderCore
from recordings.recorder_thread import Recorder
from recordings.weld_writer import WeldWriter
from tests.recordings.handmade import INFOS, World, cell

WAITING = 40
"""Packets received after the decision."""


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class Core(RecorderCore):
    """Waits with the weld's opening until more packets have been received."""

    go = threading.Event()
    place = sys.argv[2] if len(sys.argv) > 2 else ""

    def handle(self, item: Item) -> None:
        payload = item.packet.payload if isinstance(item, IngestedPacket) else None
        if isinstance(payload, Event) and payload.kind == "weld_open":
            assert self.go.wait(20.0)
            if self.place == "decided":
                die()
        super().handle(item)

    def _open(self, packet: Packet, event: Event) -> None:
        if self.place in ("spooled", "closed"):
            die()
        super()._open(packet, event)


def main() -> None:
    made, root = cell(), Path(sys.argv[1])
    ingest = Ingest(made, INFOS, lambda cell_ns: cell_ns)
    core = Core(cell=made, infos=ingest.infos, root=root, session="killed")
    core.spool = PrerollSpool(root, list(INFOS))
    recorder = Recorder(core)
    left = int(Core.place) if Core.place.isdigit() else -1
    write = WeldWriter.write

    def write_or_die(self: WeldWriter, item: Any) -> None:
        nonlocal left
        left -= 1
        if left == -1:
            die()
        write(self, item)

    if left >= 0:
        WeldWriter.write = write_or_die  # type: ignore[method-assign]
    waiting = None
    for packet in World().packets():
        for made_packet in ingest.push(packet):
            items = item_range(made_packet)[1] if made_packet.stream in INFOS else 0
            os.write(1, f"{made_packet.stream} {made_packet.order} {items}\n".encode())
            recorder.put(IngestedPacket(packet=made_packet, keyframe=made_packet.order == ingest.keyframe_order))
            kind = made_packet.payload.kind if isinstance(made_packet.payload, Event) else ""
            if kind == ("weld_close" if Core.place == "closed" else "weld_open"):
                waiting = WAITING
            elif waiting is not None:
                waiting -= 1
        if waiting is not None and waiting <= 0:
            break
    Core.go.set()
    threading.Event().wait(20.0)


main()
