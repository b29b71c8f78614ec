"""The shape of every state: a state is told by shape and word first, and by colour only besides."""

from enum import Enum
from functools import lru_cache
from typing import Final

from PySide6.QtCore import QPointF, QRectF, QSize, Qt
from PySide6.QtGui import QColor, QIcon, QPainter, QPen, QPixmap, QPolygonF
from PySide6.QtWidgets import QWidget

from gui.theme import GO, NO_GO, WARNING


class Shape(Enum):
    """Filled circle with tick, octagon with cross, hollow dashed square, ring."""

    GO = "go"
    NO_GO = "no_go"
    NO_DATA = "no_data"
    PENDING = "pending"


SHAPE_COLOURS: Final[dict[Shape, str | None]] = {
    Shape.GO: GO,
    Shape.NO_GO: NO_GO,
    Shape.NO_DATA: None,
    Shape.PENDING: WARNING,
}
"""None: the text colour of the theme."""

_OCTAGON: Final = QPolygonF(
    [
        QPointF(x, y)
        for x, y in ((-0.41, -1), (0.41, -1), (1, -0.41), (1, 0.41), (0.41, 1), (-0.41, 1), (-1, 0.41), (-1, -0.41))
    ]
)


def paint_shape(painter: QPainter, rect: QRectF, shape: Shape, colour: QColor, inside: QColor) -> None:
    """Paint a shape into the middle of `rect`; `inside` is the colour of tick and cross."""
    painter.save()
    painter.setRenderHint(QPainter.RenderHint.Antialiasing)
    painter.translate(rect.center())
    side = min(rect.width(), rect.height()) / 2 * 0.92
    painter.scale(side, side)
    unit = QRectF(-1, -1, 2, 2)
    stroke = QPen(inside, 0.24, Qt.PenStyle.SolidLine, Qt.PenCapStyle.FlatCap, Qt.PenJoinStyle.MiterJoin)
    if shape is Shape.GO:
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(colour)
        painter.drawEllipse(unit)
        painter.setPen(stroke)
        painter.drawPolyline([QPointF(-0.5, 0.02), QPointF(-0.12, 0.4), QPointF(0.52, -0.36)])
    elif shape is Shape.NO_GO:
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(colour)
        painter.drawPolygon(_OCTAGON)
        painter.setPen(stroke)
        painter.drawLine(QPointF(-0.42, -0.42), QPointF(0.42, 0.42))
        painter.drawLine(QPointF(-0.42, 0.42), QPointF(0.42, -0.42))
    elif shape is Shape.NO_DATA:
        dashed = QPen(colour, 0.16, Qt.PenStyle.CustomDashLine)
        dashed.setDashPattern([2.2, 1.6])
        dashed.setCapStyle(Qt.PenCapStyle.FlatCap)
        painter.setPen(dashed)
        painter.setBrush(Qt.BrushStyle.NoBrush)
        painter.drawRect(unit.adjusted(0.12, 0.12, -0.12, -0.12))
    else:
        painter.setPen(QPen(colour, 0.26))
        painter.setBrush(Qt.BrushStyle.NoBrush)
        painter.drawEllipse(unit.adjusted(0.16, 0.16, -0.16, -0.16))
    painter.restore()


def shape_colour(shape: Shape, widget: QWidget) -> QColor:
    """Give the colour of a shape on `widget`."""
    return QColor(SHAPE_COLOURS[shape] or widget.palette().windowText().color())


@lru_cache(maxsize=64)
def shape_icon(shape: Shape, colour: str, inside: str, pixels: int = 20) -> QIcon:
    """Paint a shape as an icon for tables."""
    pixmap = QPixmap(QSize(pixels * 2, pixels * 2))
    pixmap.setDevicePixelRatio(2.0)
    pixmap.fill(Qt.GlobalColor.transparent)
    painter = QPainter(pixmap)
    paint_shape(painter, QRectF(1, 1, pixels - 2, pixels - 2), shape, QColor(colour), QColor(inside))
    painter.end()
    return QIcon(pixmap)


def icon_for(shape: Shape, widget: QWidget) -> QIcon:
    """Give the icon of a shape in the colours of `widget`."""
    return shape_icon(shape, shape_colour(shape, widget).name(), widget.palette().base().color().name())
