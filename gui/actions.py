"""Everything that can be done at the screen, with its key: the table that menus, buttons, tooltips and tests read."""

from dataclasses import dataclass
from typing import Final

from PySide6.QtCore import QT_TRANSLATE_NOOP, QCoreApplication, Qt
from PySide6.QtGui import QAction, QKeySequence
from PySide6.QtWidgets import QPushButton, QToolButton, QWidget

from gui.class_words import CLASS_WORDS


@dataclass(frozen=True, slots=True, kw_only=True)
class ActionSpec:
    """One thing that can be done.

    Attributes:
        name: Name in code, of the `QAction` and, with `button_` before it, of its button.
        text: Short text for menus and buttons (English source of the translation).
        key: Key in Qt's portable spelling; unique.
        menu: Menu that it stands in.
        tip: What it does, in one sentence.
        checkable: It is a switch.
        repeats: It goes on while its key is held.
        control: `objectName` of the control on the page that does the same.
        context: Context of the translation of text and tip.
    """

    name: str
    text: str
    key: str
    menu: str
    tip: str
    control: str
    checkable: bool = False
    repeats: bool = False
    context: str = "Actions"

    @property
    def words(self) -> str:
        """The translated text."""
        return QCoreApplication.translate(self.context, self.text)

    @property
    def explained(self) -> str:
        """The translated tip."""
        return QCoreApplication.translate(self.context, self.tip)


def _spec(
    name: str,
    text: object,
    key: str,
    menu: str,
    tip: object,
    *,
    checkable: bool = False,
    repeats: bool = False,
    control: str = "",
    context: str = "Actions",
) -> ActionSpec:
    """Make a row; what `QT_TRANSLATE_NOOP` gives back is text, though its type does not say so."""
    return ActionSpec(
        name=name,
        text=str(text),
        key=key,
        menu=menu,
        tip=str(tip),
        checkable=checkable,
        repeats=repeats,
        control=control or f"button_{name}",
        context=context,
    )


SPEEDS: Final = {
    "speed_tenth": 0.1,
    "speed_quarter": 0.25,
    "speed_half": 0.5,
    "speed_1": 1.0,
    "speed_2": 2.0,
    "speed_5": 5.0,
    "speed_max": 0.0,
}
"""The actions that set how fast a replay plays, and its `speed` (0 is as fast as every reader keeps up)."""
_SPEED_ROWS: Final = (
    ("speed_tenth", "0.1x", QT_TRANSLATE_NOOP("Actions", "Replay: a tenth of real time")),
    ("speed_quarter", "0.25x", QT_TRANSLATE_NOOP("Actions", "Replay: a quarter of real time")),
    ("speed_half", "0.5x", QT_TRANSLATE_NOOP("Actions", "Replay: half of real time")),
    ("speed_1", "1x", QT_TRANSLATE_NOOP("Actions", "Replay: real time")),
    ("speed_2", "2x", QT_TRANSLATE_NOOP("Actions", "Replay: twice real time")),
    ("speed_5", "5x", QT_TRANSLATE_NOOP("Actions", "Replay: five times real time")),
    (
        "speed_max",
        QT_TRANSLATE_NOOP("Actions", "max"),
        QT_TRANSLATE_NOOP("Actions", "Replay: as fast as every reader keeps up"),
    ),
)
_LABEL_KEYS: Final = (*"0123456789", "Alt+0", "Alt+1")

ACTIONS: Final[tuple[ActionSpec, ...]] = (
    _spec(
        "arm",
        QT_TRANSLATE_NOOP("Actions", "ARM"),
        "F2",
        "Weld",
        QT_TRANSLATE_NOOP("Actions", "Let the arc start a recording by itself"),
        checkable=True,
    ),
    _spec(
        "record",
        QT_TRANSLATE_NOOP("Actions", "RECORD"),
        "R",
        "Weld",
        QT_TRANSLATE_NOOP("Actions", "Start a recording by hand; while one runs: stop it (asks once)"),
    ),
    _spec(
        "mark",
        QT_TRANSLATE_NOOP("Actions", "MARK"),
        "M",
        "Weld",
        QT_TRANSLATE_NOOP("Actions", "Set a mark with the note in the weld being recorded"),
    ),
    _spec(
        "acknowledge",
        QT_TRANSLATE_NOOP("Actions", "Acknowledge"),
        "A",
        "Weld",
        QT_TRANSLATE_NOOP("Actions", "Acknowledge all alarms"),
    ),
    _spec(
        "part",
        QT_TRANSLATE_NOOP("Actions", "Next welds"),
        "F4",
        "Weld",
        QT_TRANSLATE_NOOP("Actions", "Say what the next welds are: part, program, material"),
        control="weld_info",
    ),
    _spec(
        "describe",
        QT_TRANSLATE_NOOP("Actions", "Weld data"),
        "F5",
        "Weld",
        QT_TRANSLATE_NOOP("Actions", "Correct what is said about the chosen weld of the list, and see who said what"),
    ),
    *(
        _spec(f"label_{i}", words, key, "Label", words, control="label_chooser", context="Classes")
        for i, (words, key) in enumerate(zip(CLASS_WORDS, _LABEL_KEYS, strict=True))
    ),
    _spec(
        "start",
        "|<",
        "Home",
        "Replay",
        QT_TRANSLATE_NOOP("Actions", "Replay: go to the start"),
    ),
    _spec(
        "fast_back",
        "<<",
        "Shift+Left",
        "Replay",
        QT_TRANSLATE_NOOP("Actions", "Replay: jump back by 2 s"),
        repeats=True,
    ),
    _spec("step_back", "<", "Left", "Replay", QT_TRANSLATE_NOOP("Actions", "Replay: one picture back"), repeats=True),
    _spec(
        "play",
        QT_TRANSLATE_NOOP("Actions", "Play"),
        "Space",
        "Replay",
        QT_TRANSLATE_NOOP("Actions", "Replay: play or pause"),
        checkable=True,
    ),
    _spec("step", ">", "Right", "Replay", QT_TRANSLATE_NOOP("Actions", "Replay: one picture on"), repeats=True),
    _spec("fast", ">>", "Shift+Right", "Replay", QT_TRANSLATE_NOOP("Actions", "Replay: jump on by 2 s"), repeats=True),
    _spec(
        "end",
        ">|",
        "End",
        "Replay",
        QT_TRANSLATE_NOOP("Actions", "Replay: go to the end; live: back to now, from a display that was frozen"),
    ),
    _spec(
        "range_a",
        QT_TRANSLATE_NOOP("Actions", "A"),
        "[",
        "Replay",
        QT_TRANSLATE_NOOP("Actions", "Replay: play from here (A); pressed there again: from the start"),
        checkable=True,
    ),
    _spec(
        "range_b",
        QT_TRANSLATE_NOOP("Actions", "B"),
        "]",
        "Replay",
        QT_TRANSLATE_NOOP("Actions", "Replay: play up to here (B); pressed there again: to the end"),
        checkable=True,
    ),
    _spec(
        "range_clear",
        QT_TRANSLATE_NOOP("Actions", "A–B off"),
        "\\",
        "Replay",
        QT_TRANSLATE_NOOP("Actions", "Replay: play the whole weld again"),
    ),
    _spec(
        "loop",
        QT_TRANSLATE_NOOP("Actions", "Loop"),
        "L",
        "Replay",
        QT_TRANSLATE_NOOP("Actions", "Replay: begin anew at the end"),
        checkable=True,
    ),
    *(
        _spec(name, words, f"Ctrl+{i + 1}", "Replay", tip, checkable=True)
        for i, (name, words, tip) in enumerate(_SPEED_ROWS)
    ),
    _spec(
        "freeze",
        QT_TRANSLATE_NOOP("Actions", "Freeze"),
        "P",
        "View",
        QT_TRANSLATE_NOOP("Actions", "Freeze picture and curves; recording and judging go on"),
        checkable=True,
    ),
    _spec(
        "blob",
        QT_TRANSLATE_NOOP("Actions", "Arc outline"),
        "O",
        "View",
        QT_TRANSLATE_NOOP("Actions", "Outline the arc in the camera picture"),
        checkable=True,
    ),
    _spec(
        "light",
        QT_TRANSLATE_NOOP("Actions", "Light"),
        "F10",
        "View",
        QT_TRANSLATE_NOOP("Actions", "Light instead of dark colours"),
        checkable=True,
        control="menu_view",
    ),
    _spec(
        "full_screen",
        QT_TRANSLATE_NOOP("Actions", "Full screen"),
        "F11",
        "View",
        QT_TRANSLATE_NOOP("Actions", "Fill the screen"),
        checkable=True,
        control="menu_view",
    ),
    _spec(
        "devices",
        QT_TRANSLATE_NOOP("Actions", "Use my devices"),
        "F3",
        "Cell",
        QT_TRANSLATE_NOOP("Actions", "How to put your own devices into a cell file"),
    ),
)
MENUS: Final = (
    str(QT_TRANSLATE_NOOP("Menus", "Cell")),
    str(QT_TRANSLATE_NOOP("Menus", "Weld")),
    str(QT_TRANSLATE_NOOP("Menus", "Label")),
    str(QT_TRANSLATE_NOOP("Menus", "Replay")),
    str(QT_TRANSLATE_NOOP("Menus", "View")),
)


def make_actions(owner: QWidget) -> dict[str, QAction]:
    """Make the `QAction` of every row, with its key, as actions of `owner`; by name."""
    actions = {}
    for spec in ACTIONS:
        action = QAction(spec.words, owner)
        action.setObjectName(spec.name)
        action.setShortcut(QKeySequence(spec.key))
        action.setShortcutContext(Qt.ShortcutContext.WindowShortcut)
        action.setAutoRepeat(spec.repeats)
        action.setCheckable(spec.checkable)
        action.setToolTip(f"{spec.explained} ({spec.key})")
        owner.addAction(action)
        actions[spec.name] = action
    return actions


def make_button(action: QAction, *, main: bool = False) -> QToolButton:
    """Make the touch button of an action; text, tooltip, state and effect all come from the action."""
    button = QToolButton()
    button.setDefaultAction(action)
    button.setObjectName(f"button_{action.objectName()}")
    button.setAccessibleName(next(spec.explained for spec in ACTIONS if spec.name == action.objectName()))
    button.setProperty("role", "main" if main else "plain")
    return button


def dialog_button(name: str, text: str, tip: str) -> QPushButton:
    """Make a button of a dialog; it belongs to no action."""
    button = QPushButton(text)
    button.setObjectName(name)
    button.setAccessibleName(tip)
    button.setToolTip(tip)
    return button
