import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from acquisition.driver import Driver, DriverHealth
from acquisition.packet import Event, Packet
from recordings.cell_state import CellState, percentiles
from recordings.ingest import Ingest
from recordings.recorder import FinishWeld, IngestedPacket, RecorderCore
from recordings.recorder_thread import Recorder
from recordings.status import DetectorStatus
from tests.recordings.handmade import INFOS, START_NS, Run, World, cell
from tests.recordings.test_recorder import score, verdict


class Idle(Driver):
    """A device that says it is well."""

    def __init__(self, name: str) -> None:
        self.info = INFOS[name]

    def open(self, wakeup=None):
        raise NotImplementedError

    read = newest = peek = open

    def health(self):
        return DriverHealth(state="streaming", delivered=7, overrun=0, age_s=0.1, problem=None)

    def close(self):
        return None


DRIVERS: dict[str, Driver] = {name: Idle(name) for name in INFOS}


@contextmanager
def followed(root: Path, world: World, **settings: object) -> Iterator[tuple[CellState, Ingest, Recorder, Run]]:
    """A state that followed what a world gave, as the capture loop makes it."""
    run = Run(cell(**settings)).feed(world.packets())
    core = RecorderCore(cell=run.cell, infos=dict(INFOS), root=root, session="test", on_problem=run.problems.append)
    recorder = Recorder(core)
    try:
        state = CellState(cell=run.cell, started_ns=START_NS)
        for packet in run.published:
            if isinstance(packet.payload, Event):
                state.event(packet, recorder)
        yield state, run.ingest, recorder, run
    finally:
        assert recorder.close(10.0)


def test_an_alarm_stands_once_until_it_is_acknowledged():
    state = CellState(cell=cell(), started_ns=0)
    state.alarm("one")
    state.alarm("one")
    state.alarm("two", "error")
    assert [(a.number, a.text, a.level) for a in state.alarms] == [(1, "one", "warning"), (2, "two", "error")]
    state.acknowledge(1)
    assert [a.number for a in state.alarms] == [2]
    state.alarm("one")
    assert [a.number for a in state.alarms] == [2, 3], "it came back: a new alarm"
    state.acknowledge(0)
    assert not state.alarms


def test_a_weld_is_followed_through_its_phases(tmp_path):
    with followed(tmp_path, World(), photos_expected=1, photo_wait_s=60.0) as (state, _, recorder, run):
        (weld,) = state.welds.values()
        assert (weld.phase, weld.photos, weld.photos_expected, weld.label) == ("photos", 0, 1, -1)
        assert weld.arc_on_ns is not None
        assert weld.arc_off_ns is not None
        state.photo(weld.key)
        state.photo("somebody else's")
        state.label(weld.key, 3)
        state.score(score(weld.key))
        state.score(replace(score(weld.key, 1), latency_ms=80.0))
        state.verdict(verdict(weld.key))
        done = Packet(stream="events", seq=0, t_arrival_ns=0, payload=Event(kind="photos_done", weld=weld.key))
        state.event(done, recorder)
        (weld,) = state.welds.values()
        assert (weld.phase, weld.photos, weld.label) == ("judged", 1, 3)
        assert (weld.verdict, weld.present) == (verdict(weld.key), ("video",))
        assert not state.alarms
        no_go = replace(verdict(weld.key), word="NO-GO", reason="porous")
        state.verdict(replace(no_go, final=False))
        assert not state.alarms
        state.verdict(no_go)
        assert [(a.level, "porous" in a.text) for a in state.alarms] == [("error", True)]
        summary = state.summary(run.ingest, DRIVERS, START_NS + 6 * 10**9)
        assert summary["latency_ms"]["window_to_verdict"]["p95"] == 80.0
        assert summary["windows"] == 2
        (row,) = summary["welds"]
        assert (row["verdict"], row["stage"], row["reason"]) == ("NO-GO", "consistency", "porous")
        assert row["arc_on_s"] == pytest.approx(0.5, abs=0.51)
        assert row["arc_off_s"] - row["arc_on_s"] == pytest.approx(1.48, abs=0.03)


def test_losses_are_shown_and_counted_once(tmp_path):
    world = World(seconds=9.0, lost={"sensors": (110, 111)}, silent={"camera": (2.5, 6.5)})
    with followed(tmp_path, world) as (state, ingest, _, _run):
        summary = state.summary(ingest, DRIVERS, START_NS + 9 * 10**9)
        for name, missing in (("camera", 80), ("sensors", 2), ("microphone", 0)):
            stream = summary["streams"][name]
            assert stream["dropped"] == sum(gap["missing"] for gap in stream["gaps"]) == missing, name
        assert summary["streams"]["sensors"]["gaps"][0]["at_s"] == pytest.approx(2.2, abs=0.01)
        assert summary["streams"]["sensors"]["received"] == 448
        assert [a.text for a in state.alarms] == ["camera: silent; check its cable and power"]
        assert summary["welds"][0]["verdict"] == "NO DATA"


def test_a_stream_that_is_silent_now_shows_what_it_has_lost_so_far(tmp_path):
    with followed(tmp_path, World(silent={"camera": (4.0, 9.0)})) as (state, ingest, _, _run):
        rows = {row.name: row for row in state.stream_rows(ingest, DRIVERS, START_NS + 6 * 10**9)}
        assert rows["camera"].state == "lost"
        assert rows["camera"].dropped == pytest.approx(40, abs=2)
        assert (rows["microphone"].state, rows["microphone"].dropped) == ("streaming", 0)
        assert rows["camera"].required
        assert not rows["photos"].required
        assert rows["photos"].received == 7


def test_the_status_is_complete(tmp_path):
    with followed(tmp_path, World(seconds=8.0, arcs=((1.0, 2.0), (5.0, 6.0)))) as (state, ingest, recorder, run):
        status = state.status(ingest, recorder, DRIVERS)
        assert [weld.key for weld in status.welds] == [e.weld for e in reversed(run.events("weld_open"))]
        assert (status.cell, status.simulated, status.armed) == ("hand-made", False, True)
        assert (status.recording, status.weld, status.path) == (False, None, None)
        assert status.disk_free_bytes > 0
        assert {clock.of_stream for clock in status.clocks} == {"camera", "microphone", "sensors"}
        assert [row.name for row in status.streams] == ["camera", "microphone", "sensors", "photos"]


def test_the_status_shows_the_ring_and_the_arcs_that_were_ignored(tmp_path):
    world = World(seconds=8.0, arcs=((1.0, 1.4), (5.0, 6.5)))
    with followed(tmp_path, world, shortest_s=1.0, ring_mb=3.0) as (state, ingest, recorder, run):
        for packet in run.published:
            recorder.put(IngestedPacket(packet=packet, keyframe=packet.order in run.keyframes))
        assert recorder.close(10.0)
        (weld,) = recorder.core.welds
        recorder.core.handle(FinishWeld(key=weld))
        status = state.status(ingest, recorder, DRIVERS)
        assert status.ignored_arcs == 1
        assert status.ring_s == pytest.approx(8.0, abs=0.1)
        assert 0 < status.ring_bytes < status.ring_limit_bytes == 3_000_000


def test_a_detector_that_falls_silent_is_absent(tmp_path):
    with followed(tmp_path, World(seconds=1.0, arcs=())) as (state, ingest, recorder, _):
        assert not state.detector_alive
        now_ns = time.monotonic_ns()
        state.detector_said(DetectorStatus(state="ready", name="floor"), now_ns)
        assert state.detector_alive
        assert state.status(ingest, recorder, DRIVERS).detector.state == "ready"
        state.detector_said(DetectorStatus(state="failed", problem="no fit"), now_ns)
        assert not state.detector_alive
        assert state.status(ingest, recorder, DRIVERS).detector.problem == "no fit"
        state.detector_said(DetectorStatus(state="ready", name="floor"), now_ns - 5 * 10**9)
        assert not state.detector_alive
        assert state.status(ingest, recorder, DRIVERS).detector.state == "absent"
        assert len(state.alarms) == 1


def test_percentiles():
    assert percentiles([]) == {"p50": None, "p95": None, "p99": None}
    assert percentiles([1.0, 2.0, 3.0])["p50"] == 2.0
