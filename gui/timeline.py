"""All tracks on one time axis with one cursor: sound, tones, six sensors, score; arcs, gaps and events across them."""

import copy
from functools import lru_cache
from typing import Final

import numpy as np
import pyqtgraph as pg
from PySide6.QtCore import QCoreApplication, QEvent, QPointF, QRectF, Qt
from PySide6.QtGui import QBrush, QColor, QImage, QMouseEvent, QPainter, QPaintEvent, QPen, qRgb
from PySide6.QtWidgets import QSizePolicy, QWidget

from gui.envelope import COLUMN_NS, COLUMNS, SPAN_S, EnvelopeRing, broken_line
from gui.spectrogram import BANDS
from gui.spectrogram import COLUMNS as PICTURE_COLUMNS
from gui.theme import NO_GO, SMALL_PX, TEXT_PX, WARNING, plain_font
from gui.tracks import TRACKS, Tracks, TrackSpec

LEFT_PX: Final = 112
RIGHT_PX: Final = 104
EVENTS_PX: Final = 20
RULER_PX: Final = 20
_BREAK_PERIODS: Final = 3.0
_SHORTEST_GAP_PX: Final = 3.0


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
        self._paint_arcs(painter, plot)
        for spec, row in rows:
            painter.setPen(QPen(palette.mid().color()))
            painter.drawLine(QPointF(0, row.bottom()), QPointF(self.width(), row.bottom()))
            if spec.kind == "spectrogram":
                self._paint_spectrogram(painter, row)
            elif spec.kind == "score":
                self._paint_scores(painter, row)
            else:
                ring = self._tracks.sound if spec.kind == "sound" else self._tracks.channels[spec.key]
                self._paint_ring(painter, row, spec, ring)
        if self._tracks.newest_ns is None:
            painter.setPen(palette.placeholderText().color())
            painter.drawText(plot, Qt.AlignmentFlag.AlignCenter, self.tr("no sound and no sensors received yet"))
        self._paint_gaps(painter, rows)
        self._paint_ticks(painter, plot)
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

    def _paint_ring(self, painter: QPainter, row: QRectF, spec: TrackSpec, ring: EnvelopeRing) -> None:
        columns, low, high = ring.columns(self._now_ns)
        if not len(columns):
            self._paint_absent(painter, row)
            return
        least, most = (-1.0, 1.0) if spec.kind == "sound" else _nice_range(float(low.min()), float(high.max()))
        if spec.kind == "sound":
            peak = max(float(high.max()), -float(low.min()), 1e-3)
            least, most = -peak, peak
        period = self._tracks.periods_ns.get(spec.key, 1e9)
        x, y = broken_line(columns, low, high, int(_BREAK_PERIODS * period / COLUMN_NS) + 1)
        x_px = row.right() + (x * COLUMN_NS - self._now_ns) * (row.width() / SPAN_S / 1e9)
        y_px = row.bottom() - 3 - (y - least) * ((row.height() - 6) / (most - least))
        painter.setPen(QPen(self.palette().text().color(), 0))
        painter.drawPath(pg.arrayToQPath(x_px, y_px, connect="finite"))
        painter.setFont(self._small)
        painter.setPen(self.palette().placeholderText().color())
        if spec.kind != "sound" and row.height() >= 2.4 * SMALL_PX:
            box = QRectF(row.left() - 44, row.top() + 1, 40, row.height() - 2)
            painter.drawText(box, Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignTop, f"{most:g}")
            painter.drawText(box, Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignBottom, f"{least:g}")

    def _paint_absent(self, painter: QPainter, row: QRectF) -> None:
        if self._tracks.newest_ns is None:
            return
        painter.setFont(self._small)
        painter.setPen(self.palette().placeholderText().color())
        painter.drawText(
            row, Qt.AlignmentFlag.AlignCenter, self.tr("nothing received in the last {0:.0f} s").format(SPAN_S)
        )

    def _paint_spectrogram(self, painter: QPainter, row: QRectF) -> None:
        picture = self._tracks.spectrogram.picture(self._now_ns)
        image = QImage(picture.data, PICTURE_COLUMNS, BANDS, PICTURE_COLUMNS, QImage.Format.Format_Indexed8)
        image.setColorTable(_grays(self.palette().base().color().rgb(), self.palette().text().color().rgb()))
        if picture.any():
            painter.drawImage(row.adjusted(0, 1, 0, -1), image)

    def _paint_scores(self, painter: QPainter, row: QRectF) -> None:
        points = [p for p in self._tracks.scores if p.t_ns > self._now_ns - SPAN_S * 1e9]
        if not points and self._tracks.newest_ns is None:
            return
        if not points:
            painter.setFont(self._small)
            painter.setPen(self.palette().placeholderText().color())
            painter.drawText(
                row, Qt.AlignmentFlag.AlignCenter, self.tr("no window scored in the last {0:.0f} s").format(SPAN_S)
            )
            return
        thresholds = self._tracks.thresholds
        most = max(max(p.score, p.weld_score, thresholds.get(p.weld, 0.0)) for p in points) * 1.15
        least = min(0.0, *(p.score for p in points))
        scale = (row.height() - 6) / max(1e-9, most - least)
        text = self.palette().text().color()
        for weld in dict.fromkeys(p.weld for p in points):
            of_weld = [p for p in points if p.weld == weld]
            threshold = thresholds.get(weld)
            line = [QPointF(self._x(p.t_ns), row.bottom() - 3 - (p.weld_score - least) * scale) for p in of_weld]
            painter.setPen(QPen(text, 2))
            painter.drawPolyline(line)
            for p, point in zip(of_weld, line, strict=True):
                above = threshold is not None and p.score > threshold
                painter.setPen(Qt.PenStyle.NoPen)
                painter.setBrush(QColor(NO_GO) if above else text)
                y = row.bottom() - 3 - (p.score - least) * scale
                painter.drawRect(QRectF(point.x() - 3, y - 3, 6, 6))
            if threshold is not None:
                y = row.bottom() - 3 - (threshold - least) * scale
                painter.setPen(QPen(QColor(NO_GO), 1, Qt.PenStyle.DashLine))
                painter.drawLine(QPointF(max(row.left(), line[0].x() - 40), y), QPointF(line[-1].x() + 8, y))

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
            value = self._value_at(spec, at_ns)
            painter.setFont(self._value)
            box = QRectF(row.right() + 8, row.top(), RIGHT_PX - 16, row.height())
            painter.drawText(box, middle, f"{value} {spec.unit}" if value != "–" else value)

    def _value_at(self, spec: TrackSpec, at_ns: int) -> str:
        """Give the value at the cursor, or now; a dash where there is none."""
        if spec.kind == "spectrogram":
            return ""
        if spec.kind == "score":
            before = [p for p in self._tracks.scores if p.t_ns <= at_ns and at_ns - p.t_ns < 2 * SPAN_S * 1e9]
            return f"{before[-1].weld_score:.2f}" if before else "–"
        ring = self._tracks.sound if spec.kind == "sound" else self._tracks.channels[spec.key]
        reach = int(_BREAK_PERIODS * self._tracks.periods_ns.get(spec.key, 1e9) / COLUMN_NS) + 40
        value = ring.at(at_ns, min(reach, COLUMNS))
        if value is None:
            return "–"
        if spec.kind == "sound":
            return f"{20 * np.log10(max(abs(value), 1e-6)):.0f} dB"
        return f"{value:.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"

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


def _nice_range(low: float, high: float) -> tuple[float, float]:
    """Widen a range to round numbers, and to zero where that costs less than half of it."""
    if low > 0 and low < high / 2:
        low = 0.0
    span = max(high - low, abs(high) * 0.02, 1e-3)
    step = 10.0 ** np.floor(np.log10(span))
    step = next(step * factor for factor in (0.2, 0.5, 1.0, 2.0) if span / (step * factor) <= 5.0)
    return float(np.floor(low / step) * step), float(np.ceil(max(high, low + span) / step) * step)


@lru_cache(maxsize=4)
def _grays(low: int, high: int) -> list[int]:
    """Give 256 colours from the colour of the panel to that of the text."""
    a, b = QColor(low), QColor(high)
    ends = np.array([[a.red(), a.green(), a.blue()], [b.red(), b.green(), b.blue()]], np.float64)
    return [qRgb(*(int(part) for part in ends[0] + (ends[1] - ends[0]) * level / 255)) for level in range(256)]
