"""The statistics mean what their names say, phases follow the arc, and nothing but the arc's part counts."""

import numpy as np
import pytest

from models.active_part import active_part
from models.photo_statistics import PHOTO_STATISTICS, photo_statistics
from models.window_statistics import (
    AUDIO_STATISTICS,
    SENSOR_STATISTICS,
    VIDEO_STATISTICS,
    audio_statistics,
    sensor_statistics,
    video_statistics,
)

RATE = 16_000


def sensors(rows: int = 128) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    values = np.zeros((rows, 6))
    values[:, 3] = 180 + rng.normal(0, 8, rows)
    values[:, 5] = 25 - 0.05 * (values[:, 3] - 180) + rng.normal(0, 0.1, rows)
    values[:, 4] = np.arange(rows) * 4.0 / rows * 110  # 110 mm/s over 4 s
    return values, np.ones((rows, 6), dtype=bool)


def named(names: tuple[str, ...], values: np.ndarray) -> dict[str, float]:
    return dict(zip(names, values.tolist(), strict=True))


def test_sensor_levels_ripple_and_correlation() -> None:
    values, mask = sensors()
    found = named(SENSOR_STATISTICS, sensor_statistics(values, mask, 10, 4.0)[0])
    assert found["current_a.level"] == pytest.approx(180, abs=2)
    assert np.exp(found["current_a.log_sd"]) == pytest.approx(8.5, abs=1)
    assert found["wire_mm.level"] == pytest.approx(110, rel=1e-6)
    assert found["current_voltage_correlation"] < -0.9
    assert found["arc_share"] == 1.0


def test_post_roll_does_not_change_the_level_but_the_phase() -> None:
    values, mask = sensors()
    values[100:, 3] = 0.0
    found, phase = sensor_statistics(values, mask, 10, 4.0)
    assert phase == "end"
    assert found[SENSOR_STATISTICS.index("current_a.level")] == pytest.approx(180, abs=2)
    values[100:, 3] = 180.0
    values[40:60, 3] = 0.0  # the arc went out in between
    found, phase = sensor_statistics(values, mask, 10, 4.0)
    assert phase == "steady"
    assert found[-1] == pytest.approx(108 / 128)


def test_a_masked_tail_is_not_the_end_of_the_arc() -> None:
    valid = np.arange(100) < 70
    assert active_part(valid.copy(), valid, 10, 4.0)[2] == "steady"
    assert active_part(valid.copy(), np.ones(100, dtype=bool), 10, 4.0)[2] == "end"
    assert active_part(valid.copy(), valid, 3, 4.0)[2] == "start"


def test_sound_of_a_tone_and_of_clicks() -> None:
    t = np.arange(4 * RATE) / RATE
    mask = np.ones(t.size, dtype=bool)
    tone = (32768 * 0.1 * np.sin(2 * np.pi * 1000 * t)).astype(np.int16)[None]
    found = named(AUDIO_STATISTICS, audio_statistics(tone, mask, RATE, 10, 4.0)[0])
    assert found["level_db"] == pytest.approx(20 * np.log10(0.1 / np.sqrt(2)), abs=0.05)
    assert found["crest_db"] == pytest.approx(3.01, abs=0.05)
    assert np.exp(found["log_kurtosis"]) == pytest.approx(1.5, abs=0.02)
    assert found["octave_1000_db"] == pytest.approx(0, abs=0.05)
    assert found["share_above_4k_db"] < -40
    rng = np.random.default_rng(0)
    clicks = rng.normal(0, 100, t.size)
    for start in np.arange(0.05, 3.9, 1 / 16):
        clicks[int(start * RATE) : int(start * RATE) + 64] += 8000
    found = named(AUDIO_STATISTICS, audio_statistics(clicks.astype(np.int16)[None], mask, RATE, 10, 4.0)[0])
    assert np.exp(found["log_bursts_per_s"]) - 1 == pytest.approx(16, abs=2)
    assert np.exp(found["log_kurtosis"]) > 10


def test_sound_of_24_bits_has_the_same_level() -> None:
    rng = np.random.default_rng(0)
    low = rng.integers(-3000, 3000, (1, 4 * RATE), dtype=np.int16)
    mask = np.ones(4 * RATE, dtype=bool)
    high = low.astype(np.int32) << 16
    first, second = (audio_statistics(x, mask, RATE, 10, 4.0)[0] for x in (low, high))
    np.testing.assert_allclose(first, second, atol=1e-3)


def test_blob_and_streaks() -> None:
    frames = np.full((16, 1, 96, 160), 10, dtype=np.uint8)
    frames[:, 0, 40:50, 60:80] = 255
    mask = np.ones(16, dtype=bool)
    found = named(VIDEO_STATISTICS, video_statistics(frames, mask, 10, 4.0)[0])
    assert found["bright_mean"] == pytest.approx(200 / (96 * 160))
    assert (found["blob_x_mean"], found["blob_y_mean"]) == pytest.approx((69.5, 44.5))
    frames[5, 0, 20, 100:110] = 120
    streaky = named(VIDEO_STATISTICS, video_statistics(frames, mask, 10, 4.0)[0])
    assert streaky["streaks_mean"] > found["streaks_mean"]
    assert video_statistics(frames, mask, 0, 4.0)[1] == "start"


def test_a_window_without_an_arc_has_statistics_but_no_blob() -> None:
    frames = np.full((16, 1, 96, 160), 10, dtype=np.uint8)
    found = named(VIDEO_STATISTICS, video_statistics(frames, np.ones(16, dtype=bool), 10, 4.0)[0])
    assert found["arc_share"] == 0.0
    assert np.isnan(found["blob_x_mean"])
    assert found["level_mean"] == 10


def test_photos_do_not_depend_on_the_order_of_views() -> None:
    rng = np.random.default_rng(0)
    photos = rng.integers(0, 256, (5, 3, 120, 160), dtype=np.uint8)
    mask = np.array([True, True, False, True, True])
    first = photo_statistics(photos, mask)
    assert first.shape == (len(PHOTO_STATISTICS),)
    np.testing.assert_allclose(photo_statistics(photos[::-1], mask[::-1]), first, rtol=1e-12)
    photos[1, :, 50:70, 70:90] = 0
    darker = named(PHOTO_STATISTICS, photo_statistics(photos, mask))
    assert darker["dark_share_max"] > named(PHOTO_STATISTICS, first)["dark_share_max"]
