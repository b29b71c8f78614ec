"""Faults injected into the running simulated cell do what their line says, and the truth knows every item."""

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from acquisition.packet import Modality
from acquisition.simulated.cell import SimulatedCell
from acquisition.simulated.config import SimulationConfig
from acquisition.simulated.faults import INJECT_HELP, INJECTED_FAULTS
from acquisition.simulated.truth import item_numbers, true_times

CONFIG = SimulationConfig(
    classes=("good",),
    idle_s=0.6,
    arc_s=1.0,
    tail_s=0.6,
    gap_s=0.2,
    photos=0,
    height=64,
    width=96,
    saturated_rows=0.0,
    sensor_rate_hz=40.0,
)
MODALITIES: dict[str, Modality] = {"camera": "video", "microphone": "audio", "sensors": "sensors"}
STREAMS = tuple(MODALITIES)


def read(
    stream: str, fault: str, until_s: float, config: SimulationConfig = CONFIG
) -> tuple[list[Any], dict[str, Any]]:
    """Run a stream with a fault until items that happened at world time `until_s` come; returns packets and truth."""
    cell = SimulatedCell(config)
    driver = cell.driver(stream, MODALITIES[stream])
    cell.inject(fault)
    packets: list[Any] = []
    driver.open()
    try:
        start_ns = cell.start_ns or 0
        while not packets or packets[-1].t_arrival_ns < start_ns + until_s * 1e9:
            packet = driver.read(5.0)
            assert packet is not None, driver.health()
            packets.append(packet)
    finally:
        driver.close()
    truth = cell.truth_between(start_ns, start_ns + 2 * 10**9)
    assert truth is not None
    return packets, truth


def arrivals_s(packets: list[Any], truth: dict[str, Any]) -> np.ndarray:
    return np.array([p.t_arrival_ns - truth["start_ns"] for p in packets]) / 1e9


def disturbed(kind: str, stream: str, truth: dict[str, Any]) -> set[int]:
    runs = [run for run in truth["disturbed"][stream] if run["kind"] == kind]
    return {run["first"] + i for run in runs for i in range(run["count"])}


def content(packet: Any) -> np.ndarray:
    payload = packet.payload
    return np.asarray(next(getattr(payload, n) for n in ("samples", "values", "pixels") if hasattr(payload, n)))


@pytest.mark.parametrize("stream", STREAMS)
def test_dup(stream):
    packets, truth = read(stream, f"dup:{stream}@0.3:4", 1.0)
    again = [b.seq for a, b in itertools.pairwise(packets) if a.seq == b.seq]
    assert len(again) == 4
    assert set(again) == disturbed("dup", stream, truth)
    assert sorted({p.seq for p in packets}) == list(range(packets[-1].seq + 1))


@pytest.mark.parametrize("stream", STREAMS)
def test_stall(stream):
    packets, truth = read(stream, f"stall:{stream}@0.3:0.5", 1.2)
    assert [p.seq for p in packets] == list(range(len(packets)))
    late = disturbed("stall", stream, truth)
    at_s = arrivals_s(packets, truth)
    times_s = (true_times(truth, stream, [_number(p) for p in packets]) - truth["start_ns"]) / 1e9
    assert late == {p.seq for p, t_s in zip(packets, times_s, strict=True) if 0.3 <= t_s < 0.8}
    assert all(at_s[seq] >= 0.8 for seq in late)
    amounts = {run["first"]: run.get("amount", 0.0) for run in truth["disturbed"][stream]}
    assert max(amounts.values()) == pytest.approx(500.0, abs=60.0)


@pytest.mark.parametrize("stream", STREAMS)
def test_reset(stream):
    packets, truth = read(stream, f"reset:{stream}@0.4:0.25", 1.0)
    falls = [i for i, (a, b) in enumerate(itertools.pairwise(packets), 1) if b.seq < a.seq]
    (fall,) = falls
    assert (packets[fall].seq, _number(packets[fall]), packets[fall].segment) == (0, 0, 0)
    if stream != "microphone":
        assert packets[fall].t_device_ns == pytest.approx(0.25e9, abs=1e6)
    before = true_times(truth, stream, [_number(p) for p in packets[:fall]])
    after = true_times(truth, stream, [_number(p) for p in packets[fall:]], restarts=1)
    items = item_numbers(truth, stream, [_number(packets[fall])], restarts=1)
    assert items[0] == fall * truth["devices"][stream]["times"]["per_item"]
    assert 0 < after[0] - before[-1] < 60_000_000
    assert 0.4 <= (after[0] - truth["start_ns"]) / 1e9 < 0.45


@pytest.mark.parametrize(("stream", "percent"), [("camera", 20.0), ("microphone", -20.0), ("sensors", 20.0)])
def test_rate(stream, percent):
    packets, truth = read(stream, f"rate:{stream}@0.4:{percent}", 1.6)
    assert [p.seq for p in packets] == list(range(len(packets)))
    times_s = (true_times(truth, stream, [_number(p) for p in packets]) - truth["start_ns"]) / 1e9
    nominal_s = np.diff(times_s[times_s < 0.4])
    changed_s = np.diff(times_s[times_s > 0.45])
    assert nominal_s.mean() / changed_s.mean() == pytest.approx(1 + percent / 100, rel=1e-3)
    late_s = arrivals_s(packets, truth) - times_s
    assert late_s.min() > 0
    if stream != "microphone":
        line = truth["devices"][stream]["clocks"][0]
        stamps = np.array([p.t_device_ns for p in packets])
        exact = (stamps + line["offset_ns"] + (stamps - line["ref_ns"]) * line["drift_ppb"] // 10**9) / 1e9
        np.testing.assert_allclose(exact - truth["start_ns"] / 1e9, times_s, atol=1e-6)


@pytest.mark.parametrize("stream", STREAMS)
def test_clip(stream):
    packets, truth = read(stream, f"clip:{stream}@0.8:0.3", 1.3)
    hit = disturbed("clip", stream, truth)
    assert hit
    clean = [content(p) for p in packets if p.seq not in hit]
    spoiled = [content(p) for p in packets if p.seq in hit]
    if stream == "sensors":
        assert all(c[0, 3] == 819.03 and c[0, 5] == 81.9 for c in spoiled)
        assert all(c[0, 3] < 800 for c in clean)
    else:
        end = 255 if stream == "camera" else 32767
        assert np.mean([np.mean(c == end) for c in spoiled]) > np.mean([np.mean(c == end) for c in clean])


@pytest.mark.parametrize("stream", STREAMS)
def test_hold(stream):
    packets, truth = read(stream, f"hold:{stream}@0.8:0.3", 1.3)
    hit = disturbed("hold", stream, truth)
    assert len(hit) >= 8
    last = content(packets[min(hit) - 1])
    for p in packets:
        if p.seq in hit:
            np.testing.assert_array_equal(
                content(p), np.broadcast_to(last[-1:] if stream != "camera" else last, last.shape)
            )
    assert not np.array_equal(content(packets[max(hit) + 1]), content(packets[max(hit)]))


@pytest.mark.parametrize("stream", ["camera", "sensors"])
def test_stuck_clock(stream):
    packets, truth = read(stream, f"stuck-clock:{stream}@0.3:0.4", 1.1)
    hit = disturbed("stuck-clock", stream, truth)
    assert len(hit) >= 10
    assert {packets[seq].t_device_ns for seq in hit} == {packets[min(hit) - 1].t_device_ns}
    for a, b in itertools.pairwise(p for p in packets if p.seq not in hit):
        assert b.t_device_ns > a.t_device_ns


@pytest.mark.parametrize("stream", STREAMS)
def test_garbage(stream):
    packets, truth = read(stream, f"garbage:{stream}@0.3:3", 0.8)
    hit = disturbed("garbage", stream, truth)
    assert len(hit) == 3
    for p in packets:
        if stream == "sensors":
            assert np.isnan(content(p)).all() == (p.seq in hit)
        else:
            full = 256 if stream == "camera" else 65536
            assert (content(p).astype(float).std() > 0.25 * full) == (p.seq in hit)


def test_xrun():
    packets, truth = read("microphone", "xrun:microphone@0.3:2", 0.8)
    (flagged,) = [i for i, p in enumerate(packets) if p.payload.overflow]
    assert packets[flagged].seq == packets[flagged - 1].seq + 3
    assert packets[flagged].payload.first_sample == packets[flagged - 1].payload.first_sample + 3 * 320
    (run,) = truth["drops"]["microphone"]
    assert (run["first"], run["missing"], run["reason"]) == (packets[flagged - 1].seq + 1, 2, "xrun")
    assert disturbed("overflow", "microphone", truth) == {packets[flagged].seq}


@pytest.mark.parametrize("stream", STREAMS)
def test_drawn_faults_are_the_same_live_and_in_the_truth(stream):
    config = replace(CONFIG, faults="drop,dup,gap,xrun,stall,no-counter,wrap,offset,bad-stamps,clock-reset", session=5)
    packets, truth = read(stream, f"drop:{stream}@0.5:2", 2.3, config)
    lost = {run["first"] + i for run in truth["drops"][stream] for i in range(run["missing"])}
    assert len(lost) >= 2
    times = truth["devices"][stream]["times"]
    items = item_numbers(truth, stream, [_number(p) for p in packets]) // times["per_item"]
    expected = [
        n for n in range(items[-1] + 1) if n not in lost for _ in range(1 + (n in disturbed("dup", stream, truth)))
    ]
    assert items.tolist() == expected
    late_s = (
        np.array([p.t_arrival_ns for p in packets]) - true_times(truth, stream, [_number(p) for p in packets])
    ) / 1e9
    assert late_s.min() > 0


@pytest.mark.parametrize(
    ("spec", "named"),
    [
        ("xrun:camera@3", "xrun does not fit the camera: use one of microphone"),
        ("stuck-clock:microphone@3", "stuck-clock does not fit the microphone: use one of camera, sensors"),
        ("dup:photos@3", "dup does not fit the photos"),
        ("rate:camera@3:-60", "a rate cannot fall by 60 %"),
        ("reset:camera@3:0", "above 0"),
        ("clip:camera@3:long", "numbers"),
        ("melt:camera@3", "unknown kind 'melt': use one of kill, freeze"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(spec, named):
    with pytest.raises(ValueError, match=named) as error:
        SimulatedCell(CONFIG).inject(spec)
    assert "\n" not in str(error.value)


def test_the_help_names_every_kind_with_its_amount():
    for name, kind in INJECTED_FAULTS.items():
        assert f"{name}: {kind.does} (N = {kind.amount:g})" in INJECT_HELP
        assert "\n" not in kind.does


def _number(packet: Any) -> int:
    payload = packet.payload
    return int(getattr(payload, "first_sample", getattr(payload, "first_row", packet.seq)))
