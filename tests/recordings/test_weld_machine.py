import pytest
from hypothesis import given
from hypothesis import strategies as st

from recordings.weld_machine import WeldMachine

S = 10**9


def machine(**settings: object) -> WeldMachine:
    base: dict[str, object] = {
        "key": "k",
        "first_order": 1,
        "opened_ns": 10 * S,
        "trigger": "current",
        "post_s": 2.0,
        "longest_s": 60.0,
        "photos_expected": 2,
        "photo_wait_s": 5.0,
    }
    return WeldMachine(**(base | settings))  # type: ignore[arg-type]


def test_a_weld_goes_through_its_phases():
    weld = machine()
    assert (weld.phase, weld.complete(100 * S, 100 * S)) == ("welding", False)
    weld.arc_off(20 * S)
    assert weld.phase == "post-roll"
    assert not weld.complete(22 * S, 22 * S), "the end itself must be passed"
    assert weld.complete(22 * S + 1, 22 * S)
    weld.close(99, 23 * S)
    assert (weld.phase, weld.last_order) == ("photos", 99)
    assert not weld.photos_over(28 * S)
    weld.photos += ["a", "b"]
    assert weld.photos_over(23 * S)


def test_a_silent_stream_is_waited_for_only_so_long():
    weld = machine()
    weld.arc_off(20 * S)
    assert not weld.complete(0, 22 * S + 700_000_000)
    assert weld.complete(0, 22 * S + 700_000_001)


def test_photos_are_waited_for_only_so_long():
    weld = machine()
    weld.arc_off(20 * S)
    weld.close(1, 23 * S)
    assert not weld.photos_over(28 * S)
    assert weld.photos_over(28 * S + 1)
    none = machine(photos_expected=0)
    none.arc_off(20 * S)
    none.close(1, 23 * S)
    assert none.photos_over(23 * S)


@pytest.mark.parametrize(("at_s", "too_long"), [(70, False), (70.1, True)])
def test_longest(at_s, too_long):
    weld = machine()
    assert weld.too_long(round(at_s * S)) is too_long
    weld.arc_off(20 * S)
    assert not weld.too_long(1000 * S), "it has ended already"


@given(st.lists(st.tuples(st.integers(0, 2 * S), st.integers(0, 2 * S)), min_size=1, max_size=60))
def test_a_weld_closes_once_and_in_time(steps):
    """However arrivals and stream times advance, a weld is complete as soon as either lies past the end, for good."""
    weld = machine()
    weld.arc_off(12 * S)
    slowest = arrival = 10 * S
    for stream_ns, arrival_ns in steps:
        slowest, arrival = slowest + stream_ns, arrival + arrival_ns
        assert weld.complete(slowest, arrival) == (slowest > 14 * S or arrival > 14 * S + 700_000_000)
