"""The live drivers of the simulated cell: same values as offline, injected faults, clean ends."""

import itertools
import threading
import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from acquisition.driver import Driver
from acquisition.packet import Modality
from acquisition.simulated.cell import SimulatedCell
from acquisition.simulated.config import SimulationConfig
from acquisition.simulated.weld import simulated_weld

CONFIG = SimulationConfig(
    classes=("spatter",),
    idle_s=0.6,
    arc_s=1.0,
    tail_s=0.4,
    gap_s=0.1,
    photo_delay_s=0.1,
    height=150,
    width=240,
    photo_height=120,
    photo_width=160,
    photos=2,
)
STREAMS: dict[str, Modality] = {
    "camera": "video",
    "microphone": "audio",
    "sensors": "sensors",
    "photos": "post_images",
}


@pytest.fixture
def cell():
    """Yield a function that opens drivers of a new cell; closes them and checks that no thread stays."""
    before = set(threading.enumerate())
    drivers: list[Driver] = []

    def start(*names: str, config: SimulationConfig = CONFIG, faults: tuple[str, ...] = ()):
        made = SimulatedCell(config)
        for fault in faults:
            made.inject(fault)
        drivers.extend(made.driver(name, STREAMS[name]) for name in names)
        for driver in drivers:
            driver.open()
        return made, drivers

    yield start
    for driver in drivers:
        driver.close()
    assert set(threading.enumerate()) == before


def read_until(driver: Driver, enough, limit_s: float = 10.0) -> list[Any]:
    """Read packets until `enough(packet)`; fail when that takes too long."""
    packets: list[Any] = []
    end = time.monotonic() + limit_s
    while time.monotonic() < end:
        packet = driver.read(0.5)
        if packet is not None:
            packets.append(packet)
            if enough(packet):
                return packets
    pytest.fail(f"no such packet within {limit_s} s, last {packets[-1:]}")


@pytest.mark.parametrize(("name", "items"), [("camera", 40), ("microphone", 60), ("sensors", 12), ("photos", 2)])
def test_live_values_equal_the_offline_weld(cell, name, items):
    made, (driver,) = cell(name)
    packets = read_until(driver, lambda p: p.seq >= items - 1)
    truth = made.truth_between(made.start_ns, made.start_ns + 3 * 10**9)
    offline = simulated_weld(
        CONFIG, weld_class=truth["class"], severity=truth["severity"], seed=truth["seed"], start_ns=made.start_ns
    )
    expected: list[Any] = [p for p in offline.packets() if p.stream == name]
    assert truth["arc_on_ns"] == offline.truth["arc_on_ns"]
    assert truth["causes"] == offline.truth["causes"]
    assert len(packets) == items
    for live, want in zip(packets, expected, strict=False):
        assert (live.seq, live.t_device_ns, live.segment) == (want.seq, want.t_device_ns, want.segment)
        # Never early (photos excepted: offline they wait for the end of the weld).
        assert name == "photos" or live.t_arrival_ns >= want.t_arrival_ns
        for field in ("pixels", "samples", "first_sample", "values", "first_row", "data", "name"):
            if hasattr(want.payload, field):
                np.testing.assert_array_equal(getattr(live.payload, field), getattr(want.payload, field))


def test_the_world_goes_on_through_the_classes(cell):
    config = replace(CONFIG, classes=("good", "porosity"), arc_s=0.6, gap_s=0.0, tail_s=0.2)
    made, (driver,) = cell("sensors", config=config)
    packets = read_until(driver, lambda p: p.seq >= 27)
    assert [p.seq for p in packets] == list(range(28))
    start = made.start_ns
    first = made.truth_between(start, start + 10**9)
    second = made.truth_between(first["end_ns"], first["end_ns"] + 2 * 10**9)
    assert (first["class"], first["label"]) == ("good", 0)
    assert (second["class"], second["label"]) == ("porosity", 3)
    assert second["start_ns"] == first["end_ns"]
    assert made.truth_between(first["arc_off_ns"], second["arc_on_ns"]) is None


def test_device_stamps_follow_the_true_clock(cell):
    made, (driver,) = cell("camera")
    packets = read_until(driver, lambda p: p.seq >= 25)
    line = made.truth_between(made.start_ns, made.start_ns + 2 * 10**9)["devices"]["camera"]["clocks"][-1]
    for p in packets:
        cell_ns = p.t_device_ns + line["offset_ns"] + (p.t_device_ns - line["ref_ns"]) * line["drift_ppb"] // 10**9
        assert 0 < p.t_arrival_ns - cell_ns < 200_000_000
    assert 5e3 <= abs(line["drift_ppb"]) <= 80e3


def test_kill_reopens_with_new_segment_counters_and_clock(cell):
    made, (driver,) = cell("microphone", faults=("kill:microphone@0.3:0.4",))
    packets = read_until(driver, lambda p: p.segment == 1 and p.seq >= 3)
    old = [p for p in packets if p.segment == 0]
    new = [p for p in packets if p.segment == 1]
    assert [p.payload.first_sample for p in new[:2]] == [0, 320]
    assert new[0].seq == 0
    assert (new[0].t_arrival_ns - made.start_ns) / 1e9 > 0.7
    assert (old[-1].t_arrival_ns - made.start_ns) / 1e9 < 0.5
    clocks = made.truth_between(made.start_ns, made.start_ns + 2 * 10**9)["devices"]["microphone"]["clocks"]
    assert [c["segment"] for c in clocks] == [0, 1]


def test_kill_of_the_camera_restarts_its_clock_and_says_why(cell):
    _, (driver,) = cell("camera", faults=("kill:camera@0.2:0.3",))
    before = read_until(driver, lambda p: p.seq >= 2)[-1]
    after = read_until(driver, lambda p: p.segment == 1)[-1]
    assert after.seq == 0
    assert abs(after.t_device_ns - before.t_device_ns) > 100_000_000


def test_freeze_loses_items_and_goes_on_counting(cell):
    made, (driver,) = cell("camera", faults=("freeze:camera@0.3:0.5",))
    packets = read_until(driver, lambda p: p.seq >= 32)
    jumps = [(a.seq, b.seq) for a, b in itertools.pairwise(packets) if b.seq != a.seq + 1]
    assert len(jumps) == 1
    ((last, first),) = jumps
    assert 14 <= first - last - 1 <= 16
    (run,) = made.truth_between(made.start_ns, made.start_ns + 2 * 10**9)["drops"]["camera"]
    assert (run["first"], run["missing"], run["reason"]) == (last + 1, first - last - 1, "freeze")


def test_drop_loses_a_burst_of_packets(cell):
    made, (driver,) = cell("microphone", faults=("drop:microphone@0.2:7",))
    packets = read_until(driver, lambda p: p.seq >= 30)
    jumps = [(a.seq, b.seq) for a, b in itertools.pairwise(packets) if b.seq != a.seq + 1]
    ((last, first),) = jumps
    assert first - last - 1 == 7
    assert packets[-1].payload.first_sample == 320 * packets[-1].seq
    (run,) = made.truth_between(made.start_ns, made.start_ns + 2 * 10**9)["drops"]["microphone"]
    assert (run["first"], run["missing"]) == (last + 1, 7)


@pytest.mark.parametrize("name", ["camera", "microphone", "sensors"])
def test_clock_step_moves_the_device_clock_by_the_amount(cell, name):
    made, (driver,) = cell(name, faults=(f"clock-step:{name}@0.4:0.25",))
    packets = read_until(driver, lambda p: p.t_arrival_ns - made.start_ns > 900_000_000)
    info = driver.info
    assert [p.seq for p in packets] == list(range(len(packets)))
    if name == "microphone":
        axis = np.array([p.payload.first_sample * 10**9 // round(info.rate_hz) for p in packets])
        period = 0.02
    else:
        axis = np.array([p.t_device_ns for p in packets])
        period = 1 / info.rate_hz
    steps = np.diff(axis) / 1e9 - period
    assert np.sum(np.abs(steps) > 0.1) == 1
    assert steps.max() == pytest.approx(0.25, abs=0.04)
    clocks = made.truth_between(made.start_ns, made.start_ns + 2 * 10**9)["devices"][name]["clocks"]
    assert clocks[1]["offset_ns"] - clocks[0]["offset_ns"] == pytest.approx(-0.25e9, abs=1e5)


def test_a_fault_may_be_injected_while_it_runs(cell):
    made, (driver,) = cell("microphone")
    read_until(driver, lambda p: p.seq >= 3)
    made.inject("drop:microphone@0:5")
    packets = read_until(driver, lambda p: p.seq >= 20)
    assert sum(b.seq - a.seq - 1 for a, b in itertools.pairwise(packets)) == 5


def test_a_stream_keeps_the_name_of_the_cell_file():
    made = SimulatedCell(CONFIG)
    driver = made.driver("ear", "audio")
    made.inject("drop:ear@0.1:3")
    driver.open()
    try:
        packet = driver.read(2.0)
        assert packet is not None
        assert packet.stream == driver.info.name == "ear"
    finally:
        driver.close()


@pytest.mark.parametrize(
    ("spec", "named"),
    [
        ("explode:camera@3", "explode"),
        ("kill:thermometer@3", "thermometer"),
        ("kill:camera", "SECONDS"),
        ("kill:camera@soon", "numbers"),
        ("freeze:camera@3:-1", "above 0"),
        ("clock-step:photos@3", "does not fit the photos"),
        ("", "not understood"),
    ],
)
def test_a_bad_fault_is_refused_in_one_line(spec, named):
    with pytest.raises(ValueError, match=named) as error:
        SimulatedCell(CONFIG).inject(spec)
    assert "\n" not in str(error.value)


def test_an_unknown_modality_is_refused():
    with pytest.raises(ValueError, match="smell"):
        SimulatedCell(CONFIG).driver("nose", "smell")  # type: ignore[arg-type]


def test_closing_twice_and_reopening_goes_on_with_the_same_world():
    made = SimulatedCell(CONFIG)
    driver = made.driver("sensors", "sensors")
    driver.open()
    start = made.start_ns
    assert driver.read(2.0) is not None
    driver.close()
    driver.close()
    driver.open()
    try:
        assert made.start_ns == start
        read_until(driver, lambda p: p.t_arrival_ns > start)
    finally:
        driver.close()
    assert not [t for t in threading.enumerate() if t.name in ("simulated-cell", "driver-sensors")]
