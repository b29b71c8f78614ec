"""What the devices of the simulated cell deliver: measured ranges, one cause behind all streams, arc edges in place."""

import io
import json
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.signal import welch

from acquisition.simulated.config import SimulationConfig
from acquisition.simulated.weld import SimulatedWeld, simulated_weld

REFERENCE = SimulationConfig(
    nuisance=0.0, plate_mm=7.0, joint="plate", travel_mm_s=5.0, current_a=177.0, voltage_v=24.7, arc_s=20.0
)
SMALL = replace(REFERENCE, height=150, width=240, photo_height=150, photo_width=200, arc_s=6.0)
SEEDS = (1, 2, 3)


@cache
def weld(seed: int = 1, config: SimulationConfig = REFERENCE, weld_class: str = "good") -> SimulatedWeld:
    return simulated_weld(config, weld_class=weld_class, seed=seed, start_ns=10**12)


def of(packets: list[Any], stream: str) -> list[Any]:
    return [p for p in packets if p.stream == stream]


def cell_s(made: SimulatedWeld, stream: str, device_ns: np.ndarray) -> np.ndarray:
    """Correct device stamps with the true clock, to seconds after the cycle's start."""
    line = made.truth["devices"][stream]["clocks"][0]
    exact = device_ns + line["offset_ns"] + (device_ns - line["ref_ns"]) * line["drift_ppb"] // 10**9
    return np.asarray((exact - made.truth["start_ns"]) / 1e9)


def device(made: SimulatedWeld, stream: str) -> list[Any]:
    return list(made.device_packets(stream))


def sensors(made: SimulatedWeld) -> tuple[np.ndarray, np.ndarray]:
    packets = device(made, "sensors")
    values = np.concatenate([p.payload.values for p in packets])
    return cell_s(made, "sensors", np.concatenate([p.payload.t_device_ns for p in packets])), values


def sound(made: SimulatedWeld) -> np.ndarray:
    return np.concatenate([p.payload.samples[:, 0] for p in device(made, "microphone")]) / 32768.0


@pytest.mark.parametrize("seed", SEEDS)
def test_sensors_of_a_good_weld_lie_in_the_measured_ranges(seed):
    made = weld(seed)
    t, rows = sensors(made)
    plan = made.take.plan
    arc = (t > plan.arc_on_s + 2.0) & (t < plan.arc_off_s - 0.3)
    current, voltage = rows[arc, 3], rows[arc, 5]
    assert 172 < current.mean() < 182
    assert 3.3 < 100 * current.std() / current.mean() < 5.6
    assert 24.3 < voltage.mean() < 25.1
    assert 1.3 < 100 * voltage.std() / voltage.mean() < 2.3
    assert -0.6 < np.corrcoef(current, voltage)[0, 1] < -0.1
    assert abs(np.corrcoef(current[1:], current[:-1])[0, 1]) < 0.3
    before = t < plan.arc_on_s
    assert 2 <= np.sum(np.abs(rows[before, 5] - 40.23) < 0.05) <= 10
    after = rows[(t > plan.arc_off_s) & (t < plan.arc_off_s + 0.5), 3]
    assert np.sum(after > 5.0) <= 2
    steady = made.take.plan.nuisances.gas_l_min
    assert 1.2 <= rows[:, 1].max() / steady <= 4.6
    assert 3.0 < t[rows[:, 1].argmax()] - plan.arc_on_s < 5.0
    assert rows[t > plan.arc_off_s + 3.2, 1].max() < 0.1
    assert rows[(t > plan.arc_on_s + 4) & arc, 0].max() < 0.3


def test_wire_comes_in_pulses_pressure_is_held_and_feed_is_no_channel_of_its_own():
    t, rows = sensors(weld())
    pulses = np.diff(rows[:, 4]) / 0.164
    np.testing.assert_allclose(pulses, np.round(pulses), atol=0.13)
    plan = weld().take.plan
    arc = (t > plan.arc_on_s + 1) & (t < plan.arc_off_s)
    speed = np.polyfit(t[arc], rows[arc, 4], 1)[0]
    assert speed == pytest.approx(0.335 * 177 + 0.00127 * 177**2, rel=0.04)
    np.testing.assert_allclose(rows[:, 2], rows[:, 4] / np.maximum(np.floor(t), 1), atol=0.01)
    held = np.diff(np.flatnonzero(np.diff(rows[(t > plan.arc_on_s) & (t < plan.arc_on_s + 4), 0]) != 0))
    assert set(held) <= {8, 9, 10}
    steps_ms = 1e3 * np.diff(t)
    assert steps_ms.mean() == pytest.approx(111, abs=1)
    assert 8 < steps_ms.std() < 18


@pytest.mark.parametrize("seed", SEEDS)
def test_sound_of_a_good_weld_lies_in_the_measured_ranges(seed):
    made = weld(seed)
    plan, x = made.take.plan, sound(made)
    arc = x[round((plan.arc_on_s + 0.5) * 16000) : round((plan.arc_off_s - 0.2) * 16000)]
    rms = np.sqrt(np.mean(arc**2))
    assert 20 * np.log10(rms) == pytest.approx(-49.3, abs=0.6)
    assert 29.5 < 20 * np.log10(np.abs(arc).max() / rms) < 36
    quiet = x[: round(2.5 * 16000)]
    assert -80 < 20 * np.log10(np.sqrt(np.mean(quiet**2))) < -71
    f, power = welch(arc, 16000, nperseg=4096)
    bands = [power[(f > b / 2**0.5) & (f <= b * 2**0.5)].sum() for b in (63, 125, 250, 500, 1000, 2000, 4000, 8000)]
    levels = 10 * np.log10(np.array(bands) / power[f > 40].sum())
    np.testing.assert_allclose(levels, [-17.5, -15, -14, -11.7, -8.4, -5.5, -5.0, -10.7], atol=2.6)

    def share_above_4k(part: np.ndarray) -> float:
        f, power = welch(part, 16000, nperseg=2048)
        return float(power[f > 4000].sum() / power.sum())

    assert share_above_4k(arc[: 2 * 16000]) < 0.2
    assert share_above_4k(arc[-2 * 16000 :]) > 0.28


def test_video_of_a_good_weld_lies_in_the_measured_ranges():
    made = weld()
    items, plan = made.take.items["camera"], made.take.plan
    arc = np.flatnonzero((items.t_s > plan.arc_on_s + 0.5) & (items.t_s < plan.arc_off_s - 0.2))[::4]
    frames = np.stack([made.take.frame(int(k)) for k in arc])
    assert frames.shape[1:] == (600, 960)
    assert frames.dtype == np.uint8
    assert frames.min() == 10
    mean = frames.mean(axis=(1, 2))
    dark = made.take.frames.shorted[arc] > 0.5
    assert 26 < mean.mean() < 34
    assert 14 < mean[dark].mean() < 20
    assert 28 < mean[~dark].mean() < 37
    assert 0.08 < dark.mean() < 0.35
    area = (frames > 200).sum(axis=(1, 2))
    assert 9_000 < area.mean() < 21_000
    average = frames[~dark].mean(axis=0)
    yy, xx = np.nonzero(average > 200)
    assert 150 < np.ptp(xx) < 280
    assert 70 < np.ptp(yy) < 140
    grid_y, grid_x = np.mgrid[:600, :960]
    r = np.hypot(grid_x - xx.mean(), grid_y - yy.mean())
    rings = [frames[:, (r > q - 3) & (r < q + 3)].mean() for q in (20, 60, 100, 200, 300)]
    for got, wanted in zip(rings, (243, 170, 81, 31, 20), strict=True):
        assert got == pytest.approx(wanted, rel=0.3)
    counts = []
    for t in items.t_s[arc]:
        begin = made.take.spatter.streaks(float(t))[0] + made.take.scene().centre
        counts.append(np.sum((begin >= 0).all(axis=1) & (begin < (960, 600)).all(axis=1)))
    assert 12 < np.mean(counts) < 32
    assert 5 < np.std(counts) < 18
    idle = made.take.frame(3)
    assert idle.mean() < 11
    with pytest.raises(ValueError, match="read-only"):
        idle[0, 0] = 1


def test_one_burst_list_drives_sound_light_and_current():
    made = weld()
    take, plan = made.take, made.take.plan
    bursts = take.process.bursts
    x = np.abs(sound(made))
    # Sound: the click that ends a burst stands out of the hiss.
    rate = 1.0 / (take.items["microphone"].t_s[1] / 320)
    at = np.round(bursts.click_s[bursts.click_amplitude > 0.7] * rate).astype(int)
    peaks = np.array([x[i - 3 : i + 4].max() for i in at])
    away = np.array([x[i - 403 : i - 396].max() for i in at])
    assert np.median(peaks) > 8 * np.median(away)
    # Light: frames exposed while shorted are dark.
    t = take.items["camera"].t_s
    arc = np.flatnonzero((t > plan.arc_on_s + 0.5) & (t < plan.arc_off_s - 0.2))
    share = bursts.shorted(t[arc], t[arc] + 0.005)
    light = np.array([take.frame(int(k))[100:300, 200:800].mean() for k in arc])
    assert np.corrcoef(share, light)[0, 1] < -0.7
    # Current: it climbs while shorted, and voltage falls.
    state = take.process
    welding = (state.t_s > plan.arc_on_s + 2) & (state.t_s < plan.arc_off_s - 0.1)
    shorted = bursts.shorted(state.t_s - 0.02, state.t_s)[welding]
    assert np.corrcoef(shorted, state.current_a[welding])[0, 1] > 0.6
    assert np.corrcoef(shorted, state.voltage_v[welding])[0, 1] < -0.1
    # Spatter: every droplet is born at the end of a burst.
    ends = bursts.onset_s + bursts.duration_s
    assert np.isin(take.spatter.born_s, ends).all()


def test_arc_edges_stand_where_the_truth_says():
    made = weld()
    truth = made.truth
    on, off = (truth[f"arc_{e}_ns"] / 1e9 - truth["start_ns"] / 1e9 for e in ("on", "off"))
    t, rows = sensors(made)
    welding = t[(rows[:, 3] > 5) & (rows[:, 3] < 800) & (rows[:, 5] > 5)]
    assert welding[0] == pytest.approx(on, abs=0.17)
    assert welding[-1] == pytest.approx(off, abs=0.17)
    packets = device(made, "camera")
    frame_s = cell_s(made, "camera", np.array([p.t_device_ns for p in packets]))
    lit = frame_s[[p.payload.pixels.mean() > 13 for p in packets]]
    assert lit[0] == pytest.approx(on, abs=0.08)
    assert off - 0.07 < lit[-1] < off + 0.5
    blocks = device(made, "microphone")
    first = np.array([p.payload.first_sample for p in blocks], np.int64)
    block_s = cell_s(made, "microphone", first * 10**9 // 16000)
    level = np.array([np.sqrt(np.mean(np.diff(p.payload.samples[:, 0].astype(float)) ** 2)) for p in blocks])
    loud = block_s[level > 4 * np.median(level[block_s < 2])]
    assert np.percentile(loud, 2) == pytest.approx(on, abs=0.6)
    assert np.sum((loud > on) & (loud < on + 0.3)) > 5
    assert np.sum((loud > off - 0.3) & (loud < off)) > 5
    assert np.sum((loud > off + 0.05) & (loud < off + 0.4)) <= 8


def test_packets_come_by_arrival_with_photos_last_and_counters_without_gaps():
    made = weld(5, SMALL)
    packets: list[Any] = list(made.packets())
    arrivals = [p.t_arrival_ns for p in packets]
    assert arrivals == sorted(arrivals)
    assert [p.stream for p in packets[-5:]] == ["photos"] * 5
    assert all(p.order == 0 and p.segment == 0 for p in packets)
    for stream in ("camera", "microphone", "sensors"):
        assert [p.seq for p in of(packets, stream)] == list(range(len(of(packets, stream))))
    n = len(of(packets, "microphone"))
    assert [p.payload.first_sample for p in of(packets, "microphone")] == [320 * i for i in range(n)]
    assert made.infos.keys() == {"camera", "microphone", "sensors", "photos"}
    for packet in of(packets, "camera"):
        exact = cell_s(made, "camera", np.array([packet.t_device_ns]))[0]
        late = (packet.t_arrival_ns - made.truth["start_ns"]) / 1e9 - exact
        assert 0.005 < late < 0.05
    assert json.loads(json.dumps(made.truth)) == made.truth


def test_two_runs_are_equal_byte_for_byte():
    config = replace(SMALL, arc_s=2.0, nuisance=1.0, session=9)
    runs: list[list[Any]] = [list(simulated_weld(config, weld_class="spatter", seed=8).packets()) for _ in range(2)]
    assert len(runs[0]) == len(runs[1])
    for a, b in zip(*runs, strict=True):
        assert (a.stream, a.seq, a.t_arrival_ns, a.t_device_ns) == (b.stream, b.seq, b.t_arrival_ns, b.t_device_ns)
        for name in ("pixels", "samples", "values", "data"):
            if hasattr(a.payload, name):
                np.testing.assert_array_equal(getattr(a.payload, name), getattr(b.payload, name))


def test_other_rates_render_too():
    config = replace(SMALL, arc_s=3.0, audio_rate_hz=48_000, sensor_rate_hz=1000.0, fps=30.0)
    made = weld(2, config)
    packets: list[Any] = list(made.packets())
    assert of(packets, "microphone")[0].payload.samples.shape == (960, 1)
    rows = [p.payload for p in of(packets, "sensors")]
    assert all(r.values.shape == (10, 6) and r.t_device_ns.shape == (10,) for r in rows)
    assert [r.first_row for r in rows] == [10 * i for i in range(len(rows))]
    assert of(packets, "camera")[0].payload.pixels.shape == (150, 240)
    plan = made.take.plan
    x = sound(made)[round((plan.arc_on_s + 0.3) * 48000) : round((plan.arc_off_s - 0.2) * 48000)]
    assert 20 * np.log10(np.sqrt(np.mean(x**2))) == pytest.approx(-48.5, abs=1.5)


def test_lost_items_are_gaps_that_the_truth_lists():
    made = weld(3, replace(SMALL, drop_rate=0.02))
    for stream in ("camera", "microphone", "sensors"):
        seen = {p.seq for p in device(made, stream)}
        lost = {d["first"] for d in made.truth["drops"][stream]}
        assert not seen & lost
        assert seen | lost == set(range(max(seen | lost) + 1))
    assert made.truth["drops"]["microphone"]


def test_photos_show_the_bead_and_its_defects():
    config = replace(REFERENCE, arc_s=15.0)
    pictures = {}
    for weld_class in ("good", "porosity", "burnthrough"):
        made = weld(3, config, weld_class)
        photos = [made.take.photo(v) for v in range(5)]
        assert len({p.name for p in photos}) == 5
        assert all(p.weld_hint is None for p in photos)
        pictures[weld_class] = [np.asarray(Image.open(io.BytesIO(p.data)).convert("L")).astype(float) for p in photos]
    good = pictures["good"][0]
    assert good.shape == (600, 800)
    assert good[560:].mean() == pytest.approx(12, abs=2)
    bead = good[290:312, 200:600]
    assert bead.mean() == pytest.approx(131, abs=30)
    assert good[215:235, 250:550].mean() == pytest.approx(47, abs=12)
    dark_bead = {c: (p[0][285:315, 150:650] < 40).mean() for c, p in pictures.items()}
    assert dark_bead["porosity"] > dark_bead["good"] + 0.005
    assert dark_bead["burnthrough"] > dark_bead["good"] + 0.005
    assert np.abs(pictures["good"][0] - pictures["good"][2]).mean() > 3  # views differ


def test_nuisances_move_levels_without_moving_the_process():
    a, b = (weld(4, replace(SMALL, nuisance=1.0, session=s)) for s in (21, 22))
    np.testing.assert_array_equal(a.take.process.bursts.onset_s, b.take.process.bursts.onset_s)
    level = [20 * np.log10(np.sqrt(np.mean(sound(w)[4 * 16000 : 7 * 16000] ** 2))) for w in (a, b)]
    assert abs(level[0] - level[1]) > 0.3
