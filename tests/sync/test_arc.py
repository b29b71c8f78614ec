"""Arc edges: the rule, back-dating, fallbacks, and a real weld."""

import csv
import os
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
import pytest

from sync.arc import (
    ArcConfig,
    ArcDetector,
    arc_edges_current,
    arc_edges_light,
    arc_edges_sound,
    block_sound_level,
    block_sound_levels,
    frame_light,
)

SECOND = 10**9
Floats = npt.NDArray[np.float64]


def rows(
    seconds: float, on_s: float, off_s: float, rate_hz: float = 9.0
) -> tuple[npt.NDArray[np.int64], Floats, Floats]:
    t_ns = (np.arange(round(seconds * rate_hz)) / rate_hz * SECOND).astype(np.int64)
    burning = (t_ns >= on_s * SECOND) & (t_ns <= off_s * SECOND)
    return t_ns, np.where(burning, 177.0, 0.0), np.where(burning, 24.7, 40.2)


def edges(
    detector: ArcDetector, t_ns: npt.NDArray[np.int64], current: Floats, voltage: Floats
) -> list[tuple[str, int]]:
    found = []
    for i in range(0, len(t_ns), 4):
        found += detector.sensors(t_ns[i : i + 4], current[i : i + 4], voltage[i : i + 4])
    return [(edge.kind, edge.t_ns) for edge in found]


def test_edges_are_back_dated_to_the_first_and_last_arc_row() -> None:
    t_ns, current, voltage = rows(10, 3, 7)
    on_ns, off_ns = int(t_ns[27]), int(t_ns[63])
    assert edges(ArcDetector(ArcConfig()), t_ns, current, voltage) == [("arc_on", on_ns), ("arc_off", off_ns)]
    assert arc_edges_current(t_ns, current, voltage) == [(on_ns, off_ns)]


def test_saturated_and_missing_rows_neither_start_nor_end_an_arc() -> None:
    t_ns, current, voltage = rows(10, 3, 7)
    clean = edges(ArcDetector(ArcConfig()), t_ns, current, voltage)
    current[5:15], voltage[5:15] = 819.03, 81.9
    current[40:50] = np.nan
    current[50:60] = 819.03
    assert edges(ArcDetector(ArcConfig()), t_ns, current, voltage) == clean
    assert arc_edges_current(t_ns, current, voltage) == [(clean[0][1], clean[1][1])]


def test_two_rows_or_open_circuit_voltage_are_no_arc_and_a_short_break_does_not_end_one() -> None:
    t_ns, current, voltage = rows(10, 3, 7)
    current[10:12] = 100.0
    current[40:43] = 0.0
    assert len(edges(ArcDetector(ArcConfig()), t_ns, current, voltage)) == 2
    assert edges(ArcDetector(ArcConfig()), t_ns, np.zeros_like(current), voltage) == []


def test_an_arc_that_never_ends_is_closed_at_its_last_row_offline() -> None:
    t_ns, current, voltage = rows(10, 3, 20)
    assert arc_edges_current(t_ns, current, voltage) == [(int(t_ns[27]), int(t_ns[-1]))]
    assert arc_edges_current(t_ns, current, None) == [(int(t_ns[27]), int(t_ns[-1]))]


def test_light_decides_only_while_sensors_are_silent() -> None:
    rng = np.random.default_rng(1)
    frames_ns = (np.arange(300) * SECOND // 30).astype(np.int64)
    burning = (frames_ns >= 3 * SECOND) & (frames_ns <= 8 * SECOND)
    light = np.where(burning, rng.choice([0.4, 3.0], len(frames_ns)), 0.0)
    t_ns, current, voltage = rows(10, 3, 8)
    seen = t_ns < 5 * SECOND
    detector, found = ArcDetector(ArcConfig()), []
    streams = [(int(t), "light", i) for i, t in enumerate(frames_ns)]
    streams += [(int(t), "row", i) for i, t in enumerate(t_ns) if seen[i]]
    for t, kind, i in sorted(streams):
        if kind == "light":
            found += detector.light(t, float(light[i]))
        else:
            found += detector.sensors(t_ns[i : i + 1], current[i : i + 1], voltage[i : i + 1])
    assert [(e.kind, e.source) for e in found] == [("arc_on", "current"), ("arc_off", "light")]
    assert found[0].t_ns == t_ns[27]
    assert found[1].t_ns == pytest.approx(8 * SECOND, abs=0.05 * SECOND)


def test_returning_sensors_do_not_bring_back_the_arc_they_last_saw() -> None:
    detector = ArcDetector(ArcConfig())
    t_ns, current, voltage = rows(5, 1, 9)
    assert [e.kind for e in detector.sensors(t_ns, current, voltage)] == ["arc_on"]
    found = []
    for i in range(150, 300):
        found += detector.light(i * SECOND // 30, 2.0 if i < 200 else 0.0)
    assert [e.kind for e in found] == ["arc_off"]
    later_ns = t_ns + 15 * SECOND
    assert detector.sensors(later_ns, np.zeros_like(current), voltage) == []


def test_sound_decides_alone_where_nothing_else_is_there() -> None:
    rng = np.random.default_rng(2)
    rate_hz, block = 16_000, 160
    quiet = rng.normal(0, 6, 9 * rate_hz)
    quiet[3 * rate_hz : 7 * rate_hz] += rng.normal(0, 120, 4 * rate_hz)
    samples = quiet.astype(np.int16)[:, np.newaxis]
    levels = block_sound_levels(samples, rate_hz, block)
    t_ns = (np.arange(len(levels)) * block * SECOND) // rate_hz
    ((on_ns, off_ns),) = arc_edges_sound(t_ns, levels)
    assert (on_ns, off_ns) == pytest.approx((3 * SECOND, 7 * SECOND), abs=0.03 * SECOND)
    detector = ArcDetector(ArcConfig())
    found = [edge for t, level in zip(t_ns.tolist(), levels.tolist(), strict=True) for edge in detector.sound(t, level)]
    assert [(e.kind, e.source) for e in found] == [("arc_on", "sound"), ("arc_off", "sound")]
    assert [e.t_ns for e in found] == pytest.approx([3 * SECOND, 7 * SECOND], abs=0.05 * SECOND)


def test_level_of_a_block_is_that_of_its_high_frequencies() -> None:
    t = np.arange(4800) / 48_000
    high = (np.sin(2 * np.pi * 6000 * t) * 3276.8).astype(np.int16)[:, np.newaxis]
    low = (np.sin(2 * np.pi * 100 * t) * 30000).astype(np.int16)[:, np.newaxis]
    assert block_sound_level(high, 48_000.0) == pytest.approx(-23.0, abs=0.2)
    assert block_sound_level(low, 48_000.0) < -80
    wide = (high.astype(np.int32) << 16).astype(np.int32)
    assert block_sound_level(wide, 48_000.0) == pytest.approx(block_sound_level(high, 48_000.0), abs=0.01)
    assert block_sound_level(high[:0], 48_000.0) == block_sound_level(high * 0, 48_000.0) == -150.0


def test_no_contrast_is_no_arc() -> None:
    t_ns = np.arange(100, dtype=np.int64) * SECOND // 10
    assert arc_edges_light(t_ns, np.zeros(100)) == []
    assert arc_edges_sound(t_ns, np.full(100, -70.0)) == []
    assert arc_edges_light(t_ns[:0], np.zeros(0)) == []


@pytest.fixture
def real_weld() -> Path:
    folder = os.environ.get("WELD4M_REAL_WELD")
    if not folder:
        pytest.skip("WELD4M_REAL_WELD names no folder with the real weld files")
    return Path(folder)


def test_a_real_arc_is_found_in_the_light(real_weld: Path) -> None:
    t_ns, light = [], []
    with av.open(str(next(real_weld.glob("overlap*.avi")))) as container:
        for frame in container.decode(video=0):
            luma = np.frombuffer(bytes(frame.planes[0]), np.uint8).reshape(frame.height, -1)[:, : frame.width]
            full = np.clip((luma.astype(np.int32) - 16) * 255 // 219, 0, 255).astype(np.uint8)
            t_ns.append(round(frame.time * SECOND))
            light.append(frame_light(full))
    ((on_ns, off_ns),) = arc_edges_light(np.array(t_ns), np.array(light))
    assert (on_ns / SECOND, off_ns / SECOND) == pytest.approx((5.68, 16.42), abs=0.05)
    detector = ArcDetector(ArcConfig())
    online = [edge for t, level in zip(t_ns, light, strict=True) for edge in detector.light(t, level)]
    assert [e.t_ns / SECOND for e in online] == pytest.approx([5.68, 16.42], abs=0.15)


def test_a_real_arc_is_found_in_the_current(real_weld: Path) -> None:
    with next(real_weld.glob("overlap*.csv")).open(newline="") as file:
        table = np.array([[float(cell) for cell in row[:6]] for row in list(csv.reader(file))[1:]])
    t_ns = (np.arange(len(table)) * 21.61 / len(table) * SECOND).astype(np.int64)
    ((on_ns, off_ns),) = arc_edges_current(t_ns, table[:, 3], table[:, 5])
    assert (on_ns / SECOND, off_ns / SECOND) == pytest.approx((5.76, 16.63), abs=0.02)
    online = edges(ArcDetector(ArcConfig()), t_ns, table[:, 3], table[:, 5])
    assert online == [("arc_on", on_ns), ("arc_off", off_ns)]


def test_light_decides_where_the_sensors_send_rows_without_readings() -> None:
    detector = ArcDetector(ArcConfig())
    edges = []
    for n in range(100):
        t_ns = n * 50_000_000
        edges += detector.sensors(np.array([t_ns]), np.array([np.nan]), np.array([24.0]))
        edges += detector.light(t_ns, 5.0 if 40 <= n < 70 else 0.0)
    assert [(edge.kind, edge.source, edge.t_ns) for edge in edges] == [
        ("arc_on", "light", 2_000_000_000),
        ("arc_off", "light", 3_450_000_000),
    ]
