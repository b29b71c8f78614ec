import itertools
import resource
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import polars as pl
import pytest

from acquisition.packet import Event, Packet, Photo, StreamInfo, VideoFrame
from recordings.reader import WeldReader
from recordings.recovery import recover
from recordings.video_encoder import VideoEncoder
from recordings.weld_folder import RecordingError, load_manifest
from recordings.weld_writer import WeldWriter
from tests.recordings.synthetic_weld import FPS, HEIGHT, INFOS, ORIGIN_NS, WIDTH, Cell, Recording, manifest, same


def _picture(pixels: np.ndarray, seq: int) -> Packet:
    t_ns = ORIGIN_NS + seq * 33_000_000
    return Packet(stream="camera", seq=seq, t_arrival_ns=t_ns, payload=VideoFrame(pixels=pixels), order=seq + 1)


def _decoded(encoder: VideoEncoder, frames: list[bytes]) -> list[np.ndarray]:
    decoder = av.VideoCodecContext.create("h264", "r")
    pictures = []
    for data in [encoder.extradata + frames[0], *frames[1:]]:
        pictures += decoder.decode(av.Packet(data))
    pictures += decoder.decode(None)
    return [
        np.frombuffer(memoryview(p.planes[0]), np.uint8).reshape(-1, p.planes[0].line_size)[:HEIGHT, :WIDTH]
        for p in pictures
    ]


def test_lossless_video_keeps_every_gray_level() -> None:
    encoder = VideoEncoder(INFOS["camera"], lossless=True)
    noise = np.random.default_rng(0)
    pictures = [noise.integers(0, 256, (HEIGHT, WIDTH), dtype=np.uint8) for _ in range(18)]
    pictures[3] = np.full((HEIGHT, WIDTH), 255, np.uint8)
    pictures[4] = np.tile(np.arange(WIDTH, dtype=np.uint8), (HEIGHT, 1))
    encoded = [encoder.encode(_picture(p, i)) for i, p in enumerate(pictures)]
    assert [len(frames) for frames in encoded] == [1] * 18, "one in, one out"
    for sent, got in zip(pictures, _decoded(encoder, [frames[0].data for frames in encoded]), strict=True):
        assert np.array_equal(sent, got)


def test_lossy_video_is_tagged_full_range_and_close() -> None:
    encoder = VideoEncoder(INFOS["camera"])
    gradient = np.linspace(0, 255, WIDTH).astype(np.uint8) * np.ones((HEIGHT, 1), np.uint8)
    encoded = [encoder.encode(_picture(gradient, i))[0] for i in range(4)]
    decoder = av.VideoCodecContext.create("h264", "r")
    decoder.decode(av.Packet(encoder.extradata + encoded[0].data))
    assert decoder.color_range == 2  # full ("pc")
    for got in _decoded(encoder, [frame.data for frame in encoded]):
        assert np.abs(got.astype(int) - gradient).max() < 12


def test_encoder_times_increase_and_keyframes_can_be_forced() -> None:
    encoder = VideoEncoder(INFOS["camera"])
    black = np.zeros((HEIGHT, WIDTH), np.uint8)
    packets = [replace(_picture(black, i), t_arrival_ns=ORIGIN_NS + (i // 2) * 1000) for i in range(34)]
    frames = []
    for i, packet in enumerate(packets):
        if i == 20:
            encoder.force_keyframe()
        frames += encoder.encode(packet)
    assert [i for i, frame in enumerate(frames) if frame.keyframe] == [0, 15, 20]
    assert all(a.pts_us < b.pts_us for a, b in itertools.pairwise(frames))
    with pytest.raises(RecordingError, match=r"\(200, 320\)"):
        encoder.encode(_picture(np.zeros((10, 10), np.uint8), 99))


def test_finalised_files_open_without_this_app(tmp_path: Path) -> None:
    recording = Recording(tmp_path / "w")
    packets = list(Cell().weld())
    for packet in packets:
        recording.take(packet)
    written = recording.writer.finalise()
    folder = tmp_path / "w"
    assert written.state == "finalised"
    assert sorted(path.suffix for path in folder.iterdir() if path.is_file()) == sorted(
        [".json", ".mp4", ".flac", *[".parquet"] * 6]
    )
    assert pl.read_parquet(folder / "process.parquet")["current_a"].max() == 150.0
    assert pl.read_parquet(folder / "events.parquet")["kind"].to_list()[-1] == "photos_done"
    if shutil.which("ffprobe"):
        for name, entry, expected in (("camera.mp4", "nb_frames", "120"), ("microphone.flac", "duration_ts", "192000")):
            command = [
                "ffprobe",
                "-v",
                "error",
                "-show_entries",
                f"stream={entry}",
                "-of",
                "csv=p=0",
                str(folder / name),
            ]
            probe = subprocess.run(command, capture_output=True, text=True, check=True)
            assert (probe.stdout.strip(), probe.stderr) == (expected, "")
    assert written.streams["camera"].items == 4 * FPS
    assert written.streams["microphone"].items == 4 * 48_000
    assert [(loss.first, loss.missing) for loss in written.streams["camera"].losses] == [(90, 3)]
    assert (written.arc_on_ns, written.arc_off_ns) == (ORIGIN_NS + 10**9, ORIGIN_NS + 3 * 10**9)
    close = next(p for p in packets if isinstance(p.payload, Event) and p.payload.kind == "weld_close")
    assert isinstance(close.payload, Event)
    assert written.last_order == close.payload.data["last_order"]
    assert set(written.files) >= {"camera.mp4", "microphone.flac", "process.parquet", "photos/bead.jpg"}


def test_overlapping_welds_share_one_encoder(tmp_path: Path) -> None:
    first = Recording(tmp_path / "first")
    second: WeldWriter | None = None
    frames = [p for p in Cell().process(2.0) if p.stream == "camera"]
    for packet in frames:
        for frame in first.encoder.encode(packet):
            if frame.keyframe and packet.seq == 30:
                second = WeldWriter(tmp_path / "second", manifest(), {"camera": first.encoder})
            first.writer.write(frame)
            if second is not None:
                second.write(frame)
    assert second is not None
    first.writer.finalise()
    assert second.finalise().streams["camera"].items == 30
    for folder, expected in (("first", frames), ("second", frames[30:])):
        got = list(WeldReader(tmp_path / folder).packets())
        assert len(got) == len(expected)
        assert all(same(a, b) for a, b in zip(expected, got, strict=True))


@pytest.mark.parametrize(
    ("item", "words"),
    [
        (Cell().frame(0, 0.0), "VideoEncoder"),
        (Packet(stream="other", seq=0, t_arrival_ns=0, payload=Photo(name="a", data=b"")), "no stream 'other'"),
        (Packet(stream="bead", seq=0, t_arrival_ns=0, payload=Photo(name="../a", data=b"")), "plain file name"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(tmp_path: Path, item: Packet, words: str) -> None:
    recording = Recording(tmp_path / "w")
    with pytest.raises(RecordingError, match=words) as refusal:
        recording.writer.write(item)
    assert "\n" not in str(refusal.value)
    recording.take(Cell().rows(0, 0.0))  # the weld goes on
    assert recording.writer.finalise().streams["process"].items == 5


def test_order_must_increase_and_video_must_begin_at_a_keyframe(tmp_path: Path) -> None:
    recording = Recording(tmp_path / "w")
    cell = Cell()
    recording.encoder.encode(cell.frame(0, 0.0))
    with pytest.raises(RecordingError, match="keyframe"):
        recording.take(cell.frame(1, 0.1))
    rows = cell.rows(0, 0.0)
    recording.take(rows)
    with pytest.raises(RecordingError, match="order"):
        recording.take(rows)
    with pytest.raises(RecordingError, match="already holds a weld"):
        Recording(tmp_path / "w")
    recording.writer.abandon()


def test_rows_reach_the_disk_within_the_flush_time_and_on_flush(tmp_path: Path) -> None:
    recording = Recording(tmp_path / "w")
    for packet in Cell().process(0.6):
        recording.take(packet)
    reader = WeldReader(tmp_path / "w")
    assert len(reader.sensors("process")) >= 0.34 * 500
    assert recording.writer.buffered_bytes > 0
    recording.writer.flush()
    assert len(reader.sensors("process")) == 0.6 * 500
    recording.writer.abandon()


def test_a_full_disk_stops_the_weld_and_what_was_written_is_read(tmp_path: Path) -> None:
    recording = Recording(tmp_path / "w")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, hard))  # no file may grow larger: EFBIG, as ENOSPC elsewhere
    taken: list[Packet] = []
    try:
        with pytest.raises(RecordingError, match="stays readable") as stop:
            recording.take_all(Cell().weld(), taken)
        with pytest.raises(RecordingError):
            recording.writer.flush()
        recording.writer.abandon()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "\n" not in str(stop.value)
    assert str(tmp_path) in str(stop.value)
    before = list(WeldReader(tmp_path / "w").packets())
    assert recover(tmp_path / "w")[0].ok
    got = list(WeldReader(tmp_path / "w").packets())
    assert len(before) == len(got) > 0.5 * len(taken)
    by_order = {packet.order: packet for packet in taken}
    whole = [packet for packet in got if packet.stream != "microphone"]
    assert all(same(by_order[packet.order], packet) for packet in whole)


def test_a_really_full_disk(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=700k", "none", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("only root may mount a small disk")
    try:
        recording = Recording(disk / "w")
        with pytest.raises(RecordingError, match="No space left"):
            recording.take_all(Cell().weld(), [])
        recording.writer.abandon()
        copy = shutil.copytree(disk / "w", tmp_path / "copy")
        assert len(list(WeldReader(copy).packets())) > 50
        report = recover(disk / "w")[0]
        assert report.ok or "make room" in report.problems[0]
        assert recover(copy)[0].ok
        assert list(WeldReader(copy).packets())
        assert not [fd for fd in Path("/proc/self/fd").iterdir() if str(disk) in str(fd.resolve())]
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


def test_a_vanished_folder_is_noticed(tmp_path: Path) -> None:
    recording = Recording(tmp_path / "w")
    for packet in Cell().process(0.5):
        recording.take(packet)
    shutil.rmtree(tmp_path / "w")
    with pytest.raises(RecordingError, match="the folder is gone"):
        recording.writer.flush()
    recording.writer.abandon()


def test_stereo_int32_sound_and_two_second_pause_come_back(tmp_path: Path) -> None:
    sound = replace(INFOS["microphone"], dtype="int32", channels=("left", "right"), units=("", ""))
    infos: dict[str, StreamInfo] = {**INFOS, "microphone": sound}
    recording = Recording(tmp_path / "w", infos)
    cell = Cell(infos=infos)
    blocks = [cell.block(tick, tick / 100) for tick in (*range(30), *range(230, 255))]
    for block in blocks:
        recording.take(block)
    recording.writer.finalise()
    got = list(WeldReader(tmp_path / "w").packets())
    assert len(got) == len(blocks)
    assert all(same(a, b) for a, b in zip(blocks, got, strict=True))


def test_the_manifest_is_there_from_the_first_moment(tmp_path: Path) -> None:
    recording = Recording(tmp_path / "w")
    assert load_manifest(tmp_path / "w").state == "open"
    recording.writer.manifest.metadata["part"] = "bracket"
    recording.writer.save_manifest()
    assert load_manifest(tmp_path / "w").metadata == {"part": "bracket"}
    recording.writer.abandon()
