"""The position slider of a replay, under the curves and on their axis: the whole weld, and where in it one is."""

from typing import Final

from PySide6.QtCore import QPointF, QRectF, QSize, Qt, Signal
from PySide6.QtGui import QColor, QMouseEvent, QPainter, QPaintEvent, QPen
from PySide6.QtWidgets import QSizePolicy, QWidget

from gui.axis_marks import gap_boxes, paint_arcs, paint_hatch, paint_range, paint_ticks, range_ns
from gui.rise_marks import rise_marks
from gui.seeking import set_ends
from gui.theme import INFORMATION, LARGE_PX, SMALL_PX, TEXT_PX, TOUCH_PX, plain_font, readable_on
from gui.time_axis import LEFT_PX, RIGHT_PX, TimeAxis, weld_axis
from gui.tracks import Tracks
from recordings.status import ReplayStatus

_GROOVE_PX: Final = 28.0
_HANDLE_PX: Final = 14.0
_FLAG_PX: Final = 18.0
_RISE_PX: Final = 6.0
_PLAYED_SHADE: Final = 70


class Scrubber(QWidget):
    """Shows and takes the position in the weld; the whole of its height is the handle.

    Signals:
        sought: The finger was moved, or lifted: seconds into the weld, lifted.
    """

    sought = Signal(float, bool)

    def __init__(self, tracks: Tracks) -> None:
        """Mark what `tracks` know of the weld."""
        super().__init__()
        self.setObjectName("replay_position")
        self.setToolTip(self.tr("Drag to go elsewhere in the weld (Home, End, arrow keys); A and B end what is played"))
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.setFixedHeight(TOUCH_PX)
        self._tracks = tracks
        self._replay = ReplayStatus(position_s=0.0, duration_s=0.0, speed=1.0, playing=False)
        self._origin_ns = 0
        self._at_s = 0.0
        self.time = ""
        self.state = ""

    def sizeHint(self) -> QSize:
        """Ask for one row."""
        return QSize(400, TOUCH_PX)

    def show_replay(self, replay: ReplayStatus, origin_ns: int, at_s: float) -> None:
        """Show a weld that begins at cell time `origin_ns`, standing `at_s` seconds into it."""
        self._replay, self._origin_ns, self._at_s = replay, origin_ns, at_s
        self.time = f"{at_s:.2f} / {replay.duration_s:.2f} s"
        if replay.waiting:
            self.state = self.tr("waiting for a reader")
        elif replay.playing:
            self.state = (
                self.tr("as fast as it goes") if replay.speed == 0 else self.tr("plays at {0:g}x").format(replay.speed)
            )
        else:
            self.state = self.tr("paused")
        self.setAccessibleName(self.tr("Position in the weld: {0}, {1}").format(self.time, self.state))
        self.update()

    def mousePressEvent(self, event: QMouseEvent) -> None:
        """Go there."""
        self.mouseMoveEvent(event)

    def mouseMoveEvent(self, event: QMouseEvent) -> None:
        """Go along."""
        if event.buttons() & Qt.MouseButton.LeftButton:
            self._seek(event, lifted=False)

    def mouseReleaseEvent(self, event: QMouseEvent) -> None:
        """Stay there."""
        if event.button() is Qt.MouseButton.LeftButton:
            self._seek(event, lifted=True)

    def _axis(self) -> TimeAxis:
        return weld_axis(self._origin_ns, self._replay.duration_s, self.width())

    def _seek(self, event: QMouseEvent, *, lifted: bool) -> None:
        axis = self._axis()
        self.sought.emit(axis.seconds(axis.t_ns(event.position().x())), lifted)

    def paintEvent(self, _event: QPaintEvent) -> None:
        """Paint the groove with its marks, the range, the handle, and the time in figures."""
        painter = QPainter(self)
        palette, axis = self.palette(), self._axis()
        painter.fillRect(self.rect(), palette.base())
        painter.setFont(plain_font(SMALL_PX))
        groove = QRectF(axis.left, (self.height() - _GROOVE_PX) / 2, axis.right - axis.left, _GROOVE_PX)
        at = axis.x(self._origin_ns + round(self._at_s * 1e9))
        painter.fillRect(groove, palette.window())
        played = QColor(palette.text().color())
        played.setAlpha(_PLAYED_SHADE)
        painter.fillRect(QRectF(groove.left(), groove.top(), at - groove.left(), groove.height()), played)
        paint_arcs(painter, groove, axis, self._tracks, axis.from_ns, palette.text().color())
        for _, left, right, _ in gap_boxes(axis, self._tracks):
            paint_hatch(painter, QRectF(left, groove.top(), right - left, groove.height()))
        for mark in rise_marks(self._tracks, axis.from_ns, axis.to_ns, axis.x):
            box = QRectF(mark.left, groove.bottom() - _RISE_PX, mark.right - mark.left, _RISE_PX)
            painter.fillRect(box, QColor(mark.colour))
        paint_ticks(painter, groove, axis, self._tracks, palette, 0)
        painter.setPen(QPen(palette.placeholderText().color()))
        painter.setBrush(Qt.BrushStyle.NoBrush)
        painter.drawRect(groove)
        self._paint_range(painter, groove, axis)
        self._paint_handle(painter, at)
        self._paint_words(painter)
        painter.end()

    def _paint_range(self, painter: QPainter, groove: QRectF, axis: TimeAxis) -> None:
        """Dim what is not played; flags A and B stand where they were set."""
        ends = range_ns(self._replay, self._origin_ns)
        if ends is None:
            return
        paint_range(painter, groove, axis, ends, self.palette())
        painter.setFont(plain_font(SMALL_PX, bold=True))
        for name, seconds, end_ns in zip("AB", set_ends(self._replay), ends, strict=True):
            if seconds is not None:
                x = axis.x(end_ns)
                left = x - _FLAG_PX if name == "A" else x
                flag = QRectF(left, groove.top() - 14, _FLAG_PX, 14)
                painter.fillRect(flag, QColor(INFORMATION))
                painter.setPen(readable_on(INFORMATION))
                painter.drawText(flag, Qt.AlignmentFlag.AlignCenter, name)

    def _paint_handle(self, painter: QPainter, at: float) -> None:
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        handle = QRectF(at - _HANDLE_PX / 2, 3, _HANDLE_PX, self.height() - 6)
        painter.setPen(QPen(self.palette().base().color(), 2))
        painter.setBrush(self.palette().text())
        painter.drawRoundedRect(handle, 5, 5)
        painter.setPen(QPen(self.palette().base().color(), 2))
        painter.drawLine(QPointF(at, 14), QPointF(at, self.height() - 14))

    def _paint_words(self, painter: QPainter) -> None:
        """Write the time and what the replay does to the right, the range to the left."""
        middle = Qt.AlignmentFlag.AlignVCenter
        painter.setPen(self.palette().text().color())
        room = QRectF(self.width() - RIGHT_PX + 12, 4, RIGHT_PX - 14, 28)
        painter.setFont(plain_font(LARGE_PX, bold=True))
        if painter.fontMetrics().horizontalAdvance(self.time) > room.width():
            painter.setFont(plain_font(TEXT_PX, bold=True))
        painter.drawText(room, middle, self.time)
        painter.setFont(plain_font(TEXT_PX))
        painter.drawText(QRectF(room.left(), 30, room.width(), 22), middle, self.state)
        lines = [self.tr("loop")] if self._replay.loop else []
        for name, seconds in zip("AB", set_ends(self._replay), strict=True):
            if seconds is not None:
                lines.append(f"{name} {seconds:.2f} s")
        painter.setFont(plain_font(SMALL_PX))
        box = QRectF(8, 2, LEFT_PX - 24, self.height() - 4)
        painter.drawText(box, middle, "\n".join(lines) or self.tr("whole weld"))
