"""A cell of a table that shows the last rates of a stream as a thin line."""

from typing import Any, Final

from PySide6.QtCore import QModelIndex, QPersistentModelIndex, QPointF, QRectF, Qt
from PySide6.QtGui import QPainter, QPen
from PySide6.QtWidgets import QStyledItemDelegate, QStyleOptionViewItem

HISTORY: Final = 60
HISTORY_ROLE: Final = int(Qt.ItemDataRole.UserRole)


class Sparkline(QStyledItemDelegate):
    """Paints a list of rates as a thin line; plain text where there is none."""

    def paint(
        self, painter: QPainter, option: QStyleOptionViewItem, index: QModelIndex | QPersistentModelIndex
    ) -> None:
        """Paint the line, from zero to the largest rate."""
        history: Any = index.data(HISTORY_ROLE)
        if not history:
            super().paint(painter, option, index)
            return
        area = QRectF(option.rect).adjusted(4, 6, -4, -6)
        most = max(*history, 1e-9) * 1.1
        step = area.width() / (HISTORY - 1)
        first = area.right() - step * (len(history) - 1)
        points = [QPointF(first + i * step, area.bottom() - area.height() * v / most) for i, v in enumerate(history)]
        painter.setPen(QPen(option.palette.placeholderText().color(), 1))
        painter.drawPolyline(points)
