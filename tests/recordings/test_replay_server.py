"""The replay server against real sockets: what it publishes, where it stands, and that it waits for its readers."""

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import pytest

from acquisition.packet import ClockUpdate, Event, Packet, VideoFrame, item_range
from acquisition.transport import ControlClient, Subscriber
from recordings.reader import WeldReader
from recordings.recorder import FinishWeld
from recordings.replay import Replay, weld_seconds
from recordings.replay_index import ReplayIndex
from recordings.replay_progress import SEEK, Progress
from recordings.resync import ResyncedReader
from recordings.runtime import AlreadyRunningError, Runtime
from recordings.status import CellStatus, DetectorStatus
from recordings.verdict import Score, Verdict
from sync.clock import ClockTable
from tests.recordings.handmade import FPS, Run, World, cell, photo
from tests.recordings.test_live_equals_replay import same
from tests.recordings.test_recorder import score, verdict

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
    """A screen: reads packets and status, reports what it has handled, sends commands; every wait has a deadline."""

    runtime: Runtime
    name: str = "test"
    reports: bool = True
    pace_s: float = 0.0
    packets: list[Packet] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.subscriber = Subscriber(
            self.runtime.data, messages={"status": CellStatus, "verdict": Verdict, "score": Score}
        )
        self.control = ControlClient(self.runtime.control)
        self.progress = Progress(self.name)
        self.said: list[Score | Verdict] = []

    def take(self) -> CellStatus | None:
        """Take one message, in its own time; a status is returned."""
        got = self.subscriber.receive(0.1)
        status = None
        if isinstance(got, Packet):
            self.packets.append(got)
            self.progress.handled(got)
            if self.pace_s:
                threading.Event().wait(self.pace_s)  # its work on a packet
        elif got is not None and isinstance(got[1], CellStatus):
            status = got[1]
            self.progress.follow(status)
        elif got is not None:
            self.said.append(got[1])
        if self.reports and (progress := self.progress.due()) is not None:
            self.control.send("progress", progress)
        return status

    def status(self, wanted: Callable[[Any], object], deadline_s: float = DEADLINE_S) -> CellStatus:
        """Read until a status satisfies `wanted`."""
        deadline = time.monotonic() + deadline_s
        while time.monotonic() < deadline:
            status = self.take()
            if status is not None and status.replay is not None and wanted(status):
                return status
        pytest.fail("no such status came")

    def seek(self, **data: Any) -> CellStatus:
        """Order something that leads elsewhere, and read until the server stands there; keeps what came since."""
        before = self.seeks()
        self.say("replay", data)
        return self.status(lambda status: self.seeks() > before)

    def seeks(self) -> int:
        return sum(seek_of(packet) is not None for packet in self.packets)

    def since_seek(self) -> list[Packet]:
        """Give what came after the last marker."""
        at = max(i for i, packet in enumerate(self.packets) if seek_of(packet) is not None)
        return self.packets[at + 1 :]

    def say(self, kind: str, data: object = None) -> None:
        reply = self.control.request(kind, data, timeout_s=DEADLINE_S)
        assert reply.ok, reply.message

    def refused(self, kind: str, data: object = None) -> str:
        reply = self.control.request(kind, data, timeout_s=DEADLINE_S)
        assert not reply.ok
        return reply.message

    def ready(self) -> None:
        self.status(lambda status: True)
        self.say("detector", DetectorStatus(state="ready", name="test"))

    def close(self) -> None:
        self.subscriber.close()
        self.control.close()


def seek_of(packet: Packet) -> dict[str, Any] | None:
    payload = packet.payload
    return payload.data if isinstance(payload, Event) and payload.kind == SEEK else None


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


@contextmanager
def paused(reader: WeldReader, runtime_dir) -> Iterator[Watcher]:
    """A replay that stands at its beginning."""
    with replaying(reader, runtime_dir, 1.0) as watcher:
        watcher.status(lambda status: True)
        watcher.say("replay", {"playing": False, "seek_s": 0.0})
        watcher.ready()
        watcher.status(lambda status: not status.replay.playing and watcher.packets)
        yield watcher


def over(status: CellStatus) -> bool:
    assert status.replay is not None
    return not status.replay.playing and status.replay.position_s > 1.0


def position(status: CellStatus) -> float:
    assert status.replay is not None
    return status.replay.position_s


def frames_of(packets: Iterable[Packet]) -> list[Packet]:
    return [packet for packet in packets if isinstance(packet.payload, VideoFrame)]


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


def test_play_pause_and_speed(reader, runtime_dir):
    with replaying(reader, runtime_dir, 0.001) as watcher:
        watcher.ready()
        watcher.status(lambda status: watcher.packets)
        watcher.say("replay", {"playing": False})
        stands = watcher.status(lambda status: not status.replay.playing)
        assert stands.weld == reader.manifest.key
        assert position(stands) < 0.1
        watcher.say("replay", {"playing": True, "speed": 50.0})
        end = watcher.status(over)
        assert end.replay is not None
        assert end.replay.speed == 50.0
        assert [p.order for p in watcher.packets] == [p.order for p in reader.packets()]
        # Played to its end, it begins anew when it is played once more.
        watcher.say("replay", {"playing": True, "speed": 0.0})
        watcher.status(lambda status: watcher.seeks() and over(status))
        assert [p.order for p in watcher.since_seek()] == [p.order for p in reader.packets()]


@pytest.mark.parametrize("resync", [False, True])
def test_a_seek_shows_the_moment_sought(reader, runtime_dir, resync):
    reader = ResyncedReader(reader.folder) if resync else reader
    everything = list(reader.packets())
    index = ReplayIndex(reader)
    with paused(reader, runtime_dir) as watcher:
        # Forwards, backwards, near the end, exactly at a frame.
        exact_s = (frames_of(everything)[40].t_arrival_ns - index.origin_ns) / 1e9
        for seek_s in (2.0, 0.6, 3.4, exact_s, 0.35):
            status = watcher.seek(seek_s=seek_s)
            assert status.replay is not None
            assert status.replay.position_s == pytest.approx(seek_s, abs=1e-9)
            assert not status.replay.playing
            t_ns = index.origin_ns + round(seek_s * 1e9)
            arrived = [p for p in everything if p.t_arrival_ns <= t_ns]
            came = watcher.since_seek()
            newest = frames_of(arrived)[-1]
            assert same(frames_of(came)[-1], newest)
            # What every reader must know comes first: the clocks in force, and what happened.
            first = [p.order for p in came].index(newest.order)
            clocks, events = ClockTable(), []
            for packet in came[:first]:
                if isinstance(packet.payload, ClockUpdate):
                    clocks.apply(packet.payload)
                else:
                    assert isinstance(packet.payload, Event)
                    events.append(packet.order)
            expected = ClockTable()
            for packet in everything:
                if isinstance(packet.payload, ClockUpdate) and packet.order < newest.order:
                    expected.apply(packet.payload)
            assert clocks.snapshot() == expected.snapshot()
            before = [p for p in arrived if p.order < newest.order]
            assert events == [p.order for p in before if isinstance(p.payload, Event)]
            tail = [p.order for p in arrived if p.order >= newest.order]
            assert [p.order for p in came[first:]] == tail
            received = {s.name: s.received for s in status.streams}
            for name in ("camera", "microphone", "sensors"):
                assert received[name] == sum(item_range(p)[1] for p in arrived if p.stream == name), name
        # Played on from the last seek, nothing is left out and everything is equal to the last bit.
        watcher.say("replay", {"playing": True, "speed": 0.0})
        watcher.status(over)
        came = watcher.since_seek()
        rest = everything[[p.order for p in everything].index(newest.order) :]
        assert all(same(one, other) for one, other in zip(came[-len(rest) :], rest, strict=True))


def test_a_seek_into_the_middle_says_so_and_keeps_what_was_judged(reader, runtime_dir):
    with paused(reader, runtime_dir) as watcher:
        watcher.seek(seek_s=1.5)
        window = score(reader.manifest.key)
        watcher.say("score", window)
        said = replace(verdict(reader.manifest.key), final=True)
        watcher.say("verdict", said)
        assert watcher.status(lambda status: status.welds[0].verdict is not None).welds[0].verdict == said
        assert watcher.said == [window, said]
        status = watcher.seek(seek_s=2.5)
        marker = next(p for p in reversed(watcher.packets) if seek_of(p) is not None)
        assert (marker.order, marker.seq, marker.stream) == (0, watcher.seeks(), "events")
        data = seek_of(marker)
        assert data is not None
        assert (data["position_s"], data["whole"]) == (2.5, False)
        assert watcher.said == [window, said, window], "a screen that forgets at the marker gets its scores back"
        assert status.welds[0].verdict == said
        assert (status.welds[0].phase, len(status.gaps)) == ("welding", 1)
        assert status.replay is not None
        assert [gap.missing for gap in status.replay.gaps] == [2]
        assert [kind for _, kind, _ in status.replay.ticks] == ["photo"]
        # From its beginning on the weld is judged anew.
        status = watcher.seek(seek_s=0.0)
        assert [data["whole"] for p in watcher.packets if (data := seek_of(p)) is not None][-1]
        assert status.welds[0].verdict is None
        assert frames_of(watcher.since_seek())[0].order == frames_of(reader.packets())[0].order


def shown(watcher: Watcher, sent: int, frame: Packet) -> Callable[[CellStatus], bool]:
    """Tell whether a frame is the newest one that came since `sent` packets had."""
    return lambda status: [f.order for f in frames_of(watcher.packets[sent:])][-1:] == [frame.order]


def test_steps_are_exact_to_the_frame(reader, runtime_dir):
    frames = frames_of(reader.packets())
    with paused(reader, runtime_dir) as watcher:
        watcher.seek(seek_s=1.0)
        at = [f.order for f in frames].index(frames_of(watcher.packets)[-1].order)
        origin_ns = ReplayIndex(reader).origin_ns
        for step in (1, 1, 3, -1, -7, 2, -1):
            sent = len(watcher.packets)
            at += step
            watcher.say("replay", {"step": step})
            want_s = (frames[at].t_arrival_ns - origin_ns) / 1e9
            status = watcher.status(shown(watcher, sent, frames[at]))
            assert same(frames_of(watcher.packets)[-1], frames[at])
            assert position(status) == pytest.approx(want_s, abs=1e-9)
            new = watcher.packets[sent:]
            if step > 0:  # nothing in between is left out, so what is judged or drawn is not torn
                assert all(seek_of(p) is None for p in new)
                assert [f.order for f in frames_of(new)] == [f.order for f in frames[at - step + 1 : at + 1]]
        # Beyond either end it stands at the last frame.
        watcher.say("replay", {"step": -1000})
        watcher.status(lambda status: position(status) < 0.1)
        watcher.say("replay", {"step": 1000})
        watcher.status(lambda status: frames_of(watcher.packets)[-1].order == frames[-1].order)


def test_a_range_is_played_to_its_end_or_in_a_loop(reader, runtime_dir):
    with paused(reader, runtime_dir) as watcher:
        watcher.say("replay", {"range": [1.0, 2.0], "speed": 20.0, "playing": True})
        done = watcher.status(lambda status: watcher.seeks() > 1 and not status.replay.playing)
        assert done.replay is not None
        assert (done.replay.a_s, done.replay.b_s, done.replay.position_s) == (1.0, 2.0, 2.0)
        origin_ns = done.replay.origin_ns
        came = [p.t_arrival_ns - origin_ns for p in frames_of(watcher.since_seek())]
        assert 0.9e9 < min(came) <= 1.0e9
        assert 1.9e9 < max(came) <= 2.0e9
        seeks = watcher.seeks()
        watcher.say("replay", {"loop": True, "playing": True})
        looping = watcher.status(lambda status: watcher.seeks() >= seeks + 3)
        assert looping.replay is not None
        assert (looping.replay.loop, looping.replay.playing) == (True, True)
        assert max(p.t_arrival_ns for p in watcher.packets) <= origin_ns + 2.0e9
        watcher.say("replay", {"loop": False, "range": None, "speed": 0.0})
        end = watcher.status(over)
        assert end.replay is not None
        assert (end.replay.a_s, end.replay.b_s) == (None, None)
        assert position(end) == pytest.approx(end.replay.duration_s)


def test_what_makes_no_sense_is_refused(reader, runtime_dir):
    orders = [
        ({"speed": "fast"}, "speed"),
        ({"speed": -1.0}, "speed"),
        ({"speed": float("nan")}, "speed"),
        ({"seek_s": float("inf")}, "finite"),
        ({"range": [2.0, 1.0]}, "before its beginning"),
        ({"range": [1.0]}, "range"),
        ({"step": 1.5}, "step"),
        ({"sepek_s": 1.0}, "sepek_s"),
    ]
    with paused(reader, runtime_dir) as watcher:
        for data, said in orders:
            assert said in watcher.refused("replay", data)
        assert "nonsense" in watcher.refused("nonsense")
        assert "score" in watcher.refused("score", {})
        stands = watcher.status(lambda status: True)
        assert stands.replay is not None
        assert (stands.replay.speed, stands.replay.loop, stands.replay.a_s, position(stands)) == (1.0, False, None, 0.0)


def test_at_full_speed_the_slowest_reader_loses_nothing(reader, runtime_dir):
    """Far more packets than any queue holds: the weld in a loop, at full speed, with a reader that is slow."""
    whole = [p.order for p in reader.packets()]
    with replaying(reader, runtime_dir, 0.0) as watcher:
        watcher.pace_s = 0.0003
        watcher.say("replay", {"loop": True})
        watcher.ready()
        waited = watcher.status(lambda status: status.replay.waiting)
        assert waited.replay is not None
        watcher.status(lambda status: len(watcher.packets) > 6000)
        assert watcher.subscriber.lost == {}
    marks = [i for i, packet in enumerate(watcher.packets) if seek_of(packet) is not None]
    for start, end in pairwise(marks):
        assert [p.order for p in watcher.packets[start + 1 : end]] == whole


def test_a_reader_that_never_reports_is_not_waited_for(reader, runtime_dir):
    """The guard of the test above: without reports a reader that is slow loses messages, and can count them."""
    with replaying(reader, runtime_dir, 0.0) as watcher:
        slow = Watcher(watcher.runtime, name="slow", reports=False)
        try:
            slow.status(lambda status: True)
            watcher.say("replay", {"loop": True})
            watcher.ready()
            watcher.status(lambda status: len(watcher.packets) > 6000)
            slow.status(lambda status: slow.subscriber.lost)
        finally:
            slow.close()
        assert watcher.subscriber.lost == {}


def test_a_reader_that_dies_is_left_out_within_three_seconds(reader, runtime_dir):
    with replaying(reader, runtime_dir, 0.0) as watcher:
        watcher.say("replay", {"loop": True})
        dying = Watcher(watcher.runtime, name="dying")
        try:
            dying.status(lambda status: True)
            watcher.ready()
            dying.status(lambda status: dying.packets)
        finally:
            dying.close()
        died = time.monotonic()
        status = watcher.status(lambda status: status.alarms)
        assert time.monotonic() - died < 3.5
        (alarm,) = status.alarms
        assert "'dying'" in alarm.text
        seeks = watcher.seeks()
        watcher.status(lambda status: watcher.seeks() > seeks + 3)
        assert watcher.subscriber.lost == {}
        watcher.say("acknowledge", {"number": alarm.number})
        watcher.status(lambda status: not status.alarms)


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
