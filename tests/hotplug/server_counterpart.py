"""A real counterpart in a process of its own, so that it can be killed or frozen like a device that dies."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any, Final, NamedTuple

from acquisition.driver import Driver
from acquisition.packet import Packet, SensorRows
from tests.acquisition.counterparts import PATIENCE_S, ROOT, wait_until
from tests.hotplug.pulls import PULLS, Return, returns

READY: Final = "ready"
"""What the process prints once it can answer."""


class Server:
    """A module run as a program; it prints `READY` once it can answer."""

    def __init__(self, module: str, *arguments: str) -> None:
        self.arguments = arguments
        self._command = [sys.executable, "-m", module, *arguments]
        self._child: subprocess.Popen[str] | None = None

    def start(self) -> int:
        """Start it (also again, after `kill`); gives the cell time from which it can answer."""
        self._child = subprocess.Popen(
            self._command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        assert self._child.stdout is not None
        said = self._child.stdout.readline()
        ready_ns = time.monotonic_ns()
        assert said.strip() == READY, f"{self._command} ended at once; run it by hand to see why"
        return ready_ns

    def kill(self) -> None:
        """Pull the plug; may be called twice."""
        child, self._child = self._child, None
        if child is not None:
            child.kill()
            child.wait(PATIENCE_S)
            assert child.stdout is not None
            child.stdout.close()

    def freeze(self) -> None:
        """Stop it from doing anything, with its connections open."""
        assert self._child is not None
        self._child.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        assert self._child is not None
        self._child.send_signal(signal.SIGCONT)


def rows_of(driver: Driver, n: int, timeout_s: float = 5.0) -> list[Any]:
    """Read packets, all of sensor rows, until `n` rows came."""
    packets: list[Packet] = []
    count = 0
    while count < n:
        packet = driver.read(timeout_s)
        assert packet is not None, f"only {count} of {n} rows came: {driver.health()}"
        assert isinstance(packet.payload, SensorRows)
        packets.append(packet)
        count += len(packet.payload.values)
    return packets


class Pull(NamedTuple):
    """One pull: the last rows before it, the first after it, and how the device came back."""

    before: SensorRows
    after: SensorRows
    back: Return


def _problem_changed(driver: Driver, told: str | None) -> bool:
    return driver.health().problem != told


def pull_and_replug(
    driver: Driver, pull: Callable[[], None], replug: Callable[[], int], rows: int = 5, pulls: int = PULLS
) -> list[Pull]:
    """Pull and replug the open driver's counterpart, each time after `rows` rows and as soon as the driver noticed.

    Every fourth time the device stays away until an attempt to reopen it has failed.
    """
    done = []
    for segment in range(pulls):
        last = rows_of(driver, rows)[-1]
        pull()
        wait_until(lambda: driver.health().state == "lost", "the driver notices that its device died")
        if segment % 4 == 3:
            wait_until(partial(_problem_changed, driver, driver.health().problem), "an attempt to reopen fails")
        back = returns(driver, segment, replug())
        before, after = (back.before or last).payload, back.after.payload
        assert isinstance(before, SensorRows)
        assert isinstance(after, SensorRows)
        done.append(Pull(before, after, back))
    return done
