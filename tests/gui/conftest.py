"""A cell that exists only on the wire: a real publisher and a real control server, driven by the test."""

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PySide6.QtCore import QCoreApplication, QEvent, QSettings
from PySide6.QtWidgets import QApplication
from pytestqt.qtbot import QtBot

from acquisition.packet import SENSOR_CHANNELS, Packet, Payload, SampleBlock, SensorRows, StreamInfo, VideoFrame
from acquisition.transport import ControlServer, Publisher, Reply, Request
from gui.cell_link import CellLink
from gui.live_page import LivePage
from gui.main_window import MainWindow
from recordings.status import CellStatus, DetectorStatus, StreamStatus, WeldStatus
from recordings.verdict import Verdict

KEY = "20260301T090000Z-1"
INFOS = (
    StreamInfo(name="camera", modality="video", rate_hz=31, height=60, width=96),
    StreamInfo(
        name="microphone", modality="audio", rate_hz=16_000, channels=("mono",), dtype="int16", device_clock="samples"
    ),
    StreamInfo(name="sensors", modality="sensors", rate_hz=9, channels=SENSOR_CHANNELS, dtype="float64"),
)


def make_verdict(**changes: Any) -> Verdict:
    plain = Verdict(
        weld=KEY,
        stage="consistency",
        final=True,
        word="GO",
        reason="looks like good welds",
        score=1.0,
        threshold=2.0,
        p_value=0.5,
        alpha=0.05,
        calibration_welds=40,
        calibration_sessions=3,
        present=("video", "audio", "sensors", "post_images"),
        photos_pending=False,
        detector="statistics",
    )
    return replace(plain, **changes)


def make_weld(**changes: Any) -> WeldStatus:
    plain = WeldStatus(
        key=KEY,
        path=f"/recordings/{KEY}",
        phase="judged",
        started_utc="2026-03-01T09:00:00+00:00",
        arc_on_ns=None,
        arc_off_ns=None,
        verdict=make_verdict(),
        label=-1,
        photos=5,
        photos_expected=5,
        present=("video", "audio", "sensors", "post_images"),
        problem=None,
    )
    return replace(plain, **changes)


def make_stream(info: StreamInfo, **changes: Any) -> StreamStatus:
    plain = StreamStatus(
        name=info.name,
        modality=info.modality,
        info=info,
        state="streaming",
        required=True,
        rate_hz=info.rate_hz,
        received=10,
        dropped=0,
        age_s=0.01,
        offset_ms=1.0,
        drift_ppm=2.0,
        sigma_ms=0.1,
        problem=None,
        segment=0,
    )
    return replace(plain, **changes)


def make_status(**changes: Any) -> CellStatus:
    plain = CellStatus(
        cell="test",
        simulated=False,
        armed=True,
        recording=False,
        weld=None,
        path=None,
        now_ns=time.monotonic_ns(),
        utc="2026-03-01T09:00:12+00:00",
        write_buffer=0.0,
        write_buffer_bytes=0,
        disk_free_bytes=10**11,
        disk_left_s=7200.0,
        streams=[make_stream(info) for info in INFOS],
        welds=[make_weld()],
        detector=DetectorStatus(state="ready", name="statistics", calibration_welds=40, calibration_sessions=3),
    )
    return replace(plain, **changes)


class WireCell:
    """Publishes what a test says, and keeps the commands that arrive."""

    def __init__(self, folder: Path) -> None:
        self.data, self.control = f"ipc://{folder}/d", f"ipc://{folder}/c"
        self.requests: list[Request] = []
        self.reply = Reply(ok=True)
        self._publisher: Publisher | None = Publisher(self.data)
        self._server = ControlServer(self.control, self._answer)
        self._order = 0

    def _answer(self, request: Request) -> Reply:
        if request.kind == "progress":
            return Reply(ok=True)
        self.requests.append(request)
        return self.reply

    def announce(self, topic: str, message: object) -> None:
        assert self._publisher is not None
        self._publisher.announce(topic, message)

    def publish(self, stream: str, payload: Payload) -> None:
        assert self._publisher is not None
        self._order += 1
        self._publisher.publish(
            Packet(
                stream=stream,
                seq=self._order,
                order=self._order,
                t_arrival_ns=time.monotonic_ns(),
                payload=payload,
            )
        )

    def publish_all(self) -> None:
        """Publish one packet of every stream."""
        now_ns = time.monotonic_ns()
        self.publish("camera", VideoFrame(pixels=np.full((60, 96), 40, np.uint8)))
        block = np.full((320, 1), 1000, np.int16)
        self.publish("microphone", SampleBlock(first_sample=0, rate_hz=16_000, samples=block))
        values = np.array([[2.0, 14.0, 7.0, 176.0, 100.0, 24.7]])
        self.publish(
            "sensors",
            SensorRows(first_row=0, values=values, t_device_ns=None, t_arrival_ns=np.array([now_ns], np.int64)),
        )

    def die(self) -> None:
        """Stop publishing, as a killed capture process does."""
        if self._publisher is not None:
            self._publisher.close()
            self._publisher = None

    def revive(self) -> None:
        """Bind again at the same place."""
        self._publisher = Publisher(self.data)

    def close(self) -> None:
        self.die()
        self._server.close()


class Screen:
    """A window on a `WireCell`, with the time that staleness is measured by in the test's hand."""

    def __init__(self, qtbot: QtBot, cell: WireCell, folder: Path) -> None:
        self._qtbot = qtbot
        self.cell = cell
        settings = QSettings(str(folder / "screen.ini"), QSettings.Format.IniFormat)
        self.window = MainWindow(CellLink(cell.data, cell.control), devices_command=("true",), settings=settings)
        self.page: LivePage = self.window.page
        self.late_s = 0.0
        self.page._clock = lambda: time.monotonic() + self.late_s
        self.window.show()

    def show(self, **changes: Any) -> CellStatus:
        """Publish a status until the page has it (a subscription takes a moment), then give it."""
        status = make_status(**changes)
        self.until(lambda: self.page.status == status, lambda: self.cell.announce("status", status))
        self.page.tick()
        return status

    def until(self, done: Callable[[], bool], again: Callable[[], None] = lambda: None) -> None:
        """Run the event loop, and `again` in each round, until `done`."""

        def round_() -> bool:
            if done():
                return True
            again()
            return False

        self._qtbot.waitUntil(round_, timeout=5000)

    def close(self) -> None:
        self.page.set_recording(False)
        self.window.close()
        self.window.deleteLater()
        QCoreApplication.sendPostedEvents(None, QEvent.Type.DeferredDelete.value)


@pytest.fixture
def cell(runtime_dir: Path) -> Iterator[WireCell]:
    cell = WireCell(runtime_dir)
    yield cell
    cell.close()


@pytest.fixture
def screen(qtbot: QtBot, cell: WireCell, runtime_dir: Path) -> Iterator[Screen]:
    before = len(QApplication.topLevelWidgets())
    screen = Screen(qtbot, cell, runtime_dir)
    yield screen
    screen.close()
    qtbot.waitUntil(lambda: len(QApplication.topLevelWidgets()) <= before, timeout=2000)
