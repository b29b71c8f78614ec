"""The reference sketch (docs/serial_frames/weld_sensors.ino), compiled as it is and running as a process.

Its two values count conversions modulo 1024, so that the number of every row is also in its data.
"""

import os
import subprocess
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Final

import numpy as np
import numpy.typing as npt

from tests.acquisition.counterparts import ROOT, _Process, program, wait_until

SKETCH: Final = ROOT / "docs" / "serial_frames" / "weld_sensors.ino"
CHANNELS: Final = ("current_a", "voltage_v")
RATE_HZ: Final = 200.0


@cache
def compiled_sketch() -> Path:
    """Compile the sketch for this machine, warnings being errors."""
    here = ROOT / "tests" / "acquisition"
    made = Path(mkdtemp(dir=os.environ["XDG_STATE_HOME"])) / "weld_sensors"
    command = [
        *(program("g++"), "-std=c++11", "-Wall", "-Wextra", "-Werror", "-O1"),
        *("-I", str(here / "arduino"), "-include", str(SKETCH)),
        *("-o", str(made), str(here / "arduino_host.cpp")),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return made


def row_numbers(values: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """The row numbers, modulo 1024, that the values of the sketch hold; both channels must agree."""
    counts = np.rint(values / [800.0, 100.0] * 1023.0).astype(np.int64)
    np.testing.assert_array_equal(counts[:, 0], counts[:, 1])
    return counts[:, 0]


class ArduinoBoard:
    """A board with power of its own at the far end of a cable: pulling the cable does not restart it."""

    def __init__(self, folder: Path) -> None:
        self.port = folder / "board"
        self._far = folder / "board-far"
        self._cable: _Process | None = None
        self.process: _Process | None = None

    def start(self, begin_us: int = 0) -> None:
        """Give the board power; its clock shows `begin_us`."""
        self.process = _Process([str(compiled_sketch()), str(self._far), str(begin_us)])

    def stop(self) -> None:
        """Take the power away; may be called twice."""
        if self.process is not None:
            self.process.kill()
            self.process = None

    def plug(self) -> None:
        """Put the cable in."""
        ends = (f"pty,raw,echo=0,link={self.port}", f"pty,raw,echo=0,link={self._far}")
        self._cable = _Process([program("socat"), *ends])
        wait_until(lambda: self.port.exists() and self._far.exists(), "socat made both ends")

    def unplug(self) -> None:
        """Pull the cable; may be called twice."""
        if self._cable is not None:
            self._cable.kill()
            self._cable = None
        for link in (self.port, self._far):
            link.unlink(missing_ok=True)
