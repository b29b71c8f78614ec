"""Losses in streams with a device clock but no counter: stamps that are whole periods apart instead of one."""

from collections import deque
from typing import Final

import numpy as np

from sync.clock_model import Int64s
from sync.item_count import Missed

_MEMORY: Final = 64
_ENOUGH: Final = 8
_WHOLE: Final = 0.25
_REGULAR: Final = 0.1


class StampGaps:
    """Learns the true period of one stream and finds what is missing; constant memory.

    A gap counts when the stream goes on at its old pace: one that got slower (a camera in the dark) has lost nothing.
    An irregular stream (a tenth of its steps is no whole number of periods) is left alone.
    """

    def __init__(self) -> None:
        self._steps: deque[int] = deque(maxlen=_MEMORY)
        self._period_ns, self._learned = 0.0, 0
        self._last_ns: int | None = None
        self._pending: Missed | None = None

    def restart(self) -> None:
        """Forget the last stamp: a new segment has another clock, though the same period."""
        self._last_ns = self._pending = None

    def find(self, stamps_ns: Int64s) -> list[Missed]:
        """Take the stamps `(n,)` of a packet's items.

        Returns:
            The losses found, by the `index` of the first item after each: 0 for the packet's first, negative for those
            before (-1: the last item of the packet before).
        """
        found: list[Missed] = []
        for i, stamp_ns in enumerate(stamps_ns.tolist()):
            step_ns = None if self._last_ns is None else stamp_ns - self._last_ns
            self._last_ns = stamp_ns
            if step_ns is None or step_ns <= 0:
                self._pending = None
                continue
            periods = self._periods(step_ns)
            if self._pending is not None and periods == 1:
                found.append(self._pending)
            self._pending = Missed(index=i, count=periods - 1) if periods > 1 else None
            self._learn(step_ns)
        if self._pending is not None:
            self._pending = Missed(index=self._pending.index - len(stamps_ns), count=self._pending.count)
        return found

    def _learn(self, step_ns: int) -> None:
        """Take the median of the last steps for the period, anew with every eighth."""
        self._steps.append(step_ns)
        self._learned += 1
        if self._learned % _ENOUGH == 0:
            before_ns, self._period_ns = self._period_ns, float(np.median(self._steps))
            if abs(self._period_ns - before_ns) > _REGULAR * before_ns:
                self._pending = None

    def _periods(self, step_ns: int) -> int:
        """Whole periods in a step; 0 where it is not whole, or the stream not regular."""
        if not self._period_ns:
            return 0
        periods = round(step_ns / self._period_ns)
        if periods == 0 or abs(step_ns / self._period_ns - periods) > _WHOLE:
            return 0
        if periods == 1:
            return 1
        steps = np.array(self._steps) / self._period_ns
        odd = np.mean(np.abs(steps - np.rint(steps)) > _WHOLE)
        return periods if odd <= _REGULAR else 0
