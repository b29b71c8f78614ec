"""Whether it records: a block in the header with running seconds, and a thick border round everything."""

from datetime import datetime
from typing import Final

from PySide6.QtCore import QRectF, QSize, Qt
from PySide6.QtGui import QColor, QPainter, QPaintEvent, QPen
from PySide6.QtWidgets import QSizePolicy, QWidget

from gui.theme import LARGE_PX, TEXT_PX, WARNING, plain_font, readable_on
from gui.verdict_tile import HEIGHT_PX
from recordings.status import CellStatus

BORDER_PX: Final = 10


class RecordBorder(QWidget):
    """The page's frame: painted in the warning colour while a weld is being written."""

    def __init__(self) -> None:
        """Start without recording."""
        super().__init__()
        self.setObjectName("record_border")
        self.recording = False

    def set_recording(self, recording: bool) -> None:
        """Switch the border."""
        if recording != self.recording:
            self.recording = recording
            self.update()

    def paintEvent(self, _event: QPaintEvent) -> None:
        """Paint the border; it is always there, so that nothing moves when it lights up."""
        painter = QPainter(self)
        colour = QColor(WARNING) if self.recording else self.palette().window().color()
        whole = self.rect()
        inner = whole.adjusted(BORDER_PX, BORDER_PX, -BORDER_PX, -BORDER_PX)
        painter.fillRect(whole, self.palette().window())
        if self.recording:
            painter.fillRect(whole, colour)
            painter.fillRect(inner, self.palette().window())
        painter.end()


class RecordState(QWidget):
    """REC with running seconds, or armed, or not armed, or nothing known; told by shape and word."""

    def __init__(self) -> None:
        """Start without anything known."""
        super().__init__()
        self.setObjectName("record_state")
        self.setToolTip(self.tr("What the recorder does now"))
        self.setSizePolicy(QSizePolicy.Policy.Fixed, QSizePolicy.Policy.Fixed)
        self.word = ""
        self.detail = ""
        self._recording = False
        self.show_status(None, 0.0)

    def sizeHint(self) -> QSize:
        """Ask for room for the words."""
        return QSize(192, HEIGHT_PX)

    def show_status(self, status: CellStatus | None, since_s: float) -> None:
        """Show what a status says that came `since_s` seconds ago; None if it is stale or there is none."""
        self._recording = status is not None and status.recording
        if status is None:
            self.word, self.detail = self.tr("UNKNOWN"), self.tr("not connected")
        elif status.recording:
            self.word, self.detail = self.tr("REC"), _minutes(_recorded_s(status) + since_s)
        elif status.replay is not None:
            self.word, self.detail = self.tr("REPLAY"), self.tr("not recording")
        elif status.armed:
            self.word, self.detail = self.tr("ARMED"), self.tr("the arc starts it")
        else:
            self.word, self.detail = self.tr("NOT ARMED"), self.tr("not recording")
        self.setAccessibleName(f"{self.word}: {self.detail}")
        self.update()

    def paintEvent(self, _event: QPaintEvent) -> None:
        """Paint the block: a filled one while recording."""
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        palette = self.palette()
        ground = QColor(WARNING) if self._recording else palette.base().color()
        ink = readable_on(WARNING) if self._recording else palette.text().color()
        painter.setPen(QPen(palette.mid().color()))
        painter.setBrush(ground)
        painter.drawRoundedRect(QRectF(self.rect()).adjusted(0.5, 0.5, -0.5, -0.5), 4, 4)
        dot = QRectF(16, 18, 28, 28)
        painter.setPen(QPen(ink, 3))
        painter.setBrush(ink if self._recording else Qt.BrushStyle.NoBrush)
        painter.drawEllipse(dot)
        painter.setPen(ink)
        painter.setFont(plain_font(LARGE_PX, bold=True))
        painter.drawText(QRectF(54, 14, self.width() - 56, 36), Qt.AlignmentFlag.AlignVCenter, self.word)
        painter.setFont(plain_font(32 if self._recording else TEXT_PX, bold=self._recording))
        painter.drawText(QRectF(16, 56, self.width() - 24, 48), Qt.AlignmentFlag.AlignVCenter, self.detail)
        painter.end()


def _recorded_s(status: CellStatus) -> float:
    """Seconds from the start of the weld being recorded to the moment of the status."""
    weld = next((weld for weld in status.welds if weld.key == status.weld), None)
    if weld is None:
        return 0.0
    try:
        began, now = datetime.fromisoformat(weld.started_utc), datetime.fromisoformat(status.utc)
        return max(0.0, (now - began).total_seconds())
    except (ValueError, TypeError):
        return 0.0  # a clock text of another kind: count from now instead of dying


def _minutes(seconds: float) -> str:
    return f"{int(seconds) // 60:02d}:{int(seconds) % 60:02d}"
