"""Marks that curves and slider share: arcs shaded, losses hatched, events as ticks, the played range, the cursor."""

from typing import Final

from PySide6.QtCore import QCoreApplication, QPointF, QRectF, Qt
from PySide6.QtGui import QBrush, QColor, QPainter, QPalette, QPen

from gui.seeking import set_ends
from gui.theme import INFORMATION, SMALL_PX, WARNING
from gui.time_axis import TimeAxis
from gui.tracks import Tracks
from recordings.status import ReplayStatus

_ARC_SHADE: Final = 22
_OUTSIDE_SHADE: Final = 150
_SHORTEST_GAP_PX: Final = 3.0
_CURSOR_PX: Final = 84.0
_MIDDLE: Final = Qt.AlignmentFlag.AlignVCenter


def paint_arcs(painter: QPainter, room: QRectF, axis: TimeAxis, tracks: Tracks, until_ns: int, ink: QColor) -> None:
    """Shade where the arc burns (until `until_ns` where its end is not known yet), and say so in the upper corner."""
    shade = QColor(ink)
    shade.setAlpha(_ARC_SHADE)
    for on_ns, off_ns in tracks.arcs.values():
        left, right = axis.x(on_ns), axis.x(off_ns or until_ns)
        if right <= left:
            continue
        painter.fillRect(QRectF(left, room.top(), right - left, room.height()), shade)
        painter.setPen(ink)
        box = QRectF(left + 4, room.top(), right - left - 8, SMALL_PX + 8)
        words = QCoreApplication.translate("Timeline", "arc")
        painter.drawText(box, _MIDDLE | Qt.AlignmentFlag.AlignRight, words)


def gap_boxes(axis: TimeAxis, tracks: Tracks) -> list[tuple[str, float, float, str]]:
    """List the losses in sight: stream, left and right pixel, and what is said of each."""
    boxes = []
    for gap in tracks.gaps:
        end_ns = gap.t_ns + round(gap.seconds * 1e9)
        if axis.overlaps(gap.t_ns, end_ns):
            left = axis.x(gap.t_ns)
            words = QCoreApplication.translate("Timeline", "{0}: {1} lost, {2}")
            said = words.format(gap.stream, gap.missing, gap.reason)
            boxes.append((gap.stream, left, max(axis.x(end_ns), left + _SHORTEST_GAP_PX), said))
    return boxes


def paint_hatch(painter: QPainter, box: QRectF) -> None:
    """Hatch a loss."""
    painter.fillRect(box, QBrush(QColor(WARNING), Qt.BrushStyle.BDiagPattern))


def paint_ticks(
    painter: QPainter, room: QRectF, axis: TimeAxis, tracks: Tracks, palette: QPalette, height: int
) -> None:
    """Draw the events in sight as dotted lines through `room`; words stand in its upper `height` pixels (0: none).

    Words do not run over the words of the next event, nor over the end of the axis.
    """
    free = axis.right
    for t_ns, words in sorted(tracks.ticks, reverse=True):
        if not axis.from_ns < t_ns <= axis.to_ns:
            continue
        x = axis.x(t_ns)
        painter.setPen(QPen(palette.placeholderText().color(), 1, Qt.PenStyle.DotLine))
        painter.drawLine(QPointF(x, room.top()), QPointF(x, room.bottom()))
        painter.setPen(palette.text().color())
        width = painter.fontMetrics().horizontalAdvance(words) + 3
        left = x if x + width < axis.right else x - width - 3
        if height and left + width <= free:
            painter.drawText(QRectF(left + 3, room.top(), width, height), _MIDDLE, words)
            free = left
        free = min(free, x)


def range_ns(replay: ReplayStatus, origin_ns: int) -> tuple[float, float] | None:
    """Give the cell times of A and B, or None where the whole weld is played."""
    a_s, b_s = set_ends(replay)
    if a_s is None and b_s is None:
        return None
    return origin_ns + (a_s or 0.0) * 1e9, origin_ns + (replay.duration_s if b_s is None else b_s) * 1e9


def paint_range(painter: QPainter, room: QRectF, axis: TimeAxis, ends: tuple[float, float], palette: QPalette) -> None:
    """Dim what lies outside of the range that is played; `ends` are cell times of A and B."""
    dim = QColor(palette.window().color())
    dim.setAlpha(_OUTSIDE_SHADE)
    a, b = axis.x(ends[0]), axis.x(ends[1])
    painter.fillRect(QRectF(axis.left, room.top(), a - axis.left, room.height()), dim)
    painter.fillRect(QRectF(b, room.top(), axis.right - b, room.height()), dim)
    painter.setPen(QPen(QColor(INFORMATION), 2))
    for x in (a, b):
        painter.drawLine(QPointF(x, room.top()), QPointF(x, room.bottom()))


def paint_cursor(painter: QPainter, room: QRectF, x: float, words: str, palette: QPalette, *, wide: bool) -> None:
    """Draw the cursor through `room`, with its time in a box under it unless there are no words."""
    painter.setPen(QPen(palette.text().color(), 2 if wide else 1))
    painter.drawLine(QPointF(x, room.top()), QPointF(x, room.bottom()))
    if words:
        box = QRectF(x - _CURSOR_PX / 2, room.bottom() - 1, _CURSOR_PX, SMALL_PX + 5)
        painter.fillRect(box, palette.text())
        painter.setPen(palette.base().color())
        painter.drawText(box, Qt.AlignmentFlag.AlignCenter, words)
