import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from acquisition.packet import Packet
from acquisition.transport import ControlClient, Subscriber
from recordings.reader import WeldReader
from recordings.recorder import FinishWeld
from recordings.replay import Replay, weld_seconds
from recordings.runtime import AlreadyRunningError, Runtime
from recordings.status import CellStatus, DetectorStatus
from recordings.verdict import Verdict
from tests.recordings.handmade import FPS, Run, World, cell, photo
from tests.recordings.test_recorder import verdict

DEADLINE_S = 20.0


@pytest.fixture(scope="module")
def reader(tmp_path_factory) -> WeldReader:
    world = World(seconds=5.0, arcs=((1.0, 2.0),), lost={"camera": (24, 25)})
    run = Run(cell(photos_expected=1), tmp_path_factory.mktemp("welds")).feed(world.packets())
    run.take(run.ingest.push(photo(5.0)))
    (key,) = run.core.welds
    run.core.handle(FinishWeld(key=key))
    return WeldReader(run.core.welds[key].folder)


@dataclass
class Watcher:
    """A screen: reads packets and status, sends commands; every wait has a deadline."""

    runtime: Runtime
    packets: list[Packet] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.subscriber = Subscriber(self.runtime.data, messages={"status": CellStatus, "verdict": Verdict})
        self.control = ControlClient(self.runtime.control)
        self.verdicts: list[Verdict] = []

    def status(self, wanted: Callable[[Any], object]) -> CellStatus:
        """Read until a status satisfies `wanted`."""
        deadline = time.monotonic() + DEADLINE_S
        while time.monotonic() < deadline:
            got = self.subscriber.receive(0.2)
            if isinstance(got, Packet):
                self.packets.append(got)
            elif got is not None and got[0] == "verdict":
                self.verdicts.append(got[1])
            elif got is not None and isinstance(status := got[1], CellStatus) and status.replay and wanted(status):
                return status
        pytest.fail("no such status came")

    def say(self, kind: str, data: object = None) -> None:
        assert self.control.request(kind, data, timeout_s=DEADLINE_S).ok

    def ready(self) -> None:
        self.status(lambda status: True)
        self.say("detector", DetectorStatus(state="ready", name="test"))

    def close(self) -> None:
        self.subscriber.close()
        self.control.close()


@contextmanager
def replaying(reader: WeldReader, runtime_dir, speed: float) -> Iterator[Watcher]:
    runtime = Runtime(runtime_dir)
    replay = Replay(reader, speed)
    thread = threading.Thread(target=replay.run, args=(runtime,), kwargs={"keep_open": True})
    watcher = Watcher(runtime)
    thread.start()
    try:
        yield watcher
    finally:
        replay.stop.set()
        thread.join(DEADLINE_S)
        watcher.close()
        assert not thread.is_alive()


def over(status: CellStatus) -> bool:
    assert status.replay is not None
    return not status.replay.playing and status.replay.position_s > 1.0


def position(status: CellStatus) -> float:
    assert status.replay is not None
    return status.replay.position_s


@pytest.mark.parametrize("speed", [0.0, 20.0])
def test_every_packet_is_published_with_its_order(reader, runtime_dir, speed):
    with replaying(reader, runtime_dir, speed) as watcher:
        watcher.ready()
        began = time.monotonic()
        status = watcher.status(over)
        took_s = time.monotonic() - began
    expected = list(reader.packets())
    assert [(p.stream, p.order) for p in watcher.packets] == [(p.stream, p.order) for p in expected]
    assert watcher.subscriber.lost == {}
    if speed:
        assert took_s > 0.9 * weld_seconds(reader) / speed
    assert (status.weld, status.armed, status.recording) == (None, False, False)
    assert (status.cell, status.detector.name) == ("hand-made", "test")
    (row,) = status.welds
    assert (row.key, row.phase, row.photos) == (reader.manifest.key, "judged", 1)
    streams = {stream.name: stream for stream in status.streams}
    assert {name: s.received for name, s in streams.items()} == {
        name: record.items for name, record in reader.manifest.streams.items()
    }
    assert {name: s.dropped for name, s in streams.items() if s.dropped} == {"camera": 2}
    assert [(gap.stream, gap.missing, gap.seconds) for gap in status.gaps] == [("camera", 2, 2 / FPS)]
    assert status.replay is not None
    assert status.replay.speed == speed
    last_ns = max(packet.t_arrival_ns for packet in expected)
    assert status.replay.duration_s == pytest.approx((last_ns - reader.manifest.origin_ns) / 1e9)


def test_pause_seek_and_speed(reader, runtime_dir):
    with replaying(reader, runtime_dir, 0.001) as watcher:
        watcher.ready()
        watcher.status(lambda status: watcher.packets)
        watcher.say("replay", {"playing": False})
        paused = watcher.status(lambda status: not status.replay.playing)
        assert paused.weld == reader.manifest.key
        assert position(paused) < 0.1
        # While paused, too, the picture goes where one seeks; forwards, then backwards.
        watcher.say("replay", {"seek_s": 2.0})
        there = watcher.status(lambda status: status.replay.position_s > 1.9)
        assert position(there) == pytest.approx(2.0, abs=0.06)
        sent = len(watcher.packets)
        watcher.say("replay", {"seek_s": 0.6})
        back = watcher.status(lambda status: status.replay.position_s < 1.0 and status.streams[1].received > 0)
        assert position(back) == pytest.approx(0.6, abs=0.06)
        assert watcher.packets[sent].order == watcher.packets[0].order, "a seek begins anew"
        assert (len(there.gaps), len(back.gaps)) == (1, 0)
        watcher.say("replay", {"playing": True, "speed": 50.0})
        end = watcher.status(over)
        assert end.replay is not None
        assert end.replay.speed == 50.0
    orders = [p.order for p in watcher.packets]
    restarts = [i for i in range(1, len(orders)) if orders[i] <= orders[i - 1]]
    assert orders[restarts[-1] :] == [p.order for p in reader.packets()]
    assert len(restarts) == 2


def test_verdicts_pass_through_and_nonsense_is_ignored(reader, runtime_dir):
    with replaying(reader, runtime_dir, 0.0) as watcher:
        watcher.ready()
        watcher.status(over)
        for kind, data in (("replay", {"speed": "fast"}), ("score", {}), ("arm", {"on": True}), ("nonsense", None)):
            watcher.say(kind, data)
        said = verdict(reader.manifest.key)
        watcher.say("verdict", said)
        status = watcher.status(lambda status: status.welds[0].verdict is not None)
        assert status.welds[0].verdict == said
        assert watcher.verdicts == [said]


def test_shutdown_ends_it_and_its_place_is_its_own(reader, runtime_dir):
    with replaying(reader, runtime_dir, 1.0) as watcher:
        watcher.status(lambda status: True)
        with pytest.raises(AlreadyRunningError):
            Replay(reader).run(Runtime(runtime_dir), keep_open=False)
        watcher.say("shutdown")
        deadline = time.monotonic() + DEADLINE_S
        while watcher.runtime.holder("capture") is not None:
            assert time.monotonic() < deadline
            watcher.subscriber.receive(0.05)


def test_a_replay_that_need_not_stay_ends_with_the_weld(reader, runtime_dir):
    replay = Replay(reader, 0.0)
    watcher = Watcher(Runtime(runtime_dir))
    thread = threading.Thread(target=replay.run, args=(watcher.runtime,), kwargs={"keep_open": False})
    thread.start()
    try:
        watcher.ready()
        last = watcher.status(over)
        assert last.welds[0].phase == "judged"
        thread.join(DEADLINE_S)
        assert not thread.is_alive()
    finally:
        replay.stop.set()
        thread.join(DEADLINE_S)
        watcher.close()
