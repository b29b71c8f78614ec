"""Starts the processes of a cell and brings back what died; used by the screen and by headless runs.

Children outlive whoever started them: if the screen dies, capture and detector go on, and the next screen finds them.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from acquisition.transport import ControlClient, TransportError
from recordings.runtime import Runtime

APP: Final = Path(__file__).resolve().parent.parent / "app.py"
_RESTARTS: Final = 5
_RESTART_WINDOW_S: Final = 60.0

_ONE_THREAD: Final = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
}
"""The live path never batches: a second thread costs processor time and makes the slowest windows slower."""


@dataclass
class Supervisor:
    """Keeps the roles of one cell alive.

    Attributes:
        runtime: Where they meet.
        commands: Arguments of `app.py` per role (`capture`, `detector`).
        once: Roles that may end by themselves (a capture with a time limit).
    """

    runtime: Runtime
    commands: Mapping[str, Sequence[str]]
    once: frozenset[str] = frozenset()
    _children: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    _starts: dict[str, list[float]] = field(default_factory=dict)

    def ensure(self) -> str | None:
        """Start every role that is not running; returns one line when something had to be started again.

        Cheap enough to be called every second from a screen.
        """
        message = None
        for role, arguments in self.commands.items():
            child = self._children.get(role)
            if child is not None and child.poll() is None:
                continue
            if child is None and self.runtime.holder(role) is not None:
                continue
            if child is not None:
                if role in self.once:
                    continue
                message = f"the {role} process ended with code {child.returncode} and was started again"
            starts = [t for t in self._starts.get(role, []) if time.monotonic() - t < _RESTART_WINDOW_S]
            if len(starts) >= _RESTARTS:
                return f"the {role} process keeps ending (code {child.returncode if child else '?'}); see its messages"
            self._starts[role] = [*starts, time.monotonic()]
            self._children[role] = self._start(role, arguments)
        return message

    def _start(self, role: str, arguments: Sequence[str]) -> subprocess.Popen[bytes]:
        command = [sys.executable, str(APP), role, *arguments]
        environment = os.environ | {"PYTHONPATH": str(APP.parent)}
        if role == "detector":
            environment |= _ONE_THREAD
        return subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=sys.stderr.fileno(),
            start_new_session=os.name == "posix",
        )

    def child(self, role: str) -> subprocess.Popen[bytes] | None:
        """The child process of a role that this supervisor started, or None."""
        return self._children.get(role)

    def shutdown(self, timeout_s: float = 60.0) -> None:
        """Ask capture to finish what is open, then end the detector; returns when both are gone or time is up."""
        deadline = time.monotonic() + timeout_s
        if self.runtime.holder("capture") is not None:
            client = ControlClient(self.runtime.control)
            try:
                client.request("shutdown", timeout_s=2.0)
            except TransportError:
                self._signal("capture")
            finally:
                client.close()
            while self.runtime.holder("capture") is not None and time.monotonic() < deadline:
                time.sleep(0.05)
        self._signal("detector")
        while self.runtime.holder("detector") is not None and time.monotonic() < deadline:
            time.sleep(0.05)
        for child in self._children.values():
            if child.poll() is None:
                child.kill()
            child.wait()

    def _signal(self, role: str) -> None:
        """Ask a role to end, whoever started it."""
        child = self._children.get(role)
        if child is not None and child.poll() is None:
            child.terminate()
            return
        holder = self.runtime.holder(role)
        if holder is not None and holder > 0:
            os.kill(holder, signal.SIGTERM)
