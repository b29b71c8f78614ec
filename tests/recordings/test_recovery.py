import random
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from acquisition.packet import Packet, SampleBlock, SensorRows
from recordings.commands import commands
from recordings.reader import WeldReader
from recordings.recovery import RecoveryReport, recover
from recordings.verify import verify
from recordings.weld_folder import MANIFEST, MARKS, WeldError
from recordings.weld_writer import WeldWriter
from tests.recordings.synthetic_weld import INFOS, ORIGIN_NS, Cell, Recording, manifest, same

CHECKOUT = Path(__file__).parents[2]
STREAMS = ("camera", "microphone", "process")


@pytest.fixture(scope="module")
def sent() -> list[Packet]:
    return list(Cell().weld())


def _items(packet: Packet) -> int:
    payload = packet.payload
    if isinstance(payload, SampleBlock):
        return len(payload.samples)
    return len(payload.values) if isinstance(payload, SensorRows) else 1


def _check_contents(folder: Path, sent: list[Packet]) -> Counter[str]:
    """Every packet on the disk is one that was sent, but for a last block of sound that may be cut."""
    by_order = {packet.order: packet for packet in sent}
    got = list(WeldReader(folder).packets())
    cut = [packet for packet in got if not same(by_order[packet.order], packet)]
    assert [packet.stream for packet in cut] in ([], ["microphone"])
    for packet in cut:
        whole = by_order[packet.order].payload
        assert isinstance(packet.payload, SampleBlock)
        assert isinstance(whole, SampleBlock)
        assert (packet.payload.samples == whole.samples[: len(packet.payload.samples)]).all()
    items: Counter[str] = Counter()
    for packet in got:
        items[packet.stream] += _items(packet)
    return items


def _killed(report: RecoveryReport, stream: str) -> int:
    losses = WeldReader(report.path).manifest.streams[stream].losses
    assert all(loss.exact for loss in losses)
    return sum(loss.missing for loss in losses if loss.reason == "killed")


@pytest.mark.parametrize("seed", range(6))
def test_a_kill_at_any_instant_loses_little_and_says_how_much(tmp_path: Path, sent: list[Packet], seed: int) -> None:
    folder = tmp_path / "w"
    instant = random.Random(seed).randrange(60, len(sent) - 10)
    dying = [str(random.Random(seed).randrange(14))] if seed >= 4 else []  # the last two while finalising
    command = [sys.executable, "-m", "tests.recordings.killed_recorder", str(folder), *dying]
    told = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=CHECKOUT) as process:
        assert process.stdout is not None
        for line in process.stdout:
            told.append(line.split())
            if len(told) == instant and not dying:
                process.kill()
    assert process.returncode == -signal.SIGKILL
    received: Counter[str] = Counter()
    for stream, _, items in told:
        received[stream] += int(items)
    last_stream, _, last_items = told[-1]

    WeldReader(folder).table("process")  # readable as it is
    report = recover(folder)[0]
    assert (report.state, report.ok, report.problems) == ("recovered", True, [])
    kept = _check_contents(folder, sent)
    for stream in STREAMS:
        lost = received[stream] - kept[stream]
        # The killed process may have told of its very last packet without having received it.
        assert _killed(report, stream) in ({lost, lost - int(last_items)} if stream == last_stream else {lost})
        assert lost / INFOS[stream].rate_hz <= 0.5
    assert verify(folder)[0].problems == []
    assert recover(folder) == [report], "recovering again changes nothing"


def _cut(path: Path, length: int) -> None:
    with path.open("r+b") as file:
        file.truncate(length)


def _cover(path: Path, _: int) -> None:
    """What a full disk leaves of an MP4: the box that hides the fragments, and no index of the whole."""
    data = bytearray(path.read_bytes())
    at = data.index(b"\x00\x00\x00\x08free") + 8
    data[at : at + 8] = (len(data) + 5000).to_bytes(4, "big") + b"mdat"
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("file", "damage"),
    [
        ("camera.mp4", _cut),
        ("camera.mp4", _cover),
        ("microphone.flac", _cut),
        ("process.arrow", _cut),
        ("camera.frames.arrow", _cut),
        ("microphone.blocks.arrow", _cut),
        ("events.arrow", _cut),
    ],
)
def test_files_cut_at_random_bytes_stay_readable(
    tmp_path: Path, sent: list[Packet], file: str, damage: Callable[[Path, int], None]
) -> None:
    recording = Recording(tmp_path / "w")
    for packet in sent[:600]:
        recording.take(packet)
    recording.writer.flush()
    lengths = random.Random(file)
    size = (tmp_path / "w" / file).stat().st_size
    for i in range(5 if damage is _cut else 1):
        folder = shutil.copytree(tmp_path / "w", tmp_path / f"copy{i}")
        damage(folder / file, lengths.randrange(size) if i else 0)
        before = _check_contents(folder, sent)
        report = recover(folder)[0]
        assert (report.ok, report.state, report.problems) == (True, "recovered", [])
        assert _check_contents(folder, sent) == before
        assert verify(folder)[0].problems == []
        received: Counter[str] = Counter()
        for packet in sent[:600]:
            received[packet.stream] += _items(packet)
        for stream in STREAMS:
            assert _killed(report, stream) == received[stream] - before[stream]
    recording.writer.abandon()


def test_a_weld_that_is_being_recorded_is_left_alone(tmp_path: Path) -> None:
    recording = Recording(tmp_path / "w")
    recording.take(Cell().rows(0, 0.0))
    report = recover(tmp_path)[0]
    assert not report.ok
    assert "living process" in report.problems[0]
    assert recording.writer.finalise().state == "finalised"
    assert recover(tmp_path)[0].ok


def test_without_marks_the_loss_is_a_stated_bound(tmp_path: Path, sent: list[Packet]) -> None:
    recording = Recording(tmp_path / "w")
    for packet in sent[:300]:
        recording.take(packet)
    recording.writer.abandon()
    (tmp_path / "w" / MARKS).unlink()
    report = recover(tmp_path / "w")[0]
    assert report.ok
    assert report.losses["process"]["seconds"] == 2.5
    assert any(problem.startswith("process") and "bound" in problem for problem in report.problems)


def test_marks_of_another_boot_are_not_trusted_to_the_item(tmp_path: Path, sent: list[Packet]) -> None:
    recording = Recording(tmp_path / "w")
    for packet in sent[:300]:
        recording.take(packet)
    recording.writer.abandon()
    marks = tmp_path / "w" / MARKS
    data = marks.read_bytes()
    start = data.index(b'"boot":"') + 8
    marks.write_bytes(
        data[:start] + b"0" + data[start + 1 :] if data[start] != 48 else data[:start] + b"1" + data[start + 1 :]
    )
    report = recover(tmp_path / "w")[0]
    losses = WeldReader(tmp_path / "w").manifest.streams["process"].losses
    assert [(loss.exact, loss.reason) for loss in losses] == [(False, "power cut")]
    assert report.ok


def test_marks_that_are_older_than_the_data_are_not_trusted_to_the_item(tmp_path: Path, sent: list[Packet]) -> None:
    """A disk that failed and was mounted again: not everything that was written came to it."""
    recording = Recording(tmp_path / "w")
    for packet in sent[:200]:
        recording.take(packet)
    older = (tmp_path / "w" / MARKS).read_bytes()
    for packet in sent[200:300]:
        recording.take(packet)
    recording.writer.flush()
    recording.writer.abandon()
    (tmp_path / "w" / MARKS).write_bytes(older)
    (report,) = recover(tmp_path / "w")
    assert {name: loss["seconds"] for name, loss in report.losses.items()} == dict.fromkeys(STREAMS, 2.5)
    assert len(report.problems) == len(STREAMS)


def test_a_stream_that_changed_segment_and_a_gap_event_in_the_tail_are_counted_once(tmp_path: Path) -> None:
    recording = Recording(tmp_path / "w")
    cell = Cell()
    for packet in cell.process(1.0):
        recording.take(packet)
    recording.writer.flush()
    gap = cell.event("gap", 1.0, weld=None, stream="process", first=500, missing=50, reason="device")
    recording.take(gap)
    recording.writer.flush()
    recording.take(cell.event("gap", 1.0, weld=None, stream="camera", first=30, missing=3, reason="device"))
    recording.writer.received(cell.rows(110, 1.1))  # rows 550 to 554, received, never written
    recording.writer.flush()
    recording.writer.abandon()
    (report,) = recover(tmp_path / "w")
    assert (report.losses["process"], report.losses["camera"]) == (
        {"seconds": 0.11, "items": 55},
        {"seconds": 0.1, "items": 3},
    )
    assert report.problems == [], "nothing but counts"


def test_damage_beyond_repair_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(WeldError, match="holds no weld"):
        recover(tmp_path)
    Recording(tmp_path / "good").writer.abandon()
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / MANIFEST).write_text("{")
    reports = recover(tmp_path)
    assert [(report.path.name, report.ok) for report in reports] == [("bad", False), ("good", True)]
    assert "\n" not in reports[0].problems[0]


def test_packets_after_the_close_are_not_this_welds_loss(tmp_path: Path, sent: list[Packet]) -> None:
    recording = Recording(tmp_path / "w")
    cell = Cell()
    for packet in cell.weld(photos=0):
        recording.take(packet)
    recording.writer.received(cell.rows(400, 4.0))  # the ingest thread is ahead of the close
    recording.writer.abandon()
    assert "process" not in recover(tmp_path / "w")[0].losses


def test_a_kill_before_the_pre_roll_is_written_is_reported_as_its_loss(tmp_path: Path, sent: list[Packet]) -> None:
    before = [packet for packet in sent if packet.stream in INFOS][:60]
    WeldWriter(tmp_path / "w", manifest(INFOS), {}, expected=before).abandon()
    (report,) = recover(tmp_path / "w")
    assert report.ok
    expected: Counter[str] = Counter()
    for packet in before:
        expected[packet.stream] += _items(packet)
    assert {name: loss["items"] for name, loss in report.losses.items()} == dict(expected)


def _exit_code(path: Path) -> int:
    result = CliRunner().invoke(commands, ["recover", str(path), "--json"])
    return result.exit_code


def test_the_command_tells_clean_lossy_and_failed_apart(tmp_path: Path, sent: list[Packet]) -> None:
    for name, count, flush in (("clean", 0, True), ("lossy", 300, False)):
        recording = Recording(tmp_path / name)
        for packet in sent[:count]:
            recording.take(packet)
        if flush:
            recording.writer.flush()
        shutil.copytree(tmp_path / name, tmp_path / f"{name}-killed")
        recording.writer.abandon()
    assert [_exit_code(tmp_path / f"{name}-killed") for name in ("clean", "lossy")] == [0, 3]
    assert _exit_code(tmp_path / "lossy-killed") == 3, "what is lost stays lost"
    (tmp_path / "clean-killed" / MANIFEST).write_text("{")
    assert _exit_code(tmp_path / "clean-killed") == 1
    shutil.copytree(tmp_path / "clean-killed", tmp_path / "both" / "bad")
    shutil.copytree(tmp_path / "lossy-killed", tmp_path / "both" / "good")
    assert _exit_code(tmp_path / "both") == 1, "one that fails is told, whatever the others are"


def test_a_photo_whose_row_never_came_is_kept_and_said(tmp_path: Path, sent: list[Packet]) -> None:
    recording = Recording(tmp_path / "w")
    for packet in sent:
        recording.take(packet)
    recording.writer.flush()
    shutil.copytree(tmp_path / "w", tmp_path / "killed")
    recording.writer.abandon()
    (tmp_path / "killed" / "bead.photos.arrow").unlink()
    (report,) = recover(tmp_path / "killed")
    assert report.losses["bead"] == {"seconds": 0.0, "items": 2}
    assert [line.split(":")[0].split("/")[-1] for line in report.problems] == ["bead.jpg", "bead_1.jpg"]
    assert (tmp_path / "killed" / "photos" / "bead.jpg").exists()


def test_a_gap_that_lies_before_the_weld_is_not_its_loss(tmp_path: Path) -> None:
    """The packet after a gap tells of it; where that is the weld's first one, the weld lacks nothing."""
    recording = Recording(tmp_path / "w")
    cell = Cell()
    recording.take(cell.rows(0, 0.0))
    for t_s, missing in ((-0.2, 100), (-0.1, 60)):
        recording.take(cell.event("gap", t_s, weld=None, stream="process", first=900, missing=missing, reason="device"))
    recording.writer.finalise()
    (loss,) = WeldReader(tmp_path / "w").manifest.streams["process"].losses
    assert (loss.t_ns, loss.first, loss.missing) == (ORIGIN_NS, 950, 10)
