"""Drawn device faults: off they change nothing, on they are what the truth says, item by item."""

import hashlib
import itertools
import json
from collections import Counter
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from acquisition.simulated.config import SimulationConfig
from acquisition.simulated.faults import DRAWN_FAULTS, INJECTED_FAULTS, fault_names
from acquisition.simulated.truth import item_numbers, true_times
from acquisition.simulated.weld import SimulatedWeld, simulated_weld

CONFIG = SimulationConfig(
    height=64, width=64, photo_height=64, photo_width=64, photos=0, audio_rate_hz=8000, arc_s=12.0
)
STREAMS = ("camera", "microphone", "sensors")
START_NS = 10**12
SEEDS = range(4)


@cache
def weld(faults: str = "none", seed: int = 0) -> SimulatedWeld:
    """Give a weld in a session of its own."""
    return simulated_weld(replace(CONFIG, session=seed, faults=faults), seed=seed, start_ns=START_NS)


@cache
def packets(stream: str, faults: str = "none", seed: int = 0) -> list[Any]:
    return list(weld(faults, seed).device_packets(stream))


def number(packet: Any) -> int:
    payload = packet.payload
    return int(getattr(payload, "first_sample", getattr(payload, "first_row", packet.seq)))


def content(packet: Any) -> np.ndarray:
    payload = packet.payload
    for name in ("samples", "values", "pixels"):
        if hasattr(payload, name):
            return np.asarray(getattr(payload, name))
    raise AssertionError(payload)


def disturbed(kind: str, stream: str, faults: str, seed: int) -> dict[int, float]:
    """Give the items that the truth says were disturbed, with the amount."""
    runs = [run for run in weld(faults, seed).truth["disturbed"][stream] if run["kind"] == kind]
    return {run["first"] + i: run.get("amount", 0.0) for run in runs for i in range(run["count"])}


def lost(stream: str, faults: str, seed: int, reason: str) -> list[int]:
    runs = [run for run in weld(faults, seed).truth["drops"][stream] if run["reason"] == reason]
    return [run["first"] + i for run in runs for i in range(run["missing"])]


def test_without_faults_every_packet_is_that_of_before_faults_existed():
    digest = hashlib.sha256()
    made = simulated_weld(replace(CONFIG, arc_s=4.0), weld_class="spatter", seed=3, start_ns=START_NS)
    for stream in STREAMS:
        for p in made.device_packets(stream):
            digest.update(repr((p.stream, p.seq, p.segment, p.t_device_ns, p.t_arrival_ns, number(p))).encode())
            if stream == "sensors":
                digest.update(content(p).tobytes())  # rounded: equal on any machine
    assert digest.hexdigest() == "b5f28ff2ca2cece39cd0345bef637e306c799429901e66934ad1ea03a6eedcec"
    assert {"disturbed", "device_faults"}.isdisjoint(made.truth)
    assert all("times" not in device for device in made.truth["devices"].values())


def test_faults_are_seeded():
    one, two = (simulated_weld(replace(CONFIG, faults="all"), seed=2) for _ in range(2))
    assert one.truth == two.truth
    for a, b in zip(one.device_packets("sensors"), two.device_packets("sensors"), strict=True):
        assert (a.seq, a.t_device_ns, a.t_arrival_ns) == (b.seq, b.t_device_ns, b.t_arrival_ns)
        np.testing.assert_array_equal(content(a), content(b))
    assert json.loads(json.dumps(one.truth)) == one.truth
    assert one.truth["device_faults"] == sorted(DRAWN_FAULTS)


@pytest.mark.parametrize("stream", ["camera", "sensors"])
def test_losses_are_gaps_in_the_numbers(stream):
    total = 0
    for seed in range(12):
        seen = [p.seq for p in packets(stream, "drop", seed)]
        gone = lost(stream, "drop", seed, "drop")
        assert sorted(seen + gone) == [p.seq for p in packets(stream, "none", seed)]
        total += len(gone)
    assert total > 0


@pytest.mark.parametrize("fault", ["gap", "xrun"])
def test_lost_sound_is_known_block_by_block_and_an_xrun_says_so(fault):
    total = 0
    for seed in SEEDS:
        found, clean = packets("microphone", fault, seed), packets("microphone", "none", seed)
        gone = lost("microphone", fault, seed, fault)
        assert sorted([p.seq for p in found] + gone) == [p.seq for p in clean]
        assert all(number(p) == 160 * p.seq for p in found)
        flagged = {p.seq for p in found if p.payload.overflow}
        assert flagged == set(disturbed("overflow", "microphone", fault, seed))
        assert bool(flagged) == bool(gone and fault == "xrun")
        assert len(gone) <= 3 * (10 if fault == "gap" else 3)
        total += len(gone)
    assert total > 0


@pytest.mark.parametrize("stream", ["camera", "sensors"])
def test_doubled_items_come_twice_with_one_number_and_stamp(stream):
    total = 0
    for seed in range(12):
        found = packets(stream, "dup", seed)
        often = {seq: n for seq, n in Counter(p.seq for p in found).items() if n > 1}
        assert often == dict.fromkeys(disturbed("dup", stream, "dup", seed), 2)
        assert len({(p.seq, p.t_device_ns) for p in found}) == len(packets(stream, "none", seed))
        total += len(often)
    assert total > 0


@pytest.mark.parametrize("stream", ["camera", "sensors"])
def test_stalled_items_wait_as_long_as_the_truth_says_and_none_overtakes(stream):
    total = 0
    for seed in range(12):
        found, clean = packets(stream, "stall", seed), packets(stream, "none", seed)
        waits = disturbed("stall", stream, "stall", seed)
        for late, plain in zip(found, clean, strict=True):
            waited_ms = (late.t_arrival_ns - plain.t_arrival_ns) / 1e6
            if late.seq in waits:
                assert waited_ms >= waits[late.seq] - 1e-3
            elif waited_ms:  # held up behind one that waits
                assert late.t_arrival_ns == max(p.t_arrival_ns for p in found if p.seq in waits and p.seq < late.seq)
            assert late.t_device_ns == plain.t_device_ns
        assert all(a.t_arrival_ns <= b.t_arrival_ns for a, b in itertools.pairwise(found))
        total += len(waits)
    assert total > 0


def test_held_rows_repeat_the_one_before():
    total = 0
    for seed in SEEDS:
        found, clean = packets("sensors", "hold", seed), packets("sensors", "none", seed)
        held = disturbed("hold", "sensors", "hold", seed)
        for i, (row, plain) in enumerate(zip(found, clean, strict=True)):
            np.testing.assert_array_equal(content(row), content(found[i - 1] if row.seq in held else plain))
        total += len(held)
    assert total >= 3


def test_clipped_sound_touches_the_end_of_the_scale_and_saturated_rows_are_known():
    blocks = rows = 0
    for seed in range(8):
        clipped = disturbed("clip", "microphone", "clip", seed)
        for block, plain in zip(packets("microphone", "clip", seed), packets("microphone", "none", seed), strict=True):
            if block.seq in clipped:
                assert {-32768, 32767} & set(content(block).ravel().tolist())
            else:
                np.testing.assert_array_equal(content(block), content(plain))
        known = disturbed("clip", "sensors", "clip", seed) | disturbed("saturated", "sensors", "clip", seed)
        found = {p.seq for p in packets("sensors", "clip", seed) if 819.03 in content(p) or 81.9 in content(p)}
        assert found == set(known)
        blocks, rows = blocks + len(clipped), rows + len(disturbed("clip", "sensors", "clip", seed))
    assert blocks > 5
    assert rows > 0


@pytest.mark.parametrize("stream", ["camera", "sensors"])
def test_bad_stamps_are_those_that_the_truth_lists(stream):
    kinds = Counter[str]()
    for seed in range(12):
        found, clean = packets(stream, "bad-stamps", seed), packets(stream, "none", seed)
        repeated = disturbed("repeat", stream, "bad-stamps", seed)
        early_ms = disturbed("backwards", stream, "bad-stamps", seed)
        for i, (packet, plain) in enumerate(zip(found, clean, strict=True)):
            expected = plain.t_device_ns
            if packet.seq in repeated:
                expected = found[i - 1].t_device_ns
            elif packet.seq in early_ms:
                expected -= round(early_ms[packet.seq] * 1e6)
            assert packet.t_device_ns == expected
        kinds.update(repeat=len(repeated), backwards=len(early_ms))
    assert min(kinds.values()) > 0


def test_sensor_stamps_are_whole_milliseconds():
    for row, plain in zip(packets("sensors", "ms-stamps"), packets("sensors"), strict=True):
        assert row.t_device_ns % 1_000_000 == 0
        assert abs(row.t_device_ns - plain.t_device_ns) <= 500_000
        assert row.payload.t_device_ns.tolist() == [row.t_device_ns]


def test_a_clock_that_starts_anew_is_a_line_of_the_truth():
    seen = 0
    for seed in range(8):
        for stream in ("camera", "sensors"):
            lines = weld("clock-reset", seed).truth["devices"][stream]["clocks"]
            found, clean = packets(stream, "clock-reset", seed), packets(stream, "none", seed)
            for packet, plain in zip(found, clean, strict=True):
                assert packet.seq == plain.seq
                times = {line["from_ns"]: line for line in lines}
                exact_ns = true_times(weld("clock-reset", seed).truth, stream, [packet.seq])[0]
                line = times[max(t for t in times if t <= max(exact_ns, START_NS))]
                told_ns = packet.t_device_ns + line["offset_ns"]
                told_ns += (packet.t_device_ns - line["ref_ns"]) * line["drift_ppb"] // 10**9
                assert told_ns == pytest.approx(exact_ns, abs=20)
            seen += len(lines) - 1
            if len(lines) > 1:
                assert 0 <= lines[1]["ref_ns"] <= 10**9
    assert 0 < seen <= 8


def test_the_claimed_rate_is_not_the_true_one():
    rates = set()
    for seed in range(8):
        made = weld("rate", seed)
        true_hz = made.truth["devices"]["camera"]["times"]["true_rate_hz"]
        assert 29.99 < true_hz < 31.21
        assert made.infos["camera"].rate_hz == 31.0
        stamps = [p.t_device_ns for p in packets("camera", "rate", seed)]
        assert 1e9 * (len(stamps) - 1) / (stamps[-1] - stamps[0]) == pytest.approx(true_hz, rel=1e-4)
        rates.add(true_hz)
    assert len(rates) == 8


def test_sound_counts_from_before_the_sensors_differently_for_every_weld():
    offsets = []
    for seed in range(8):
        devices = weld("offset", seed).truth["devices"]
        begin = {s: devices[s]["clocks"][0]["offset_ns"] / 1e9 for s in STREAMS}
        assert -1.6 <= begin["microphone"] - begin["sensors"] <= -1.0
        assert abs(begin["camera"] - begin["sensors"]) <= 0.1
        first = number(packets("microphone", "offset", seed)[0])
        assert first / 8000 == pytest.approx(START_NS / 1e9 - begin["microphone"], abs=1e-3)
        offsets.append(round(begin["microphone"] - begin["sensors"], 3))
    assert len(set(offsets)) == 8


def test_one_device_numbers_nothing_and_one_sends_no_stamps():
    numberless, clockless = set(), set()
    for seed in range(8):
        made = weld("no-counter,no-clock,drop,gap", seed)
        (without,) = (s for s in STREAMS if not made.infos[s].has_counter)
        (mute,) = (s for s in STREAMS if made.infos[s].device_clock == "none")
        assert [p.seq for p in made.device_packets(without)] == list(range(len(list(made.device_packets(without)))))
        assert all(p.t_device_ns is None for p in made.device_packets(mute))
        if mute == "sensors":
            assert all(p.payload.t_device_ns is None for p in packets("sensors", "no-counter,no-clock,drop,gap", seed))
        numberless.add(without)
        clockless.add(mute)
    assert numberless == set(STREAMS)
    assert clockless == {"camera", "sensors"}


def test_wrapped_counters_are_undone_even_across_losses():
    widths = set()
    for seed in range(6):
        devices = weld("wrap,drop", seed).truth["devices"]
        for stream in ("camera", "sensors"):
            widths.add(devices[stream]["times"]["counter_bits"])
            assert packets(stream, "wrap,drop", seed)[-1].seq == packets(stream, "none", seed)[-1].seq
            gone = set(lost(stream, "wrap,drop", seed, "drop"))
            assert not gone & {p.seq for p in packets(stream, "wrap,drop", seed)}
    assert widths == {8, 16}
    assert devices["microphone"]["times"]["counter_bits"] == 0


@pytest.mark.parametrize("stream", STREAMS)
@pytest.mark.parametrize("faults", ["drop,dup,gap,xrun,stall,wrap,no-counter,no-clock,offset,ms-stamps,bad-stamps"])
def test_the_true_time_of_every_item_is_known_whatever_its_number_and_stamp(faults, stream):
    """What a recorded number delivers is what really happened at the time that the truth gives for it."""
    for seed in range(6):
        truth, clean = weld(faults, seed).truth, packets(stream, "none", seed)
        line = weld("none", seed).truth["devices"][stream]["clocks"][0]
        per_item = truth["devices"][stream]["times"]["per_item"]
        found = packets(stream, faults, seed)
        if not weld(faults, seed).infos[stream].has_counter:
            assert [number(p) for p in found] == [per_item * i for i in range(len(found))]
        items = item_numbers(truth, stream, [number(p) for p in found]) // per_item
        times = true_times(truth, stream, [number(p) for p in found])
        for packet, item, t_ns in zip(found, items, times, strict=True):
            plain = clean[item]
            np.testing.assert_array_equal(content(packet), content(plain))
            device_ns = plain.t_device_ns if plain.t_device_ns is not None else number(plain) * 10**9 // 8000
            exact_ns = device_ns + line["offset_ns"] + (device_ns - line["ref_ns"]) * line["drift_ppb"] // 10**9
            assert t_ns == pytest.approx(exact_ns, abs=20)


def test_a_truth_without_times_and_a_number_never_delivered_are_said_so():
    with pytest.raises(ValueError, match="simulate with faults"):
        true_times(weld().truth, "camera", [3])
    with pytest.raises(ValueError, match="camera: nothing was delivered as number 100000 of segment 0"):
        true_times(weld("dup").truth, "camera", [3, 100_000])


def test_every_fault_has_its_words_in_the_documentation():
    words = (Path(__file__).parents[2] / "docs" / "simulated_cell.md").read_text(encoding="utf-8")
    assert [name for name in (*DRAWN_FAULTS, *INJECTED_FAULTS) if f"`{name}`" not in words] == []


def test_a_choice_of_faults_is_checked_in_one_line():
    assert fault_names("none") == frozenset()
    assert fault_names("all") == set(DRAWN_FAULTS)
    assert fault_names("drop, dup") == {"drop", "dup"}
    with pytest.raises(ValueError, match="'dorp' is unknown: use none, all, or some of offset,rate") as error:
        SimulationConfig(faults="drop,dorp")
    assert "\n" not in str(error.value)
