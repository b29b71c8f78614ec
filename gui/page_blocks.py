"""The blocks of the live page and where they stand: header, alarms, picture, tables, curves, buttons."""

from typing import Final

from PySide6.QtGui import QAction, QResizeEvent
from PySide6.QtWidgets import QBoxLayout, QHBoxLayout, QLabel, QVBoxLayout

from gui.alarm_bar import AlarmBar
from gui.camera_view import CameraView
from gui.health_table import HealthTable
from gui.record_bar import RecordBar
from gui.record_state import BORDER_PX, RecordBorder, RecordState
from gui.replay_panel import ReplayPanel
from gui.theme import GRID_PX
from gui.timeline import Timeline
from gui.tracks import Tracks
from gui.verdict_tile import ScoreBar, VerdictTile
from gui.weld_info import ElidedLabel, WeldInfo
from gui.weld_list import WeldList

WIDE_PX: Final = 1600
"""From this width on health and welds stand side by side, and the time axis gets the height."""


class PageBlocks(RecordBorder):
    """Builds the blocks; what they show is the page's business."""

    def __init__(self, actions: dict[str, QAction]) -> None:
        """Build all blocks on the shared actions."""
        super().__init__()
        self._tracks = Tracks()
        self.verdict_tile = VerdictTile()
        self.score_bar = ScoreBar()
        self.weld_info = WeldInfo(actions["devices"], actions["part"])
        self.record_state = RecordState()
        self.alarms = AlarmBar(actions["acknowledge"])
        self.camera = CameraView(actions["blob"], actions["freeze"])
        self.health = HealthTable()
        self.welds = WeldList()
        self.timeline = Timeline(self._tracks)
        self.bar = RecordBar(actions)
        self.replay = ReplayPanel(actions, self._tracks, self.timeline)
        self.path = ElidedLabel("record_path", "secondary")
        self.notice = QLabel()
        self.notice.setObjectName("notice")
        self._frozen = QLabel(self.tr("DISPLAY FROZEN (P): recording and judging go on"))
        self._frozen.setObjectName("frozen")
        self._frozen.setProperty("role", "frozen")
        self._frozen.hide()
        self._lay_out()

    def _lay_out(self) -> None:
        header = QHBoxLayout()
        header.addWidget(self.verdict_tile, 5)
        header.addWidget(self.score_bar, 4)
        header.addWidget(self.weld_info, 5)
        header.addWidget(self.record_state)
        strip = QHBoxLayout()
        strip.addWidget(self.path, 1)
        strip.addWidget(self.notice)
        strip.addWidget(self._frozen)
        self._tables = QBoxLayout(QBoxLayout.Direction.TopToBottom)
        self._tables.addWidget(self.health)
        self._tables.addWidget(self.welds, 1)
        body = QHBoxLayout()
        body.addWidget(self.camera, 1)
        body.addLayout(self._tables, 1)
        page = QVBoxLayout(self)
        page.setContentsMargins(BORDER_PX + 6, BORDER_PX + 4, BORDER_PX + 6, BORDER_PX + 6)
        page.setSpacing(GRID_PX)
        for layout in (header, strip, body, self._tables):
            layout.setSpacing(GRID_PX)
        page.addLayout(header)
        page.addWidget(self.alarms)
        page.addLayout(strip)
        page.addLayout(body, 5)
        page.addWidget(self.timeline, 6)
        page.addWidget(self.replay)
        page.addWidget(self.bar)

    def resizeEvent(self, event: QResizeEvent) -> None:
        """Put health and welds side by side where there is room."""
        super().resizeEvent(event)
        wide = self.width() >= WIDE_PX
        self._tables.setDirection(QBoxLayout.Direction.LeftToRight if wide else QBoxLayout.Direction.TopToBottom)
        self._tables.setStretch(0, 5 if wide else 0)
        self._tables.setStretch(1, 6 if wide else 1)
        self.health.set_roomy(wide)
        self.record_state.set_roomy(wide)
        self.replay.bar.set_roomy(wide)
        self._make_room()

    def _make_room(self) -> None:
        """A replay needs the height of its slider; where that is scarce, the list of its one weld gives way."""
        self.welds.setVisible(self.width() >= WIDE_PX or self.replay.isHidden())
