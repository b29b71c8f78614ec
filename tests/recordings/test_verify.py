import io
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from acquisition.packet import Event
from recordings.verify import verify
from recordings.weld_folder import digest, load_manifest, store_manifest
from tests.recordings.synthetic_weld import Cell, Recording


@pytest.fixture
def weld(tmp_path: Path) -> Path:
    recording = Recording(tmp_path / "w")
    for packet in Cell().weld():
        recording.take(packet)
    recording.writer.finalise()
    return tmp_path / "w"


def test_a_good_weld_is_ok_and_its_streams_agree(weld: Path) -> None:
    (report,) = verify(weld.parent)
    assert (report.ok, report.state, report.problems) == (True, "finalised", [])
    assert report.losses == {"camera": {"seconds": 0.1, "items": 3}}
    assert set(report.sync) == {"camera", "microphone", "process"}
    for stream, tolerance_ms in (("camera", 25.0), ("microphone", 15.0), ("process", 0.0)):
        sync = report.sync[stream]
        assert sync["offset_ms"] is not None
        assert abs(sync["offset_ms"]) <= tolerance_ms
        assert sync["arc_on_s"] == pytest.approx(1.0, abs=0.05)
        assert sync["arc_off_s"] == pytest.approx(3.0, abs=0.05)


def test_an_injected_camera_delay_is_measured(tmp_path: Path) -> None:
    recording = Recording(tmp_path / "w")
    for packet in Cell(light_delay_s=0.2).weld(photos=0):
        recording.take(packet)
    recording.writer.finalise()
    sync = verify(tmp_path / "w")[0].sync["camera"]
    assert sync["offset_ms"] == pytest.approx(200, abs=25)


def test_a_changed_byte_is_found(weld: Path) -> None:
    path = weld / "camera.mp4"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    (report,) = verify(weld, deep=False)
    assert not report.ok
    assert [("camera.mp4" in line, "digest" in line) for line in report.problems] == [(True, True)]


def test_a_missing_file_and_an_open_weld_are_found(weld: Path, tmp_path: Path) -> None:
    (weld / "process.parquet").unlink()
    (weld / "photos" / "bead.jpg").unlink()
    (report,) = verify(weld)
    assert not report.ok
    assert sum("is missing" in line for line in report.problems) == 2
    assert any("holds 0 items, but the manifest says 2000" in line for line in report.problems)
    recording = Recording(tmp_path / "open")
    assert any("is open" in line for line in verify(tmp_path / "open")[0].problems)
    recording.writer.abandon()


def test_time_that_runs_backwards_is_found(weld: Path) -> None:
    path = weld / "microphone.blocks.parquet"
    blocks = pl.read_parquet(path)
    order = blocks["order"].to_list()
    order[7], order[8] = order[8], order[7]
    blocks.with_columns(pl.Series("order", order)).write_parquet(path)
    manifest = load_manifest(weld)
    manifest.files["microphone.blocks.parquet"] = digest(path)
    store_manifest(weld, manifest)
    (report,) = verify(weld, deep=False)
    assert any("order runs backwards at row 8" in line for line in report.problems)


def rewrite(weld: Path, name: str, data: bytes) -> None:
    """Change a file so that its digest tells nothing."""
    (weld / name).write_bytes(data)
    manifest = load_manifest(weld)
    manifest.files[name] = digest(weld / name)
    store_manifest(weld, manifest)


@pytest.mark.parametrize(
    ("name", "column", "row"),
    [("camera.frames", "pts_us", 5), ("camera.frames", "t_arrival_ns", 5), ("process", "packet_t_arrival_ns", 40)],
)
def test_every_time_that_runs_backwards_is_found(weld: Path, name: str, column: str, row: int) -> None:
    path = weld / f"{name}.parquet"
    table = pl.read_parquet(path)
    values = table[column].to_list()
    values[row] = values[row - 2] - 1
    buffer = io.BytesIO()
    table.with_columns(pl.Series(column, values)).write_parquet(buffer)
    rewrite(weld, path.name, buffer.getvalue())
    (report,) = verify(weld, deep=False)
    assert any(f"{column} runs backwards at row {row}" in line for line in report.problems)


def test_a_count_that_does_not_match_is_found(weld: Path) -> None:
    manifest = load_manifest(weld)
    manifest.streams["microphone"].items += 1
    store_manifest(weld, manifest)
    (report,) = verify(weld, deep=False)
    assert any("microphone holds 192000 items, but the manifest says 192001" in line for line in report.problems)


def test_a_file_that_no_digest_vouches_for_is_found(weld: Path) -> None:
    manifest = load_manifest(weld)
    del manifest.files["camera.mp4"]
    store_manifest(weld, manifest)
    assert any("camera.mp4: has no digest" in line for line in verify(weld, deep=False)[0].problems)


@pytest.mark.parametrize("name", ["events", "clocks", "process", "camera.frames"])
def test_a_table_that_cannot_be_read_is_found_even_with_a_matching_digest(weld: Path, name: str) -> None:
    path = weld / f"{name}.parquet"
    rewrite(weld, path.name, path.read_bytes()[:-9])
    (report,) = verify(weld, deep=False)
    assert any(f"{name}.parquet" in line for line in report.problems)
    assert all("\n" not in line for line in verify(weld)[0].problems)


def test_damaged_sound_is_found_even_with_a_matching_digest(weld: Path) -> None:
    data = (weld / "microphone.flac").read_bytes()
    rewrite(weld, "microphone.flac", data[: len(data) // 2])
    (report,) = verify(weld)
    assert any("microphone.flac: the sound ends" in line for line in report.problems)


def test_the_fast_check_opens_no_media(weld: Path) -> None:
    rewrite(weld, "camera.mp4", b"no video")
    assert verify(weld, deep=False)[0].problems == []
    assert any("camera.mp4" in line for line in verify(weld)[0].problems)


def test_a_cut_video_is_found_even_with_a_matching_digest(weld: Path) -> None:
    path = weld / "camera.mp4"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    manifest = load_manifest(weld)
    manifest.files["camera.mp4"] = digest(path)
    store_manifest(weld, manifest)
    (report,) = verify(weld)
    assert any("frames can be read" in line for line in report.problems)
    assert verify(weld, deep=False)[0].ok


def test_a_photo_that_was_given_but_not_kept_is_found(tmp_path: Path) -> None:
    recording = Recording(tmp_path / "w")
    last = None
    for packet in Cell().weld(photos=1):
        recording.take(packet)
        last = packet
    assert last is not None
    key = recording.writer.manifest.key
    done = Event(kind="photos_done", weld=key, data={"expected": 2, "received": 2})
    recording.take(replace(last, stream="events", seq=99, order=last.order + 1, payload=done))
    recording.writer.finalise()
    (report,) = verify(tmp_path / "w", deep=False)
    assert any("1 of the 2 photos" in line for line in report.problems)
