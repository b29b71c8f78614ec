"""The live page: verdict, camera, health, last welds, curves and buttons, fed by what the capture process publishes."""

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

from PySide6.QtCore import Signal
from PySide6.QtGui import QAction, QPaintEvent

from acquisition.packet import Packet
from acquisition.transport import Reply
from gui.judgement import STALE_S, Shown, judge_screen
from gui.page_blocks import PageBlocks
from gui.screen_lag import DrawnRate, latency_percentiles
from gui.weld_dialog import CHOSEN, NEXT, WeldDialog
from recordings.manifest import Manifest
from recordings.status import CellStatus
from recordings.verdict import Score, Verdict

NOTICE_S: Final = 8.0


class LivePage(PageBlocks):
    """Everything that a welder sees; takes data by method, gives commands by signal.

    Signals:
        command: A command for the capture process: kind, data.
        painted: The page has been painted for the first time.
        weld_chosen: Another weld is chosen in the list: the folder that it lies in, `""` for none.
    """

    command = Signal(str, dict)
    painted = Signal()
    weld_chosen = Signal(str)

    def __init__(self, actions: dict[str, QAction], clock: Callable[[], float] = time.monotonic) -> None:
        """Build the page on the shared actions; `clock` gives seconds and is what staleness is measured by."""
        super().__init__(actions)
        self.setObjectName("live_page")
        self._clock = clock
        self._actions = actions
        self._started_s = clock()
        self._status: CellStatus | None = None
        self._status_s = self._started_s
        self.lateness_s: Callable[[int], float] = lambda _t_ns: 0.0
        self._verdicts: dict[str, Verdict] = {}
        self._drawn = DrawnRate()
        self._notice_s = -NOTICE_S
        self._connected = False
        self._first_paint = True
        self.lost_messages = 0
        actions["acknowledge"].triggered.connect(self._acknowledge)
        actions["freeze"].toggled.connect(self._freeze)
        actions["part"].triggered.connect(lambda: self._edit(NEXT))
        actions["describe"].triggered.connect(lambda: self._edit(CHOSEN))
        actions["end"].triggered.connect(self._end_live)
        self.bar.command.connect(self.command)
        self.replay.command.connect(self.command)
        self.welds.selected.connect(lambda _key: self._choose())
        self._dialog: WeldDialog | None = None
        self._file: tuple[str, Manifest | None] = ("", None)
        self._show_state(None)
        self.tick()

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
        self._tracks.take_status(status)
        self._verdicts = {weld.key: weld.verdict for weld in status.welds if weld.verdict is not None}
        self.camera.set_streams([stream.name for stream in status.streams if stream.modality == "video"])
        self.alarms.latch(status.alarms)
        self._connected = late_s <= STALE_S
        self._show_state(self._fresh())

    def _show_state(self, status: CellStatus | None) -> None:
        """Show everything that changes with the status; None: whatever was known is not known any more."""
        self.set_recording(status is not None and status.recording)
        self.weld_info.show_status(status, self._tracks.triggers)
        self.health.show_status(status)
        self._show_verdict()
        self.welds.show_status(status, self.verdict_tile.shown, self._tracks.triggers)
        self._choose()
        self.replay.show_replay(status.replay if status else None)
        self._make_room()
        self._allow_end()
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
        if not shown.provisional or shown.weld is None:
            return None
        return self._tracks.running_score(shown.weld.key, self.replay.at_ns)

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
        self.replay.tick(age_s)
        self.camera.tick(
            self._camera_problem(),
            connected=self._connected,
            timed=replay is None,
            at_ns=self.replay.at_ns,
        )
        if self._status is None or self._status.replay is None:
            self.timeline.show_until(self._now_ns(age_s))
        drawn_hz = self._drawn.tick(now_s, self.camera.drawn)
        self.health.lines.show_screen(self.capture_to_screen_ms(300), self.lost_messages, drawn_hz)
        if now_s - self._notice_s > NOTICE_S and self.notice.text():
            self.notice.clear()

    def _now_ns(self, age_s: float) -> int:
        """Give the cell time of this moment."""
        return time.monotonic_ns() if self._status is None else self._status.now_ns + round(age_s * 1e9)

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

    def capture_to_screen_ms(self, newest: int | None = None) -> dict[str, float] | None:
        """Give p50, p95 and p99 of the time from capture to the end of painting; None without a drawn frame.

        Args:
            newest: Use only this many frames, or all that are remembered.
        """
        return latency_percentiles(list(self.camera.latencies_ms)[-newest if newest else 0 :])

    def _acknowledge(self) -> None:
        if self.alarms.acknowledge():
            self.command.emit("acknowledge", {"number": 0})

    def _choose(self) -> None:
        """Follow the choice in the list of welds."""
        self.bar.show_status(self._fresh(), self.welds.chosen)
        weld = self.welds.chosen_weld
        path = weld.path if weld is not None else ""
        if path != self._file[0]:
            self._file = path, None
            self.welds.show_file(None)
            self.weld_chosen.emit(path)

    def on_weld_file(self, path: str, manifest: Manifest | None) -> None:
        """Take what the folder of the chosen weld says now; None: it cannot be read from here."""
        if path != self._file[0]:
            return
        self._file = path, manifest
        self.welds.show_file(manifest)
        if self._dialog is not None:
            self._dialog.show_file(manifest)

    def _edit(self, page: int) -> None:
        status = self._fresh()
        if status is None:
            return
        self._dialog = WeldDialog(status.metadata, self.welds.chosen_weld, page, self)
        self._dialog.show_file(self._file[1])
        self._dialog.next_changed.connect(lambda metadata: self.command.emit("metadata", metadata))
        self._dialog.described.connect(lambda change: self.command.emit("describe", change))
        self._dialog.finished.connect(self._forget_dialog)
        self._dialog.open()

    def _forget_dialog(self) -> None:
        self._dialog = None

    def _freeze(self, frozen: bool) -> None:
        self.camera.frozen = frozen
        self.timeline.freeze(frozen)
        self._frozen.setVisible(frozen)
        self._allow_end()

    def _allow_end(self) -> None:
        """End goes to the end of a replay; live, back to now from a display that was frozen."""
        replay = self._fresh() is not None and self.replay.isVisibleTo(self)
        self._actions["end"].setEnabled(replay or self._actions["freeze"].isChecked())

    def _end_live(self) -> None:
        self._actions["freeze"].setChecked(False)
        self.timeline.set_cursor(None)

    def paintEvent(self, event: QPaintEvent) -> None:
        """Paint the border; report the first time."""
        super().paintEvent(event)
        if self._first_paint:
            self._first_paint = False
            self.painted.emit()


def _utc() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
