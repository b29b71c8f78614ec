"""All tracks on one time axis with one cursor: sound, tones, six sensors, score; arcs, gaps and events across them."""

import copy
from functools import lru_cache
from typing import Final

import numpy as np
from PySide6.QtCore import QCoreApplication, QEvent, QPointF, QRectF, Qt, Signal
from PySide6.QtGui import QColor, QImage, QMouseEvent, QPainter, QPaintEvent, QPen, QPolygonF, qRgb
from PySide6.QtWidgets import QSizePolicy, QWidget

from gui.axis_marks import gap_boxes, paint_arcs, paint_cursor, paint_hatch, paint_range, paint_ticks, range_ns
from gui.envelope import COLUMN_NS, EnvelopeRing, broken_line, thinned
from gui.rise_marks import paint_flags, paint_stretches, rise_marks
from gui.score_track import paint_scores, score_range
from gui.spectrogram import BANDS
from gui.theme import LARGE_PX, SMALL_PX, TEXT_PX, WARNING, plain_font
from gui.time_axis import LEFT_PX, RIGHT_PX, TimeAxis, live_axis, weld_axis
from gui.track_scale import CLIPPED, break_columns, curve_range, range_words, value_words
from gui.tracks import TRACKS, Tracks, TrackSpec
from recordings.status import ReplayStatus

EVENTS_PX: Final = 20
RULER_PX: Final = 20
_SCALE_PX: Final = 52
_CURVE_MARGIN_PX: Final = 5.0


class Timeline(QWidget):
    """Paints `Tracks`: of a live cell the `SPAN_S` seconds before now, of a replay the whole weld.

    Signals:
        sought: The finger was moved over a replay, or lifted: seconds into the weld, lifted.
    """

    sought = Signal(float, bool)

    def __init__(self, tracks: Tracks) -> None:
        """Paint `tracks`, which the page goes on filling."""
        super().__init__()
        self.setObjectName("timeline")
        self.setAccessibleName(self.tr("Curves of sound, sensors and score"))
        self.setToolTip(
            self.tr("Move along to read all curves at one moment (P freezes); in a replay, press to go there")
        )
        self.setMouseTracking(True)
        self.setAttribute(Qt.WidgetAttribute.WA_OpaquePaintEvent)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Expanding)
        self.setMinimumHeight(184)
        self._live = tracks
        self._tracks = tracks
        self._at_ns = 0
        self._origin_ns = 0
        self._replay: ReplayStatus | None = None
        self._cursor_x: float | None = None
        self._small = plain_font(SMALL_PX)
        self._value = plain_font(TEXT_PX, bold=True)
        self._large = plain_font(LARGE_PX, bold=True)

    def show_until(self, now_ns: int) -> None:
        """Show a live cell up to cell time `now_ns`; nothing moves while frozen."""
        self._show(now_ns, None, 0)

    def show_replay(self, replay: ReplayStatus, origin_ns: int, at_ns: int) -> None:
        """Show a replayed weld that begins at cell time `origin_ns`, with the cursor at `at_ns`."""
        self._show(at_ns, replay, origin_ns)

    def _show(self, at_ns: int, replay: ReplayStatus | None, origin_ns: int) -> None:
        if self._tracks is self._live:
            self._at_ns, self._replay, self._origin_ns = at_ns, replay, origin_ns
            self.update()

    def freeze(self, frozen: bool) -> None:
        """Hold the picture on a copy of the tracks while the live ones go on."""
        self._tracks = copy.deepcopy(self._live) if frozen else self._live
        self.update()

    @property
    def axis(self) -> TimeAxis:
        """The axis that is shown."""
        if self._replay is None:
            return live_axis(self._at_ns, self.width())
        return weld_axis(self._origin_ns, self._replay.duration_s, self.width())

    def set_cursor(self, x: float | None) -> None:
        """Read all curves at pixel `x`, or (None) where the replay stands, or now."""
        self._cursor_x = None if x is None else min(max(x, self.axis.left), self.axis.right)
        self.update()

    def mouseMoveEvent(self, event: QMouseEvent) -> None:
        """Take the cursor along; with the finger down, a replay too."""
        if event.buttons() & Qt.MouseButton.LeftButton and self._seeks():
            self._seek(event, lifted=False)
        else:
            self.set_cursor(event.position().x())

    def mousePressEvent(self, event: QMouseEvent) -> None:
        """Put the cursor there (touch screens have no hovering)."""
        self.mouseMoveEvent(event)

    def mouseReleaseEvent(self, event: QMouseEvent) -> None:
        """Let a replay go on from there."""
        if event.button() is Qt.MouseButton.LeftButton and self._seeks():
            self._seek(event, lifted=True)

    def _seeks(self) -> bool:
        return self._replay is not None and self._tracks is self._live

    def _seek(self, event: QMouseEvent, *, lifted: bool) -> None:
        self.set_cursor(None)
        self.sought.emit(self.axis.seconds(self.axis.t_ns(event.position().x())), lifted)

    def leaveEvent(self, event: QEvent) -> None:
        """Take the cursor away."""
        self.set_cursor(None)
        super().leaveEvent(event)

    def paintEvent(self, _event: QPaintEvent) -> None:
        """Paint everything anew."""
        painter = QPainter(self)
        palette, axis = self.palette(), self.axis
        painter.fillRect(self.rect(), palette.base())
        plot = QRectF(LEFT_PX, EVENTS_PX, axis.right - axis.left, self.height() - EVENTS_PX - RULER_PX)
        whole = QRectF(LEFT_PX, 0, plot.width(), plot.bottom())
        rows = self._rows(plot)
        marks = rise_marks(self._tracks, axis.from_ns, axis.to_ns, axis.x)
        painter.setFont(self._small)
        until_ns = min(self._at_ns, self._tracks.newest_ns or self._at_ns)
        paint_arcs(painter, whole, axis, self._tracks, until_ns, palette.text().color())
        paint_stretches(painter, plot, marks)
        self._paint_ruler(painter, plot, axis)
        for spec, row in rows:
            painter.setPen(QPen(palette.mid().color()))
            painter.drawLine(QPointF(0, row.bottom()), QPointF(self.width(), row.bottom()))
            if spec.kind == "spectrogram":
                self._paint_spectrogram(painter, row, spec, axis)
            elif spec.kind == "score":
                self._paint_scores(painter, row, spec, axis)
            else:
                ring = self._tracks.sound if spec.kind == "sound" else self._tracks.channels[spec.key]
                self._paint_ring(painter, row, spec, ring, axis)
        if self._tracks.newest_ns is None and self._replay is None:
            painter.setPen(palette.placeholderText().color())
            painter.drawText(plot, Qt.AlignmentFlag.AlignCenter, self.tr("no sound and no sensors received yet"))
        self._paint_gaps(painter, rows, axis)
        paint_ticks(painter, whole, axis, self._tracks, palette, EVENTS_PX)
        paint_flags(painter, plot, marks)
        self._paint_cursors(painter, whole, axis)
        self._paint_titles(painter, rows, axis)
        painter.end()

    @staticmethod
    def _rows(plot: QRectF) -> list[tuple[TrackSpec, QRectF]]:
        total = sum(spec.share for spec in TRACKS)
        rows, top = [], plot.top()
        for spec in TRACKS:
            height = plot.height() * spec.share / total
            rows.append((spec, QRectF(plot.left(), top, plot.width(), height)))
            top += height
        return rows

    def _paint_ring(self, painter: QPainter, row: QRectF, spec: TrackSpec, ring: EnvelopeRing, axis: TimeAxis) -> None:
        columns, low, high, step = thinned(*ring.columns(axis.from_ns, axis.to_ns))
        self._paint_clipped(painter, row, spec, axis)
        if not len(columns):
            self._paint_absent(painter, row, self.tr("nothing received"))
            return
        least, most = curve_range(spec, low, high)
        breaks = break_columns(self._tracks, spec.key) + step - 1
        x, y = broken_line(columns, low.clip(least, most), high.clip(least, most), breaks)
        x_px = row.left() + (x * COLUMN_NS - axis.from_ns) * axis.px_per_ns
        y_px = row.bottom() - _CURVE_MARGIN_PX - (y - least) * ((row.height() - 2 * _CURVE_MARGIN_PX) / (most - least))
        painter.setPen(QPen(self.palette().text().color(), 0))
        from pyqtgraph import arrayToQPath  # late: importing it takes longer than all else before the first window

        painter.setBrush(Qt.BrushStyle.NoBrush)
        painter.drawPath(arrayToQPath(x_px, y_px, connect="finite"))
        self._paint_range(painter, row, spec, least, most)

    def _paint_range(self, painter: QPainter, row: QRectF, spec: TrackSpec, least: float, most: float) -> None:
        """Write the ends of a scale to the right of its row, as far as they fit."""
        painter.setFont(self._small)
        painter.setPen(self.palette().placeholderText().color())
        box = QRectF(row.right() + 4, row.top() + 1, _SCALE_PX - 4, row.height() - 2)
        top, bottom = range_words(spec, least, most)
        if row.height() < 2.4 * SMALL_PX:
            painter.drawText(box, Qt.AlignmentFlag.AlignVCenter, top)
            return
        painter.drawText(box, Qt.AlignmentFlag.AlignTop, top)
        painter.drawText(box, Qt.AlignmentFlag.AlignBottom, bottom)

    def _paint_clipped(self, painter: QPainter, row: QRectF, spec: TrackSpec, axis: TimeAxis) -> None:
        """Mark readings at the sensor's stop by a triangle at the upper edge: they are no values."""
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(QColor(WARNING))
        for t_ns in self._tracks.clipped.get(spec.key, ()):
            if axis.from_ns < t_ns <= axis.to_ns:
                x, y = axis.x(t_ns), row.top() + 2
                painter.drawPolygon(QPolygonF([QPointF(x - 5, y + 8), QPointF(x + 5, y + 8), QPointF(x, y)]))

    def _paint_absent(self, painter: QPainter, row: QRectF, words: str) -> None:
        if self._tracks.newest_ns is not None:
            painter.setFont(self._small)
            painter.setPen(self.palette().placeholderText().color())
            painter.drawText(row, Qt.AlignmentFlag.AlignCenter, words)

    def _paint_spectrogram(self, painter: QPainter, row: QRectF, spec: TrackSpec, axis: TimeAxis) -> None:
        picture = self._tracks.spectrogram.picture(axis.from_ns, axis.to_ns)
        width = picture.shape[1]
        image = QImage(picture.data, width, BANDS, width, QImage.Format.Format_Indexed8)
        image.setColorTable(_grays(self.palette().base().color().rgb(), self.palette().text().color().rgb()))
        if picture.any():
            painter.drawImage(row.adjusted(0, 1, 0, -1), image)
            self._paint_range(painter, row, spec, 0.0, self._tracks.spectrogram.highest_hz)

    def _paint_scores(self, painter: QPainter, row: QRectF, spec: TrackSpec, axis: TimeAxis) -> None:
        points = [p for p in self._tracks.scores if axis.from_ns < p.t_ns <= axis.to_ns]
        if points:
            thresholds = self._tracks.thresholds
            paint_scores(painter, row, points, thresholds, axis.x, self.palette().text().color())
            self._paint_range(painter, row, spec, *score_range(points, thresholds))
        else:
            self._paint_absent(painter, row, self.tr("no window scored"))

    def _paint_gaps(self, painter: QPainter, rows: list[tuple[TrackSpec, QRectF]], axis: TimeAxis) -> None:
        """Hatch lost stretches with their reason; those of a stream without a track stand in the event lane."""
        painter.setFont(self._small)
        for stream, left, right, words in gap_boxes(axis, self._tracks):
            of_stream = [row for spec, row in rows if self._tracks.streams.get(spec.key) == stream]
            top, bottom = (of_stream[0].top(), of_stream[-1].bottom()) if of_stream else (2.0, EVENTS_PX - 2.0)
            paint_hatch(painter, QRectF(left, top, right - left, bottom - top))
            box = QRectF(left, top + 1, painter.fontMetrics().horizontalAdvance(words) + 8, SMALL_PX + 5)
            box.moveLeft(min(box.left(), axis.right - box.width()))
            painter.fillRect(box, self.palette().base())
            painter.setPen(QColor(WARNING))
            painter.drawText(box, Qt.AlignmentFlag.AlignCenter, words)

    def _paint_ruler(self, painter: QPainter, plot: QRectF, axis: TimeAxis) -> None:
        """Draw a thin line through the tracks and write the time under it, every some seconds."""
        for x, words in axis.ruler():
            painter.setPen(QPen(self.palette().mid().color(), 1))
            painter.drawLine(QPointF(x, plot.top()), QPointF(x, plot.bottom() + 4))
            painter.setPen(self.palette().placeholderText().color())
            painter.drawText(QRectF(x - 30, plot.bottom() + 3, 60, RULER_PX - 3), Qt.AlignmentFlag.AlignCenter, words)

    def _paint_titles(self, painter: QPainter, rows: list[tuple[TrackSpec, QRectF]], axis: TimeAxis) -> None:
        at_ns = self._at_ns if self._cursor_x is None else axis.t_ns(self._cursor_x)
        middle = Qt.AlignmentFlag.AlignVCenter
        for spec, row in rows:
            painter.setFont(self._small)
            painter.setPen(self.palette().text().color())
            title = QCoreApplication.translate("Tracks", spec.title)
            painter.drawText(QRectF(8, row.top(), LEFT_PX - 8, row.height()), middle, title)
            value = value_words(self._tracks, spec, at_ns)
            painter.setFont(self._large if row.height() >= LARGE_PX + 4 else self._value)
            box = QRectF(row.right() + _SCALE_PX, row.top(), RIGHT_PX - _SCALE_PX - 4, row.height())
            painter.drawText(box, middle, self.tr("clipped") if value == CLIPPED else value)

    def _paint_cursors(self, painter: QPainter, room: QRectF, axis: TimeAxis) -> None:
        """Draw where a replay stands, the range that it plays, and the cursor."""
        painter.setFont(self._small)
        if self._replay is not None:
            ends = range_ns(self._replay, self._origin_ns)
            if ends is not None:
                paint_range(painter, room, axis, ends, self.palette())
            paint_cursor(painter, room, axis.x(self._at_ns), "", self.palette(), wide=self._cursor_x is None)
        if self._cursor_x is not None:
            words = self.tr("{0:.2f} s").format(axis.seconds(axis.t_ns(self._cursor_x)))
            paint_cursor(painter, room, self._cursor_x, words, self.palette(), wide=False)


@lru_cache(maxsize=4)
def _grays(low: int, high: int) -> list[int]:
    """Give 256 colours from the colour of the panel to that of the text."""
    a, b = QColor(low), QColor(high)
    ends = np.array([[a.red(), a.green(), a.blue()], [b.red(), b.green(), b.blue()]], np.float64)
    return [qRgb(*(int(part) for part in ends[0] + (ends[1] - ends[0]) * level / 255)) for level in range(256)]
