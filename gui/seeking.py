"""Seeking in a replay: a drag or a held key becomes a few commands a second, and the last one is always sent."""

import time
from collections.abc import Callable
from typing import Any, Final

from PySide6.QtCore import QObject, QTimer, Signal

from recordings.status import ReplayStatus

EVERY_MS: Final = 100
_ARRIVED_S: Final = 0.25
_PATIENCE_S: Final = 1.5
_NOTHING_S: Final = 0.001


class Seeking(QObject):
    """Collects where the replay is meant to go, and sends it at most every `EVERY_MS`.

    Signals:
        command: A command for the replay: kind, data.
    """

    command = Signal(str, dict)

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Start without a replay; `clock` gives seconds."""
        super().__init__()
        self._clock = clock
        self._replay: ReplayStatus | None = None
        self._was_playing: bool | None = None
        self._waiting: dict[str, Any] = {}
        self._target_s: float | None = None
        self._asked_s = 0.0
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.setInterval(EVERY_MS)
        self._timer.timeout.connect(self._flush)

    @property
    def dragging(self) -> bool:
        """A drag is on."""
        return self._was_playing is not None

    @property
    def target_s(self) -> float | None:
        """Where the replay is meant to stand, as long as it is not known to have arrived there."""
        if self._target_s is not None and not self.dragging and self._clock() - self._asked_s > _PATIENCE_S:
            self._target_s = None
        return self._target_s

    def follow(self, replay: ReplayStatus | None) -> None:
        """Take over where the replay stands; None: there is none, and nothing is sent any more."""
        self._replay = replay
        if replay is None:
            self._was_playing = self._target_s = None
            self._waiting.clear()
            self._timer.stop()
        elif self._arrived(replay):
            self._target_s = None

    def _arrived(self, replay: ReplayStatus) -> bool:
        if self._target_s is None or self.dragging or self._waiting:
            return False
        return abs(replay.position_s - self._target_s) < _ARRIVED_S

    def drag(self, to_s: float) -> None:
        """Follow the finger; playing waits until it is lifted."""
        if self._replay is None:
            return
        changes: dict[str, Any] = {}
        if self._was_playing is None:
            self._was_playing = self._replay.playing
            changes = {"playing": False} if self._was_playing else {}
        self._ask(changes | {"seek_s": self._aim(to_s)})

    def drop(self, to_s: float) -> None:
        """The finger was lifted: go there, and play on if it played before."""
        if self._replay is None:
            return
        playing = {"playing": True} if self._was_playing else {}
        self._was_playing = None
        self._timer.stop()
        self._ask(playing | {"seek_s": self._aim(to_s)})

    def seek(self, to_s: float) -> None:
        """Go somewhere."""
        if self._replay is not None:
            self._ask({"seek_s": self._aim(to_s)})

    def seek_by(self, seconds: float) -> None:
        """Go on or back from where the replay is meant to stand by now."""
        if self._replay is not None:
            start_s = self.target_s
            self.seek((self._replay.position_s if start_s is None else start_s) + seconds)

    def step(self, frames: int) -> None:
        """Go on or back by frames; presses that come faster than they are sent are added up."""
        if self._replay is not None:
            self._target_s = None
            self._waiting.pop("seek_s", None)
            self._ask({"step": self._waiting.get("step", 0) + frames})

    def _aim(self, to_s: float) -> float:
        assert self._replay is not None
        self._waiting.pop("step", None)
        self._target_s = round(min(max(0.0, to_s), self._replay.duration_s), 3)
        return self._target_s

    def _ask(self, data: dict[str, Any]) -> None:
        self._asked_s = self._clock()
        self._waiting |= data
        if not self._timer.isActive():
            self._flush()

    def _flush(self) -> None:
        if self._waiting:
            data, self._waiting = self._waiting, {}
            self.command.emit("replay", data)
            self._timer.start()


def set_ends(replay: ReplayStatus) -> tuple[float | None, float | None]:
    """Give A and B in seconds, None for one that was not set (or stands where the weld begins or ends anyway)."""
    a_s = replay.a_s if replay.a_s is not None and replay.a_s > 0 else None
    b_s = replay.b_s if replay.b_s is not None and replay.b_s < replay.duration_s - _NOTHING_S else None
    return a_s, b_s
