"""Part and program of the next welds, large enough for gloves."""

from collections.abc import Mapping

from PySide6.QtCore import Qt, Signal
from PySide6.QtWidgets import QDialog, QGridLayout, QHBoxLayout, QLabel, QLineEdit, QPushButton, QVBoxLayout, QWidget


class PartDialog(QDialog):
    """Asks for part and program.

    Signals:
        chosen: What was changed, as data of a `metadata` command.
    """

    chosen = Signal(dict)

    def __init__(self, metadata: Mapping[str, object], parent: QWidget) -> None:
        """Start with what holds now."""
        super().__init__(parent)
        self.setObjectName("part_dialog")
        self.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        self.setWindowTitle(self.tr("Part and program"))
        self.resize(640, 280)
        self._before = {key: str(metadata.get(key) or "") for key in ("part", "program")}
        self.part = self._line("part", self.tr("Part"), self.tr("What is welded"))
        self.program = self._line("program", self.tr("Program"), self.tr("What the robot and the welder run"))
        rows = QGridLayout()
        for row, line in enumerate((self.part, self.program)):
            rows.addWidget(QLabel(line.accessibleName()), row, 0)
            rows.addWidget(line, row, 1)
        keep = self._button("part_keep", self.tr("Keep"), self.tr("Keep these with the next welds (Return)"))
        keep.setDefault(True)
        keep.clicked.connect(self.accept)
        cancel = self._button("part_cancel", self.tr("Cancel"), self.tr("Leave everything as it is (Esc)"))
        cancel.clicked.connect(self.reject)
        buttons = QHBoxLayout()
        buttons.addStretch(1)
        buttons.addWidget(cancel)
        buttons.addWidget(keep)
        layout = QVBoxLayout(self)
        layout.addWidget(QLabel(self.tr("They hold for the next welds; welds that were recorded keep theirs.")))
        layout.addLayout(rows)
        layout.addStretch(1)
        layout.addLayout(buttons)

    def _line(self, key: str, name: str, tip: str) -> QLineEdit:
        line = QLineEdit(self._before[key])
        line.setObjectName(f"part_{key}")
        line.setAccessibleName(name)
        line.setToolTip(tip)
        line.setMaxLength(200)
        return line

    def _button(self, name: str, text: str, tip: str) -> QPushButton:
        button = QPushButton(text)
        button.setObjectName(name)
        button.setAccessibleName(tip)
        button.setToolTip(tip)
        return button

    def accept(self) -> None:
        """Tell what was changed, and close."""
        now = {"part": self.part.text().strip(), "program": self.program.text().strip()}
        changed = {key: text for key, text in now.items() if text != self._before[key]}
        if changed:
            self.chosen.emit(changed)
        super().accept()
