"""What was wrong with a device's time, told once and counted always."""

from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

FaultKind: TypeAlias = Literal["backwards", "jumped", "stuck", "repeated", "missing"]

_QUIET_NS: Final = 10 * 10**9


@dataclass(frozen=True, slots=True, kw_only=True)
class ClockFault:
    """A device's time was unusable as it came.

    Attributes:
        what: `backwards`, `jumped` (ahead, behind, or out of any range), `stuck` (equal for long), `repeated`, or
            `missing` (no stamp where the others have one).
        seconds: By how much; of a stuck clock, for how long already.
    """

    what: FaultKind
    seconds: float


class FaultLog:
    """Counts the faults of one clock.

    Attributes:
        newest: The fault to tell of now: one of a kind in ten seconds.
        counts: How often each kind was met.
    """

    def __init__(self) -> None:
        self.newest: ClockFault | None = None
        self.counts: dict[str, int] = {}
        self._told_ns: dict[str, int] = {}

    def add(self, what: FaultKind, seconds: float, now_ns: int) -> None:
        """Count a fault at cell time `now_ns`."""
        self.counts[what] = self.counts.get(what, 0) + 1
        if now_ns >= self._told_ns.get(what, now_ns):
            self._told_ns[what] = now_ns + _QUIET_NS
            self.newest = ClockFault(what=what, seconds=seconds)
