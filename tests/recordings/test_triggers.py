"""What begins and ends a weld: chosen arcs, short ones, an external channel or message, a hand; what is ignored."""

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from acquisition.packet import Event, Packet, SensorRows, StreamInfo
from recordings.ingest import Ingest
from recordings.reader import WeldReader
from recordings.recorder import FinishWeld
from recordings.triggers import Triggers
from recordings.verify import verify
from tests.recordings.handmade import INFOS, LATENCY_NS, START_NS, Run, World, cell, cut_windows

ROBOT_HZ = 25
ROBOT = StreamInfo(
    name="robot",
    modality="sensors",
    rate_hz=ROBOT_HZ,
    channels=("ready", "arc"),
    units=("", ""),
    dtype="float64",
    has_counter=True,
)
ROBOT_INFOS = INFOS | {"robot": ROBOT}

Command = Callable[[Ingest, int], list[Packet]]


def seconds(t_ns: int | None) -> float:
    assert t_ns is not None
    return (t_ns - START_NS) / 1e9


def trigger(on: bool, by: str = "plc") -> Command:
    return lambda ingest, now_ns: ingest.trigger(now_ns, on, by)


def with_robot(world: World, level: Callable[[float], float], rows: int = 1) -> list[Packet]:
    """A world's packets, and those of a robot whose second channel is `level` of the time."""
    made = world.packets()
    for first in range(0, round(world.seconds * ROBOT_HZ), rows):
        t_s = np.arange(first, first + rows) / ROBOT_HZ
        arrival_ns = START_NS + np.rint(t_s * 1e9).astype(np.int64)
        values = np.column_stack([np.ones(rows), [level(t) for t in t_s]])
        payload = SensorRows(first_row=first, values=values, t_device_ns=None, t_arrival_ns=arrival_ns)
        made.append(Packet(stream="robot", seq=first, t_arrival_ns=int(arrival_ns[-1]), payload=payload))
    return sorted(made, key=lambda packet: packet.t_arrival_ns)


def said(run: Run, kind: str) -> list[dict[str, Any]]:
    return [event.data for event in run.events(kind)]


@pytest.mark.parametrize(
    ("triggers", "source"), [(("light",), "light"), (("sound",), "sound"), (("sound", "light"), "light")]
)
def test_only_the_chosen_sources_show_the_arc_the_better_one_first(triggers, source):
    run = Run(cell(triggers=triggers)).feed(World(seconds=8.0, arcs=((3.0, 5.0),)).packets())
    (opened,), (off,) = run.events("weld_open"), run.events("arc_off")
    assert (opened.data["trigger"], off.data["source"]) == (source, source)
    assert seconds(opened.t_ns) == pytest.approx(3.0 + LATENCY_NS["camera"] / 1e9, abs=0.1)


def test_by_hand_only_no_arc_begins_a_weld():
    at: dict[float, Command] = {
        4.0: lambda ingest, now_ns: ingest.start_weld(now_ns),
        5.0: lambda ingest, now_ns: ingest.stop_weld(now_ns),
    }
    run = Run(cell(triggers=("manual",))).feed(World(seconds=7.0).packets(), at=at)
    assert [data["trigger"] for data in said(run, "weld_open")] == ["manual"]


@pytest.mark.parametrize("rows", [1, 10])
def test_an_external_channel_begins_and_ends_a_weld_at_its_rows(tmp_path, rows):
    """Back-dated to the row, in packets of one row or many; a row without a reading says nothing."""
    made = cell(triggers=(), external="robot.arc")
    run = Run(made, tmp_path, ROBOT_INFOS)
    world = World(seconds=7.0, infos=INFOS)
    run.feed(with_robot(world, lambda t: np.nan if 2.5 < t < 3 else float(2.0 <= t < 4.0), rows))
    (opened,), (off,) = run.events("weld_open"), run.events("arc_off")
    assert (opened.data["trigger"], off.data["source"]) == ("external", "external")
    assert (seconds(opened.t_ns), seconds(off.t_ns)) == (2.0, 4.0)
    assert opened.data["origin_ns"] <= START_NS + 1.5e9
    (weld,) = run.core.welds.values()
    run.core.handle(FinishWeld(key=weld.key))
    assert verify(weld.folder)[0].problems == []
    reader = WeldReader(weld.folder)
    live, again = run.windows(weld.key), cut_windows(weld.key, reader.packets(), reader.infos)
    assert len(live) >= 3
    assert [window.digest() for window in live] == [window.digest() for window in again]


def test_arcs_inside_an_external_weld_are_told_and_do_not_end_it():
    run = Run(cell(external="robot.arc"), infos=ROBOT_INFOS)
    world = World(seconds=8.0, arcs=((2.0, 2.8), (3.6, 4.4)), infos=INFOS)
    run.feed(with_robot(world, lambda t: float(1.0 <= t < 5.0)))
    (opened,) = run.events("weld_open")
    assert [data["source"] for data in said(run, "arc_off")] == ["external"]
    ignored = run.events("trigger_ignored")
    assert [(event.weld, event.data) for event in ignored] == [
        (opened.weld, {"source": "current", "reason": "a weld is being recorded"})
    ] * 2
    assert [seconds(event.t_ns) for event in ignored] == pytest.approx([2.0, 3.6], abs=0.05)


def test_an_external_message_is_told_apart_from_an_arc():
    at = {1.0: trigger(True, "cell plc"), 1.5: trigger(True), 3.0: trigger(False, "cell plc")}
    run = Run(cell()).feed(World(seconds=8.0, arcs=((4.5, 5.5),)).packets(), at=at)
    assert [(data["trigger"], data.get("by")) for data in said(run, "weld_open")] == [
        ("external", "cell plc"),
        ("current", None),
    ]
    assert [(data["source"], data.get("by")) for data in said(run, "arc_off")] == [
        ("external", "cell plc"),
        ("current", None),
    ]
    assert said(run, "trigger_ignored") == [{"source": "external", "by": "plc", "reason": "a weld is being recorded"}]


def test_the_end_of_an_external_signal_ends_no_other_weld():
    at = {2.5: trigger(False), 3.0: trigger(False)}
    run = Run(cell()).feed(World().packets(), at=at)
    assert [data["source"] for data in said(run, "arc_off")] == ["current"]


@pytest.mark.parametrize("kind", ["manual", "external"])
def test_a_trigger_in_the_post_roll_begins_a_weld_that_shares_packets(tmp_path, kind):
    start: Command = trigger(True) if kind == "external" else lambda ingest, now_ns: ingest.start_weld(now_ns)
    stop: Command = trigger(False) if kind == "external" else lambda ingest, now_ns: ingest.stop_weld(now_ns)
    at = {2.0: start, 3.0: stop, 3.4: start, 4.4: stop}
    run = Run(cell(), tmp_path).feed(World(seconds=7.0, arcs=()).packets(), at=at)
    one, two = run.events("weld_open")
    closes = {event.weld: event.data["last_order"] for event in run.events("weld_close")}
    assert one.data["first_order"] < two.data["first_order"] < closes[one.weld] < closes[two.weld]
    shared = []
    for key in run.core.welds:
        run.core.handle(FinishWeld(key=key))
        folder = run.core.welds[key].folder
        assert verify(folder)[0].problems == []
        shared.append({packet.order for packet in WeldReader(folder).packets(video=False)})
    assert len(shared[0] & shared[1]) > 20
    assert not run.events("trigger_ignored")


def test_it_arms_itself_again_after_every_weld():
    arcs = tuple((t, t + 0.6) for t in (1.0, 3.5, 6.0, 8.5))
    run = Run(cell()).feed(World(seconds=11.0, arcs=arcs).packets())
    assert len(run.events("weld_open")) == len(run.events("weld_close")) == 4


def test_what_a_cell_that_is_not_armed_ignores_is_told():
    run = Run(cell())
    run.ingest.armed = False
    at: dict[float, Command] = {
        1.0: trigger(True),
        4.5: lambda ingest, now_ns: ingest.start_weld(now_ns),
        5.0: lambda ingest, now_ns: ingest.stop_weld(now_ns),
    }
    run.feed(World(seconds=8.0).packets(), at=at)
    assert said(run, "trigger_ignored") == [{"source": "external", "by": "plc", "reason": "not armed"}]
    assert said(run, "arc_ignored") == [{"source": "current", "reason": "not armed"}]
    assert [data["trigger"] for data in said(run, "weld_open")] == ["manual"]
    assert run.ingest.ignored_arcs == 0


@pytest.mark.parametrize("shortest_s", [0.0, 1.0])
@pytest.mark.parametrize("source", ["current", "light"])
def test_short_arcs_are_kept_or_ignored_by_rule(tmp_path, shortest_s, source):
    """A tack weld of 0.6 s and a weld of 1.5 s: the second is back-dated to its beginning, with its whole pre-roll."""
    made = cell(shortest_s=shortest_s, triggers=(source,))
    run = Run(made, tmp_path).feed(World(seconds=10.0, arcs=((2.0, 2.6), (5.0, 6.5))).packets())
    folders = [weld.folder for weld in run.core.welds.values()]
    for key in run.core.welds:
        run.core.handle(FinishWeld(key=key))
    begun = [seconds(event.t_ns) for event in run.events("weld_open")]
    if not shortest_s:
        assert begun == pytest.approx([2.0, 5.0], abs=0.1)
        assert not run.events("arc_ignored")
        return
    assert begun == pytest.approx([5.0], abs=0.1)
    (ignored,) = run.events("arc_ignored")
    assert (ignored.data["source"], ignored.data["reason"]) == (source, "shorter than shortest_s")
    assert ignored.data["seconds"] == pytest.approx(0.6, abs=0.1)
    assert seconds(ignored.t_ns) == pytest.approx(2.0, abs=0.1)
    assert run.ingest.ignored_arcs == 1
    (opened,) = run.events("weld_open")
    assert seconds(opened.data["origin_ns"]) <= begun[0] - made.record.pre_s
    decided = next(p for p in run.published if isinstance(p.payload, Event) and p.payload.kind == "weld_open")
    assert seconds(decided.t_arrival_ns) - begun[0] == pytest.approx(shortest_s, abs=0.1)
    reader = WeldReader(folders[0])
    orders = [packet.order for packet in reader.packets() if packet.order >= reader.manifest.first_order]
    assert all(b == a + 1 for a, b in itertools.pairwise(orders))


def test_an_arc_just_long_enough_is_a_weld_even_where_both_edges_come_in_one_packet():
    made = cell(shortest_s=1.0, triggers=("current",))
    world = World(seconds=8.0, arcs=((2.0, 3.02), (5.0, 5.96)))
    rows = [p for p in world.packets() if p.stream == "sensors"]
    joined = []
    for n in range(0, len(rows), 100):
        payloads = [p.payload for p in rows[n : n + 100]]
        assert all(isinstance(payload, SensorRows) for payload in payloads)
        stamps = [p.payload.t_device_ns for p in rows[n : n + 100] if isinstance(p.payload, SensorRows)]
        payload = SensorRows(
            first_row=n,
            values=np.concatenate([p.values for p in payloads if isinstance(p, SensorRows)]),
            t_device_ns=np.concatenate([stamp for stamp in stamps if stamp is not None]),
            t_arrival_ns=np.concatenate([p.t_arrival_ns for p in payloads if isinstance(p, SensorRows)]),
        )
        last = rows[min(n + 99, len(rows) - 1)]
        joined.append(
            Packet(
                stream="sensors", seq=n, t_device_ns=last.t_device_ns, t_arrival_ns=last.t_arrival_ns, payload=payload
            )
        )
    others = [p for p in world.packets() if p.stream != "sensors"]
    run = Run(made).feed(sorted([*others, *joined], key=lambda p: p.t_arrival_ns))
    assert len(run.events("weld_open")) == len(run.events("arc_off")) == 1
    assert seconds(run.events("arc_off")[0].t_ns) - seconds(run.events("weld_open")[0].t_ns) == pytest.approx(
        1.0, abs=0.03
    )
    assert said(run, "arc_ignored")[0]["seconds"] == pytest.approx(0.94, abs=0.03)


def test_an_arc_that_is_cut_off_by_the_end_is_told_too():
    run = Run(cell(shortest_s=2.0)).feed(World(seconds=3.0, arcs=((2.0, 9.0),)).packets())
    run.take(run.ingest.finish(START_NS + 3 * 10**9))
    assert not run.events("weld_open")
    assert [data["seconds"] for data in said(run, "arc_ignored")] == [pytest.approx(0.98, abs=0.05)]


def test_a_stream_without_the_external_channel_is_told():
    triggers = Triggers(cell(external="robot.weld"))
    assert triggers.problem(INFOS["sensors"]) is None
    assert triggers.problem(ROBOT) == (
        "external = 'robot.weld': robot has no such channel (it has ready, arc); it triggers nothing"
    )
    assert Run(cell(external="robot.weld"), infos=INFOS).ingest.add_stream(ROBOT) == triggers.problem(ROBOT)


def test_two_welds_in_one_millisecond_have_two_keys():
    run = Run(cell()).feed(World(seconds=3.0, arcs=()).packets())
    now_ns = START_NS + 3 * 10**9
    for _ in range(2):
        run.take(run.ingest.start_weld(now_ns))
        run.take(run.ingest.stop_weld(now_ns))
    one, two = run.events("weld_open")
    assert one.weld != two.weld
