"""`bench sync`: the baselines do what they are named for, errors are split rightly, and no verdict is flattering."""

import sys
from typing import Any

import numpy as np
import pytest

from sync.bench import GOALS_MS, SHORTEST_S, bench_sync, lines, never_worse
from sync.bench_baselines import BASELINES, BenchError, pyxdf_times
from sync.bench_losses import LossTally
from sync.bench_methods import METHODS, OURS, SOURCES, Stream, offline_times, online_times
from sync.item_count import Missed
from sync.scenarios import KINDS, draw_scenario

MS = 1_000_000


@pytest.fixture(scope="module")
def result() -> dict[str, Any]:
    return bench_sync(scenarios=2, seconds=SHORTEST_S, seed=1, kinds=("rows", "frames"))


@pytest.mark.parametrize("name", BASELINES)
@pytest.mark.parametrize("ppm", [-100, 0, 80])
def test_every_baseline_is_exact_without_latency(name: str, ppm: int) -> None:
    device_ns = 10**15 + np.arange(3000, dtype=np.int64) * 10 * MS
    true_ns = 5 * 10**13 + ((device_ns - device_ns[0]) * (1 + ppm * 1e-6)).astype(np.int64)
    assert np.abs(BASELINES[name](device_ns, true_ns, 100.0) - true_ns).max() < 2_000


def test_only_the_arrival_follows_jitter_and_only_pyxdf_smears_a_loss() -> None:
    rng = np.random.default_rng(0)
    device_ns = np.delete(np.arange(6000, dtype=np.int64) * 10 * MS, slice(2000, 2030))
    arrival_ns = np.maximum.accumulate(device_ns + (rng.gamma(2.0, 1.0, len(device_ns)) * MS).astype(np.int64))
    worst = {}
    for name, baseline in BASELINES.items():
        error_ns = baseline(device_ns, arrival_ns, 100.0) - device_ns
        worst[name] = float(np.abs(error_ns - np.median(error_ns)).max()) / MS
    assert worst["nearest"] > 4
    assert worst["pyxdf"] > 20
    assert max(worst["envelope"], worst["hull"]) < 0.4


def test_an_irregular_stream_is_not_evened_out_by_pyxdf() -> None:
    rng = np.random.default_rng(0)
    device_ns = np.cumsum(rng.integers(50, 150, 500)) * MS
    assert np.abs(pyxdf_times(device_ns, device_ns + 7 * MS, 0.0) - device_ns - 7 * MS).max() < 1_000


def test_without_pyxdf_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyxdf.pyxdf", None)
    with pytest.raises(BenchError, match="pip install pyxdf"):
        bench_sync(scenarios=1, seconds=SHORTEST_S, kinds=("rows",))


@pytest.mark.parametrize(("scenarios", "seconds"), [(3, 60.0), (8, 15.0)])
def test_too_little_to_measure_is_refused(scenarios: int, seconds: float) -> None:
    with pytest.raises(BenchError, match=f"{scenarios} scenarios of {seconds:g} s"):
        bench_sync(scenarios, seconds)


def test_a_method_sees_no_truth() -> None:
    scenario = draw_scenario(2, "frames", 30.0)
    counted = Stream.of(scenario, "neither")
    assert counted.device_ns[-1] < scenario.number[-1] * 10**9 // 30, "the running count lags after a loss"
    assert counted.counted_step_ns == round(1e9 / 30)
    assert (Stream.of(scenario, "clock").device_ns == scenario.device_ns).all()
    rows = draw_scenario(2, "rows", 30.0)
    assert (Stream.of(rows, "neither").device_ns == rows.arrival_ns).all()
    assert (Stream.of(rows, "counter").device_ns == rows.device_ns).all(), "sampling is irregular: stamps count"
    assert Stream.of(rows, "counter").counted_step_ns == 0


@pytest.mark.parametrize("kind", KINDS)
def test_our_times_are_near_the_truth(kind: Any) -> None:
    scenario = draw_scenario(1, kind, 20.0)
    for source in SOURCES[:2]:
        stream = Stream.of(scenario, source)
        for times in (online_times(stream, ()), offline_times(stream, ())):
            error_ms = np.abs(times.cell_ns - scenario.true_ns - scenario.base_ns) / MS
            assert np.median(error_ms) < 2
            assert times.sigma_ns is not None
            assert (times.sigma_ns > 0).all()


def test_nothing_but_the_arrival_leaves_the_arrival() -> None:
    scenario = draw_scenario(1, "rows", 20.0)
    stream = Stream.of(scenario, "neither")
    for times in (online_times(stream, ()), offline_times(stream, ())):
        assert (times.cell_ns == scenario.arrival_ns).all()
        assert times.sigma_ns is None


def test_there_is_a_row_for_every_kind_source_and_method(result: dict[str, Any]) -> None:
    found = {(row["kind"], row["source"], row["when"], row["method"], row["whole"]) for row in result["rows"]}
    methods = {(method.when, method.name) for method in METHODS}
    assert found == {
        (kind, source, when, name, whole)
        for kind in ("rows", "frames")
        for source in SOURCES
        for when, name in methods
        for whole in (False, True)
    }
    assert {(source, when) for _, source, when, _, _ in found} == set(GOALS_MS)
    assert all(row["recordings"] == 1 for row in result["rows"] if not row["whole"])


def test_the_error_of_the_arrival_is_the_latency(result: dict[str, Any]) -> None:
    scenario = draw_scenario(1, "frames", SHORTEST_S)
    latency_ms = (scenario.arrival_ns - scenario.true_ns - scenario.base_ns) / MS
    varying_ms = np.abs(latency_ms - np.median(latency_ms))
    (row,) = (
        row
        for row in result["rows"]
        if (row["kind"], row["source"], row["when"], row["method"], row["whole"])
        == ("frames", "counter", "offline", "nearest", False)
    )
    assert row["constant_ms"]["max"] == pytest.approx(np.median(latency_ms), abs=1e-3)
    assert row["varying_ms"]["p99"] == pytest.approx(np.quantile(varying_ms, 0.99), abs=1e-3)
    assert row["varying_p99_ms"]["max"] == row["varying_ms"]["p99"]


def test_losses_found_are_matched_with_the_truth() -> None:
    scenario = next(one for one in (draw_scenario(seed, "blocks") for seed in range(9)) if len(one.losses) == 2)
    assert not scenario.restarts
    first, second = (int(np.searchsorted(scenario.number, loss.first)) for loss in scenario.losses)
    tally = LossTally()
    tally.add(scenario, [Missed(index=first, count=scenario.losses[0].missing), Missed(index=second + 5, count=1)])
    found = tally.summary()
    assert (found["losses"], found["recall"], found["placed"], found["counted"]) == (2, 1.0, 0.5, 0.5)
    assert found["false_alarms_per_hour"] == 0
    tally.add(scenario, [Missed(index=first, count=1), Missed(index=first + 1, count=1)])
    found = tally.summary()
    assert (found["losses"], found["recall"]) == (4, 0.75)
    assert found["false_alarms_per_hour"] == pytest.approx(3600 / 240, rel=0.01)


def test_losses_without_a_counter_are_reported_by_kind(result: dict[str, Any]) -> None:
    assert [(one["kind"], one["when"]) for one in result["losses"]] == [("frames", "offline"), ("frames", "online")]
    scenario = draw_scenario(1, "frames", SHORTEST_S)
    assert all(one["losses"] == len(scenario.losses) for one in result["losses"])
    assert sum(line.startswith("  frames ") for line in lines(result)) == 2


def row(method: str, constant_ms: float, varying_ms: float) -> dict[str, Any]:
    return {
        "kind": "frames",
        "source": "clock",
        "when": "offline",
        "method": method,
        "whole": False,
        "recordings": 3,
        "constant_ms": {"p95": constant_ms},
        "varying_ms": {"p99": varying_ms},
        "varying_p99_ms": {"p95": varying_ms},
    }


def test_a_verdict_names_every_exception() -> None:
    rows = [row(OURS, 0.2, 0.1), row("hull", 0.2, 0.3), row("envelope", 1.5, 0.05)]
    verdict = never_worse(rows)["frames"]
    assert not verdict["verdict"]
    assert verdict["compared"] == 6
    assert verdict["exceptions"] == [
        "clock, offline: varying p99 0.1 ms, envelope 0.05",
        "clock, offline: varying_p99 p95 0.1 ms, envelope 0.05",
    ]
    assert never_worse(rows[:2])["frames"]["verdict"]


def test_the_table_shows_every_measured_row(result: dict[str, Any]) -> None:
    text = list(lines(result))
    measured = [row for row in result["rows"] if row["recordings"]]
    assert sum(line.startswith(("  c", "  neither,")) for line in text) == len(measured)
    assert sum("never worse:" in line for line in text) == 2
