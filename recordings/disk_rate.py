"""How long the disk will last, at the rate at which recording fills it."""

import math
from typing import Final

_SMOOTHED_S: Final = 120.0
"""Time over which the rate is smoothed: the last minutes of recording count, not one moment of them."""

_KNOWN_AFTER_S: Final = 5.0
"""Recording time after which a first rate is told."""


class DiskRate:
    """An exponentially weighted mean of how fast free space falls while welds are recorded.

    Pauses between welds do not count, nor does space that somebody frees.
    """

    def __init__(self) -> None:
        self._before: tuple[float, int] | None = None
        self._recorded_s = 0.0
        self._rate = 0.0

    def note(self, now_s: float, free_bytes: int, recording: bool) -> None:
        """Take a look at the free space, at any time but in order; `recording` holds since the last look."""
        if self._before is not None and recording:
            then_s, before = self._before
            passed_s = now_s - then_s
            if passed_s > 0 and free_bytes <= before:
                self._recorded_s += passed_s
                # At first the plain mean of what was seen so far: weighted with nothing it would be far too low.
                begun = self._recorded_s < _SMOOTHED_S
                weight = passed_s / self._recorded_s if begun else -math.expm1(-passed_s / _SMOOTHED_S)
                self._rate += weight * ((before - free_bytes) / passed_s - self._rate)
        self._before = (now_s, free_bytes)

    def left_s(self, usable_bytes: float) -> float | None:
        """Recording time until `usable_bytes` are used up, or None while the rate is not known."""
        if self._recorded_s < _KNOWN_AFTER_S or self._rate <= 0:
            return None
        return max(0.0, usable_bytes / self._rate)
