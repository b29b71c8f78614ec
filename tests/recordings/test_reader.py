from dataclasses import replace
from pathlib import Path

import av
import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet
import pytest

from acquisition.packet import Packet, VideoFrame
from recordings.columns import SCORES
from recordings.late_additions import add_scores
from recordings.manifest import Manifest, StreamRecord
from recordings.reader import WeldReader
from recordings.table_writer import read_table
from recordings.verdict import Score, Verdict
from recordings.video_encoder import EncodedFrame
from recordings.weld_folder import MANIFEST, WeldError, digest, load_manifest, store_manifest
from recordings.weld_writer import WeldWriter
from tests.recordings.synthetic_weld import HEIGHT, INFOS, KEY, ORIGIN_NS, WIDTH, Cell, Recording, manifest, same

SCORE = Score(
    weld=KEY,
    window=3,
    t0_ns=1,
    t1_ns=2,
    score=0.1,
    weld_score=float("inf"),
    p_value=None,
    present=("video", "audio"),
    orders={"camera": (4, 9)},
    missing=0,
    sample_digest="ab",
    closed_by_order=9,
    latency_ms=3.25,
)
VERDICT = Verdict(
    weld=KEY,
    stage="process",
    final=False,
    word="NO DATA",
    reason="not calibrated",
    score=0.1,
    threshold=None,
    p_value=None,
    alpha=0.05,
    calibration_welds=0,
    calibration_sessions=0,
    present=("video",),
    photos_pending=True,
    detector="statistics",
    contributions={"audio": 0.25},
    disagreements={"fine: texture mix": 2.5},
    rose=((6 * 10**9, 9 * 10**9), (1, 2)),
)


@pytest.fixture(scope="module")
def weld(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Packet]]:
    folder = tmp_path_factory.mktemp("welds") / "w"
    recording = Recording(folder)
    packets = list(Cell().weld())
    for packet in packets:
        recording.take(packet)
    recording.writer.score(SCORE)
    recording.writer.score(VERDICT)
    recording.writer.finalise()
    return folder, packets


def _broken(weld: Path, target: Path, **changes: object) -> Path:
    target.mkdir()
    data = msgspec.json.decode((weld / MANIFEST).read_bytes())
    (target / MANIFEST).write_bytes(msgspec.json.encode({**data, **changes}))
    return target


def test_a_lossless_weld_comes_back_packet_for_packet(weld: tuple[Path, list[Packet]]) -> None:
    folder, sent = weld
    got = list(WeldReader(folder).packets())
    assert [p.order for p in got] == [p.order for p in sent]
    assert [p.order for a, p in zip(sent, got, strict=True) if not same(a, p)] == []
    without = list(WeldReader(folder).packets(video=False))
    assert [p.order for p in without] == [p.order for p in sent if p.stream != "camera"]


def test_tables_scores_and_photos(weld: tuple[Path, list[Packet]]) -> None:
    reader = WeldReader(weld[0])
    assert reader.infos == INFOS
    assert reader.scores() == [SCORE]
    assert reader.verdicts() == [VERDICT]
    assert [(photo.name, photo.view, len(photo.data)) for photo in reader.photos()] == [
        ("bead.jpg", None, 200),
        ("bead.jpg", 1, 199),
    ]
    frames = reader.frames("camera")
    assert frames["missing"].sum() == 3
    assert frames["pts_us"].null_count() == 1
    assert np.isnan(reader.sensors("process")["pressure_bar"][0])
    assert reader.blocks("microphone")["n"].sum() == 192_000
    with pytest.raises(WeldError, match="no stream 'nothing'"):
        reader.table("nothing")


@pytest.mark.parametrize("state", ["open", "finalised"])
def test_verdicts_of_an_earlier_version_are_read_without_what_they_lack(tmp_path: Path, state: str) -> None:
    """Columns were added to the table of scores; recordings made before do not have them."""
    recording = Recording(tmp_path / "w")
    for packet in Cell().weld():
        recording.take(packet)
    recording.writer.score(SCORE)
    recording.writer.score(VERDICT)
    if state == "open":
        recording.writer.flush()
    else:
        recording.writer.finalise()
    path = tmp_path / "w" / ("scores.arrow" if state == "open" else "scores.parquet")
    old = read_table(path, SCORES).drop_columns(["disagreements", "rose"])
    if state == "open":
        with pa.ipc.new_stream(str(path), old.schema) as stream:
            stream.write_table(old)
    else:
        pa.parquet.write_table(old, path)
    plain = replace(VERDICT, disagreements={}, rose=())
    reader = WeldReader(tmp_path / "w")
    assert (reader.scores(), reader.verdicts()) == ([SCORE], [plain])
    if state == "open":
        recording.writer.abandon()
    else:
        manifest = load_manifest(tmp_path / "w")
        manifest.files[path.name] = digest(path)
        store_manifest(tmp_path / "w", manifest)
        add_scores(tmp_path / "w", [VERDICT])
        assert WeldReader(tmp_path / "w").verdicts() == [plain, VERDICT]


def test_a_weld_being_recorded_can_be_read(tmp_path: Path) -> None:
    recording = Recording(tmp_path / "w")
    sent = []
    for packet in Cell().process(1.0):
        recording.take(packet)
        sent.append(packet)
    recording.writer.flush()
    got = list(WeldReader(tmp_path / "w").packets())
    by_order = {packet.order: packet for packet in sent}
    assert sum(p.stream == "process" for p in got) == 100
    assert sum(p.stream == "camera" for p in got) >= 20
    sound = [p for p in got if p.stream == "microphone"]
    assert len(sound) >= 85
    assert all(same(by_order[p.order], p) for p in got if p is not sound[-1])
    recording.writer.abandon()


def test_photos_of_a_later_run_come_last(tmp_path: Path) -> None:
    recording = Recording(tmp_path / "w")
    cell = Cell()
    for packet in cell.weld(photos=0):
        recording.take(packet)
    late = Cell(order=3)
    photo = next(p for p in late.weld(seconds=0.1, photos=1) if p.stream == "bead")
    recording.take(photo)
    recording.writer.finalise()
    assert same(list(WeldReader(tmp_path / "w").packets())[-1], photo)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"schema": 3}, "schema 3 is newer"),
        ({"state": "half"}, "state"),
        ({"files": {"../../etc/passwd": "0"}}, "leads out"),
        ({"files": {"/etc/passwd": "0"}}, "leads out"),
    ],
)
def test_a_bad_manifest_is_refused_in_one_line(
    weld: tuple[Path, list[Packet]], tmp_path: Path, changes: dict[str, object], words: str
) -> None:
    with pytest.raises(WeldError, match=words) as refusal:
        WeldReader(_broken(weld[0], tmp_path / "w", **changes))
    assert "\n" not in str(refusal.value)


def test_no_weld_half_a_manifest_and_links_out_are_refused(weld: tuple[Path, list[Packet]], tmp_path: Path) -> None:
    with pytest.raises(WeldError, match=r"weld\.json"):
        WeldReader(tmp_path)
    (tmp_path / MANIFEST).write_bytes((weld[0] / MANIFEST).read_bytes()[:300])
    with pytest.raises(WeldError, match=r"weld\.json"):
        WeldReader(tmp_path)
    (tmp_path / MANIFEST).write_bytes((weld[0] / MANIFEST).read_bytes())
    (tmp_path / "secret").write_bytes(b"x")
    inner = _broken(weld[0], tmp_path / "w")
    (inner / "camera.mp4").symlink_to(tmp_path / "secret")
    with pytest.raises(WeldError, match="link that leads out"):
        WeldReader(inner)


def test_a_playlist_named_like_a_video_opens_nothing(tmp_path: Path) -> None:
    writer = WeldWriter(tmp_path / "w", _imported("camera.avi"), {})
    (tmp_path / "w" / "camera.avi").write_text("#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n")
    writer.write(_imported_frame(0))
    writer.finalise()
    with pytest.raises(WeldError, match=r"camera\.avi"):
        list(WeldReader(tmp_path / "w").packets())


def _imported(file: str) -> Manifest:
    weld = manifest({"camera": INFOS["camera"]})
    weld.streams["camera"] = StreamRecord(info=INFOS["camera"], files=[file], codec="mpeg4", limited_range=True)
    return weld


def _imported_frame(i: int) -> EncodedFrame:
    return EncodedFrame(
        stream="camera",
        order=i + 1,
        segment=0,
        seq=i,
        t_device_ns=None,
        t_arrival_ns=ORIGIN_NS + i * 33_333_333,
        pts_us=i * 33_333,
        keyframe=i == 0,
        data=b"",
    )


def test_imported_limited_range_video_is_expanded_once(tmp_path: Path) -> None:
    writer = WeldWriter(tmp_path / "w", _imported("camera.avi"), {})
    levels = (16, 100, 235, 0, 255)
    with av.open(str(tmp_path / "w" / "camera.avi"), "w") as container:
        stream = container.add_stream("mpeg4", rate=30, options={"qscale": "1"})
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = WIDTH, HEIGHT, "yuv420p", 20_000_000
        for level in levels:
            frame = av.VideoFrame(WIDTH, HEIGHT, "yuv420p")
            for plane, value in zip(frame.planes, (level, 128, 128), strict=True):
                plane.update(bytes([value]) * plane.buffer_size)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    for i in range(len(levels)):
        writer.write(_imported_frame(i))
    writer.finalise()
    payloads = [packet.payload for packet in WeldReader(tmp_path / "w").packets()]
    got = [int(np.median(payload.pixels)) for payload in payloads if isinstance(payload, VideoFrame)]
    expected = [min(255, max(0, round((level - 16) * 255 / 219))) for level in levels]
    assert np.abs(np.array(got) - expected).max() <= 2
    assert WeldReader(tmp_path / "w").manifest.streams["camera"].files == ["camera.avi", "camera.frames.parquet"]


def test_a_finished_weld_that_lost_frames_says_so(tmp_path: Path) -> None:
    recording = Recording(tmp_path / "w")
    for packet in Cell().process(1.0):
        recording.take(packet)
    recording.writer.finalise()
    (tmp_path / "w" / "camera.mp4").write_bytes((tmp_path / "w" / "camera.mp4").read_bytes()[:90_000])
    with pytest.raises(WeldError, match="frames can be read"):
        list(WeldReader(tmp_path / "w").packets())
