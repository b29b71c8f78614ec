"""Alignment: every value under a true mask was measured next door, everything else is zero."""

import io
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from acquisition.packet import SENSOR_CHANNELS, Packet, Photo, SampleBlock, SensorRows, StreamInfo, VideoFrame
from sync.alignment import AlignmentError, cut, photo_sample
from sync.sample import CHANNEL_INDEX, SampleSpec, Weld4MSample
from sync.series import AudioSeries, Column, SensorSeries, Series, VideoSeries

SECOND = 10**9
Samples = npt.NDArray[np.int16] | npt.NDArray[np.int32]
SPEC = SampleSpec(window_s=1.0, frames=4, height=6, width=8, audio_rate_hz=8000, sensor_rows=20)
ROWS = StreamInfo(name="plc", modality="sensors", rate_hz=10.0, channels=SENSOR_CHANNELS, dtype="float64")
SOUND = StreamInfo(name="mic", modality="audio", rate_hz=8000.0, channels=("mono",), dtype="int16")
VIDEO = StreamInfo(name="cam", modality="video", rate_hz=10.0, height=12, width=16)


def window(*series: Series, spec: SampleSpec = SPEC) -> Weld4MSample:
    return cut(series, 0, SECOND, spec, weld="w", index=0)


def sensor_series(times_s: list[float], values: list[list[float]], info: StreamInfo = ROWS) -> SensorSeries:
    series = SensorSeries(info)
    for i, (t, row) in enumerate(zip(times_s, values, strict=True)):
        t_ns = np.array([round(t * SECOND)], np.int64)
        rows = SensorRows(first_row=i, values=np.array([row], float), t_device_ns=None, t_arrival_ns=t_ns)
        series.append(Packet(stream="plc", seq=i, t_arrival_ns=0, payload=rows, order=i + 1), t_ns)
    return series


def sound_series(runs: list[tuple[float, Samples]], info: StreamInfo = SOUND, block: int = 80) -> AudioSeries:
    """Runs of samples, each beginning at the sample nearest to a time."""
    series = AudioSeries(info)
    order = 0
    for start_s, samples in runs:
        first = round(start_s * info.rate_hz)
        for i in range(0, len(samples), block):
            part = samples[i : i + block].reshape(-1, 1)
            numbers = np.arange(first + i, first + i + len(part), dtype=np.int64)
            order += 1
            payload = SampleBlock(first_sample=first + i, rate_hz=info.rate_hz, samples=part)
            packet = Packet(stream="mic", seq=order, t_arrival_ns=0, payload=payload, order=order)
            series.append(packet, numbers * SECOND // round(info.rate_hz))
    return series


def column(sample: Weld4MSample, name: str) -> tuple[list[float], list[bool]]:
    at = CHANNEL_INDEX[name]
    return sample.sensors[:, at].tolist(), sample.sensors_mask[:, at].tolist()


def test_each_channel_is_read_by_its_own_rule() -> None:
    sample = window(sensor_series([0.0, 0.1], [[1, 10, 100, 1000, 5, 20], [2, 20, 200, 2000, 7, 30]]))
    grid_s = (0.025, 0.075)
    assert column(sample, "pressure_bar")[0][:2] == [1, 1]
    assert column(sample, "co2_flow_l_min")[0][:2] == [10 + 100 * t for t in grid_s]
    assert column(sample, "feed")[0][:2] == pytest.approx([125, 175])
    assert column(sample, "current_a")[0][:2] == [1000, 2000]
    assert column(sample, "wire_mm")[0][:2] == pytest.approx([5.5, 6.5])
    assert column(sample, "voltage_v")[0][:2] == [20, 30]


def test_nothing_is_extrapolated() -> None:
    sample = window(sensor_series([0.3, 0.4], [[1.0] * 6, [2.0] * 6]))
    for name in SENSOR_CHANNELS:
        _, mask = column(sample, name)
        # Values taken as they are reach half a period beyond their row.
        around = 0.05 if name in ("current_a", "voltage_v") else 0.0
        assert mask == [0.3 - around <= 0.025 + 0.05 * i <= 0.4 + around for i in range(20)]


def test_a_gap_is_crossed_up_to_the_limit_and_no_further() -> None:
    values = [[float(i)] * 6 for i in range(4)]
    crossed = window(sensor_series([0.0, 0.1, 0.4, 0.5], values))
    assert all(column(crossed, "feed")[1][:10])
    broken = window(sensor_series([0.0, 0.1, 0.41, 0.51], values))
    assert column(broken, "feed")[1][:10] == [True] * 2 + [False] * 6 + [True] * 2
    assert column(broken, "current_a")[1][:10] == [True] * 3 + [False] * 4 + [True] * 3


def test_nan_rows_do_not_exist_and_saturated_ones_do() -> None:
    nan = float("nan")
    rows = [[0.0, 0, 0, 0, 0, 0], [1, 1, 1, nan, 1, 81.9], [2, 2, 2, 819.03, 2, 2]]
    sample = window(sensor_series([0.0, 0.1, 0.2], rows))
    assert column(sample, "current_a")[0][:4] == [0, 0, 819.03, 819.03]
    assert 81.9 in column(sample, "voltage_v")[0]


def test_a_counter_that_was_reset_does_not_run_backwards() -> None:
    sample = window(sensor_series([0.0, 0.1, 0.2], [[5.0] * 6, [0.0] * 6, [4.0] * 6]))
    assert column(sample, "wire_mm")[0][:4] == pytest.approx([5, 5, 1, 3])


def test_two_sensor_streams_are_joined_by_channel_and_presence_counts_what_exists() -> None:
    times = [i / 10 for i in range(-1, 12)]
    current = sensor_series(times, [[177.0]] * 13, replace(ROWS, name="a", channels=("current_a",)))
    flow = sensor_series(times, [[15.0]] * 13, replace(ROWS, name="b", channels=("co2_flow_l_min",)))
    sample = window(current, flow)
    assert sample.present == ("sensors",)
    assert set(sample.orders) == {"a", "b"}
    assert sample.sensors_mask.all(axis=0).tolist() == [False, True, False, True, False, False]
    assert (sample.sensors[0, 3], sample.sensors[0, 1]) == (177.0, 15.0)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 400), st.lists(st.floats(-1e3, 1e3) | st.just(float("nan")), min_size=6, max_size=6)),
        max_size=20,
    )
)
def test_alignment_never_invents_a_sensor_value(rows: list[tuple[int, list[float]]]) -> None:
    times_ms = np.cumsum([step for step, _ in rows]) - 500
    series = sensor_series((times_ms / 1000).tolist(), [values for _, values in rows])
    sample = window(series)
    grid_ms = 25 + 50 * np.arange(20)
    for name, at in CHANNEL_INDEX.items():
        known = [(t, values[at]) for t, (_, values) in zip(times_ms, rows, strict=True) if np.isfinite(values[at])]
        for value, filled, t in zip(sample.sensors[:, at], sample.sensors_mask[:, at], grid_ms, strict=True):
            if not filled:
                assert value == 0
                continue
            before = [v for s, v in known if s <= t and t - s <= 300]
            after = [v for s, v in known if s >= t and s - t <= 300]
            near = before[-1:] + after[:1]
            if name in ("current_a", "voltage_v", "pressure_bar"):
                assert value in near
            else:
                assert min(near) - 1e-9 <= value <= max(near) + 1e-9


def test_sound_is_taken_sample_by_sample_and_gaps_are_masked() -> None:
    tone = np.arange(1, 8001, dtype=np.int16)
    sample = window(sound_series([(0.0, tone[:4000]), (0.6, tone[4800:])]))
    assert sample.audio.dtype == np.int16
    assert sample.audio_mask.sum() == 8000 - 800
    assert not sample.audio[0, 4001:4799].any()
    kept = sample.audio_mask
    assert (sample.audio[0, kept] == tone[kept]).all()
    assert "audio" in sample.present
    assert sample.orders["mic"] == (1, 90)


def test_sound_keeps_its_type_and_needs_its_channels() -> None:
    wide = replace(SOUND, dtype="int32")
    sample = window(sound_series([(0.0, np.full(8000, 1 << 30, np.int32))], wide))
    assert sample.audio.dtype == np.int32
    assert (sample.audio == 1 << 30).all()
    with pytest.raises(AlignmentError, match="'mic' has 1 sound channel"):
        window(sound_series([(0.0, np.zeros(80, np.int16))]), spec=replace(SPEC, audio_channels=2))


@pytest.mark.parametrize("rate_hz", [48_000.0, 44_100.0, 6_000.0])
def test_other_rates_are_resampled_onto_the_same_time(rate_hz: float) -> None:
    info = replace(SOUND, rate_hz=rate_hz)
    t = np.arange(round(1.4 * rate_hz)) / rate_hz - 0.2
    tone = np.rint(np.sin(2 * np.pi * 440 * t) * 10_000).astype(np.int16)
    sample = window(sound_series([(-0.2, tone)], info))
    assert sample.audio_mask.all()
    expected = np.sin(2 * np.pi * 440 * np.arange(8000) / 8000) * 10_000
    # The grid takes the nearest resampled sample: at most half of one away.
    tolerance = 2 * np.pi * 440 / 8000 / 2 * 10_000 + 60 if rate_hz == 44_100 else 60
    assert np.abs(sample.audio[0] - expected).max() < tolerance


def test_resampled_sound_has_its_gaps_masked_too() -> None:
    info = replace(SOUND, rate_hz=48_000.0)
    ones = np.full(48_000, 1000, np.int16)
    sample = window(sound_series([(0.0, ones[:24_000]), (0.6, ones[:19_200])], info))
    assert not sample.audio_mask[4010:4790].any()
    assert not sample.audio[0, ~sample.audio_mask].any()
    assert sample.audio_mask[:3990].all()
    assert sample.audio_mask[4810:].all()


def video_series(times_s: list[float]) -> VideoSeries:
    series = VideoSeries(VIDEO, SPEC.height, SPEC.width)
    for i, t in enumerate(times_s):
        frame = VideoFrame(pixels=np.full((12, 16), i, np.uint8))
        packet = Packet(stream="cam", seq=i, t_arrival_ns=0, payload=frame, order=i + 1)
        series.append(packet, np.array([round(t * SECOND)], np.int64))
    return series


def test_frames_are_the_nearest_to_the_middle_of_equal_parts() -> None:
    sample = window(video_series([i / 10 for i in range(12)]))
    assert sample.video[:, 0, 0, 0].tolist() == [1, 4, 6, 9]
    assert sample.video_mask.all()
    assert sample.orders["cam"] == (2, 10)


def test_a_frozen_camera_is_masked() -> None:
    sample = window(video_series([0.0, 0.1, 0.2, 0.3]))
    assert sample.video_mask.tolist() == [True, False, False, False]
    assert not sample.video[1:].any()
    assert sample.present == ()


def test_frames_are_scaled_by_area() -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (60, 80), dtype=np.uint8)
    series = VideoSeries(VIDEO, 6, 8)
    series.append(Packet(stream="cam", seq=0, t_arrival_ns=0, payload=VideoFrame(pixels=pixels)), np.zeros(1, np.int64))
    means = pixels.reshape(6, 10, 8, 10).mean(axis=(1, 3))
    assert np.abs(series.frames[0] - means).max() <= 1


def test_a_column_grows_and_shrinks_like_a_list() -> None:
    rng = np.random.default_rng(3)
    made: Column[np.int64] = Column(np.int64)
    kept: list[int] = []
    for _ in range(300):
        items = rng.integers(0, 1000, rng.integers(0, 90))
        made.extend(items)
        kept += items.tolist()
        n = int(rng.integers(0, len(kept) + 1)) if rng.random() < 0.4 else 0
        made.drop(n)
        del kept[:n]
        assert made.view.tolist() == kept


def photo(name: str, colour: tuple[int, int, int], form: str = "JPEG", orientation: int | None = None) -> Photo:
    file = io.BytesIO()
    image = Image.new("RGB", (640, 480), colour)
    image.paste((0, 0, 0), (0, 0, 640, 240))
    exif = Image.Exif()
    if orientation:
        exif[0x0112] = orientation
    image.save(file, form, exif=exif)
    return Photo(name=name, data=file.getvalue())


def test_photos_are_decoded_scaled_and_ordered_by_name() -> None:
    photos = [
        photo("b.jpg", (250, 0, 0), orientation=3),
        photo("c.png", (0, 250, 0), "PNG"),
        Photo(name="a.jpg", data=b"no"),
    ]
    images, mask = photo_sample(photos, SPEC)
    assert images.shape == (5, 3, 120, 160)
    assert mask.tolist() == [False, True, True, False, False]
    assert images[1, :, 90, 80].tolist() == pytest.approx([250, 0, 0], abs=4)
    assert images[2, :, 90, 80].tolist() == [0, 250, 0]
    assert not images[1, :, 20].max() > 4, "an EXIF orientation turns nothing"
    assert not images[[0, 3, 4]].any()


def test_a_photo_with_too_many_pixels_is_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    assert not photo_sample([photo("a.jpg", (9, 9, 9))], SPEC)[1].any()
