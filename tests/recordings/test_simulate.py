import itertools
import json
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import pytest

from acquisition.packet import ClockUpdate, SampleBlock, SensorRows, VideoFrame
from acquisition.simulated.clocks import draw_clocks, open_clock, sampling_jitter
from acquisition.simulated.config import SimulationConfig
from acquisition.simulated.truth import item_numbers, true_times
from recordings.cell import load_cell
from recordings.reader import WeldReader
from recordings.simulate import Order, SimulationError, plan, simulate, with_faults, write_weld
from recordings.verify import verify
from sync.clock import ClockTable, fit_clock, fit_stream

SMALL = SimulationConfig(
    idle_s=2.5,
    arc_s=3.0,
    tail_s=2.5,
    photos=1,
    photo_height=64,
    photo_width=64,
    fps=12.0,
    height=64,
    width=64,
    audio_rate_hz=8000,
)
TABLES = ("camera.frames", "microphone.blocks", "sensors", "events", "clocks", "photos.photos")


def small_cell():
    cell = load_cell(None)
    return replace(cell, judge=replace(cell.judge, photos_expected=1, photo_wait_s=5.0), simulation=SMALL)


def order(**changes: object) -> Order:
    base = {"session": 7, "number": 2, "weld_class": "porosity", "severity": 0.8, "seed": 11}
    return Order(**(base | changes))  # type: ignore[arg-type]


def test_a_plan_is_seeded_and_stable():
    made = plan(7, ("good", "porosity", "spatter"), (0.5, 1.0), seed=3, welds_per_session=4)
    assert made == plan(7, ("good", "porosity", "spatter"), (0.5, 1.0), seed=3, welds_per_session=4)
    assert [(o.session, o.number) for o in made] == [(3000, n) for n in range(4)] + [(3001, n) for n in range(3)]
    assert [o.weld_class for o in made[:4]] == ["good", "porosity", "spatter", "good"]
    assert all(0.5 <= o.severity <= 1.0 for o in made)
    assert len({o.seed for o in made}) == 7
    # A longer plan begins as the shorter one, and a plan made today is the one of any other day.
    assert plan(9, ("good", "porosity", "spatter"), (0.5, 1.0), seed=3, welds_per_session=4)[:7] == made
    assert (made[1].seed, round(made[1].severity, 6)) == (3762404955, 0.633285)
    other = plan(7, ("good", "porosity", "spatter"), (0.5, 1.0), seed=4, welds_per_session=4)
    assert not {o.seed for o in other} & {o.seed for o in made}


def test_truth_and_label_are_written(tmp_path):
    folder = write_weld(order(), small_cell(), tmp_path)
    reader = WeldReader(folder)
    truth = json.loads((folder / "truth.json").read_text())
    assert (truth["class"], truth["label"], truth["severity"]) == ("porosity", 3, 0.8)
    assert truth["causes"]
    assert [(entry.label, entry.by) for entry in reader.manifest.labels] == [(3, "simulated")]
    assert (reader.manifest.source, reader.manifest.session) == ("simulated", "s7")
    assert len(reader.photos()) == 1
    assert reader.manifest.arc_on_ns == pytest.approx(truth["arc_on_ns"], abs=0.3e9)
    assert reader.manifest.arc_off_ns == pytest.approx(truth["arc_off_ns"], abs=0.3e9)
    (report,) = verify(folder)
    assert (report.ok, report.problems, report.losses) == (True, [], {})


def test_a_weld_made_twice_is_equal(tmp_path):
    one, two = (write_weld(order(), small_cell(), tmp_path / name) for name in ("a", "b"))
    assert one.relative_to(tmp_path / "a") == two.relative_to(tmp_path / "b")
    for table in TABLES:
        first, second = (pl.read_parquet(folder / f"{table}.parquet") for folder in (one, two))
        assert first.height > 0
        assert first.equals(second), table
    for name in ("camera.mp4", "microphone.flac", "truth.json"):
        assert (one / name).read_bytes() == (two / name).read_bytes(), name
    other = write_weld(order(seed=12), small_cell(), tmp_path / "c")
    assert not pl.read_parquet(one / "sensors.parquet").equals(pl.read_parquet(other / "sensors.parquet"))


def test_simulate_writes_the_plan_and_counts(tmp_path):
    orders = plan(2, ("good",), (0.5, 1.0), seed=5, welds_per_session=10)
    said: list[tuple[int, int]] = []
    result = simulate(orders, small_cell(), tmp_path, workers=1, progress=lambda n, of: said.append((n, of)))
    assert said == [(1, 2), (2, 2)]
    assert (result["welds"], result["root"]) == (2, str(tmp_path))
    assert result["simulated_s"] > 10
    assert len(verify(tmp_path, deep=False)) == 2


def test_the_same_weld_twice_in_one_root_is_refused_and_the_first_unharmed(tmp_path):
    folder = write_weld(order(), small_cell(), tmp_path)
    with pytest.raises(SimulationError, match="already holds a weld"):
        write_weld(order(), small_cell(), tmp_path)
    assert verify(folder)[0].ok


def test_no_arc_is_said_so(tmp_path):
    cell = small_cell()
    deaf = replace(cell, arc=replace(cell.arc, current_on_a=790.0, light_contrast=1e9, sound_contrast_db=1e9))
    with pytest.raises(SimulationError, match="session 7 weld 2 \\(porosity\\): no arc was found"):
        write_weld(order(), deaf, tmp_path)


# -- device faults -------------------------------------------------------------------------------------------------

SLOW_HZ = 9.0
FAULTY = replace(SMALL, fps=31.0, arc_s=6.0)


def numbers(packet: Any) -> np.ndarray:
    payload = packet.payload
    if isinstance(payload, SampleBlock):
        return payload.first_sample + np.arange(len(payload.samples))
    if isinstance(payload, SensorRows):
        return payload.first_row + np.arange(len(payload.values))
    return np.array([packet.seq])


@pytest.mark.parametrize("session", [3, 5, 8])
def test_a_weld_with_all_faults_is_recorded_and_its_truth_fits(tmp_path, session):
    """Losses are those of the truth, recorded times are the true ones plus the device's latency, streams agree."""
    cell = with_faults(replace(small_cell(), simulation=FAULTY), "all")
    folder = write_weld(order(session=session, seed=session, weld_class="good"), cell, tmp_path)
    truth, reader = json.loads((folder / "truth.json").read_text()), WeldReader(folder)
    (report,) = verify(folder)
    assert (report.ok, report.problems) == (True, [])
    clocks, seen = ClockTable(), dict[str, list[int]]()
    errors_ms: dict[str, list[float]] = {}
    for packet in reader.packets():
        if isinstance(packet.payload, ClockUpdate):
            clocks.apply(packet.payload)
        elif isinstance(packet.payload, SampleBlock | SensorRows | VideoFrame):
            times = truth["devices"][packet.stream]["times"]
            counted = numbers(packet)
            items = item_numbers(truth, packet.stream, counted) // times["per_item"]
            seen.setdefault(packet.stream, []).extend(np.unique(items).tolist())
            info = replace(reader.infos[packet.stream], latency_ns=0)
            late_ns = clocks.cell_times_ns(info, packet) - true_times(truth, packet.stream, counted)
            errors_ms.setdefault(packet.stream, []).append(float(late_ns.mean()) / 1e6)
    for stream, items in seen.items():
        info, device = reader.infos[stream], truth["devices"][stream]
        lost = {run["first"] + i for run in truth["drops"][stream] for i in range(run["missing"])}
        within = set(range(min(items), max(items) + 1))
        assert within - set(items) == lost & within, stream
        if info.has_counter:
            told = report.losses.get(stream, {"items": 0})["items"]
            assert told == len(lost & within) * device["times"]["per_item"], stream
        # Typical items are late by their latency (a frame by its exposure too) and no more than one period beside it.
        typical_ms, period_ms = (
            float(np.median(errors_ms[stream])),
            1e3 / (info.rate_hz if stream != "microphone" else 50),
        )
        assert 0.0 < typical_ms < 15.0 + (period_ms if not info.has_counter else 0.0), stream
    for stream, allowed_ms in (("camera", 1e3 / 31), ("microphone", 20.0)):
        sync, true_ms = report.sync[stream], true_offset_ms(truth, stream)
        assert sync["offset_ms"] is not None
        assert sync["sigma_ms"] is not None
        assert abs(sync["offset_ms"] - true_ms) <= max(allowed_ms, 3 * sync["sigma_ms"]), stream


def true_offset_ms(truth: dict[str, Any], stream: str) -> float:
    """Give what arc edges must show: the difference of the latencies that no clock of one stream can see."""
    latency = {name: device["latency_ms"]["shortest"] for name, device in truth["devices"].items()}
    exposure_ms = 5.0 if stream == "camera" else 0.0
    return float(latency[stream] + exposure_ms - latency["sensors"])


def test_a_world_with_offset_clocks_is_put_right(tmp_path):
    """Device clocks that begin 1.0-1.6 s apart are brought together within a frame and 20 ms."""
    cell = with_faults(replace(small_cell(), simulation=FAULTY), "offset,rate")
    for seed in range(3):
        folder = write_weld(order(session=seed, number=seed, seed=seed, weld_class="good"), cell, tmp_path)
        truth = json.loads((folder / "truth.json").read_text())
        begin_s = {name: device["clocks"][0]["offset_ns"] / 1e9 for name, device in truth["devices"].items()}
        assert -1.6 <= begin_s["microphone"] - begin_s["sensors"] <= -1.0
        sync = verify(folder)[0].sync
        for stream, allowed_ms in (("camera", 1e3 / 31), ("microphone", 20.0)):
            offset_ms = sync[stream]["offset_ms"]
            assert offset_ms is not None
            assert abs(offset_ms - true_offset_ms(truth, stream)) <= allowed_ms, stream


def test_faults_of_a_real_cell_and_unknown_ones_are_refused():
    cell = small_cell()
    with pytest.raises(SimulationError, match="only the simulated cell"):
        with_faults(replace(cell, simulation=None), "all")
    with pytest.raises(SimulationError, match="--faults: faults 'dorp': 'dorp' is unknown"):
        with_faults(cell, "dorp")
    assert with_faults(cell, "none") == cell


def deliveries(stream: str, seconds: float, seed: int, jitter: float = 1.0) -> tuple[np.ndarray, np.ndarray, float]:
    """Give device times and arrivals (ns) of a simulated device without rendering anything, and its drift in ppm."""
    config = SimulationConfig(seed=seed, sensor_rate_hz=SLOW_HZ)
    clock = draw_clocks(config)[stream]
    opening = open_clock(clock, 0, 0.0, config)
    t_s = np.arange(round(seconds / clock.period_s)) * clock.period_s
    if stream == "sensors":
        t_s = t_s + sampling_jitter(seed, SLOW_HZ, t_s.size)
    rng = np.random.default_rng(seed)
    arrival_s = np.maximum.accumulate(t_s + clock.latency_s + rng.gamma(2.0, 0.5 * jitter * clock.jitter_s, t_s.size))
    device_ns = np.array([opening.device_ns(float(t)) for t in t_s], np.int64)
    return device_ns, np.rint(arrival_s * 1e9).astype(np.int64), clock.drift * 1e6


@pytest.mark.parametrize("stream", ["camera", "microphone", "sensors"])
def test_ten_minutes_show_the_drift_within_ten_ppm(stream):
    for seed in range(4):
        device_ns, arrival_ns, drift_ppm = deliveries(stream, 600.0, seed)
        assert 5.0 <= abs(drift_ppm) <= 80.0
        assert fit_clock(device_ns, arrival_ns).drift_ppb / 1e3 == pytest.approx(drift_ppm, abs=10.0)


@pytest.mark.parametrize("stream", ["camera", "microphone", "sensors"])
def test_over_one_weld_the_drift_is_stated_with_an_interval(stream):
    """50 ppm over 37 s are 2 ms: with jitter of that size too, what is said of the drift leaves room for the truth."""
    for seed, jitter in itertools.product(range(4), (1.0, 8.0)):
        device_ns, arrival_ns, drift_ppm = deliveries(stream, 37.0, seed, jitter)
        (fit,) = fit_stream(device_ns, arrival_ns, np.zeros(len(device_ns), np.int64))
        assert abs(fit.drift_ppm - drift_ppm) <= 4.0 * fit.drift_sigma_ppm
        assert fit.identified or fit.drift_sigma_ppm >= 20.0
