"""Imported welds are ordinary welds: what was in the files is read back unchanged, what was not is marked inferred."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from acquisition.packet import SENSOR_CHANNELS, Event, Packet, SampleBlock, SensorRows, VideoFrame
from recordings.folder_lock import locked
from recordings.importer import ImportReport, import_welds
from recordings.reader import WeldReader
from recordings.verify import verify
from recordings.weld4m_content import ORIGIN_NS
from recordings.weld_folder import RecordingError, digest
from tests.recordings.synthetic_weld4m import (
    ARC_S,
    HEADER,
    SECONDS,
    make_photo,
    make_sensors,
    make_sound,
    make_video,
)

ID = "03-22-23-0041-06"
KEY = f"run/{ID}"
RATE_HZ = 10


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
    shift_ms = {name: offset["offset_ms"] for name, offset in reader.manifest.metadata["import_offsets"].items()}
    assert all(abs(ms) < 80 for ms in shift_ms.values()), shift_ms
    moved_ns = round(-1e6 * (shift_ms["camera"] - max(0.0, *shift_ms.values())))
    assert frames[30].t_device_ns == 3 * 10**9, "device time is what the file says"
    assert abs(frames[30].t_arrival_ns - (ORIGIN_NS + 3 * 10**9 + moved_ns)) <= 1000
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
    assert [line.partition(":")[0].split()[0] for line in manifest.inferred] == [
        "sensor",
        "camera",
        "microphone",
        "class",
    ]
    assert manifest.metadata["value_flags"] == {
        "co2_flow_l_min": {"negative": 31},
        "current_a": {"saturated": 1},
        "voltage_v": {"saturated": 1},
    }
    assert "absent" not in manifest.metadata


@pytest.mark.parametrize(("streams", "source"), [("csv avi", "current"), ("avi flac", "light"), ("flac", "sound")])
def test_the_arc_comes_from_the_best_stream_there_is(tmp_path, weld, streams, source):
    make: dict[str, Callable[[Path], object]] = {"avi": make_video, "flac": make_sound, "csv": make_sensors}
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
        assert reader.manifest.metadata["absent"][-1] == "post_images"
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
    assert (again.imported, again.already, again.lossy) == ([], [KEY], False)
    (weld / f"{ID}.csv").touch()
    assert import_welds(weld, root).already == [KEY], "the digest is the same"
    make_sensors(weld / f"{ID}.csv", arc=False)
    changed = import_welds(weld, root)
    assert changed.already == []
    assert "remove that folder" in changed.skipped[0]["reason"]
    assert [p.name for p in (root / "imported" / "2023-03-22" / "run").iterdir()] == [ID]


def test_a_destination_that_cannot_be_written_stops_with_one_line(tmp_path, weld):
    make_sensors(weld / f"{ID}.csv")
    (tmp_path / "welds").write_text("a file where the folder should be")
    with pytest.raises(RecordingError, match="welds"):
        import_welds(weld, tmp_path / "welds")


def told(report: ImportReport) -> list[tuple[str, str]]:
    return [(one["key"], one["what"]) for one in report.warnings]


def test_the_set_up_comes_from_the_manifest(tmp_path, weld):
    make_sensors(weld / f"{ID}.csv", timed=True)
    names = "SPLIT;CATEGORY;SUBDIRS;THICKNESS_MM;STEEL_TYPE;WELD_TYPE;GAS_BAR;CURRENT_A;VOLTAGE_V;ROBOT_SPEED_CPM;NOTE"
    (weld.parent.parent / "Manifest.CSV").write_text(f"{names}\nval;Overlap;run\\{ID};6,5;S355;butt;3.4;180;24;42;x\n")
    _, reader = run(tmp_path, weld)
    metadata = reader.manifest.metadata
    assert {name: metadata[name] for name in ("split", "thickness_mm", "material", "weld_type", "gas_bar", "part")} == {
        "split": "VAL",
        "thickness_mm": 6.5,
        "material": "S355",
        "weld_type": "butt",
        "gas_bar": 3.4,
        "part": "P1",
    }
    assert (metadata["current_a"], metadata["voltage_v"], metadata["robot_speed_cpm"]) == (180.0, 24.0, 42.0)
    assert (reader.manifest.label, reader.manifest.labels[0].by) == (6, "manifest")


def test_starts_that_the_manifest_gives_are_taken(tmp_path, weld):
    make_video(weld / f"{ID}.avi")
    make_sensors(weld / f"{ID}.csv")
    names = "CATEGORY,SUBDIRS,VIDEO_START_S"
    (weld.parent.parent / "manifest.csv").write_text(f"{names}\nOverlap,{KEY},-0.25\n")
    report, reader = run(tmp_path, weld)
    assert report.offsets[KEY]["camera"]["confidence"] == "given"
    packets = list(reader.packets())
    assert of_stream(packets, "camera")[0].t_arrival_ns == ORIGIN_NS
    assert of_stream(packets, "sensors")[0].t_arrival_ns == ORIGIN_NS + 250_000_000
    assert "video_start_s" not in reader.manifest.metadata


def test_photos_are_in_order_of_time_with_the_label_painted_over_on_request(tmp_path, weld):
    make_sensors(weld / f"{ID}.csv")
    images = weld / "images"
    for name in ("20230322_101500_123.jpg", "249 (11).jpg", "249 (2).jpg", "20230322_091500.jpg"):
        make_photo(images / name, size=(200, 150), label=True)
    before = {path.name: digest(path) for path in images.iterdir()}
    report = import_welds(weld, tmp_path / "welds", mask=[(0.0, 0.7, 0.55, 0.3)])
    assert not report.lossy
    reader = WeldReader(tmp_path / "welds" / "imported" / "2023-03-22" / "run" / ID)
    photos = reader.manifest.metadata["photos"]
    assert [photo["name"] for photo in photos] == [
        "20230322_091500.jpg",
        "20230322_101500_123.jpg",
        "249 (2).jpg",
        "249 (11).jpg",
    ]
    assert [photo["taken_local"] for photo in photos] == ["2023-03-22T09:15:00", "2023-03-22T10:15:00.123", None, None]
    assert {photo["name"]: photo["original_xxh3"] for photo in photos} == before
    assert {path.name: digest(path) for path in images.iterdir()} == before, "the originals stay as they are"
    assert any("regions 0,0.7,0.55,0.3" in line for line in reader.manifest.inferred)
    assert [photo.name for photo in reader.photos()] == [photo["name"] for photo in photos]
    other = import_welds(weld, tmp_path / "welds")
    assert "something else is already" in other.skipped[0]["reason"], "with another mask it would be another weld"


def test_links_share_the_bytes_and_are_never_symbolic(tmp_path, weld):
    make_video(weld / f"{ID}.avi")
    make_sensors(weld / f"{ID}.csv")
    make_photo(weld / "images" / "a.jpg")
    report = import_welds(weld.parent.parent, tmp_path / "welds", link=True)
    folder = tmp_path / "welds" / "imported" / "2023-03-22" / "run" / ID
    assert os.path.samefile(folder / "camera.avi", weld / f"{ID}.avi")
    assert os.path.samefile(folder / "photos" / "a.jpg", weld / "images" / "a.jpg")
    assert not any(path.is_symlink() for path in folder.rglob("*"))
    assert report.notes == []
    assert verify(folder)[0].ok


def test_where_links_cannot_be_made_files_are_copied_and_it_is_said(tmp_path, weld, monkeypatch):
    make_video(weld / f"{ID}.avi")
    make_photo(weld / "images" / "a.jpg")

    def refuse(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    report = import_welds(weld.parent.parent, tmp_path / "welds", link=True)
    folder = tmp_path / "welds" / "imported" / "2023-03-22" / "run" / ID
    assert (folder / "camera.avi").stat().st_nlink == 1
    assert report.notes == ["files of 1 welds were copied, not linked: Invalid cross-device link"]
    assert verify(folder)[0].ok


def test_a_pipe_in_the_place_of_a_file_is_not_waited_for(tmp_path, weld):
    make_sensors(weld / f"{ID}.csv")
    os.mkfifo(weld / f"{ID}.avi")
    report = import_welds(weld, tmp_path / "welds", dry_run=True)
    assert "no ordinary file" in report.skipped[0]["reason"]


def test_what_a_killed_import_left_is_swept_and_others_are_kept_out(tmp_path, weld):
    make_sensors(weld / f"{ID}.csv")
    place = tmp_path / "welds" / "imported" / "2023-03-22" / "run"
    (place / f".{ID}.importing").mkdir(parents=True)
    (place / ".other-01-01-23-0001-00.importing").mkdir()
    with locked(tmp_path / "welds" / "imported"), pytest.raises(RecordingError, match="another import"):
        import_welds(weld, tmp_path / "welds")
    assert import_welds(weld, tmp_path / "welds").imported == [KEY]
    assert [path.name for path in place.iterdir()] == [ID]


def test_a_file_that_changes_meanwhile_is_noticed(tmp_path, weld, monkeypatch):
    make_sensors(weld / f"{ID}.csv")
    make_photo(weld / "images" / "a.jpg")
    from recordings import import_one

    def change_then_digest(path: Path) -> str:
        (weld / f"{ID}.csv").write_text(HEADER + "\n3.4,0,0,0,7,0\n")
        return digest(path)

    monkeypatch.setattr(import_one, "digest", change_then_digest)
    report = import_welds(weld, tmp_path / "welds")
    assert "changed while it was imported" in report.skipped[0]["reason"]
    assert list((tmp_path / "welds" / "imported" / "2023-03-22" / "run").iterdir()) == []


def test_truncated_anywhere_and_flipped_anywhere(tmp_path, weld):
    make_video(weld / f"{ID}.avi", seconds=1.0)
    make_sound(weld / f"{ID}.flac", seconds=0.5)
    make_sensors(weld / f"{ID}.csv", timed=True)
    make_photo(weld / "images" / "a.jpg")
    whole = {path: path.read_bytes() for path in weld.rglob("*") if path.is_file()}
    rng = np.random.default_rng(7)
    seen = set()
    for n, (path, data) in enumerate([*whole.items()] * 8):
        at = int(rng.integers(len(data)))
        flipped = data[:at] + bytes([data[at] ^ 0x55]) + data[at + 1 :]
        path.write_bytes(data[:at] if n % 2 else flipped)
        report = import_welds(weld.parent.parent, tmp_path / f"welds{n}")
        assert len(report.imported) + len(report.skipped) == 1
        written = list((tmp_path / f"welds{n}").rglob("weld.json"))
        assert len(written) == len(report.imported)
        assert all(verify(path.parent)[0].ok for path in written)
        assert not list((tmp_path / f"welds{n}").rglob("*.importing"))
        seen.add(report.lossy)
        path.write_bytes(data)
    assert seen == {True, False}
    assert json.dumps(import_welds(weld, tmp_path / "last").absent) == "{}"


def test_heads_that_claim_gigabytes_are_not_believed(tmp_path, weld):
    make_video(weld / f"{ID}.avi", seconds=1.0)
    samples = make_sound(weld / f"{ID}.flac", seconds=0.5)
    video, sound = bytearray((weld / f"{ID}.avi").read_bytes()), bytearray((weld / f"{ID}.flac").read_bytes())
    at = video.index(b"strh")
    video[at + 40 : at + 44] = video[48:52] = b"\xff\xff\xff\xff"  # frames of the stream and of the file
    sound[21] |= 0x0F
    sound[22:26] = b"\xff\xff\xff\xff"  # 2**36 - 1 samples
    (weld / f"{ID}.avi").write_bytes(video)
    (weld / f"{ID}.flac").write_bytes(sound)
    quick = import_welds(weld, tmp_path / "welds", dry_run=True)
    report, reader = run(tmp_path, weld)
    for one in (quick, report):
        assert one.lossy
        assert sum("which cannot be; what decodes counts" in what for _, what in told(one)) == 2
    assert (reader.manifest.streams["camera"].items, reader.manifest.streams["microphone"].items) == (10, len(samples))
    assert verify(reader.folder)[0].ok


def test_real_welds(real_weld, tmp_path):
    report = import_welds(real_weld, tmp_path, workers=1)
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
    offset = report.offsets[f"{real_weld.name}/{ID}"]["camera"]
    assert (offset["confidence"], offset["applied"]) == ("low", True), "arc-on and arc-off differ by 0.1 s"
    assert -160 < offset["off_ms"] < offset["offset_ms"] < offset["on_ms"] < -50
    assert all(one.ok and not one.problems for one in verify(tmp_path))
    first = next(p.payload for p in overlap.packets() if p.stream == "camera")
    assert isinstance(first, VideoFrame)
    assert np.median(first.pixels) == 10, "black level of real frames after expansion"
    for key, reader in readers.items():
        if reader is not overlap:
            manifest = reader.manifest
            assert set(manifest.streams) == {"sensors"}
            assert manifest.metadata["absent"] == ["video", "audio", "post_images"]
            assert manifest.metadata["feed_is_derived"] is True
            assert 8.8 < manifest.metadata["feed_rows_per_s"] < 9.1, (
                "the counter behind Feed bears the nominal rate out"
            )
            assert any("nominal 9.0 Hz" in line for line in manifest.inferred)
            assert manifest.label == int(key[-2:])
            assert manifest.arc_on_ns is not None
            assert manifest.arc_off_ns is not None
            assert 15 < (manifest.arc_off_ns - manifest.arc_on_ns) / 1e9 < 40
