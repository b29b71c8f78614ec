"""Capture processes are killed at any instant: every weld can be read, little is lost, and what is lost is stated."""

import signal
from pathlib import Path

import pytest

from acquisition.simulated.tally import read_tally
from recordings.opening import OPEN_WELDS
from recordings.survival import survived
from recordings.verify import verify
from tests.end_to_end.processes import App, Place, Watch

pytestmark = pytest.mark.end_to_end

KILLS = 16
WORST_S = 0.5


def test_sixteen_kills_leave_every_weld_readable_and_state_every_loss(tmp_path: Path) -> None:
    with App("bench", "survive", "--n", str(KILLS), "--jobs", "4", "--out", str(tmp_path), "--json") as bench:
        done = bench.finish(150)
    assert done.code == 0, done.err
    result = done.result
    assert (result["trials"], sum(result["phases"].values())) == (KILLS, KILLS)
    assert len(result["phases"]) >= 3, "kills in several phases"
    assert result["critical_share"] >= 0.3
    assert (result["unreadable"], result["unkept"], result["stated_is_not_true"]) == ([], [], [])
    assert set(result["loss_s"]) == {"camera", "microphone", "sensors"}
    assert {name: loss["worst"] for name, loss in result["loss_s"].items() if loss["worst"] > WORST_S} == {}


@pytest.mark.parametrize("after", ["arc_on", "weld_close"])
def test_the_next_capture_process_finishes_what_a_killed_one_left(make_place, tmp_path: Path, after: str) -> None:
    tally = tmp_path / "tally"
    place: Place = make_place("cell", ("seed = 7", f"seed = 7\ntally = '{tally}'"))
    options = ["--cell", place.cell, "--root", place.root, "--runtime", place.runtime.folder, "--no-judge"]
    with App("capture", *map(str, options)) as first, Watch(place.runtime) as watch:
        watch.until(lambda: watch.happened(after), after)
        first.process.send_signal(signal.SIGKILL)
        first.process.wait()
        (key,) = [event.weld for event in watch.events if event.kind == "weld_open"]
    handed_over = read_tally(tally)
    with App("capture", *map(str, options)) as again, Watch(place.runtime) as watch:
        watch.until(lambda: watch.status is not None, "the second capture process")
        assert watch.status is not None
        assert f"{key}: recovered after a crash" in " ".join(alarm.text for alarm in watch.status.alarms)
        again.process.send_signal(signal.SIGTERM)
        assert again.finish().code == 0
    assert list((place.root / OPEN_WELDS).iterdir()) == []
    assert [line for report in verify(place.root) for line in report.problems] == []
    (folder,) = place.root.glob(f"*/*/{key}")
    weld = survived(folder, handed_over)
    assert weld.problems == []
    for name, stream in weld.streams.items():
        assert stream.exact or stream.died_in_hand, (name, stream)
        assert stream.seconds <= WORST_S, (name, stream)
