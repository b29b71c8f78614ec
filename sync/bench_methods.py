"""What `bench sync` compares: our clocks and the baselines, behind one door, on one view of a recording."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, Literal, NamedTuple, TypeAlias

import numpy as np

from sync.bench_baselines import BASELINES, Baseline
from sync.clock import ClockModel, OnlineClock, fit_stream
from sync.counted_clock import CountedClock
from sync.item_count import Missed, find_missed
from sync.scenarios import KINDS, Int64s, Scenario

Source: TypeAlias = Literal["counter", "clock", "neither"]
When: TypeAlias = Literal["offline", "online"]

SOURCES: Final[tuple[Source, ...]] = ("counter", "clock", "neither")
OURS: Final = "ours"


@dataclass(frozen=True, slots=True, kw_only=True)
class Stream:
    """What is known of a recording without its truth; arrays are `(n,)` over the deliveries.

    Attributes:
        device_ns: Device time by the source: counter over nominal rate, stamps, or, from neither, the running count
            over the rate; where that says nothing, because sampling is irregular, the arrival.
        arrival_ns: Arrivals.
        segment: Segments as the driver knows them.
        rate_hz: Nominal deliveries per second, 0 where irregular.
        source: Where `device_ns` comes from.
    """

    device_ns: Int64s
    arrival_ns: Int64s
    segment: Int64s
    rate_hz: float
    source: Source

    @classmethod
    def of(cls, scenario: Scenario, source: Source) -> "Stream":
        """Show a scenario to a method; irregular streams keep their own stamps, counter or not."""
        kind = KINDS[scenario.kind]
        device_ns, segment = scenario.device_ns, scenario.segment
        if source == "neither":
            counted_ns = np.rint(np.arange(len(device_ns)) * (1e9 / kind.rate_hz)).astype(np.int64)
            device_ns = counted_ns if kind.regular else scenario.arrival_ns
        elif source == "counter":
            counted_ns, segment = scenario.count_axis()
            device_ns = counted_ns if kind.regular else device_ns
        return cls(
            device_ns=device_ns,
            arrival_ns=scenario.arrival_ns,
            segment=segment,
            rate_hz=kind.rate_hz if kind.regular else 0.0,
            source=source,
        )

    @property
    def counted_step_ns(self) -> int:
        """Device time of one delivery where only the driver counts them, else 0."""
        return round(1e9 / self.rate_hz) if self.source == "neither" and self.rate_hz else 0

    @property
    def only_arrivals(self) -> bool:
        """Nothing but the arrivals tells when: neither device time nor an even rate."""
        return self.source == "neither" and not self.rate_hz


class Times(NamedTuple):
    """What a method makes of a stream.

    Attributes:
        cell_ns: Cell times, `(n,)`.
        sigma_ns: Their one-sigma uncertainty `(n,)`, where a method states one.
        missed: Where it found deliveries missing without a counter, or None where it does not look for them.
    """

    cell_ns: Int64s
    sigma_ns: Int64s | None
    missed: list[Missed] | None = None


class Method(NamedTuple):
    """One way to time a stream."""

    name: str
    when: When
    times: Callable[[Stream, Sequence[slice]], Times]


def online_times(stream: Stream, lives: Sequence[slice]) -> Times:  # noqa: ARG001
    """Time every delivery as it comes in, by the clock in force right after its observation; else by its arrival."""
    if stream.only_arrivals:
        return Times(stream.arrival_ns, None)
    step_ns = stream.counted_step_ns
    clock: OnlineClock | CountedClock | None = None
    begins: list[int] = []
    models: list[ClockModel | None] = []
    missed: list[Missed] = []
    rows = zip(stream.device_ns.tolist(), stream.arrival_ns.tolist(), stream.segment.tolist(), strict=True)
    for i, (device_ns, arrival_ns, segment) in enumerate(rows):
        if clock is None or clock.segment != segment:
            clock = _next_clock(clock, segment, step_ns)
        if clock.observe(device_ns, arrival_ns) is not None:
            models.append(None if clock.untimed else clock.model)
            begins.append(i)
        if isinstance(clock, CountedClock) and clock.missed is not None:
            missed.append(Missed(index=i - clock.missed.index, count=clock.missed.count))
    return Times(*_timed(stream, begins, models), missed if step_ns else None)


def _next_clock(clock: OnlineClock | CountedClock | None, segment: int, step_ns: int) -> OnlineClock | CountedClock:
    if step_ns:
        return CountedClock("bench", segment, step_ns, clock if isinstance(clock, CountedClock) else None)
    return OnlineClock("bench", segment, clock if isinstance(clock, OnlineClock) else None)


def offline_times(stream: Stream, lives: Sequence[slice]) -> Times:  # noqa: ARG001
    """Time the whole recording afterwards."""
    if stream.only_arrivals:
        return Times(stream.arrival_ns, None)
    device_ns, arrival_ns, step_ns = stream.device_ns, stream.arrival_ns, stream.counted_step_ns
    fits = fit_stream(device_ns, arrival_ns, stream.segment, counted_step_ns=step_ns)
    timed = _timed(stream, [fit.first for fit in fits], [fit.model for fit in fits])
    if not step_ns:
        return Times(*timed)
    starts = np.flatnonzero(np.diff(stream.segment, prepend=stream.segment[0] - 1)).tolist()
    missed = [
        Missed(index=a + one.index, count=one.count)
        for a, b in pairwise([*starts, len(device_ns)])
        for one in find_missed(device_ns[a:b], arrival_ns[a:b], step_ns)[0]
    ]
    return Times(*timed, missed)


def _timed(stream: Stream, begins: Sequence[int], models: Sequence[ClockModel | None]) -> tuple[Int64s, Int64s]:
    """Cell times and sigmas, each model applied from its first delivery on."""
    cell, sigma = stream.arrival_ns.copy(), np.zeros_like(stream.arrival_ns)
    for model, a, b in zip(models, begins, [*begins[1:], len(cell)], strict=True):
        if model is not None:
            cell[a:b] = model.to_cell_ns_array(stream.device_ns[a:b])
            sigma[a:b] = model.sigma_ns
    return cell, sigma


def _baseline(baseline: Baseline) -> Callable[[Stream, Sequence[slice]], Times]:
    def times(stream: Stream, lives: Sequence[slice]) -> Times:
        parts = [baseline(stream.device_ns[life], stream.arrival_ns[life], stream.rate_hz) for life in lives]
        return Times(np.concatenate(parts), None)

    return times


METHODS: Final[tuple[Method, ...]] = (
    Method(OURS, "offline", offline_times),
    *(Method(name, "offline", _baseline(baseline)) for name, baseline in BASELINES.items()),
    Method(OURS, "online", online_times),
    Method("nearest", "online", _baseline(BASELINES["nearest"])),
)
"""What is compared; only nearest-timestamp matching is causal among the others."""
