"""LeRobot v3, read by its published path templates with pyarrow and PyAV; no code of ours reads it."""

import json
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import polars as pl
import pyarrow.parquet
import pytest

from recordings import export_lerobot_dataset
from recordings.export_lerobot_episode import frame_grid
from recordings.export_lerobot_stats import Moments
from recordings.export_report import ExportReport
from recordings.exporter import export_welds
from recordings.weld_folder import WeldError
from tests.recordings.exported_welds import cell_times, imported_weld, luma, make_weld, plane, sound
from tests.recordings.synthetic_weld import FPS, HEIGHT, WIDTH

CAMERA = "observation.images.camera"


@dataclass
class DataSet:
    """A reader as the format's description has it."""

    root: Path

    def __post_init__(self) -> None:
        self.info = json.loads((self.root / "meta" / "info.json").read_text())
        self.stats = json.loads((self.root / "meta" / "stats.json").read_text())
        self.tasks = pl.read_parquet(self.root / "meta" / "tasks.parquet")
        self.episodes = pl.concat([pl.read_parquet(path) for path in self.root.glob("meta/episodes/*/*.parquet")])

    def rows(self, episode: dict[str, Any]) -> pl.DataFrame:
        place = {name: episode[f"data/{name}"] for name in ("chunk_index", "file_index")}
        table = pl.read_parquet(self.root / self.info["data_path"].format(**place))
        return table.filter(pl.col("episode_index") == episode["episode_index"])

    def frames(self, episode: dict[str, Any]) -> list[np.ndarray]:
        """Decode the frame at every row's timestamp, exact to LeRobot's tolerance of 0.1 ms."""
        prefix = f"videos/{CAMERA}"
        place = {name: episode[f"{prefix}/{name}"] for name in ("chunk_index", "file_index")}
        path = self.root / self.info["video_path"].format(video_key=CAMERA, **place)
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            at = {
                round(float((f.pts or 0) * Fraction(stream.time_base or 0)), 4): plane(f)
                for f in container.decode(stream)
            }
        assert sorted(at) == pytest.approx(np.arange(len(at)) / self.info["fps"], abs=1e-4)
        times = episode[f"{prefix}/from_timestamp"] + self.rows(episode)["timestamp"].to_numpy().astype(float)
        keys = np.array(sorted(at))
        nearest = [keys[np.abs(keys - t).argmin()] for t in times]
        assert np.abs(np.array(nearest) - times).max() < 1e-4
        return [at[key] for key in nearest]


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple[list[Path], DataSet, ExportReport]:
    root = tmp_path_factory.mktemp("lerobot")
    welds = [
        make_weld(root / "welds" / f"w{n}", key=f"w-{n}", label=label, seed=n) for n, label in enumerate((3, -1, 3))
    ]
    small = imported_weld(root / "other")  # frames of another size
    report = export_welds([*welds, small], root / "out", "lerobot")
    return welds, DataSet(root / "out"), report


def test_what_is_in_it_and_what_is_not_is_said(made):
    _, data, report = made
    assert report.exported == ["w-0", "w-1", "w-2"]
    assert "frames of 96 x 64, where the data set began with 320 x 200" in report.skipped[0]["reason"]
    said = [entry["what"] for entry in report.warnings if entry["key"] == "w-0"]
    assert any(what.startswith("camera: 120 grid points at 30 a second, ") for what in said)
    assert any("photos, events" in limit for limit in report.limits)
    info = data.info
    assert (info["codebase_version"], info["fps"], info["total_episodes"], info["total_frames"]) == ("v3.0", 30, 3, 360)
    assert info["features"][CAMERA]["shape"] == [HEIGHT, WIDTH, 3]
    assert info["splits"] == {"train": "0:3"}


def test_episodes_follow_one_another_without_a_hole(made):
    _, data, _ = made
    ends = 0
    for number, episode in enumerate(data.episodes.iter_rows(named=True)):
        rows = data.rows(episode)
        assert (episode["episode_index"], episode["dataset_from_index"]) == (number, ends)
        ends = episode["dataset_to_index"]
        assert rows["index"].to_list() == list(range(episode["dataset_from_index"], ends))
        assert rows["frame_index"].to_list() == list(range(episode["length"]))
        assert rows["timestamp"].to_numpy() == pytest.approx(np.arange(episode["length"]) / FPS, abs=1e-6)
        task = data.tasks.filter(pl.col("task") == episode["tasks"][0])["task_index"][0]
        assert set(rows["task_index"]) == {task}
        assert set(rows["annotation.label"]) == {(3, -1, 3)[number]}
    assert data.tasks["task"].to_list() == ["weld, class porosity", "weld, class unknown"]
    pandas = json.loads(pyarrow.parquet.read_schema(data.root / "meta" / "tasks.parquet").metadata[b"pandas"])
    assert pandas["index_columns"] == ["task"]
    assert set(data.info["features"]) - {CAMERA} == set(data.rows(data.episodes.row(0, named=True)).columns)


def grid(weld: Path) -> np.ndarray:
    begin = int(cell_times(weld, "camera")[0])
    return begin + np.arange(120, dtype=np.int64) * 10**9 // FPS


def test_frames_stand_at_the_nearest_grid_point(made):
    welds, data, _ = made
    for weld, episode in zip(welds, data.episodes.iter_rows(named=True), strict=True):
        times, recorded = np.maximum.accumulate(cell_times(weld, "camera")), luma(weld / "camera.mp4")
        nearest = [int(np.abs(times - t).argmin()) for t in grid(weld)]
        made_of = data.frames(episode)
        error = [np.abs(a.astype(float) - recorded[i]).mean() for a, i in zip(made_of, nearest, strict=True)]
        assert max(error) < 3.0, "gray levels; encoded anew"
        gap = (grid(weld) > times[89] + 5e8 / FPS) & (grid(weld) < times[90] - 5e8 / FPS)
        assert np.count_nonzero(gap) in (2, 3), "three frames are lost"
        assert np.array_equal(data.rows(episode)["observation.camera_valid"].to_numpy(), ~gap)


def test_the_state_is_what_the_sensors_read_then(made):
    welds, data, _ = made
    rows, episode = pl.read_parquet(welds[0] / "process.parquet"), data.episodes.row(0, named=True)
    table, times = data.rows(episode), cell_times(welds[0], "process")
    state = table["observation.state"].to_numpy()
    valid = table["observation.state_valid"].to_numpy()
    inside = (grid(welds[0]) >= times[0]) & (grid(welds[0]) <= times[-1])
    assert valid[inside, 1:].all()
    assert np.abs(state[~valid]).sum() == 0
    nearest = [int(np.abs(times - t).argmin()) for t in grid(welds[0])]
    for column, channel in ((3, "current_a"), (5, "voltage_v")):
        expected = rows[channel].to_numpy()[nearest].astype(np.float32)
        assert np.array_equal(state[inside, column], expected[inside]), channel


def test_the_sound_of_all_frames_is_the_sound_recorded(made):
    welds, data, _ = made
    table = data.rows(data.episodes.row(0, named=True))
    heard = table["observation.audio"].to_numpy().reshape(-1) * 32768
    valid = table["observation.audio_valid"].to_numpy().reshape(-1)
    samples = sound(welds[0] / "microphone.flac")
    assert data.info["features"]["observation.audio"]["shape"] == [1600]
    assert np.abs(heard[~valid]).sum() == 0
    silent = np.flatnonzero(~valid)
    assert 3800 < np.count_nonzero((silent > 60_000) & (silent < 90_000)) < 3880, "80 ms of silence"
    blocks = pl.read_parquet(welds[0] / "microphone.blocks.parquet")["n"].to_list()
    starts = cell_times(welds[0], "microphone").tolist()
    step_ns = 1e9 / 48_000 * (1 - 30e-6)
    times = np.concatenate([t + np.arange(n) * step_ns for t, n in zip(starts, blocks, strict=True)])
    wanted = (grid(welds[0])[:, None] + np.arange(1600) * 10**9 // 48_000).reshape(-1)
    after = np.clip(np.searchsorted(times, wanted), 1, len(times) - 1)
    nearest = np.where(wanted - times[after - 1] <= times[after] - wanted, after - 1, after)
    same = heard[valid] == samples[nearest][valid]
    assert same.mean() > 0.9999, "but for samples equally far"


def test_the_statistics_are_those_of_what_was_measured(made):
    _, data, _ = made
    tables = [data.rows(episode) for episode in data.episodes.iter_rows(named=True)]
    table = pl.concat(tables)
    for name in ("observation.state", "observation.audio"):
        values = table[name].to_numpy().astype(np.float64)
        masked = np.ma.masked_array(values, ~table[f"{name}_valid"].to_numpy())
        told = data.stats[name]
        for what, expected in (("mean", masked.mean(0)), ("std", masked.std(0)), ("min", masked.min(0))):
            assert told[what] == pytest.approx(expected.filled(0.0), abs=2e-5), (name, what)
        assert told["count"] == [360]
    assert data.stats["index"] == {
        "min": [0],
        "max": [359],
        "mean": [179.5],
        "std": [pytest.approx(103.9227)],
        "count": [360],
    }
    first = data.episodes.row(0, named=True)
    pixels = np.stack(data.frames(first)).astype(float) / 255
    assert np.array(first[f"stats/{CAMERA}/mean"]).shape == (3, 1, 1)
    assert first[f"stats/{CAMERA}/mean"][0][0][0] == pytest.approx(pixels.mean(), abs=2e-3)
    assert data.stats[CAMERA]["max"][2][0][0] <= 1.0


def test_moments_join_and_count_only_what_was_measured():
    values = np.random.default_rng(0).normal(5, 2, (100, 3))
    mask = np.random.default_rng(1).random((100, 3)) > 0.3
    mask[:, 2] = False
    told = (Moments() + Moments.of(values[:40], mask[:40]) + Moments.of(values[40:], mask[40:])).told()
    for column in (0, 1):
        kept = values[mask[:, column], column]
        assert told["mean"][column] == pytest.approx(kept.mean())
        assert told["std"][column] == pytest.approx(kept.std())
        assert (told["min"][column], told["max"][column]) == (kept.min(), kept.max())
    assert [told[what][2] for what in ("min", "max", "mean", "std")] == [0.0] * 4
    assert told["count"] == [100]


def test_files_roll_over_and_the_paths_lead_to_them(made, tmp_path, monkeypatch):
    welds, whole, _ = made
    monkeypatch.setattr(export_lerobot_dataset, "_DATA_MB", 0)
    monkeypatch.setattr(export_lerobot_dataset, "_VIDEO_MB", 0)
    assert len(export_welds(welds, tmp_path / "out", "lerobot").exported) == 3
    data = DataSet(tmp_path / "out")
    pairs = zip(data.episodes.iter_rows(named=True), whole.episodes.iter_rows(named=True), strict=True)
    for number, (alone, joined) in enumerate(pairs):
        assert (alone["data/file_index"], alone[f"videos/{CAMERA}/file_index"]) == (number, number)
        assert alone[f"videos/{CAMERA}/from_timestamp"] == 0.0
        assert data.rows(alone).equals(whole.rows(joined))
        assert all(np.array_equal(a, b) for a, b in zip(data.frames(alone), whole.frames(joined), strict=True))


def test_the_grid_repeats_drops_and_refuses():
    t_ns = np.array([0, 33, 66, 500, 533], np.int64) * 1_000_000
    grid_ns, index, valid = frame_grid(t_ns, 30, 30.0)
    assert len(grid_ns) == 17
    assert index.tolist() == [0, 1, 2, 2, 2, 2, 2, 2, 2, 3, 3, 3, 3, 3, 3, 3, 4]
    assert valid.tolist() == [True] * 3 + [False] * 12 + [True] * 2
    _, index, _ = frame_grid(np.arange(60, dtype=np.int64) * 10**9 // 60, 30, 60.0)
    assert len(np.unique(index)) == len(index) == 30, "half of the frames are dropped"
    with pytest.raises(WeldError, match="too few for an episode"):
        frame_grid(np.array([0, 10**15], np.int64), 30, 30.0)
