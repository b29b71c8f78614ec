"""A replay on the page: transport, range, loop, one moment for picture, curves and slider, seeking by finger."""

import time
from typing import Any

import numpy as np
import pytest
from PySide6.QtCore import QPoint, QRect, Qt
from PySide6.QtGui import QColor
from PySide6.QtWidgets import QWidget

from acquisition.packet import Packet, VideoFrame
from acquisition.transport import Reply
from gui.actions import SPEEDS
from gui.theme import INFORMATION, TOUCH_PX
from recordings.status import Alarm, CellStatus, Gap, ReplayStatus
from tests.gui.conftest import Screen, make_weld

ORIGIN_NS = 10**13
DURATION_S = 20.0


def replay(screen: Screen, position_s: float = 3.0, **changes: Any) -> CellStatus:
    """Show where a replay stands."""
    plain = {"duration_s": DURATION_S, "speed": 1.0, "playing": False, "origin_ns": ORIGIN_NS}
    arc = {"arc_on_ns": ORIGIN_NS + 2 * 10**9, "arc_off_ns": ORIGIN_NS + 15 * 10**9}
    about = ReplayStatus(position_s=position_s, **(plain | changes))
    return screen.show(welds=[make_weld(**arc)], simulated=True, replay=about)


def sent(screen: Screen, n: int) -> list[dict[str, Any]]:
    """Wait for `n` commands, and give their data."""
    screen.until(lambda: len(screen.cell.requests) >= n)
    assert {request.kind for request in screen.cell.requests} == {"replay"}
    return [request.data for request in screen.cell.requests]


def press(screen: Screen, qtbot, *keys: Qt.Key, shift: bool = False) -> None:
    modifier = Qt.KeyboardModifier.ShiftModifier if shift else Qt.KeyboardModifier.NoModifier
    for key in keys:
        qtbot.keyClick(screen.window, key, modifier)


def test_a_replay_has_a_transport_and_a_live_cell_has_none(screen: Screen, qtbot):
    screen.show()
    page = screen.page
    assert page.replay.isHidden()
    assert page.bar.isVisible()
    assert not screen.window.action("play").isEnabled()
    replay(screen, playing=True)
    assert page.replay.isVisible()
    assert page.bar.isHidden()
    assert not screen.window.action("record").isEnabled()
    press(screen, qtbot, Qt.Key.Key_Space, Qt.Key.Key_L)
    assert sent(screen, 2) == [{"playing": False}, {"loop": True}]


def test_steps_are_frames_jumps_are_two_seconds_and_none_is_lost(screen: Screen, qtbot):
    replay(screen)
    press(screen, qtbot, Qt.Key.Key_Right)
    press(screen, qtbot, Qt.Key.Key_Right, Qt.Key.Key_Right, Qt.Key.Key_Left)
    assert sent(screen, 2) == [{"step": 1}, {"step": 1}]
    press(screen, qtbot, Qt.Key.Key_Right, Qt.Key.Key_Right, shift=True)
    screen.until(lambda: len(screen.cell.requests) >= 3 and screen.cell.requests[-1].data == {"seek_s": 7.0})
    press(screen, qtbot, Qt.Key.Key_End, Qt.Key.Key_Home)
    screen.until(lambda: screen.cell.requests[-1].data == {"seek_s": 0.0})


@pytest.mark.parametrize("action", SPEEDS)
def test_every_speed_has_an_action(screen: Screen, action: str):
    replay(screen)
    screen.window.action(action).trigger()
    assert sent(screen, 1) == [{"speed": SPEEDS[action]}]
    replay(screen, speed=SPEEDS[action])
    assert [name for name in SPEEDS if screen.window.action(name).isChecked()] == [action]
    assert screen.page.replay.bar.speed.currentData() == SPEEDS[action]


def test_a_and_b_are_set_where_it_stands_and_taken_away_again(screen: Screen, qtbot):
    replay(screen, 5.0)
    press(screen, qtbot, Qt.Key.Key_BracketLeft)
    assert sent(screen, 1)[-1] == {"range": [5.0, 20.0]}
    replay(screen, 9.0, a_s=5.0, b_s=20.0)
    assert screen.window.action("range_a").isChecked()
    assert not screen.window.action("range_b").isChecked()
    press(screen, qtbot, Qt.Key.Key_BracketRight)
    assert sent(screen, 2)[-1] == {"range": [5.0, 9.0]}
    replay(screen, 5.01, a_s=5.0, b_s=9.0, loop=True)
    press(screen, qtbot, Qt.Key.Key_BracketLeft)
    assert sent(screen, 3)[-1] == {"range": [0.0, 9.0]}
    replay(screen, 3.0, a_s=5.0, b_s=9.0)
    press(screen, qtbot, Qt.Key.Key_BracketRight)
    assert sent(screen, 4)[-1] == {"range": [0.0, 3.0]}, "A lay behind the new B"
    press(screen, qtbot, Qt.Key.Key_Backslash)
    assert sent(screen, 5)[-1] == {"range": None}


def test_the_slider_tells_time_range_and_what_it_waits_for(screen: Screen):
    replay(screen, 12.34, waiting=True, playing=True)
    slider = screen.page.replay.scrubber
    assert (slider.time, slider.state) == ("12.34 / 20.00 s", "waiting for a reader")
    assert "12.34 / 20.00 s, waiting" in slider.accessibleName()
    plain = slider.grab().toImage()
    replay(screen, 12.34, a_s=5.0, b_s=9.0)
    assert slider.state == "paused"
    wanted = QColor(INFORMATION).rgb()
    image = slider.grab().toImage()
    flags = {x for x in range(image.width()) if image.pixel(x, image.height() // 2) == wanted}
    axis = screen.page.timeline.axis
    for end_s in (5.0, 9.0):
        assert any(abs(x - axis.x(ORIGIN_NS + round(end_s * 1e9))) <= 2 for x in flags)
    assert image != plain


def test_gaps_events_and_arcs_of_the_whole_weld_are_marked_before_they_are_played(screen: Screen):
    replay(screen, 0.0)
    slider = screen.page.replay.scrubber
    plain = slider.grab().toImage()
    gap = Gap(stream="camera", t_ns=ORIGIN_NS + 10 * 10**9, missing=31, seconds=1.0, reason="device")
    replay(screen, 0.0, gaps=[gap], ticks=[(ORIGIN_NS + 17 * 10**9, "mark", "spatter")])
    marked = slider.grab().toImage()
    middle = marked.height() // 2
    rows = range(middle - 12, middle + 13)
    changed = {x for x in range(plain.width()) for y in rows if plain.pixel(x, y) != marked.pixel(x, y)}
    axis = screen.page.timeline.axis
    assert any(axis.x(ORIGIN_NS + 10 * 10**9) <= x <= axis.x(ORIGIN_NS + 11 * 10**9) for x in changed)
    assert any(abs(x - axis.x(ORIGIN_NS + 17 * 10**9)) <= 2 for x in changed)
    inside, outside = (round(axis.x(ORIGIN_NS + round(s * 1e9))) for s in (14.0, 18.5))
    assert plain.pixel(inside, middle + 8) != plain.pixel(outside, middle + 8)


def test_dragging_seeks_a_few_times_a_second_and_the_last_place_always_counts(screen: Screen, qtbot):
    replay(screen, 3.0, playing=True)
    slider, axis = screen.page.replay.scrubber, screen.page.timeline.axis
    began_s = time.monotonic()
    places = [QPoint(round(axis.x(ORIGIN_NS + ms * 10**6)), 20) for ms in range(4000, 12_000, 100)]
    qtbot.mousePress(slider, Qt.MouseButton.LeftButton, pos=places[0])
    for place in places:
        qtbot.mouseMove(slider, place)
    screen.page.tick()
    assert abs(slider._at_s - 11.9) < 0.05, "the handle stays under the finger"
    qtbot.mouseRelease(slider, Qt.MouseButton.LeftButton, pos=places[-1])
    screen.until(lambda: bool(screen.cell.requests) and screen.cell.requests[-1].data.get("playing") is True)
    data = sent(screen, 2)
    assert data[0]["playing"] is False
    assert data[-1]["seek_s"] == pytest.approx(11.9, abs=0.05)
    assert len(data) <= 3 + (time.monotonic() - began_s) / 0.1


def test_pressing_a_plot_goes_there_and_hovering_only_reads(screen: Screen, qtbot):
    replay(screen, 3.0)
    timeline = screen.page.timeline
    x = round(timeline.axis.x(ORIGIN_NS + 8 * 10**9))
    qtbot.mouseMove(timeline, QPoint(x, 100))
    screen.until(lambda: timeline._cursor_x is not None)
    assert screen.cell.requests == []
    qtbot.mouseClick(timeline, Qt.MouseButton.LeftButton, pos=QPoint(x, 100))
    data = sent(screen, 1)
    assert data[-1]["seek_s"] == pytest.approx(8.0, abs=0.02)
    assert timeline._cursor_x is None
    screen.page.tick()
    assert timeline._at_ns == pytest.approx(ORIGIN_NS + 8 * 10**9, abs=2 * 10**7)


def test_a_seek_that_is_never_reached_is_given_up(screen: Screen, qtbot, monkeypatch: pytest.MonkeyPatch):
    replay(screen, 3.0)
    seeking = screen.page.replay.bar.seeking
    seeking.seek(10.0)
    replay(screen, 3.01)
    assert seeking.target_s == 10.0
    monkeypatch.setattr(seeking, "_clock", lambda: time.monotonic() + 2.0)
    assert seeking.target_s is None
    seeking.seek(12.0)
    sent(screen, 2)
    replay(screen, 12.02)
    assert seeking._target_s is None, "it is there"


def test_picture_and_curves_show_one_moment(screen: Screen):
    replay(screen, 3.0)
    page = screen.page

    def show(at_s: float) -> None:
        frame = VideoFrame(pixels=np.full((60, 96), 40, np.uint8))
        t_ns = ORIGIN_NS + round(at_s * 1e9)
        page.on_frame(Packet(stream="camera", seq=1, order=1, t_arrival_ns=t_ns, payload=frame))

    show(3.0)
    page.tick()
    assert page.camera.message == ""
    replay(screen, 7.0)
    assert "NO PICTURE HERE" in page.camera.message
    assert "4 s away" in page.camera.message
    show(7.0)
    assert page.camera.message == ""
    assert page.replay.at_ns == page.timeline._at_ns == ORIGIN_NS + 7 * 10**9
    assert page.replay.scrubber._at_s == 7.0


@pytest.mark.parametrize(("speed", "waiting", "at_s"), [(1.0, False, 4.5), (2.0, False, 6.0), (1.0, True, 3.0)])
def test_between_two_statuses_the_cursor_moves_on_as_fast_as_it_plays(
    screen: Screen, speed: float, waiting: bool, at_s: float
):
    replay(screen, 3.0, playing=True, speed=speed, waiting=waiting)
    screen.page.replay.tick(1.5)
    assert screen.page.replay.at_ns == ORIGIN_NS + round(at_s * 1e9)


def test_the_cursor_stops_at_b_and_at_the_end(screen: Screen):
    replay(screen, 3.0, playing=True, speed=5.0, a_s=2.0, b_s=4.0)
    screen.page.replay.tick(1.0)
    assert screen.page.replay.at_ns == ORIGIN_NS + 4 * 10**9
    replay(screen, 19.0, playing=True, speed=5.0)
    screen.page.replay.tick(1.0)
    assert screen.page.replay.at_ns == ORIGIN_NS + 20 * 10**9


def test_a_replay_says_so_and_neither_simulates_nor_records_nor_labels(screen: Screen):
    replay(screen)
    page = screen.page
    assert (page.record_state.word, page.record_state.detail) == ("REPLAY", "not recording")
    assert page.record_state.grab().toImage().pixelColor(60, 4) == QColor(INFORMATION)
    assert not page.weld_info.simulated
    assert "nothing is recorded" in page.path.text()
    for name in ("label_3", "part", "describe", "freeze", "arm"):
        assert not screen.window.action(name).isEnabled(), name


def test_a_refused_seek_is_said_and_end_is_live_again_for_a_live_cell(screen: Screen, qtbot):
    replay(screen)
    screen.cell.reply = Reply(ok=False, message="seek_s nan is no number")
    press(screen, qtbot, Qt.Key.Key_Home)
    screen.until(lambda: "no number" in screen.page.alarms.text)
    screen.show()
    end, freeze = screen.window.action("end"), screen.window.action("freeze")
    assert not end.isEnabled()
    press(screen, qtbot, Qt.Key.Key_P)
    assert freeze.isChecked()
    press(screen, qtbot, Qt.Key.Key_End)
    assert not freeze.isChecked()
    assert not end.isEnabled()


@pytest.mark.parametrize(("width", "height"), [(1280, 800), (1920, 1080)])
def test_transport_and_slider_have_their_room_and_can_be_hit_with_gloves(screen: Screen, width: int, height: int):
    screen.window.resize(width, height)
    screen.until(lambda: (screen.window.width(), screen.window.height()) == (width, height))
    replay(screen, a_s=2.0, b_s=9.0)
    alarm = Alarm(number=1, utc="", level="warning", text="the detector is behind")
    screen.page.alarms.latch([alarm])
    page = screen.page
    blocks: list[QWidget] = [page.verdict_tile, page.score_bar, page.weld_info, page.record_state, page.alarms]
    blocks += [page.camera, page.health, page.timeline, page.replay.scrubber, page.replay.bar]
    blocks += [page.welds] if width == 1920 else []
    places = [QRect(block.mapTo(page, QPoint(0, 0)), block.size()) for block in blocks]
    for i, place in enumerate(places):
        assert page.rect().contains(place), blocks[i].objectName()
        assert place.height() >= blocks[i].minimumSizeHint().height(), blocks[i].objectName()
        for other in places[i + 1 :]:
            assert not place.intersects(other), blocks[i].objectName()
    bar = page.replay.bar
    controls = [child for child in bar.children() if isinstance(child, QWidget) and child.isVisible()]
    assert len(controls) == (18 if width == 1920 else 12)
    for control in (*controls, page.replay.scrubber):
        assert min(control.width(), control.height()) >= TOUCH_PX, control.objectName()
        if control in controls:
            assert bar.rect().contains(control.geometry()), control.objectName()
