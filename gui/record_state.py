"""Whether it records: a block in the header with running seconds, and a thick border round everything."""

from datetime import datetime
from typing import Final

from PySide6.QtCore import QRectF, Qt
from PySide6.QtGui import QColor, QPainter, QPaintEvent, QPen
from PySide6.QtWidgets import QWidget

from gui.theme import INFORMATION, LARGE_PX, TEXT_PX, VERDICT_PX, WARNING, plain_font, readable_on
from gui.verdict_tile import HEIGHT_PX
from recordings.status import CellStatus

BORDER_PX: Final = 10
_NARROW_PX: Final = 192
_ROOMY_PX: Final = 272
_DOT_PX: Final = 32


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
        self.word = ""
        self.detail = ""
        self._recording = False
        self._ground: str | None = None
        self.set_roomy(False)
        self.show_status(None, 0.0)

    def set_roomy(self, roomy: bool) -> None:
        """Take as much width as every word fills when written large, or just what REC needs."""
        self.setFixedSize(_ROOMY_PX if roomy else _NARROW_PX, HEIGHT_PX)

    def show_status(self, status: CellStatus | None, since_s: float) -> None:
        """Show what a status says that came `since_s` seconds ago; None if it is stale or there is none."""
        self._recording = status is not None and status.recording
        self._ground = WARNING if self._recording else None
        if status is None:
            self.word, self.detail = self.tr("UNKNOWN"), self.tr("not connected")
        elif status.recording:
            self.word, self.detail = self.tr("REC"), _minutes(_recorded_s(status) + since_s)
        elif status.replay is not None:
            self.word, self.detail = self.tr("REPLAY"), self.tr("not recording")
            self._ground = INFORMATION
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
        ground = QColor(self._ground) if self._ground else palette.base().color()
        ink = readable_on(self._ground) if self._ground else palette.text().color()
        painter.setPen(QPen(palette.mid().color()))
        painter.setBrush(ground)
        painter.drawRoundedRect(QRectF(self.rect()).adjusted(0.5, 0.5, -0.5, -0.5), 4, 4)
        dot = QRectF(14, 20, _DOT_PX, _DOT_PX)
        painter.setPen(QPen(ink, 3))
        painter.setBrush(ink if self._recording else Qt.BrushStyle.NoBrush)
        painter.drawEllipse(dot)
        painter.setPen(ink)
        _draw(painter, QRectF(_DOT_PX + 24, 8, self.width() - _DOT_PX - 28, 56), self.word)
        _draw(painter, QRectF(16, 66, self.width() - 20, 56), self.detail)
        painter.end()


def _draw(painter: QPainter, room: QRectF, words: str) -> None:
    """Write in the largest size that fits."""
    for pixels in (VERDICT_PX, LARGE_PX, TEXT_PX):
        painter.setFont(plain_font(pixels, bold=pixels != TEXT_PX))
        if painter.fontMetrics().horizontalAdvance(words) <= room.width():
            break
    painter.drawText(room, Qt.AlignmentFlag.AlignVCenter, words)


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
