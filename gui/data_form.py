"""A form for what is said about a weld: part, program, material and whatever else the cell has names for."""

import math
from collections.abc import Mapping
from typing import Final

from PySide6.QtCore import QT_TRANSLATE_NOOP, QCoreApplication
from PySide6.QtWidgets import QGridLayout, QLabel, QLineEdit, QWidget

from gui.theme import GRID_PX

_FIELDS: Final[dict[str, str]] = {
    "part": str(QT_TRANSLATE_NOOP("DataForm", "Part")),
    "program": str(QT_TRANSLATE_NOOP("DataForm", "Program")),
    "material": str(QT_TRANSLATE_NOOP("DataForm", "Material")),
    "thickness_mm": str(QT_TRANSLATE_NOOP("DataForm", "Thickness (mm)")),
    "weld_id": str(QT_TRANSLATE_NOOP("DataForm", "Weld or part number")),
    "operator": str(QT_TRANSLATE_NOOP("DataForm", "Operator")),
    "notes": str(QT_TRANSLATE_NOOP("DataForm", "Notes")),
}
"""What is always asked for, by the name that it is kept under."""
_NUMBERS: Final = frozenset({"thickness_mm"})
_MOST: Final = 12
_LONGEST: Final = 2000

Value = str | float | int | None


class DataForm(QWidget):
    """A line per name; knows what was changed."""

    def __init__(self, name: str, values: Mapping[str, object], leave_out: tuple[str, ...] = ()) -> None:
        """Start with `values`; `name` begins the `objectName` of every line."""
        super().__init__()
        self._name = name
        self._before: Mapping[str, object] = {}
        self.lines: dict[str, QLineEdit] = {}
        self._grid = QGridLayout(self)
        self._grid.setContentsMargins(0, 0, 0, 0)
        self._grid.setSpacing(GRID_PX)
        for key in _FIELDS:
            if key not in leave_out:
                self._add(key)
        self.show_values(values)

    def show_values(self, values: Mapping[str, object]) -> None:
        """Show what holds now; a line that was changed by hand keeps what stands in it."""
        single = {k: v for k, v in values.items() if isinstance(v, str | int | float) and not isinstance(v, bool)}
        for key in single:
            if key not in self.lines and len(self.lines) < _MOST:
                self._add(key)
        for key, line in self.lines.items():
            if not line.isModified():
                line.setText(_text(single.get(key)))
        self._before = single

    def _add(self, key: str) -> None:
        name = QCoreApplication.translate("DataForm", _FIELDS[key]) if key in _FIELDS else key
        line = QLineEdit()
        line.setObjectName(f"{self._name}_{key}")
        line.setAccessibleName(name)
        line.setToolTip(self.tr("Kept as '{0}'; Return keeps all").format(key))
        line.setMaxLength(_LONGEST)
        row, column = divmod(len(self.lines), 2)
        self._grid.addWidget(QLabel(name), row, 2 * column)
        self._grid.addWidget(line, row, 2 * column + 1)
        self.lines[key] = line

    @property
    def problem(self) -> str:
        """What cannot be kept as it stands, in one line; `""` if all can."""
        for key, line in self.lines.items():
            text = line.text().strip()
            if self._is_number(key) and line.isModified() and text and _number(text) is None:
                words = self.tr("{0}: '{1}' is no number; write it like 2.5, or leave it empty")
                return words.format(line.accessibleName(), text)
        return ""

    def changes(self) -> dict[str, Value]:
        """Give the names whose value was changed; None where it was emptied."""
        changed: dict[str, Value] = {}
        for key, line in self.lines.items():
            text = line.text().strip()
            if line.isModified() and text != _text(self._before.get(key)):
                changed[key] = (_number(text) if self._is_number(key) else text) if text else None
        return changed

    def _is_number(self, key: str) -> bool:
        return key in _NUMBERS or isinstance(self._before.get(key), int | float)


def _text(value: object) -> str:
    return "" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _number(text: str) -> float | None:
    """Read a number as people write it; None where it is none."""
    try:
        value = float(text.replace(",", "."))
    except ValueError:
        return None
    return value if math.isfinite(value) else None
