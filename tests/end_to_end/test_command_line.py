"""Bad input on the command line: one line that names the thing, the value and the next step; never a traceback."""

import json
import resource
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from recordings.reader import WeldReader
from recordings.recovery import recover
from tests.end_to_end.processes import App, Finished, Watch, app, write_cell

pytestmark = pytest.mark.end_to_end

SIMULATED_CAMERA = 'name = "camera"\nmodality = "video"\ndriver = "simulated"'
SIMULATED_SENSORS = 'name = "sensors"\nmodality = "sensors"\ndriver = "simulated"'
SIMULATED_PHOTOS = 'name = "photos"\nmodality = "post_images"\ndriver = "simulated"'
PORT = 'driver = "serial"\nport = "/dev/ttyNONE"\ncolumns = ["current_a", "voltage_v"]'


def refused(finished: Finished, *said: str) -> None:
    assert finished.code in (1, 2), finished
    assert finished.out == ""
    assert len(finished.err.strip().splitlines()) == 1, finished.err
    assert "Traceback" not in finished.err
    for part in said:
        assert part in finished.err


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ([("photo_wait_s", "photo_wait")], ["cell.toml:13", "'photo_wait'", "did you mean 'photo_wait_s'?"]),
        ([("alpha = 0.2", 'alpha = "low"')], ["cell.toml:9", "'alpha' is 'low'", "correct the value"]),
        ([('driver = "simulated"', 'driver = "camra"')], ["cell.toml:", "unknown driver 'camra'", "'camera'"]),
        ([("[judge]", "[judge")], ["cell.toml", "not valid TOML", "line 8"]),
    ],
)
def test_a_wrong_cell_file_stops_with_its_line_and_the_fix(tmp_path, changes, said):
    cell = write_cell(tmp_path / "cell.toml", *changes)
    done = app("run", "--headless", "--cell", str(cell), "--root", str(tmp_path / "welds"))
    refused(done, *said)
    assert done.code == 2
    assert not (tmp_path / "welds").exists()


def test_an_absent_cell_file_and_a_fault_without_sense_are_wrong_use(tmp_path):
    absent = app("run", "--headless", "--cell", str(tmp_path / "nowhere.toml"))
    refused(absent, "nowhere.toml", "no such cell file", "write one")
    fault = app("run", "--headless", "--inject", "nonsense")
    refused(fault, "'nonsense'", "kill:microphone@40")
    option = app("run", "--headles")
    refused(option, "--headles", "--help")
    assert (absent.code, fault.code, option.code) == (2, 2, 2)


@pytest.mark.parametrize("device", ["serial port", "video file"])
def test_a_device_that_is_not_there_stops_a_headless_run(tmp_path, runtime_dir, device):
    if device == "serial port":
        changes, said = (SIMULATED_SENSORS, SIMULATED_SENSORS.replace('driver = "simulated"', PORT)), ["/dev/ttyNONE"]
    else:
        (tmp_path / "film.avi").write_text("no film", encoding="utf-8")
        source = f'driver = "camera"\nurl = "{tmp_path / "film.avi"}"'
        changes, said = (SIMULATED_CAMERA, SIMULATED_CAMERA.replace('driver = "simulated"', source)), ["film.avi"]
    cell = write_cell(tmp_path / "cell.toml", changes)
    out = str(tmp_path / "welds")
    refused(app("record", "--cell", str(cell), "--out", out, "--runtime", str(runtime_dir), "--for", "3"), *said)


def test_a_damaged_or_absent_weld_is_refused(tmp_path, runs):
    refused(app("replay", "--headless", str(tmp_path)), str(tmp_path), "weld.json")
    refused(app("verify", str(tmp_path)), str(tmp_path), "holds no weld")
    weld = shutil.copytree(runs["plain"].weld, tmp_path / "weld")
    film = weld / "camera.mp4"
    film.write_bytes(film.read_bytes()[: film.stat().st_size // 2])
    place = runs["plain"].place
    given = ["--checkpoint", str(place.checkpoint)]
    refused(app("replay", "--headless", *given, str(weld)), "camera.mp4")
    verified = app("verify", "--json", str(weld))
    assert verified.code == 1
    assert any("camera.mp4" in line for line in verified.result["welds"][0]["problems"])


def test_a_checkpoint_that_is_absent_or_of_another_shape_is_refused(tmp_path, runs):
    weld = str(runs["plain"].weld)
    absent = str(tmp_path / "none")
    refused(app("replay", "--headless", "--checkpoint", absent, weld), absent, "no checkpoint")
    refused(app("run", "--headless", "--checkpoint", absent), absent, "no checkpoint")
    other = shutil.copytree(runs["plain"].place.checkpoint, tmp_path / "other")
    model = json.loads((other / "model.json").read_text())
    model["calibrations"][0]["welds"].pop()
    (other / "model.json").write_text(json.dumps(model), encoding="utf-8")
    refused(app("replay", "--headless", "--checkpoint", str(other), weld), str(other), "changed after it was written")


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path | None]:
    """A disk of 0.6 MB, or None where none can be mounted."""
    disk = tmp_path / "disk"
    disk.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", disk], capture_output=True)
    yield disk if made.returncode == 0 else None
    if made.returncode == 0:
        subprocess.run(["umount", "-l", disk], check=True)


def limited() -> None:
    """Let no file of this process grow beyond 300 kB."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))


def test_a_full_disk_ends_the_recording_but_not_the_capture(tmp_path, make_place, small_disk):
    place = make_place("place", ("reserve_gb = 0.01", "reserve_gb = 0.0"))
    root = small_disk or tmp_path / "welds"
    before = None if small_disk else limited
    options = ["--cell", str(place.cell), "--out", str(root), "--runtime", str(place.runtime.folder), "--json"]
    with App("record", *options, "--for", "10", before=before) as run, Watch(place.runtime) as watch:
        watch.until(
            lambda: watch.status is not None and any(weld.problem for weld in watch.status.welds), "the full disk"
        )
        assert watch.status is not None
        received = {row.name: row.received for row in watch.status.streams}
        text = " ".join(alarm.text for alarm in watch.status.alarms)
        assert "make room or name another root" in text

        def more() -> bool:
            rows = watch.status.streams if watch.status else []
            return all(row.received > received[row.name] for row in rows if row.name != "photos")

        watch.until(more, "more packets")
        assert all(row.dropped == 0 for row in watch.status.streams)
        done = run.finish()
    assert done.code == 3, done.err
    assert "make room or name another root" in done.err
    assert "Traceback" not in done.err
    weld = Path(done.result["welds"][0]["path"])
    assert done.result["welds"][0]["problem"]
    kept = sum(1 for _ in WeldReader(weld).packets())
    assert kept > 30
    if small_disk:
        subprocess.run(["mount", "-o", "remount,size=64m", small_disk], check=True)
    (report,) = recover(weld)
    assert (report.ok, report.state) == (True, "recovered"), report.problems
    assert sum(1 for _ in WeldReader(weld).packets()) >= kept - 1


def test_below_the_reserve_nothing_is_recorded_and_a_stray_photo_is_kept_aside(tmp_path, make_place):
    """Two alarms of one run; and its processes, which judge nothing, load neither torch nor Qt."""
    photos = tmp_path / "photos"
    photos.mkdir()
    folder = f'name = "photos"\nmodality = "post_images"\ndriver = "photo-folder"\npath = "{photos}"'
    place = make_place("place", (SIMULATED_PHOTOS, folder), ("reserve_gb = 0.01", "reserve_gb = 1e6"))
    options = ["--cell", str(place.cell), "--out", str(place.root), "--runtime", str(place.runtime.folder)]
    timed = {"PYTHONPROFILEIMPORTTIME": "1"}
    with App("record", *options, "--json", "--for", "4", environment=timed) as run, Watch(place.runtime) as watch:
        watch.until(lambda: watch.status is not None, "the capture process")
        Image.new("L", (64, 64), 90).save(tmp_path / "stray.jpg")
        (tmp_path / "stray.jpg").rename(photos / "stray.jpg")

        def alarmed(text: str) -> bool:
            return watch.status is not None and any(text in alarm.text for alarm in watch.status.alarms)

        watch.until(lambda: alarmed("photo stray.jpg: no weld expects it"), "the alarm for the photo")
        watch.until(lambda: alarmed("below the reserve"), "the alarm for the disk")
        done = run.finish()
    assert done.code == 3, done.out
    (kept,) = (place.root / "small" / "unassigned").iterdir()
    assert kept.read_bytes() == (photos / "stray.jpg").read_bytes()
    assert "not recorded" in done.result["welds"][0]["problem"]
    assert not list(place.root.rglob("weld.json"))
    lines = [line.split("|") for line in done.err.splitlines() if line.startswith("import time:")]
    packages = {line[2].strip().split(".")[0] for line in lines if len(line) == 3}
    assert {"numpy", "zmq"} <= packages
    assert not packages & {"torch", "transformers", "PySide6", "sklearn"}
