"""What a detector calls the parts of a bead, in a welder's words; and what a calibration is worth."""

import pytest

from gui.calibration import calibration_words, false_alarm_range
from gui.explanation import bead_words, misfit_words
from models.conformal import false_alarm_range as exact_range
from models.conformal import welds_needed
from tests.gui.conftest import make_verdict


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("fine: mean of the central band", "texture of the central band"),
        ("middle: spread of the upper band", "uneven surface of the upper band"),
        ("coarse: largest anywhere", "shape at one spot"),
        ("fine: texture mix", "texture as a whole"),
        ("fine: texture mix of the oddest view", "texture in one view"),
        ("bead width", "bead width"),
        ("level 4: texture mix", "level 4: texture mix"),
        ("fine: of a kind not known here", "fine: of a kind not known here"),
    ],
)
def test_parts_of_a_bead_in_plain_words(name: str, words: str):
    assert bead_words(name) == words


def test_what_does_not_fit_is_said_once_and_only_of_a_no_go():
    found = {"middle: largest anywhere": 5.0, "middle: smallest anywhere": 4.0, "bead width": 3.0}
    assert misfit_words(make_verdict(word="NO-GO", disagreements=found)) == ["surface at one spot", "bead width"]
    assert misfit_words(make_verdict(word="GO", disagreements=found)) == []
    assert misfit_words(make_verdict(word="NO-GO")) == []


@pytest.mark.parametrize("n", [1, 19, 24, 160, 2000])
@pytest.mark.parametrize("alpha", [0.01, 0.05, 0.2])
def test_the_range_of_false_alarms_is_that_of_the_detector(n: int, alpha: float):
    assert false_alarm_range(n, alpha) == pytest.approx(exact_range(n, alpha), abs=1e-9)
    assert (false_alarm_range(n, alpha) == (0.0, 0.0)) == (n < welds_needed(alpha))


def test_what_a_calibration_is_worth():
    assert calibration_words(0, 0, 0.05, 19)[0] == "not calibrated for this cell: 0 of 19 good welds"
    assert calibration_words(12, 3, 0.05, 19)[0] == "calibrating 12 of 19 good welds, 3 sessions"
    assert calibration_words(160, 40, 0.05, 19)[0] == "n 160 good welds, 40 sessions; 90 % range 2.5–8.1 %"
