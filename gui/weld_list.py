"""The last welds: when, which, what was said of them, what they were made of, and the label of each."""

from collections.abc import Mapping
from typing import Final

from PySide6.QtCore import Qt, Signal
from PySide6.QtWidgets import (
    QAbstractItemView,
    QFrame,
    QHBoxLayout,
    QHeaderView,
    QLabel,
    QScroller,
    QTableWidget,
    QTableWidgetItem,
    QVBoxLayout,
)

from acquisition.packet import MODALITIES
from gui.class_words import class_words
from gui.judgement import SHAPES, Shown, closed, modality_words
from gui.shapes import Shape, icon_for
from gui.theme import TOUCH_PX
from gui.weld_history import label_words
from gui.weld_info import ElidedLabel, clock_time, phase_words, trigger_words
from recordings.manifest import Manifest
from recordings.status import CellStatus, WeldStatus

_LEAST_PX: Final = 54
_WIDEST_PX: Final = 208
"""Widest column: a key fits, the longest label is cut."""


class WeldList(QFrame):
    """A row per weld, newest first; the selected one is labelled, the newest if none is selected.

    Signals:
        selected: Another weld was selected (its key).
    """

    selected = Signal(str)

    def __init__(self) -> None:
        """Start empty."""
        super().__init__()
        self.setObjectName("weld_panel")
        self.setProperty("role", "panel")
        self._keys: list[str] = []
        self._chosen: str | None = None
        self._status: CellStatus | None = None
        self.table = QTableWidget(0, 7)
        self.table.setObjectName("weld_list")
        self.table.setAccessibleName(self.tr("The last welds"))
        self.table.setToolTip(self.tr("Touch a weld to label it; without a choice the newest is labelled"))
        self.table.setHorizontalHeaderLabels(
            [
                self.tr("Time"),
                self.tr("Weld"),
                self.tr("Verdict"),
                self.tr("Score"),
                self.tr("Present"),
                self.tr("Label"),
                self.tr("Photos"),
            ]
        )
        self.table.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.table.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        self.table.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.table.setShowGrid(False)
        self.table.setWordWrap(False)
        self.table.verticalHeader().hide()
        self.table.verticalHeader().setDefaultSectionSize(TOUCH_PX)
        self.table.setMinimumHeight(_LEAST_PX)
        header = self.table.horizontalHeader()
        header.setSectionResizeMode(QHeaderView.ResizeMode.ResizeToContents)
        header.setSectionResizeMode(4, QHeaderView.ResizeMode.Stretch)
        header.setMaximumSectionSize(_WIDEST_PX)
        header.setDefaultAlignment(Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter)
        self.table.cellClicked.connect(self._choose)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(8, 4, 8, 8)
        QScroller.grabGesture(self.table.viewport(), QScroller.ScrollerGestureType.TouchGesture)
        self.table.setVerticalScrollMode(QAbstractItemView.ScrollMode.ScrollPerPixel)
        layout.addWidget(self.table)
        self._said = ElidedLabel("weld_label_said", "small")
        self._ignored = QLabel()
        self._ignored.setObjectName("ignored_arcs")
        self._ignored.setProperty("role", "small")
        self._ignored.setToolTip(self.tr("Arcs that were shorter than the shortest weld of the cell file, since start"))
        below = QHBoxLayout()
        below.addWidget(self._said, 1)
        below.addWidget(self._ignored)
        layout.addLayout(below)
        for line in (self._said, self._ignored):
            line.hide()

    @property
    def chosen(self) -> str | None:
        """Key of the weld that a label is for, or None when there is none."""
        if self._chosen in self._keys:
            return self._chosen
        return self._keys[0] if self._keys else None

    def _choose(self, row: int, _column: int) -> None:
        """Choose a weld by touch; touching it again chooses the newest, whichever that is."""
        key = self._keys[row] if row < len(self._keys) else None
        self._chosen = None if key == self._chosen else key
        if self._chosen is None:
            self.table.clearSelection()
        self.selected.emit(self.chosen or "")

    def show_status(self, status: CellStatus | None, shown: Shown, triggers: Mapping[str, str]) -> None:
        """Show the welds; without a status those that were shown stay (they lie on disk), but no open verdict does.

        Args:
            status: The status, or None while there is no fresh one.
            shown: What the verdict tile says of the current weld, which its row must not contradict.
            triggers: What began a weld, by its key, as far as the screen saw it.
        """
        known = status is not None
        status = self._status = status or self._status
        ignored = status.ignored_arcs if status is not None else 0
        self._ignored.setText(self.tr("{0} short arcs ignored").format(ignored))
        self._ignored.setVisible(ignored > 0)
        if status is None:
            self._show_none(self.tr("no weld known yet"))
            return
        self._keys = [weld.key for weld in status.welds]
        if not self._keys:
            self._show_none(self.tr("no weld recorded yet"))
            return
        self.table.clearSpans()
        self.table.setRowCount(len(self._keys))
        for row, weld in enumerate(status.welds):
            self._fill(row, weld, shown if shown.weld and shown.weld.key == weld.key else None, known=known)
            if (began := trigger_words(triggers.get(weld.key, ""))) and (item := self.table.item(row, 0)) is not None:
                item.setToolTip(f"{item.toolTip()}\n{began}")
        if self._chosen in self._keys:
            self.table.selectRow(self._keys.index(self._chosen))

    def show_file(self, manifest: Manifest | None) -> None:
        """Say who gave the chosen weld its label, and when; None: its folder cannot be read from here."""
        words = label_words(manifest) if manifest is not None and manifest.key == self.chosen else ""
        self._said.setText(self.tr("{0}: label {1}").format(self.chosen, words) if words else "")
        self._said.setVisible(bool(words))

    @property
    def chosen_weld(self) -> WeldStatus | None:
        """The weld that a label is for, or None when there is none."""
        welds = self._status.welds if self._status is not None else []
        return next((weld for weld in welds if weld.key == self.chosen), None)

    def _show_none(self, words: str) -> None:
        self.table.setRowCount(1)
        self.table.setSpan(0, 0, 1, self.table.columnCount())
        self._set(0, 0, words)

    def _fill(self, row: int, weld: WeldStatus, shown: Shown | None, *, known: bool) -> None:
        verdict = weld.verdict
        word: str
        final = verdict is not None and verdict.final and self._status is not None and closed(self._status, weld)
        if shown is not None and not final and shown.word == "NO DATA":
            shape, word = shown.shape, shown.word
        elif weld.phase == "failed":
            shape, word = Shape.NO_DATA, self.tr("FAILED")
        elif not known and not final:
            shape, word = Shape.NO_DATA, "NO DATA"
        elif verdict is None:
            shape, word = (
                (Shape.NO_DATA, "NO DATA") if weld.phase == "judged" else (Shape.PENDING, phase_words(weld.phase))
            )
        elif final:
            shape, word = SHAPES[verdict.word], verdict.word
        else:
            shape, word = Shape.PENDING, self.tr("{0} so far").format(verdict.word)
        score = "–" if verdict is None or verdict.score is None else f"{verdict.score:.2f}"
        missing = [modality_words(m) for m in MODALITIES if m not in weld.present]
        present = self.tr("no {0}").format(", ".join(missing)) if missing else self.tr("all four")
        if not weld.present and weld.phase in ("welding", "post-roll"):
            present = "–"
        photos = f"{weld.photos}/{weld.photos_expected}" if weld.photos_expected else str(weld.photos)
        cells = (clock_time(weld.started_utc), weld.key, word, score, present, class_words(weld.label), photos)
        tip = f"{weld.problem or (verdict.reason if verdict else weld.path)}\n{present}"
        item = [self._set(row, column, words, tip) for column, words in enumerate(cells)][2]
        drawn = (shape.value, self.palette().base().color().name())
        if item.data(Qt.ItemDataRole.UserRole) != drawn:
            item.setData(Qt.ItemDataRole.UserRole, drawn)
            item.setIcon(icon_for(shape, self))

    def _set(self, row: int, column: int, words: str, tip: str = "") -> QTableWidgetItem:
        item = self.table.item(row, column)
        if item is None:
            item = QTableWidgetItem()
            self.table.setItem(row, column, item)
        if item.text() != words:
            item.setText(words)
        item.setToolTip(tip)
        return item
