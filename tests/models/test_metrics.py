"""Metrics against brute force and scikit-learn, ties included; intervals against what they mean."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score, roc_curve

from models.metrics import (
    auroc,
    average_precision,
    beta_binomial_interval,
    binomial_interval,
    bootstrap_interval,
    f1_max,
    fpr_at_tpr,
)

cases = st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=2, max_size=60).filter(
    lambda rows: len({bad for _, bad in rows}) == 2
)


@given(cases)
@settings(max_examples=150, deadline=None)
def test_equal_to_scikit_learn_and_to_brute_force(rows: list[tuple[int, bool]]) -> None:
    scores = np.array([s for s, _ in rows], dtype=float)
    bad = np.array([b for _, b in rows])
    pairs = [(p > n) + 0.5 * (p == n) for p in scores[bad] for n in scores[~bad]]
    assert auroc(scores, bad) == pytest.approx(np.mean(pairs))
    assert auroc(scores, bad) == pytest.approx(roc_auc_score(bad, scores))
    assert average_precision(scores, bad) == pytest.approx(average_precision_score(bad, scores))
    precision, recall, _ = precision_recall_curve(bad, scores)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    assert f1_max(scores, bad) == pytest.approx(f1.max())
    fpr, tpr, _ = roc_curve(bad, scores, drop_intermediate=False)
    assert fpr_at_tpr(scores, bad) == pytest.approx(fpr[tpr >= 0.95 - 1e-9].min())


def test_undefined_is_none() -> None:
    one = np.array([True, True])
    assert auroc(np.zeros(2), one) is None
    assert fpr_at_tpr(np.zeros(2), one) is None
    assert average_precision(np.zeros(2), ~one) is None
    assert f1_max(np.zeros(2), ~one) is None
    assert bootstrap_interval(auroc, np.zeros(2), one) is None


def test_all_bad_has_the_f1_of_its_prevalence() -> None:
    bad = np.arange(100) < 93
    assert f1_max(np.zeros(100), bad) == pytest.approx(2 * 0.93 / 1.93)


def test_bootstrap_is_seeded_and_covers() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(100):
        bad = np.arange(80) < 40
        scores = rng.normal(bad * 1.0)
        interval = bootstrap_interval(auroc, scores, bad, draws=200)
        assert interval is not None
        covered += interval[0] <= 0.7602 <= interval[1]
    assert covered >= 85
    assert bootstrap_interval(auroc, scores, bad, draws=50) == bootstrap_interval(auroc, scores, bad, draws=50)


def test_binomial_interval_is_clopper_pearson() -> None:
    low, high = binomial_interval(3, 50)
    assert binom.sf(2, 50, low) == pytest.approx(0.025)
    assert binom.cdf(3, 50, high) == pytest.approx(0.025)
    assert binomial_interval(0, 10)[0] == 0.0
    assert binomial_interval(10, 10)[1] == 1.0


def test_beta_binomial_interval_agrees_with_simulation() -> None:
    rng = np.random.default_rng(0)
    counts = []
    for _ in range(3000):
        limit = np.sort(rng.uniform(size=59))[-3]  # floor(0.05 * 60) = 3
        counts.append(int((rng.uniform(size=100) > limit).sum()))
    low, high = beta_binomial_interval(3, 59, 100)
    assert np.mean([(low <= c <= high) for c in counts]) >= 0.89
    assert abs(low - np.percentile(counts, 5)) <= 1
    assert abs(high - np.percentile(counts, 95)) <= 1
