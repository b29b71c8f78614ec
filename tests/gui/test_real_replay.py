"""The screen on the real replay server: a drag shows the frame under the finger, a step is a frame, curves stay."""

import threading
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PySide6.QtCore import QPoint, QSettings, Qt
from PySide6.QtWidgets import QApplication
from pytestqt.qtbot import QtBot

from gui.cell_link import CellLink
from gui.main_window import MainWindow
from recordings.reader import WeldReader
from recordings.recorder import FinishWeld
from recordings.replay import Replay
from recordings.runtime import Runtime
from recordings.status import ReplayStatus
from tests.recordings.handmade import FPS, Run, World, cell

FRAME_S = 1.0 / FPS


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> WeldReader:
    run = Run(cell(), tmp_path_factory.mktemp("welds")).feed(World(seconds=5.0, arcs=((1.0, 2.0),)).packets())
    (key,) = run.core.welds
    run.core.handle(FinishWeld(key=key))
    return WeldReader(run.core.welds[key].folder)


class ReplayScreen:
    """A window on a replay server that runs in a thread."""

    def __init__(self, qtbot: QtBot, reader: WeldReader, folder: Path) -> None:
        self._qtbot = qtbot
        place = Runtime(folder)
        self._server = Replay(reader, speed=0.0)
        self._thread = threading.Thread(target=self._server.run, args=(place,), kwargs={"keep_open": True})
        self._thread.start()
        settings = QSettings(str(folder / "screen.ini"), QSettings.Format.IniFormat)
        self.window = MainWindow(CellLink(place.data, place.control), settings=settings)
        self.page = self.window.page
        self.window.resize(1280, 800)
        self.window.show()
        self.until(lambda: self.page.status is not None)
        # The server waits for a detector before it begins; there is none here.
        self.page.command.emit("detector", {"state": "ready", "name": "none"})

    def until(self, done: Callable[[], bool]) -> None:
        self._qtbot.waitUntil(done, timeout=10_000)

    @property
    def replay(self) -> ReplayStatus:
        assert self.page.status is not None
        assert self.page.status.replay is not None
        return self.page.status.replay

    def current(self) -> list[np.ndarray]:
        """Give the curve of the current over the whole weld."""
        axis = self.page.timeline.axis
        return list(self.page._tracks.channels["current_a"].columns(axis.from_ns, axis.to_ns))

    @property
    def picture_s(self) -> float:
        """Arrival of the frame on the screen, in seconds into the weld."""
        return (self.page.camera._arrival_ns - self.replay.origin_ns) / 1e9

    def stands_at(self, at_s: float) -> None:
        """Wait until position and picture are those of a moment."""
        self.until(lambda: abs(self.replay.position_s - at_s) < FRAME_S)
        self.until(lambda: -0.01 <= self.replay.position_s - self.picture_s < 1.5 * FRAME_S)

    def close(self) -> None:
        self._server.stop.set()
        self._thread.join(10.0)
        self.window.close()
        self.window.deleteLater()


@pytest.fixture
def shown(qtbot: QtBot, reader: WeldReader, runtime_dir: Path) -> Iterator[ReplayScreen]:
    before = len(QApplication.topLevelWidgets())
    screen = ReplayScreen(qtbot, reader, runtime_dir)
    yield screen
    screen.close()
    qtbot.waitUntil(lambda: len(QApplication.topLevelWidgets()) <= before, timeout=2000)


def test_seeking_stepping_and_looping_show_the_frame_of_the_moment_and_the_same_curves(shown: ReplayScreen, qtbot):
    page = shown.page
    shown.until(lambda: shown.replay.position_s == shown.replay.duration_s)
    page.tick()
    whole = shown.current()
    assert len(whole[0]) > 10

    slider, axis = page.replay.scrubber, page.timeline.axis
    places = [QPoint(round(axis.x(shown.replay.origin_ns + ms * 10**6)), 20) for ms in range(2400, 800, -60)]
    at_s = axis.seconds(axis.t_ns(places[-1].x()))
    qtbot.mousePress(slider, Qt.MouseButton.LeftButton, pos=places[0])
    for place in places:
        qtbot.mouseMove(slider, place)
    qtbot.mouseRelease(slider, Qt.MouseButton.LeftButton, pos=places[-1])
    shown.stands_at(at_s)
    assert page.camera.message == ""

    for key, frames in ((Qt.Key.Key_Right, 1), (Qt.Key.Key_Left, -1)):
        wanted_s = shown.picture_s + frames * FRAME_S
        qtbot.keyClick(shown.window, key)
        shown.until(lambda at_s=wanted_s: abs(shown.picture_s - at_s) < 0.1 * FRAME_S)  # type: ignore[misc]
        shown.stands_at(wanted_s)

    for name, to_s in (("range_a", 1.0), ("range_b", 2.0)):
        page.replay.bar.seeking.seek(to_s)
        shown.stands_at(to_s)
        shown.window.action(name).trigger()
    shown.until(lambda: (shown.replay.a_s, shown.replay.b_s) == (1.0, 2.0))
    shown.window.action("loop").trigger()
    shown.until(lambda: shown.replay.loop)
    shown.window.action("play").trigger()
    seen: list[float] = []

    def went_round() -> bool:
        seen.append(shown.replay.position_s)
        return any(later < sooner for sooner, later in pairwise(seen))

    shown.until(went_round)
    assert all(1.0 - FRAME_S <= at_s <= 2.0 + FRAME_S for at_s in seen[1:])
    assert all(np.array_equal(before, after) for before, after in zip(whole, shown.current(), strict=True))
    assert shown.window._link.lost == 0
