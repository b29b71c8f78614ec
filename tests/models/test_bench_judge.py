"""The bench measures the work that is really done, takes its stopwatches off again, and names a part that is gone."""

from pathlib import Path
from types import SimpleNamespace

import pytest

import models.judge
import models.statistics
import sync.windows
from acquisition.packet import Event
from models.bench_judge import PARTS, PHOTOS, TOTAL, WINDOW, Part, Stopwatch, bench_judge, lines, stopwatches, summary
from models.checkpoint import Checkpoint, save_checkpoint
from models.detector_contract import DetectorError
from models.evaluation import noise_window
from models.film_detector import FilmDetector
from models.judge import WeldJudge
from models.small_encoders import WeldSmall, WeldSmallConfig
from models.statistics import StatisticsDetector
from tests.models.welds import SPEC, weld_packets, write_weld

SHIPPED = Path(__file__).parents[2] / "models" / "shipped" / "statistics"


def honest() -> list[object]:
    """Everything that a stopwatch is put around, as it is now."""
    return [
        vars(sync.windows)["cut"],
        vars(models.judge)["leave_one_out"],
        vars(models.statistics)["video_statistics"],
        vars(StatisticsDetector).copy(),
        vars(WeldJudge)["push"],
    ]


def test_parts_of_a_recorded_weld_are_measured(checkpoint: Checkpoint, tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "run", checkpoint)
    write_weld(tmp_path / "w", weld_packets(901, key="w"))
    before = honest()
    said: list[str] = []
    # The baseline was fitted on samples of another spec; it is given the windows of this one.
    found = bench_judge(tmp_path / "run", SHIPPED, weld=tmp_path / "w", windows=5, progress=said.append)
    assert honest() == before
    window, photos = found["window_ms"], found["photos_ms"]
    assert list(window)[-1] == list(photos)[-1] == TOTAL
    assert {"cut from packets", "encode window", "  video", "  audio", "  sensors", "leave-one-out"} <= set(window)
    assert {"photos into sample", "encode photos", "score of the whole"} <= set(photos)
    assert all(part["n"] == window[TOTAL]["n"] >= 5 for part in window.values())
    for times in (*window.values(), *photos.values()):
        assert 0 <= times["median"] <= times["p95"] <= times["p99"]
    for kind, parts in ((WINDOW, window), (PHOTOS, photos)):
        assert all(part["median"] <= parts[TOTAL]["median"] for part in parts.values())
        base = found["baseline_ms"][kind]["median"]
        assert found["ratio"][kind] == pytest.approx(parts[TOTAL]["median"] / base, rel=0.01, abs=0.01)
    text = "\n".join(lines(found))
    assert "  encode window" in text
    assert f"{window[TOTAL]['median']:.2f}" in text
    assert said


def test_a_weld_is_simulated_where_none_is_named() -> None:
    found = bench_judge(SHIPPED, SHIPPED, windows=1)
    assert found["window_ms"][TOTAL]["n"] > 5
    assert found["checkpoint"] == found["baseline"]


def test_every_part_of_the_network_has_its_place() -> None:
    class Untrained(FilmDetector):
        def __init__(self) -> None:
            self.inputs = SimpleNamespace(encoders=WeldSmall(WeldSmallConfig()))  # type: ignore[assignment]

    encode = vars(WeldSmall)["video"]
    with stopwatches(Untrained(), Stopwatch()):
        assert vars(WeldSmall)["video"] is not encode
    assert vars(WeldSmall)["video"] is encode
    assert "window_score" not in vars(Untrained)


def test_a_part_that_is_gone_is_named(checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    for where in ("models.statistics:gone", "models.nowhere:x", "detector:inputs.encoders.video"):
        monkeypatch.setitem(PARTS, "statistics", (*PARTS["statistics"][:3], Part("  video", where)))
        before = honest()
        with pytest.raises(DetectorError) as caught, stopwatches(checkpoint.detector, Stopwatch()):
            raise AssertionError("measured something else")
        assert str(caught.value).startswith(f"{where}: gone, so 'video' cannot be measured")
        assert "\n" not in str(caught.value)
        assert honest() == before


def test_a_stopwatch_changes_no_score_and_counts_a_part_within_itself_once(checkpoint: Checkpoint) -> None:
    window, watch = noise_window(SPEC), Stopwatch()
    plain = checkpoint.detector.process_score(window)
    with stopwatches(checkpoint.detector, watch):
        assert checkpoint.detector.process_score(window) == plain
    assert watch.spent["encode window"] >= watch.spent["video"] > 0

    def deep(n: int) -> int:
        return timed(n - 1) + 1 if n else 0

    timed = watch.around("deep", deep)
    assert timed(3) == 3
    watch.note(WINDOW, 2)
    assert watch.times[WINDOW]["deep"] == [500 * watch.spent["deep"]] * 2


def test_what_cannot_be_measured_is_refused(checkpoint: Checkpoint, tmp_path: Path) -> None:
    arc = ("arc_on", "arc_off")
    packets = [p for p in weld_packets(902) if not (isinstance(p.payload, Event) and p.payload.kind in arc)]
    write_weld(tmp_path / "w", packets)
    with pytest.raises(DetectorError, match="no window can be cut"):
        bench_judge(SHIPPED, SHIPPED, weld=tmp_path / "w")
    with pytest.raises(DetectorError, match="measure at least 1"):
        bench_judge(SHIPPED, SHIPPED, windows=0)


def test_a_summary_has_the_tail() -> None:
    assert summary(list(range(101))) == {"median": 50, "p95": 95, "p99": 99, "n": 101}
