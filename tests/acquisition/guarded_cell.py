"""A cell that other hosts may reach, as a process of its own: `python -m tests.acquisition.guarded_cell KEYS OFFSET_S`.

It publishes numbered packets and answers `counts` with what it refused; its monotonic clock is ahead by OFFSET_S.
"""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event as Flag
from typing import Any, Final

import numpy as np

from acquisition.curve import Door, Gate
from acquisition.keys import ClientKeys
from acquisition.packet import Packet, VideoFrame
from acquisition.transport import ControlClient, ControlServer, Publisher, Reply, Request, Subscriber

ROOT: Final = Path(__file__).resolve().parents[2]
EVERY_S: Final = 0.005


@dataclass(frozen=True)
class GuardedCell:
    """The process and where it can be reached."""

    process: "subprocess.Popen[str]"
    data: str
    control: str

    def counts(self, keys: ClientKeys) -> dict[str, Any]:
        """What it has refused, could not read and was told so far."""
        client = ControlClient(self.control, keys)
        try:
            return client.request("counts", timeout_s=10.0).data
        finally:
            client.close()

    def freeze(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self.process.send_signal(signal.SIGCONT)


@contextmanager
def guarded_cell(keys: Path, offset_s: float = 0.0) -> Iterator[GuardedCell]:
    """Run one with the keys of a folder."""
    command = [sys.executable, "-m", "tests.acquisition.guarded_cell", str(keys), str(offset_s)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            where = json.loads(process.stdout.readline())
            yield GuardedCell(process, where["data"], where["control"])
        finally:
            process.kill()


def received(subscriber: Subscriber, timeout_s: float = 10.0) -> Packet:
    """Wait for a packet; connecting, refusal and return are the subscriber's own business."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        item = subscriber.receive(0.05)
        if isinstance(item, Packet):
            return item
    raise AssertionError(f"nothing came within {timeout_s:g} s: {subscriber.problem}")


def problem(subscriber: Subscriber, words: str, timeout_s: float = 10.0) -> float:
    """Read until the subscriber says `words` of its connection; returns after how many seconds."""
    began = time.monotonic()
    while words not in (subscriber.problem or ""):
        assert time.monotonic() - began < timeout_s, f"after {timeout_s:g} s still: {subscriber.problem}"
        subscriber.receive(0.01)
    return time.monotonic() - began


def main(keys: Path, offset_s: float) -> None:
    own_clock = time.monotonic_ns
    time.monotonic_ns = lambda: own_clock() + round(offset_s * 1e9)
    stop = Flag()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    lines: list[str] = []
    told: list[str] = []

    def answer(request: Request) -> Reply:
        told.append(request.kind)
        counts = {"refused": gate.refused, "unreadable": server.unreadable, "lines": lines, "told": told}
        return Reply(ok=True, data=counts)

    gate = Gate(keys, lines.append)
    doors = [Door(gate, "tcp://127.0.0.1:*") for _ in range(2)]
    publisher = Publisher("tcp://127.0.0.1:*", doors[0])
    server = ControlServer("tcp://127.0.0.1:*", answer, doors[1])
    print(json.dumps({"data": doors[0].endpoint, "control": doors[1].endpoint}), flush=True)  # noqa: T201  # its result
    frame = VideoFrame(pixels=np.zeros((8, 8), np.uint8))
    number = 0
    while not stop.wait(EVERY_S):
        number += 1
        publisher.publish(Packet(stream="camera", seq=number, t_arrival_ns=time.monotonic_ns(), payload=frame))
        if number % 20 == 0:
            publisher.beacon()


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]))
