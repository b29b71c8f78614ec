"""Disks that are full, read-only or gone while a weld is recorded: real ones, small, made for the test."""

import shutil
import subprocess
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from acquisition.packet import Packet, item_range
from recordings.reader import WeldReader
from recordings.recorder import FinishWeld, IngestedPacket, WeldFile
from recordings.recorder_thread import Recorder
from recordings.recovery import recover
from recordings.verify import verify
from tests.acquisition.counterparts import wait_until
from tests.recordings.handmade import START_NS, Run, World, cell

STREAMS = ("camera", "microphone", "sensors")
TWO_ARCS = ((2.0, 3.0), (5.6, 6.6))
MIDDLE_S, BETWEEN_S = 2.6, 4.6
"""In the first arc; between the end of the first weld and the beginning of the second."""


def shell(*command: str | Path) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([str(word) for word in command], capture_output=True, check=False)


@dataclass
class Disk:
    """A mounted disk; the recordings root lies on it."""

    at: Path
    make: Callable[[], list[str | Path]]

    def mount(self) -> None:
        done = shell(*self.make())
        if done.returncode:
            pytest.skip(f"a disk of its own cannot be mounted here (root may): {done.stderr.decode().strip()}")

    def fill(self) -> Path:
        """Take all space that is left."""
        filler = self.at / "filler"
        with filler.open("wb", buffering=0) as file:
            for size in (1 << 16, 1 << 9):
                while True:
                    try:
                        if file.write(bytes(size)) < size:
                            break
                    except OSError:
                        break
        return filler


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Disk]:
    """A small disk in memory."""
    at = tmp_path / "disk"
    at.mkdir()
    disk = Disk(at, lambda: ["mount", "-t", "tmpfs", "-o", "size=3m", "none", at])
    disk.mount()
    yield disk
    shell("umount", "--lazy", at)


@pytest.fixture
def ext4(tmp_path: Path) -> Iterator[Disk]:
    """A small disk in a file, whose file system can be told that its disk failed."""
    at, image = tmp_path / "disk", tmp_path / "image"
    at.mkdir()
    with image.open("wb") as file:
        file.truncate(16 << 20)
    tool = shutil.which("mkfs.ext4", path="/usr/sbin:/sbin:/usr/bin")
    if tool is None or shell(tool, "-q", "-F", image).returncode:
        pytest.skip("needs mkfs.ext4 (Debian: e2fsprogs) to make a small disk")
    disk = Disk(at, lambda: ["mount", "-o", "loop,errors=remount-ro", image, at])
    disk.mount()
    yield disk
    shell("umount", "--lazy", at)


class Recorded(Run):
    """A cell whose packets go through the recorder's thread, as those of the capture process do."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.recorder = Recorder(self.core)

    def take(self, packets: Iterable[Packet]) -> None:
        for packet in packets:
            self.published.append(packet)
            key = packet.order == self.ingest.keyframe_order
            self.recorder.put(IngestedPacket(packet=packet, keyframe=key))

    def play(self, packets: list[Packet], from_s: float, to_s: float) -> None:
        """Push the packets of a stretch of time and wait until the disk had them."""
        part = [p for p in packets if from_s <= (p.t_arrival_ns - START_NS) / 1e9 < to_s]
        for packet in part:
            self.take(self.ingest.push(packet))
            self.take(self.ingest.tick(packet.t_arrival_ns))
        wait_until(lambda: self.recorder.buffered_bytes == 0, "the recorder to catch up")

    def end(self) -> list[WeldFile]:
        """Finish all welds; returns them, oldest first."""
        welds = list(self.core.welds.values())
        for weld in welds:
            self.recorder.put(FinishWeld(key=weld.key))
        assert self.recorder.close()
        return welds

    def of_weld(self, key: str) -> Counter[str]:
        """Count the items that belong to a weld, by stream."""
        (opened,) = [e for e in self.events("weld_open") if e.weld == key]
        (closed,) = [e for e in self.events("weld_close") if e.weld == key]
        counts: Counter[str] = Counter()
        for packet in self.published:
            if opened.data["first_order"] <= packet.order <= closed.data["last_order"] and packet.stream in STREAMS:
                counts[packet.stream] += item_range(packet)[1]
        return counts


def kept(folder: Path) -> Counter[str]:
    counts: Counter[str] = Counter()
    for packet in WeldReader(folder).packets():
        if packet.stream in STREAMS:
            counts[packet.stream] += item_range(packet)[1]
    return counts


def lost(folder: Path) -> dict[str, int]:
    (report,) = recover(folder)
    assert report.ok, report.problems
    assert verify(folder)[0].problems == []
    return {stream: loss["items"] for stream, loss in report.losses.items()}


def check_whole(run: Recorded, weld: WeldFile) -> None:
    assert weld.finalised, weld.problem
    assert lost(weld.folder) == {}
    assert kept(weld.folder) == run.of_weld(weld.key)


def check_stated(run: Recorded, weld: WeldFile) -> None:
    """What the weld lacks is what it says it lacks, to the item."""
    stated = lost(weld.folder)
    there, all_of_it = kept(weld.folder), run.of_weld(weld.key)
    assert sum(there.values()) > 100
    assert stated == {stream: all_of_it[stream] - there[stream] for stream in STREAMS}


def test_a_full_disk_stops_one_weld_with_one_line_and_the_next_is_recorded(memory: Disk) -> None:
    packets = World(seconds=9.0, arcs=TWO_ARCS).packets()
    run = Recorded(cell(), memory.at / "welds")
    run.play(packets, 0.0, MIDDLE_S)
    filler = memory.fill()
    run.play(packets, MIDDLE_S, BETWEEN_S)
    wait_until(lambda: bool(run.problems), "the disk to be full")
    filler.unlink()
    run.play(packets, BETWEEN_S, 9.0)
    one, two = run.end()
    (line,) = run.problems
    assert line.startswith(f"weld {one.key}: ")
    assert "make room" in line
    check_whole(run, two)
    check_stated(run, one)


def test_a_disk_that_turns_read_only_stops_one_weld_and_the_next_is_recorded(ext4: Disk) -> None:
    """The file system sees its disk fail, as ext4 does on an I/O error; then it is mounted again."""
    packets = World(seconds=9.0, arcs=TWO_ARCS).packets()
    run = Recorded(cell(), ext4.at / "welds")
    run.play(packets, 0.0, MIDDLE_S)
    assert shell("mount", "-o", "remount,abort", ext4.at).returncode == 0
    run.play(packets, MIDDLE_S, BETWEEN_S)
    wait_until(lambda: bool(run.problems), "the disk to be read-only")
    shell("umount", "--lazy", ext4.at)
    ext4.mount()
    run.play(packets, BETWEEN_S, 9.0)
    one, two = run.end()
    (line,) = run.problems
    assert "Read-only file system" in line
    check_whole(run, two)
    (report,) = recover(one.folder)
    assert report.ok
    assert len([line for line in report.problems if "is a bound" in line]) == len(STREAMS), "what was in memory is gone"
    assert verify(one.folder)[0].problems == []


@pytest.mark.parametrize("how", ["moved away", "deleted"])
def test_a_directory_that_vanishes_costs_one_weld_with_one_line(tmp_path: Path, how: str) -> None:
    packets = World(seconds=9.0, arcs=TWO_ARCS).packets()
    run = Recorded(cell(), tmp_path / "welds")
    run.play(packets, 0.0, MIDDLE_S)
    if how == "deleted":
        shutil.rmtree(tmp_path / "welds")
    else:
        (tmp_path / "welds").rename(tmp_path / "elsewhere")
    wait_until(lambda: bool(run.problems), "the folder to be missed")
    run.play(packets, MIDDLE_S, 9.0)
    one, two = run.end()
    (line,) = run.problems
    assert "the folder is gone" in line
    assert "\n" not in line
    check_whole(run, two)
    if how == "moved away":
        (moved,) = (tmp_path / "elsewhere").glob(f"*/*/{one.key}")
        one.folder = moved
        check_stated(run, one)


def test_a_stream_that_dies_ends_nothing_but_itself(tmp_path: Path) -> None:
    world = World(seconds=9.0, arcs=TWO_ARCS, silent={"camera": (2.5, 4.8)})
    run = Recorded(cell(), tmp_path)
    run.play(world.packets(), 0.0, 9.0)
    one, two = run.end()
    assert run.problems == []
    check_whole(run, two)
    (report,) = verify(one.folder)
    assert (report.ok, report.state) == (True, "finalised")
    there, all_of_it = kept(one.folder), run.of_weld(one.key)
    assert there == all_of_it
    assert report.losses["camera"]["items"] == pytest.approx((4.0 - 2.5) * 20, abs=1)
