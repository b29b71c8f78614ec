import itertools
import queue
import resource
import shutil
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from acquisition.packet import Event, Packet, Photo, VideoFrame, item_range
from recordings import retention
from recordings.cell import Cell
from recordings.manifest import LabelEntry, MetadataEntry
from recordings.opening import OPEN_WELDS
from recordings.reader import WeldReader
from recordings.recorder import (
    KEPT_WELDS,
    DescribeWeld,
    FinishWeld,
    IngestedPacket,
    LabelWeld,
    RecorderCore,
    WeldFile,
    recover_open_welds,
)
from recordings.recorder_thread import Recorder
from recordings.verdict import Score, Verdict
from recordings.verify import verify
from recordings.weld_folder import MARKS, load_manifest
from tests.recordings.handmade import CAMERA, INFOS, START_NS, Run, World, cell, cut_windows, photo

TWO_ARCS = ((2.0, 3.0), (4.6, 5.6))
OVERLAPPING = ((2.0, 3.0), (3.8, 5.0))
DEADLINE_S = 10.0


def finished(run: Run) -> list[WeldFile]:
    for key in run.core.welds:
        run.core.handle(FinishWeld(key=key))
    return list(run.core.welds.values())


def score(key: str, window: int = 0) -> Score:
    return Score(
        weld=key,
        window=window,
        t0_ns=1,
        t1_ns=2,
        score=0.5,
        weld_score=0.5,
        p_value=None,
        present=("video",),
        orders={"camera": (1, 2)},
        missing=0,
        sample_digest="00",
        closed_by_order=3,
    )


def verdict(key: str) -> Verdict:
    return Verdict(
        weld=key,
        stage="consistency",
        final=True,
        word="GO",
        reason="as the good ones",
        score=0.5,
        threshold=1.0,
        p_value=0.5,
        alpha=0.05,
        calibration_welds=20,
        calibration_sessions=2,
        present=("video",),
        photos_pending=False,
        detector="test",
    )


def assert_replay_is_live(run: Run, weld: WeldFile) -> None:
    """The recording holds every order of the weld, and gives the windows that a detector cut while it was made."""
    reader = WeldReader(weld.folder)
    first, last = reader.manifest.first_order, reader.manifest.last_order
    assert last is not None
    orders = [p.order for p in reader.packets() if first <= p.order <= last]
    assert orders == list(range(first, last + 1))
    live, again = run.windows(weld.key), cut_windows(weld.key, reader.packets(), reader.infos)
    assert len(live) >= 3
    assert [w.digest() for w in live] == [w.digest() for w in again]
    assert [(w.missing, w.closed_by_order) for w in live] == [(w.missing, w.closed_by_order) for w in again]
    assert all(w.missing == 0 for w in live)


def test_overlapping_welds_share_packets_and_both_replay(tmp_path):
    run = Run(cell(), tmp_path).feed(World(seconds=8.0, arcs=OVERLAPPING).packets())
    one, two = finished(run)
    assert_replay_is_live(run, one)
    assert_replay_is_live(run, two)
    shared = [{p.order for p in WeldReader(w.folder).packets(video=False)} for w in (one, two)]
    assert shared[0] & shared[1]
    assert [report.ok for report in verify(tmp_path)] == [True, True]
    assert not run.problems


@pytest.mark.parametrize("at_s", [4.3, 4.9, 5.4])
@pytest.mark.parametrize("hint", ["first", "nobody"])
def test_a_photo_of_one_weld_does_not_break_the_next(tmp_path, at_s, hint):
    """A photo of weld N while N+1 is in its pre-roll or welds: N+1 still replays as it was live."""
    run = Run(cell(photos_expected=1 if hint == "first" else 0, photo_wait_s=20.0), tmp_path)
    packets = [*World(seconds=8.0, arcs=TWO_ARCS).packets(), photo(at_s)]
    run.feed(sorted(packets, key=lambda p: p.t_arrival_ns))
    one, two = finished(run)
    assert_replay_is_live(run, one)
    assert_replay_is_live(run, two)
    (taken,) = (p for p in run.published if isinstance(p.payload, Photo))
    assert load_manifest(two.folder).first_order < taken.order <= (load_manifest(two.folder).last_order or 0)
    if hint == "first":
        assert [p.name for p in WeldReader(one.folder).photos()] == ["bead.png"]
    else:
        assert [p.name for p in (tmp_path / "hand-made" / "unassigned").iterdir()] == [f"{taken.order:09d}_bead.png"]
    assert WeldReader(two.folder).photos() == []


@pytest.mark.parametrize("again", ["this run", "a later run", "with a name that is no file's"])
def test_a_photo_that_comes_after_all_is_added_to_the_weld_that_it_names(tmp_path, again):
    run = Run(cell(photos_expected=0), tmp_path).feed(World(seconds=5.0).packets())
    (weld,) = finished(run)
    if again == "a later run":
        run = Run(cell(photos_expected=0), tmp_path)
    late = photo(6.0)
    assert isinstance(late.payload, Photo)
    named = replace(late.payload, weld_hint=weld.key, name=".." if "no file" in again else "bead.png")
    late = replace(late, payload=named, order=10**6)
    run.core.handle(IngestedPacket(packet=late, keyframe=False))
    aside = [path.read_bytes() for path in tmp_path.glob("*/unassigned/*")]
    if "no file" in again:
        assert aside == [named.data]
        assert any("is no plain file name" in line and "kept in" in line for line in run.problems)
        return
    assert not aside
    assert not run.problems
    assert [p.data for p in WeldReader(weld.folder).photos()] == [named.data]
    assert [report.ok for report in verify(tmp_path)] == [True]


def test_losses_and_a_dead_camera_replay_too(tmp_path):
    world = World(seconds=8.0, lost={"sensors": (130, 131)}, silent={"camera": (2.2, 3.1)}, restarts={"camera": 3.0})
    run = Run(cell(), tmp_path).feed(world.packets())
    (weld,) = finished(run)
    assert_replay_is_live(run, weld)
    record = load_manifest(weld.folder).streams
    assert sum(loss.missing for loss in record["camera"].losses) == 18
    assert [(loss.first, loss.missing) for loss in record["sensors"].losses] == [(130, 2)]
    assert verify(weld.folder)[0].ok


def test_a_camera_that_comes_back_inside_a_weld_does_not_cost_it(tmp_path):
    """The weld begins without a camera; its first frame must be one that can be decoded alone."""
    for n, silent in enumerate(((0.0, 2.52), (0.6, 2.52), (0.0, 9.0))):
        run = Run(cell(), tmp_path / str(n)).feed(World(silent={"camera": silent}).packets())
        (weld,) = finished(run)
        assert weld.finalised, weld.problem
        assert_replay_is_live(run, weld)


def test_two_cameras_are_recorded_from_a_keyframe(tmp_path):
    second = replace(CAMERA, name="second", rate_hz=13)
    infos = INFOS | {"second": second}
    run = Run(cell(), tmp_path, infos).feed(World(infos=infos).packets())
    (weld,) = finished(run)
    assert weld.finalised, weld.problem
    reader = WeldReader(weld.folder)
    assert reader.manifest.first_order in run.keyframes
    assert {p.stream for p in reader.packets()} >= {"camera", "second"}
    assert verify(weld.folder)[0].ok


def test_a_failing_disk_costs_one_weld_and_not_the_next(tmp_path):
    packets = World(seconds=8.0, arcs=TWO_ARCS).packets()
    early = [p for p in packets if p.t_arrival_ns < START_NS + 2.6e9]
    run = Run(cell(), tmp_path).feed(early)
    (one,) = run.core.welds.values()
    shutil.rmtree(one.folder)
    run.core.flush()
    assert one.writer is None
    assert len(run.problems) == 1
    assert "the folder is gone" in run.problems[0]
    run.feed(packets[len(early) :], tick_ns=10**12)
    _, two = finished(run)
    assert (one.finalised, two.finalised) == (False, True)
    assert_replay_is_live(run, two)
    assert len(run.problems) == 1


def test_a_full_disk_costs_one_weld_and_leaves_it_readable(tmp_path):
    packets = World(seconds=8.0, arcs=TWO_ARCS).packets()
    early = [p for p in packets if p.t_arrival_ns < START_NS + 2.6e9]
    run = Run(cell(), tmp_path).feed(early)
    (one,) = run.core.welds.values()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    middle = [p for p in packets[len(early) :] if p.t_arrival_ns < START_NS + 3.4e9]
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))
    try:
        run.feed(middle, tick_ns=10**12)
        run.core.flush()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert one.problem is not None
    assert "make room" in one.problem
    run.feed(packets[len(early) + len(middle) :], tick_ns=10**12)
    _, two = finished(run)
    assert two.finalised, two.problem
    (line,) = recover_open_welds(tmp_path)
    assert "recovered after a crash" in line
    assert len(list(WeldReader(one.folder).packets())) > 20


def test_below_the_reserve_recording_stops_with_one_line(tmp_path):
    packets = World(seconds=8.0, arcs=TWO_ARCS).packets()
    early = [p for p in packets if p.t_arrival_ns < START_NS + 2.6e9]
    run = Run(cell(reserve_gb=1e9), tmp_path).feed(early)
    run.core.check_space()
    run.core.check_space()
    assert len(run.problems) == 1
    assert "below the reserve" in run.problems[0]
    (one,) = run.core.welds.values()
    assert (one.finalised, one.problem) == (True, "ended early: disk full")
    assert verify(one.folder)[0].ok
    run.feed(packets[len(early) :], tick_ns=10**12)
    two = list(run.core.welds.values())[1]
    assert not two.folder.exists()
    assert two.problem is not None
    assert "not recorded" in two.problem
    assert len(run.problems) == 2
    run.core.cell = cell()
    run.core.check_space()
    assert not run.core.stopped_for_space


def test_late_words_reach_a_finalised_weld(tmp_path):
    run = Run(cell(), tmp_path).feed(World().packets())
    (key,) = run.core.welds
    run.core.handle(score(key))
    (weld,) = finished(run)
    run.core.handle(score(key, 1))
    run.core.handle(verdict(key))
    run.core.handle(LabelWeld(key=key, entry=LabelEntry(label=3, by="me", utc="2026-01-01T00:00:00Z")))
    reader = WeldReader(weld.folder)
    assert [s.window for s in reader.scores()] == [0, 1]
    assert reader.verdicts() == [verdict(key)]
    assert reader.manifest.label == 3
    assert verify(weld.folder)[0].ok
    shutil.rmtree(weld.folder)
    run.core.handle(verdict(key))
    assert len(run.problems) == 1


UTC = "2026-01-01T00:00:00Z"


def test_words_reach_an_open_weld_a_finished_one_and_one_of_an_earlier_run(tmp_path):
    """Said while it is recorded (and kept should the process die), after it, and by the next process."""
    early = [p for p in World().packets() if p.t_arrival_ns < START_NS + 3e9]
    run = Run(cell(), tmp_path).feed(early)
    (key,) = run.core.welds
    folder = run.core.welds[key].folder

    def say(core: RecorderCore, label: int, value: str, key: str = key) -> None:
        core.handle(LabelWeld(key=key, entry=LabelEntry(label=label, by="me", utc=UTC)))
        core.handle(DescribeWeld(key=key, entry=MetadataEntry(name="part", value=value, by="me", utc=UTC)))

    say(run.core, 1, "first")
    assert load_manifest(folder).described["part"] == "first"
    run.feed([p for p in World().packets() if p.t_arrival_ns >= START_NS + 3e9], tick_ns=10**12)
    finished(run)
    say(run.core, 2, "second")
    later = Run(cell(), tmp_path)
    say(later.core, 3, "third")
    manifest = load_manifest(folder)
    assert [entry.label for entry in manifest.labels] == [1, 2, 3]
    assert [entry.value for entry in manifest.edits] == ["first", "second", "third"]
    assert manifest.metadata["part"] == run.cell.metadata["part"], "what was recorded stays"
    assert verify(folder)[0].problems == []
    assert not run.problems
    assert not later.problems
    for unknown in ("2020-01-01T000000Z-000", "../../x", ""):
        say(later.core, 0, "nobody", unknown)
    assert len(later.problems) == 6
    assert all("name a weld that is listed" in line for line in later.problems)


def test_what_is_said_about_a_weld_that_failed_is_not_lost_in_silence(tmp_path):
    run = Run(cell(), tmp_path).feed([p for p in World().packets() if p.t_arrival_ns < START_NS + 3e9])
    (weld,) = run.core.welds.values()
    shutil.rmtree(weld.folder)
    run.core.flush()
    run.core.handle(LabelWeld(key=weld.key, entry=LabelEntry(label=1, by="me", utc=UTC)))
    assert "nothing was added" in run.problems[-1]
    run.core.handle(FinishWeld(key=weld.key))


def test_only_the_newest_finished_welds_are_remembered(tmp_path):
    run = Run(cell(photos_expected=0), tmp_path)
    for n in range(KEPT_WELDS + 5):
        key = f"k{n}"
        run.core.welds[key] = WeldFile(key, tmp_path / key, None, finalised=True)
    run.feed(World().packets())
    run.core.handle(FinishWeld(key=list(run.core.welds)[-1]))
    assert len(run.core.welds) == KEPT_WELDS
    assert next(iter(run.core.welds)) == "k6"


def test_room_is_made_before_the_reserve_stops_recording(tmp_path, monkeypatch):
    run = Run(cell(delete_below_gb=1e9, reserve_gb=0.0), tmp_path)
    asked = []

    def make_room(root: Path, name: str | None, below: float) -> list[str]:
        asked.append((root, name, below))
        return ["k: deleted, 1 MB"]

    monkeypatch.setattr(retention, "make_room", make_room)
    run.core.check_space()
    assert asked == [(tmp_path, "hand-made", 1e18)]
    assert run.problems == ["k: deleted, 1 MB"]
    assert not run.core.stopped_for_space
    run.core.cell = cell(delete_below_gb=0.0)
    run.core.check_space()
    assert len(asked) == 1, "off by default"


class CountingCore(RecorderCore):
    """A core that says when it has been told to complete two welds."""

    told = threading.Semaphore(0)

    def handle(self, item):
        super().handle(item)
        if isinstance(item, FinishWeld):
            self.told.release()


def test_completing_one_weld_does_not_keep_the_next_from_being_written(tmp_path):
    """The finisher waits for a slow disk; the recorder goes on, and nothing piles up in memory."""
    run = Run(cell()).feed(World(seconds=8.0, arcs=TWO_ARCS).packets())
    keys = [event.weld for event in run.events("weld_open") if event.weld is not None]
    problems: queue.SimpleQueue[str] = queue.SimpleQueue()
    threaded = recorder(CountingCore, cell(), tmp_path, problems.put)
    go = threading.Event()
    threaded.core.later(lambda: assert_set(go))
    try:
        for packet in run.published:
            threaded.put(IngestedPacket(packet=packet, keyframe=packet.order in run.keyframes))
            if isinstance(packet.payload, Event) and packet.payload.kind == "photos_done":
                threaded.put(FinishWeld(key=packet.payload.weld or ""))
        threaded.put(LabelWeld(key=keys[0], entry=LabelEntry(label=1, by="me", utc=UTC)))
        for _ in keys:
            assert CountingCore.told.acquire(timeout=DEADLINE_S), "both welds are written to their end"
        assert not any(weld.finalised for weld in threaded.core.welds.values())
    finally:
        go.set()
        assert threaded.close(DEADLINE_S)
    assert [weld.finalised for weld in threaded.core.welds.values()] == [True, True]
    assert load_manifest(threaded.core.welds[keys[0]].folder).label == 1
    assert problems.empty()


def assert_set(go: threading.Event) -> None:
    assert go.wait(DEADLINE_S)


def test_a_weld_left_open_is_finished_at_the_next_start(tmp_path):
    packets = [p for p in World().packets() if p.t_arrival_ns < START_NS + 3e9]
    run = Run(cell(), tmp_path).feed(packets)
    (weld,) = run.core.welds.values()
    assert weld.writer is not None
    weld.writer.abandon()
    (line,) = recover_open_welds(tmp_path)
    assert line.startswith(f"{weld.key}: recovered after a crash")
    assert load_manifest(weld.folder).state == "recovered"
    assert recover_open_welds(tmp_path) == []


def test_a_weld_that_died_before_its_first_file_does_not_keep_the_cell_from_starting(tmp_path):
    """Killed between making the folder (or only its marker) and writing the manifest."""
    for name, text in (("a", "hand-made/day/a"), ("b", "hand-made/day/b"), ("c", "")):
        marker = tmp_path / OPEN_WELDS / name
        marker.parent.mkdir(exist_ok=True)
        marker.write_text(text)
    (tmp_path / "hand-made" / "day" / "a").mkdir(parents=True)
    (tmp_path / "hand-made" / "day" / "a" / MARKS).write_bytes(b"")
    recover_open_welds(tmp_path)
    assert recover_open_welds(tmp_path) == []
    assert list((tmp_path / OPEN_WELDS).iterdir()) == []


class StuckCore(RecorderCore):
    """A core whose disk takes nothing until it is told to."""

    go = threading.Event()
    begun = threading.Event()

    def handle(self, item):
        self.begun.set()
        assert self.go.wait(DEADLINE_S)
        super().handle(item)


def recorder(core_type: type[RecorderCore], made: Cell, root: Path, problem: Callable[[str], None]) -> Recorder:
    return Recorder(core_type(cell=made, infos=dict(INFOS), root=root, session="test", on_problem=problem))


def test_a_full_queue_drops_counts_and_says_so_but_keeps_every_decision(tmp_path, monkeypatch):
    """Device packets are dropped; what was decided (opening and closing of the weld) is not."""
    monkeypatch.setattr(Recorder, "LIMIT_BYTES", 400_000)
    run = Run(cell()).feed(World().packets())
    problems: queue.SimpleQueue[str] = queue.SimpleQueue()
    StuckCore.go.clear()
    StuckCore.begun.clear()
    stuck = recorder(StuckCore, cell(), tmp_path, problems.put)
    try:
        for packet in run.published:
            stuck.put(IngestedPacket(packet=packet, keyframe=packet.order in run.keyframes))
        assert StuckCore.begun.wait(DEADLINE_S)
        assert 0 < stuck.buffered_bytes <= 400_000 + 1024 * 200
        assert set(stuck.overrun) <= {"camera", "microphone", "sensors"}
        assert stuck.overrun["camera"] > 10
    finally:
        StuckCore.go.set()
        assert stuck.close(DEADLINE_S)
    told = [problems.get_nowait() for _ in range(problems.qsize())]
    assert len([line for line in told if "too slow" in line]) == len(stuck.overrun)
    (weld,) = stuck.core.welds.values()
    assert weld.last_order is not None, "the close was not dropped"
    stuck.core.handle(FinishWeld(key=weld.key))
    assert weld.finalised, weld.problem
    assert verify(weld.folder)[0].ok
    manifest = load_manifest(weld.folder)
    for name, record in manifest.streams.items():
        span = [p for p in run.published if p.stream == name and manifest.first_order <= p.order <= weld.last_order]
        missing = sum(loss.missing for loss in record.losses if (loss.reason, loss.exact) == ("overrun", True))
        assert record.items + missing == sum(item_range(p)[1] for p in span), name
        assert (name in stuck.overrun) == (missing > 0)


def test_the_thread_records_what_the_core_would(tmp_path):
    run = Run(cell()).feed(World().packets())
    problems: queue.SimpleQueue[str] = queue.SimpleQueue()
    threaded = recorder(RecorderCore, cell(), tmp_path, problems.put)
    for packet in run.published:
        threaded.put(IngestedPacket(packet=packet, keyframe=packet.order in run.keyframes))
    (key,) = (e.weld for e in run.events("weld_open"))
    assert key is not None
    threaded.put(FinishWeld(key=key, truth={"class": "good"}))
    assert threaded.close(DEADLINE_S)
    weld = threaded.core.welds[key]
    assert weld.finalised
    assert (weld.folder / "truth.json").exists()
    assert not list((tmp_path / OPEN_WELDS).iterdir())
    assert_replay_is_live(run, weld)
    assert problems.empty()
    assert (threaded.buffered_bytes, threaded.overrun) == (0, {})


def test_a_crash_inside_the_core_does_not_end_the_thread(tmp_path):
    problems: queue.SimpleQueue[str] = queue.SimpleQueue()
    threaded = recorder(RecorderCore, cell(), tmp_path, problems.put)
    broken = Packet(stream="events", seq=0, t_arrival_ns=0, payload=Event(kind="weld_open", weld="k", data={}))
    threaded.put(IngestedPacket(packet=broken, keyframe=False))
    assert "KeyError" in problems.get(timeout=DEADLINE_S)
    threaded.put(FinishWeld(key="absent"))
    assert threaded.close(DEADLINE_S)


def test_orders_of_a_weld_are_its_own(tmp_path):
    """A weld holds nothing from before its first order but the clock snapshot, and nothing foreign after its close."""
    run = Run(cell(), tmp_path).feed(World(seconds=8.0, arcs=TWO_ARCS).packets())
    for weld in finished(run):
        manifest = load_manifest(weld.folder)
        orders = [p.order for p in WeldReader(weld.folder).packets()]
        assert all(a < b for a, b in itertools.pairwise(orders))
        assert len([o for o in orders if o < manifest.first_order]) == 3
        after = [p.payload for p in WeldReader(weld.folder).packets() if p.order > (manifest.last_order or 0)]
        assert [p.kind for p in after if isinstance(p, Event)] == ["photos_done"]
        assert len(after) == 1


@pytest.mark.parametrize("change_s", [2.8, 5.2])
def test_a_camera_that_comes_back_with_another_size_costs_no_weld(tmp_path, change_s):
    """In a weld (arc 2.0-3.5 s) it is lost to that weld only; between welds it costs pre-roll at most."""
    other = replace(CAMERA, height=48, width=80)
    world = World(seconds=11.0, arcs=((2.0, 3.5), (7.5, 9.0)), restarts={"camera": change_s})
    packets = [
        replace(p, payload=VideoFrame(pixels=np.zeros((48, 80), np.uint8))) if p.stream == "camera" and p.segment else p
        for p in world.packets()
    ]
    announced = False
    run = Run(cell(), tmp_path)
    for packet in packets:
        if packet.stream == "camera" and packet.segment and not announced:
            run.ingest.add_stream(other)
            announced = True
        run.feed([packet])
    run.take(run.ingest.finish(packets[-1].t_arrival_ns))
    assert not run.problems
    readers = []
    for key in run.core.welds:
        run.core.handle(FinishWeld(key=key))
        readers.append(WeldReader(run.core.welds[key].folder))
    first, second = readers
    for reader, size in zip(readers, ((64, 64), (48, 80)), strict=True):
        frames = [p.payload for p in reader.pictures("camera") if isinstance(p.payload, VideoFrame)]
        assert {frame.pixels.shape for frame in frames} == {size}
    assert (second.infos["camera"].height, second.infos["camera"].width) == (48, 80)
    lost = [event.data["reason"] for event in run.events("stream_lost")]
    gaps = [event.data for event in run.events("gap") if event.data["stream"] == "camera"]
    if change_s == 2.8:
        assert lost == ["came back in another format (80 x 48 at 20 Hz); recorded again after this weld"]
        assert sum(gap["missing"] for gap in gaps) == pytest.approx((4.5 - 2.8) * 20, abs=2)
    else:
        assert lost == []
        assert gaps == []
    assert first.manifest.streams["microphone"].items == second.manifest.streams["microphone"].items
