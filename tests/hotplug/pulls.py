"""What every hot-plug test measures: how long a device takes to return, and what it leaves behind.

    with leak_check():                            # threads, child processes and file descriptors, before and after
        driver.open()
        back = []
        for segment in range(PULLS):              # or the `after.segment` of the return before
            pull()                                # kill or cut the real counterpart; the driver helps itself
            stay_out(driver, outage_s)            # until the loss is seen, and for a while (draw it: 0.1 to 2 s)
            since_ns = replug()                   # time.monotonic_ns() of the moment from which it can answer again
            back.append(returns(driver, segment, since_ns))
            assert gap_between(back[-1].before, back[-1].after) == what_was_lost
        driver.close()
        stop()                                    # the counterpart, whose processes would count as left behind
    report("camera", back)                        # prints median and maximum (pytest -rP); fails beyond 3 s

Open and close the driver once before `leak_check` where a library keeps descriptors for the life of the process.
"""

import os
import statistics
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final, NamedTuple

from acquisition.driver import Driver
from acquisition.packet import Packet, SensorRows
from tests.acquisition.counterparts import wait_until
from tests.conftest import living_children, living_threads

PULLS: Final = 20
GOAL_S: Final = 3.0
SETTLE_S: Final = 3.0
"""What was told to end gets this long to be gone."""


class Return(NamedTuple):
    """How a device came back.

    Attributes:
        seconds: From the replug to the arrival of the first packet of the new segment.
        before: The last packet of the old segment that was still in the queue; None if all were read before.
        after: The first packet of the new segment.
    """

    seconds: float
    before: Packet | None
    after: Packet


def returns(driver: Driver, segment: int, since_ns: int, timeout_s: float = 15.0) -> Return:
    """Read until the driver delivers a packet of a higher segment than `segment`; fails after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    before = None
    while (left := deadline - time.monotonic()) > 0:
        packet = driver.read(left)
        if packet is None:
            continue
        if packet.segment > segment:
            return Return((packet.t_arrival_ns - since_ns) / 1e9, before, packet)
        before = packet
    raise AssertionError(f"no packet after segment {segment} within {timeout_s:g} s: {driver.health()}")


def stay_out(driver: Driver, outage_s: float) -> None:
    """Wait until the driver says that its device is lost, and until `outage_s` have passed since the call."""
    until = time.monotonic() + outage_s
    wait_until(lambda: driver.health().state == "lost", "the loss is seen", 5.0)
    threading.Event().wait(max(0.0, until - time.monotonic()))


def sensor_rows(packet: Packet) -> SensorRows:
    """The rows that a packet of a sensor stream holds."""
    assert isinstance(packet.payload, SensorRows)
    return packet.payload


def report(kind: str, back: Sequence[Return], goal_s: float = GOAL_S) -> None:
    """Print how long the returns took, and fail if one took longer than the goal or a pull is missing."""
    seconds = [one.seconds for one in back]
    line = f"{kind}: back after median {statistics.median(seconds):.2f} s, max {max(seconds):.2f} s ({len(back)} pulls)"
    print(line)  # noqa: T201 - shown by pytest -rP
    assert len(back) >= PULLS, line
    assert max(seconds) <= goal_s, line


@contextmanager
def leak_check(settle_s: float = SETTLE_S) -> Iterator[None]:
    """Fail if the body leaves a thread, a child process or a file descriptor that was not there before (Linux)."""
    threads, children, files = living_threads(), living_children(), _files()
    yield
    deadline = time.monotonic() + settle_s
    pause = threading.Event()
    while True:
        left = {
            "threads": [thread.name for thread in living_threads() - threads],
            "processes": {pid: name for pid, name in living_children().items() if pid not in children},
            "files": sorted((_files() - files).elements()),
        }
        if not any(left.values()):
            return
        if time.monotonic() > deadline:
            raise AssertionError(f"left behind: {left}")
        pause.wait(0.02)


def _files() -> Counter[str]:
    """Count the open file descriptors by what they are: a path, or the kind (`socket`, `pipe`, `anon_inode`)."""
    kinds: Counter[str] = Counter()
    for descriptor in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{descriptor}")
        except OSError:
            continue  # the descriptor of this very listing
        kinds[target if target.startswith("/") else target.partition(":")[0]] += 1
    return kinds
