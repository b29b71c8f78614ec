"""A sensor box with power of its own: lines of text at 50 Hz over a cable of socat, lost while the cable is out."""

import threading
import time
from pathlib import Path

from tests.acquisition.counterparts import SerialCable

COLUMNS = ("seq", "device_ms", "current_a", "voltage_v")
RATE_HZ = 50.0


class TextBoard:
    """Counts rows and milliseconds from when it gets power; `current_a` is the row's number."""

    def __init__(self, folder: Path) -> None:
        self._cable = SerialCable(folder)
        self.port = str(self._cable.port)
        self._lock = threading.Lock()
        self._plugged = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._send, name="text-board")

    def start(self) -> None:
        """Give the box power."""
        self._thread.start()

    def _send(self) -> None:
        begin = time.monotonic()
        seq = 0
        while not self._stop.wait(max(0.0, begin + seq / RATE_HZ - time.monotonic())):
            line = f"{seq},{round((time.monotonic() - begin) * 1000)},{seq},24.5\r\n"
            with self._lock:
                if self._plugged:
                    try:
                        self._cable.write(line.encode())
                    except OSError:
                        self._plugged = False  # the cable went while we wrote
            seq += 1

    def plug(self) -> None:
        """Put the cable in."""
        self._cable.plug()
        with self._lock:
            self._plugged = True

    def unplug(self) -> None:
        """Pull the cable; may be called twice."""
        with self._lock:
            self._plugged = False
            self._cable.unplug()

    def stop(self) -> None:
        """Take the power away; may be called twice."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
