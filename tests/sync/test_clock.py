"""Clocks: exact arithmetic, time that never steps back, and how close they come to the truth."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from acquisition.packet import ClockUpdate, Packet, SampleBlock, SensorRows, StreamInfo, VideoFrame
from sync.clock import ClockModel, ClockTable, CountedClock, OnlineClock, device_time_ns, observe_packet, stream_clock
from sync.online_clock import UNTIMED

MS = 10**6
SECOND = 10**9
Int64s = npt.NDArray[np.int64]


VIDEO = StreamInfo(name="v", modality="video", rate_hz=30.0, device_clock="stamps")
SOUND = StreamInfo(name="a", modality="audio", rate_hz=44100.0, channels=("mono",), device_clock="samples")
ROWS = StreamInfo(name="s", modality="sensors", rate_hz=10.0, channels=("feed",), device_clock="stamps")


def deliveries(
    rate_hz: float, seconds: float, ppm: float, shape: float, mean_ms: float, seed: int = 0
) -> tuple[Int64s, Int64s, Int64s]:
    """Device time, true cell time plus base and arrival of a counter behind gamma latency, with 1 % stalls of 60 ms."""
    rng = np.random.default_rng(seed)
    n = round(rate_hz * seconds)
    device = 10**12 + (np.arange(n) * (SECOND / rate_hz)).astype(np.int64)
    true = 5 * 10**13 + ((device - device[0]) * (1 + ppm * 1e-6)).astype(np.int64)
    latency_ns = rng.gamma(shape, mean_ms / shape, n) * MS + (rng.random(n) < 0.01) * 60 * MS
    return device, true, np.maximum.accumulate(true + latency_ns.astype(np.int64))


class Follower:
    """An online clock as the ingest sees it: times are those of `ClockTable` by the recorded changes alone."""

    def __init__(self) -> None:
        self.clock = OnlineClock("s", 0)
        self.info = StreamInfo(name="s", modality="video", rate_hz=30.0, device_clock="stamps")
        self.table = ClockTable()
        self.faults: list[str] = []
        self.changes = 0

    def take(self, device_ns: int, arrival_ns: int) -> int:
        """Cell time of one frame."""
        update = self.clock.observe(device_ns, arrival_ns)
        if update is not None:
            self.table.apply(update)
            self.changes += 1
        if self.clock.fault is not None:
            self.faults.append(self.clock.fault.what)
        frame = VideoFrame(pixels=np.zeros((1, 1), np.uint8))
        packet = Packet(stream="s", seq=0, t_device_ns=device_ns, t_arrival_ns=arrival_ns, payload=frame)
        return self.table.cell_time_ns(self.info, packet)


def follow(device: Sequence[int] | Int64s, arrival: Sequence[int] | Int64s) -> tuple[Follower, Int64s]:
    """Run an online clock; returns it, and the cell time handed out per item."""
    follower = Follower()
    cell = [follower.take(int(x), int(a)) for x, a in zip(device, arrival, strict=True)]
    return follower, np.array(cell, np.int64)


models = st.builds(
    ClockModel,
    ref_ns=st.integers(-(10**18), 10**18),
    offset_ns=st.integers(-(10**18), 10**18),
    drift_ppb=st.integers(-(10**7), 10**7),
    sigma_ns=st.just(1),
)


@given(models, st.lists(st.integers(-(10**18), 10**18), min_size=1, max_size=20))
def test_the_array_form_equals_the_scalar_form(model: ClockModel, device: list[int]) -> None:
    assert model.to_cell_ns_array(np.array(device, np.int64)).tolist() == [model.to_cell_ns(x) for x in device]


def test_a_model_survives_its_update() -> None:
    update = ClockUpdate(of_stream="s", segment=1, ref_ns=10, offset_ns=5, drift_ppb=-3, sigma_ns=2)
    assert ClockModel.from_update(update) == ClockModel(ref_ns=10, offset_ns=5, drift_ppb=-3, sigma_ns=2)
    assert ClockModel.from_update(update).to_cell_ns(9) == 9 + 5, "floor of +3e-9"
    assert ClockModel.from_update(update).to_cell_ns(11) == 11 + 5 - 1, "floor of -3e-9"


steps = st.tuples(st.integers(0, 200 * MS), st.integers(0, 90 * MS))


@settings(max_examples=60, deadline=None)
@given(st.lists(steps, min_size=2, max_size=100), st.integers(-300, 300), st.integers(1, 5))
def test_cell_time_never_goes_backwards(moves: list[tuple[int, int]], ppm: int, batch: int) -> None:
    """Whatever the jitter; rows of a batch are timed by the model after its last row was observed."""
    clock = OnlineClock("s", 0)
    device_ns, arrival_ns, last_ns = 0, 0, -(2**62)
    rows: list[int] = []
    for move_ns, late_ns in moves:
        device_ns += move_ns
        rows.append(device_ns)
        if len(rows) < batch:
            continue
        arrival_ns = max(arrival_ns, device_ns + device_ns * ppm // 10**6 + late_ns)
        clock.observe(rows[-1], arrival_ns)
        for row in rows if not clock.untimed else ():
            cell_ns = clock.model.to_cell_ns(row)
            assert cell_ns >= last_ns
            last_ns = cell_ns
        rows.clear()


anything = st.one_of(
    st.integers(-(2**63), 2**63 - 1),
    st.integers(0, SECOND),
    st.sampled_from([0, 1, 2**62, -(2**62), 3600 * SECOND]),
)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(anything, st.integers(0, SECOND)), min_size=1, max_size=60))
def test_no_stamp_whatever_raises_or_turns_time_back(moves: list[tuple[int, int]]) -> None:
    follower, arrival_ns, last_ns = Follower(), 0, -(2**63)
    for device_ns, wait_ns in moves:
        arrival_ns += wait_ns
        cell_ns = follower.take(device_ns, arrival_ns)
        assert cell_ns >= last_ns
        last_ns = cell_ns


stamps_of_rows = st.lists(st.integers(-(2**62), 2**62) | st.integers(0, 50 * MS), min_size=1, max_size=4)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(stamps_of_rows, st.integers(MS, SECOND)), min_size=1, max_size=30), st.booleans())
def test_no_row_of_any_packet_turns_time_back(packets: list[tuple[list[int], int]], ascending: bool) -> None:
    clock, table = OnlineClock("s", 0), ClockTable()
    arrival_ns, last_ns = SECOND, 0
    for stamps, wait_ns in packets:
        arrival_ns += wait_ns
        device = np.array([arrival_ns // 2 + x for x in sorted(stamps)] if ascending else stamps, np.int64)
        arrivals = np.full(len(stamps), arrival_ns)
        rows = SensorRows(first_row=0, values=np.zeros((len(stamps), 1)), t_device_ns=device, t_arrival_ns=arrivals)
        packet = Packet(stream="s", seq=0, t_arrival_ns=arrival_ns, payload=rows)
        update = observe_packet(clock, ROWS, packet)
        if update is not None:
            table.apply(update)
        times_ns = [last_ns, *table.cell_times_ns(ROWS, packet).tolist()]
        assert times_ns == sorted(times_ns)
        last_ns = times_ns[-1]


def test_a_frame_without_a_stamp_falls_back_to_arrival_and_the_clock_returns() -> None:
    device, true, arrival = deliveries(30, 20, 20, 2, 1)
    clock, table, cell = stream_clock(VIDEO, 0, None), ClockTable(), []
    assert isinstance(clock, OnlineClock)
    for i, (x, a) in enumerate(zip(device.tolist(), arrival.tolist(), strict=True)):
        frame = VideoFrame(pixels=np.zeros((1, 1), np.uint8))
        stamp = None if i in range(300, 310) else x
        packet = Packet(stream="v", seq=i, t_device_ns=stamp, t_arrival_ns=a, payload=frame)
        update = observe_packet(clock, VIDEO, packet)
        if update is not None:
            table.apply(update)
        cell.append(table.cell_time_ns(VIDEO, packet))
    assert (np.diff(cell) >= 0).all()
    assert cell[300:335] == arrival[300:335].tolist()
    assert np.abs(np.array(cell)[400:] - true[400:]).max() < MS
    assert clock.faults == {"missing": 10}


def test_every_stream_gets_the_clock_that_fits_it() -> None:
    counted = stream_clock(SOUND, 0, None)
    assert isinstance(counted, CountedClock)
    assert isinstance(stream_clock(replace(SOUND, has_counter=True), 1, counted), OnlineClock)
    assert stream_clock(replace(SOUND, device_clock="none"), 1, counted) is None


@pytest.mark.parametrize(
    ("rate_hz", "ppm", "shape", "mean_ms", "online_ms"),
    [(30, 100, 2, 5, 0.7), (30, -100, 2, 1, 0.15), (100, -80, 2, 2, 0.2), (100, 50, 4, 5, 0.9), (9, 80, 4, 5, 1.5)],
)
def test_the_varying_error_is_small_with_gamma_jitter(
    rate_hz: float, ppm: float, shape: float, mean_ms: float, online_ms: float
) -> None:
    errors, ratios = [], []
    for seed in range(5):
        device, true, arrival = deliveries(rate_hz, 60, ppm, shape, mean_ms, seed)
        follower, cell = follow(device, arrival)
        assert follower.changes <= 4 * 60
        assert follower.clock.resets == 0
        settled = (cell - true)[round(10 * rate_hz) :] / MS
        errors.append(np.abs(settled - np.median(settled)))
        ratios.append(abs(settled[-1]) * MS / follower.clock.model.sigma_ns)
        assert abs(np.median(settled)) < 0.3 * mean_ms
        assert follower.clock.line is not None
        assert follower.clock.line.slope * 1e6 == pytest.approx(ppm, abs=15)
    assert np.quantile(np.concatenate(errors), 0.99) <= online_ms
    assert 0.05 < np.median(ratios) < 3.0, "sigma is honest: neither boasting nor useless"


def test_uncertainty_says_how_little_a_short_time_shows() -> None:
    device, _, arrival = deliveries(30, 60, 100, 2, 5)
    clock = OnlineClock("s", 0)
    first = clock.observe(int(device[0]), int(arrival[0]))
    assert first is not None
    assert first.drift_ppb == 0
    assert first.sigma_ns >= 5 * MS
    sigmas = []
    for x, a in zip(device[1:].tolist(), arrival[1:].tolist(), strict=True):
        clock.observe(x, a)
        sigmas.append(clock.model.sigma_ns)
    assert sigmas[15] > 5 * sigmas[-1]
    assert clock.line is not None
    assert clock.line.slope * 1e6 == pytest.approx(100, abs=15)


def test_a_restarted_device_is_known_by_its_crystal_and_bus() -> None:
    device, true, arrival = deliveries(30, 60, 100, 3, 5)
    former = OnlineClock("s", 0)
    for x, a in zip(device[:900].tolist(), arrival[:900].tolist(), strict=True):
        former.observe(x, a)
    informed, alone = OnlineClock("s", 1, former), OnlineClock("s", 1)
    errors: dict[OnlineClock, list[int]] = {informed: [], alone: []}
    for clock, error in errors.items():
        for x, a, t in zip(device[900:1200].tolist(), arrival[900:1200].tolist(), true[900:1200].tolist(), strict=True):
            clock.observe(x - int(device[900]), a)
            error.append(abs(clock.model.to_cell_ns(x - int(device[900])) - t))
    assert np.mean(errors[informed][30:]) < 0.5 * MS
    assert informed.model.sigma_ns < alone.model.sigma_ns


@pytest.mark.parametrize("step_ms", [-400, 250, 60, -60_000, 60_000])
def test_a_step_of_the_device_clock_resets_the_model(step_ms: int) -> None:
    device, true, arrival = deliveries(30, 20, 20, 2, 1)
    device = device.copy()
    device[300:] += step_ms * MS
    follower, cell = follow(device, arrival)
    assert follower.clock.resets == 1
    assert follower.faults == ["jumped" if step_ms > 0 else "backwards"]
    assert (np.diff(cell) >= 0).all()
    after = slice(300 + 60, None)
    assert np.abs(cell[after] - true[after]).max() < 2 * MS


def test_one_absurd_stamp_costs_nothing_that_was_learned() -> None:
    device, true, arrival = deliveries(30, 40, 50, 2, 2)
    device = device.copy()
    device[600] += 3600 * SECOND
    device[700] -= 5 * MS + SECOND // 30
    follower, cell = follow(device, arrival)
    assert (np.diff(cell) >= 0).all()
    assert np.abs(cell - true)[np.r_[640:700, 701:1200]].max() < MS
    assert np.abs(cell[700] - true[700]) < 5 * MS
    assert follower.clock.faults == {"jumped": 2, "backwards": 2}, "there and back"


def test_a_stall_is_not_a_step() -> None:
    device, true, arrival = deliveries(30, 20, 20, 2, 1)
    arrival = arrival.copy()
    arrival[300:345] = np.maximum(arrival[300:345], arrival[345])
    follower, cell = follow(device, arrival)
    assert follower.clock.resets == 0
    assert np.abs(cell[300:400] - true[300:400]).max() < 2 * MS


def test_a_model_that_bends_is_not_followed_into_silence() -> None:
    device, true, arrival = deliveries(30, 150, 20, 2, 5)
    arrival = arrival.copy()
    arrival[0] += 40 * MS
    awake = np.ones(len(device), bool)
    awake[20:-600] = False
    follower, cell = follow(device[awake], arrival[awake])
    assert follower.clock.resets == 0
    assert (np.diff(cell) >= 0).all()
    assert np.abs(cell - true[awake])[20:].max() < 15 * MS


def test_a_stuck_clock_is_not_believed_until_it_runs_again() -> None:
    device, true, arrival = deliveries(30, 30, 20, 2, 1)
    device = device.copy()
    device[300:600] = device[300]
    follower, cell = follow(device, arrival)
    assert follower.faults == ["repeated", "stuck"]
    assert (np.diff(cell) >= 0).all()
    held = slice(330, 600)
    assert (cell[held] == arrival[held]).all(), "arrival counts"
    assert np.abs(cell[690:] - true[690:]).max() < 2 * MS
    assert follower.table.snapshot()[0].segment == 0


def test_a_device_that_shows_nothing_but_garbage_is_left_alone() -> None:
    rng = np.random.default_rng(4)
    device = rng.integers(-(2**63), 2**63 - 1, 600)
    arrival = np.arange(600) * 33 * MS
    follower, cell = follow(device, arrival)
    assert (np.diff(cell) >= 0).all()
    assert follower.changes <= 5 * 20
    assert follower.table.model("s", UNTIMED) is not None


def test_memory_is_constant() -> None:
    clock = OnlineClock("s", 0)
    sizes = set()
    for second in range(0, 200, 20):
        for i in range(2000):
            x = (second * 100 + i) * 10 * MS
            clock.observe(x, x + (i * 7919 % 1000) * 1000)
        assert clock.line is not None
        sizes.add(_size(clock))
    assert max(sizes) - min(sizes) < 2000


def _size(thing: Any) -> int:
    """Bytes of arrays and count of elements behind an object of ours."""
    if isinstance(thing, np.ndarray):
        return thing.nbytes
    if isinstance(thing, list | tuple | dict):
        return len(thing)
    return sum(_size(value) for value in vars(thing).values()) if hasattr(thing, "__dict__") else 1


def test_the_table_times_every_kind_of_packet() -> None:
    table = ClockTable()
    frame = Packet(
        stream="v", seq=0, t_device_ns=100, t_arrival_ns=7, payload=VideoFrame(pixels=np.zeros((1, 1), np.uint8))
    )
    block = SampleBlock(first_sample=441, rate_hz=44100.0, samples=np.zeros((3, 1), np.int16))
    sound = Packet(stream="a", seq=0, t_arrival_ns=9, payload=block)
    stamps = np.array([10, 20], np.int64)
    rows = Packet(
        stream="s",
        seq=0,
        t_arrival_ns=13,
        payload=SensorRows(first_row=0, values=np.zeros((2, 1)), t_device_ns=stamps, t_arrival_ns=stamps + 3),
    )
    assert table.cell_time_ns(VIDEO, frame) == 7, "no model: arrival counts"
    assert table.cell_times_ns(ROWS, rows).tolist() == [13, 23]
    assert table.cell_time_ns(SOUND, sound) == 9
    updates = [
        ClockUpdate(of_stream=name, segment=0, ref_ns=0, offset_ns=1000, drift_ppb=0, sigma_ns=1) for name in "asv"
    ]
    for update in updates:
        table.apply(update)
    assert table.snapshot() == updates
    assert table.cell_time_ns(VIDEO, frame) == table.last_cell_time_ns(VIDEO, frame) == 1100
    assert table.cell_times_ns(ROWS, rows).tolist() == [1010, 1020]
    assert (table.cell_time_ns(ROWS, rows), table.last_cell_time_ns(ROWS, rows)) == (1010, 1020)
    assert table.cell_times_ns(SOUND, sound).tolist() == [n * SECOND // 44100 + 1000 for n in (441, 442, 443)]
    assert table.cell_time_ns(SOUND, sound) == 10 * MS + 1000
    assert table.last_cell_time_ns(SOUND, sound) == 444 * SECOND // 44100 + 1000
    assert [device_time_ns(i, p) for i, p in ((VIDEO, frame), (SOUND, sound), (ROWS, rows))] == [
        100,
        444 * SECOND // 44100,
        20,
    ]


def test_a_model_of_another_segment_does_not_count() -> None:
    table = ClockTable()
    table.apply(ClockUpdate(of_stream="v", segment=1, ref_ns=0, offset_ns=1000, drift_ppb=0, sigma_ns=1))
    frame = Packet(
        stream="v", seq=0, t_device_ns=100, t_arrival_ns=7, payload=VideoFrame(pixels=np.zeros((1, 1), np.uint8))
    )
    assert table.cell_time_ns(VIDEO, frame) == 7
