"""Plain description of each photo: statistics of the view, and how bright it is across and along the bead.

Brightness is the logarithm of gray over the view's own median, because the light differs from shift to shift. Across
the bead it shows width and place of the bead, along it length and gaps.
"""

from typing import Final

import numpy as np
import numpy.typing as npt

from models.photo_statistics import PER_VIEW, view_statistics

VIEW_STATISTICS: Final = PER_VIEW
DARK_SHARE: Final = VIEW_STATISTICS.index("dark_share")
ACROSS: Final = 30
"""Bands from the upper to the lower edge of a view."""
ALONG: Final = 40
"""Stretches from left to right, over the middle third of its height, where the bead lies."""
WIDTH: Final = len(VIEW_STATISTICS) + ACROSS + ALONG


def describe_views(photos: npt.NDArray[np.uint8], mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.float32]:
    """Describe the views of a weld.

    Args:
        photos: `(N, 3, h, w)` colour views.
        mask: `(N,)`.

    Returns:
        `(N, WIDTH)`, zero where there is no view.
    """
    out = np.zeros((len(photos), WIDTH), dtype=np.float32)
    for i in np.flatnonzero(mask):
        colour = photos[i].astype(np.float32)
        gray = np.log(colour.mean(axis=0) + 4.0)
        gray -= np.median(gray)
        middle = gray[len(gray) // 3 : len(gray) - len(gray) // 3]
        out[i] = np.concatenate([view_statistics(colour), _bands(gray, ACROSS), _bands(middle.T, ALONG)])
    return out


def _bands(gray: npt.NDArray[np.float32], count: int) -> npt.NDArray[np.float32]:
    """Average `count` nearly equal bands of rows; a view with fewer rows repeats some."""
    starts = np.arange(count) * len(gray) // count
    sums = np.add.reduceat(gray.mean(axis=1), starts)
    return np.asarray(sums / np.maximum(np.diff([*starts, len(gray)]), 1), dtype=np.float32)
