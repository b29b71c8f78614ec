"""The live page on a real wire: words and shapes, staleness, border, alarms, commands, freezing."""

import time
from typing import Any

import pytest
from PySide6.QtCore import QPoint, QRect, QRectF, Qt
from PySide6.QtGui import QColor, QFontMetrics
from PySide6.QtWidgets import QTableWidget, QWidget

from acquisition.packet import Event
from acquisition.transport import Reply
from gui.calibration import calibration_words
from gui.shapes import Shape
from gui.theme import GO, INFORMATION, NO_GO, SMALL_PX, TOUCH_PX, WARNING, contrast, plain_font, readable_on
from gui.time_axis import LEFT_PX, RIGHT_PX
from gui.verdict_tile import longest_fitting
from recordings.status import Alarm, DetectorStatus, Gap
from recordings.verdict import VerdictWord
from tests.gui.conftest import INFOS, KEY, Screen, make_stream, make_verdict, make_weld


def saturated(screen: Screen, colour: str) -> int:
    """Count the pixels of the verdict tile that have exactly this colour."""
    image = screen.page.verdict_tile.grab().toImage()
    wanted = QColor(colour).rgb()
    return sum(image.pixel(x, y) == wanted for x in range(0, image.width(), 2) for y in range(0, image.height(), 2))


def words(table: QTableWidget, row: int, column: int) -> str:
    item = table.item(row, column)
    assert item is not None
    return item.text()


def test_it_says_that_it_is_connecting(screen: Screen):
    screen.page.tick()
    assert screen.page.verdict_tile.shown.word == "NO DATA"
    assert "connecting" in screen.page.verdict_tile.shown.reason
    assert "not connected" in screen.page.camera.message
    assert not screen.window.action("record").isEnabled()


@pytest.mark.parametrize(
    ("word", "shape", "colour"), [("GO", Shape.GO, GO), ("NO-GO", Shape.NO_GO, NO_GO), ("NO DATA", Shape.NO_DATA, None)]
)
def test_word_shape_and_colour(screen: Screen, word, shape, colour):
    screen.show(welds=[make_weld(verdict=make_verdict(word=word))])
    tile = screen.page.verdict_tile
    assert (tile.shown.word, tile.shown.shape) == (word, shape)
    assert word in tile.accessibleName()
    for other in (GO, NO_GO):
        assert (saturated(screen, other) > 100) == (other == colour)
    assert words(screen.page.welds.table, 0, 2) == word


def test_a_verdict_message_counts_before_the_next_status(screen: Screen):
    screen.show(welds=[make_weld(phase="photos", verdict=None)])
    assert screen.page.verdict_tile.shown.shape is Shape.PENDING
    screen.cell.announce("verdict", make_verdict(word="NO-GO"))
    screen.until(lambda: screen.page.verdict_tile.shown.word == "NO-GO")


def test_a_dead_capture_process_takes_go_and_border_away_and_both_come_back(screen: Screen):
    recording = {"recording": True, "weld": "w2", "path": "/recordings/w2"}
    screen.show(**recording, welds=[make_weld(key="w2", phase="welding", verdict=make_verdict(weld="w2"))])
    assert screen.page.recording
    assert "/recordings/w2" in screen.page.path.text()
    screen.cell.die()
    screen.late_s = 2.0
    screen.page.tick()
    page = screen.page
    assert page.verdict_tile.shown.word == "NO DATA"
    assert "capture process is gone" in page.verdict_tile.shown.reason
    assert not page.recording
    assert page.record_state.word == "UNKNOWN"
    assert "capture process is gone" in page.alarms.text
    assert words(page.welds.table, 0, 2) == "NO DATA"
    assert words(page.health.table, 0, 0) == "no streams known"
    assert not screen.window.action("mark").isEnabled()
    screen.cell.revive()
    screen.show()
    assert page.verdict_tile.accessibleName() == "Verdict: GO"
    assert "capture process is gone" in page.alarms.text, "alarms latch"


def test_the_border_shows_recording(screen: Screen):
    screen.show(welds=[])
    corner = screen.page.grab().toImage().pixelColor(3, 3)
    assert corner != QColor(WARNING)
    screen.show(recording=True, weld=KEY, path="/x", welds=[make_weld(phase="welding")])
    image = screen.page.grab().toImage()
    for x, y in ((3, 3), (image.width() - 4, 3), (3, image.height() - 4), (image.width() // 2, image.height() - 4)):
        assert image.pixelColor(x, y) == QColor(WARNING)
    assert screen.page.record_state.word == "REC"
    assert screen.page.record_state.detail == "00:12"


def test_alarms_latch_until_acknowledged(screen: Screen, qtbot):
    alarm = Alarm(number=7, utc="2026-03-01T09:00:00Z", level="error", text="disk almost full")
    screen.show(alarms=[alarm])
    assert screen.page.alarms.isVisible()
    assert "disk almost full" in screen.page.alarms.text
    screen.show(alarms=[])
    assert "disk almost full" in screen.page.alarms.text
    qtbot.keyClick(screen.window, Qt.Key.Key_A)
    assert not screen.page.alarms.isVisible()
    screen.until(lambda: bool(screen.cell.requests))
    assert (screen.cell.requests[0].kind, screen.cell.requests[0].data) == ("acknowledge", {"number": 0})
    screen.show(alarms=[alarm], armed=False)
    assert not screen.page.alarms.isVisible(), "the cell may report it once more before it hears"
    screen.show(alarms=[Alarm(number=8, utc="", level="warning", text="another")])
    assert "another" in screen.page.alarms.text


def test_a_label_reaches_the_capture_process(screen: Screen, qtbot):
    screen.show(metadata={"operator": "Ana"}, welds=[make_weld(), make_weld(key="older")])
    qtbot.keyClick(screen.window, Qt.Key.Key_3)
    screen.until(lambda: bool(screen.cell.requests))
    assert screen.cell.requests[0].data == {"weld": KEY, "label": 3, "by": "Ana"}
    screen.page.welds.table.cellClicked.emit(1, 0)
    chooser = screen.page.bar.labels
    chooser.activated.emit(chooser.findData(11))
    screen.until(lambda: len(screen.cell.requests) == 2)
    assert screen.cell.requests[1].data == {"weld": "older", "label": 11, "by": "Ana"}


def test_stop_asks_once(screen: Screen, qtbot):
    screen.show(recording=True, weld=KEY, path="/x", welds=[make_weld(phase="welding")])
    qtbot.keyClick(screen.window, Qt.Key.Key_R)
    assert "STOP?" in screen.window.action("record").text()
    assert screen.cell.requests == []
    qtbot.keyClick(screen.window, Qt.Key.Key_R)
    screen.until(lambda: bool(screen.cell.requests))
    assert [request.kind for request in screen.cell.requests] == ["stop"]


def test_a_refused_command_is_said(screen: Screen, qtbot):
    screen.show()
    screen.cell.reply = Reply(ok=False, message="the disk is full; free 2 GB")
    qtbot.keyClick(screen.window, Qt.Key.Key_R)
    screen.until(lambda: "the disk is full" in screen.page.alarms.text)


def test_a_lost_stream_is_shown_by_word(screen: Screen):
    streams = [make_stream(INFOS[0], state="lost", problem="camera unplugged", age_s=3.0), make_stream(INFOS[2])]
    screen.show(streams=streams)
    assert words(screen.page.health.table, 0, 1) == "LOST"
    assert words(screen.page.health.table, 0, 6) == "camera unplugged"
    assert "camera unplugged" in screen.page.camera.message
    assert words(screen.page.health.table, 1, 1) == "ok"


def test_sync_and_gaps_of_a_stream_are_told(screen: Screen):
    timed = make_stream(INFOS[0], sync_ms=80.2, sync_sigma_ms=4.0, clock_faults=3, dropped=7)
    gap = Gap(stream=timed.name, t_ns=time.monotonic_ns() - 10**10, missing=7, seconds=0.23, reason="device")
    screen.show(streams=[timed, make_stream(INFOS[2], sync_ms=0.0, sync_sigma_ms=0.0)], gaps=[gap])
    table = screen.page.health.table
    assert words(table, 0, 5) == "+80 ± 4 ms"
    synced, lost, near = table.item(0, 5), table.item(0, 3), table.item(1, 5)
    assert synced is not None
    assert lost is not None
    assert near is not None
    tip = synced.toolTip()
    assert "arc +80.2 ± 4.0 ms after the sensors" in tip
    assert "3 unusable time stamps" in tip
    assert synced.foreground().color() == QColor(WARNING)
    assert "7 lost (230 ms), 10.0 s ago: device" in lost.toolTip()
    assert words(table, 1, 5) == "reference"
    assert near.foreground().color() != QColor(WARNING)
    screen.show(streams=[make_stream(INFOS[0])])
    assert words(table, 0, 5) == "± 0.10 ms"


def test_streams_are_drawn_and_freezing_stops_only_the_display(screen: Screen, qtbot):
    screen.show()
    page = screen.page
    screen.until(lambda: page.camera.drawn >= 1 and page._tracks.sound.newest is not None, screen.cell.publish_all)
    assert page.camera.message == ""
    assert page._tracks.channels["current_a"].newest == 176.0
    latency = page.capture_to_screen_ms()
    assert latency is not None
    assert 0 < latency["p50"] <= latency["p95"] <= latency["p99"]
    screen.cell.publish("events", Event(kind="arc_on", weld=KEY, t_ns=1))
    screen.until(lambda: KEY in page._tracks.arcs)
    qtbot.keyClick(screen.window, Qt.Key.Key_P)
    page.tick()
    frozen, before = page.timeline.grab().toImage(), page._tracks.newest_ns
    screen.until(lambda: page._tracks.newest_ns != before, screen.cell.publish_all)
    page.tick()
    assert page.timeline.grab().toImage() == frozen
    qtbot.keyClick(screen.window, Qt.Key.Key_P)
    page.tick()
    assert page.timeline.grab().toImage() != frozen


def test_one_cursor_reads_all_curves(screen: Screen):
    screen.show()
    screen.until(lambda: screen.page._tracks.sound.newest is not None, screen.cell.publish_all)
    plain = screen.page.timeline.grab().toImage()
    screen.page.timeline.set_cursor(400.0)
    with_cursor = screen.page.timeline.grab().toImage()
    columns = {
        x
        for y in range(30, plain.height() - 30, 7)
        for x in range(LEFT_PX, plain.width() - RIGHT_PX)
        if plain.pixel(x, y) != with_cursor.pixel(x, y)
    }
    assert 1 <= len(columns) <= 3


def test_the_simulated_cell_says_so(screen: Screen):
    screen.show(simulated=False)
    assert not screen.page.weld_info.simulated
    screen.show(simulated=True)
    assert screen.page.weld_info.simulated


def test_a_label_shows_in_the_list_of_welds(screen: Screen):
    screen.show(welds=[make_weld(label=7), make_weld(key="older")])
    assert words(screen.page.welds.table, 0, 5) == "7 lack of fusion"
    assert words(screen.page.welds.table, 1, 5) == "–"
    assert screen.page.bar.labels.currentData() == 7


def test_the_tile_says_what_raised_the_score_as_far_as_it_fits(screen: Screen):
    contributions = {"sensors": 9.2, "video": 5.0, "audio": 2.7}
    screen.show(welds=[make_weld(verdict=make_verdict(word="NO-GO", contributions=contributions))])
    (why,) = screen.page.verdict_tile._whys()
    whole = "score raised by sensors +9.2, video +5.0, sound +2.7"
    metrics = screen.page.verdict_tile.fontMetrics()
    assert longest_fitting(why, metrics, metrics.horizontalAdvance(whole)) == whole
    shorter = longest_fitting(why, metrics, metrics.horizontalAdvance(whole) - 1)
    assert shorter == "score raised by sensors +9.2, video +5.0"
    assert longest_fitting(why, metrics, 20) == ""


def test_where_the_score_rose_stands_beside_a_no_go_and_over_the_curves(screen: Screen):
    now_ns = time.monotonic_ns()
    on_ns, off_ns = now_ns - 20 * 10**9, now_ns - 5 * 10**9
    rose = ((on_ns + 6 * 10**9, on_ns + 9 * 10**9), (on_ns + 12 * 10**9, on_ns + 13 * 10**9))
    page = screen.page

    def shown(word: VerdictWord, rose: tuple[tuple[int, int], ...], **changes: Any) -> int:
        """Show a verdict; returns how wide the flags over the curves are that have the colour of NO-GO."""
        verdict = make_verdict(word=word, rose=rose, contributions={"sensors": 9.2}, **changes)
        screen.show(welds=[make_weld(verdict=verdict, arc_on_ns=on_ns, arc_off_ns=off_ns)])
        image = page.timeline.grab().toImage()
        wanted = QColor(NO_GO).rgb()
        return sum(image.pixel(x, 10) == wanted for x in range(image.width()))

    tile = page.verdict_tile
    assert shown("GO", ()) == 0
    assert tile._where() == []
    both = shown("NO-GO", rose)
    assert tile._where() == ["at 6–9 s, at 12–13 s", "at 6–9 s"]
    one = shown("NO-GO", rose[:1])
    assert both > one > 50
    assert shown("GO", rose) == 0, "what the photos overruled is no alarm"
    assert tile._where() == []
    assert tile._whys()[0][0] == "score rose at 6–9 s, at 12–13 s"
    shown("NO-GO", (), disagreements={"fine: mean of the central band": 4.0})
    assert tile._whys()[1] == [
        "bead does not fit the process: texture of the central band",
        "bead misfit: texture of the central band",
    ]
    assert "texture of the central band" in tile.toolTip()
    burning = make_weld(phase="welding", verdict=make_verdict(word="NO-GO", rose=rose[:1]), arc_on_ns=on_ns)
    screen.show(recording=True, weld=KEY, welds=[burning])
    assert tile._where() == ["from 6 s"], "while the arc burns the end of a stretch may still move"


def test_the_score_bar_says_what_the_calibration_is_worth(screen: Screen):
    def said(n: int) -> str:
        screen.show(welds=[], detector=DetectorStatus(state="ready", calibration_welds=n, calibration_sessions=3))
        return screen.page.score_bar.accessibleName()

    assert said(0).endswith("false alarms aimed at 5 %; not calibrated for this cell: 0 of 19 good welds")
    assert said(12).endswith("false alarms aimed at 5 %; calibrating 12 of 19 good welds, 3 sessions")
    assert said(160).endswith("n 160 good welds, 3 sessions; 90 % range 2.5–8.1 %")
    screen.show(welds=[make_weld(verdict=make_verdict(calibration_welds=12, word="NO DATA", threshold=None))])
    assert "calibrating 12 of 19 good welds, 3 sessions" in screen.page.score_bar.accessibleName()
    screen.window.resize(1280, 800)
    screen.until(lambda: screen.window.width() == 1280)
    metrics, room = QFontMetrics(plain_font(SMALL_PX)), screen.page.score_bar.width() - 24
    for n in (0, 12, 160):
        assert longest_fitting(calibration_words(n, 40, 0.05, 19), metrics, room), n


def test_an_alarm_names_weld_and_word_once(screen: Screen):
    text = f"weld {KEY} is NO-GO: the sound least like 24 good welds"
    screen.show(alarms=[Alarm(number=1, utc="", level="error", text=text)])
    assert screen.page.alarms.text == f"▲ ALARM: {text}"
    assert screen.page.alarms.text.count("NO-GO") == 1


@pytest.mark.parametrize(("width", "height"), [(1280, 800), (1920, 1080)])
def test_every_block_has_its_room(screen: Screen, width: int, height: int):
    screen.window.resize(width, height)
    alarm = Alarm(number=1, utc="", level="error", text="disk almost full")
    screen.show(simulated=True, alarms=[alarm], recording=True, weld=KEY, welds=[make_weld(phase="welding")])
    page = screen.page
    screen.until(lambda: (screen.window.width(), screen.window.height()) == (width, height))
    screen.until(lambda: page.camera.drawn >= 1, screen.cell.publish_all)
    blocks: list[QWidget] = [page.verdict_tile, page.score_bar, page.weld_info, page.record_state, page.alarms]
    blocks += [page.camera, page.health, page.welds, page.timeline, page.bar]
    places = [QRect(block.mapTo(page, QPoint(0, 0)), block.size()) for block in blocks]
    for i, place in enumerate(places):
        assert page.rect().contains(place), blocks[i].objectName()
        for other in places[i + 1 :]:
            assert not place.intersects(other), blocks[i].objectName()
    assert page.welds.table.viewport().height() >= (5 if height > 1000 else 0.5) * TOUCH_PX
    picture = page.camera.prepare()
    assert picture.height() <= picture.width() <= 1.1 * picture.height() * 96 / 60
    if width == 1920:
        tall = {spec.key: row.height() for spec, row in page.timeline._rows(QRectF(page.timeline.rect()))}
        assert tall["current_a"] >= 36
        assert min(tall["sound"], tall["spectrogram"]) >= 40


def test_both_themes_are_readable(screen: Screen):
    screen.show(welds=[])
    for _ in range(2):
        screen.window.action("light").trigger()
        palette = screen.page.palette()
        for ink in (palette.text(), palette.placeholderText()):
            for ground in (palette.base(), palette.window()):
                assert contrast(ink.color(), ground.color()) >= 4.5
    for colour in (INFORMATION, GO, WARNING, NO_GO):
        assert contrast(readable_on(colour), QColor(colour)) >= 4.5
