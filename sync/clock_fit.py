"""Clocks at leisure: the lines of a whole recording, every life of the device together."""

import math
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Final

import numpy as np

from sync.clock_model import PPB, ClockModel, Int64s
from sync.envelope import lower_slope
from sync.item_count import find_missed
from sync.lateness import Belief, Bools, Deliveries, Floats, Lines, fit_lines
from sync.polling_grid import PollingGrid

_MOST: Final = 16_000
_KNOT_S: Final = 4.0
_MOST_KNOTS: Final = 64
_STEP_MS: Final = 50.0
_WINDOW_S: Final = 2.0
_ABSURD_MS: Final = 1000.0
_SHOWN_PPM: Final = 20.0
_PRIOR_PPM: Final = 50.0
_NO_DRIFT: Final = 1e-6
_STEEPEST: Final = 500e-6
_QUEUED_NS: Final = 20_000


@dataclass(frozen=True, slots=True, kw_only=True)
class ClockFit:
    """The clock of one device life, from one delivery of a recording to the next fit's first.

    Attributes:
        first: Index of its first delivery.
        segment: Segment that the driver announced.
        model: The line; `sigma_ns` holds at its ends, drift included.
        drift_ppm: Rate of the cell clock against the device clock, minus one; 0 where it is not identified.
        drift_sigma_ppm: Its standard deviation.
        identified: The recording shows the drift; else only the 50 ppm are known that any crystal keeps.
    """

    first: int
    segment: int
    model: ClockModel
    drift_ppm: float
    drift_sigma_ppm: float
    identified: bool


def fit_clock(device_ns: Int64s, arrival_ns: Int64s) -> ClockModel:
    """Fit one line to one device life.

    Args:
        device_ns: `(n,)` ascending device times of one segment.
        arrival_ns: `(n,)` their arrivals.

    Returns:
        The model; `sigma_ns` covers the offset at the ends of the span, drift included.

    Raises:
        ValueError: Fewer than two observations.
    """
    if len(device_ns) < 2:
        raise ValueError(f"a clock fit needs at least 2 observations and got {len(device_ns)}; use the arrival times")
    return _fit(device_ns, arrival_ns, np.zeros(len(device_ns), np.int64), [0], Belief())[0].model


def fit_stream(device_ns: Int64s, arrival_ns: Int64s, segment: Int64s, *, counted_step_ns: int = 0) -> list[ClockFit]:
    """Fit the clocks of a whole recording of one stream: one crystal, one bus, as many lives as the device had.

    A life ends where the segment changes, and where the device clock stepped by more than 50 ms without a word. Single
    absurd stamps end nothing and pull nothing.

    Args:
        device_ns: `(n,)` device times in order of arrival.
        arrival_ns: `(n,)` arrivals.
        segment: `(n,)` segments.
        counted_step_ns: For streams that only the driver counts: the device time of a delivery (of the smallest one
            where they differ). The count then lags after every loss; losses are found, each begins a new fit, and the
            nominal rate may be wrong by a tenth. 0 for a real device clock or counter.

    Returns:
        The fits, by `first`; the first begins at 0. Empty without deliveries.
    """
    n = len(device_ns)
    if n == 0:
        return []
    if counted_step_ns == 0:
        return _fit(device_ns, arrival_ns, segment, _lives(device_ns, arrival_ns, segment), Belief())
    fits: list[ClockFit] = []
    added = np.zeros(n, np.int64)
    slopes = []
    starts = np.flatnonzero(np.r_[True, np.diff(segment) != 0]).tolist()
    missed = []
    for a, b in pairwise([*starts, n]):
        found, slope = find_missed(device_ns[a:b], arrival_ns[a:b], counted_step_ns)
        slopes.append((b - a, slope))
        for loss in found:
            added[a + loss.index : b] += loss.count * counted_step_ns
            missed.append(a + loss.index)
    belief = Belief(slope=(1e3 * max(slopes)[1], 1.0))
    lives = _fit(device_ns + added, arrival_ns, segment, starts, belief, _STEEPEST * 200)
    for fit, end in zip(lives, [*starts[1:], n], strict=True):
        for first in [fit.first, *(at for at in missed if fit.first < at < end)]:
            lost_ns = int(added[first])
            m = replace(fit.model, ref_ns=fit.model.ref_ns - lost_ns, offset_ns=fit.model.offset_ns + lost_ns)
            fits.append(replace(fit, first=first, model=m))
    return fits


def _lives(device_ns: Int64s, arrival_ns: Int64s, segment: Int64s) -> list[int]:
    """First delivery of each life: where the segment changes, or the lateness moves to another level for good."""
    late_ms = ((arrival_ns - arrival_ns[0]) - (device_ns - device_ns[0])) / 1e6
    period_s = float(np.median(np.diff(arrival_ns))) / 1e9 if len(arrival_ns) > 1 else 0.0
    window = max(5, round(_WINDOW_S / period_s)) if period_s else 5
    firsts = [0]
    for i in np.flatnonzero((np.abs(np.diff(late_ms)) > _STEP_MS) | (np.diff(segment) != 0)) + 1:
        if segment[i] != segment[i - 1]:
            firsts.append(int(i))
            continue
        before = late_ms[max(firsts[-1], i - window) : i]
        after = late_ms[i : i + window][segment[i : i + window] == segment[i]]
        level = np.median(after)
        # A life of one or two deliveries, at an end of the recording, must lie further off than any queue.
        least_ms = _STEP_MS if min(len(before), len(after)) >= 3 else _ABSURD_MS
        step_ms = abs(level - np.median(before))
        # The first of a life may itself be late, if not by much of the step.
        if step_ms > least_ms and abs(late_ms[i] - level) <= max(_STEP_MS, 0.1 * step_ms):
            firsts.append(int(i))
    return firsts


@dataclass(frozen=True, slots=True, kw_only=True)
class _Recording:
    """All deliveries of a stream on one axis: `(n,)` each, except `firsts`, the first delivery of each life."""

    firsts: list[int]
    line: Int64s
    x_s: Floats
    late_ms: Floats
    at_s: Floats
    queued: Bools
    sane: Bools


def _lay_out(device_ns: Int64s, arrival_ns: Int64s, firsts: list[int]) -> _Recording:
    line = np.zeros(len(device_ns), np.int64)
    line[firsts[1:]] = 1
    line = np.cumsum(line)
    first = np.array(firsts)[line]
    own_ns = device_ns - device_ns[first]
    late_ms = (arrival_ns - arrival_ns[first] - own_ns) / 1e6
    return _Recording(
        firsts=firsts,
        line=line,
        x_s=(own_ns + (arrival_ns[first] - arrival_ns[0])) / 1e9,
        late_ms=late_ms,
        at_s=(arrival_ns - arrival_ns[0]) / 1e9,
        queued=np.diff(arrival_ns, prepend=arrival_ns[0] - PPB) <= _QUEUED_NS,
        sane=_sane(late_ms, line, len(firsts)),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Drift:
    """Rate of the cell clock against the device's, minus one, as far as the recording shows it."""

    slope: float
    sigma_ppm: float
    identified: bool


def _fit(
    device_ns: Int64s,
    arrival_ns: Int64s,
    segment: Int64s,
    firsts: list[int],
    belief: Belief,
    steepest: float = _STEEPEST,
) -> list[ClockFit]:
    """Fit all lives together."""
    recording = _lay_out(device_ns, arrival_ns, firsts)
    grid = PollingGrid()
    grid.see_all(arrival_ns)
    lines, drift = _most_likely(recording, grid, belief, steepest)
    fits = []
    for g, (a, b) in enumerate(pairwise([*firsts, len(device_ns)])):
        middle = a + (b - a) // 2
        x_s, unseen_ms_s = recording.x_s, 0.0 if drift.identified else _PRIOR_PPM * 1e-3
        own = x_s[a:b][recording.sane[a:b]]
        sigma_ms = max(math.hypot(lines.sigma_ms(g, x), (x - own.mean()) * unseen_ms_s) for x in (own.min(), own.max()))
        model = ClockModel(
            ref_ns=int(device_ns[middle]),
            offset_ns=int(arrival_ns[a]) - int(device_ns[a]) + round(1e6 * lines.at(g, float(x_s[middle]))),
            drift_ppb=round(drift.slope * PPB),
            sigma_ns=round(1e6 * sigma_ms) + 1,
        )
        fits.append(
            ClockFit(
                first=a,
                segment=int(segment[a]),
                model=model,
                drift_ppm=drift.slope * 1e6,
                drift_sigma_ppm=drift.sigma_ppm,
                identified=drift.identified,
            )
        )
    return fits


def _most_likely(r: _Recording, grid: PollingGrid, belief: Belief, steepest: float) -> tuple[Lines, _Drift]:
    """Fit the lines; where they do not show the drift, again without one."""
    knot_s = max(_KNOT_S, float(r.at_s[-1]) / (_MOST_KNOTS - 2))
    start = _start(r, int(r.at_s[-1] / knot_s) + 2, belief, steepest)
    rest = r.late_ms - start.slope * r.x_s - start.level_ms[r.line]
    spread = np.quantile(rest[r.sane], (0.1, 0.9))
    entries = _least_late(r, r.at_s / knot_s, start.slope)
    fit = partial(
        fit_lines,
        entries,
        knots=len(start.log_mean),
        knot_s=knot_s,
        quantum_ms=grid.quantum_ms(float(spread[1] - spread[0])),
    )
    lines = fit(belief=belief, start=start)
    sigma_ppm = 1e3 * float(np.sqrt(lines.covariance[-1, -1]))
    identified = sigma_ppm < _SHOWN_PPM
    if not identified:
        lines = fit(belief=replace(belief, slope=(belief.slope[0], _NO_DRIFT)), start=lines)
        sigma_ppm = _PRIOR_PPM
    slope = min(max(lines.slope * 1e-3, -steepest), steepest) if identified else belief.slope[0] * 1e-3
    return lines, _Drift(slope=slope, sigma_ppm=sigma_ppm, identified=identified)


def _sane(late_ms: Floats, line: Int64s, lines: int) -> Bools:
    """Deliveries whose stamp is within a second of the others of their life, or within a tenth of its length."""
    sane = np.ones(len(late_ms), np.bool_)
    for g in range(lines):
        own = line == g
        away = np.abs(late_ms[own] - np.median(late_ms[own]))
        sane[own] = away <= max(_ABSURD_MS, 10.0 * float(np.median(away)))
    return sane


def _start(r: _Recording, knots: int, belief: Belief, steepest: float) -> Lines:
    """Where to begin: the hull's slope over the longest life, and each life's low quantile."""
    lives = len(r.firsts)
    longest = int(np.argmax(np.bincount(r.line[r.sane], minlength=lives)))
    own = r.sane & (r.line == longest)
    slope = belief.slope[0]
    around = lower_slope(r.x_s[own].tolist(), (r.late_ms[own] - slope * r.x_s[own]).tolist())
    if abs(slope + around) <= 1e3 * steepest:
        slope += around
    rest = r.late_ms - slope * r.x_s
    level = np.array([np.quantile(rest[r.sane & (r.line == g)], 0.01) for g in range(lives)])
    mean = np.log(max(float(np.median((rest - level[r.line])[r.sane])), 0.05))
    x0_s = float(r.x_s[0] + r.x_s[-1]) / 2
    return Lines(
        x0_s=x0_s,
        level_ms=level + slope * x0_s,
        slope=slope,
        log_shape=belief.log_shape[0],
        log_mean=np.full(knots, mean),
        covariance=np.zeros((lives + 1, lives + 1)),
        shape_sigma=belief.log_shape[1],
    )


def _least_late(r: _Recording, knot: Floats, slope: float) -> Deliveries:
    """All sane deliveries, or of a long recording the least late of every few neighbours in a life."""
    kept = np.flatnonzero(r.sane)
    of = np.ones(len(kept), np.int64)
    every = -(-len(kept) // _MOST)
    if every > 1:
        place = np.arange(len(kept)) // every
        group = np.cumsum(np.r_[True, (np.diff(place) != 0) | (np.diff(r.line[kept]) != 0)]) - 1
        order = np.lexsort(((r.late_ms - slope * r.x_s)[kept], group))
        of = np.bincount(group)
        kept = kept[order[np.r_[0, np.cumsum(of)[:-1]]]]
    return Deliveries(
        x_s=r.x_s[kept],
        late_ms=r.late_ms[kept],
        line=r.line[kept],
        knot=knot[kept],
        queued=r.queued[kept],
        of=of.astype(np.float64),
    )
