"""How far the screen is behind the cell, and how many pictures it draws a second."""

from collections import deque
from collections.abc import Sequence

import numpy as np


class DrawnRate:
    """Pictures drawn per second over the last three seconds of ticks."""

    def __init__(self) -> None:
        """Start without pictures."""
        self._drawn: deque[tuple[float, int]] = deque(maxlen=46)

    def tick(self, now_s: float, drawn: int) -> float:
        """Take the number of pictures drawn so far; returns how many are drawn a second."""
        self._drawn.append((now_s, drawn))
        (first_s, first), (last_s, last) = self._drawn[0], self._drawn[-1]
        return (last - first) / (last_s - first_s) if last_s > first_s else 0.0


def latency_percentiles(latencies_ms: Sequence[float]) -> dict[str, float] | None:
    """Give p50, p95 and p99 of the times from capture to the end of painting; None without a drawn frame."""
    if not latencies_ms:
        return None
    p50, p95, p99 = np.percentile(latencies_ms, (50, 95, 99))
    return {"p50": round(float(p50), 2), "p95": round(float(p95), 2), "p99": round(float(p99), 2)}
