"""A GigE Vision camera in a process of its own: Aravis' fake one, which numbers, stamps and loses like a real one."""

import fcntl
import tempfile
import time
from pathlib import Path
from typing import Final

from tests.acquisition.counterparts import PATIENCE_S, _Process, program, wait_until

IP: Final = "127.0.0.1"
FIRST_BLOCK: Final = 65_401
"""Aravis begins to count here, 135 frames before its block id wraps."""

_LOCK: Final = Path(tempfile.gettempdir()) / "weld-4m-gvcp.lock"


def _answers() -> bool:
    """Whether somebody listens at the control port (UDP 3956) of the loopback interface."""
    lines = Path("/proc/net/udp").read_text().splitlines()[1:]
    return any(line.split()[1] == "0100007F:0F74" for line in lines)


class FakeCamera:
    """Aravis' fake camera at the loopback interface; all tests of a machine share its one port, so they take turns."""

    def __init__(self, *arguments: str) -> None:
        self._command = [program("arv-fake-gv-camera-0.8"), "-i", IP, *arguments]
        self._turn = _LOCK.open("w")
        fcntl.flock(self._turn, fcntl.LOCK_EX)
        self._process: _Process | None = None

    @property
    def process(self) -> _Process:
        assert self._process is not None, "the camera was not started"
        return self._process

    def start(self) -> int:
        """Plug it in (also again, after `kill`); gives the cell time from which it can answer."""
        wait_until(lambda: not _answers(), "no other camera holds the port", PATIENCE_S)
        self._process = _Process(self._command)
        wait_until(_answers, "the camera answers", PATIENCE_S)
        return time.monotonic_ns()

    def kill(self) -> None:
        """Pull it out; may be called twice."""
        if self._process is not None:
            self._process.kill()
            self._process = None

    def thaw(self) -> int:
        """Let it go on after `process.freeze()`; gives the cell time."""
        self.process.thaw()
        return time.monotonic_ns()

    def close(self) -> None:
        """Pull it out for good and let the next test have the port."""
        self.kill()
        self._turn.close()
