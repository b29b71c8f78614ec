"""Imported welds are ordinary welds: what was in the files is read back unchanged, what was not is marked inferred."""

import io
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from acquisition.packet import SENSOR_CHANNELS, Event, Packet, SampleBlock, SensorRows, VideoFrame
from recordings.importer import ImportReport, import_welds
from recordings.reader import WeldReader
from recordings.weld4m_content import ORIGIN_NS
from recordings.weld_folder import RecordingError

ID = "03-22-23-0041-06"
KEY = f"run/{ID}"
RATE_HZ = 10
SECONDS = 6
ARC_S = (2.0, 4.5)
HEADER = "Pressure,CO2 Weld Flow,Feed,Primary Weld Current,Wire Consumed,Secondary Weld Voltage"


def burns(t_s: float) -> bool:
    return ARC_S[0] <= t_s < ARC_S[1]


def make_video(path: Path) -> None:
    with av.open(str(path), "w", format="avi") as container:
        stream = container.add_stream("mpeg4", rate=RATE_HZ)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        stream.codec_context.time_base = Fraction(1, RATE_HZ)
        for i in range(SECONDS * RATE_HZ):
            pixels = np.full((96, 96), 128, np.uint8)
            pixels[:64] = 16 + np.random.default_rng(i).integers(0, 60, (64, 96))
            if burns(i / RATE_HZ):
                pixels[10:40, 20:60] = 235
            frame = av.VideoFrame.from_ndarray(pixels, format="yuv420p")
            frame.pts = i
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def make_sound(path: Path) -> np.ndarray:
    rate = 16_000
    t = np.arange(SECONDS * rate) / rate
    loud = np.where((t >= ARC_S[0]) & (t < ARC_S[1]), 3000, 3)
    samples = (np.random.default_rng(1).normal(size=len(t)) * loud).astype(np.int16)
    with av.open(str(path), "w", format="flac") as container:
        stream = container.add_stream("flac", rate=rate, layout="mono", format="s16")
        frame = av.AudioFrame.from_ndarray(samples.reshape(1, -1), format="s16", layout="mono")
        frame.sample_rate, frame.time_base, frame.pts = rate, Fraction(1, rate), 0
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return samples


def make_sensors(path: Path, *, timed: bool = False) -> np.ndarray:
    n = SECONDS * 9
    values = np.zeros((n, 6))
    for i in range(n):
        values[i] = (3.4, -0.04, 0.19, 0.0, i * 0.33, 0.0)
        if burns(i / 9):
            values[i, 3], values[i, 5] = 177.5, 24.7
    rows = [",".join(f"{v:.2f}" for v in row) for row in values]
    if timed:
        rows = [f"8/17/2022,07:50:{20 + i / 9:06.3f},P1,{row}" for i, row in enumerate(rows)]
    header = f"Date,Time,Part No,{HEADER},Remarks " if timed else HEADER
    path.write_text("\r\n".join([header, *rows]) + "\r\n")
    return values.round(2)


def make_photo(path: Path) -> bytes:
    path.parent.mkdir(exist_ok=True)
    data = io.BytesIO()
    Image.fromarray(np.random.default_rng(2).integers(0, 255, (48, 64, 3), dtype=np.uint8)).save(data, "JPEG")
    path.write_bytes(data.getvalue())
    return data.getvalue()


@pytest.fixture
def weld(tmp_path) -> Path:
    """The folder of an empty weld in a source tree."""
    folder: Path = tmp_path / "source" / "run" / ID
    folder.mkdir(parents=True)
    return folder


def run(tmp_path: Path, weld: Path) -> tuple[ImportReport, WeldReader]:
    report = import_welds(weld.parent.parent, tmp_path / "welds")
    assert report.imported == [KEY], report
    return report, WeldReader(tmp_path / "welds" / "imported" / "2023-03-22" / "run" / ID)


def of_stream(packets: list[Packet], stream: str) -> list[Packet]:
    return [packet for packet in packets if packet.stream == stream]


def kinds(packets: list[Packet]) -> list[str]:
    return [packet.payload.kind for packet in packets if isinstance(packet.payload, Event)]


def test_all_four_modalities_come_back_unchanged(tmp_path, weld):
    make_video(weld / f"{ID}.avi")
    samples = make_sound(weld / f"{ID}.flac")
    values = make_sensors(weld / f"{ID}.csv")
    jpeg = make_photo(weld / "images" / "20230322_101500_123.jpg")
    report, reader = run(tmp_path, weld)
    assert report.skipped == []
    assert report.warnings == []
    assert not report.lossy

    packets = list(reader.packets())
    assert [p.order for p in packets] == list(range(1, len(packets) + 1))
    frames, blocks, rows = (of_stream(packets, name) for name in ("camera", "microphone", "sensors"))
    assert len(frames) == SECONDS * RATE_HZ
    assert (reader.folder / "camera.avi").read_bytes() == (weld / f"{ID}.avi").read_bytes()
    assert isinstance(frames[30].payload, VideoFrame)
    assert frames[30].payload.pixels[20:30, 30:50].mean() > 250, "limited range is expanded"
    assert frames[30].t_arrival_ns == ORIGIN_NS + 3 * 10**9
    sound = [p.payload.samples for p in blocks if isinstance(p.payload, SampleBlock)]
    assert np.array_equal(np.concatenate(sound)[:, 0], samples)
    measured = [p.payload.values for p in rows if isinstance(p.payload, SensorRows)]
    assert np.array_equal(np.concatenate(measured), values)
    assert [(photo.name, photo.data, photo.weld_hint) for photo in reader.photos()] == [
        ("20230322_101500_123.jpg", jpeg, KEY)
    ]

    manifest = reader.manifest
    assert (manifest.state, manifest.source, manifest.cell, manifest.session) == (
        "finalised",
        "imported",
        "imported",
        "run",
    )
    assert (manifest.key, manifest.label, manifest.labels[0].by) == (KEY, 6, "id")
    assert manifest.last_order is not None
    assert [p.payload.kind for p in packets if isinstance(p.payload, Event) and p.order >= manifest.last_order] == [
        "weld_close",
        "photos_done",
    ]
    assert kinds(packets) == ["weld_open", "arc_on", "arc_off", "weld_close", "photos_done"]
    assert {name: record.info.channels for name, record in manifest.streams.items()} == {
        "camera": (),
        "microphone": ("mono",),
        "sensors": SENSOR_CHANNELS,
        "photos": (),
    }
    assert len(manifest.inferred) == 3


@pytest.mark.parametrize(("streams", "source"), [("csv avi", "current"), ("avi flac", "light"), ("flac", "sound")])
def test_the_arc_comes_from_the_best_stream_there_is(tmp_path, weld, streams, source):
    make = {"avi": make_video, "flac": make_sound, "csv": make_sensors}
    for ending in streams.split():
        make[ending](weld / f"{ID}.{ending}")
    _, reader = run(tmp_path, weld)
    manifest = reader.manifest
    assert manifest.arc_on_ns is not None
    assert manifest.arc_off_ns is not None
    assert (manifest.arc_on_ns - ORIGIN_NS) / 1e9 == pytest.approx(ARC_S[0], abs=0.15)
    assert (manifest.arc_off_ns - ORIGIN_NS) / 1e9 == pytest.approx(ARC_S[1], abs=0.15)
    on = reader.table("events").filter(kind="arc_on").to_dicts()
    assert [source in row["data"] for row in on] == [True]


def test_times_are_spread_over_the_video_or_nominal_and_marked(tmp_path, weld):
    make_sensors(weld / f"{ID}.csv")
    _, alone = run(tmp_path / "alone", weld)
    make_video(weld / f"{ID}.avi")
    _, paired = run(tmp_path / "paired", weld)
    for reader, rate_hz, words in ((alone, 9.0, "nominal 9.0 Hz"), (paired, 9.0, "video's 6.00 s")):
        info = reader.infos["sensors"]
        assert info.inferred_time
        assert info.rate_hz == pytest.approx(rate_hz, abs=1e-3)
        assert words in reader.manifest.inferred[0]
        assert reader.sensors("sensors")["t_device_ns"].null_count() == SECONDS * 9


def test_measured_times_are_kept(tmp_path, weld):
    make_sensors(weld / f"{ID}.csv", timed=True)
    _, reader = run(tmp_path, weld)
    assert not reader.infos["sensors"].inferred_time
    assert reader.manifest.metadata["started_local"] == "2022-08-17T07:50:20"
    rows = reader.sensors("sensors")
    assert rows["t_device_ns"][9] == 10**9
    assert rows["t_arrival_ns"][9] == ORIGIN_NS + 10**9


def test_a_truncated_video_gives_what_decodes_and_says_what_is_missing(tmp_path, weld):
    whole = tmp_path / "whole.avi"
    make_video(whole)
    (weld / f"{ID}.avi").write_bytes(whole.read_bytes()[: whole.stat().st_size * 8 // 10])
    report, reader = run(tmp_path, weld)
    record = reader.manifest.streams["camera"]
    frames = [p for p in reader.packets() if p.stream == "camera"]
    assert 5 < len(frames) == record.items < 60
    assert [(loss.first, loss.missing, loss.reason) for loss in record.losses] == [
        (record.items, 60 - record.items, "unreadable")
    ]
    assert [f"{record.items} of 60 frames" in w["what"] for w in report.warnings][:1] == [True]


@pytest.mark.parametrize("content", [b"", b"#EXTM3U\nfile:///etc/passwd\n", b"RIFF\x10\0\0\0AVI LIST"])
def test_a_file_that_is_no_video_is_left_out_with_a_warning(tmp_path, weld, content):
    (weld / f"{ID}.avi").write_bytes(content)
    make_sensors(weld / f"{ID}.csv")
    report, reader = run(tmp_path, weld)
    assert set(reader.infos) == {"sensors"}
    (warning,) = report.warnings
    assert report.lossy
    assert warning["key"] == KEY
    assert warning["what"].startswith(f"video left out: {ID}.avi: ")
    assert "\n" not in warning["what"]


def test_a_weld_without_any_usable_file_is_skipped_and_the_rest_goes_on(tmp_path, weld):
    make_sensors(weld / f"{ID}.csv")
    others = {
        "03-22-23-0042-06": HEADER + "\n3.4,0,0,abc,7,0\n",
        "03-22-23-0043-06": HEADER.replace("Feed,", "") + "\n3.4,0,0,7,0\n",
        "03-22-23-0044-99": HEADER + "\n3.4,0,0,0,7,0\n",
    }
    for name, text in others.items():
        (weld.parent / f"{name}.csv").write_text(text)
    report, _ = run(tmp_path, weld)
    reasons = {skipped["key"]: skipped["reason"] for skipped in report.skipped}
    assert set(reasons) == {f"run/{name}" for name in others}
    assert "line 2: column 'Primary Weld Current' holds 'abc'" in reasons["run/03-22-23-0042-06"]
    assert "no column 'Feed'" in reasons["run/03-22-23-0043-06"]
    assert "class 99" in reasons["run/03-22-23-0044-99"]
    assert not any("\n" in reason for reason in reasons.values())


def test_a_photo_that_is_none_is_left_out_with_a_warning(tmp_path, weld):
    make_sensors(weld / f"{ID}.csv")
    whole = make_photo(weld / "images" / "a.jpg")
    (weld / "images" / "b.jpg").write_bytes(whole[: len(whole) // 2])
    (weld / "images" / "c.jpg").write_text("not a photo")
    report, reader = run(tmp_path, weld)
    assert [photo.name for photo in reader.photos()] == ["a.jpg"]
    assert [w["what"].split(":")[1].strip() for w in report.warnings] == ["b.jpg", "c.jpg"]
    assert "neither JPEG nor PNG" in report.warnings[1]["what"]


def test_no_arc_is_said(tmp_path, weld):
    (weld / f"{ID}.csv").write_text(HEADER + "\n" + "3.4,0,0,0,7,0\n" * 20)
    report, reader = run(tmp_path, weld)
    assert not report.lossy
    assert "no arc is visible" in report.warnings[0]["what"]
    assert reader.manifest.arc_on_ns is None
    assert kinds(list(reader.packets())) == ["weld_open", "weld_close", "photos_done"]


def test_nothing_is_written_in_a_dry_run_nor_twice(tmp_path, weld):
    make_sensors(weld / f"{ID}.csv")
    seen: list[tuple[int, int]] = []
    root = tmp_path / "welds"
    report = import_welds(weld, root, dry_run=True, progress=lambda done, of: seen.append((done, of)))
    assert report.imported == [KEY]
    assert seen == [(1, 1)]
    assert not root.exists()
    import_welds(weld, root)
    again = import_welds(weld, root)
    assert again.imported == []
    assert "remove that folder" in again.skipped[0]["reason"]
    assert [p.name for p in (root / "imported" / "2023-03-22" / "run").iterdir()] == [ID]


def test_a_destination_that_cannot_be_written_stops_with_one_line(tmp_path, weld):
    make_sensors(weld / f"{ID}.csv")
    (tmp_path / "welds").write_text("a file where the folder should be")
    with pytest.raises(RecordingError, match="welds"):
        import_welds(weld, tmp_path / "welds")


def test_real_welds(real_weld, tmp_path):
    report = import_welds(real_weld, tmp_path)
    assert len(report.imported) == 12
    assert report.skipped == []
    assert report.warnings == []
    readers = {key: WeldReader(next(tmp_path.rglob(key.rpartition("/")[2]))) for key in report.imported}
    overlap = readers[f"{real_weld.name}/{ID}"]
    assert overlap.manifest.streams["camera"].items == 670
    assert overlap.manifest.streams["camera"].info.rate_hz == 31
    assert overlap.manifest.label == 6
    assert overlap.manifest.arc_on_ns is not None
    assert overlap.manifest.arc_off_ns is not None
    assert (overlap.manifest.arc_on_ns - ORIGIN_NS) / 1e9 == pytest.approx(5.7, abs=0.2)
    assert (overlap.manifest.arc_off_ns - ORIGIN_NS) / 1e9 == pytest.approx(16.45, abs=0.4)
    first = next(p.payload for p in overlap.packets() if p.stream == "camera")
    assert isinstance(first, VideoFrame)
    assert np.median(first.pixels) == 10, "black level of real frames after expansion"
    for key, reader in readers.items():
        if reader is not overlap:
            manifest = reader.manifest
            assert set(manifest.streams) == {"sensors"}
            assert manifest.label == int(key[-2:])
            assert manifest.arc_on_ns is not None
            assert manifest.arc_off_ns is not None
            assert 15 < (manifest.arc_off_ns - manifest.arc_on_ns) / 1e9 < 40
