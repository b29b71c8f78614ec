"""Marks over the time axis: the stretches of a weld in which its score rose."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from PySide6.QtCore import QCoreApplication, QPointF, QRectF, Qt
from PySide6.QtGui import QColor, QPainter, QPen

from gui.explanation import span_words
from gui.theme import NO_GO, TEXT_PX, WARNING, plain_font, readable_on
from gui.tracks import Tracks

_SHADE: Final = 56
_BAR_PX: Final = 3.0
_NARROWEST_PX: Final = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RiseMark:
    """A stretch to be marked: its pixels, what its flag says, and its colour: NO-GO's, or that of a warning."""

    left: float
    right: float
    words: str
    colour: str


def rise_marks(tracks: Tracks, from_ns: int, to_ns: int, x_of: Callable[[int], float]) -> list[RiseMark]:
    """List the marks between two cell times, the worst of a weld last; `x_of` gives the pixel of a cell time."""
    marks = []
    for weld, verdict in tracks.rises.items():
        for span in reversed(verdict.rose):
            if weld in tracks.arcs and span[0] < to_ns and span[1] > from_ns:
                words = QCoreApplication.translate("Timeline", "rose {0}").format(span_words(span, tracks.arcs[weld]))
                left, right = x_of(span[0]), x_of(span[1])
                colour = NO_GO if verdict.word == "NO-GO" else WARNING
                marks.append(RiseMark(left=left, right=max(right, left + _NARROWEST_PX), words=words, colour=colour))
    return marks


def paint_stretches(painter: QPainter, plot: QRectF, marks: Sequence[RiseMark]) -> None:
    """Shade the stretches through all tracks, for what was heard and measured there to be found."""
    for mark in marks:
        shade = QColor(mark.colour)
        shade.setAlpha(_SHADE)
        painter.fillRect(QRectF(mark.left, plot.top(), mark.right - mark.left, plot.height()), shade)


def paint_flags(painter: QPainter, plot: QRectF, marks: Sequence[RiseMark]) -> None:
    """Draw the edges of the stretches over the tracks, and say above them when they were."""
    painter.setFont(plain_font(TEXT_PX, bold=True))
    for mark in marks:
        painter.setPen(QPen(QColor(mark.colour), 1))
        for x in (mark.left, mark.right):
            painter.drawLine(QPointF(x, plot.top()), QPointF(x, plot.bottom()))
        painter.fillRect(QRectF(mark.left, plot.top() - _BAR_PX, mark.right - mark.left, _BAR_PX), QColor(mark.colour))
        flag = QRectF(0, 0, painter.fontMetrics().horizontalAdvance(mark.words) + 12, plot.top() - _BAR_PX)
        flag.moveLeft(min(max((mark.left + mark.right - flag.width()) / 2, plot.left()), plot.right() - flag.width()))
        painter.fillRect(flag, QColor(mark.colour))
        painter.setPen(readable_on(mark.colour))
        painter.drawText(flag, Qt.AlignmentFlag.AlignCenter, mark.words)
