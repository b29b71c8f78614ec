import itertools
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from acquisition.packet import ClockUpdate, Event, Photo, SensorRows, StreamInfo, VideoFrame, item_range
from acquisition.photo_folder import WELD_NAME
from acquisition.simulated.weld import simulated_weld
from recordings.ingest import Ingest, clock_snapshot, weld_key
from sync.clock import ClockTable
from sync.sample import Weld4MSample
from tests.recordings.cells import ingested, small_cell
from tests.recordings.handmade import (
    BLOCK,
    CAMERA,
    FPS,
    INFOS,
    LATENCY_NS,
    SENSORS,
    START_NS,
    Run,
    World,
    cell,
    photo,
)


def seconds(t_ns: int | None) -> float:
    assert t_ns is not None
    return (t_ns - START_NS) / 1e9


def test_orders_increase_without_gaps_and_the_weld_is_found():
    run = Run(cell()).feed(World().packets())
    assert [p.order for p in run.published] == list(range(1, len(run.published) + 1))
    assert [e.kind for e in run.events("weld_open") + run.events("weld_close")] == ["weld_open", "weld_close"]
    on, off = run.events("arc_on")[0], run.events("arc_off")[0]
    assert seconds(on.t_ns) == pytest.approx(2.0 + LATENCY_NS["sensors"] / 1e9, abs=0.02)
    assert seconds(off.t_ns) == pytest.approx(3.48 + LATENCY_NS["sensors"] / 1e9, abs=0.02)
    close = next(p for p in run.published if isinstance(p.payload, Event) and p.payload.kind == "weld_close")
    assert isinstance(close.payload, Event)
    assert close.payload.data["last_order"] == close.order
    assert not run.ingest.welds


def test_a_simulated_weld_is_one_history():
    made = small_cell(fps=20.0)
    assert made.simulation is not None
    weld = simulated_weld(made.simulation, seed=2, start_ns=START_NS)
    ingest = Ingest(made, weld.infos, lambda cell_ns: cell_ns)
    orders = [p.order for out in ingested(ingest, weld.packets()) for p in out]
    assert orders == list(range(1, len(orders) + 1))


@pytest.mark.parametrize("fps", [4.0, 10.0, 30.0, 60.0])
@pytest.mark.parametrize("pre_s", [0.0, 0.7, 1.5])
def test_a_weld_begins_at_a_keyframe_within_half_a_second(fps, pre_s):
    camera = StreamInfo(
        name="camera",
        modality="video",
        rate_hz=fps,
        height=64,
        width=64,
        has_counter=True,
        device_clock="stamps",
    )
    infos = INFOS | {"camera": camera}
    run = Run(cell(pre_s=pre_s), infos=infos).feed(World(seconds=4.0, infos=infos).packets())
    opened = run.events("weld_open")[0]
    first = opened.data["first_order"]
    assert first in run.keyframes
    assert isinstance(run.published[first - 1].payload, VideoFrame)
    early_s = seconds(opened.t_ns) - pre_s - seconds(opened.data["origin_ns"])
    assert 0 <= early_s <= 0.502


def test_keyframes_come_every_fifteen_frames_or_half_a_second():
    run = Run(cell()).feed(World().packets())
    frames = [p for p in run.published if p.stream == "camera"]
    spacing = [b - a for a, b in itertools.pairwise(i for i, p in enumerate(frames) if p.order in run.keyframes)]
    assert set(spacing) == {FPS // 2}


def test_two_cameras_begin_every_weld_with_a_keyframe():
    second = StreamInfo(name="second", modality="video", rate_hz=13, height=64, width=64, device_clock="stamps")
    infos = INFOS | {"second": second}
    run = Run(cell(), infos=infos).feed(World(infos=infos).packets())
    first = run.events("weld_open")[0].data["first_order"]
    for name in ("camera", "second"):
        frame = next(p for p in run.published[first - 1 :] if p.stream == name)
        assert frame.order in run.keyframes, name


def test_without_a_camera_a_weld_begins_where_it_should():
    """A camera that died long ago must not pull the beginning back to its last keyframe."""
    run = Run(cell()).feed(World(seconds=12.0, arcs=((9.0, 10.0),), silent={"camera": (1.0, 10.0)}).packets())
    opened = run.events("weld_open")[0]
    assert 0 <= seconds(opened.t_ns) - 0.5 - seconds(opened.data["origin_ns"]) < 0.1
    back = next(p for p in run.published[opened.data["first_order"] - 1 :] if p.stream == "camera")
    assert back.order in run.keyframes, "the first frame of the weld must be decodable"


def test_a_restarted_camera_begins_with_a_keyframe():
    run = Run(cell()).feed(World(restarts={"camera": 2.61}).packets())
    first = next(p for p in run.published if p.stream == "camera" and p.segment == 1)
    assert first.order in run.keyframes


def test_the_snapshot_holds_the_clocks_in_force():
    run = Run(cell()).feed(World(seconds=30.0, arcs=((26.0, 27.0),), restarts={"sensors": 20.0}).packets())
    opened = run.events("weld_open")[0]
    before = [p for p in run.published[: opened.data["first_order"] - 1] if isinstance(p.payload, ClockUpdate)]
    newest = {p.payload.of_stream: p for p in before if isinstance(p.payload, ClockUpdate)}
    assert len(before) > len(newest) == 3
    assert clock_snapshot(opened) == sorted(newest.values(), key=lambda p: p.order)
    update = newest["sensors"].payload
    assert isinstance(update, ClockUpdate)
    assert update.segment == 1


def test_the_clock_history_stays_short_whatever_is_silent():
    """A dead stream, or a cell with nothing but a camera, must not let the history grow for ever."""
    infos = {"camera": CAMERA, "sensors": SENSORS}
    run = Run(cell(), infos=infos)
    world = World(seconds=60.0, arcs=(), infos=infos, silent={"sensors": (1.0, 61.0)})
    jitter = np.random.default_rng(1)
    for p in world.packets():
        late = int(jitter.exponential(5e6))
        run.take(run.ingest.push(replace(p, t_arrival_ns=p.t_arrival_ns + late)))
    made = sum(isinstance(p.payload, ClockUpdate) for p in run.published)
    assert run.ingest._clocks.remembered < 20 < 50 < made


def test_welds_overlap_when_the_arc_comes_back_in_the_post_roll():
    run = Run(cell()).feed(World(seconds=8.0, arcs=((2.0, 3.0), (3.8, 5.0))).packets())
    one, two = run.events("weld_open")
    closes = {e.weld: e.data["last_order"] for e in run.events("weld_close")}
    assert one.weld != two.weld
    assert one.data["first_order"] < two.data["first_order"] < closes[one.weld] < closes[two.weld]
    assert [e.weld for e in run.events("arc_off")] == [one.weld, two.weld]


def test_a_silent_stream_is_lost_comes_back_and_the_gap_is_located():
    run = Run(cell()).feed(World(seconds=8.0, silent={"microphone": (2.5, 5.0)}).packets())
    (lost,) = run.events("stream_lost")
    (back,) = run.events("stream_back")
    assert (lost.data, back.data) == (
        {"stream": "microphone", "reason": "silent"},
        {"stream": "microphone", "segment": 0},
    )
    gaps = run.events("gap")
    assert sum(gap.data["missing"] for gap in gaps) == 2.5 * 2000
    assert gaps[0].data["first"] == 2.5 * 2000
    assert gaps[0].data["reason"] == "silent"
    assert seconds(gaps[0].t_ns) == pytest.approx(2.5 + LATENCY_NS["microphone"] / 1e9, abs=1e-4)
    tracker = run.ingest.losses["microphone"]
    assert (tracker.received, tracker.dropped) == (5.5 * 2000, 2.5 * 2000)


def test_a_weld_closes_although_a_stream_is_dead():
    run = Run(cell()).feed(World(seconds=7.0, silent={"camera": (2.5, 9.0)}).packets())
    (close,) = run.events("weld_close")
    (gap,) = run.events("gap")
    closed_ns = next(p.t_arrival_ns for p in run.published if p.payload is close)
    assert seconds(closed_ns) - seconds(run.events("arc_off")[0].t_ns) == pytest.approx(1.0, abs=0.1)
    assert (gap.data["stream"], gap.data["first"], gap.data["exact"]) == ("camera", 50, False)
    assert gap.data["missing"] == pytest.approx((seconds(closed_ns) - 2.5) * FPS, abs=2)


def test_a_weld_closes_by_ticks_alone_when_everything_is_dead():
    names = ("camera", "microphone", "sensors")
    run = Run(cell()).feed(World(seconds=3.0, arcs=((1.0, 9.0),)).packets())
    run.take(run.ingest.stop_weld(START_NS + 3 * 10**9))
    for n in range(100):
        run.take(run.ingest.tick(START_NS + 3 * 10**9 + n * 20_000_000))
    assert {e.data["stream"] for e in run.events("stream_lost")} == set(names)
    assert len(run.events("weld_close")) == 1


def test_a_loss_is_told_once_although_two_welds_close_on_it():
    """The gap told when the first weld closes is not told again by the second or by the returning stream."""
    world = World(seconds=11.0, arcs=((2.0, 3.0), (3.8, 5.0)), silent={"camera": (2.5, 9.0)})
    run = Run(cell()).feed(world.packets())
    gaps = [e.data for e in run.events("gap")]
    assert len(gaps) == 3
    for one, two in itertools.pairwise(gaps):
        assert one["first"] + one["missing"] == two["first"]
    assert sum(gap["missing"] for gap in gaps) == 6.5 * FPS == run.ingest.losses["camera"].dropped


def test_items_that_were_given_up_and_come_late_are_no_loss():
    world = World(seconds=9.0)
    late = {"camera": (2.5, 6.0)}
    held = [p for p in world.packets() if p.stream == "camera" and 50 <= p.seq < 120]
    rest = World(seconds=9.0, silent=late).packets()
    split = next(i for i, p in enumerate(rest) if p.stream == "camera" and p.seq >= 120)
    run = Run(cell())
    run.feed(rest[:split])
    assert run.ingest.losses["camera"].dropped > 0, "the weld has closed meanwhile"
    now_ns = rest[split].t_arrival_ns
    for p in held:
        run.take(run.ingest.push(replace(p, t_arrival_ns=now_ns)))
    run.feed(rest[split:], tick_ns=10**12)
    assert run.ingest.losses["camera"].dropped == 0


@settings(max_examples=25, deadline=None)
@given(
    lost=st.fixed_dictionaries(
        {
            "camera": st.sets(st.integers(1, 68)),
            "microphone": st.sets(st.integers(1, 68)),
            "sensors": st.sets(st.integers(1, 173)),
        }
    )
)
def test_every_loss_is_told_exactly(lost):
    """Whatever is lost of whatever stream, the gaps name exactly those items."""
    world = World(seconds=3.5, arcs=((1.0, 2.0),), lost=lost)
    run = Run(cell()).feed(world.packets())
    told: dict[str, list[int]] = {name: [] for name in lost}
    for event in run.events("gap"):
        step = BLOCK if event.data["stream"] == "microphone" else 1
        first, missing = event.data["first"], event.data["missing"]
        assert first % step == missing % step == 0
        assert event.data["segment"] == 0
        told[event.data["stream"]] += range(first // step, (first + missing) // step)
    for name, numbers in lost.items():
        assert told[name] == sorted(numbers), name
    orders = [p.order for p in run.published]
    assert orders == list(range(1, len(orders) + 1))


def test_manual_start_and_stop():
    run = Run(cell()).feed(
        World(seconds=6.0, arcs=()).packets(),
        at={
            2.0: lambda ingest, now_ns: ingest.start_weld(now_ns),
            2.5: lambda ingest, now_ns: ingest.start_weld(now_ns),
            3.0: lambda ingest, now_ns: ingest.mark(now_ns, "look"),
            4.0: lambda ingest, now_ns: ingest.stop_weld(now_ns),
            5.9: lambda ingest, now_ns: ingest.mark(now_ns, "idle"),
        },
    )
    (opened,) = run.events("weld_open")
    assert opened.data["trigger"] == "manual"
    assert (seconds(opened.t_ns), seconds(run.events("arc_off")[0].t_ns)) == (2.0, 4.0)
    assert len(run.events("weld_close")) == 1
    assert [(e.weld, e.data["note"]) for e in run.events("mark")] == [(opened.weld, "look"), (None, "idle")]


def test_an_arc_inside_a_manual_weld_neither_ends_nor_doubles_it():
    run = Run(cell()).feed(
        World(seconds=6.0, arcs=((2.0, 3.0),)).packets(),
        at={
            1.0: lambda ingest, now_ns: ingest.start_weld(now_ns),
            4.5: lambda ingest, now_ns: ingest.stop_weld(now_ns),
        },
    )
    assert len(run.events("weld_open")) == 1
    assert [e.data["source"] for e in run.events("arc_off")] == ["manual"]


def test_too_long_a_weld_is_ended_and_its_arc_starts_no_other():
    run = Run(cell(longest_s=1.5)).feed(World(seconds=7.0, arcs=((1.0, 5.0),)).packets())
    assert len(run.events("weld_open")) == len(run.events("weld_close")) == 1
    (off,) = run.events("arc_off")
    assert off.data["source"] == "longest_s"
    assert seconds(off.t_ns) == pytest.approx(2.5, abs=0.1)


def test_a_disarmed_cell_does_not_trigger_but_ends_what_it_began():
    run = Run(cell())
    run.ingest.armed = False
    run.feed(World().packets())
    assert not run.events("weld_open")

    def disarm(ingest, now_ns):
        ingest.armed = False
        return []

    run = Run(cell()).feed(World().packets(), at={2.5: disarm})
    assert len(run.events("weld_open")) == len(run.events("weld_close")) == 1


def test_finish_ends_what_is_open():
    run = Run(cell(photos_expected=2)).feed(World(seconds=3.0, arcs=((1.5, 9.0),)).packets())
    run.take(run.ingest.finish(START_NS + 3 * 10**9))
    kinds = [p.payload.kind for p in run.published[-4:] if isinstance(p.payload, Event)]
    assert kinds == ["arc_off", "sync", "weld_close", "photos_done"]
    assert not run.ingest.welds


def hints(run: Run) -> list[str | None]:
    return [p.payload.weld_hint for p in run.published if isinstance(p.payload, Photo)]


def test_photos_go_to_the_named_weld_else_the_oldest_that_expects_one_else_to_none():
    packets = World(seconds=10.0, arcs=((1.0, 2.0), (4.5, 5.5))).packets()
    run = Run(cell(photos_expected=2, photo_wait_s=30.0))
    run.feed(packets)
    one, two = (e.weld for e in run.events("weld_open"))
    assert [w.phase for w in run.ingest.welds.values()] == ["photos", "photos"]
    for n, hint in enumerate((two, None, "left-view", None, None)):
        run.take(run.ingest.push(photo(10.0 + n / 10, f"{n}.png", hint)))
    assert hints(run) == [two, one, one, two, None]
    assert [(e.weld, e.data["received"]) for e in run.events("photos_done")] == [(one, 2), (two, 2)]


def test_a_photo_that_names_a_forgotten_weld_is_no_other_weld_s():
    run = Run(cell(photos_expected=2)).feed(World().packets())
    forgotten = weld_key(START_NS - 10**12)
    run.take(run.ingest.push(photo(6.0, hint=forgotten)))
    assert hints(run) == [forgotten]
    assert not next(iter(run.ingest.welds.values())).photos


def test_a_late_photo_reaches_a_weld_that_is_done():
    run = Run(cell(photos_expected=1, photo_wait_s=0.5)).feed(World(seconds=8.0).packets())
    (opened,) = run.events("weld_open")
    assert [e.data for e in run.events("photos_done")] == [{"expected": 1, "received": 0}]
    run.take(run.ingest.push(photo(9.0, hint=opened.weld)))
    assert hints(run) == [opened.weld]
    assert run.events("photos_done")[-1].data == {"expected": 1, "received": 1}


def test_a_weld_key_is_what_the_photo_folder_looks_for():
    key = weld_key(1_767_323_045_007_000_000)
    assert key == "2026-01-02T030405Z-007"
    found = WELD_NAME.match(f"{key}_left.jpg")
    assert found is not None
    assert found[0] == key


def contents(sample: Weld4MSample) -> tuple[object, ...]:
    arrays = (sample.video, sample.video_mask, sample.audio, sample.audio_mask, sample.sensors, sample.sensors_mask)
    return (sample.index, sample.t0_ns, sample.present, *(array.tobytes() for array in arrays))


@pytest.mark.parametrize("tick_ms", [1, 90, 2000])
def test_how_often_the_loop_turns_changes_no_window(tick_ms):
    """Ticks only notice silence (and may do so at another order); windows are decided by packets."""
    world = World(seconds=6.0, lost={"camera": (45, 46), "sensors": (120,)}, silent={"microphone": (2.6, 3.4)})
    reference = Run(cell()).feed(world.packets())
    other = Run(cell()).feed(world.packets(), tick_ns=tick_ms * 1_000_000)
    (key,) = (e.weld for e in reference.events("weld_open"))
    assert key is not None
    windows = reference.windows(key)
    assert len(windows) >= 4
    assert [contents(w) for w in windows] == [contents(w) for w in other.windows(key)]


def test_received_items_are_those_pushed():
    world = World(lost={"camera": (3,), "microphone": (4, 5)})
    run = Run(cell()).feed(world.packets())
    pushed = Counter[str]()
    for p in world.packets():
        pushed[p.stream] += item_range(p)[1]
    assert {name: tracker.received for name, tracker in run.ingest.losses.items()} == dict(pushed)
    rows = [p.payload for p in run.published if isinstance(p.payload, SensorRows)]
    assert sum(len(r.values) for r in rows) == pushed["sensors"]


def test_a_system_clock_stepped_by_hours_inside_a_weld_changes_only_names():
    """Nothing is timed by the wall clock: it only names welds."""
    packets = World(seconds=8.0, arcs=((2.0, 3.0), (5.0, 6.0))).packets()
    steady, stepped = Run(cell()), Run(cell())
    step_ns = START_NS + 2_500_000_000
    stepped.ingest._utc_of = lambda cell_ns: cell_ns - 7200 * 10**9 if cell_ns > step_ns else cell_ns
    histories = []
    for run in (steady, stepped):
        run.feed(packets)
        keys = [event.weld for event in run.events("weld_open")]
        plain = [
            replace(p, payload=replace(p.payload, weld=str(keys.index(p.payload.weld)) if p.payload.weld else None))
            for p in run.published
            if isinstance(p.payload, Event)
        ]
        histories.append((keys, plain, [p.order for p in run.published]))
    assert histories[0][0][0] == histories[1][0][0]
    assert histories[0][0][1] != histories[1][0][1]
    assert histories[0][1:] == histories[1][1:]


HOUR_NS = 3600 * 10**9
BAD_STAMPS: dict[str, tuple[Callable[[int, int], int | None], set[str]]] = {
    "hours ahead": (lambda n, t_ns: t_ns + HOUR_NS if n in (60, 130) else t_ns, {"jumped"}),
    "hours back": (lambda n, t_ns: t_ns - HOUR_NS if n in (60, 130) else t_ns, {"backwards"}),
    "set by hours": (lambda n, t_ns: t_ns + HOUR_NS if n > 110 else t_ns, {"jumped"}),
    "set back": (lambda n, t_ns: t_ns - HOUR_NS if n > 110 else t_ns, {"backwards"}),
    "backwards": (lambda n, t_ns: t_ns - 50_000_000 if n % 40 == 39 else t_ns, {"backwards"}),
    "repeated": (lambda n, t_ns: t_ns - 20_000_000 if n % 40 == 39 else t_ns, {"repeated"}),
    "all equal": (lambda n, t_ns: 5, {"stuck"}),
    "stuck for a while": (lambda n, t_ns: t_ns if not 80 < n < 180 else 8 * 10**9, {"stuck"}),
    "absurd": (lambda n, t_ns: 2**63 - 1 if n % 50 == 7 else t_ns, {"jumped"}),
    "absent": (lambda n, t_ns: None, {"missing"}),
}


@pytest.mark.parametrize("name", BAD_STAMPS)
def test_bad_stamps_of_one_device_are_told_and_disturb_nothing_else(name):
    change, kinds = BAD_STAMPS[name]
    packets, count = [], 0
    for packet in World(seconds=7.0).packets():
        if isinstance(packet.payload, SensorRows):
            assert packet.payload.t_device_ns is not None
            stamp = change(count, int(packet.payload.t_device_ns[0]))
            stamps = None if stamp is None else np.array([stamp], np.int64)
            packet = replace(packet, t_device_ns=stamp, payload=replace(packet.payload, t_device_ns=stamps))
            count += 1
        packets.append(packet)
    run = Run(cell()).feed(packets)
    told = {event.data["what"] for event in run.events("clock_fault")}
    assert kinds <= told
    assert {event.data["stream"] for event in run.events("clock_fault")} == {"sensors"}
    assert len(run.events("clock_fault")) <= 4
    assert run.ingest.clock_faults["sensors"] >= len(run.events("clock_fault"))
    clocks, late_ns, before_ns = ClockTable(), [], 0
    for packet in run.published:
        if isinstance(packet.payload, ClockUpdate):
            clocks.apply(packet.payload)
        elif packet.stream == "sensors":
            t_ns = clocks.cell_time_ns(SENSORS, packet)
            assert t_ns >= before_ns
            before_ns = t_ns
            late_ns.append(packet.t_arrival_ns - t_ns)
    assert np.abs(late_ns).max() < 600_000_000
    assert np.median(np.abs(late_ns)) < 20_000_000
    calm = Run(cell()).feed(World(seconds=7.0).packets())
    assert len(run.events("weld_close")) == 1
    assert not [event for event in run.events("gap") if event.data["stream"] != "sensors"]
    for stream in ("camera", "microphone"):
        mine, theirs = ([(p.seq, p.t_device_ns) for p in one.published if p.stream == stream] for one in (run, calm))
        assert mine == theirs
        one, other = (
            [p.payload for p in made.published if isinstance(p.payload, ClockUpdate) and p.payload.of_stream == stream]
            for made in (run, calm)
        )
        assert one == other
