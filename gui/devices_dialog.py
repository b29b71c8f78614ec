"""How to leave the simulated cell: what a cell file is, and the devices of this machine as lines to put into one."""

from collections.abc import Sequence

from PySide6.QtCore import QProcess, Qt
from PySide6.QtGui import QGuiApplication
from PySide6.QtWidgets import QDialog, QHBoxLayout, QLabel, QPlainTextEdit, QVBoxLayout, QWidget

from gui.actions import dialog_button
from gui.weld_info import ElidedLabel


class DevicesDialog(QDialog):
    """Runs the `devices` command beside the screen and shows its lines."""

    def __init__(self, command: Sequence[str], parent: QWidget) -> None:
        """Start looking; `command` is the program and arguments that list devices."""
        super().__init__(parent)
        self.setObjectName("devices_dialog")
        self.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        self.setWindowTitle(self.tr("Use my devices"))
        self.resize(880, 560)
        steps = QLabel(
            self.tr(
                "1. Copy the lines of your camera, microphone and serial port below into a file, say my_cell.toml.\n"
                "2. Name the cell in it and say which streams a verdict requires.\n"
                "3. Close this window and start again with:  python app.py run --cell my_cell.toml"
            )
        )
        steps.setWordWrap(True)
        steps.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        self.state = ElidedLabel("devices_state")
        self.lines = QPlainTextEdit()
        self.lines.setObjectName("devices_lines")
        self.lines.setAccessibleName(self.tr("Lines for a cell file"))
        self.lines.setToolTip(self.tr("What was found, as lines for a cell file"))
        self.lines.setReadOnly(True)
        self._copy = dialog_button("devices_copy", self.tr("Copy lines"), self.tr("Copy all lines to the clipboard"))
        self._copy.clicked.connect(lambda: QGuiApplication.clipboard().setText(self.lines.toPlainText()))
        self._again = dialog_button("devices_again", self.tr("Look again"), self.tr("Look for devices once more"))
        self._again.clicked.connect(self._look)
        close = dialog_button("devices_close", self.tr("Close"), self.tr("Back to the cell (Esc)"))
        close.clicked.connect(self.close)
        buttons = QHBoxLayout()
        buttons.addWidget(self.state, 1)
        for button in (self._again, self._copy, close):
            buttons.addWidget(button)
        layout = QVBoxLayout(self)
        layout.addWidget(steps)
        layout.addWidget(self.lines, 1)
        layout.addLayout(buttons)
        self._command = list(command)
        self._process = QProcess(self)
        self._process.finished.connect(self._finished)
        self._process.errorOccurred.connect(self._failed)
        self._look()

    def _look(self) -> None:
        self._again.setEnabled(False)
        self._copy.setEnabled(False)
        self.lines.clear()
        self.state.setText(self.tr("Looking for devices…"))
        self._process.start(self._command[0], self._command[1:])

    def _finished(self, code: int) -> None:
        out = bytes(self._process.readAllStandardOutput().data()).decode(errors="replace").strip()
        problem = bytes(self._process.readAllStandardError().data()).decode(errors="replace").strip()
        self.lines.setPlainText(out or problem)
        self._again.setEnabled(True)
        self._copy.setEnabled(bool(out))
        if code:
            self.state.setText(self.tr("The command ended with {0}: {1}").format(code, " ".join(self._command)))
        else:
            self.state.setText(
                self.tr("Found by: {0}").format(" ".join(["python", *self._command[1:]]))
                if out
                else self.tr("No devices found; plug one in and look again")
            )

    def _failed(self, error: QProcess.ProcessError) -> None:
        if error is QProcess.ProcessError.FailedToStart:
            self._again.setEnabled(True)
            self.state.setText(self.tr("Cannot start: {0}").format(" ".join(self._command)))

    def done(self, result: int) -> None:
        """End a search that still runs, then close."""
        if self._process.state() is not QProcess.ProcessState.NotRunning:
            self._process.kill()
            self._process.waitForFinished(1000)
        super().done(result)
