"""The camera picture: drawn when it arrives, never stretched, tone-mapped by a look-up table; says when it is old."""

import time
from collections import deque
from collections.abc import Callable
from typing import Final

import numpy as np
import numpy.typing as npt
import pyqtgraph as pg
from PySide6.QtCore import QRectF, Qt
from PySide6.QtGui import QAction, QColor, QPaintEvent, QPen
from PySide6.QtWidgets import QComboBox, QFrame, QGraphicsEllipseItem, QHBoxLayout, QLabel, QVBoxLayout

from acquisition.packet import Packet, VideoFrame
from gui.actions import make_button

STALE_S: Final = 1.0
"""A picture older than this is dimmed and says so: it no longer shows the cell."""
_SIDE_PX: Final = 124
_STEP: Final = 8
_BRIGHT: Final = 200
_LONGEST_MS: Final = 60_000.0

pg.setConfigOptions(imageAxisOrder="row-major", useOpenGL=False, antialias=False)


class _PaintTimedView(pg.GraphicsView):  # type: ignore[misc]  # pyqtgraph carries no types
    """A view that reports when a paint has been completed."""

    def __init__(self, painted: Callable[[], None]) -> None:
        super().__init__(useOpenGL=False)
        self._painted = painted

    def paintEvent(self, event: QPaintEvent) -> None:
        """Paint, then report."""
        super().paintEvent(event)
        self._painted()


class CameraView(QFrame):
    """Shows one video stream; a chooser appears when there are several.

    Attributes:
        latencies_ms: From the arrival of each drawn frame at the capture process to the end of its painting.
        drawn: Frames drawn.
    """

    def __init__(self, blob: QAction, freeze: QAction) -> None:
        """Build the view; `blob` switches the outline of the arc, `freeze` holds the display."""
        super().__init__()
        self.setObjectName("camera_view")
        self.setProperty("role", "panel")
        self.latencies_ms: deque[float] = deque(maxlen=20_000)
        self.drawn = 0
        self.frozen = False
        self._waiting_ns: int | None = None
        self._timed = True
        self._shown_ns: int | None = None
        self._blob_action = blob
        self._view = _PaintTimedView(self._after_paint)
        self._view.setObjectName("camera_picture")
        self._view.setAccessibleName(self.tr("Camera picture"))
        self._box = pg.ViewBox(lockAspect=True, invertY=True, enableMenu=False, defaultPadding=0.0)
        self._view.setCentralItem(self._box)
        self._image = pg.ImageItem(levels=None, autoLevels=False)
        self._box.addItem(self._image)
        self._arc = QGraphicsEllipseItem()
        pen = QPen(QColor("white"), 2, Qt.PenStyle.DashLine)
        pen.setCosmetic(True)
        self._arc.setPen(pen)
        self._arc.setVisible(False)
        self._box.addItem(self._arc, ignoreBounds=True)
        self._over = QLabel(self._view)
        self._over.setObjectName("camera_message")
        self._over.setAlignment(Qt.AlignmentFlag.AlignCenter)
        self._over.setWordWrap(True)
        self._over.setAttribute(Qt.WidgetAttribute.WA_TransparentForMouseEvents)
        self._title = QLabel()
        self._title.setProperty("role", "title")
        self._streams = QComboBox()
        self._streams.setObjectName("camera_chooser")
        self._streams.setAccessibleName(self.tr("Camera"))
        self._streams.setToolTip(self.tr("Which camera is shown"))
        self._tone = self._make_tone()
        side = QVBoxLayout()
        side.addWidget(self._title)
        side.addStretch(1)
        for control in (self._streams, self._tone, make_button(blob), make_button(freeze)):
            control.setFixedWidth(_SIDE_PX)
            side.addWidget(control)
        layout = QHBoxLayout(self)
        layout.setContentsMargins(8, 8, 8, 8)
        layout.addWidget(self._view, 1)
        layout.addLayout(side)
        self._streams.hide()
        self._set_tone(0)
        self.tick(None, connected=False, timed=True)

    def _make_tone(self) -> QComboBox:
        tone = QComboBox()
        tone.setObjectName("tone_chooser")
        tone.setAccessibleName(self.tr("Tone mapping"))
        tone.setToolTip(self.tr("How bright the dark parts are drawn; recordings stay as they are"))
        tone.addItem(self.tr("Brighter"), 0.45)
        tone.addItem(self.tr("Brightest"), 0.28)
        tone.addItem(self.tr("As it is"), 1.0)
        tone.currentIndexChanged.connect(self._set_tone)
        return tone

    def _set_tone(self, index: int) -> None:
        gamma = float(self._tone.itemData(index))
        gray = np.round(255 * (np.arange(256) / 255) ** gamma).astype(np.uint8)
        self._image.setLookupTable(np.repeat(gray[:, None], 3, axis=1))

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
        first = self._image.image is None or self._image.image.shape != frame.pixels.shape
        self._image.setImage(frame.pixels, autoLevels=False)
        if first:
            self._box.setRange(QRectF(0, 0, frame.pixels.shape[1], frame.pixels.shape[0]), padding=0)
        self._outline(frame.pixels)
        self._waiting_ns = packet.t_arrival_ns
        self._shown_ns = time.monotonic_ns()
        if self._over.isVisible():
            self.tick(None, connected=True, timed=self._timed)

    def _outline(self, pixels: npt.NDArray[np.uint8]) -> None:
        """Put a two-sigma ellipse round the bright pixels, looked for on a coarse grid."""
        visible = False
        if self._blob_action.isChecked():
            y, x = np.nonzero(pixels[::_STEP, ::_STEP] > _BRIGHT)
            visible = len(x) >= 3
            if visible:
                width, height = (max(4 * _STEP * float(v.std()), 2 * _STEP) for v in (x, y))
                centre_x, centre_y = float(x.mean() * _STEP), float(y.mean() * _STEP)
                self._arc.setRect(centre_x - width / 2, centre_y - height / 2, width, height)
        self._arc.setVisible(visible)

    def tick(self, problem: str | None, *, connected: bool, timed: bool) -> None:
        """Say what is wrong, or hide the message.

        Args:
            problem: What the health view knows about this stream, or None.
            connected: The capture process speaks.
            timed: Arrival stamps are of this moment (not of a replayed recording), so latency can be measured.
        """
        self._timed = timed
        age_s = None if self._shown_ns is None else (time.monotonic_ns() - self._shown_ns) / 1e9
        words = None
        if not connected:
            words = self.tr("NO PICTURE\nnot connected to the cell")
        elif age_s is None:
            words = self.tr("NO PICTURE\n{0}").format(problem or self.tr("waiting for the first frame"))
        elif age_s > STALE_S and not self.frozen:
            words = self.tr("OLD PICTURE\n{0:.0f} s old; {1}").format(age_s, problem or self.tr("no frames arrive"))
        title = self.stream or self.tr("camera")
        self._title.setText(title if words is None else self.tr("{0}: not live").format(title))
        self._over.setVisible(words is not None)
        self._image.setOpacity(1.0 if words is None else 0.3)
        if words is not None:
            self._arc.setVisible(False)
            self._over.setText(words)
            self._over.setStyleSheet("color: white; font-size: 20px; font-weight: bold; background: transparent;")
            self._over.setGeometry(self._view.rect())

    @property
    def message(self) -> str:
        """What stands over the picture, `""` when it is live."""
        return self._over.text() if not self._over.isHidden() else ""

    def _after_paint(self) -> None:
        if self._waiting_ns is None:
            return
        latency_ms = (time.monotonic_ns() - self._waiting_ns) / 1e6
        self._waiting_ns = None
        self.drawn += 1
        if self._timed and 0.0 <= latency_ms < _LONGEST_MS:
            self.latencies_ms.append(latency_ms)
