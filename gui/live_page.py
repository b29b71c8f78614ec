"""The live page: verdict, camera, health, last welds, curves and buttons, fed by what the capture process publishes."""

import time
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

import numpy as np
from PySide6.QtCore import Signal
from PySide6.QtGui import QAction, QPaintEvent, QResizeEvent
from PySide6.QtWidgets import QBoxLayout, QHBoxLayout, QLabel, QVBoxLayout

from acquisition.packet import Packet
from acquisition.transport import Reply
from gui.alarm_bar import AlarmBar
from gui.camera_view import CameraView
from gui.health_table import HealthTable
from gui.judgement import STALE_S, Shown, judge_screen
from gui.part_dialog import PartDialog
from gui.record_bar import RecordBar
from gui.record_state import BORDER_PX, RecordBorder, RecordState
from gui.theme import GRID_PX
from gui.timeline import Timeline
from gui.tracks import Tracks
from gui.verdict_tile import ScoreBar, VerdictTile
from gui.weld_info import ElidedLabel, WeldInfo
from gui.weld_list import WeldList
from recordings.status import CellStatus
from recordings.verdict import Score, Verdict

NOTICE_S: Final = 8.0
WIDE_PX: Final = 1600
"""From this width on health and welds stand side by side, and the time axis gets the height."""


class LivePage(RecordBorder):
    """Everything that a welder sees; takes data by method, gives commands by signal.

    Signals:
        command: A command for the capture process: kind, data.
        painted: The page has been painted for the first time.
    """

    command = Signal(str, dict)
    painted = Signal()

    def __init__(self, actions: dict[str, QAction], clock: Callable[[], float] = time.monotonic) -> None:
        """Build the page on the shared actions; `clock` gives seconds and is what staleness is measured by."""
        super().__init__()
        self.setObjectName("live_page")
        self._clock = clock
        self._started_s = clock()
        self._status: CellStatus | None = None
        self._status_s = self._started_s
        self.lateness_s: Callable[[int], float] = lambda _t_ns: 0.0
        self._verdicts: dict[str, Verdict] = {}
        self._drawn: deque[tuple[float, int]] = deque(maxlen=46)
        self._notice_s = -NOTICE_S
        self._connected = False
        self._first_paint = True
        self._tracks = Tracks()
        self.lost_messages = 0
        self.verdict_tile = VerdictTile()
        self.score_bar = ScoreBar()
        self.weld_info = WeldInfo(actions["devices"], actions["part"])
        self.record_state = RecordState()
        self.alarms = AlarmBar(actions["acknowledge"])
        self.camera = CameraView(actions["blob"], actions["freeze"])
        self.health = HealthTable()
        self.welds = WeldList()
        self.timeline = Timeline(self._tracks)
        self.bar = RecordBar(actions)
        self.path = ElidedLabel("record_path", "secondary")
        self.notice = QLabel()
        self.notice.setObjectName("notice")
        self._frozen = QLabel(self.tr("DISPLAY FROZEN (P): recording and judging go on"))
        self._frozen.setObjectName("frozen")
        self._frozen.setProperty("role", "frozen")
        self._frozen.hide()
        self._lay_out()
        actions["acknowledge"].triggered.connect(self._acknowledge)
        actions["freeze"].toggled.connect(self._freeze)
        actions["part"].triggered.connect(self._edit_part)
        self.bar.command.connect(self.command)
        self.welds.selected.connect(lambda _key: self.bar.show_status(self._fresh(), self.welds.chosen))
        self._show_state(None)
        self.tick()

    def _lay_out(self) -> None:
        header = QHBoxLayout()
        header.addWidget(self.verdict_tile, 5)
        header.addWidget(self.score_bar, 4)
        header.addWidget(self.weld_info, 5)
        header.addWidget(self.record_state)
        strip = QHBoxLayout()
        strip.addWidget(self.path, 1)
        strip.addWidget(self.notice)
        strip.addWidget(self._frozen)
        self._tables = QBoxLayout(QBoxLayout.Direction.TopToBottom)
        self._tables.addWidget(self.health)
        self._tables.addWidget(self.welds, 1)
        body = QHBoxLayout()
        body.addWidget(self.camera, 1)
        body.addLayout(self._tables, 1)
        page = QVBoxLayout(self)
        page.setContentsMargins(BORDER_PX + 6, BORDER_PX + 4, BORDER_PX + 6, BORDER_PX + 6)
        page.setSpacing(GRID_PX)
        for layout in (header, strip, body, self._tables):
            layout.setSpacing(GRID_PX)
        page.addLayout(header)
        page.addWidget(self.alarms)
        page.addLayout(strip)
        page.addLayout(body, 5)
        page.addWidget(self.timeline, 6)
        page.addWidget(self.bar)

    @property
    def status(self) -> CellStatus | None:
        """The newest status, however old."""
        return self._status

    def on_frame(self, packet: Packet) -> None:
        """Draw a camera frame."""
        self.camera.show_frame(packet)

    def on_packet(self, packet: Packet) -> None:
        """Take any other packet; it is drawn with the next tick."""
        self._tracks.push(packet)

    def on_message(self, _topic: str, message: Any) -> None:
        """Take a status, a score or a verdict."""
        if isinstance(message, CellStatus):
            self._take_status(message)
        elif isinstance(message, Score):
            self._tracks.take_score(message)
        elif isinstance(message, Verdict):
            self._tracks.take_verdict(message)
            self._verdicts[message.weld] = message
            self._show_verdict()

    def on_answer(self, kind: str, reply: Reply) -> None:
        """Tell how a command went; only a refusal is worth an alarm's weight."""
        if not reply.ok:
            self.alarms.raise_own(reply.message or self.tr("'{0}' was refused").format(kind), _utc(), "warning")
            if kind == "acknowledge":
                self.alarms.restore()
        elif reply.message:
            self.say(reply.message)

    def say(self, line: str) -> None:
        """Show a line for some seconds."""
        self.notice.setText(line)
        self._notice_s = self._clock()

    def fail(self, line: str) -> None:
        """Latch an alarm of the screen itself."""
        self.alarms.raise_own(line, _utc())

    def _take_status(self, status: CellStatus) -> None:
        late_s = self.lateness_s(status.now_ns)
        self._status, self._status_s = status, self._clock() - late_s
        if self._tracks.take_status(status):
            self.camera.forget()
        self._verdicts = {weld.key: weld.verdict for weld in status.welds if weld.verdict is not None}
        self.camera.set_streams([stream.name for stream in status.streams if stream.modality == "video"])
        self.alarms.latch(status.alarms)
        self._connected = late_s <= STALE_S
        self._show_state(self._fresh())

    def _show_state(self, status: CellStatus | None) -> None:
        """Show everything that changes with the status; None: whatever was known is not known any more."""
        self.set_recording(status is not None and status.recording)
        self.weld_info.show_status(status)
        self.health.show_status(status)
        self._show_verdict()
        self.welds.show_status(status, self.verdict_tile.shown)
        self.bar.show_status(status, self.welds.chosen)
        if status is None:
            self.path.setText(self.tr("Not known where anything is recorded"))
        elif status.recording and status.path:
            self.path.setText(self.tr("Writing to {0}").format(status.path))
        elif status.replay is not None and status.welds:
            self.path.setText(self.tr("Replay of {0}; nothing is recorded").format(status.welds[0].path))
        elif status.welds:
            self.path.setText(self.tr("Last weld in {0}").format(status.welds[0].path))
        else:
            self.path.setText(self.tr("Nothing recorded yet"))

    def _fresh(self) -> CellStatus | None:
        """Give the status if it may still be believed."""
        return self._status if self._connected else None

    def _show_verdict(self) -> None:
        shown = judge_screen(self._status, self._clock() - self._status_s, self._verdicts)
        if shown != self.verdict_tile.shown:
            self.verdict_tile.show_verdict(shown)
        self.score_bar.show_score(shown, self._running_score(shown), self._status.detector if self._status else None)

    def _running_score(self, shown: Shown) -> float | None:
        """Give the newest running score while the verdict is open; afterwards the verdict's own counts."""
        return self._tracks.running_score(shown.weld.key) if shown.provisional and shown.weld else None

    def tick(self) -> None:
        """Move everything on that moves by time alone; called 15 times a second."""
        now_s = self._clock()
        age_s = now_s - self._status_s
        if self._connected and age_s > STALE_S:
            self._connected = False
            self.fail(
                self.tr("capture process is gone: nothing received since {0}").format(
                    datetime.now().astimezone().strftime("%H:%M:%S")
                )
            )
            self._show_state(None)
        elif not self._connected:
            self._show_verdict()
        status = self._fresh()
        self.record_state.show_status(status, age_s)
        replay = status.replay if status else None
        self.camera.tick(
            self._camera_problem(),
            connected=self._connected,
            timed=replay is None,
            paused=replay is not None and not replay.playing,
        )
        self.timeline.show_until(self._now_ns(age_s))
        self._drawn.append((now_s, self.camera.drawn))
        self.health.show_screen(self.capture_to_screen_ms(300), self.lost_messages, self._drawn_hz())
        if now_s - self._notice_s > NOTICE_S and self.notice.text():
            self.notice.clear()

    def _now_ns(self, age_s: float) -> int:
        """Give the cell time of this moment; of a replay, that of its newest packet."""
        status = self._status
        if status is None or status.replay is not None:
            return self._tracks.newest_ns or time.monotonic_ns()
        return status.now_ns + round(age_s * 1e9)

    def _camera_problem(self) -> str | None:
        status = self._fresh()
        if status is None:
            return None
        stream = next((s for s in status.streams if s.name == self.camera.stream), None)
        if stream is None:
            return self.tr("this cell has no camera")
        if stream.state == "streaming":
            return None
        return f"{stream.name}: {stream.problem or stream.state}"

    def _drawn_hz(self) -> float:
        (first_s, first), (last_s, last) = self._drawn[0], self._drawn[-1]
        return (last - first) / (last_s - first_s) if last_s > first_s else 0.0

    def capture_to_screen_ms(self, newest: int | None = None) -> dict[str, float] | None:
        """Give p50, p95 and p99 of the time from capture to the end of painting; None without a drawn frame.

        Args:
            newest: Use only this many frames, or all that are remembered.
        """
        latencies = list(self.camera.latencies_ms)[-newest if newest else 0 :]
        if not latencies:
            return None
        p50, p95, p99 = np.percentile(latencies, (50, 95, 99))
        return {"p50": round(float(p50), 2), "p95": round(float(p95), 2), "p99": round(float(p99), 2)}

    def _acknowledge(self) -> None:
        if self.alarms.acknowledge():
            self.command.emit("acknowledge", {"number": 0})

    def _edit_part(self) -> None:
        status = self._fresh()
        if status is not None:
            dialog = PartDialog(status.metadata, self)
            dialog.chosen.connect(lambda metadata: self.command.emit("metadata", metadata))
            dialog.open()

    def _freeze(self, frozen: bool) -> None:
        self.camera.frozen = frozen
        self.timeline.freeze(frozen)
        self._frozen.setVisible(frozen)

    def resizeEvent(self, event: QResizeEvent) -> None:
        """Put health and welds side by side where there is room."""
        super().resizeEvent(event)
        wide = self.width() >= WIDE_PX
        self._tables.setDirection(QBoxLayout.Direction.LeftToRight if wide else QBoxLayout.Direction.TopToBottom)
        self._tables.setStretch(0, 5 if wide else 0)
        self._tables.setStretch(1, 6 if wide else 1)
        self.health.set_roomy(wide)
        self.record_state.set_roomy(wide)

    def paintEvent(self, event: QPaintEvent) -> None:
        """Paint the border; report the first time."""
        super().paintEvent(event)
        if self._first_paint:
            self._first_paint = False
            self.painted.emit()


def _utc() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
