"""Weld-4M trees: written, imported again, and compared with what was recorded."""

import os
import shutil
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import polars as pl
import pytest

from acquisition.packet import SENSOR_CHANNELS
from recordings.export_report import ExportError
from recordings.export_weld4m_csv import CSV_QUIRKS, csv_lines
from recordings.export_weld4m_media import place_frames
from recordings.exporter import export_welds
from recordings.importer import import_welds
from recordings.reader import WeldReader
from recordings.weld4m_csv import read_sensor_csv
from recordings.weld_folder import WeldError, load_manifest, store_manifest
from tests.recordings.exported_welds import LOST_FRAMES, cell_times, jpeg, luma, make_weld, sound
from tests.recordings.synthetic_weld import INFOS, KEY

MS = 1_000_000
FRAME = 10**9 / 30


def back(tree: Path, root: Path) -> WeldReader:
    """Import a tree of one weld and open it."""
    report = import_welds(tree, root)
    assert (len(report.imported), report.skipped) == (1, []), report
    return WeldReader(next(root.rglob("weld.json")).parent)


@pytest.fixture(scope="module")
def trip(tmp_path_factory) -> tuple[Path, Path, WeldReader]:
    root = tmp_path_factory.mktemp("weld4m")
    weld = make_weld(root / "weld")
    report = export_welds([weld], root / "tree", "weld4m")
    assert (report.exported, report.skipped, report.lossy) == ([KEY], [], False)
    return weld, root / "tree", back(root / "tree", root / "again")


def test_the_layout_is_that_of_the_data_set(trip):
    _, tree, _ = trip
    stem = "shift 1/01-02-26-0001-03/01-02-26-0001-03"
    names = {str(path.relative_to(tree)) for path in tree.rglob("*") if path.is_file()}
    images = {name for name in names if "/images/" in name}
    assert names - images == {"manifest.csv", "export.jsonl", f"{stem}.avi", f"{stem}.flac", f"{stem}.csv"}
    assert {Path(name).name for name in images} == {"20260102_030409_123.jpg", "20260102_030410_123.jpg"}
    lines = (tree / f"{stem}.csv").read_bytes().decode().split("\n")
    assert lines[0] == (
        "Date,Time,Part No,Pressure,CO2 Weld Flow,Feed,Primary Weld Current,Wire Consumed,Secondary Weld Voltage,"
        "Remarks "
    )
    assert lines[1].startswith("1/2/2026,03:04:05.124,P-7,,")
    assert {line.count(",") for line in lines[1:-1]} == {8}, "nine fields under ten names"
    row = pl.read_csv(tree / "manifest.csv", infer_schema=False).row(0, named=True)
    assert (row["CATEGORY"], row["SUBDIRS"]) == ("porosity", "shift 1/01-02-26-0001-03")
    assert (row["THICKNESS_MM"], row["STEEL_TYPE"], row["NOTES"]) == ("3.0", "S235", 'a "quoted", text')


def test_values_samples_pixels_and_photos_come_back_equal(trip):
    weld, tree, again = trip
    recorded, read = pl.read_parquet(weld / "process.parquet"), again.sensors("sensors")
    for channel in SENSOR_CHANNELS:
        assert np.array_equal(read[channel].to_numpy(), recorded[channel].to_numpy(), equal_nan=True), channel
    assert np.array_equal(sound(again.folder / "microphone.flac"), sound(weld / "microphone.flac"))
    frames = [packet.payload.pixels for packet in again.pictures("camera")]
    assert all(np.array_equal(a, b) for a, b in zip(frames, luma(weld / "camera.mp4"), strict=True))
    images = sorted((tree / "shift 1" / "01-02-26-0001-03" / "images").iterdir())
    assert [image.read_bytes() for image in images] == [jpeg(), bytes(range(1, 200))]
    assert [photo.data for photo in again.photos()] == [jpeg()], "what is no picture is said, not imported"


def test_label_and_metadata_come_back(trip):
    _, _, again = trip
    assert (again.manifest.label, again.manifest.session) == (3, "shift 1")
    assert {"part": "P-7", "notes": 'a "quoted", text', "thickness_mm": 3.0}.items() <= again.manifest.described.items()


def test_times_come_back_within_the_resolution_of_the_layout(trip):
    """Rows to the half millisecond; frames and sound at a constant rate, as the report says."""
    weld, tree, again = trip
    recorded, read = cell_times(weld, "process"), again.sensors("sensors")["t_arrival_ns"].to_numpy()
    assert np.abs((read - read[0]) - (recorded - recorded[0])).max() <= MS
    recorded, numbers = cell_times(weld, "camera"), np.delete(np.arange(120), LOST_FRAMES)
    assert np.abs(numbers * FRAME - (recorded - recorded[0])).max() <= FRAME / 4, "8 ms of jitter"
    with av.open(str(next(tree.rglob("*.avi")))) as container:
        assert [packet.dts for packet in container.demux(video=0) if packet.size] == numbers.tolist()
    read = again.frames("camera").filter(pl.col("missing") == 0)["seq"].to_numpy()
    # FFmpeg reads the time of H.264 in an AVI off the frame that follows, also across a gap.
    assert np.count_nonzero(read - read[0] != numbers) <= 1
    assert np.sum(np.diff(read) - 1) == len(LOST_FRAMES)


def test_streams_begin_where_they_began(trip):
    """Seconds after the first sensor row, which the manifest says to the nanosecond and the layout nowhere."""
    weld, _, again = trip
    first = int(again.sensors("sensors")["t_arrival_ns"][0])
    for stream, table in (("camera", again.frames("camera")), ("microphone", again.blocks("microphone"))):
        recorded = int(cell_times(weld, stream)[0]) - int(cell_times(weld, "process")[0])
        read = int(table["t_arrival_ns"][0]) - again.infos[stream].latency_ns - first
        tolerance = FRAME + MS if stream == "camera" else MS
        assert abs(read - recorded) <= tolerance, stream


def test_what_the_layout_cannot_say_is_said(tmp_path):
    infos = {
        **INFOS,
        "microphone": replace(INFOS["microphone"], dtype="int32"),
        "process": replace(INFOS["process"], channels=(*SENSOR_CHANNELS[:5], "gas_temperature_c")),
    }
    weld = make_weld(tmp_path / "weld", infos=infos, label=-1)
    report = export_welds([weld], tmp_path / "tree", "weld4m")
    said = "\n".join(entry["what"] for entry in report.warnings)
    assert report.lossy
    assert "1 channels beside the six" in said
    assert "microphone: blocks lie up to 79.9" in said, "the silence of 80 ms"
    assert "kept as int32" in said
    assert "without a label it has no row in the manifest: material, notes, thickness_mm are left out" in said
    again = back(tmp_path / "tree", tmp_path / "again")
    assert again.manifest.label == -1, "not good"
    assert np.isnan(again.sensors("sensors")["voltage_v"].to_numpy()).all()
    assert np.array_equal(sound(again.folder / "microphone.flac"), sound(weld / "microphone.flac"))


def test_ids_are_unique_in_their_directory_and_follow_the_label(tmp_path):
    for n, label in enumerate((3, 3, 5)):
        make_weld(tmp_path / "welds" / f"w{n}", key=f"w-{n}", label=label, seed=n)
    tree = tmp_path / "tree"
    export_welds([tmp_path / "welds" / "w0"], tree, "weld4m")
    export_welds([tmp_path / "welds"], tree, "weld4m")
    rows = pl.read_csv(tree / "manifest.csv", infer_schema=False)
    names = ["01-02-26-0001-03", "01-02-26-0002-03", "01-02-26-0003-05"]
    assert rows["SUBDIRS"].to_list() == [f"shift 1/{name}" for name in names]
    report = import_welds(tree, tmp_path / "again")
    assert sorted(report.imported) == [f"shift 1/{name}" for name in names]
    renamed = next(path.parent for path in (tmp_path / "again").rglob("weld.json") if "0002" in str(path.parent))
    manifest = load_manifest(renamed)
    manifest.labels.append(replace_label(manifest.labels[-1], 11))
    store_manifest(renamed, manifest)
    report2 = export_welds([renamed], tmp_path / "tree2", "weld4m")
    assert any("is called 01-02-26-0002-11 here" in entry["what"] for entry in report2.warnings)
    assert (tmp_path / "tree2" / "shift 1" / "01-02-26-0002-11").is_dir()


def replace_label(entry, label):
    return type(entry)(label=label, by=entry.by, utc=entry.utc)


def test_a_tree_of_somebody_else_keeps_its_manifest(tmp_path):
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "manifest.csv").write_text("CATEGORY,SUBDIRS\n")
    with pytest.raises(ExportError, match=r"manifest\.csv is not of an export"):
        export_welds([make_weld(tmp_path / "weld")], tmp_path / "tree", "weld4m")
    assert {path.name for path in (tmp_path / "tree").iterdir()} == {"manifest.csv"}


def test_a_rate_that_is_not_the_nominal_one_is_measured():
    t_ns = (np.arange(1000) * 1e9 / 30.4).astype(np.int64)
    nothing = np.zeros(1000, np.int64)
    nominal = place_frames(np.arange(1000) * 10**9 // 31, nothing, 31.0)
    measured = place_frames(t_ns, nothing, 31.0)
    assert nominal.rate == 31
    assert nominal.error_ns <= 1
    assert abs(float(measured.rate) - 30.4) < 0.001
    assert measured.error_ns < MS
    lost = place_frames(np.delete(np.arange(1000) * 10**9 // 31, slice(500, 510)), np.repeat([0, 10], [500, 490]), 31.0)
    assert lost.numbers[-1] == 999
    assert lost.error_ns <= 1
    with pytest.raises(WeldError, match="cannot be"):
        place_frames(t_ns, nothing + np.where(np.arange(1000) > 5, 10**12, 0), 31.0)


VALUES = np.random.default_rng(5).normal(10, 3, (40, 6)).round(2)
TIMES = 1_767_400_000_000_000_000 + np.arange(40, dtype=np.int64) * 111 * MS + 7


@pytest.mark.parametrize("quirk", ["", *CSV_QUIRKS])
def test_the_importer_reads_every_oddity_of_sensor_files(tmp_path, quirk):
    quirks = frozenset({quirk} - {""})
    path = tmp_path / "a.csv"
    path.write_bytes(b"".join(csv_lines(VALUES, TIMES, "P-1", quirks)))
    read = read_sensor_csv(path)
    n = 39 if quirk == "cut-last-line" else 40
    assert np.array_equal(read.values, VALUES[:n])
    assert read.cut_off == (quirk == "cut-last-line")
    if quirk == "no-times":
        assert read.t_ns is None
        return
    assert read.t_ns is not None
    # Of two stamps that contradict each other, the reader keeps one and interpolates the other.
    wrong = {9, 10, 19, 20, 29, 30} if quirk in ("duplicate-stamps", "backward-stamps") else ()
    right = [i for i in range(n) if i not in wrong]
    assert np.array_equal(read.t_ns[right], (TIMES - TIMES[0])[right])
    assert np.abs(read.t_ns - (TIMES - TIMES[0])[:n]).max() <= 151 * MS, "no further off than a stamp was"


def test_quirks_reach_the_exported_tree(tmp_path):
    weld = make_weld(tmp_path / "weld")
    export_welds([weld], tmp_path / "tree", "weld4m", csv_quirks=["bom", "decimal-comma"])
    data = next(tmp_path.glob("tree/*/*/*.csv")).read_bytes()
    assert data.startswith(b"\xef\xbb\xbfDate;Time;")
    assert back(tmp_path / "tree", tmp_path / "again").manifest.label == 3
    with pytest.raises(ExportError, match="CSV quirk 'tabs' is unknown"):
        export_welds([weld], tmp_path / "other", "weld4m", csv_quirks=["tabs"])


def test_rows_of_less_than_a_millisecond_get_microseconds():
    times = TIMES[0] + np.arange(40, dtype=np.int64) * 250_000
    fields = [line.decode().split(",")[1] for line in csv_lines(VALUES, times, "")][1:]
    assert {len(field) for field in fields} == {len("03:04:05.123456")}
    assert len(set(fields)) == 40


@pytest.mark.skipif("WELD4M_REAL_WELD" not in os.environ, reason="WELD4M_REAL_WELD names no folder of real welds")
def test_the_real_welds_come_out_as_they_went_in(tmp_path):
    source = Path(os.environ["WELD4M_REAL_WELD"])
    stems = sorted(source.glob("*.csv"))
    report = import_welds(source, tmp_path / "welds")
    assert len(report.imported) == len(stems)
    report2 = export_welds([tmp_path / "welds"], tmp_path / "tree", "weld4m")
    assert (sorted(report2.exported), report2.lossy) == (sorted(report.imported), False)
    for csv in stems:
        (copy,) = tmp_path.glob(f"tree/*/{csv.stem[-16:]}/*.csv")
        assert copy.read_bytes().partition(b"\n")[0] == csv.read_bytes().partition(b"\n")[0]
        assert np.array_equal(read_sensor_csv(copy).values, read_sensor_csv(csv).values, equal_nan=True)
    for avi in source.glob("*.avi"):
        (copy,) = tmp_path.glob(f"tree/*/{avi.stem[-16:]}/*.avi")
        assert copy.read_bytes() == avi.read_bytes()
    manifest = (tmp_path / "tree" / "manifest.csv").read_text()
    assert "VIDEO_START_S" not in manifest, "what an import inferred is no fact"
    shutil.rmtree(tmp_path / "welds")
    assert sorted(import_welds(tmp_path / "tree", tmp_path / "welds").imported) == sorted(report.imported)
