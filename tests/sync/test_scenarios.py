"""Scenarios: what is drawn is what is said, and what a driver makes of it is the truth."""

from itertools import pairwise

import numpy as np
import pytest

from sync.scenarios import KINDS, KindName, Scenario, draw_scenario

SEEDS = range(12)


@pytest.fixture(scope="module")
def drawn() -> dict[KindName, list[Scenario]]:
    return {kind: [draw_scenario(seed, kind) for seed in SEEDS] for kind in KINDS}


def test_equal_arguments_give_equal_recordings() -> None:
    one, other = draw_scenario(3, "frames", 20.0), draw_scenario(3, "frames", 20.0)
    assert (one.arrival_ns == other.arrival_ns).all()
    assert (one.device_ns == other.device_ns).all()
    assert one.losses == other.losses
    assert draw_scenario(4, "frames", 20.0).base_ns != one.base_ns


@pytest.mark.parametrize("kind", KINDS)
def test_no_delivery_is_early_and_none_overtakes(drawn: dict[KindName, list[Scenario]], kind: KindName) -> None:
    quanta = set()
    for scenario in drawn[kind]:
        latency_ns = scenario.arrival_ns - scenario.true_ns - scenario.base_ns
        assert 0 <= latency_ns.min() < 2_000_000
        assert latency_ns.max() > 10_000_000, "spikes"
        assert (np.diff(scenario.arrival_ns) >= 0).all()
        quanta.add(scenario.quantum_ns)
        if scenario.quantum_ns:
            assert not (scenario.arrival_ns % scenario.quantum_ns).any()
    assert quanta == {0, 1_000_000}


@pytest.mark.parametrize("kind", KINDS)
def test_the_stamps_show_true_time_by_the_drift(drawn: dict[KindName, list[Scenario]], kind: KindName) -> None:
    for scenario in drawn[kind]:
        lives = np.split(np.arange(len(scenario.true_ns)), scenario.restarts)
        for life in lives:
            elapsed_ns = scenario.true_ns[life] - scenario.true_ns[life[0]]
            shown_ns = scenario.device_ns[life] - scenario.device_ns[life[0]]
            assert np.abs(shown_ns * (1 + scenario.drift) - elapsed_ns).max() < 2_000
        for before, after in pairwise(lives):
            assert scenario.device_ns[after[0]] < scenario.device_ns[before[-1]]
        assert abs(scenario.drift) <= 100e-6


@pytest.mark.parametrize("kind", KINDS)
def test_losses_are_where_the_numbers_jump(drawn: dict[KindName, list[Scenario]], kind: KindName) -> None:
    whole = 0
    for scenario in drawn[kind]:
        jumps = np.flatnonzero(np.diff(scenario.number) > 1)
        found = [(int(scenario.number[i]) + 1, int(scenario.number[i + 1] - scenario.number[i]) - 1) for i in jumps]
        assert [(loss.first, loss.missing) for loss in scenario.losses] == found
        assert sum(loss.restart for loss in scenario.losses) == len(scenario.restarts)
        assert all(loss.missing >= 3 for loss in scenario.losses)
        whole += not scenario.losses
    assert 0 < whole < len(SEEDS) / 2


@pytest.mark.parametrize("kind", KINDS)
def test_a_driver_undoes_wraps_and_finds_restarts(drawn: dict[KindName, list[Scenario]], kind: KindName) -> None:
    wraps = untold = 0
    for scenario in drawn[kind]:
        number, segment = scenario.followed()
        starts = np.flatnonzero(np.diff(segment)) + 1
        assert starts.tolist() == list(scenario.restarts)
        for life in np.split(np.arange(len(number)), starts):
            assert len(set((scenario.number[life] - number[life]).tolist())) == 1
        wraps += int(number[: starts[0] if len(starts) else None].max()) >= 1 << 16
        untold += len(starts) > scenario.segment[-1]
    assert wraps > len(SEEDS) / 3
    assert untold


def test_the_axis_of_the_count_runs_at_the_nominal_rate() -> None:
    scenario = draw_scenario(2, "frames", 30.0)
    axis_ns, segment = scenario.count_axis()
    number, _ = scenario.followed()
    assert (np.abs(axis_ns * 30 - number * 10**9) <= 15).all()
    assert segment[0] == 0


def test_a_recording_too_short_is_refused() -> None:
    with pytest.raises(ValueError, match="scenario of 5 s"):
        draw_scenario(0, "frames", 5.0)
