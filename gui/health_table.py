"""How every stream is doing; detector, disk and screen stand in lines below."""

from collections import deque
from typing import Final

from PySide6.QtCore import Qt
from PySide6.QtGui import QColor, QIcon
from PySide6.QtWidgets import (
    QAbstractItemView,
    QFrame,
    QHeaderView,
    QTableWidget,
    QTableWidgetItem,
    QVBoxLayout,
)

from gui.health_lines import HealthLines
from gui.shapes import Shape, icon_for
from gui.sparkline import HISTORY, HISTORY_ROLE, Sparkline
from gui.theme import NO_GO, WARNING
from recordings.status import CellStatus, Gap, StreamStatus

_OLD_S: Final = 2.0
_FRAME_MS: Final = 33.0
_ROW_PX: Final = 22
_ROOMY_ROW_PX: Final = 42


class HealthTable(QFrame):
    """A row per stream; below it detector, write buffer, disk and screen."""

    def __init__(self) -> None:
        """Start without streams."""
        super().__init__()
        self.setObjectName("health_panel")
        self.setProperty("role", "panel")
        self._history: dict[str, deque[float]] = {}
        self.table = QTableWidget(0, 7)
        self.table.setObjectName("health_table")
        self.table.setAccessibleName(self.tr("Health of the streams"))
        self.table.setToolTip(self.tr("State, rate, losses, age of every stream, and how well it keeps time"))
        self.table.setHorizontalHeaderLabels(
            [
                self.tr("Stream"),
                self.tr("State"),
                self.tr("Rate"),
                self.tr("Lost"),
                self.tr("Age"),
                self.tr("Sync"),
                self.tr("Trend"),
            ]
        )
        self.table.setSelectionMode(QAbstractItemView.SelectionMode.NoSelection)
        self.table.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.table.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        self.table.setShowGrid(False)
        self.table.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.table.verticalHeader().hide()
        self.table.verticalHeader().setDefaultSectionSize(_ROW_PX)
        header = self.table.horizontalHeader()
        header.setSectionResizeMode(QHeaderView.ResizeMode.ResizeToContents)
        header.setStretchLastSection(True)
        header.setDefaultAlignment(Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter)
        self._spark = Sparkline(self.table)
        self.table.setItemDelegateForColumn(6, self._spark)
        self.lines = HealthLines()
        layout = QVBoxLayout(self)
        layout.setContentsMargins(8, 2, 8, 4)
        layout.setSpacing(2)
        layout.addWidget(self.table)
        layout.addWidget(self.lines)
        layout.addStretch(1)
        self.show_status(None)

    def set_roomy(self, roomy: bool) -> None:
        """Spread rows and lines where there is room for them."""
        self.table.verticalHeader().setDefaultSectionSize(_ROOMY_ROW_PX if roomy else _ROW_PX)
        self.lines.set_roomy(roomy)
        self._fit_table()

    def _fit_table(self) -> None:
        rows, height = self.table.rowCount(), self.table.verticalHeader().defaultSectionSize()
        top = self.table.horizontalHeader().sizeHint().height() + 2
        self.table.setMinimumHeight(min(4, rows) * height + top + 4)
        self.table.setMaximumHeight(rows * height + top + 4)

    def show_status(self, status: CellStatus | None) -> None:
        """Show a status; None: nothing is known now, which is shown as that, not as the last known."""
        streams = status.streams if status else []
        self.table.setRowCount(max(1, len(streams)))
        self._fit_table()
        if not streams:
            self._fill_row(0, [self.tr("no streams known"), "", "", "", "", "", ""], None)
        for row, stream in enumerate(streams):
            history = self._history.setdefault(stream.name, deque(maxlen=HISTORY))
            history.append(stream.rate_hz if stream.state == "streaming" else 0.0)
            assert status is not None
            gap = next((gap for gap in reversed(status.gaps) if gap.stream == stream.name), None)
            self._fill_stream(row, stream, list(history), gap, status.now_ns, replay=status.replay is not None)
        self.lines.show_status(status)

    def _fill_stream(
        self, row: int, stream: StreamStatus, history: list[float], gap: Gap | None, now_ns: int, *, replay: bool
    ) -> None:
        flows = stream.state == "streaming"
        photos = stream.modality == "post_images"
        late = flows and not photos and stream.age_s is not None and stream.age_s > _OLD_S
        shape = Shape.PENDING if late or stream.state == "opening" else Shape.GO if flows else Shape.NO_GO
        if stream.state == "closed":
            shape = Shape.NO_DATA
        states = {"lost": self.tr("LOST"), "opening": self.tr("OPENING"), "closed": self.tr("CLOSED")}
        if replay and stream.state == "closed":
            states["closed"] = self.tr("nothing yet")
        words = self.tr("silent") if late else self.tr("ok") if flows else states.get(stream.state, stream.state)
        rate = self.tr("{0} photos").format(stream.received) if photos else f"{stream.rate_hz:.1f} Hz"
        if not photos and stream.modality == "audio" and stream.rate_hz >= 1000:
            rate = f"{stream.rate_hz / 1000:.2f} kHz"
        if replay and not photos and not stream.rate_hz:
            rate = "–"
        age = "–" if stream.age_s is None else _age(stream.age_s)
        cells = [
            stream.name + ("" if stream.required or replay else self.tr(" (optional)")),
            words,
            rate,
            str(stream.dropped),
            age,
            # The stream that the others are compared with has no uncertainty of its own.
            self.tr("reference") if stream.sync_ms is not None and not stream.sync_sigma_ms else _sync(stream),
            stream.problem or "",
        ]
        items = self._fill_row(row, cells, shape)
        items[6].setData(HISTORY_ROLE, None if stream.problem or photos else history)
        tips = [stream.problem or self.table.toolTip()] * len(items)
        tips[3] = self._gap_words(gap, now_ns) if gap else tips[3]
        tips[5] = self._sync_words(stream) or tips[5]
        for item, tip in zip(items, tips, strict=True):
            item.setToolTip(tip)
        plain = self.palette().text().color()
        items[3].setForeground(QColor(NO_GO) if stream.dropped else plain)
        items[5].setForeground(QColor(WARNING) if _apart(stream) else plain)

    def _gap_words(self, gap: Gap, now_ns: int) -> str:
        """The newest gap in words: how much, when, why."""
        words = self.tr("last gap: {0} lost ({1}), {2} ago: {3}")
        return words.format(gap.missing, _age(gap.seconds), _age(max(0, now_ns - gap.t_ns) / 1e9), gap.reason)

    def _sync_words(self, stream: StreamStatus) -> str:
        """What is known of a stream's time in words: against the arc, its clock, its faults."""
        words = []
        if stream.sync_ms is not None:
            seen = self.tr("it saw the last weld's arc {0:+.1f} ± {1:.1f} ms after the sensors")
            words.append(seen.format(stream.sync_ms, stream.sync_sigma_ms or 0.0))
        if stream.sigma_ms is not None and stream.drift_ppm is not None:
            known = self.tr("its clock is known to ± {0:.2f} ms and drifts {1:+.1f} ppm")
            words.append(known.format(stream.sigma_ms, stream.drift_ppm))
        if stream.clock_faults:
            words.append(self.tr("{0} unusable time stamps were mended").format(stream.clock_faults))
        return f"{stream.name}: {'; '.join(words)}" if words else ""

    def _fill_row(self, row: int, cells: list[str], shape: Shape | None) -> list[QTableWidgetItem]:
        """Write a row, touching only what changed, and give its items."""
        items = []
        for column, words in enumerate(cells):
            item = self.table.item(row, column)
            if item is None:
                item = QTableWidgetItem()
                self.table.setItem(row, column, item)
            if item.text() != words:
                item.setText(words)
            items.append(item)
        items[6].setData(HISTORY_ROLE, None)
        drawn = (shape and shape.value, self.palette().base().color().name())
        if items[1].data(HISTORY_ROLE) != drawn:
            items[1].setData(HISTORY_ROLE, drawn)
            items[1].setIcon(QIcon() if shape is None else icon_for(shape, self))
        return items


def _age(seconds: float) -> str:
    return (
        f"{1000 * seconds:.0f} ms"
        if seconds < 1
        else f"{seconds:.1f} s"
        if seconds < 100
        else f"{seconds / 60:.0f} min"
    )


def _sync(stream: StreamStatus) -> str:
    """How late the stream saw the last arc; before a weld, how well its clock is known."""
    if stream.sync_ms is not None:
        return f"{stream.sync_ms:+.0f} ± {stream.sync_sigma_ms:.0f} ms"
    return "–" if stream.sigma_ms is None else f"± {stream.sigma_ms:.2f} ms"


def _apart(stream: StreamStatus) -> bool:
    """The stream saw the arc more than a camera frame apart from the sensors, and not by chance."""
    return stream.sync_ms is not None and abs(stream.sync_ms) > max(_FRAME_MS, 3 * (stream.sync_sigma_ms or 0.0))
