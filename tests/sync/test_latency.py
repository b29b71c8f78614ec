"""Edges finer than the sampling, residuals with a true uncertainty, and latencies pooled over welds."""

import heapq
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from acquisition.packet import SENSOR_CHANNELS, Packet, SampleBlock, SensorRows, StreamInfo
from acquisition.simulated.config import SimulationConfig
from acquisition.simulated.weld import SimulatedWeld, simulated_weld
from sync.arc import ArcConfig, arc_edges_current
from sync.arc_watch import ArcWatch
from sync.clock import ClockTable
from sync.edges import Edge, light_edge, sensor_edge, sound_edge
from sync.latency import Residual, calibrate_latency, residual_of

SECOND, MS = 10**9, 10**6
Floats = npt.NDArray[np.float64]
Int64s = npt.NDArray[np.int64]


def sampled_rows(on_s: float, off_s: float, rate_hz: float, seed: int) -> tuple[Int64s, Floats, Floats]:
    """Rows that read the value of their instant: open circuit, a voltage that falls, a current that rises and dies."""
    rng = np.random.default_rng(seed)
    t = np.arange(round((off_s + 3) * rate_hz)) / rate_hz
    since, after = np.maximum(t - on_s, 0), np.maximum(t - off_s, 0)
    lit = (t >= on_s) & (t < off_s)
    noise = 1 + 0.04 * rng.standard_normal(len(t))
    current = np.where(t < on_s, 1.5, 177 * (1 - np.exp(-since / 0.03)) * noise * np.exp(-after / 0.05))
    voltage = np.where(lit, 24.7 + 15.5 * np.exp(-since / 0.08) + 0.4 * rng.standard_normal(len(t)), 0.0)
    voltage = np.where((t < on_s) & (t > on_s - 0.8), 40.2, voltage)
    return np.rint(t * SECOND).astype(np.int64), current, voltage


def averaged_rows(on_s: float, off_s: float, seed: int) -> tuple[Int64s, Floats, Floats]:
    """Rows that average over the time since the last one, as the real data set's do; voltage follows a row late."""
    rng = np.random.default_rng(seed)
    t = np.arange(round((off_s + 3) * 9)) / 9
    share = np.clip(t - on_s, 0, 1 / 9) * 9 - np.clip(t - off_s, 0, 1 / 9) * 9
    current = np.where(share > 0, 177 * share * (1 + 0.04 * rng.standard_normal(len(t))), 2.0 * (t < on_s))
    first = int(np.flatnonzero(share > 0)[0])
    voltage = np.where(share > 0, 20.0 + 0.3 * rng.standard_normal(len(t)), 0.0)
    voltage[first - 4 : first + 1], voltage[first + 1] = 40.23, 26.0
    return np.rint(t * SECOND).astype(np.int64), current, voltage


def timed(rows: tuple[Int64s, Floats, Floats | None]) -> list[Edge]:
    t_ns, current, voltage = rows
    ((on_ns, off_ns),) = arc_edges_current(t_ns, current, voltage)
    edges = [
        sensor_edge(t_ns, current, voltage, at_ns, rising=rising, config=ArcConfig())
        for at_ns, rising in ((on_ns, True), (off_ns, False))
    ]
    return [edge for edge in edges if edge is not None]


@pytest.mark.parametrize("kind", ["sampled", "averaged"])
def test_slow_rows_time_the_arc_far_finer_than_their_period(kind: str) -> None:
    errors_ms, sigmas_ms = [], []
    for seed in range(60):
        on_s, off_s = 3.0 + seed / 540, 9.0 + (seed * 7 % 60) / 540
        rows = sampled_rows(on_s, off_s, 9.0, seed) if kind == "sampled" else averaged_rows(on_s, off_s, seed)
        on, off = timed(rows)
        errors_ms += [on.t_ns / MS - on_s * 1e3, off.t_ns / MS - off_s * 1e3]
        sigmas_ms += [on.sigma_ns / MS, off.sigma_ns / MS]
    errors, sigmas = np.abs(errors_ms), np.array(sigmas_ms)
    assert np.quantile(errors, 0.95) < 25
    assert np.median(sigmas) < 20
    assert (errors <= 1.96 * sigmas).mean() >= 0.95


def test_fast_rows_time_the_arc_to_a_row() -> None:
    on, off = timed(sampled_rows(3.0004, 9.0004, 1000.0, 1))
    assert (on.t_ns / MS, off.t_ns / MS) == pytest.approx((3000.4, 9000.4), abs=1.5)
    assert max(on.sigma_ns, off.sigma_ns) < MS


def test_without_a_voltage_the_dying_current_is_no_arc() -> None:
    t_ns, current, _ = sampled_rows(3.05, 9.03, 9.0, 2)
    on, off = timed((t_ns, current, None))
    assert (on.t_ns / MS, off.t_ns / MS) == pytest.approx((3050, 9030), abs=40)


def test_a_recording_that_begins_or_ends_with_the_arc_has_no_edge_there() -> None:
    t_ns, current, voltage = sampled_rows(3.0, 9.0, 9.0, 3)
    assert timed((t_ns[40:70], current[40:70], voltage[40:70])) == []


@pytest.mark.parametrize("phase_ms", [0, 7, 14, 21, 28])
def test_light_is_timed_within_the_frame_period(phase_ms: int) -> None:
    rng = np.random.default_rng(phase_ms)
    t = np.arange(310) / 31
    on_s, off_s = 3.0 + phase_ms / 1e3, 7.0 + phase_ms / 1e3
    share = np.clip((t + 0.005 - on_s) / 0.005, 0, 1) * np.clip((off_s - t) / 0.005, 0, 1)
    light = share * np.exp(rng.choice([1.6, 0.2], len(t), p=[0.8, 0.2]) + 0.3 * rng.standard_normal(len(t)))
    t_ns = np.rint(t * SECOND).astype(np.int64)
    lit = t_ns[light > 0.3]
    on, off = (
        light_edge(t_ns, light, int(at_ns), rising=rising) for at_ns, rising in ((lit[0], True), (lit[-1], False))
    )
    assert on is not None
    assert off is not None
    for edge, true_s in ((on, on_s), (off, off_s)):
        assert abs(edge.t_ns / SECOND - true_s) < min(0.033, 2.5 * edge.sigma_ns / SECOND)
    assert off.sigma_ns > on.sigma_ns / 2


def test_sound_is_timed_to_milliseconds_from_a_rough_time() -> None:
    rng = np.random.default_rng(4)
    t_ns = np.arange(4000, dtype=np.int64) * MS
    level = rng.normal(-80, 2, 4000) + 25 * ((t_ns >= 1500 * MS) & (t_ns < 3000 * MS))
    for at_ms, true_ms in ((1420, 1500), (3090, 3000)):
        edge = sound_edge(t_ns, level, at_ms * MS)
        assert edge is not None
        assert edge.t_ns / MS == pytest.approx(true_ms, abs=2)
        assert edge.sigma_ns < 5 * MS
    assert sound_edge(t_ns, level, 5 * MS) is None


def edge(t_ms: float, sigma_ms: float) -> Edge:
    return Edge(t_ns=round(t_ms * MS), sigma_ns=round(sigma_ms * MS))


def test_a_residual_weighs_its_edges_and_doubts_those_that_disagree() -> None:
    reference = (edge(0, 3), edge(1000, 3))
    one = residual_of((edge(20, 4), edge(1030, 40)), reference)
    assert one is not None
    assert one["offset_ms"] == pytest.approx(20.15, abs=0.1)
    assert one["sigma_ms"] == pytest.approx(5, abs=0.1)
    torn = residual_of((edge(0, 4), edge(1100, 4)), reference)
    assert torn is not None
    assert (torn["offset_ms"], torn["sigma_ms"]) == (50, 50)
    assert residual_of((edge(0, 4), None), (None, edge(1000, 3))) is None


def residuals(offsets_ms: Floats, sigma_ms: float) -> list[Residual]:
    return [Residual(offset_ms=float(offset_ms), sigma_ms=sigma_ms) for offset_ms in offsets_ms]


def test_welds_are_pooled_and_outliers_counted() -> None:
    rng = np.random.default_rng(5)
    offsets = 12.0 + rng.normal(0, 5, 40)
    offsets[[3, 17]] = 300, -900
    latency = calibrate_latency(residuals(offsets, 5.0))
    assert latency.latency_ms == pytest.approx(12, abs=3)
    assert (latency.welds, latency.rejected, latency.constant) == (38, 2, True)
    assert latency.sigma_ms < 2
    assert latency.spread_ms is not None
    assert latency.spread_ms < 4


def test_welds_that_differ_have_no_constant_latency() -> None:
    rng = np.random.default_rng(6)
    latency = calibrate_latency(residuals(-1300 + rng.normal(0, 300, 30), 5.0))
    assert not latency.constant
    assert latency.spread_ms == pytest.approx(300, rel=0.4)
    assert latency.sigma_ms == pytest.approx(300 / 30**0.5, rel=0.4)


def test_one_weld_has_its_own_uncertainty_and_no_spread() -> None:
    latency = calibrate_latency(residuals(np.array([7.0]), 4.0))
    assert (latency.latency_ms, latency.sigma_ms, latency.spread_ms, latency.welds) == (7.0, 4.0, None, 1)
    with pytest.raises(ValueError, match="no weld shows the arc"):
        calibrate_latency([])


def late(weld: SimulatedWeld, stream: str, late_ns: int) -> Iterator[Packet]:
    """Let every packet of a stream arrive a constant time after its first item happened."""
    line = weld.truth["devices"][stream]["clocks"][-1]

    def cell_ns(x: Any) -> Any:
        return x + line["offset_ns"] + (x - line["ref_ns"]) * line["drift_ppb"] // SECOND + late_ns

    for packet in weld.device_packets(stream):
        payload = packet.payload
        if isinstance(payload, SensorRows):
            assert payload.t_device_ns is not None
            t_ns = cell_ns(payload.t_device_ns)
            yield replace(packet, t_arrival_ns=int(t_ns[-1]), payload=replace(payload, t_arrival_ns=t_ns))
        elif isinstance(payload, SampleBlock):
            first_ns = payload.first_sample * SECOND // round(payload.rate_hz)
            yield replace(packet, t_arrival_ns=cell_ns(first_ns))
        else:
            yield replace(packet, t_arrival_ns=cell_ns(packet.t_device_ns))


def watch_weld(late_ms: dict[str, float], **settings: Any) -> tuple[dict[str, Residual], ArcWatch]:
    """Watch a simulated weld whose clocks are perfect, streams late as told, edges announced as while capturing."""
    defaults = {"seed": 3, "idle_s": 3.21, "arc_s": 16.0, "height": 120, "width": 192}
    weld = simulated_weld(SimulationConfig(**(defaults | settings)), seed=5, start_ns=SECOND)
    infos = {name: replace(info, device_clock="none") for name, info in weld.infos.items()}
    watch, clocks, arc = ArcWatch(infos), ClockTable(), [weld.truth["arc_on_ns"], weld.truth["arc_off_ns"]]
    streams = [late(weld, name, round(by_ms * MS)) for name, by_ms in late_ms.items()]
    announced = list(arc)
    for packet in heapq.merge(*streams, key=lambda packet: packet.t_arrival_ns):
        watch.take(packet, clocks)
        if announced and packet.t_arrival_ns > announced[0] + SECOND:
            watch.edge(announced.pop(0))
    return watch.residuals(*arc), watch


@pytest.mark.parametrize(
    "settings", [{}, {"sensor_rate_hz": 1000.0, "audio_rate_hz": 48_000, "block_s": 0.01}], ids=["slow", "fast"]
)
def test_injected_offsets_are_found_in_a_simulated_weld(settings: dict[str, Any]) -> None:
    found, _ = watch_weld({"sensors": 0, "camera": 60, "microphone": -1300}, **settings)
    assert found["sensors"] == {"offset_ms": 0.0, "sigma_ms": 0.0}
    assert found["camera"]["offset_ms"] == pytest.approx(60, abs=32)
    assert found["microphone"]["offset_ms"] == pytest.approx(-1300, abs=20)
    for name, true_ms in (("camera", 60), ("microphone", -1300)):
        assert abs(found[name]["offset_ms"] - true_ms) < 3 * found[name]["sigma_ms"]


def test_without_sensors_nothing_can_be_said() -> None:
    found, watch = watch_weld({"microphone": 0}, arc_s=4.0)
    assert found == {}
    assert list(watch.arcs()) == ["microphone"]


def test_memory_does_not_grow_with_the_weld() -> None:
    info = StreamInfo(name="s", modality="sensors", rate_hz=100, channels=SENSOR_CHANNELS, dtype="float64")
    watch, values = ArcWatch({"s": info}), np.zeros((100, 6))
    sizes = []
    for second in range(300):
        t_ns = second * SECOND + np.arange(100) * 10 * MS
        rows = SensorRows(first_row=second * 100, values=values, t_device_ns=None, t_arrival_ns=t_ns)
        watch.take(Packet(stream="s", seq=second, t_arrival_ns=int(t_ns[-1]), payload=rows), ClockTable())
        if second % 5 == 4:
            watch.edge(second * SECOND)
        sizes.append(sum(len(chunk[0]) for trace in watch._traces.values() for chunk in (*trace._recent, *trace._kept)))
    assert sizes[50] > 2000
    assert max(sizes[100:]) <= 1.2 * max(sizes[:100])


def test_the_length_of_sound_blocks_changes_nothing() -> None:
    rng = np.random.default_rng(7)
    sound = rng.normal(0, 20, 16 * 16_000)
    sound[5 * 16_000 : 11 * 16_000] += rng.normal(0, 900, 6 * 16_000)
    infos = {
        "mic": StreamInfo(name="mic", modality="audio", rate_hz=16_000, channels=("mono",), dtype="int16"),
        "s": StreamInfo(name="s", modality="sensors", rate_hz=1000, channels=SENSOR_CHANNELS, dtype="float64"),
    }
    t_ns = np.arange(16_000, dtype=np.int64) * MS
    values = np.zeros((16_000, 6))
    values[5000:11_000, 3], values[5000:11_000, 5] = 177, 25
    rows = SensorRows(first_row=0, values=values, t_device_ns=None, t_arrival_ns=t_ns)
    found = []
    for length in (160, 333, 1600):
        watch = ArcWatch(infos, everything=True)
        watch.take(Packet(stream="s", seq=0, t_arrival_ns=0, payload=rows), ClockTable())
        for first in range(0, len(sound), length):
            samples = sound[first : first + length, np.newaxis].astype(np.int16)
            block = SampleBlock(first_sample=first, rate_hz=16_000, samples=samples)
            arrival_ns = first * SECOND // 16_000
            watch.take(Packet(stream="mic", seq=first, t_arrival_ns=arrival_ns, payload=block), ClockTable())
        found.append(watch.residuals()["mic"]["offset_ms"])
    assert found == pytest.approx([0, 0, 0], abs=1.5)


def test_nothing_seen_is_nothing_said() -> None:
    infos = simulated_weld(SimulationConfig(height=120, width=192), seed=1).infos
    assert ArcWatch(infos).residuals(SECOND, 2 * SECOND) == {}
    assert ArcWatch(infos, everything=True).arcs() == {}
