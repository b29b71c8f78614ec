"""What survives when a process is killed: the others go on (what a killed capture process keeps: test_survive.py)."""

import os
import signal
from pathlib import Path

import pytest

from recordings.reader import WeldReader
from recordings.verify import verify
from tests.acquisition.counterparts import wait_until
from tests.end_to_end.processes import Place, Watch, gone

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
