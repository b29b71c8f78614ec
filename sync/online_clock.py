"""The clock of one stream as packets come in: causal, monotone, of constant memory, robust to what devices show.

`ClockLine` says where the line is; this says what time is handed out. Both differ, because time that was handed out
stands: a better line is steered towards, never jumped to.
"""

import math
from typing import Final

from acquisition.packet import ClockUpdate
from sync.clock_fault import ClockFault, FaultKind, FaultLog
from sync.clock_line import ClockLine
from sync.clock_model import PPB, ClockModel
from sync.lateness import Belief

UNTIMED: Final = -1
"""Segment of a clock change that says: no clock holds, arrival counts."""

_UNKNOWN_NS: Final = 10_000_000


class OnlineClock:
    """Follows one segment of one stream; at most four changes a second, three more in the first half second of a line.

    The model is a continuous chain of straight pieces, each joined to the one before at the previous observation, and
    its slope never differs from the line's by more than 10 % (50 % in a line's first two seconds): cell time can bend
    but never step back. A device whose clock steps gets a new line, a step back included (`resets`). Where stamps are
    stuck or absurd, or step again and again, the clock is withdrawn (a change for segment `UNTIMED`) and arrival counts
    until they are sane.

    Attributes:
        stream: Stream name.
        segment: Segment of the stream.
        model: The model in force; while `untimed`, the last one.
        untimed: No model holds now: arrival counts.
        resets: How often the device clock was found to have stepped.
    """

    _FIRST_NS: Final = 40_000_000
    _STEER_NS: Final = 250_000_000
    _HORIZON_NS: Final = 1_000_000_000
    _FIT_NS: Final = 1_000_000_000
    _YOUNG_NS: Final = 2_000_000_000
    _MAX_BEND: Final = 0.1
    _MAX_BEND_YOUNG: Final = 0.5
    _SPIKE_NS: Final = 100_000_000
    _HELD_NS: Final = 500_000_000
    _TOLERANCE_NS: Final = 20_000
    _ABSURD_NS: Final = 2**62
    _PATIENCE: Final = 4

    def __init__(self, stream: str, segment: int, former: "OnlineClock | None" = None, *, blind: bool = False) -> None:
        """Begin a segment.

        Args:
            stream: Stream name.
            segment: Its segment.
            former: The clock of the segment before: the crystal and the bus are the same, so much is known already.
            blind: The device's rate is only claimed (`ClockLine`).
        """
        self.stream = stream
        self.segment = segment
        self.model = ClockModel(ref_ns=0, offset_ns=0, drift_ppb=0, sigma_ns=_UNKNOWN_NS)
        self.untimed = False
        self.resets = 0
        self._log = FaultLog()
        self._belief = Belief()
        self._blind = blind
        self._line: ClockLine | None = None
        self._former_line: ClockLine | None = None
        self._previous_ns = 0
        self._progress_ns = 0
        self._steered_ns = 0
        self._fit_at_ns = 0
        self._late_since_ns: int | None = None
        self._late_count = 0
        self._repeats = 0
        self._floor_ns = 0
        self._span_ns = 0
        self._away_until_ns = 0
        self._stepped_ns: list[int] = []
        if former is not None and former._line is not None:
            self._belief, self._floor_ns = former._line.belief, former._floor_ns

    def observe(self, device_ns: int, arrival_ns: int, span_ns: int = 0) -> ClockUpdate | None:
        """Take one observation, before its packet is timed.

        Args:
            device_ns: Device time of the packet's newest item (`device_time_ns`).
            arrival_ns: Its arrival on the cell clock, which never runs backwards.
            span_ns: Device time from the packet's first item to its newest, which a new line must leave room for.

        Returns:
            The change to record in front of this packet, or None while the model stands. The first call returns one.
        """
        self._log.newest, self._span_ns = None, span_ns
        return self._handed_out(device_ns, arrival_ns, self._observe(device_ns, arrival_ns))

    def distrust(self, arrival_ns: int, what: FaultKind) -> ClockUpdate | None:
        """Take a packet without a stamp, or with stamps that contradict each other: arrival counts for a second."""
        self._log.newest = None
        self._log.add(what, 0.0, arrival_ns)
        return self._handed_out(self._previous_ns, arrival_ns, self._withdraw(self._previous_ns, arrival_ns))

    def _handed_out(self, device_ns: int, arrival_ns: int, update: ClockUpdate | None) -> ClockUpdate | None:
        self._floor_ns = arrival_ns if self.untimed else self.model.to_cell_ns(device_ns)
        self._previous_ns = device_ns
        return update

    def _observe(self, device_ns: int, arrival_ns: int) -> ClockUpdate | None:
        if abs(device_ns) > self._ABSURD_NS:
            self._log.add("jumped", abs(device_ns) / 1e9, arrival_ns)
            return self._withdraw(device_ns, arrival_ns)
        if self._line is None:
            return self._restart(device_ns, arrival_ns)
        if device_ns == self._previous_ns:
            return self._repeat(device_ns, arrival_ns)
        self._repeats, self._progress_ns = 0, arrival_ns
        if self.untimed:
            return None if arrival_ns < self._away_until_ns else self._return(device_ns, arrival_ns)
        # Against the line, not the model: a bent model would wander off through a long silence.
        late_ns = arrival_ns - device_ns - self._line.base_ns(device_ns)
        step_ns = self._line.step_ns(device_ns)
        returned = self._line.young and self._is_back(device_ns, arrival_ns, late_ns)
        if returned or late_ns < -step_ns or self._late_too_long(is_late=late_ns > step_ns, arrival_ns=arrival_ns):
            self._log.add("backwards" if device_ns < self._previous_ns else "jumped", abs(late_ns) / 1e9, arrival_ns)
            return self._step(device_ns, arrival_ns)
        if device_ns < self._previous_ns:
            self._log.add("backwards", (self._previous_ns - device_ns) / 1e9, arrival_ns)
            if late_ns > step_ns:
                return self._step(device_ns, arrival_ns)
            return self._join(device_ns, self._line)
        if late_ns <= step_ns:
            self._line.add(device_ns, arrival_ns)
            return self._steer(self._line, device_ns, arrival_ns)
        return None

    def _is_back(self, device_ns: int, arrival_ns: int, late_ns: float) -> bool:
        """Tell a stray stamp from a step: after it, deliveries fit the line before better than their own."""
        former = self._former_line
        if former is None:
            return False
        step_ns = former.step_ns(device_ns)
        return abs(arrival_ns - device_ns - former.base_ns(device_ns)) <= step_ns < abs(late_ns)

    def _late_too_long(self, *, is_late: bool, arrival_ns: int) -> bool:
        """Tell a clock that was set back from a stall: a stall's backlog drains, a step stays."""
        if not is_late:
            self._late_since_ns = None
            return False
        if self._late_since_ns is None:
            self._late_since_ns, self._late_count = arrival_ns, 0
        self._late_count += 1
        return self._late_count >= 3 and arrival_ns - self._late_since_ns >= self._HELD_NS

    @property
    def line(self) -> ClockLine | None:
        """What is known of the device's line; None before the first observation."""
        return self._line

    @property
    def newest_ns(self) -> int | None:
        """Device time of the newest observation."""
        return None if self._line is None else self._previous_ns

    @property
    def fault(self) -> ClockFault | None:
        """What was wrong with the newest observation; one of a kind in ten seconds."""
        return self._log.newest

    @property
    def faults(self) -> dict[str, int]:
        """How often each kind of fault was met."""
        return self._log.counts

    # -- when the device's time is not sane --------------------------------------------------------------------------

    def _repeat(self, device_ns: int, arrival_ns: int) -> ClockUpdate | None:
        """Meet a stamp that was there before: once is a slip, for half a second the clock is stuck."""
        self._repeats += 1
        if self.untimed:
            return None
        held_ns = arrival_ns - self._progress_ns
        if self._repeats >= self._PATIENCE and held_ns >= self._HELD_NS:
            self._log.add("stuck", held_ns / 1e9, arrival_ns)
            return self._withdraw(device_ns, arrival_ns)
        if self._repeats == 1:
            self._log.add("repeated", held_ns / 1e9, arrival_ns)
        return None

    def _step(self, device_ns: int, arrival_ns: int) -> ClockUpdate | None:
        """Follow a clock that stepped: onto the line before this one if it stepped back there, else onto a new one."""
        self.resets += 1
        self._stepped_ns = [t for t in self._stepped_ns if arrival_ns - t < 10**9] + [arrival_ns]
        if len(self._stepped_ns) >= self._PATIENCE:
            return self._withdraw(device_ns, arrival_ns)
        former, line = self._former_line, self._line
        if former is not None and self._is_back(device_ns, arrival_ns, math.inf):
            self._line, self._former_line, self._late_since_ns = former, None, None
            return self._join(device_ns, former)
        if line is not None and not line.young:
            self._former_line = line
        return self._restart(device_ns, arrival_ns)

    def _restart(self, device_ns: int, arrival_ns: int) -> ClockUpdate:
        """Begin a line; what was handed out before stays before."""
        if self._line is not None and self._line.fitted:
            self._belief = self._line.belief
        self._line = ClockLine(device_ns, arrival_ns, self._belief, blind=self._blind)
        self._line.fit()
        self._progress_ns = self._fit_at_ns = arrival_ns
        self._late_since_ns, self._repeats = None, 0
        return self._join(device_ns, self._line)

    def _return(self, device_ns: int, arrival_ns: int) -> ClockUpdate | None:
        """Believe the device again: on its line, if that is where it is, and not because of one that was late."""
        line = self._line
        assert line is not None
        late_ns, step_ns = arrival_ns - device_ns - line.base_ns(device_ns), line.step_ns(device_ns)
        if abs(late_ns) <= step_ns:
            return self._join(device_ns, line)
        if step_ns < late_ns < self._SPIKE_NS and not self._late_too_long(is_late=True, arrival_ns=arrival_ns):
            return None
        return self._restart(device_ns, arrival_ns)

    def _withdraw(self, device_ns: int, arrival_ns: int) -> ClockUpdate | None:
        """Let arrival count, for a second at least."""
        self._away_until_ns = arrival_ns + 10**9
        if self.untimed:
            return None
        if arrival_ns < self._floor_ns:
            # Arrival would run backwards: time stands still instead, whatever the stamp.
            return self._change(device_ns, self._floor_ns, -1.0, _UNKNOWN_NS)
        self.untimed = True
        return ClockUpdate(
            of_stream=self.stream, segment=UNTIMED, ref_ns=0, offset_ns=0, drift_ppb=0, sigma_ns=_UNKNOWN_NS
        )

    # -- steering ----------------------------------------------------------------------------------------------------

    def _join(self, device_ns: int, line: ClockLine) -> ClockUpdate:
        """Put the newest item onto the line, or so that the packet's first is right behind what was handed out."""
        self.untimed = False
        self._steered_ns = device_ns
        at_least_ns = self._floor_ns + 2 + math.ceil(self._span_ns * (1.0 + line.slope))
        cell_ns = max(device_ns + line.base_ns(device_ns), at_least_ns)
        return self._change(device_ns, cell_ns, line.slope, self._sigma_ns(line, device_ns, cell_ns))

    def _steer(self, line: ClockLine, device_ns: int, arrival_ns: int) -> ClockUpdate | None:
        """Fit the line when it is time to, and bend the model towards it, from the previous observation on."""
        age_ns = arrival_ns - line.origin_ns[1]
        steer_ns = min(self._STEER_NS, max(self._FIRST_NS, age_ns // 2))
        if arrival_ns >= self._fit_at_ns:
            line.fit()
            self._fit_at_ns = arrival_ns + max(steer_ns, min(age_ns // 20, self._FIT_NS))
        if device_ns - self._steered_ns < steer_ns:
            return None
        self._steered_ns = device_ns
        previous_ns = self._previous_ns
        young = age_ns < self._YOUNG_NS
        horizon_ns = max(steer_ns if young else self._HORIZON_NS, device_ns - previous_ns)
        most = self._MAX_BEND_YOUNG if young else self._MAX_BEND
        ahead_ns = previous_ns + horizon_ns
        target_ns = ahead_ns + line.base_ns(ahead_ns)
        sigma_ns = self._sigma_ns(line, device_ns, self.model.to_cell_ns(device_ns))
        off_ns = abs(target_ns - self.model.to_cell_ns(ahead_ns))
        if off_ns <= self._TOLERANCE_NS and sigma_ns > self.model.sigma_ns // 2:
            return None
        # One nanosecond pays for the rounding of two models, so that equal device times stay in order too.
        joined_ns = self.model.to_cell_ns(previous_ns) + 1
        wanted = (target_ns - joined_ns) / horizon_ns - 1.0
        bend = min(max(wanted - line.slope, -most), most)
        return self._change(previous_ns, joined_ns, line.slope + bend, sigma_ns)

    @staticmethod
    def _sigma_ns(line: ClockLine, device_ns: int, cell_ns: int) -> int:
        """Uncertainty of the line, and what is still to be steered."""
        away_ns = cell_ns - device_ns - line.base_ns(device_ns)
        return min(round(math.hypot(line.sigma_ns(device_ns), away_ns)) + 1, 2**62)

    def _change(self, ref_ns: int, cell_ns: int, drift: float, sigma_ns: int) -> ClockUpdate:
        self.model = ClockModel(
            ref_ns=ref_ns, offset_ns=cell_ns - ref_ns, drift_ppb=round(drift * PPB), sigma_ns=sigma_ns
        )
        return self.model.as_update(self.stream, self.segment)
