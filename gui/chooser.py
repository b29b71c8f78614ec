"""A list to choose from, with an arrow that follows the theme (a style sheet could only show an image file)."""

from typing import Final

from PySide6.QtCore import QPointF, Qt
from PySide6.QtGui import QPainter, QPaintEvent, QPolygonF
from PySide6.QtWidgets import QComboBox

_ARROW_PX: Final = 5.0


class Chooser(QComboBox):
    """A combo box for touch."""

    def __init__(self, name: str, title: str, tip: str) -> None:
        """Make an empty one: `objectName`, accessible name and tooltip."""
        super().__init__()
        self.setObjectName(name)
        self.setAccessibleName(title)
        self.setToolTip(tip)

    def paintEvent(self, event: QPaintEvent) -> None:
        """Paint the arrow over it."""
        super().paintEvent(event)
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(self.palette().text())
        x, y = self.width() - 16.0, self.height() / 2
        corners = (x - _ARROW_PX, y - 2), (x + _ARROW_PX, y - 2), (x, y + _ARROW_PX - 1)
        painter.drawPolygon(QPolygonF([QPointF(*corner) for corner in corners]))
        painter.end()
