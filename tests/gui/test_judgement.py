"""Only a fresh, final verdict of the current weld, given by a running detector, is ever shown as GO."""

import pytest

from gui.judgement import STALE_S, contribution_words, judge_screen
from gui.shapes import Shape
from recordings.status import CellStatus, DetectorStatus, ReplayStatus
from tests.gui.conftest import INFOS, KEY, make_status, make_stream, make_verdict, make_weld

VERDICTS = {KEY: make_verdict()}


def test_a_fresh_final_verdict_is_shown_as_it_is():
    for word, shape in (("GO", Shape.GO), ("NO-GO", Shape.NO_GO), ("NO DATA", Shape.NO_DATA)):
        shown = judge_screen(make_status(), 0.1, {KEY: make_verdict(word=word)})
        assert (shown.word, shown.shape, shown.provisional) == (word, shape, False)


@pytest.mark.parametrize(
    ("status", "age_s", "reason"),
    [
        (None, 3.0, "connecting"),
        (make_status(), STALE_S + 0.1, "capture process is gone"),
        (make_status(detector=DetectorStatus(state="absent")), 0.1, "not running"),
        (make_status(detector=DetectorStatus(state="failed", problem="fit of another shape")), 0.1, "another shape"),
        (make_status(welds=[]), 0.1, "no weld yet"),
        (make_status(welds=[make_weld(key="another")]), 0.1, "no verdict"),
        (make_status(welds=[make_weld(phase="failed", problem="disk full")]), 0.1, "disk full"),
    ],
)
def test_whatever_is_missing_stale_or_foreign_is_no_data(status: CellStatus | None, age_s: float, reason: str):
    shown = judge_screen(status, age_s, VERDICTS)
    assert (shown.word, shown.shape) == ("NO DATA", Shape.NO_DATA)
    assert reason in shown.reason


def test_a_running_weld_never_looks_final():
    status = make_status(recording=True, weld=KEY, welds=[make_weld(phase="welding", photos=0)])
    for final in (False, True):
        shown = judge_screen(status, 0.1, {KEY: make_verdict(final=final)})
        assert (shown.word, shown.shape) == ("GO", Shape.PENDING)
    assert judge_screen(status, 0.1, {}).word == "NO DATA"


def test_the_recorded_weld_counts_and_not_the_newest_with_a_verdict():
    running = make_weld(key="new", phase="welding", verdict=None)
    shown = judge_screen(make_status(recording=True, weld="new", welds=[running, make_weld()]), 0.1, VERDICTS)
    assert shown.weld == running
    assert shown.word == "NO DATA"


def test_a_lost_required_stream_while_welding_is_no_data():
    streams = [make_stream(INFOS[0]), make_stream(INFOS[1], state="lost")]
    welding = make_status(recording=True, weld=KEY, welds=[make_weld(phase="welding")], streams=streams)
    assert judge_screen(welding, 0.1, VERDICTS).word == "NO DATA"
    streams[1] = make_stream(INFOS[1], state="lost", required=False)
    assert judge_screen(welding, 0.1, VERDICTS).word == "GO"


def test_photos_pending_is_said_once():
    pending = "process only, photos pending"
    status = make_status(welds=[make_weld(phase="photos", photos=2)])
    open_ = judge_screen(status, 0.1, {KEY: make_verdict(final=False, photos_pending=True, reason=pending)})
    assert open_.provisional
    assert open_.reason == f"2 of 5 photos are here; {pending}"
    final = judge_screen(make_status(), 0.1, {KEY: make_verdict(photos_pending=True, reason=pending)})
    assert final.reason == f"5 of 5 photos are here; {pending}"


def test_a_reason_is_not_begun_with_its_word():
    shown = judge_screen(make_status(), 0.1, {KEY: make_verdict(word="NO-GO", reason="the sound least like good")})
    assert shown.reason == "the sound least like good"


def test_what_raised_the_score_is_said_largest_first():
    contributions = {"video": 0.4, "audio": 3.1, "sensors": -0.2, "post_images": 0.01}
    assert contribution_words(make_verdict(contributions=contributions)) == ["sound +3.1", "video +0.4"]
    assert contribution_words(make_verdict()) == []


def test_the_verdict_of_a_replayed_weld_is_that_of_the_whole_weld_wherever_the_replay_stands():
    replay = ReplayStatus(position_s=3.0, duration_s=20.0, speed=1.0, playing=True)
    status = make_status(weld=KEY, welds=[make_weld(phase="welding", photos=0)], replay=replay)
    shown = judge_screen(status, 0.1, {KEY: make_verdict(word="NO-GO")})
    assert (shown.word, shown.provisional) == ("NO-GO", False)
    assert judge_screen(status, 0.1, {KEY: make_verdict(final=False)}).provisional
