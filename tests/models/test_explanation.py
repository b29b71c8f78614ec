"""When in a weld the score rose, told from windows that overlap, and which names are worth telling."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.detector_contract import running_maximum
from models.explanation import MOST, Span, at_words, rises, told

SECOND = 10**9
HIGH = 9.0


def windows(count: int, length_s: int = 4) -> list[Span]:
    """One a second, as the cutter makes them."""
    return [(i * SECOND, (i + length_s) * SECOND) for i in range(count)]


def scores(count: int, *faults: tuple[float, float], least_s: float = 0.0) -> list[float]:
    """Windows are high when they hold more than `least_s` of a fault, from and to in seconds."""
    held = [max(min(i + 4, to) - max(i, begin) for begin, to in faults) for i in range(count)]
    return [HIGH if s > least_s else 0.0 for s in held]


def in_seconds(found: tuple[Span, ...]) -> list[tuple[float, float]]:
    return [(t0_ns / SECOND, t1_ns / SECOND) for t0_ns, t1_ns in found]


@given(st.floats(0.0, 15.0), st.floats(0.1, 8.0))
def test_a_fault_is_found_to_a_second(begin: float, length: float) -> None:
    found = in_seconds(rises(windows(20), scores(20, (begin, begin + length)), 2.0))
    assert len(found) == 1
    if begin < 4.0:  # the first window holds it, and none before tells since when
        assert found[0][0] == 0.0
    else:
        assert begin - 1.0 <= found[0][0] <= begin
    if begin + length < 19.0:  # the last window that does not hold it must still come
        assert begin + length <= found[0][1] <= begin + length + 1.0


@given(st.floats(4.0, 12.0), st.floats(1.0, 6.0), st.floats(0.5, 0.9))
def test_a_faint_fault_is_found_about_its_middle(begin: float, length: float, least_s: float) -> None:
    """Windows that hold but a little of it stay low, so fewer rise than there are seconds to tell it from."""
    found = in_seconds(rises(windows(22), scores(22, (begin, begin + length), least_s=least_s), 2.0))
    assert len(found) == 1
    assert abs(sum(found[0]) / 2 - (begin + length / 2)) <= 1.0


@given(st.lists(st.floats(-5.0, 9.0) | st.just(float("nan")), max_size=30), st.floats(0.01, 5.0))
def test_there_is_a_stretch_if_and_only_if_the_weld_score_is_above_the_limit(found: list[float], limit: float) -> None:
    stretches = rises(windows(len(found)), found, limit)
    assert bool(stretches) == (running_maximum(found) > limit)
    assert len(stretches) <= MOST
    assert all(0 <= t0_ns < t1_ns <= (len(found) + 3) * SECOND for t0_ns, t1_ns in stretches)
    assert all(before[1] < after[0] for before, after in pairwise(sorted(stretches)))


def test_two_faults_are_told_apart_the_worst_first_and_a_third_window_alone_is_none() -> None:
    given_scores = scores(30, (5.0, 6.0), (16.0, 18.0))
    given_scores[16] = 12.0
    given_scores[27] = 5.0
    assert in_seconds(rises(windows(30), given_scores, 2.0)) == [(16.0, 18.0), (5.0, 6.0)]


def test_a_dip_does_not_cut_a_stretch() -> None:
    given_scores = scores(20, (6.0, 12.0))
    given_scores[7] = 1.0
    assert in_seconds(rises(windows(20), given_scores, 2.0)) == [(6.0, 12.0)]


def test_a_fault_that_goes_on_ends_with_the_newest_window() -> None:
    for count in range(8, 12):
        assert in_seconds(rises(windows(count), scores(count, (8.0, 99.0)), 2.0)) == [(8.0, count + 3.0)]
    assert in_seconds(rises(windows(6), scores(6, (0.0, 99.0)), 2.0)) == [(0.0, 9.0)]


def test_one_window_of_many_that_cannot_be_judged_changes_nothing() -> None:
    given_scores = scores(20, (6.0, 12.0))
    given_scores[8] = float("nan")
    assert in_seconds(rises(windows(20), given_scores, 2.0)) == [(6.0, 12.0)]
    assert rises([], [], 2.0) == ()


@pytest.mark.parametrize(
    ("span", "finished", "words"),
    [((6.0, 9.0), True, " at 6-9 s"), ((6.2, 6.4), True, " at 6-7 s"), ((6.0, 9.0), False, " from 6 s")],
)
def test_a_stretch_in_words(span: tuple[float, float], finished: bool, words: str) -> None:
    on_ns = 5 * SECOND
    rose = ((on_ns + round(span[0] * SECOND), on_ns + round(span[1] * SECOND)),)
    assert at_words(rose, on_ns, finished=finished) == words
    assert at_words((), on_ns, finished=finished) == at_words(rose, None, finished=finished) == ""


def test_the_largest_names_are_told_and_what_is_no_number_is_not() -> None:
    z = {"a": 2.0, "b": 2.1, "c": 9.0, "d": np.float64(3.0), "e": float("nan"), "f": float("inf"), "g": 4.0}
    assert list(told(z).items()) == [("c", 9.0), ("g", 4.0), ("d", 3.0)]
    assert all(type(by) is float for by in told(z).values())
    assert told({"a": 1.9}) == {}
