"""The score's row of the time axis: a square at the end of each window, the running score, the threshold dashed."""

from collections.abc import Callable, Mapping, Sequence

from PySide6.QtCore import QPointF, QRectF, Qt
from PySide6.QtGui import QColor, QPainter, QPen

from gui.theme import NO_GO
from gui.track_scale import nice_range
from gui.tracks import ScorePoint

_MARGIN_PX = 3.0
_FAINT = 110


def score_range(points: Sequence[ScorePoint], thresholds: Mapping[str, float]) -> tuple[float, float]:
    """Give the range that holds all scores and the thresholds that they are held against."""
    most = max(max(p.score, p.weld_score, thresholds.get(p.weld, 0.0)) for p in points)
    return nice_range(min(0.0, *(p.score for p in points)), most)


def paint_scores(
    painter: QPainter,
    row: QRectF,
    points: Sequence[ScorePoint],
    thresholds: Mapping[str, float],
    x_of: Callable[[int], float],
    ink: QColor,
) -> None:
    """Paint the scores of `points` into `row`; `x_of` gives the pixel of a cell time."""
    least, most = score_range(points, thresholds)
    scale = (row.height() - 2 * _MARGIN_PX) / (most - least)

    def y_of(score: float) -> float:
        return row.bottom() - _MARGIN_PX - (score - least) * scale

    for weld in dict.fromkeys(p.weld for p in points):
        of_weld = [p for p in points if p.weld == weld]
        threshold = thresholds.get(weld)
        line = [QPointF(x_of(p.t_ns), y_of(p.weld_score)) for p in of_weld]
        painter.setPen(QPen(ink, 2))
        painter.drawPolyline(line)
        for p in of_weld:
            colour = QColor(NO_GO) if threshold is not None and p.score > threshold else ink
            x, y = x_of(p.t_ns), y_of(p.score)
            painter.fillRect(QRectF(x - 3, y - 3, 6, 6), colour)
            faint = QColor(colour)
            faint.setAlpha(_FAINT)
            painter.setPen(QPen(faint, 1))
            painter.drawLine(QPointF(x_of(p.t0_ns), y), QPointF(x - 3, y))
        if threshold is not None:
            painter.setPen(QPen(QColor(NO_GO), 1, Qt.PenStyle.DashLine))
            left = max(row.left(), line[0].x() - 40)
            painter.drawLine(QPointF(left, y_of(threshold)), QPointF(line[-1].x() + 8, y_of(threshold)))
