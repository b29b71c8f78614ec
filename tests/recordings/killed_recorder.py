"""A recorder to be killed: records a synthetic weld into argv[1] and tells on stdout what it is about to receive.

With argv[2] it kills itself at that many forced writes to the disk after finalising began.
"""

import os
import signal
import sys
from pathlib import Path
from typing import Any

from acquisition.packet import SampleBlock, SensorRows
from tests.recordings.synthetic_weld import Cell, Recording


def main() -> None:
    recording = Recording(Path(sys.argv[1]))
    for packet in Cell().weld(seconds=4.0):
        payload = packet.payload
        items = len(payload.samples) if isinstance(payload, SampleBlock) else 1
        items = len(payload.values) if isinstance(payload, SensorRows) else items
        os.write(1, f"{packet.stream} {packet.order} {items}\n".encode())
        recording.take(packet)
    if len(sys.argv) > 2:
        left, fsync = int(sys.argv[2]), os.fsync

        def fsync_or_die(fd: Any) -> None:
            nonlocal left
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            fsync(fd)

        os.fsync = fsync_or_die
    recording.writer.finalise()


main()
