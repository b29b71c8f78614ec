"""Numbers and times of a device: wraps, losses, restarts, and single values that were misread."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from acquisition.device_count import ODD_NUMBER, ODD_TIME, TWICE, DeviceCounter, DeviceItem, DeviceSequence

PERIOD_NS = 10_000_000


def placed(items, **settings):
    """Push `(seq, ticks)`, one every 10 ms; give `(number, ticks, anew)` of what was placed, and the faults."""
    sequence: DeviceSequence[None] = DeviceSequence(100.0, 1_000_000, **settings)
    out = []
    for i, (seq, ticks) in enumerate(items):
        out += sequence.push(DeviceItem(None, seq, ticks, (i + 1) * PERIOD_NS))
    return [(item.number, item.ticks, item.anew) for item in out], dict(sequence.faults)


@given(st.sampled_from([8, 16, 32]), st.integers(1, 100), st.lists(st.integers(1, 15), max_size=200))
def test_a_counter_is_monotone_over_every_wrap(bits, before_wrap, jumps):
    counter = DeviceCounter()
    true = list(itertools.accumulate(jumps, initial=2**bits - before_wrap))
    assert [counter.follow(value % 2**bits, plausible=16) for value in true] == true


def test_a_counter_of_one_width_wraps_at_no_other():
    counter = DeviceCounter(bits=(32,))
    assert [counter.follow(value, plausible=16) for value in (254, 255, 0)] == [254, 255, None]


def test_losses_and_wraps_are_followed():
    true = [250, 251, 254, 255, 256, 257, 270]
    items = [(seq % 256, 10 * seq) for seq in true]
    assert placed(items) == ([(seq, 10 * seq, False) for seq in true], {})


def test_a_restart_is_believed_when_the_next_item_confirms_it():
    items = [(900, 9000), (901, 9010), (0, 3), (1, 13), (2, 23)]
    expected = [(900, 9000, False), (901, 9010, False), (0, 3, True), (1, 13, False), (2, 23, False)]
    assert placed(items) == (expected, {})


def test_a_counter_that_seems_to_wrap_while_the_clock_goes_back_is_a_restart():
    items = [(254, 2540), (255, 2550), (0, 3), (1, 13)]
    assert placed(items)[0][2:] == [(0, 3, True), (1, 13, False)]


def test_a_misread_number_loses_one_row_and_nothing_else():
    for wrong in (3, 912, 2**31):
        items = [(10, 100), (11, 110), (wrong, 120), (13, 130), (14, 140)]
        numbers = [10, 11, 13, 14]
        assert placed(items) == ([(n, 10 * n, False) for n in numbers], {ODD_NUMBER: 1}), wrong


def test_a_long_loss_is_no_restart():
    items = [(10, 100), (11, 110), (50_000, 500_000), (50_001, 500_010)]
    assert [item[0] for item in placed(items)[0]] == [10, 11, 50_000, 50_001]
    assert not any(item[2] for item in placed(items)[0])


def test_an_item_sent_twice_is_left_out():
    assert placed([(1, 10), (1, 10), (2, 20)]) == ([(1, 10, False), (2, 20, False)], {TWICE: 1})


def test_numbered_rows_keep_their_places_whatever_their_times_say():
    stamps = [100, 110, 7, 130, 140, 9_999_999, 160, 170]
    items = [(10 + i, ticks) for i, ticks in enumerate(stamps)]
    rows, faults = placed(items)
    assert [row[0] for row in rows] == list(range(10, 18))
    assert [row[1] for row in rows] == stamps  # as they came: the clock judges them
    assert not any(row[2] for row in rows)
    assert faults == {ODD_TIME: 2}


def test_a_clock_that_was_set_forward_is_followed_and_one_set_back_begins_a_segment():
    forward = [100, 110, 9_000_007, 9_000_017, 9_000_027]
    rows, faults = placed([(10 + i, ticks) for i, ticks in enumerate(forward)])
    assert rows == [(10 + i, ticks, False) for i, ticks in enumerate(forward)]
    assert faults == {ODD_TIME: 1}
    back = [100, 110, 7, 17, 27]
    rows, faults = placed([(10 + i, ticks) for i, ticks in enumerate(back)])
    assert rows == [(10 + i, ticks, i == 2) for i, ticks in enumerate(back)]
    assert faults == {}


def test_a_restart_after_a_few_rows_is_seen():
    items = [(0, 5), (1, 15), (0, 3), (1, 13), (2, 23)]
    assert placed(items)[0] == [(0, 5, False), (1, 15, False), (0, 3, True), (1, 13, False), (2, 23, False)]


def test_times_that_make_no_sense_at_all_lose_no_row():
    stamps = [3_000_000, 5, 900_000, 77, 2**31, 12, 12, 4_000_000, 1]
    rows, faults = placed([(10 + i, ticks) for i, ticks in enumerate(stamps)])
    assert [row[0] for row in rows] == list(range(10, 10 + len(rows)))
    assert len(rows) >= len(stamps) - 1
    assert faults[ODD_TIME] >= 4


def test_without_numbers_a_single_odd_time_is_kept_and_two_in_order_are_a_restart():
    rows, faults = placed([(None, ticks) for ticks in (100, 110, 7, 130, 140)])
    assert rows == [(i, ticks, False) for i, ticks in enumerate((100, 110, 7, 130, 140))]
    assert faults == {ODD_TIME: 1}
    rows, faults = placed([(None, ticks) for ticks in (100, 110, 7, 17, 27)])
    assert rows == [(0, 100, False), (1, 110, False), (0, 7, True), (1, 17, False), (2, 27, False)]
    assert faults == {}


def test_a_time_that_is_missing_is_the_one_before():
    assert [row[1] for row in placed([(1, None), (2, 20), (3, None), (4, 40)])[0]] == [0, 20, 20, 40]


@given(st.lists(st.tuples(st.none() | st.integers(0, 2**32 - 1), st.none() | st.integers(0, 2**40)), max_size=60))
def test_numbers_only_rise_within_a_segment_and_nothing_is_placed_twice(items):
    if any(seq is None for seq, _ in items):
        items = [(None, ticks) for _, ticks in items]
    rows, faults = placed(items)
    for before, after in itertools.pairwise(rows):
        assert after[2] or after[0] > before[0]
    assert len(rows) + faults.get(TWICE, 0) + faults.get(ODD_NUMBER, 0) in (len(items), len(items) - 1)  # one may wait
