"""Which part of a window shows the arc, as one modality sees it, and the phase of the weld that follows from it.

Statistics are taken over that part only, so that the post-roll in the last windows does not look like a defect. Each
modality decides for itself: what one of them shows must not change what is said of another.
"""

from typing import Final

import numpy as np
import numpy.typing as npt

from models.detector_contract import START_WINDOWS, Phase

END_S: Final = 0.3
"""The arc is taken to be out when the last this many seconds show none (two frames at 16 frames in 4 s)."""


def active_part(
    active: npt.NDArray[np.bool_], valid: npt.NDArray[np.bool_], index: int, window_s: float
) -> tuple[slice, float, Phase]:
    """Find the part of a window between its first and its last sight of the arc.

    Args:
        active: `(n,)`, the element shows the arc; only valid elements count.
        valid: `(n,)`, the element was measured.
        index: Window index within the weld.
        window_s: Window length.

    Returns:
        The part (the whole window when no arc is seen), the share of its valid elements that show the arc, and the
        phase: `end` when the arc goes out in the window, `start` for the first `START_WINDOWS` windows.
    """
    seen = np.flatnonzero(active & valid)
    early: Phase = "start" if index < START_WINDOWS else "steady"
    if not seen.size:
        return slice(0, active.size), 0.0, early
    part = slice(int(seen[0]), int(seen[-1]) + 1)
    share = float(seen.size / np.count_nonzero(valid[part]))
    dark_s = np.count_nonzero(valid[part.stop :]) * window_s / active.size
    return part, share, "end" if index > 0 and dark_s >= END_S else early
