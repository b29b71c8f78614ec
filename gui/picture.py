"""The picture itself: an image that keeps its shape, a look-up table for its tones, an outline over it.

`camera_view` imports this only after the window is on the screen, for importing pyqtgraph takes longer than all else.
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pyqtgraph as pg
from PySide6.QtCore import QRectF, Qt
from PySide6.QtGui import QColor, QPaintEvent, QPen
from PySide6.QtWidgets import QGraphicsEllipseItem

pg.setConfigOptions(imageAxisOrder="row-major", useOpenGL=False, antialias=False)


class Picture(pg.GraphicsView):  # type: ignore[misc]  # pyqtgraph carries no types
    """Shows gray frames; reports when a paint has been completed."""

    def __init__(self, painted: Callable[[], None]) -> None:
        """Start empty; `painted` is called after every paint."""
        super().__init__(useOpenGL=False, background=None)
        self.setObjectName("camera_picture")
        self.setAccessibleName(self.tr("Camera picture"))
        self._painted = painted
        self._box = pg.ViewBox(lockAspect=True, invertY=True, enableMenu=False, enableMouse=False, defaultPadding=0.0)
        self.setCentralItem(self._box)
        self._image = pg.ImageItem(levels=None, autoLevels=False)
        self._box.addItem(self._image)
        self._outline = QGraphicsEllipseItem()
        pen = QPen(QColor("white"), 2, Qt.PenStyle.DashLine)
        pen.setCosmetic(True)
        self._outline.setPen(pen)
        self._box.addItem(self._outline, ignoreBounds=True)
        self.set_outline(None)

    def paintEvent(self, event: QPaintEvent) -> None:
        """Paint, then report."""
        super().paintEvent(event)
        self._painted()

    def set_frame(self, pixels: npt.NDArray[np.uint8]) -> None:
        """Show a frame, `(height, width)`."""
        first = self._image.image is None or self._image.image.shape != pixels.shape
        self._image.setImage(pixels, autoLevels=False)
        if first:
            self._box.setRange(QRectF(0, 0, pixels.shape[1], pixels.shape[0]), padding=0)

    def set_tones(self, tones: npt.NDArray[np.uint8]) -> None:
        """Draw gray value `v` as `tones[v]`, `(256,)`."""
        self._image.setLookupTable(np.repeat(tones[:, None], 3, axis=1))

    def set_dimmed(self, dimmed: bool) -> None:
        """Dim a picture that is no longer true."""
        self._image.setOpacity(0.3 if dimmed else 1.0)

    def set_outline(self, ellipse: QRectF | None) -> None:
        """Outline something by the ellipse in this rectangle of pixels, or nothing."""
        self._outline.setVisible(ellipse is not None)
        if ellipse is not None:
            self._outline.setRect(ellipse)
