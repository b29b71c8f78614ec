"""`run --headless`: welds recorded and judged by the real processes, undisturbed and with faults."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from recordings.reader import WeldReader
from recordings.verify import verify
from tests.end_to_end.processes import CHECKOUT

pytestmark = pytest.mark.end_to_end

HEAVY = {"torch", "transformers"}
MODALITIES = ["video", "audio", "sensors", "post_images"]


def test_two_welds_are_recorded_and_judged_without_a_drop(runs):
    run = runs["plain"].finished
    assert run.code == 0, run.err
    result = run.result
    assert {name: stream["dropped"] for name, stream in result["streams"].items()} == {
        "camera": 0,
        "microphone": 0,
        "sensors": 0,
        "photos": 0,
    }
    assert all(not stream["gaps"] for stream in result["streams"].values())
    assert result["streams"]["camera"]["rate_hz"] == pytest.approx(31, rel=0.05)
    assert len(result["welds"]) == 2
    for weld in result["welds"]:
        assert weld["problem"] is None
        assert weld["present"] == MODALITIES
        assert weld["stage"] == "consistency"
        assert weld["verdict"] in ("GO", "NO-GO")
        assert 2.0 <= weld["arc_off_s"] - weld["arc_on_s"] <= 3.0
        assert len(WeldReader(Path(weld["path"])).photos()) == 2
    assert result["latency_ms"]["window_to_verdict"]["p50"] < 1000
    assert result["windows"] >= 4


def test_every_file_of_a_finished_run_is_finalised_and_verified(runs):
    root = runs["plain"].place.root
    reports = verify(root)
    assert [(r.state, r.ok, r.losses, r.problems) for r in reports] == [("finalised", True, {}, [])] * 2
    unfinished = [path for path in root.rglob("*") if path.suffix in (".arrow", ".part", ".bin")]
    assert not unfinished
    assert not list((root / ".open").iterdir())
    for report in reports:
        last = WeldReader(report.path).verdicts()[-1]
        assert (last.final, last.stage) == (True, "consistency")


def test_a_required_stream_that_dies_gives_no_verdict_and_the_rest_is_recorded(runs):
    run = runs["required"].finished
    assert run.code == 3, run.err
    (weld,) = run.result["welds"][:1]
    assert weld["verdict"] == "NO DATA"
    assert "camera" in weld["reason"]
    assert "missing" in weld["reason"]
    streams = run.result["streams"]
    gaps = streams["camera"]["gaps"]
    assert gaps[0]["at_s"] == pytest.approx(2.9, abs=0.1)
    assert sum(gap["missing"] for gap in gaps) == streams["camera"]["dropped"] > 20
    assert streams["microphone"]["dropped"] == streams["sensors"]["dropped"] == 0
    (report,) = verify(Path(weld["path"]))
    assert report.ok, report.problems
    assert set(report.losses) == {"camera"}
    heard_s = WeldReader(Path(weld["path"])).blocks("microphone")["n"].sum() / 16_000
    assert heard_s == pytest.approx(weld["arc_off_s"] + 1.2, abs=0.3)  # to the end of the post-roll


def test_without_an_optional_stream_the_verdict_comes_from_the_rest(runs):
    run = runs["optional"].finished
    assert run.code == 3, run.err
    weld = run.result["welds"][0]
    assert weld["verdict"] in ("GO", "NO-GO")
    assert "without microphone" in weld["reason"]
    assert "audio" not in weld["present"]
    streams = run.result["streams"]
    gaps = streams["microphone"]["gaps"]
    assert gaps[0]["at_s"] == pytest.approx(2.9, abs=0.1)
    assert sum(gap["missing"] for gap in gaps) == streams["microphone"]["dropped"] > 16_000
    assert streams["camera"]["dropped"] == streams["sensors"]["dropped"] == 0


def test_lost_items_are_counted_exactly_and_located(runs):
    run = runs["losses"].finished
    assert run.code == 3, run.err
    streams = run.result["streams"]
    (dropped,) = streams["camera"]["gaps"]
    assert (dropped["missing"], streams["camera"]["dropped"]) == (5, 5)
    assert dropped["at_s"] == pytest.approx(3.0, abs=0.1)
    (frozen,) = streams["microphone"]["gaps"]
    assert frozen["missing"] == streams["microphone"]["dropped"] == pytest.approx(0.4 * 16_000, abs=640)
    assert frozen["at_s"] == pytest.approx(2.2, abs=0.1)
    truth = json.loads((Path(run.result["welds"][0]["path"]) / "truth.json").read_text())
    assert sum(loss["missing"] for loss in truth["drops"]["camera"]) == 5
    reader = WeldReader(Path(run.result["welds"][0]["path"]))
    assert reader.frames("camera")["missing"].sum() == 5


def modules_of(statement: str) -> set[str]:
    """Names of the packages that a fresh interpreter holds after `statement`."""
    code = f"import sys, json; {statement}; print(json.dumps(sorted({{m.split('.')[0] for m in sys.modules}})))"
    made = subprocess.run(
        [sys.executable, "-c", code], cwd=CHECKOUT, capture_output=True, text=True, check=True, timeout=60
    )
    return set(json.loads(made.stdout))


def test_the_screen_and_the_capture_process_stay_light():
    capture, screen = modules_of("import recordings.capture"), modules_of("import gui.launch")
    assert "numpy" in capture & screen
    assert "PySide6" in screen
    assert not capture & {*HEAVY, "PySide6", "pyqtgraph", "sklearn"}
    assert not screen & {*HEAVY, "sklearn"}
