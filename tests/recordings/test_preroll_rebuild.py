"""A weld whose recorder is killed while it opens keeps its pre-roll; what was lost is told to the item."""

import shutil
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from acquisition.packet import item_range
from recordings.opening import OPEN_WELDS
from recordings.preroll_rebuild import rebuild_openings
from recordings.preroll_spool import OPENING, SEGMENT, SPOOL, PrerollSpool
from recordings.reader import WeldReader
from recordings.recorder import recover_open_welds
from recordings.recovery import recover
from recordings.verify import verify
from recordings.weld_folder import MANIFEST, find_welds, load_manifest
from tests.recordings.handmade import INFOS

CHECKOUT = Path(__file__).parents[2]
STREAMS = ("camera", "microphone", "sensors")


def killed(root: Path, place: str) -> list[tuple[str, int, int]]:
    """Give what a recorder had received when it was killed at `place`: stream, order, items."""
    command = [sys.executable, "-m", "tests.recordings.killed_opening", str(root), place]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, cwd=CHECKOUT, timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL
    told = [line.split() for line in done.stdout.splitlines()]
    return [(stream, int(order), int(items)) for stream, order, items in told]


def assert_told(folder: Path, received: list[tuple[str, int, int]]) -> None:
    """What is on disk and what is told to be lost are together what was received of the weld, item for item."""
    reader = WeldReader(folder)
    first = reader.manifest.first_order
    kept: Counter[str] = Counter()
    for packet in reader.packets():
        if packet.stream in INFOS:
            kept[packet.stream] += item_range(packet)[1]
    assert min(p.order for p in reader.packets() if p.stream in INFOS) == first
    for name in STREAMS:
        got = sum(items for stream, order, items in received if stream == name and order >= first)
        losses = reader.manifest.streams[name].losses
        assert all(loss.exact and loss.reason == "killed" for loss in losses)
        lost = sum(loss.missing for loss in losses)
        assert kept[name] + lost == got, name
        assert lost / INFOS[name].rate_hz < 0.5
        assert kept[name] / INFOS[name].rate_hz > 0.5, "the pre-roll is there"
    assert verify(folder)[0].problems == []


@pytest.mark.parametrize("place", ["decided", "spooled", "0", "30", "90"])
def test_a_kill_while_a_weld_opens_costs_what_was_in_memory_and_no_pre_roll(tmp_path: Path, place: str) -> None:
    received = killed(tmp_path, place)
    (line,) = recover_open_welds(tmp_path)
    assert "recovered after a crash" in line
    (folder,) = find_welds(tmp_path)
    assert_told(folder, received)
    assert list((tmp_path / OPEN_WELDS).iterdir()) == []
    assert recover_open_welds(tmp_path) == []


def test_what_came_after_the_end_of_a_weld_is_no_loss_of_it(tmp_path: Path) -> None:
    """The recorder was so late that the weld had closed before its first item was written."""
    received = killed(tmp_path, "closed")
    assert len(recover_open_welds(tmp_path)) == 1
    (folder,) = find_welds(tmp_path)
    manifest = load_manifest(folder)
    assert manifest.last_order is not None
    assert any(order > manifest.last_order for _, order, _ in received)
    for name in STREAMS:
        mine = sum(n for stream, order, n in received if stream == name and order <= manifest.last_order)
        before = sum(n for stream, order, n in received if stream == name and order < manifest.first_order)
        kept = sum(item_range(packet)[1] for packet in WeldReader(folder).packets() if packet.stream == name)
        assert kept + sum(loss.missing for loss in manifest.streams[name].losses) == mine - before, name


@pytest.fixture(scope="module")
def opening(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[tuple[str, int, int]]]:
    """A root with a weld that was being opened, 30 items of it written, and what its recorder had received."""
    root = tmp_path_factory.mktemp("opening")
    return root, killed(root, "30")


def spool_of(root: Path) -> Path:
    (spool,) = (root / OPEN_WELDS).glob(f"{SPOOL}*")
    return spool


def test_one_weld_can_be_rebuilt_by_its_folder_and_the_rebuilding_be_cut_off(opening, tmp_path: Path) -> None:
    root = shutil.copytree(opening[0], tmp_path / "root")
    (folder,) = find_welds(root)
    assert rebuild_openings(folder.parent / "another") == []
    assert spool_of(root).exists(), "it may still serve this weld"
    kept = shutil.copytree(spool_of(root), tmp_path / "spool")
    assert rebuild_openings(folder) == []
    assert load_manifest(folder).state == "open"
    assert not list((root / OPEN_WELDS).glob(f"{SPOOL}*"))
    # Cut off after the old manifest was removed, with some files of the new one there.
    (folder / MANIFEST).unlink()
    (folder / "camera.mp4").write_bytes(b"half")
    shutil.copytree(kept, root / OPEN_WELDS / f"{SPOOL}1-again")
    assert rebuild_openings(root) == []
    (report,) = recover(folder)
    assert report.ok
    assert_told(folder, opening[1])


@pytest.mark.parametrize("damage", ["missing", "first", "last", "openings", "foreign"])
def test_a_damaged_spool_costs_no_more_than_it_could_have_saved(opening, tmp_path: Path, damage: str) -> None:
    root = shutil.copytree(opening[0], tmp_path / "root")
    spool = spool_of(root)
    segments = sorted(spool.glob(f"*{SEGMENT}"))
    if damage == "missing":
        shutil.rmtree(spool)
    elif damage == "openings":
        (spool / OPENING).write_bytes(b"")
    elif damage == "foreign":
        (spool / OPENING).unlink()
        (spool / OPENING).mkdir()
    else:
        victim = segments[0 if damage == "first" else -1]
        data = bytearray(victim.read_bytes())
        data[len(data) // 2] ^= 255
        victim.write_bytes(data)
    (line,) = recover_open_welds(root)
    assert "recovered after a crash" in line
    (folder,) = find_welds(root)
    manifest = load_manifest(folder)
    assert verify(folder)[0].problems == []
    received = opening[1]
    reader = WeldReader(folder)
    for name in STREAMS:
        got = sum(items for stream, order, items in received if stream == name and order >= manifest.first_order)
        kept = sum(item_range(packet)[1] for packet in reader.packets() if packet.stream == name)
        assert kept + sum(loss.missing for loss in manifest.streams[name].losses) == got, name


def test_a_torn_last_record_is_the_end_and_no_damage(opening, tmp_path: Path) -> None:
    root = shutil.copytree(opening[0], tmp_path / "root")
    last = sorted(spool_of(root).glob(f"*{SEGMENT}"))[-1]
    with last.open("ab") as file:
        file.write(last.read_bytes()[:40])
    assert len(recover_open_welds(root)) == 1
    assert_told(find_welds(root)[0], opening[1])


def test_a_spool_of_a_living_process_is_left_alone_and_goes_when_it_ends(tmp_path: Path) -> None:
    spool = PrerollSpool(tmp_path, ["camera"])
    assert recover_open_welds(tmp_path) == []
    assert spool.folder.exists()
    spool.close()
    assert list((tmp_path / OPEN_WELDS).iterdir()) == []
