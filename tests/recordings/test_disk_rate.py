"""How long the disk will last: smoothed over minutes of recording, whatever happens between welds."""

import pytest

from recordings.disk_rate import DiskRate

MB = 10**6


def filled(rate: DiskRate, free: int, seconds: int, mb_s: float, *, now_s: float = 0.0, recording: bool = True) -> int:
    """Note a look a second while the disk fills; returns what is free in the end."""
    for n in range(1, seconds + 1):
        free -= round(mb_s * MB)
        rate.note(now_s + n, free, recording)
    return free


def test_nothing_is_told_before_it_is_known() -> None:
    rate = DiskRate()
    rate.note(0.0, 1000 * MB, True)
    filled(rate, 1000 * MB, 4, 2.0)
    assert rate.left_s(100 * MB) is None
    filled(rate, 992 * MB, 2, 2.0, now_s=4.0)
    assert rate.left_s(100 * MB) == pytest.approx(50.0)
    assert rate.left_s(-5.0) == 0.0, "the reserve is reached"


def test_one_moment_changes_little_and_minutes_change_all() -> None:
    rate = DiskRate()
    rate.note(0.0, 10_000 * MB, True)
    free = filled(rate, 10_000 * MB, 300, 2.0)
    free = filled(rate, free, 1, 60.0, now_s=300.0)
    assert rate.left_s(1000 * MB) == pytest.approx(500, rel=0.25)
    filled(rate, free, 600, 8.0, now_s=301.0)
    assert rate.left_s(1000 * MB) == pytest.approx(125, rel=0.02)


def test_pauses_and_deleted_files_do_not_count() -> None:
    rate = DiskRate()
    rate.note(0.0, 10_000 * MB, True)
    free = filled(rate, 10_000 * MB, 60, 2.0)
    before = rate.left_s(1000 * MB)
    free = filled(rate, free, 600, 0.0, now_s=60.0, recording=False)
    rate.note(700.0, free + 5000 * MB, True)
    assert rate.left_s(1000 * MB) == before == pytest.approx(500)
