"""Clocks and latencies of the simulated devices: every one is off by a known amount.

World time is seconds since the cell started, on the cell clock. Item k of a device happens at a fixed world time
whether or not anybody listens, so that a driver opened late sees the same values as one opened early.
"""

from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from acquisition.simulated.config import SimulationConfig
from acquisition.simulated.seeds import generator

CAMERA: Final = "camera"
MICROPHONE: Final = "microphone"
SENSORS: Final = "sensors"
PHOTOS: Final = "photos"


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
    nominal = {
        CAMERA: (1.0 / config.fps, 0.004, 0.0015),
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


@dataclass(slots=True, kw_only=True)
class Opening:
    """One opening of a device: counters and the device clock start here.

    Attributes:
        segment: Counts the openings.
        first_item: Item with which it begins.
        t_s: World time of that item.
        base_ns: What the device's clock showed then.
        drift: See `DeviceClock`.
        steps: (world time, nanoseconds) of each jump of the device clock.
    """

    segment: int
    first_item: int
    t_s: float
    base_ns: int
    drift: float
    steps: list[tuple[float, int]] = field(default_factory=list)

    def stepped_ns(self, t_s: float) -> int:
        """Return how far the device clock has jumped by world time `t_s`."""
        return sum(amount for at, amount in self.steps if at <= t_s)

    def device_ns(self, t_s: float) -> int:
        """Return what the device's clock shows at world time `t_s`."""
        return self.base_ns + round((t_s - self.t_s) / (1.0 + self.drift) * 1e9) + self.stepped_ns(t_s)

    def truth(self, start_ns: int) -> list[dict[str, Any]]:
        """Return the clock lines of this opening, in the terms of `ClockUpdate`; `from_ns` is cell time."""
        lines = []
        for at, _ in [(self.t_s, 0), *sorted(self.steps)]:
            cell_ns = start_ns + round(at * 1e9)
            ref_ns = self.device_ns(at)
            lines.append(
                {
                    "segment": self.segment,
                    "from_ns": cell_ns,
                    "ref_ns": ref_ns,
                    "offset_ns": cell_ns - ref_ns,
                    "drift_ppb": round(self.drift * 1e9),
                }
            )
        return lines


def open_clock(clock: DeviceClock, segment: int, t_s: float, seed: int) -> Opening:
    """Open a device at world time `t_s`; a clock of stamps shows some time or other, a counter shows zero."""
    first = clock.first_item(t_s)
    base_s = 0.0 if clock.stream == MICROPHONE else float(generator(seed, "base", clock.stream, segment).uniform(1, 90))
    return Opening(
        segment=segment,
        first_item=first,
        t_s=first * clock.period_s,
        base_ns=round(base_s * 1e9),
        drift=clock.drift,
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
