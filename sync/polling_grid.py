"""The grid on which a host polls: USB frames, timer ticks, serial adapters that hand over once a millisecond."""

import cmath
import math
from typing import Final

import numpy as np
import numpy.typing as npt

_QUANTA_NS: Final = (125_000, 1_000_000, 2_000_000, 4_000_000, 10_000_000, 15_625_000, 16_000_000)
"""USB microframe, USB frame, serial adapters, timer ticks of the common systems."""
_COHERENT: Final = 0.98
_ENOUGH: Final = 20


class PollingGrid:
    """Sees whether arrivals lie on a grid; constant memory."""

    def __init__(self) -> None:
        self._sums = [0j] * len(_QUANTA_NS)
        self._count = 0

    def see(self, arrival_ns: int) -> None:
        """Take one arrival."""
        self._count += 1
        for i, quantum in enumerate(_QUANTA_NS):
            self._sums[i] += cmath.exp(2j * math.pi * (arrival_ns % quantum) / quantum)

    def see_all(self, arrival_ns: npt.NDArray[np.int64]) -> None:
        """Take arrivals `(n,)`."""
        self._count += len(arrival_ns)
        for i, quantum in enumerate(_QUANTA_NS):
            self._sums[i] += complex(np.exp(2j * np.pi * (arrival_ns % quantum) / quantum).sum())

    def quantum_ms(self, spread_ms: float) -> float:
        """Widest grid that the arrivals keep, in ms; 0 for none.

        Args:
            spread_ms: Spread of the lateness. A device in step with the grid, hardly late at all, keeps it too, and
                would then be taken for polled: the lateness must spread over a good part of the grid.
        """
        if self._count < _ENOUGH:
            return 0.0
        kept = [q / 1e6 for q, s in zip(_QUANTA_NS, self._sums, strict=True) if abs(s) >= _COHERENT * self._count]
        return max((q for q in kept if spread_ms > q / 4), default=0.0)
