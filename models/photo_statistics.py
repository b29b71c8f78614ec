"""Plain statistics of the post-weld photos: each view on its own, then the mean and the largest over the views.

A fault may show in one view only, which the mean hides. Views are unordered, and so are these statistics.
"""

from typing import Final

import numpy as np
import numpy.typing as npt

PER_VIEW: Final = (
    "level",
    "contrast",
    "redness",
    "dark_share",
    "light_share",
    "log_edges",
    "log_texture",
    "log_coarse_texture",
    "log_pits",
    "log_glints",
)
PHOTO_STATISTICS: Final = (*(f"{n}_mean" for n in PER_VIEW), *(f"{n}_max" for n in PER_VIEW), "dark_share_min")
PIT: Final = 30.0
"""Gray levels by which a point must be darker (pit) or lighter (glint, spatter) than its surroundings."""


def photo_statistics(photos: npt.NDArray[np.uint8], mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """Compute `PHOTO_STATISTICS` of the views whose mask is true (at least one).

    Args:
        photos: `(N, 3, h, w)` colour views.
        mask: `(N,)`.
    """
    table = np.stack([view_statistics(photos[i].astype(np.float32)) for i in np.flatnonzero(mask)])
    return np.concatenate([table.mean(axis=0), table.max(axis=0), [table[:, 3].min()]])


def view_statistics(colour: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Compute `PER_VIEW` of one `(3, h, w)` view; levels relative to the view's own median, for the light differs."""
    gray = colour.mean(axis=0)
    middle = float(np.median(gray)) + 1.0
    dx, dy = np.diff(gray, axis=1)[:-1], np.diff(gray, axis=0)[:, :-1]
    near, far = _stand_out(gray, 1), _stand_out(gray, 4)
    return np.array(
        [
            gray.mean(),
            gray.std(),
            (colour[0].mean() - colour[2].mean()) / middle,
            (gray < 0.4 * middle).mean(),
            (gray > 2.0 * middle).mean(),
            np.log(np.hypot(dx, dy).mean() + 0.1),
            np.log(near.std() + 0.1),
            np.log(far.std() + 0.1),
            np.log((far < -PIT).mean() + 1e-3),
            np.log((far > PIT).mean() + 1e-3),
        ],
        dtype=np.float64,
    )


def _stand_out(gray: npt.NDArray[np.float32], distance: int) -> npt.NDArray[np.float32]:
    """Subtract from each point the mean of its four neighbours at `distance` pixels."""
    d = distance
    around = (gray[2 * d :, d:-d] + gray[: -2 * d, d:-d] + gray[d:-d, 2 * d :] + gray[d:-d, : -2 * d]) / 4
    return np.asarray(gray[d:-d, d:-d] - around)
