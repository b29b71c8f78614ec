"""Which weld the screen speaks of; and, on the simulated cell, that nothing here is real."""

from collections.abc import Mapping
from datetime import datetime
from types import MappingProxyType
from typing import Final

from PySide6.QtCore import QCoreApplication, QSize, Qt
from PySide6.QtGui import QAction, QMouseEvent, QPainter, QPaintEvent, QResizeEvent
from PySide6.QtWidgets import QFrame, QHBoxLayout, QLabel, QSizePolicy, QVBoxLayout

from gui.actions import make_button
from gui.judgement import current_weld
from gui.verdict_tile import HEIGHT_PX
from recordings.status import CellStatus, WeldPhase

_HUGE_PX: Final = 296


class ElidedLabel(QLabel):
    """One line that gives way: what does not fit is cut out of its middle and stands in the tooltip."""

    def __init__(self, name: str, role: str = "") -> None:
        """Make an empty line."""
        super().__init__()
        self.setObjectName(name)
        self.setProperty("role", role)
        self.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Preferred)

    def setText(self, text: str) -> None:
        """Set the whole text."""
        if text != self.text():
            super().setText(text)
            self.setToolTip(text)

    def minimumSizeHint(self) -> QSize:
        """Need no width."""
        return QSize(0, super().minimumSizeHint().height())

    def paintEvent(self, _event: QPaintEvent) -> None:
        """Paint as much of the text as fits."""
        painter = QPainter(self)
        painter.setPen(self.palette().color(self.foregroundRole()))
        words = painter.fontMetrics().elidedText(self.text(), Qt.TextElideMode.ElideMiddle, self.width())
        painter.drawText(self.rect(), Qt.AlignmentFlag.AlignVCenter | Qt.AlignmentFlag.AlignLeft, words)
        painter.end()


class WeldInfo(QFrame):
    """Weld, part and program, to be touched for those of the next welds; beside them whether the cell is simulated."""

    def __init__(self, devices: QAction, part: QAction) -> None:
        """Start without a weld.

        Args:
            devices: Opens the explanation of how to use real devices.
            part: Opens the dialog for part and program.
        """
        super().__init__()
        self.setObjectName("weld_info")
        self.setProperty("role", "panel")
        self.setFixedHeight(HEIGHT_PX)
        self.setToolTip(part.toolTip())
        self.setAccessibleName(part.toolTip())
        self._part_action = part
        self.time = ElidedLabel("weld_time", "huge")
        self.weld = ElidedLabel("weld_id", "large")
        self._phase = ElidedLabel("weld_phase")
        self._part = ElidedLabel("weld_part", "secondary")
        self._words = QVBoxLayout()
        self._words.setSpacing(0)
        for label in (self.time, self.weld, self._phase, self._part):
            self._words.addWidget(label)
        self._simulated = QFrame()
        self._simulated.setObjectName("simulated")
        banner = QLabel(self.tr("SIMULATED CELL"))
        banner.setObjectName("simulated_banner")
        banner.setProperty("role", "banner")
        banner.setAlignment(Qt.AlignmentFlag.AlignCenter)
        column = QVBoxLayout(self._simulated)
        column.setContentsMargins(0, 0, 0, 0)
        column.addWidget(banner, 1)
        button = make_button(devices)
        button.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        column.addWidget(button)
        layout = QHBoxLayout(self)
        layout.setContentsMargins(12, 4, 8, 4)
        layout.addLayout(self._words, 1)
        layout.addWidget(self._simulated)
        self.show_status(None)

    @property
    def simulated(self) -> bool:
        """The screen says that the cell is simulated."""
        return not self._simulated.isHidden()

    def show_status(self, status: CellStatus | None, triggers: Mapping[str, str] = MappingProxyType({})) -> None:
        """Show the current weld of a status, or that nothing is known.

        Args:
            status: The status, or None while there is no fresh one.
            triggers: What began a weld, by its key, as far as the screen saw it.
        """
        replay = status is not None and status.replay is not None
        self._simulated.setVisible(status is not None and status.simulated and not replay)
        self._fit_time()
        self._part_action.setEnabled(status is not None and not replay)
        weld = current_weld(status) if status else None
        self.time.setText(clock_time(weld.started_utc) if weld and not replay else self.tr("No weld"))
        self.time.setVisible(weld is not None and not replay)
        self.weld.setText(weld.key if weld else self.tr("No weld"))
        cell = self.tr("cell {0}").format(status.cell) if status else self.tr("cell unknown")
        words = [phase_words(weld.phase), trigger_words(triggers.get(weld.key, "")), cell] if weld else [cell]
        self._phase.setText(", ".join(filter(None, words)))
        metadata = status.metadata if status else {}
        self._part.setText(
            self.tr("part {0}, program {1}").format(metadata.get("part") or "–", metadata.get("program") or "–")
        )

    def resizeEvent(self, event: QResizeEvent) -> None:
        """Show the time of day as large as it fits."""
        super().resizeEvent(event)
        self._fit_time()

    def _fit_time(self) -> None:
        beside = 0 if self._simulated.isHidden() else self._simulated.sizeHint().width()
        role = "huge" if self.width() - beside >= _HUGE_PX else "large"
        if self.time.property("role") != role:
            self.time.setProperty("role", role)
            self.time.style().unpolish(self.time)
            self.time.style().polish(self.time)

    def mouseReleaseEvent(self, event: QMouseEvent) -> None:
        """Touching the panel opens part and program."""
        super().mouseReleaseEvent(event)
        if self.rect().contains(event.position().toPoint()):
            self._part_action.trigger()


def phase_words(phase: WeldPhase) -> str:
    """Say where a weld stands."""
    words: dict[WeldPhase, str] = {
        "welding": QCoreApplication.translate("Weld", "welding"),
        "post-roll": QCoreApplication.translate("Weld", "arc is off"),
        "photos": QCoreApplication.translate("Weld", "waiting for photos"),
        "judged": QCoreApplication.translate("Weld", "judged"),
        "failed": QCoreApplication.translate("Weld", "failed"),
    }
    return words[phase]


def trigger_words(trigger: str) -> str:
    """Say what began a weld; `""` where that is not known."""
    words = {
        "current": QCoreApplication.translate("Weld", "begun by current"),
        "light": QCoreApplication.translate("Weld", "begun by light"),
        "sound": QCoreApplication.translate("Weld", "begun by sound"),
        "manual": QCoreApplication.translate("Weld", "begun by hand"),
    }
    other = QCoreApplication.translate("Weld", "begun by {0}").format(trigger)
    return words.get(trigger, other) if trigger else ""


def clock_time(utc: str) -> str:
    """Give the local time of day of an ISO 8601 time, or the text itself where it is none."""
    try:
        return datetime.fromisoformat(utc).astimezone().strftime("%H:%M:%S")
    except ValueError:
        return utc
