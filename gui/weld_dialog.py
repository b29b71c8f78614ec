"""What is said about the next welds, and what about a recorded one: large enough for gloves, nothing is overwritten."""

from collections.abc import Mapping
from typing import Final

from PySide6.QtCore import Qt, Signal
from PySide6.QtWidgets import (
    QButtonGroup,
    QDialog,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QPlainTextEdit,
    QStackedWidget,
    QVBoxLayout,
    QWidget,
)

from gui.actions import dialog_button
from gui.data_form import DataForm
from gui.weld_history import history_lines, label_words
from gui.weld_info import clock_time
from recordings.manifest import Manifest
from recordings.status import WeldStatus

NEXT: Final = 0
CHOSEN: Final = 1


class WeldDialog(QDialog):
    """Two forms: the next welds, and the chosen weld of the list with the history of what was said of it.

    Signals:
        next_changed: What was changed for the next welds, as data of a `metadata` command.
        described: What was changed of the chosen weld, as data of one `describe` command.
    """

    next_changed = Signal(dict)
    described = Signal(dict)

    def __init__(self, metadata: Mapping[str, object], weld: WeldStatus | None, page: int, parent: QWidget) -> None:
        """Start with `metadata` of the next welds, the chosen weld (None: there is none yet), and one of both pages."""
        super().__init__(parent)
        self.setObjectName("weld_dialog")
        self.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        self.setWindowTitle(self.tr("Weld data"))
        self.resize(1040, 640)
        self._weld = weld
        self.next = DataForm("next", metadata, leave_out=("weld_id",))
        self.chosen = DataForm("weld", {})
        self.by = QLineEdit(str(metadata.get("operator") or ""))
        self.by.setObjectName("weld_by")
        self.by.setAccessibleName(self.tr("Said by"))
        self.by.setToolTip(self.tr("Your name; it is kept with what you change"))
        self.by.setMaxLength(200)
        self.said = QLabel()
        self.said.setObjectName("weld_said")
        self.said.setWordWrap(True)
        self.history = QPlainTextEdit()
        self.history.setObjectName("weld_history")
        self.history.setAccessibleName(self.tr("Who said what, and when"))
        self.history.setToolTip(self.tr("Every label and every change since the weld was recorded, the newest first"))
        self.history.setReadOnly(True)
        self.problem = QLabel()
        self.problem.setObjectName("weld_problem")
        self._pages = QStackedWidget()
        self._pages.addWidget(self._next_page())
        self._pages.addWidget(self._chosen_page())
        layout = QVBoxLayout(self)
        layout.addLayout(self._switches(page))
        layout.addWidget(self._pages, 1)
        layout.addLayout(self._buttons())
        self.show_file(None)

    def _switches(self, page: int) -> QHBoxLayout:
        row = QHBoxLayout()
        group = QButtonGroup(self)
        weld = self._weld
        named = self.tr("Weld of {0}").format(clock_time(weld.started_utc)) if weld else self.tr("No weld yet")
        tips = self.tr("What the next welds are (F4)"), self.tr("What the chosen weld of the list is (F5)")
        for number, words in ((NEXT, self.tr("Next welds")), (CHOSEN, named)):
            button = dialog_button(("weld_next", "weld_chosen")[number], words, tips[number])
            button.setCheckable(True)
            button.setProperty("role", "main")
            button.setAutoDefault(False)
            group.addButton(button, number)
            row.addWidget(button, 1)
            button.setChecked(number == page)
        group.button(CHOSEN).setEnabled(weld is not None)
        group.idClicked.connect(self._pages.setCurrentIndex)
        self._pages.setCurrentIndex(page)
        return row

    def _next_page(self) -> QWidget:
        page = QWidget()
        column = QVBoxLayout(page)
        column.addWidget(QLabel(self.tr("They hold for the next welds; welds that were recorded keep theirs.")))
        column.addWidget(self.next)
        column.addStretch(1)
        return page

    def _chosen_page(self) -> QWidget:
        page = QWidget()
        column = QVBoxLayout(page)
        column.addWidget(self.said)
        column.addWidget(self.chosen)
        by = QHBoxLayout()
        by.addWidget(QLabel(self.by.accessibleName()))
        by.addWidget(self.by, 1)
        column.addLayout(by)
        column.addWidget(QLabel(self.history.accessibleName()))
        column.addWidget(self.history, 1)
        return page

    def _buttons(self) -> QHBoxLayout:
        keep = dialog_button("weld_keep", self.tr("Keep"), self.tr("Keep what was changed (Return)"))
        keep.setDefault(True)
        keep.clicked.connect(self.accept)
        cancel = dialog_button("weld_cancel", self.tr("Cancel"), self.tr("Leave everything as it is (Esc)"))
        cancel.clicked.connect(self.reject)
        row = QHBoxLayout()
        row.addWidget(self.problem, 1)
        row.addWidget(cancel)
        row.addWidget(keep)
        return row

    def show_file(self, manifest: Manifest | None) -> None:
        """Show what the weld's folder says now; None: it cannot be read from here, so only changes can be given."""
        if self._weld is None:
            return
        if manifest is None or manifest.key != self._weld.key:
            unknown = self.tr("{0}: what was said so far cannot be read from here; a line left empty stays as it is")
            self.said.setText(unknown.format(self._weld.key))
            self.history.setPlainText("")
            return
        label = label_words(manifest) or self.tr("none yet (keys 0-9, Alt+0, Alt+1)")
        self.said.setText(self.tr("{0}   label: {1}").format(self._weld.key, label))
        self.chosen.show_values(manifest.described)
        self.history.setPlainText("\n".join(history_lines(manifest)) or self.tr("nothing since it was recorded"))

    def accept(self) -> None:
        """Tell what was changed and close; what cannot be kept is said, and nothing is told."""
        problem = self.next.problem or self.chosen.problem
        self.problem.setText(problem)
        if problem:
            return
        changed = {name: "" if value is None else value for name, value in self.next.changes().items()}
        if changed:
            self.next_changed.emit(changed)
        by = self.by.text().strip() or "screen"
        for name, value in self.chosen.changes().items():
            assert self._weld is not None
            self.described.emit({"weld": self._weld.key, "name": name, "value": value, "by": by})
        super().accept()
