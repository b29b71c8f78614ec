"""The lines under the health table: detector, screen, write buffer, pre-roll, disk."""

from collections.abc import Mapping
from typing import Final

from PySide6.QtCore import Qt
from PySide6.QtWidgets import QBoxLayout, QHBoxLayout, QLabel, QProgressBar, QVBoxLayout, QWidget

from gui.theme import WARNING
from gui.weld_info import ElidedLabel
from recordings.status import CellStatus

_SOON_S: Final = 900.0
"""Less recording time than this on the disk is shown as a warning."""
_FULL: Final = 0.97


class HealthLines(QWidget):
    """What holds for the cell as a whole."""

    def __init__(self) -> None:
        """Start with nothing known."""
        super().__init__()
        self.setObjectName("health_lines")
        self._chunk = ""
        self._role = "small"
        self.detector = ElidedLabel("health_detector", "small")
        self.disk = self._line("health_disk", self.tr("Where recordings go"))
        self.ring = self._line("health_ring", self.tr("How far back a weld could begin now, and what that takes"))
        self.lag = self._line("health_screen", self.tr("How far this screen is behind the cell"))
        self.buffer = QProgressBar()
        self.buffer.setObjectName("write_buffer")
        self.buffer.setAccessibleName(self.tr("Fill of the write buffer"))
        self.buffer.setToolTip(
            self.tr("How full the fullest queue between devices and disk is; at 100 % items are lost")
        )
        self.buffer.setRange(0, 100)
        self.buffer.setFixedSize(120, 14)
        self.buffer.setTextVisible(False)
        self._fill = self._line("write_buffer_fill", self.buffer.toolTip())
        queue = QHBoxLayout()
        queue.setSpacing(8)
        queue.addWidget(self._fill)
        queue.addWidget(self.buffer)
        queue.addStretch(1)
        self._top = QBoxLayout(QBoxLayout.Direction.LeftToRight)
        self._top.addWidget(self.detector, 1)
        self._top.addWidget(self.lag)
        self._bottom = QBoxLayout(QBoxLayout.Direction.LeftToRight)
        self._bottom.addLayout(queue)
        self._bottom.addWidget(self.ring)
        self._bottom.addWidget(self.disk, 1)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(2)
        layout.addLayout(self._top)
        layout.addLayout(self._bottom)

    def set_roomy(self, roomy: bool) -> None:
        """Put the lines under one another where there is room for that."""
        direction = QBoxLayout.Direction.TopToBottom if roomy else QBoxLayout.Direction.LeftToRight
        for lines in (self._top, self._bottom):
            lines.setDirection(direction)
            lines.setSpacing(8)
        self._role = "secondary" if roomy else "small"
        for label in (self.detector, self.lag, self.disk, self.ring, self._fill):
            _set_role(label, self._role)

    def _line(self, name: str, tip: str) -> QLabel:
        label = QLabel()
        label.setObjectName(name)
        label.setProperty("role", "small")
        label.setToolTip(tip)
        label.setTextFormat(Qt.TextFormat.PlainText)
        return label

    def show_status(self, status: CellStatus | None) -> None:
        """Show a status; None: nothing is known now."""
        if status is None:
            self.detector.setText(self.tr("Detector: unknown"))
            self.disk.setText(self.tr("Disk: unknown"))
            self.ring.hide()
            for label in (self.disk, self.ring):
                _set_role(label, self._role)
            self._fill.setText(self.tr("Write buffer: unknown"))
            self.buffer.setValue(0)
            return
        self._fill.setText(self.tr("Write buffer {0:.0f} %").format(100 * status.write_buffer))
        self.buffer.setValue(round(100 * status.write_buffer))
        full = status.write_buffer > 0.5
        chunk = WARNING if full else self.palette().placeholderText().color().name()
        if chunk != self._chunk:
            self._chunk = chunk
            self.buffer.setStyleSheet(f"QProgressBar::chunk {{ background: {chunk}; }}")
        self._show_space(status)
        self.detector.setText(self._detector_line(status))

    def _show_space(self, status: CellStatus) -> None:
        """Say how much room and time the disk has, and how much of the past the ring holds."""
        if status.replay is not None:
            self.disk.setText(self.tr("Disk: nothing is recorded"))
            self.ring.hide()
            return
        free = self.tr("{0:.0f} GB free").format(status.disk_free_bytes / 1e9)
        left = self.tr("time left unknown") if status.disk_left_s is None else _left(status.disk_left_s)
        self.disk.setText(self.tr("Disk: {0}, {1}").format(free, left))
        _set_role(
            self.disk, "frozen" if status.disk_left_s is not None and status.disk_left_s < _SOON_S else self._role
        )
        held, limit = status.ring_bytes / 1e6, status.ring_limit_bytes / 1e6
        full = 0 < _FULL * limit <= held and status.ring_s < status.pre_s
        words = (
            self.tr("Pre-roll: only {0:.1f} of {1:g} s, ring full") if full else self.tr("Pre-roll: {0:.1f} of {1:g} s")
        )
        self.ring.setText(words.format(status.ring_s, status.pre_s))
        self.ring.setVisible(limit > 0)
        self.ring.setToolTip(self.tr("{0:.0f} of {1:.0f} MB; a weld could begin so far back now").format(held, limit))
        _set_role(self.ring, "frozen" if full else self._role)

    def show_screen(self, latency_ms: Mapping[str, float] | None, lost: int, drawn_hz: float) -> None:
        """Show how far the screen lags and what was lost on the way to it."""
        if latency_ms is None and drawn_hz == 0:
            words = self.tr("Screen: no pictures now")
        elif latency_ms is None:
            words = self.tr("Screen: {0:.0f} pictures/s").format(drawn_hz)
        else:
            words = self.tr("Screen: {0:.0f} ms behind (95 %: {1:.0f}), {2:.0f} pictures/s").format(
                latency_ms["p50"], latency_ms["p95"], drawn_hz
            )
        if lost:
            words += self.tr("; {0} messages lost on the way here").format(lost)
        if words != self.lag.text():
            self.lag.setText(words)

    def _detector_line(self, status: CellStatus) -> str:
        detector = status.detector
        words = self.tr("Detector: {0} {1}").format(detector.name, detector.state)
        if detector.latency_ms is not None and status.replay is None:
            words += self.tr(", {0:.0f} ms (95 %: {1:.0f})").format(*detector.latency_ms)
        return f"{words}: {detector.problem}" if detector.problem else words


def _set_role(label: QLabel, role: str) -> None:
    if label.property("role") != role:
        label.setProperty("role", role)
        label.style().unpolish(label)
        label.style().polish(label)


def _left(seconds: float) -> str:
    hours = seconds / 3600
    return f"{hours:.0f} h left" if hours >= 2 else f"{seconds / 60:.0f} min left"
