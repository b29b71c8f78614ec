"""What survives when a process is killed: the others go on, nothing that was received is lost unsaid."""

import os
import random
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from recordings.bench import compare, kill_capture
from recordings.reader import WeldReader
from recordings.recovery import RecoveryReport
from recordings.verify import verify
from tests.acquisition.counterparts import wait_until
from tests.end_to_end.processes import App, Place, Watch, gone

pytestmark = pytest.mark.end_to_end


@pytest.fixture
def place(make_place) -> Place:
    made = make_place("cell")
    assert isinstance(made, Place)
    return made


def test_a_killed_detector_comes_back_and_judges_the_weld_from_its_recording(place):
    with place.run("--headless", "--json", "--welds", "1") as run, Watch(place.runtime) as watch:
        watch.until(lambda: watch.happened("arc_on"), "the arc")
        watch.until(lambda: "detector" in place.pids(), "the detector")
        first = place.pids()["detector"]
        os.kill(first, signal.SIGKILL)
        watch.until(lambda: place.pids().get("detector", first) != first, "a new detector")
        done = run.finish()
    assert done.code == 0, done.err
    assert "the detector process ended with code -9 and was started again" in done.err
    weld = done.result["welds"][0]
    assert weld["verdict"] in ("GO", "NO-GO")
    assert "judged from the recording" in weld["reason"]
    (report,) = verify(Path(weld["path"]))
    assert (report.ok, report.losses) == (True, {}), report.problems
    reader = WeldReader(Path(weld["path"]))
    orders = [packet.order for packet in reader.packets() if packet.order >= reader.manifest.first_order]
    last = reader.manifest.last_order or 0
    assert sorted(order for order in orders if order <= last) == [*range(reader.manifest.first_order, last + 1)]
    assert len(reader.scores()) >= 2
    assert reader.verdicts()[-1].final


def test_capture_and_detector_outlive_the_screen_and_the_next_one_attaches(place):
    with Watch(place.runtime) as watch:
        with place.run() as first:
            watch.until(lambda: watch.happened("arc_on"), "the arc")
            watch.until(lambda: len(place.pids()) == 2, "both processes")
            wait_until(lambda: first.said("first window"), "the window")
            pids = place.pids()
        watch.until(lambda: watch.happened("weld_close"), "the end of the weld")
        with place.run() as second:
            watch.until(lambda: watch.happened("photos_done"), "its photos")
            watch.until(lambda: bool(watch.status and watch.status.welds[-1].verdict), "its verdict")
            wait_until(lambda: second.said("first window"), "the second window", 30)
            assert place.pids() == pids
            assert watch.status is not None
            weld = watch.status.welds[-1]
            assert all(row.dropped == 0 for row in watch.status.streams)
            second.process.send_signal(signal.SIGTERM)
            done = second.finish()
    assert done.code == 0, done.err
    wait_until(lambda: all(gone(pid) for pid in pids.values()), "both processes to end")
    assert place.pids() == {}
    reports = verify(place.root)
    assert all(report.ok and not report.losses and report.state == "finalised" for report in reports), reports
    assert weld.key in [report.path.name for report in reports]
    assert WeldReader(Path(weld.path)).verdicts()[-1].final


INSTANTS = [("arc_on", 0.0, 2.0), ("arc_off", 0.0, 1.0), ("weld_close", 0.0, 0.02), ("photos_done", 0.0, 0.1)]


def killed_and_started_again(place: Place, after: str, delay_s: float) -> list[str]:
    """Kill a capture process, start another one, and say what was wrong with what it made of the recording."""
    witness = kill_capture(place.cell, place.root, after, delay_s)
    interrupted = [path.name for path in (place.root / ".open").iterdir()]
    options = ["--cell", place.cell, "--root", place.root, "--runtime", place.runtime.folder, "--no-judge"]
    with App("capture", *map(str, options)) as again, Watch(place.runtime) as watch:
        watch.until(lambda: watch.status is not None, "the second capture process")
        assert watch.status is not None
        alarms = " ".join(alarm.text for alarm in watch.status.alarms)
        again.process.send_signal(signal.SIGTERM)
        assert again.finish().code == 0
    problems = [f"{key} was not announced: {alarms}" for key in interrupted if f"{key}: " not in alarms]
    problems += [f"{path.name} is still marked open" for path in (place.root / ".open").iterdir()]
    for report in verify(place.root):
        problems += report.problems
        if report.path.name not in interrupted:
            continue
        said = RecoveryReport(path=report.path, state=report.state, ok=report.ok, losses=report.losses)
        for name, (lost_s, difference) in compare(said, witness).items():
            problems += [f"{name}: lost {lost_s:.2f} s"] if lost_s > 0.5 else []
            problems += [f"{name}: {difference}"] if difference else []
    return problems


def test_a_killed_capture_process_loses_half_a_second_at_most_and_says_so(make_place):
    draw = random.Random(5)
    kills = [(after, draw.uniform(low, high)) for after, low, high in INSTANTS]
    with ThreadPoolExecutor(2) as pool:
        jobs = {kill: pool.submit(killed_and_started_again, make_place(kill[0]), *kill) for kill in kills}
    assert {kill: job.result() for kill, job in jobs.items()} == {kill: [] for kill in kills}
