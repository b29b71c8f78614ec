"""Which weld the screen speaks of; and, on the simulated cell, that nothing here is real."""

from PySide6.QtCore import QSize, Qt
from PySide6.QtGui import QAction, QPainter, QPaintEvent
from PySide6.QtWidgets import QFrame, QHBoxLayout, QLabel, QSizePolicy, QVBoxLayout

from gui.actions import make_button
from gui.judgement import current_weld
from gui.verdict_tile import HEIGHT_PX
from recordings.status import CellStatus


class ElidedLabel(QLabel):
    """One line that gives way: what does not fit is cut out of its middle and stands in the tooltip."""

    def __init__(self, name: str, role: str = "") -> None:
        """Make an empty line."""
        super().__init__()
        self.setObjectName(name)
        self.setProperty("role", role)
        self.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Preferred)

    def setText(self, text: str) -> None:
        """Set the whole text."""
        if text != self.text():
            super().setText(text)
            self.setToolTip(text)

    def minimumSizeHint(self) -> QSize:
        """Need no width."""
        return QSize(0, super().minimumSizeHint().height())

    def paintEvent(self, _event: QPaintEvent) -> None:
        """Paint as much of the text as fits."""
        painter = QPainter(self)
        painter.setPen(self.palette().color(self.foregroundRole()))
        words = painter.fontMetrics().elidedText(self.text(), Qt.TextElideMode.ElideMiddle, self.width())
        painter.drawText(self.rect(), Qt.AlignmentFlag.AlignVCenter | Qt.AlignmentFlag.AlignLeft, words)
        painter.end()


class WeldInfo(QFrame):
    """Weld, part, program and cell; beside them the note that the cell is simulated, and the way out of it."""

    def __init__(self, devices: QAction) -> None:
        """Start without a weld; `devices` opens the explanation of how to use real devices."""
        super().__init__()
        self.setObjectName("weld_info")
        self.setProperty("role", "panel")
        self.setFixedHeight(HEIGHT_PX)
        self.weld = ElidedLabel("weld_id", "large")
        self._phase = ElidedLabel("weld_phase")
        self._part = ElidedLabel("weld_part", "secondary")
        self._program = ElidedLabel("weld_program", "secondary")
        words = QVBoxLayout()
        words.setSpacing(2)
        for label in (self.weld, self._phase, self._part, self._program):
            words.addWidget(label)
        self._simulated = QFrame()
        self._simulated.setObjectName("simulated")
        banner = QLabel(self.tr("SIMULATED CELL"))
        banner.setObjectName("simulated_banner")
        banner.setProperty("role", "simulated")
        banner.setAlignment(Qt.AlignmentFlag.AlignCenter)
        column = QVBoxLayout(self._simulated)
        column.setContentsMargins(0, 0, 0, 0)
        column.addWidget(banner, 1)
        button = make_button(devices)
        button.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        column.addWidget(button)
        layout = QHBoxLayout(self)
        layout.setContentsMargins(12, 8, 8, 8)
        layout.addLayout(words, 1)
        layout.addWidget(self._simulated)
        self.show_status(None)

    @property
    def simulated(self) -> bool:
        """The screen says that the cell is simulated."""
        return not self._simulated.isHidden()

    def show_status(self, status: CellStatus | None) -> None:
        """Show the current weld of a status, or that nothing is known."""
        self._simulated.setVisible(status is not None and status.simulated)
        weld = current_weld(status) if status else None
        self.weld.setText(weld.key if weld else self.tr("No weld"))
        cell = self.tr("cell {0}").format(status.cell) if status else self.tr("cell unknown")
        self._phase.setText(f"{self.tr(weld.phase)}, {cell}" if weld else cell)
        metadata = status.metadata if status else {}
        self._part.setText(self.tr("part {0}").format(metadata.get("part") or "–"))
        self._program.setText(self.tr("program {0}").format(metadata.get("program") or "–"))
