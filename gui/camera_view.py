"""The camera picture: drawn when it arrives, never stretched, tone-mapped by a look-up table; says when it is old."""

import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt
from PySide6.QtCore import QRectF, Qt
from PySide6.QtGui import QAction, QResizeEvent
from PySide6.QtWidgets import QFrame, QHBoxLayout, QLabel, QSizePolicy, QVBoxLayout, QWidget

from acquisition.packet import Packet, VideoFrame
from gui.actions import make_button
from gui.chooser import Chooser

if TYPE_CHECKING:
    from gui.picture import Picture

STALE_S: Final = 1.0
"""A picture older than this is dimmed and says so: it no longer shows the cell."""
SIDE_PX: Final = 116
_MARGIN_PX: Final = 8
_STEP: Final = 8
_BRIGHT: Final = 200
_LONGEST_MS: Final = 60_000.0
_ASPECT: Final = 1.6


class CameraView(QFrame):
    """Shows one video stream; a chooser appears when there are several.

    Attributes:
        latencies_ms: From the arrival of each drawn frame at the capture process to the end of its painting.
        drawn: Frames drawn.
        cell_now_ns: Gives the cell clock, which may be another host's, or None while it is unknown.
        lateness_s: Gives how long ago a cell time was, 0 for what this host saw itself.
    """

    def __init__(self, blob: QAction, freeze: QAction) -> None:
        """Build the view; `blob` switches the outline of the arc, `freeze` holds the display."""
        super().__init__()
        self.setObjectName("camera_view")
        self.setProperty("role", "panel")
        self.latencies_ms: deque[float] = deque(maxlen=20_000)
        self.drawn = 0
        self.frozen = False
        self.cell_now_ns: Callable[[], int | None] = time.monotonic_ns
        self.lateness_s: Callable[[int], float] = lambda _t_ns: 0.0
        self._waiting_ns: int | None = None
        self._timed = True
        self._shown_ns: int | None = None
        self._arrival_ns = 0
        self._aspect = _ASPECT
        self._blob_action = blob
        self._picture: Picture | None = None
        self._room = QWidget()
        self._room_layout = QHBoxLayout(self._room)
        self._room_layout.setContentsMargins(0, 0, 0, 0)
        self._over = QLabel(self._room)
        self._over.setObjectName("camera_message")
        self._over.setAlignment(Qt.AlignmentFlag.AlignCenter)
        self._over.setWordWrap(True)
        self._over.setAttribute(Qt.WidgetAttribute.WA_TransparentForMouseEvents)
        self._over.setProperty("role", "over")
        self._title = QLabel()
        self._title.setProperty("role", "title")
        self._streams = Chooser("camera_chooser", self.tr("Camera"), self.tr("Which camera is shown"))
        self._tone = self._make_tone()
        side = QVBoxLayout()
        side.setSpacing(_MARGIN_PX)
        side.addWidget(self._title)
        self._freeze = freeze
        self._freeze_button = make_button(freeze)
        for control in (self._streams, self._tone, make_button(blob), self._freeze_button):
            control.setFixedWidth(SIDE_PX)
            control.setSizePolicy(QSizePolicy.Policy.Fixed, QSizePolicy.Policy.Expanding)
            side.addWidget(control)
        layout = QHBoxLayout(self)
        layout.setContentsMargins(_MARGIN_PX, _MARGIN_PX, _MARGIN_PX, _MARGIN_PX)
        layout.setSpacing(_MARGIN_PX)
        layout.addWidget(self._room, 1)
        layout.addLayout(side)
        self._streams.hide()
        self.tick(None, connected=False, timed=True)

    def _make_tone(self) -> Chooser:
        tone = Chooser(
            "tone_chooser",
            self.tr("Tone mapping"),
            self.tr("How bright the dark parts are drawn; recordings stay as they are"),
        )
        tone.addItem(self.tr("Brighter"), 0.45)
        tone.addItem(self.tr("Brightest"), 0.28)
        tone.addItem(self.tr("As it is"), 1.0)
        tone.currentIndexChanged.connect(self._set_tone)
        return tone

    def prepare(self) -> "Picture":
        """Make what the picture is drawn by; called once the window is on the screen, so that it comes sooner."""
        if self._picture is None:
            from gui.picture import Picture

            self._picture = Picture(self._after_paint)
            self._room_layout.addWidget(self._picture)
            self._over.raise_()
            self._set_tone(self._tone.currentIndex())
        return self._picture

    def _set_tone(self, index: int) -> None:
        if self._picture is not None:
            gamma = float(self._tone.itemData(index))
            self._picture.set_tones(np.round(255 * (np.arange(256) / 255) ** gamma).astype(np.uint8))

    def resizeEvent(self, event: QResizeEvent) -> None:
        """Take no more width than the picture fills at this height."""
        super().resizeEvent(event)
        self._over.setGeometry(self._room.rect())
        self._limit_width()

    def _limit_width(self) -> None:
        height = self.height() - 2 * _MARGIN_PX
        self.setMaximumWidth(max(2 * SIDE_PX, round(height * self._aspect) + SIDE_PX + 3 * _MARGIN_PX))

    @property
    def stream(self) -> str:
        """Name of the video stream that is shown, or `""`."""
        return self._streams.currentText()

    def set_streams(self, names: list[str]) -> None:
        """Offer these video streams."""
        if names == [self._streams.itemText(i) for i in range(self._streams.count())]:
            return
        shown = self.stream
        self._streams.clear()
        self._streams.addItems(names)
        self._streams.setCurrentIndex(names.index(shown) if shown in names else 0)
        self._streams.setVisible(len(names) > 1)

    def show_frame(self, packet: Packet) -> None:
        """Draw a frame of the chosen stream."""
        frame = packet.payload
        if self.frozen or not isinstance(frame, VideoFrame) or (self.stream and packet.stream != self.stream):
            return
        picture = self.prepare()
        picture.set_frame(frame.pixels)
        picture.set_outline(_bright_ellipse(frame.pixels) if self._blob_action.isChecked() else None)
        aspect = frame.pixels.shape[1] / frame.pixels.shape[0]
        if aspect != self._aspect:
            self._aspect = aspect
            self._limit_width()
        self._waiting_ns = self._arrival_ns = packet.t_arrival_ns
        late_s = self.lateness_s(packet.t_arrival_ns) if self._timed else 0.0
        self._shown_ns = time.monotonic_ns() - round(late_s * 1e9)
        if self._over.isVisible():
            self.tick(None, connected=True, timed=self._timed, at_ns=None if self._timed else packet.t_arrival_ns)

    def tick(self, problem: str | None, *, connected: bool, timed: bool, at_ns: int | None = None) -> None:
        """Say what is wrong, or hide the message.

        Args:
            problem: What the health view knows about this stream, or None.
            connected: The capture process speaks.
            timed: Arrival stamps are of this moment (not of a replayed recording), so latency can be measured.
            at_ns: Where a replay stands: its picture is old when it is not of about that moment.
        """
        self._timed = timed
        self._freeze.setEnabled(timed)  # a replay is paused instead
        self._freeze_button.setVisible(timed)
        age_s = None if self._shown_ns is None else (time.monotonic_ns() - self._shown_ns) / 1e9
        if age_s is not None and at_ns is not None:
            age_s = abs(at_ns - self._arrival_ns) / 1e9
        words = None
        if not connected:
            words = self.tr("NO PICTURE\nnot connected to the cell")
        elif age_s is None:
            words = self.tr("NO PICTURE\n{0}").format(problem or self.tr("waiting for the first frame"))
        elif age_s > STALE_S and at_ns is not None:
            words = self.tr("NO PICTURE HERE\nthe nearest is {0:.0f} s away").format(age_s)
        elif age_s > STALE_S and timed and not self.frozen:
            words = self.tr("OLD PICTURE\n{0:.0f} s old; {1}").format(age_s, problem or self.tr("no frames arrive"))
        title = self.stream or self.tr("camera")
        self._title.setText(title if words is None or at_ns is not None else self.tr("{0}: not live").format(title))
        self._over.setVisible(words is not None)
        if self._picture is not None:
            self._picture.set_dimmed(words is not None)
        if words is not None:
            self._over.setText(words)
            if self._picture is not None:
                self._picture.set_outline(None)

    @property
    def message(self) -> str:
        """What stands over the picture, `""` when it is live."""
        return self._over.text() if not self._over.isHidden() else ""

    def _after_paint(self) -> None:
        if self._waiting_ns is None:
            return
        now_ns = self.cell_now_ns()
        latency_ms = -1.0 if now_ns is None else (now_ns - self._waiting_ns) / 1e6
        self._waiting_ns = None
        self.drawn += 1
        if self._timed and 0.0 <= latency_ms < _LONGEST_MS:
            self.latencies_ms.append(latency_ms)


def _bright_ellipse(pixels: npt.NDArray[np.uint8]) -> QRectF | None:
    """Give the two-sigma ellipse of the bright pixels, looked for on a coarse grid; None where there are few."""
    y, x = np.nonzero(pixels[::_STEP, ::_STEP] > _BRIGHT)
    if len(x) < 3:
        return None
    width, height = (max(4 * _STEP * float(v.std()), 2 * _STEP) for v in (x, y))
    return QRectF(float(x.mean() * _STEP) - width / 2, float(y.mean() * _STEP) - height / 2, width, height)
