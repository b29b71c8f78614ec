"""Streams that began at different times are put in place by the arc, and what is uncertain is said."""

import numpy as np
import pytest

from acquisition.packet import SENSOR_CHANNELS
from recordings.weld4m_content import read_content
from recordings.weld4m_flags import feed_rows_per_s, value_flags
from recordings.weld4m_tree import FoundWeld, find_welds
from tests.recordings.synthetic_weld4m import make_sensors, make_sound, make_video, sensor_values

ID = "03-22-23-0041-06"


def weld(tmp_path) -> FoundWeld:
    (found,) = find_welds(tmp_path).welds
    return found


@pytest.mark.parametrize(("sound_s", "video_s"), [(0.5, 0.0), (1.1, -0.4), (1.7, 0.25)])
def test_both_edges_measured_times(tmp_path, sound_s, video_s):
    make_sensors(tmp_path / f"{ID}.csv", timed=True)
    make_sound(tmp_path / f"{ID}.flac", leads_s=sound_s)
    make_video(tmp_path / f"{ID}.avi", rate_hz=30, leads_s=video_s)
    content = read_content(weld(tmp_path))
    for stream, leads_s in (("microphone", sound_s), ("camera", video_s)):
        found = content.offsets[stream]
        assert (found.confidence, found.applied, found.against) == ("high", True, "sensors")
        assert found.offset_ms is not None
        assert found.offset_ms == pytest.approx(-1e3 * leads_s, abs=50), stream
        assert found.sigma_ms is not None
        assert 1 < found.sigma_ms < 30
        assert f"{stream} offset {found.offset_ms / 1e3:+.3f} s" in "\n".join(content.inferred)
    starts = {name: (t_ns - content.start_ns["sensors"]) / 1e9 for name, t_ns in content.start_ns.items()}
    assert starts == pytest.approx({"sensors": 0.0, "microphone": sound_s, "camera": video_s}, abs=0.05)
    assert min(content.start_ns.values()) == 10**12


def test_without_sensors_the_video_is_what_others_are_compared_with(tmp_path):
    make_sound(tmp_path / f"{ID}.flac", leads_s=0.8)
    make_video(tmp_path / f"{ID}.avi", rate_hz=30)
    content = read_content(weld(tmp_path))
    assert set(content.offsets) == {"microphone"}
    found = content.offsets["microphone"]
    assert (found.against, found.confidence) == ("camera", "high")
    assert found.offset_ms == pytest.approx(-800, abs=30)


def test_edges_that_contradict_each_other_are_said(tmp_path):
    make_sensors(tmp_path / f"{ID}.csv")
    make_sound(tmp_path / f"{ID}.flac", leads_s=1.0)
    make_video(tmp_path / f"{ID}.avi", seconds=7.0)  # rows are spread over a second too much: the arc gets longer
    content = read_content(weld(tmp_path))
    found = content.offsets["microphone"]
    assert found.confidence == "low"
    assert found.applied
    assert found.on_ms is not None
    assert found.off_ms is not None
    assert found.sigma_ms is not None
    assert found.off_ms < found.on_ms - 300
    assert found.sigma_ms >= (found.on_ms - found.off_ms) / 2 - 1e-6
    assert "contradict each other" in next(line for line in content.inferred if line.startswith("microphone"))


def test_a_shift_that_one_edge_calls_the_wrong_way_is_not_made(tmp_path):
    make_sensors(tmp_path / f"{ID}.csv")
    make_video(tmp_path / f"{ID}.avi", seconds=6.8, leads_s=-0.4, rate_hz=30)
    content = read_content(weld(tmp_path))
    found = content.offsets["camera"]
    assert (found.confidence, found.applied) == ("none", False)
    assert set(content.start_ns.values()) == {10**12}
    assert "it was not moved" in next(line for line in content.inferred if line.startswith("common start: camera"))


def test_a_stream_without_an_arc_begins_with_the_others(tmp_path):
    make_sensors(tmp_path / f"{ID}.csv", timed=True)
    make_sound(tmp_path / f"{ID}.flac", loud=3.0)
    content = read_content(weld(tmp_path))
    assert content.offsets["microphone"].confidence == "none"
    assert content.start_ns == {"sensors": 10**12, "microphone": 10**12}
    assert any("common start: microphone shows no arc" in line for line in content.inferred)


def test_values_are_counted_and_not_changed():
    values = sensor_values()
    before = values.copy()
    flags = value_flags(values)
    assert flags["voltage_v"] == {"saturated": 1}
    assert flags["current_a"] == {"saturated": 1}
    assert set(flags) == {"co2_flow_l_min", "current_a", "voltage_v"}
    assert np.array_equal(values, before)


def test_feed_is_derived_only_where_it_is():
    values = sensor_values(seconds=30.0)
    feed = SENSOR_CHANNELS.index("feed")
    assert feed_rows_per_s(values) == pytest.approx(9.0, abs=0.05)
    scaled, shuffled, silent = values.copy(), values.copy(), values.copy()
    scaled[:, feed] *= 1.01
    shuffled[:, feed] = np.random.default_rng(1).permutation(shuffled[:, feed])
    silent[:, feed] = 0.0
    silent[::7, feed] = np.nan
    assert [feed_rows_per_s(one) for one in (scaled, shuffled, silent, values[:15])] == [None] * 4
