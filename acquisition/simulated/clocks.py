"""Clocks and latencies of the simulated devices: every one is off by a known amount.

World time is seconds since the cell started, on the cell clock. Item k of a device happens at a fixed world time
whether or not anybody listens, so that a driver opened late sees the same values as one opened early.
"""

from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from acquisition.simulated.config import SimulationConfig
from acquisition.simulated.devices import CAMERA, MICROPHONE, SENSORS
from acquisition.simulated.seeds import generator

TRUE_FPS: Final = (30.0, 31.2)
"""What cameras that claim 31 frames a second really deliver."""
_ZERO_S: Final = 2.0
"""How long before the first item the sensors began to count their time, where device clocks are offset."""
_OFFSETS_S: Final = {CAMERA: (-0.1, 0.1), MICROPHONE: (-1.6, -1.0), SENSORS: (0.0, 0.0)}
"""When the clock of each device began, against the sensors'; sound began before them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceClock:
    """Timing of one device.

    Attributes:
        stream: `CAMERA`, `MICROPHONE` or `SENSORS`.
        period_s: World time from item to item; an item is a frame, a block, or the rows that come together.
        drift: Rate of the cell clock against the device's, minus one.
        latency_s: Shortest time from the end of an item to its arrival.
        jitter_s: Mean of the gamma-distributed time on top of it.
    """

    stream: str
    period_s: float
    drift: float
    latency_s: float
    jitter_s: float

    def first_item(self, t_s: float) -> int:
        """Return the first item at or after world time `t_s`."""
        k = max(int(t_s / self.period_s) - 1, 0)
        while k * self.period_s < t_s:
            k += 1
        return k


def draw_clocks(config: SimulationConfig) -> dict[str, DeviceClock]:
    """Draw the device clocks of a cell: 5-80 ppm fast or slow, small one-sided latencies."""
    fps = config.fps
    if "rate" in config.fault_names:
        low, high = TRUE_FPS
        fps *= float(generator(config.seed, config.session, "true rate").uniform(low, high)) / 31.0
    nominal = {
        CAMERA: (1.0 / fps, 0.004, 0.0015),
        MICROPHONE: (config.block_samples / config.audio_rate_hz, 0.002, 0.001),
        SENSORS: (config.rows_per_packet / config.sensor_rate_hz, 0.003, 0.0015),
    }
    clocks = {}
    for stream, (period_s, latency_s, jitter_s) in nominal.items():
        rng = generator(config.seed, "clock", stream)
        drift = float(rng.choice([-1.0, 1.0]) * rng.uniform(5e-6, 80e-6))
        clocks[stream] = DeviceClock(
            stream=stream,
            period_s=period_s * (1.0 + drift),
            drift=drift,
            latency_s=latency_s * float(rng.uniform(0.7, 1.3)),
            jitter_s=jitter_s,
        )
    return clocks


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """From item `number` on, items are `period_s` apart, the first of them at world time `t_s`."""

    number: int
    t_s: float
    period_s: float


@dataclass(slots=True, kw_only=True)
class Opening:
    """One opening of a device: counters and the device clock start here.

    Attributes:
        segment: Counts the openings.
        first_item: Item with which it begins.
        t_s: World time of that item.
        base_ns: What the device's clock showed then.
        drift: See `DeviceClock`.
        counts_samples: The clock is a sample counter: it runs with the rate, and starts anew with the numbers.
        steps: (world time, nanoseconds) of each jump of the device clock.
        paces: How fast items follow each other: one, and one more for each change of the rate.
        restarts: Item numbers at which the device began to count from 0 again.
    """

    segment: int
    first_item: int
    t_s: float
    base_ns: int
    drift: float
    counts_samples: bool = False
    steps: list[tuple[float, int]] = field(default_factory=list)
    paces: list[Pace] = field(default_factory=list)
    restarts: list[int] = field(default_factory=list)

    def stepped_ns(self, t_s: float) -> int:
        """Return how far the device clock has jumped by world time `t_s`."""
        return sum(amount for at, amount in self.steps if at <= t_s)

    def device_ns(self, t_s: float) -> int:
        """Return what the device's clock shows at world time `t_s`."""
        shown_ns, since_s, drift = self.base_ns, self.t_s, self.drift
        for pace in self.paces[1:] if self.counts_samples else ():
            if pace.t_s > t_s:
                break
            shown_ns += round((pace.t_s - since_s) / (1.0 + drift) * 1e9)
            since_s, drift = pace.t_s, self._drift(pace)
        return shown_ns + round((t_s - since_s) / (1.0 + drift) * 1e9) + self.stepped_ns(t_s)

    def item_s(self, number: int) -> float:
        """Return the world time of item `number`, on an even grid."""
        pace = next(p for p in reversed(self.paces) if p.number <= number or p is self.paces[0])
        return pace.t_s + (number - pace.number) * pace.period_s

    def change_rate(self, number: int, share: float) -> None:
        """From item `number` on, let `share` more items come in a second."""
        before = self.paces[-1]
        pace = Pace(number=number, t_s=self.item_s(number), period_s=before.period_s / (1.0 + share))
        self.paces.append(pace)

    def repaced(self, number: int) -> bool:
        """Say whether item `number` comes after a change of the rate."""
        return len(self.paces) > 1 and number >= self.paces[1].number

    def place(self, number: int, clock: DeviceClock) -> int:
        """Return the item of the world, counted from its start, whose content item `number` has."""
        if not self.repaced(number):
            return self.first_item + number
        return round(self.item_s(number) / clock.period_s)

    def reset_clock(self, t_s: float, shows_ns: int) -> None:
        """Let the device clock start anew at world time `t_s`, from `shows_ns` on."""
        self.steps.append((t_s, shows_ns - self.device_ns(t_s)))

    def restarts_by(self, number: int) -> int:
        """Return how often counting had begun anew by item `number`."""
        return sum(1 for at in self.restarts if at <= number)

    def counted_from(self, number: int) -> int:
        """Return the item that the device counts as 0 when it comes to item `number`."""
        return max((at for at in self.restarts if at <= number), default=0)

    def _drift(self, pace: Pace) -> float:
        """Return the cell clock's rate against a sample counter's, minus one, at some pace."""
        return (1.0 + self.drift) * pace.period_s / self.paces[0].period_s - 1.0

    def truth(self, start_ns: int) -> list[dict[str, Any]]:
        """Return the clock lines of this opening, in the terms of `ClockUpdate`; `from_ns` is cell time."""
        drifts = {self.t_s: self.drift}
        if self.counts_samples:
            drifts |= {pace.t_s: self._drift(pace) for pace in self.paces[1:]}
        drift, lines = self.drift, []
        for at in sorted([*drifts, *(t_s for t_s, _ in self.steps)]):
            drift = drifts.get(at, drift)
            cell_ns = start_ns + round(at * 1e9)
            ref_ns = self.device_ns(at)
            lines.append(
                {
                    "segment": self.segment,
                    "from_ns": cell_ns,
                    "ref_ns": ref_ns,
                    "offset_ns": cell_ns - ref_ns,
                    "drift_ppb": round(drift * 1e9),
                }
            )
        return lines


def open_clock(clock: DeviceClock, segment: int, t_s: float, config: SimulationConfig, weld_seed: int = 0) -> Opening:
    """Open a device at world time `t_s`; a clock of stamps shows some time or other, a counter shows zero.

    With the fault `offset`, the clocks of all devices begin at almost the same time, differently for every weld.
    """
    first = clock.first_item(t_s)
    counts_samples = clock.stream == MICROPHONE
    base_s = 0.0
    if "offset" in config.fault_names:
        low, high = _OFFSETS_S[clock.stream]
        rng = generator(config.seed, weld_seed, "offset", clock.stream, segment)
        base_s = _ZERO_S - float(rng.uniform(low, high))
    elif not counts_samples:
        base_s = float(generator(config.seed, "base", clock.stream, segment).uniform(1, 90))
    base_ns = round(base_s * 1e9)
    if counts_samples:
        base_ns = -(-round(base_s * config.audio_rate_hz) * 1_000_000_000 // config.audio_rate_hz)  # whole samples
    return Opening(
        segment=segment,
        first_item=first,
        t_s=first * clock.period_s,
        base_ns=base_ns,
        drift=clock.drift,
        counts_samples=counts_samples,
        paces=[Pace(number=0, t_s=first * clock.period_s, period_s=clock.period_s)],
    )


def sampling_jitter(seed: int, rate_hz: float, n: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """Draw how far slow sensor rows stray from their grid (seconds); fast sensors keep it.

    The steps between rows then have the measured mixture: mean 111 ms, sd 14 ms, extremes near 16 and 185 ms.
    """
    if rate_hz >= 50:
        return np.zeros(n)
    rng = generator(seed, "sampling")
    stray = np.where(rng.random(n) < 0.985, rng.normal(0.0, 0.008, n), rng.uniform(-0.048, 0.048, n))
    limit = 0.45 / rate_hz
    return np.clip(stray * 9.0 / rate_hz, -limit, limit)
