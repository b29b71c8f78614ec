"""Finalising, recovering and adding to a weld, killed at every single step: the weld is whole afterwards."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import xxhash

from recordings.audio_file import whole_frames
from recordings.reader import WeldReader
from recordings.recovery import recover
from recordings.verify import verify
from recordings.video_file import open_media, open_video, whole_packets
from recordings.weld_folder import digest, load_manifest, store_manifest
from tests.recordings.synthetic_weld import Cell, Recording

CHECKOUT = Path(__file__).parents[2]


def samples(folder: Path) -> dict[str, str]:
    """Digest of everything that the devices delivered, as it is decoded, by stream."""
    found: dict[str, xxhash.xxh3_64] = {}
    for packet in WeldReader(folder).packets():
        if packet.stream in ("camera", "microphone", "process", "bead"):
            of_stream = found.setdefault(packet.stream, xxhash.xxh3_64())
            of_stream.update(repr((packet.order, packet.seq, packet.t_device_ns, packet.t_arrival_ns)).encode())
            for name in ("pixels", "samples", "values", "data"):
                value = getattr(packet.payload, name, b"")
                of_stream.update(value if isinstance(value, bytes) else value.tobytes())
    return {stream: made.hexdigest() for stream, made in found.items()}


def encoded(folder: Path) -> tuple[list[bytes], list[bytes]]:
    """The encoded frames of the camera and of the microphone, byte for byte."""
    with open_video(folder / "camera.mp4") as video:
        frames = [bytes(packet) for packet in whole_packets(folder / "camera.mp4", video)]
    with open_media(folder / "microphone.flac", "flac") as sound:
        return frames, [bytes(frame) for frame in whole_frames(sound)]


def killed_at_every_step(act: str, source: Path, target: Path) -> list[Path]:
    """Give the folders that the kills left, and last the one that was not killed."""
    command: list[str | Path] = [sys.executable, "-m", "tests.recordings.killed_at_every_step", act, source, target]
    done = subprocess.run(command, cwd=CHECKOUT, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return sorted(target.iterdir())


@pytest.fixture(scope="module")
def cut(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An open weld whose recorder is gone, as a kill would leave it, with the last frames in memory only."""
    folder = tmp_path_factory.mktemp("cut")
    recording = Recording(folder / "living", lossless=False)
    for packet in list(Cell(arc_s=(0.2, 0.6)).weld(seconds=0.8, photos=0))[:150]:
        recording.take(packet)
    recording.writer.flush()
    shutil.copytree(folder / "living", folder / "w")
    recording.writer.abandon()
    return folder / "w"


def test_finalising_cut_off_at_any_step(tmp_path: Path) -> None:
    *cuts, whole = killed_at_every_step("finalise", tmp_path, tmp_path / "cuts")
    assert len(cuts) > 30
    expected = samples(whole)
    for folder in cuts:
        assert samples(folder) == expected, "readable as it is"
        (report,) = recover(folder)
        assert (report.ok, report.problems, report.losses) == (True, [], recover(whole)[0].losses)
        assert verify(folder, deep=False)[0].problems == []
        assert samples(folder) == expected
        assert {path.name for path in folder.iterdir()} == {path.name for path in whole.iterdir()}


def test_recovering_cut_off_at_any_step(tmp_path: Path, cut: Path) -> None:
    *cuts, whole = killed_at_every_step("recover", cut, tmp_path / "cuts")
    assert len(cuts) > 30
    expected, media = samples(whole), encoded(whole)
    assert samples(cut) == expected
    assert encoded(cut) == media, "not a byte of what was encoded is changed"
    for folder in cuts:
        assert samples(folder) == expected, "readable as it is"
        (report,) = recover(folder)
        assert (report.ok, report.problems, report.losses) == (True, [], recover(whole)[0].losses)
        assert report.losses["camera"]["items"] > 0
        assert (samples(folder), encoded(folder)) == (expected, media)
        assert verify(folder, deep=False)[0].problems == []


def test_adding_cut_off_at_any_step(tmp_path: Path, cut: Path) -> None:
    """A late event and a label: each is there or is not, and nobody has to guess."""
    shutil.copytree(cut, tmp_path / "w")
    recover(tmp_path / "w")
    *cuts, whole = killed_at_every_step("add", tmp_path / "w", tmp_path / "cuts")
    assert len(cuts) > 15
    expected = samples(whole)
    steps = []
    for folder in cuts:
        cut_off = bool(load_manifest(folder).replacing)
        problems = verify(folder, deep=False)[0].problems
        assert bool(problems) == cut_off
        assert all("recover the weld" in line for line in problems)
        (report,) = recover(folder)
        assert report.ok
        assert bool(report.problems) == cut_off
        assert verify(folder, deep=False)[0].problems == []
        assert samples(folder) == expected
        reader = WeldReader(folder)
        steps.append((reader.table("events").height - WeldReader(cut).table("events").height, reader.manifest.label))
    assert sorted(steps) == steps, "what is there stays there"
    assert {(0, -1), (1, -1)} <= set(steps)
    reader = WeldReader(whole)
    assert (reader.table("events").height, reader.manifest.label) == (WeldReader(cut).table("events").height + 1, 3)


@pytest.mark.parametrize("swapped", [True, False])
def test_an_addition_that_was_cut_off_is_adopted_or_dropped(tmp_path: Path, cut: Path, swapped: bool) -> None:
    folder = shutil.copytree(cut, tmp_path / "w")
    recover(folder)
    manifest = load_manifest(folder)
    name = "events.parquet"
    if swapped:  # the new table is there, its digest is not yet among the files
        manifest.replacing[name], manifest.files[name] = manifest.files[name], "0" * 32
    else:
        manifest.replacing[name] = "0" * 32
    store_manifest(folder, manifest)
    (line,) = verify(folder, deep=False)[0].problems
    assert name in line
    (report,) = recover(folder)
    (line,) = report.problems
    assert ("complete" if swapped else "dropped") in line
    after = load_manifest(folder)
    assert (after.files[name], after.replacing) == (digest(folder / name), {})
    assert verify(folder, deep=False)[0].problems == []
