"""Does one thing to copies of a weld and is killed at its 1st, 2nd, 3rd ... step on the file system, until it gets by.

`python -m tests.recordings.killed_at_every_step ACT SOURCE TARGET` makes a folder per kill in TARGET, named by the
step, and a last one that was not killed. A step is a file that is opened, renamed or removed.
"""

import itertools
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from acquisition.packet import Event, Packet
from recordings.late_additions import add_label, add_packet
from recordings.manifest import LabelEntry
from recordings.recovery import recover
from tests.recordings.synthetic_weld import KEY, Cell, Recording

STEPS = ("open", "os.rename", "os.remove")


def finalise(_: Path, folder: Path) -> Callable[[], object]:
    """Record a short weld, to be finalised."""
    recording = Recording(folder, lossless=False)
    for packet in Cell(arc_s=(0.2, 0.4)).weld(seconds=0.6, photos=1):
        recording.take(packet)
    return recording.writer.finalise


def recover_copy(source: Path, folder: Path) -> Callable[[], object]:
    shutil.copytree(source, folder)
    return lambda: recover(folder)


def add_to_copy(source: Path, folder: Path) -> Callable[[], object]:
    """Have an event and a label, to be added to a finished weld."""
    shutil.copytree(source, folder)
    event = Event(kind="mark", weld=KEY, data={"note": "late"})
    late = Packet(stream="events", seq=999, order=10**6, t_arrival_ns=10**18, payload=event)

    def add() -> None:
        add_packet(folder, late)
        add_label(folder, LabelEntry(label=3, by="me", utc="2026-01-02T03:04:05+00:00"))

    return add


ACTS = {"finalise": finalise, "recover": recover_copy, "add": add_to_copy}


def die_at(step: int, folder: Path) -> None:
    """Kill this process at its `step`-th step from now on in the folder."""
    left = step

    def look(event: str, details: tuple[Any, ...]) -> None:
        nonlocal left
        if event in STEPS and str(details[0]).startswith(str(folder)):
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(look)


def main() -> None:
    act, source, target = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    target.mkdir()
    for step in itertools.count():
        child = os.fork()
        if child == 0:
            folder = target / f"{step:03d}"
            go = ACTS[act](source, folder)
            die_at(step, folder)
            go()
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if not os.WIFSIGNALED(status):
            sys.exit(os.waitstatus_to_exitcode(status))


main()
