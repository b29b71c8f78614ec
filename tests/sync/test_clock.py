"""Clocks: exact arithmetic, time that never steps back, and how close they come to the truth."""

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from acquisition.packet import ClockUpdate, Packet, SampleBlock, SensorRows, StreamInfo, VideoFrame
from sync.clock import ClockModel, ClockTable, OnlineClock, device_time_ns, fit_clock

MS = 10**6
SECOND = 10**9
Int64s = npt.NDArray[np.int64]


def deliveries(
    rate_hz: float, seconds: float, ppm: float, shape: float, mean_ms: float, seed: int = 0
) -> tuple[Int64s, Int64s, Int64s]:
    """Device time, true cell time and arrival of a device with a counter, gamma latency and 1 % stalls of 60 ms."""
    rng = np.random.default_rng(seed)
    n = round(rate_hz * seconds)
    device = 10**12 + (np.arange(n) * (SECOND / rate_hz)).astype(np.int64)
    true = 5 * 10**13 + ((device - device[0]) * (1 + ppm * 1e-6)).astype(np.int64)
    latency_ns = rng.gamma(shape, mean_ms / shape, n) * MS + (rng.random(n) < 0.01) * 60 * MS
    return device, true, np.maximum.accumulate(true + 2 * MS + latency_ns.astype(np.int64))


def follow(device: Int64s, arrival: Int64s) -> tuple[OnlineClock, Int64s, int]:
    """Run an online clock; returns it, the cell time handed out per item, and the number of changes."""
    clock = OnlineClock("s", 0)
    changes, cell = 0, []
    for x, a in zip(device.tolist(), arrival.tolist(), strict=True):
        changes += clock.observe(x, a) is not None
        cell.append(clock.model.to_cell_ns(x))
    return clock, np.array(cell, np.int64), changes


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


@settings(max_examples=150, deadline=None)
@given(st.lists(steps, min_size=2, max_size=150), st.integers(-300, 300), st.integers(1, 5))
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
        for row in rows:
            cell_ns = clock.model.to_cell_ns(row)
            assert cell_ns >= last_ns
            last_ns = cell_ns
        rows.clear()


@pytest.mark.parametrize(
    ("rate_hz", "ppm", "shape", "mean_ms", "online_ms", "offline_ms"),
    [(30, 100, 2, 5, 1.0, 0.2), (30, -100, 2, 1, 0.5, 0.1), (100, -80, 2, 2, 0.5, 0.1), (100, 50, 4, 5, 1.0, 0.2)],
)
def test_the_varying_error_is_small_with_gamma_jitter(
    rate_hz: float, ppm: float, shape: float, mean_ms: float, online_ms: float, offline_ms: float
) -> None:
    online, offline, sigmas = [], [], []
    for seed in range(6):
        device, true, arrival = deliveries(rate_hz, 60, ppm, shape, mean_ms, seed)
        clock, cell, changes = follow(device, arrival)
        assert changes <= 4 * 60
        assert clock.resets == 0
        settled = (cell - true)[round(10 * rate_hz) :]
        online.append(np.abs(settled - np.median(settled)))
        model = fit_clock(device, arrival)
        error = model.to_cell_ns_array(device) - true
        offline.append(np.abs(error - np.median(error)))
        sigmas.append(model.sigma_ns)
        assert model.drift_ppb == pytest.approx(ppm * 1000, abs=20_000)
    assert np.quantile(np.concatenate(online), 0.99) / MS <= online_ms
    assert np.quantile(np.concatenate(offline), 0.99) / MS <= offline_ms
    rms = float(np.sqrt(np.mean(np.concatenate(offline).astype(float) ** 2)))
    assert 0.5 * rms < np.median(sigmas) < 12 * rms, "sigma is honest: neither boasting nor useless"


def test_drift_is_not_claimed_before_it_can_be_seen() -> None:
    device, _, arrival = deliveries(30, 60, 100, 2, 1)
    clock = OnlineClock("s", 0)
    first = clock.observe(int(device[0]), int(arrival[0]))
    assert first is not None
    assert first.drift_ppb == 0
    assert first.sigma_ns >= 5 * MS
    sigmas = []
    for x, a in zip(device[1:].tolist(), arrival[1:].tolist(), strict=True):
        clock.observe(x, a)
        sigmas.append(clock.model.sigma_ns)
    assert sigmas[29] > 5 * sigmas[-1]
    assert clock.model.drift_ppb == pytest.approx(100_000, abs=20_000)


@pytest.mark.parametrize("step_ms", [-400, 250, -60_000, 60_000])
def test_a_step_of_the_device_clock_resets_the_model(step_ms: int) -> None:
    device, true, arrival = deliveries(30, 20, 20, 2, 1)
    device = device.copy()
    device[300:] += step_ms * MS
    clock, cell, _ = follow(device, arrival)
    assert clock.resets == 1
    assert (np.diff(cell) >= 0).all()
    after = slice(300 + 60, None)
    assert np.abs(cell[after] - true[after]).max() < 15 * MS


def test_a_stall_is_not_a_step() -> None:
    device, true, arrival = deliveries(30, 20, 20, 2, 1)
    arrival = arrival.copy()
    arrival[300:345] = np.maximum(arrival[300:345], arrival[345])
    clock, cell, _ = follow(device, arrival)
    assert clock.resets == 0
    assert np.abs(cell[300:400] - true[300:400]).max() < 4 * MS


def test_a_model_that_bends_is_not_followed_into_silence() -> None:
    device, true, arrival = deliveries(30, 150, 20, 2, 5)
    arrival = arrival.copy()
    arrival[0] += 40 * MS
    awake = np.ones(len(device), bool)
    awake[20:-600] = False
    clock, cell, _ = follow(device[awake], arrival[awake])
    assert clock.resets == 0
    assert (np.diff(cell) >= 0).all()
    assert np.abs(cell - true[awake])[20:].max() < 15 * MS


VIDEO = StreamInfo(name="v", modality="video", rate_hz=30.0, device_clock="stamps")
SOUND = StreamInfo(name="a", modality="audio", rate_hz=44100.0, channels=("mono",), device_clock="samples")
ROWS = StreamInfo(name="s", modality="sensors", rate_hz=10.0, channels=("feed",), device_clock="stamps")


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


def test_a_fit_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 2"):
        fit_clock(np.array([1], np.int64), np.array([1], np.int64))
