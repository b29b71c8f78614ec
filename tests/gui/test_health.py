"""The lines under the health table and the list of welds: space, pre-roll, ignored arcs, what began a weld."""

import pytest

from acquisition.packet import Event
from gui.health_lines import HealthLines
from recordings.status import ReplayStatus
from tests.gui.conftest import KEY, Screen, make_status, make_weld

MB = 10**6


@pytest.fixture
def lines(screen: Screen) -> HealthLines:
    return screen.page.health.lines


@pytest.mark.parametrize(("left_s", "words", "warns"), [(7200.0, "2 h left", False), (600.0, "10 min left", True)])
def test_little_time_left_on_the_disk_is_a_warning(lines: HealthLines, left_s: float, words: str, warns: bool):
    lines.show_status(make_status(disk_left_s=left_s))
    assert words in lines.disk.text()
    assert (lines.disk.property("role") == "frozen") == warns
    lines.show_status(make_status(disk_left_s=None))
    assert "time left unknown" in lines.disk.text()
    assert lines.disk.property("role") != "frozen"


@pytest.mark.parametrize(
    ("held", "words", "warns"),
    [(40, "Pre-roll: 3.2 of 5 s", False), (255, "Pre-roll: only 3.2 of 5 s, ring full", True)],
)
def test_a_full_ring_is_a_warning(lines: HealthLines, held: int, words: str, warns: bool):
    lines.show_status(make_status(pre_s=5.0, ring_s=3.21, ring_bytes=held * MB, ring_limit_bytes=256 * MB))
    assert lines.ring.text() == words
    assert f"{held} of 256 MB" in lines.ring.toolTip()
    assert (lines.ring.property("role") == "frozen") == warns
    for roomy in (True, False):
        lines.set_roomy(roomy)
        lines.show_status(make_status(pre_s=5.0, ring_s=3.21, ring_bytes=held * MB, ring_limit_bytes=256 * MB))
        assert (lines.ring.property("role") == "frozen") == warns


def test_what_is_not_known_is_not_shown(lines: HealthLines):
    lines.show_status(make_status(ring_s=3.0, ring_bytes=256 * MB, ring_limit_bytes=256 * MB, disk_left_s=1.0))
    lines.show_status(None)
    assert lines.ring.isHidden()
    assert lines.disk.text() == "Disk: unknown"
    assert lines.disk.property("role") != "frozen"
    lines.show_status(make_status(ring_bytes=MB, ring_limit_bytes=MB))
    replay = ReplayStatus(position_s=0.0, duration_s=9.0, speed=1.0, playing=True)
    lines.show_status(make_status(replay=replay))
    assert lines.ring.isHidden()
    assert "nothing is recorded" in lines.disk.text()


def test_ignored_arcs_are_counted_beside_the_welds(screen: Screen):
    screen.show()
    ignored = screen.page.welds._ignored
    assert ignored.isHidden()
    screen.show(ignored_arcs=3)
    assert ignored.text() == "3 short arcs ignored"
    assert ignored.isVisible()


@pytest.mark.parametrize(
    ("trigger", "words"), [("light", "begun by light"), ("manual", "begun by hand"), ("external", "begun by external")]
)
def test_what_began_the_weld_is_told(screen: Screen, trigger: str, words: str):
    screen.show(welds=[make_weld()])
    assert "begun" not in screen.page.weld_info._phase.text()
    opened = Event(kind="weld_open", weld=KEY, t_ns=1, data={"trigger": trigger})
    screen.until(lambda: KEY in screen.page._tracks.triggers, lambda: screen.cell.publish("events", opened))
    screen.show(armed=False)
    assert words in screen.page.weld_info._phase.text()
    item = screen.page.welds.table.item(0, 0)
    assert item is not None
    assert words in item.toolTip()


def test_a_screen_that_came_late_knows_what_began_the_weld_too(screen: Screen):
    screen.show(welds=[make_weld(trigger="sound")])
    assert "begun by sound" in screen.page.weld_info._phase.text()
