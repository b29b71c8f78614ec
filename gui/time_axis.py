"""The one time axis that curves, slider and cursor share: cell time to pixels and back, and the marks of its ruler."""

from dataclasses import dataclass
from typing import Final

from PySide6.QtCore import QCoreApplication

from gui.envelope import SPAN_S

LEFT_PX: Final = 112
RIGHT_PX: Final = 184
"""What stands to the left (titles) and to the right (scales, values) of everything that has a time."""
_STEPS_S: Final = (1, 2, 5, 10, 20, 30, 60, 120)
_NEAREST_PX: Final = 110.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeAxis:
    """A stretch of cell time over a stretch of pixels.

    Attributes:
        from_ns: Cell time at the left end.
        to_ns: Cell time at the right end, later than `from_ns`.
        zero_ns: Cell time that the ruler counts from: now, or the beginning of a replayed weld.
        width_px: Width of the whole widget, margins included.
    """

    from_ns: int
    to_ns: int
    zero_ns: int
    width_px: float

    @property
    def left(self) -> float:
        """Pixel of the left end."""
        return float(LEFT_PX)

    @property
    def right(self) -> float:
        """Pixel of the right end."""
        return max(LEFT_PX + 1.0, self.width_px - RIGHT_PX)

    @property
    def px_per_ns(self) -> float:
        """Pixels per nanosecond."""
        return (self.right - self.left) / (self.to_ns - self.from_ns)

    def x(self, t_ns: float) -> float:
        """Give the pixel of a cell time, kept on the axis."""
        return self.left + (min(max(t_ns, self.from_ns), self.to_ns) - self.from_ns) * self.px_per_ns

    def t_ns(self, x: float) -> int:
        """Give the cell time of a pixel, kept on the axis."""
        x = min(max(x, self.left), self.right)
        return self.from_ns + round((x - self.left) / self.px_per_ns)

    def seconds(self, t_ns: int) -> float:
        """Give a cell time in seconds as the ruler counts."""
        return (t_ns - self.zero_ns) / 1e9

    def overlaps(self, from_ns: int, to_ns: int) -> bool:
        """Whether any of a stretch of cell time lies on the axis."""
        return from_ns <= self.to_ns and to_ns > self.from_ns

    def ruler(self) -> list[tuple[float, str]]:
        """List pixel and words of the ruler's marks, every so many seconds that the words have room."""
        px_per_s = self.px_per_ns * 1e9
        step_s = next((step for step in _STEPS_S if step * px_per_s >= _NEAREST_PX), 300)
        step_ns = step_s * 10**9
        first, last = -((self.zero_ns - self.from_ns) // step_ns), (self.to_ns - self.zero_ns) // step_ns
        live = self.zero_ns == self.to_ns
        steps = range(first, last + 1)
        return [(self.x(self.zero_ns + n * step_ns), _words(n * step_s, live=live)) for n in steps]


def _words(seconds: int, *, live: bool) -> str:
    if live and seconds == 0:
        return QCoreApplication.translate("Timeline", "now")
    return QCoreApplication.translate("Timeline", "{0} s").format(seconds)


def live_axis(now_ns: int, width_px: float) -> TimeAxis:
    """Give the axis of a live cell: the `SPAN_S` seconds before now."""
    return TimeAxis(from_ns=now_ns - round(SPAN_S * 1e9), to_ns=now_ns, zero_ns=now_ns, width_px=width_px)


def weld_axis(origin_ns: int, duration_s: float, width_px: float) -> TimeAxis:
    """Give the axis of a replay: the whole weld, so that it is seen where in the weld one is."""
    to_ns = origin_ns + max(1, round(duration_s * 1e9))
    return TimeAxis(from_ns=origin_ns, to_ns=to_ns, zero_ns=origin_ns, width_px=width_px)
