"""Slider and transport of a replay, and the one moment that picture, curves, score and slider show."""

from PySide6.QtCore import Signal
from PySide6.QtGui import QAction
from PySide6.QtWidgets import QVBoxLayout, QWidget

from gui.replay_bar import ReplayBar
from gui.scrubber import Scrubber
from gui.seeking import set_ends
from gui.theme import GRID_PX
from gui.timeline import Timeline
from gui.tracks import Tracks
from recordings.status import ReplayStatus


class ReplayPanel(QWidget):
    """Stands under the curves while a replay is on.

    Signals:
        command: A command for the replay: kind, data.
    """

    command = Signal(str, dict)

    def __init__(self, actions: dict[str, QAction], tracks: Tracks, timeline: Timeline) -> None:
        """Build it on the shared actions; it moves the cursor of `timeline`."""
        super().__init__()
        self.setObjectName("replay_panel")
        self._tracks = tracks
        self._timeline = timeline
        self._replay: ReplayStatus | None = None
        self._age_s = 0.0
        self.scrubber = Scrubber(tracks)
        self.bar = ReplayBar(actions)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(GRID_PX)
        column.addWidget(self.scrubber)
        column.addWidget(self.bar)
        self.bar.command.connect(self.command)
        for widget in (self.scrubber, timeline):
            widget.sought.connect(self.bar.sought)
        self.show_replay(None)

    def show_replay(self, replay: ReplayStatus | None) -> None:
        """Follow a fresh status; None: this is no replay, or nothing is known."""
        self._replay, self._age_s = replay, 0.0
        self.bar.show_replay(replay)
        self.setVisible(replay is not None)

    @property
    def at_ns(self) -> int | None:
        """Cell time of the moment that is shown, or None where this is no replay or its times are not known yet."""
        if self._replay is None or self._tracks.origin_ns is None:
            return None
        return self._tracks.origin_ns + round(self._at_s(self._replay) * 1e9)

    def _at_s(self, replay: ReplayStatus) -> float:
        """Seconds into the weld: where it was sent to, else where it said that it stands and has come since."""
        target_s = self.bar.seeking.target_s
        if target_s is not None:
            return target_s
        if not replay.playing or replay.waiting:
            return replay.position_s
        origin_ns, newest_ns = self._tracks.origin_ns, self._tracks.newest_ns
        if replay.speed == 0 and origin_ns is not None and newest_ns is not None:
            at_s = max(replay.position_s, (newest_ns - origin_ns) / 1e9)
        else:
            at_s = replay.position_s + self._age_s * replay.speed
        end_s = set_ends(replay)[1]
        return min(at_s, replay.duration_s if end_s is None else max(end_s, replay.position_s))

    def tick(self, age_s: float) -> None:
        """Move cursor and slider on, `age_s` after the status; called 15 times a second while a replay is shown."""
        self._age_s = age_s
        replay, at_ns, origin_ns = self._replay, self.at_ns, self._tracks.origin_ns
        if replay is not None and at_ns is not None and origin_ns is not None:
            self._timeline.show_replay(replay, origin_ns, at_ns)
            self.scrubber.show_replay(replay, origin_ns, (at_ns - origin_ns) / 1e9)
