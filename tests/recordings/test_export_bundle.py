"""The bundle opened by ffprobe, PyAV, polars and pyarrow: equal values, and video and sound in step."""

import json
import subprocess
from dataclasses import replace
from pathlib import Path

import av
import av.frame
import numpy as np
import polars as pl
import pyarrow.parquet
import pytest

from recordings.exporter import export_welds
from tests.recordings.exported_welds import OFFSET_NS, cell_times, imported_weld, jpeg, luma, make_weld, sound
from tests.recordings.synthetic_weld import INFOS, KEY


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> tuple[Path, Path, Path]:
    root = tmp_path_factory.mktemp("bundle")
    weld = make_weld(root / "weld")
    report = export_welds([weld], root / "out", "bundle")
    assert (report.exported, report.skipped, report.lossy) == ([KEY], [], False)
    return weld, root / "out" / f"{KEY}.mp4", root / "out" / f"{KEY}.parquet"


def test_ffprobe_sees_one_ordinary_file_with_both(exported):
    _, mp4, _ = exported
    told = subprocess.run(
        ["ffprobe", "-v", "error", "-show_streams", "-of", "json", str(mp4)], capture_output=True, check=True, text=True
    )
    video, audio = json.loads(told.stdout)["streams"]
    assert told.stderr == ""
    assert (video["codec_name"], video["color_range"], video["nb_frames"]) == ("h264", "pc", "117")
    assert (audio["codec_name"], audio["sample_rate"]) == ("flac", "48000")


def test_frames_and_samples_are_those_recorded(exported):
    weld, mp4, _ = exported
    assert all(np.array_equal(a, b) for a, b in zip(luma(mp4), luma(weld / "camera.mp4"), strict=True))
    assert np.array_equal(sound(mp4), sound(weld / "microphone.flac"))


def nanoseconds(frame: av.frame.Frame) -> float:
    assert frame.pts is not None
    assert frame.time_base is not None
    return float(frame.pts * frame.time_base * 10**9)


def test_video_and_sound_lie_at_their_cell_times(exported):
    weld, mp4, parquet = exported
    begin = int(pl.read_parquet_metadata(parquet)["mp4_begins_ns"])
    with av.open(str(mp4)) as container:
        at = [nanoseconds(frame) for frame in container.decode(container.streams.video[0])]
    frames = cell_times(weld, "camera") - begin
    assert max(abs(a - t) for a, t in zip(at, frames.tolist(), strict=True)) <= 1000, "whole microseconds"
    with av.open(str(mp4)) as container:
        heard = [(nanoseconds(frame), frame.samples) for frame in container.decode(container.streams.audio[0])]
    starts = np.concatenate([[0], np.cumsum([n for _, n in heard])[:-1]])
    blocks = pl.read_parquet(weld / "microphone.blocks.parquet")["n"].to_numpy()
    first = np.concatenate([[0], np.cumsum(blocks)[:-1]])
    times = np.interp(starts, first, cell_times(weld, "microphone") - begin)
    error_ns = max(abs(a - t) for (a, _), t in zip(heard, times, strict=True))
    assert error_ns < 200_000, "the drift of 4 s, and one sample"
    steps = np.diff([a for a, _ in heard]) - np.array([n for _, n in heard])[:-1] * 1e9 / 48_000
    assert steps.max() == pytest.approx(80e6, abs=100_000), "the silence is kept, not filled"


def test_every_row_frame_and_block_is_in_the_table(exported):
    weld, _, parquet = exported
    table = pl.read_parquet(parquet)
    assert (table["utc_ns"] - table["t_ns"]).unique().to_list() == [OFFSET_NS]
    rows = table.filter(pl.col("kind") == "row")
    recorded = pl.read_parquet(weld / "process.parquet")
    assert rows["t_ns"].to_list() == cell_times(weld, "process").tolist()
    for name in ("order", "segment", "seq", "row", "t_device_ns", "t_arrival_ns"):
        assert rows[name].to_list() == recorded[name].to_list(), name
    for name in INFOS["process"].channels:
        values = rows[name].fill_null(float("nan")).to_numpy()
        assert np.array_equal(values, recorded[name].to_numpy(), equal_nan=True), name
    for kind, stream in (("frame", "camera"), ("block", "microphone")):
        items = table.filter(pl.col("kind") == kind)
        assert items["t_ns"].to_list() == cell_times(weld, stream).tolist()
        assert items["mp4_us"].null_count() == 0
    assert table.filter(pl.col("kind") == "photo")["data"].to_list() == [jpeg(), bytes(range(1, 200))]
    assert table.filter(pl.col("kind") == "event").height == pl.read_parquet(weld / "events.parquet").height
    about = pyarrow.parquet.read_schema(parquet).metadata
    assert about[b"weld.json"] == (weld / "weld.json").read_bytes()
    assert json.loads(about[b"units"])["current_a"] == "A"


def test_channels_of_two_streams_keep_apart(tmp_path):
    infos = {**INFOS, "second": replace(INFOS["process"], name="second", channels=("current_a",), units=("A",))}
    weld = make_weld(tmp_path / "weld", infos=infos)
    assert export_welds([weld], tmp_path / "out", "bundle").exported == [KEY]
    columns = pl.read_parquet(tmp_path / "out" / f"{KEY}.parquet").columns
    assert "current_a" in columns, "a stream without rows is none"


def test_imported_video_is_playable_and_equal(tmp_path):
    weld = imported_weld(tmp_path)
    report = export_welds([weld], tmp_path / "out", "bundle")
    assert any("encoded anew without loss" in entry["what"] for entry in report.warnings)
    gray = [np.clip(np.rint((one.astype(float) - 16) * 255 / 219), 0, 255) for one in luma(weld / "camera.avi")]
    made = luma(tmp_path / "out" / "run" / "03-22-23-0041-06.mp4")
    assert all(np.array_equal(a, b) for a, b in zip(made, gray, strict=True))
