"""The bar of buttons at the bottom: arm, record, mark, label, operator and note; for a replay, its transport."""

from typing import Final

from PySide6.QtCore import QTimer, Signal
from PySide6.QtGui import QAction
from PySide6.QtWidgets import QHBoxLayout, QLabel, QLineEdit, QWidget

from gui.actions import make_button
from gui.chooser import Chooser
from gui.class_words import class_words
from recordings.status import CellStatus, ReplayStatus
from recordings.verdict import CLASSES

ASK_MS: Final = 5000
"""After the first press of STOP, a second one within this time stops."""
STEP_S: Final = 0.1
FAST_S: Final = 2.0
_SPEEDS: Final = {"speed_1": 1.0, "speed_2": 2.0, "speed_max": 0.0}


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
        self._live = self._group(
            [make_button(actions["arm"], main=True), self._record, make_button(actions["mark"], main=True)]
        )
        self._transport = self._make_transport()
        layout = QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(8)
        layout.addWidget(self._live)
        layout.addWidget(self._transport)
        layout.addWidget(self.labels)
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

    def _make_transport(self) -> QWidget:
        names = ("start", "fast_back", "step_back", "play", "step", "fast", "end", *_SPEEDS)
        self._position = QLabel()
        self._position.setObjectName("replay_position")
        self._position.setMinimumWidth(96)
        group = self._group([make_button(self._actions[name]) for name in names])
        row = group.layout()
        assert row is not None
        row.addWidget(self._position)
        group.setObjectName("replay_transport")
        return group

    @staticmethod
    def _group(widgets: list[QWidget]) -> QWidget:
        group = QWidget()
        row = QHBoxLayout(group)
        row.setContentsMargins(0, 0, 0, 0)
        row.setSpacing(8)
        for widget in widgets:
            row.addWidget(widget)
        return group

    def _connect(self) -> None:
        actions = self._actions
        actions["arm"].triggered.connect(lambda on: self.command.emit("arm", {"on": on}))
        actions["record"].triggered.connect(self._press_record)
        actions["mark"].triggered.connect(lambda: self.command.emit("mark", {"note": self.note.text()}))
        for i in range(len(CLASSES)):
            actions[f"label_{i}"].triggered.connect(lambda _checked=False, label=i: self._label(label))
        seek = self._seek
        actions["start"].triggered.connect(lambda: seek(0.0))
        actions["end"].triggered.connect(lambda: seek(float("inf")))
        for name, by_s in (("step_back", -STEP_S), ("step", STEP_S), ("fast_back", -FAST_S), ("fast", FAST_S)):
            actions[name].triggered.connect(lambda _checked=False, s=by_s: self._seek_by(s))
        actions["play"].triggered.connect(lambda on: self.command.emit("replay", {"playing": on}))
        for name, speed in _SPEEDS.items():
            actions[name].triggered.connect(lambda _checked=False, s=speed: self._set_speed(s))

    def show_status(self, status: CellStatus | None, weld: str | None) -> None:
        """Follow a status (None: not connected); `weld` is the key of the weld that a label is for."""
        self._status, self._weld = status, weld
        replay = status.replay if status else None
        live = status is not None and replay is None
        for name in ("arm", "record", "mark"):
            self._actions[name].setEnabled(live)
        if status is not None:
            self._actions["mark"].setEnabled(live and status.recording)
            self._actions["arm"].setChecked(status.armed)
            self._show_label(status)
        self.labels.setEnabled(live and weld is not None)
        self.labels.setVisible(replay is None)
        for i in range(len(CLASSES)):
            self._actions[f"label_{i}"].setEnabled(self.labels.isEnabled())
        for line in (self.operator, self.note):
            line.setEnabled(live)
            line.setVisible(replay is None)
        if live and status is not None and not self.operator.hasFocus():
            self.operator.setText(str(status.metadata.get("operator", "")))
        self._live.setVisible(replay is None)
        self._transport.setVisible(replay is not None)
        self._show_replay(replay)
        if not self._asking.isActive() or status is None or not status.recording:
            self._asking.stop()
            self._show_record()

    def _show_label(self, status: CellStatus) -> None:
        label = next((weld.label for weld in status.welds if weld.key == self._weld), -1)
        if not self.labels.view().isVisible():
            self.labels.setCurrentIndex(self.labels.findData(label))

    def _show_replay(self, replay: ReplayStatus | None) -> None:
        names = ("start", "fast_back", "step_back", "play", "step", "fast", "end", *_SPEEDS)
        for name in names:
            self._actions[name].setEnabled(replay is not None)
        if replay is None:
            return
        self._actions["play"].setChecked(replay.playing)
        self._actions["play"].setText(self.tr("Pause") if replay.playing else self.tr("Play"))
        for name, speed in _SPEEDS.items():
            self._actions[name].setChecked(replay.speed == speed)
        self._position.setText(f"{replay.position_s:.1f} / {replay.duration_s:.1f} s")

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

    def _seek_by(self, seconds: float) -> None:
        if self._status is not None and self._status.replay is not None:
            self._seek(self._status.replay.position_s + seconds)

    def _seek(self, seconds: float) -> None:
        replay = self._status.replay if self._status else None
        if replay is not None:
            self.command.emit("replay", {"seek_s": min(max(0.0, seconds), replay.duration_s)})

    def _set_speed(self, speed: float) -> None:
        self.command.emit("replay", {"speed": speed})
