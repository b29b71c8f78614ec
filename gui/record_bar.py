"""The bar of buttons at the bottom of a live cell: arm, record, mark, label, weld data, operator and note."""

from typing import Final

from PySide6.QtCore import QTimer, Signal
from PySide6.QtGui import QAction
from PySide6.QtWidgets import QHBoxLayout, QLineEdit, QWidget

from gui.actions import make_button
from gui.chooser import Chooser
from gui.class_words import class_words
from gui.theme import GRID_PX
from recordings.status import CellStatus
from recordings.verdict import CLASSES

ASK_MS: Final = 5000
"""After the first press of STOP, a second one within this time stops."""


class RecordBar(QWidget):
    """Turns presses into commands.

    Signals:
        command: A command for the capture process: kind, data.
    """

    command = Signal(str, dict)

    def __init__(self, actions: dict[str, QAction]) -> None:
        """Build the bar on the shared actions."""
        super().__init__()
        self.setObjectName("record_bar")
        self._actions = actions
        self._status: CellStatus | None = None
        self._weld: str | None = None
        self._asking = QTimer(self)
        self._asking.setSingleShot(True)
        self._asking.setInterval(ASK_MS)
        self._asking.timeout.connect(self._show_record)
        self._record = make_button(actions["record"], main=True)
        self._record.setMinimumWidth(232)
        self.labels = self._make_labels()
        self.operator = self._make_line("operator", self.tr("Operator"), self.tr("Who welds; kept with the next welds"))
        self.note = self._make_line(
            "note", self.tr("Note"), self.tr("Text of the next MARK (M), and note of the next welds")
        )
        layout = QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(GRID_PX)
        for button in (make_button(actions["arm"], main=True), self._record, make_button(actions["mark"], main=True)):
            layout.addWidget(button)
        layout.addWidget(self.labels)
        layout.addWidget(make_button(actions["describe"]))
        layout.addWidget(self.operator, 1)
        layout.addWidget(self.note, 2)
        self._connect()
        self.show_status(None, None)

    def _make_labels(self) -> Chooser:
        tip = self.tr("What the weld really is, for training (0-9, Alt+0, Alt+1)")
        chooser = Chooser("label_chooser", self.tr("Label of the weld"), tip)
        chooser.addItem(self.tr("Label: unknown"), -1)
        for i in range(len(CLASSES)):
            chooser.addItem(class_words(i), i)
        chooser.setMinimumWidth(208)
        chooser.setMaximumWidth(280)
        chooser.activated.connect(lambda row: self._label(int(chooser.itemData(row))))
        return chooser

    def _make_line(self, name: str, placeholder: str, tip: str) -> QLineEdit:
        line = QLineEdit()
        line.setObjectName(name)
        line.setAccessibleName(placeholder)
        line.setPlaceholderText(placeholder)
        line.setToolTip(tip)
        line.setMinimumWidth(96)
        line.setMaxLength(200)
        line.editingFinished.connect(self._send_metadata)
        line.returnPressed.connect(line.clearFocus)  # so that the keys work again
        return line

    def _connect(self) -> None:
        actions = self._actions
        actions["arm"].triggered.connect(lambda on: self.command.emit("arm", {"on": on}))
        actions["record"].triggered.connect(self._press_record)
        actions["mark"].triggered.connect(lambda: self.command.emit("mark", {"note": self.note.text()}))
        for i in range(len(CLASSES)):
            actions[f"label_{i}"].triggered.connect(lambda _checked=False, label=i: self._label(label))

    def show_status(self, status: CellStatus | None, weld: str | None) -> None:
        """Follow a status (None: not connected); `weld` is the key of the weld that a label is for."""
        self._status, self._weld = status, weld
        live = status is not None and status.replay is None
        self.setVisible(status is None or status.replay is None)
        for name in ("arm", "record", "mark"):
            self._actions[name].setEnabled(live)
        if status is not None:
            self._actions["mark"].setEnabled(live and status.recording)
            self._actions["arm"].setChecked(status.armed)
            self._show_label(status)
        self.labels.setEnabled(live and weld is not None)
        for i in range(len(CLASSES)):
            self._actions[f"label_{i}"].setEnabled(self.labels.isEnabled())
        self._actions["describe"].setEnabled(self.labels.isEnabled())
        for line in (self.operator, self.note):
            line.setEnabled(live)
        if live and status is not None and not self.operator.hasFocus():
            self.operator.setText(str(status.metadata.get("operator", "")))
        if not self._asking.isActive() or status is None or not status.recording:
            self._asking.stop()
            self._show_record()

    def _show_label(self, status: CellStatus) -> None:
        label = next((weld.label for weld in status.welds if weld.key == self._weld), -1)
        if not self.labels.view().isVisible():
            self.labels.setCurrentIndex(self.labels.findData(label))

    def _show_record(self) -> None:
        recording = self._status is not None and self._status.recording
        asking = self._asking.isActive()
        words = self.tr("RECORD")
        if recording:
            words = self.tr("STOP? once more") if asking else self.tr("STOP")
        self._actions["record"].setText(words)
        if self._record.property("asking") != asking:
            self._record.setProperty("asking", asking)
            self._record.style().unpolish(self._record)
            self._record.style().polish(self._record)

    def _press_record(self) -> None:
        """Start at once; stop on the second press, so that a stray glove ends no recording."""
        if self._status is None:
            return
        if not self._status.recording:
            self.command.emit("record", {})
        elif self._asking.isActive():
            self._asking.stop()
            self.command.emit("stop", {})
        else:
            self._asking.start()
        self._show_record()

    def _label(self, label: int) -> None:
        if self._weld is not None:
            self.command.emit("label", {"weld": self._weld, "label": label, "by": self.operator.text() or "screen"})

    def _send_metadata(self) -> None:
        line = self.sender()
        if isinstance(line, QLineEdit) and line.isModified():
            line.setModified(False)
            self.command.emit("metadata", {"operator" if line is self.operator else "notes": line.text()})
