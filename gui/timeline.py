"""All tracks on one time axis with one cursor: sound, tones, six sensors, score; arcs, gaps and events across them."""

import copy
from functools import lru_cache
from typing import Final

import numpy as np
from PySide6.QtCore import QCoreApplication, QEvent, QPointF, QRectF, Qt
from PySide6.QtGui import QBrush, QColor, QImage, QMouseEvent, QPainter, QPaintEvent, QPen, QPolygonF, qRgb
from PySide6.QtWidgets import QSizePolicy, QWidget

from gui.envelope import COLUMN_NS, SPAN_S, EnvelopeRing, broken_line
from gui.rise_marks import paint_flags, paint_stretches, rise_marks
from gui.score_track import paint_scores, score_range
from gui.spectrogram import BANDS
from gui.spectrogram import COLUMNS as PICTURE_COLUMNS
from gui.theme import LARGE_PX, SMALL_PX, TEXT_PX, WARNING, plain_font
from gui.track_scale import CLIPPED, break_columns, curve_range, range_words, value_words
from gui.tracks import TRACKS, Tracks, TrackSpec

LEFT_PX: Final = 112
RIGHT_PX: Final = 184
EVENTS_PX: Final = 20
RULER_PX: Final = 20
_SCALE_PX: Final = 52
_SHORTEST_GAP_PX: Final = 3.0
_CURVE_MARGIN_PX: Final = 5.0


class Timeline(QWidget):
    """Paints `Tracks` for the `SPAN_S` seconds before now; moved on by `show_until`, 15 times a second."""

    def __init__(self, tracks: Tracks) -> None:
        """Paint `tracks`, which the page goes on filling."""
        super().__init__()
        self.setObjectName("timeline")
        self.setAccessibleName(self.tr("Curves of sound, sensors and score over the last {0:.0f} s").format(SPAN_S))
        self.setToolTip(self.tr("Move along to read all curves at one moment; P freezes"))
        self.setMouseTracking(True)
        self.setAttribute(Qt.WidgetAttribute.WA_OpaquePaintEvent)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Expanding)
        self.setMinimumHeight(184)
        self._live = tracks
        self._tracks = tracks
        self._now_ns = 0
        self._cursor_s: float | None = None
        self._small = plain_font(SMALL_PX)
        self._value = plain_font(TEXT_PX, bold=True)
        self._large = plain_font(LARGE_PX, bold=True)

    def show_until(self, now_ns: int) -> None:
        """Move the right edge to cell time `now_ns` and repaint; nothing moves while frozen."""
        if self._tracks is self._live:
            self._now_ns = now_ns
            self.update()

    def freeze(self, frozen: bool) -> None:
        """Hold the picture on a copy of the tracks while the live ones go on."""
        self._tracks = copy.deepcopy(self._live) if frozen else self._live
        self.update()

    def set_cursor(self, seconds: float | None) -> None:
        """Put the one cursor `seconds` before now (negative), or take it away."""
        self._cursor_s = None if seconds is None else min(0.0, max(-SPAN_S, seconds))
        self.update()

    def mouseMoveEvent(self, event: QMouseEvent) -> None:
        """Take the cursor along."""
        self.set_cursor((event.position().x() - self.width() + RIGHT_PX) / self._px_per_s())

    def mousePressEvent(self, event: QMouseEvent) -> None:
        """Put the cursor there (touch screens have no hovering)."""
        self.mouseMoveEvent(event)

    def leaveEvent(self, event: QEvent) -> None:
        """Take the cursor away."""
        self.set_cursor(None)
        super().leaveEvent(event)

    def paintEvent(self, _event: QPaintEvent) -> None:
        """Paint everything anew."""
        painter = QPainter(self)
        palette = self.palette()
        painter.fillRect(self.rect(), palette.base())
        plot = QRectF(LEFT_PX, EVENTS_PX, self.width() - LEFT_PX - RIGHT_PX, self.height() - EVENTS_PX - RULER_PX)
        rows = self._rows(plot)
        marks = rise_marks(self._tracks, self._now_ns - round(SPAN_S * 1e9), self._now_ns, self._x)
        self._paint_arcs(painter, plot)
        paint_stretches(painter, plot, marks)
        self._paint_grid(painter, plot)
        for spec, row in rows:
            painter.setPen(QPen(palette.mid().color()))
            painter.drawLine(QPointF(0, row.bottom()), QPointF(self.width(), row.bottom()))
            if spec.kind == "spectrogram":
                self._paint_spectrogram(painter, row, spec)
            elif spec.kind == "score":
                self._paint_scores(painter, row, spec)
            else:
                ring = self._tracks.sound if spec.kind == "sound" else self._tracks.channels[spec.key]
                self._paint_ring(painter, row, spec, ring)
        if self._tracks.newest_ns is None:
            painter.setPen(palette.placeholderText().color())
            painter.drawText(plot, Qt.AlignmentFlag.AlignCenter, self.tr("no sound and no sensors received yet"))
        self._paint_gaps(painter, rows)
        self._paint_ticks(painter, plot)
        paint_flags(painter, plot, marks)
        self._paint_ruler(painter, plot)
        self._paint_titles(painter, rows)
        if self._cursor_s is not None:
            self._paint_cursor(painter, plot)
        painter.end()

    def _px_per_s(self) -> float:
        return max(1, self.width() - LEFT_PX - RIGHT_PX) / SPAN_S

    def _x(self, t_ns: int) -> float:
        """Give the pixel of a cell time, kept inside the plot."""
        seconds = min(0.0, max(-SPAN_S, (t_ns - self._now_ns) / 1e9))
        return self.width() - RIGHT_PX + seconds * self._px_per_s()

    @staticmethod
    def _rows(plot: QRectF) -> list[tuple[TrackSpec, QRectF]]:
        total = sum(spec.share for spec in TRACKS)
        rows, top = [], plot.top()
        for spec in TRACKS:
            height = plot.height() * spec.share / total
            rows.append((spec, QRectF(plot.left(), top, plot.width(), height)))
            top += height
        return rows

    def _paint_arcs(self, painter: QPainter, plot: QRectF) -> None:
        shade = QColor(self.palette().text().color())
        shade.setAlpha(22)
        for on_ns, off_ns in self._tracks.arcs.values():
            left, right = self._x(on_ns), self._x(off_ns or min(self._now_ns, self._tracks.newest_ns or self._now_ns))
            if right <= left:
                continue
            painter.fillRect(QRectF(left, 0, right - left, plot.bottom()), shade)
            painter.setFont(self._small)
            painter.setPen(self.palette().text().color())
            box = QRectF(left + 4, 0, right - left - 8, EVENTS_PX)
            painter.drawText(box, Qt.AlignmentFlag.AlignVCenter | Qt.AlignmentFlag.AlignRight, self.tr("arc"))

    def _paint_grid(self, painter: QPainter, plot: QRectF) -> None:
        """Draw a thin line every five seconds."""
        line = QColor(self.palette().mid().color())
        painter.setPen(QPen(line, 1))
        for seconds in range(-int(SPAN_S), 1, 5):
            x = plot.right() + seconds * self._px_per_s()
            painter.drawLine(QPointF(x, plot.top()), QPointF(x, plot.bottom()))

    def _paint_ring(self, painter: QPainter, row: QRectF, spec: TrackSpec, ring: EnvelopeRing) -> None:
        columns, low, high = ring.columns(self._now_ns)
        self._paint_clipped(painter, row, spec)
        if not len(columns):
            self._paint_absent(painter, row)
            return
        least, most = curve_range(spec, low, high)
        x, y = broken_line(
            columns, low.clip(least, most), high.clip(least, most), break_columns(self._tracks, spec.key)
        )
        x_px = row.right() + (x * COLUMN_NS - self._now_ns) * (row.width() / SPAN_S / 1e9)
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

    def _paint_clipped(self, painter: QPainter, row: QRectF, spec: TrackSpec) -> None:
        """Mark readings at the sensor's stop by a triangle at the upper edge: they are no values."""
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(QColor(WARNING))
        for t_ns in self._tracks.clipped.get(spec.key, ()):
            if self._now_ns - SPAN_S * 1e9 < t_ns <= self._now_ns:
                x, y = self._x(t_ns), row.top() + 2
                painter.drawPolygon(QPolygonF([QPointF(x - 5, y + 8), QPointF(x + 5, y + 8), QPointF(x, y)]))

    def _paint_absent(self, painter: QPainter, row: QRectF) -> None:
        if self._tracks.newest_ns is not None:
            self._paint_words(painter, row, self.tr("nothing received in the last {0:.0f} s").format(SPAN_S))

    def _paint_words(self, painter: QPainter, row: QRectF, words: str) -> None:
        painter.setFont(self._small)
        painter.setPen(self.palette().placeholderText().color())
        painter.drawText(row, Qt.AlignmentFlag.AlignCenter, words)

    def _paint_spectrogram(self, painter: QPainter, row: QRectF, spec: TrackSpec) -> None:
        picture = self._tracks.spectrogram.picture(self._now_ns)
        image = QImage(picture.data, PICTURE_COLUMNS, BANDS, PICTURE_COLUMNS, QImage.Format.Format_Indexed8)
        image.setColorTable(_grays(self.palette().base().color().rgb(), self.palette().text().color().rgb()))
        if picture.any():
            painter.drawImage(row.adjusted(0, 1, 0, -1), image)
            self._paint_range(painter, row, spec, 0.0, self._tracks.spectrogram.highest_hz)

    def _paint_scores(self, painter: QPainter, row: QRectF, spec: TrackSpec) -> None:
        points = [p for p in self._tracks.scores if self._now_ns - SPAN_S * 1e9 < p.t_ns <= self._now_ns]
        if points:
            thresholds = self._tracks.thresholds
            paint_scores(painter, row, points, thresholds, self._x, self.palette().text().color())
            self._paint_range(painter, row, spec, *score_range(points, thresholds))
        elif self._tracks.newest_ns is not None:
            self._paint_words(painter, row, self.tr("no window scored in the last {0:.0f} s").format(SPAN_S))

    def _paint_gaps(self, painter: QPainter, rows: list[tuple[TrackSpec, QRectF]]) -> None:
        """Hatch lost stretches with their reason; those of a stream without a track stand in the event lane."""
        painter.setFont(self._small)
        ink = QColor(WARNING)
        hatch = QBrush(ink, Qt.BrushStyle.BDiagPattern)
        for gap in self._tracks.gaps:
            left, right = self._x(gap.t_ns), self._x(gap.t_ns + round(gap.seconds * 1e9))
            if self._now_ns - gap.t_ns - gap.seconds * 1e9 > SPAN_S * 1e9 or gap.t_ns > self._now_ns:
                continue
            right = max(right, left + _SHORTEST_GAP_PX)
            of_stream = [row for spec, row in rows if self._tracks.streams.get(spec.key) == gap.stream]
            top, bottom = (of_stream[0].top(), of_stream[-1].bottom()) if of_stream else (2.0, EVENTS_PX - 2.0)
            painter.fillRect(QRectF(left, top, right - left, bottom - top), hatch)
            words = self.tr("{0}: {1} lost, {2}").format(gap.stream, gap.missing, gap.reason)
            box = QRectF(left, top + 1, painter.fontMetrics().horizontalAdvance(words) + 8, SMALL_PX + 5)
            box.moveLeft(min(box.left(), self.width() - RIGHT_PX - box.width()))
            painter.fillRect(box, self.palette().base())
            painter.setPen(ink)
            painter.drawText(box, Qt.AlignmentFlag.AlignCenter, words)

    def _paint_ticks(self, painter: QPainter, plot: QRectF) -> None:
        painter.setFont(self._small)
        for t_ns, words in self._tracks.ticks:
            if not self._now_ns - SPAN_S * 1e9 < t_ns <= self._now_ns:
                continue
            x = self._x(t_ns)
            painter.setPen(QPen(self.palette().placeholderText().color(), 1, Qt.PenStyle.DotLine))
            painter.drawLine(QPointF(x, 0), QPointF(x, plot.bottom()))
            painter.setPen(self.palette().text().color())
            painter.drawText(QRectF(x + 3, 0, 160, EVENTS_PX), Qt.AlignmentFlag.AlignVCenter, words)

    def _paint_ruler(self, painter: QPainter, plot: QRectF) -> None:
        painter.setFont(self._small)
        painter.setPen(self.palette().placeholderText().color())
        for seconds in range(-int(SPAN_S), 1, 5):
            x = plot.right() + seconds * self._px_per_s()
            painter.drawLine(QPointF(x, plot.bottom()), QPointF(x, plot.bottom() + 4))
            words = self.tr("now") if seconds == 0 else self.tr("{0} s").format(seconds)
            painter.drawText(QRectF(x - 30, plot.bottom() + 3, 60, RULER_PX - 3), Qt.AlignmentFlag.AlignCenter, words)

    def _paint_titles(self, painter: QPainter, rows: list[tuple[TrackSpec, QRectF]]) -> None:
        at_ns = self._now_ns if self._cursor_s is None else self._now_ns + round(self._cursor_s * 1e9)
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

    def _paint_cursor(self, painter: QPainter, plot: QRectF) -> None:
        assert self._cursor_s is not None
        x = plot.right() + self._cursor_s * self._px_per_s()
        painter.setPen(QPen(self.palette().text().color(), 1))
        painter.drawLine(QPointF(x, 0), QPointF(x, plot.bottom() + 4))
        box = QRectF(x - 36, plot.bottom() + 3, 72, RULER_PX - 3)
        painter.fillRect(box, self.palette().text())
        painter.setPen(self.palette().base().color())
        painter.setFont(self._small)
        painter.drawText(box, Qt.AlignmentFlag.AlignCenter, f"{self._cursor_s:.2f} s")


@lru_cache(maxsize=4)
def _grays(low: int, high: int) -> list[int]:
    """Give 256 colours from the colour of the panel to that of the text."""
    a, b = QColor(low), QColor(high)
    ends = np.array([[a.red(), a.green(), a.blue()], [b.red(), b.green(), b.blue()]], np.float64)
    return [qRgb(*(int(part) for part in ends[0] + (ends[1] - ends[0]) * level / 255)) for level in range(256)]
