"""The transport of a replay: start, back, step, play, on, end; A, B and loop; speed."""

from typing import Final

from PySide6.QtCore import Signal
from PySide6.QtGui import QAction
from PySide6.QtWidgets import QHBoxLayout, QToolButton, QWidget

from gui.actions import SPEEDS, make_button
from gui.chooser import Chooser
from gui.seeking import Seeking, set_ends
from gui.theme import GRID_PX
from recordings.status import ReplayStatus

FAST_S: Final = 2.0
_SAME_S: Final = 0.05
_MOVES: Final = ("start", "fast_back", "step_back", "play", "step", "fast", "end")
_RANGE: Final = ("range_a", "range_b", "range_clear", "loop")
_PLAY_PX: Final = 112


class ReplayBar(QWidget):
    """Turns presses into commands for a replay; hidden where there is none.

    Signals:
        command: A command for the replay: kind, data.
    """

    command = Signal(str, dict)

    def __init__(self, actions: dict[str, QAction]) -> None:
        """Build the bar on the shared actions."""
        super().__init__()
        self.setObjectName("replay_transport")
        self._actions = actions
        self._replay: ReplayStatus | None = None
        self.seeking = Seeking()
        self.seeking.command.connect(self.command)
        row = QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.setSpacing(GRID_PX)
        for name in _MOVES:
            row.addWidget(self._button(name, wide=name == "play"))
        row.addSpacing(GRID_PX)
        for name in _RANGE:
            row.addWidget(self._button(name))
        row.addSpacing(GRID_PX)
        self._speeds = [self._button(name) for name in SPEEDS]
        for button in self._speeds:
            row.addWidget(button)
        self.speed = Chooser(
            "speed_chooser", self.tr("Speed"), self.tr("How fast the weld is played (Ctrl+1 to Ctrl+7)")
        )
        for name, speed in SPEEDS.items():
            self.speed.addItem(actions[name].text(), speed)
        self.speed.setMinimumWidth(_PLAY_PX)
        self.speed.activated.connect(lambda i: self.command.emit("replay", {"speed": float(self.speed.itemData(i))}))
        row.addWidget(self.speed)
        row.addStretch(1)
        self._connect()
        self.set_roomy(False)
        self.show_replay(None)

    def _button(self, name: str, *, wide: bool = False) -> QToolButton:
        button = make_button(self._actions[name])
        button.setProperty("role", "transport")
        if wide:
            button.setFixedWidth(_PLAY_PX)
        return button

    def _connect(self) -> None:
        actions, seeking = self._actions, self.seeking
        actions["start"].triggered.connect(lambda: seeking.seek(self._ends()[0]))
        actions["end"].triggered.connect(lambda: seeking.seek(self._ends()[1]))
        for name, frames in (("step_back", -1), ("step", 1)):
            actions[name].triggered.connect(lambda _checked=False, n=frames: seeking.step(n))
        for name, by_s in (("fast_back", -FAST_S), ("fast", FAST_S)):
            actions[name].triggered.connect(lambda _checked=False, s=by_s: seeking.seek_by(s))
        actions["play"].triggered.connect(lambda on: self.command.emit("replay", {"playing": on}))
        actions["loop"].triggered.connect(lambda on: self.command.emit("replay", {"loop": on}))
        actions["range_a"].triggered.connect(lambda: self._set_end(0))
        actions["range_b"].triggered.connect(lambda: self._set_end(1))
        actions["range_clear"].triggered.connect(lambda: self.command.emit("replay", {"range": None}))
        for name, speed in SPEEDS.items():
            actions[name].triggered.connect(lambda _checked=False, s=speed: self.command.emit("replay", {"speed": s}))

    def set_roomy(self, roomy: bool) -> None:
        """Offer the speeds as buttons where there is room for them, else as a list."""
        for button in self._speeds:
            button.setVisible(roomy)
        self.speed.setVisible(not roomy)

    def sought(self, to_s: float, lifted: bool) -> None:
        """Follow a finger on curves or slider."""
        (self.seeking.drop if lifted else self.seeking.drag)(to_s)

    def show_replay(self, replay: ReplayStatus | None) -> None:
        """Follow where the replay stands; None: this is no replay, or nothing is known."""
        self._replay = replay
        self.seeking.follow(replay)
        self.setVisible(replay is not None)
        actions = self._actions
        for name in (*_MOVES, *_RANGE, *SPEEDS):
            actions[name].setEnabled(replay is not None)
        if replay is None:
            return
        actions["play"].setChecked(replay.playing)
        actions["play"].setText(self.tr("Pause") if replay.playing else self.tr("Play"))
        actions["loop"].setChecked(replay.loop)
        a_s, b_s = set_ends(replay)
        actions["range_a"].setChecked(a_s is not None)
        actions["range_b"].setChecked(b_s is not None)
        actions["range_clear"].setEnabled(a_s is not None or b_s is not None)
        for name, speed in SPEEDS.items():
            actions[name].setChecked(replay.speed == speed)
        if not self.speed.view().isVisible():
            self.speed.setCurrentIndex(self.speed.findData(replay.speed))

    def _ends(self) -> tuple[float, float]:
        """Beginning and end of what is played."""
        if self._replay is None:
            return 0.0, 0.0
        a_s, b_s = set_ends(self._replay)
        return a_s or 0.0, self._replay.duration_s if b_s is None else b_s

    def _set_end(self, end: int) -> None:
        """Set A or B where the replay stands; pressed again at the same place, take it away."""
        replay = self._replay
        if replay is None:
            return
        target_s = self.seeking.target_s
        at_s = round(replay.position_s if target_s is None else target_s, 3)
        whole = [0.0, replay.duration_s]
        ends = list(self._ends())
        ends[end] = whole[end] if abs(ends[end] - at_s) < _SAME_S else at_s
        if ends[0] >= ends[1]:
            ends[1 - end] = whole[1 - end]  # the other end lay on the wrong side of this one
        self.command.emit("replay", {"range": None if ends == whole else ends})
        self.show_replay(replay)  # a switch shows what holds, not what was pressed
