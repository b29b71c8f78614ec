"""Conformal p-values: definitions against brute force, and the false-alarm rate that they promise."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.conformal import Calibration, false_alarm_range, p_value, threshold, welds_needed
from models.detector_contract import PATTERNS


@given(
    st.lists(st.integers(-5, 5).map(float), max_size=60),
    st.sampled_from([0.01, 0.05, 0.1, 0.2, 1 / 3]),
    st.floats(-6, 6),
)
@settings(max_examples=200, deadline=None)
def test_threshold_is_where_the_p_value_falls_to_alpha(scores: list[float], alpha: float, score: float) -> None:
    good = np.array(scores)
    limit = threshold(good, alpha)
    assert (limit is None) == (good.size < welds_needed(alpha))
    for s in (score, *scores):
        assert p_value(good, s) == (1 + sum(g >= s for g in scores)) / (len(scores) + 1)
        assert (p_value(good, s) <= alpha + 1e-12) == (limit is not None and s > limit)


def test_nineteen_welds_are_needed_at_five_per_cent() -> None:
    assert [welds_needed(a) for a in (0.05, 0.1, 0.01, 0.2, 0.03)] == [19, 9, 99, 4, 33]
    assert threshold(np.arange(18.0), 0.05) is None
    assert threshold(np.arange(19.0), 0.05) == 18.0


@pytest.mark.parametrize("n", [19, 50, 200])
def test_false_alarms_of_exchangeable_welds_stay_below_alpha(n: int) -> None:
    rng = np.random.default_rng(n)
    alarms = 0
    draws = 4000
    for _ in range(draws):
        scores = rng.standard_t(2, n + 1)
        alarms += p_value(scores[:-1], scores[-1]) <= 0.05
    exact = np.floor(0.05 * (n + 1)) / (n + 1)
    assert alarms / draws == pytest.approx(exact, abs=4 * np.sqrt(0.05 * 0.95 / draws))


def test_false_alarm_range_agrees_with_simulation() -> None:
    rng = np.random.default_rng(0)
    limits = np.array([threshold(rng.uniform(size=100), 0.05) for _ in range(4000)], dtype=float)
    low, high = false_alarm_range(100, 0.05)
    assert np.percentile(1 - limits, [5, 95]) == pytest.approx([low, high], abs=0.005)


def test_welds_without_a_modality_do_not_count_for_its_patterns() -> None:
    scores = np.zeros((15, 30))
    scores[PATTERNS.index(("audio",)), :12] = np.nan
    calibration = Calibration(cell="c", scores=scores, welds=("w",) * 30, sessions=("s",) * 30, utc="")
    assert calibration.of(("audio",)).size == 18
    assert calibration.of(("video",)).size == 30
