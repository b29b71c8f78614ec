"""The line of one device life as it is learned: a constant memory of deliveries, and the fit through them."""

import math
from dataclasses import replace
from typing import Final

import numpy as np

from sync.lateness import Belief, Deliveries, Lines, fit_lines
from sync.polling_grid import PollingGrid

_ROOM: Final = 1024
_SPAN_S: Final = 200.0
_KNOT_S: Final = 4.0
_FEW: Final = 3
_FRESH: Final = 50
_YOUNG: Final = 5
_QUEUED_MS: Final = 0.02
_QUEUED_SHARE: Final = 0.02
_STEEPEST: Final = 0.1
_LEAST_STEP_NS: Final = 5_000_000.0
_WIDEST_STEP_NS: Final = 100_000_000.0
_ANY_SLOPE: Final = 50.0
_CRYSTAL: Final = 0.05
_ENOUGH: Final = 8
_LOAD_KNOWN: Final = 0.4
_COLD: Final = (1.0, 0.3, 0.1, 0.03)
_WARM: Final = (0.03,)


class ClockLine:
    """Learns the line `arrival = device + level + slope * device` that no delivery is ahead of.

    Keeps at most 512 entries of the last 100 s. When they fill up before, neighbours are merged into the less late one
    of both, which remembers how many it stands for.

    Attributes:
        origin_ns: Device time and arrival from which all is counted.
        lines: The newest fit.
        mean_ms: Mean random latency now.
    """

    def __init__(self, device_ns: int, arrival_ns: int, belief: Belief, *, blind: bool = False) -> None:
        """Begin with the first delivery.

        Args:
            device_ns: Its device time.
            arrival_ns: Its arrival.
            belief: What is known of the crystal and the bus.
            blind: The rate is only claimed and may be off by some percent; it is believed until it is seen to be wrong.
        """
        self.origin_ns = (device_ns, arrival_ns)
        self._belief, self._blind = belief, blind
        self._grid = PollingGrid()
        self._rows = np.zeros((5, _ROOM))
        self._count, self._of = 0, 1
        self._last_ns = (device_ns, arrival_ns - 10**9)
        self._first_knot, self._cold = 0, True
        lines = Lines(
            x0_s=0.0,
            level_ms=np.zeros(1),
            slope=belief.slope[0],
            log_shape=belief.log_shape[0],
            log_mean=np.full(2, belief.log_mean[0]),
            covariance=np.diag([100.0, belief.slope[1] ** 2]),
            shape_sigma=belief.log_shape[1],
        )
        self._take(lines)
        self.add(device_ns, arrival_ns)

    def add(self, device_ns: int, arrival_ns: int) -> None:
        """Remember a delivery."""
        x_s, at_s = (device_ns - self.origin_ns[0]) / 1e9, (arrival_ns - self.origin_ns[1]) / 1e9
        late_ms = ((arrival_ns - self.origin_ns[1]) - (device_ns - self.origin_ns[0])) / 1e6
        apart_ns = arrival_ns - self._last_ns[1]
        queued = apart_ns <= max(_QUEUED_MS * 1e6, _QUEUED_SHARE * (device_ns - self._last_ns[0]))
        self._last_ns = (device_ns, arrival_ns)
        self._grid.see(arrival_ns)
        entry = (x_s, late_ms, at_s, 1.0, float(queued))
        if self._count and self._rows[3, self._count - 1] < self._of:
            newest = self._rows[:, self._count - 1]
            of = newest[3] + 1.0
            if late_ms < newest[1]:
                newest[:] = entry
            newest[3] = of
            return
        if self._count == _ROOM:
            self._make_room(at_s)
        self._rows[:, self._count] = entry
        self._count += 1

    def _make_room(self, at_s: float) -> None:
        """Forget what is old, else keep the less late of each pair."""
        old = int(np.searchsorted(self._rows[2], at_s - _SPAN_S))
        if old >= _ROOM // 8:
            self._rows[:, : _ROOM - old] = self._rows[:, old:]
            self._count -= old
            self._belief = replace(self._belief, log_mean=Belief().log_mean)
            return
        late = self._rows[1].reshape(-1, 2)
        kept = np.arange(0, _ROOM, 2) + late.argmin(axis=1)
        of = self._rows[3].reshape(-1, 2).sum(axis=1)
        self._count = _ROOM // 2
        self._rows[:, : self._count] = self._rows[:, kept]
        self._rows[3, : self._count] = of
        self._of *= 2

    @property
    def slope(self) -> float:
        """Rate of the cell clock against the device clock, minus one."""
        return min(max(self.lines.slope * 1e-3, -_STEEPEST), _STEEPEST)

    @property
    def young(self) -> bool:
        """Whether so little was seen that it may all be a mistake."""
        return self._count < _YOUNG

    @property
    def fitted(self) -> bool:
        """Whether there is more than a belief."""
        return not self._cold

    @property
    def belief(self) -> Belief:
        """What the next life of the same crystal on the same bus may expect; a restart changes neither much."""
        sigma = float(np.sqrt(self.lines.covariance[-1, -1]))
        return Belief(
            slope=(self.lines.slope, min(self._belief.slope[1], np.hypot(sigma, 1e-3))),
            log_mean=(float(self.lines.log_mean[-1]), _LOAD_KNOWN),
            log_shape=(self.lines.log_shape, min(self._belief.log_shape[1], np.hypot(self.lines.shape_sigma, 0.05))),
        )

    def fit(self) -> None:
        """Fit the line through what is remembered; does nothing while that is too little."""
        n = self._count
        if n < (1 if self._belief.log_mean[1] <= _LOAD_KNOWN else _FEW):
            return
        x_s, late_ms, at_s, of, queued = self._rows[:, :n]
        first_knot = int(at_s[0] // _KNOT_S)
        knots = int(at_s[-1] // _KNOT_S) + 2 - first_knot
        deliveries = Deliveries(
            x_s=x_s,
            late_ms=late_ms,
            line=np.zeros(n, np.int64),
            knot=at_s / _KNOT_S - first_knot,
            queued=queued > 0.5,
            of=of,
        )
        if self._blind and n >= _ENOUGH:
            self._doubt_rate(deliveries, knots)
        # What lies below the line pulls no more than a stray, so a line that came too high must begin anew.
        early = late_ms < self.lines.at(0, 0.0) + self.lines.slope * x_s - 0.1 * self.mean_ms - _QUEUED_MS
        if self._cold or n < _FRESH or float(of[early].sum()) > 0.02 * float(of.sum()):
            begin = self._cold_start(deliveries, knots, self._belief.slope[0])
            self._take(self._fit(deliveries, self._belief, begin, _COLD, 12))
        else:
            places = np.clip(np.arange(knots) + first_knot - self._first_knot, 0, len(self.lines.log_mean) - 1)
            x0_s = float(x_s.mean())
            level = np.array([self.lines.at(0, x0_s)])
            begin = replace(self.lines, x0_s=x0_s, level_ms=level, log_mean=self.lines.log_mean[places])
            self._take(self._fit(deliveries, self._belief, begin, _WARM, 2))
        self._first_knot, self._cold = first_knot, False

    def _doubt_rate(self, d: Deliveries, knots: int) -> None:
        """Believe another rate where the deliveries contradict the claimed one, until they show it well."""
        half = len(d.x_s) // 2
        slope = float(np.median((d.late_ms[half:] - d.late_ms[:-half]) / (d.x_s[half:] - d.x_s[:-half])))
        anything = replace(self._belief, slope=(slope, _ANY_SLOPE))
        seen = self._fit(d, anything, self._cold_start(d, knots, slope), _COLD, 12)
        sigma = float(np.sqrt(seen.covariance[-1, -1]))
        if abs(seen.slope - self._belief.slope[0]) > 3.0 * sigma + 3.0 * _CRYSTAL:
            self._belief = replace(self._belief, slope=(seen.slope, max(_CRYSTAL, 3.0 * sigma)))
            self._cold = True
        self._blind = sigma > _CRYSTAL

    def _fit(self, d: Deliveries, belief: Belief, begin: Lines, softness: tuple[float, ...], steps: int) -> Lines:
        spread = np.quantile(d.late_ms - begin.slope * d.x_s, (0.1, 0.9))
        return fit_lines(
            d,
            knots=len(begin.log_mean),
            knot_s=_KNOT_S,
            quantum_ms=self._grid.quantum_ms(float(spread[1] - spread[0])),
            belief=belief,
            start=begin,
            softness=softness,
            steps=steps,
        )

    def _cold_start(self, d: Deliveries, knots: int, slope: float) -> Lines:
        x0_s = float(d.x_s.mean())
        rest = d.late_ms - slope * d.x_s
        lowest = float(rest.min())
        mean = np.log(max(float(np.median(rest)) - lowest, 0.05))
        level = np.array([lowest + slope * x0_s])
        return replace(self.lines, x0_s=x0_s, slope=slope, level_ms=level, log_mean=np.full(knots, mean))

    def base_ns(self, device_ns: int) -> int:
        """Arrival minus device time of an undelayed delivery."""
        return (
            self.origin_ns[1] - self.origin_ns[0] + round(1e6 * (self._level_ms + self._slope * self._along(device_ns)))
        )

    def sigma_ns(self, device_ns: int) -> float:
        """Standard deviation of `base_ns`."""
        along_s, (level, both, slope) = self._along(device_ns), self._variances
        return 1e6 * math.sqrt(max(level + along_s * (2.0 * both + along_s * slope), 0.0))

    def _along(self, device_ns: int) -> float:
        return (device_ns - self.origin_ns[0]) / 1e9 - self.lines.x0_s

    def _take(self, lines: Lines) -> None:
        """Put a fit into force; plain numbers, since every packet asks for them."""
        self.lines = lines
        self._level_ms, self._slope = float(lines.level_ms[0]), lines.slope
        (level, both), (_, slope) = lines.covariance.tolist()
        self._variances = (level, both, slope)
        self.mean_ms = math.exp(float(lines.log_mean[-1]))

    def step_ns(self, device_ns: int) -> float:
        """How far off the line a delivery must be to be no jitter any more, but another clock or a spike."""
        return min(_WIDEST_STEP_NS, _LEAST_STEP_NS + 4e6 * self.mean_ms + 6.0 * self.sigma_ns(device_ns))
