"""What a power cut leaves: every file as it was when last forced to the disk, or more of it, as it happened."""

import os
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

import recordings.weld_folder
import recordings.weld_writer
from acquisition.packet import item_range
from recordings.reader import WeldReader
from recordings.recovery import recover
from recordings.verify import verify
from recordings.weld_folder import MANIFEST, MARKS
from recordings.weld_writer import POWER_CUT_S
from tests.recordings.synthetic_weld import INFOS, ORIGIN_NS, Cell, Recording

STREAMS = ("camera", "microphone", "process")
FLUSH_NS = 200_000_000


class Disk:
    """Names and bytes as they were when they were last forced; the strictest file system that there may be.

    Attributes:
        forced: How often something was forced.
    """

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.forced = 0
        self._folder = folder
        self._names: dict[Path, dict[str, int]] = {}
        self._bytes: dict[int, bytes] = {}
        self._held: list[int] = []
        self._force = recordings.weld_folder.force_to_disk
        monkeypatch.setattr(recordings.weld_folder, "force_to_disk", self.force)
        monkeypatch.setattr(recordings.weld_writer, "force_to_disk", self.force)

    def force(self, path: Path) -> None:
        self._force(path)
        self.forced += 1
        if path.is_dir():
            self._names[path] = {entry.name: entry.inode() for entry in os.scandir(path) if entry.is_file()}
        else:
            self._held.append(os.open(path, os.O_RDONLY))  # or its number would be given to another file
            self._bytes[path.stat().st_ino] = path.read_bytes()

    def cut(self, to: Path, draw: random.Random | None) -> Path:
        """Write what a power cut would leave now; with `draw`, more of each file than what was forced."""
        for folder, names in self._names.items():
            if not folder.is_relative_to(self._folder):
                continue
            target = to / folder.relative_to(self._folder)
            target.mkdir(parents=True, exist_ok=True)
            for name, number in names.items():
                data = self._bytes.get(number, b"")
                path = folder / name
                if draw is not None and path.exists() and path.stat().st_ino == number:
                    now = path.read_bytes()
                    data = now[: draw.randint(min(len(data), len(now)), len(now))]
                if name == MARKS:  # of another boot of the machine
                    data = data.replace(b'"boot":"', b'"boot":"before-', 1).replace(b"\n" * 7, b"", 1)
                (target / name).write_bytes(data)
        return to

    def close(self) -> None:
        for descriptor in self._held:
            os.close(descriptor)


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    made = Disk(tmp_path / "w", monkeypatch)
    yield made
    made.close()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The time that decides when files are forced: that of the packets."""
    made = SimpleNamespace(now_s=0.0)
    monkeypatch.setattr(recordings.weld_writer, "time", SimpleNamespace(monotonic=lambda: made.now_s))
    return made


def check(folder: Path, received: Counter[str]) -> Counter[str]:
    """Readable, at most as much lost as the bound says, and no less stated than lost; returns the items lost."""
    (report,) = recover(folder)
    assert report.ok, report.problems
    assert verify(folder)[0].problems == []
    kept: Counter[str] = Counter()
    for packet in WeldReader(folder).packets():
        kept[packet.stream] += item_range(packet)[1]
    for stream in STREAMS:
        lost_s = (received[stream] - kept[stream]) / INFOS[stream].rate_hz
        assert 0 <= lost_s <= POWER_CUT_S, stream
        if lost_s > 0.1:  # what the gap of the camera accounts for is no part of the bound
            assert report.losses[stream]["seconds"] >= lost_s, stream
    return Counter({stream: received[stream] - kept[stream] for stream in STREAMS})


def test_a_power_cut_costs_no_more_than_its_bound(tmp_path: Path, disk: Disk, clock: SimpleNamespace) -> None:
    """Cut before every flush: most is at stake just before a forced one."""
    recording = Recording(tmp_path / "w", lossless=False)
    received: Counter[str] = Counter()
    flushed_ns = ORIGIN_NS
    cuts: list[tuple[Path, Counter[str]]] = []
    for number, packet in enumerate(Cell(arc_s=(1.0, 5.0)).weld(seconds=6.0, photos=0)):
        clock.now_s = (packet.t_arrival_ns - ORIGIN_NS) / 1e9
        if packet.t_arrival_ns - flushed_ns >= FLUSH_NS:
            flushed_ns = packet.t_arrival_ns
            before = disk.forced
            draw = random.Random(number) if number % 2 else None
            cuts.append((disk.cut(tmp_path / f"cut{len(cuts)}", draw), received.copy()))
            recording.writer.flush()
            assert disk.forced == before or clock.now_s >= 2.0
        recording.take(packet)
        if packet.stream in STREAMS:
            received[packet.stream] += item_range(packet)[1]
    recording.writer.abandon()
    assert len(cuts) > 25
    for folder, count in cuts:
        check(folder, count)


def test_a_power_cut_while_finalising_loses_nothing(
    tmp_path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    recording = Recording(tmp_path / "w", lossless=False)
    received: Counter[str] = Counter()
    for packet in Cell(arc_s=(0.5, 1.5)).weld(seconds=2.0):
        recording.take(packet)
        received[packet.stream] += item_range(packet)[1]
    monkeypatch.setattr(recordings.weld_writer, "SYNC_S", 0.0)
    recording.writer.flush()
    force, cuts = disk.force, list[Path]()

    def cut_and_force(path: Path) -> None:
        cuts.append(disk.cut(tmp_path / f"cut{len(cuts)}", random.Random(len(cuts)) if len(cuts) % 2 else None))
        force(path)

    for module in (recordings.weld_folder, recordings.weld_writer):
        monkeypatch.setattr(module, "force_to_disk", cut_and_force)
    recording.writer.finalise()
    monkeypatch.undo()
    cuts.append(disk.cut(tmp_path / "last", None))
    assert len(cuts) > 15
    for folder in cuts:
        assert (folder / MANIFEST).stat().st_size
        lost = check(folder, received)
        losses = recover(folder)[0].losses
        for stream in STREAMS:  # it was closed: no more can be missing than fits until then
            stated = losses[stream]["items"] if stream in losses else 0
            told = 3 if stream == "camera" else 0
            assert lost[stream] <= stated - told <= lost[stream] + 0.05 * INFOS[stream].rate_hz, stream
    assert WeldReader(cuts[-1]).manifest.state == "finalised"
