"""Scenarios: seeded streams with known truth, disturbed as real devices and hosts disturb them.

One delivery (a frame, a block of sound, a packet of rows) arrives `base + s(t) * Gamma + spike` after the true time of
its newest item: never early, behind a load `s(t)` that changes over tens of seconds, rounded up to the polling grid of
the host in half of the scenarios, and never overtaking another one. Bursts of deliveries are lost, counters wrap, and
devices restart: counter and device clock then begin anew, with or without the driver being told.
"""

from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from acquisition.device_count import DeviceCounter
from acquisition.simulated.clocks import sampling_jitter

Int64s: TypeAlias = npt.NDArray[np.int64]
Floats: TypeAlias = npt.NDArray[np.float64]
Bools: TypeAlias = npt.NDArray[np.bool_]
KindName: TypeAlias = Literal["frames", "blocks", "rows", "fast_rows"]

_MS: Final = 1_000_000
_SECOND: Final = 1_000_000_000
_STAMP_NS: Final = 1_000
"""Device stamps count microseconds."""
_COUNTER_BITS: Final = 16
_QUANTUM_NS: Final = _MS
_LOST_SHARE: Final = 0.003
_BURST: Final = (3, 30)
_OUTAGE_S: Final = (0.3, 2.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A kind of stream.

    Attributes:
        rate_hz: Nominal deliveries per second.
        items: Items per delivery (frames, sample instants, rows).
        regular: The device samples on an even grid; otherwise only its stamps say when.
    """

    rate_hz: float
    items: int = 1
    regular: bool = True


KINDS: Final[dict[KindName, Kind]] = {
    "frames": Kind(rate_hz=30.0),
    "blocks": Kind(rate_hz=100.0, items=480),
    "rows": Kind(rate_hz=9.0, regular=False),
    "fast_rows": Kind(rate_hz=100.0, items=10),
}
"""30 fps; 48 kHz in blocks of 480; 9 Hz with the measured sampling jitter; 1 kHz in packets of 10."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """Deliveries that never came.

    Attributes:
        first: True number of the first one.
        missing: How many.
        restart: The device restarted meanwhile.
    """

    first: int
    missing: int
    restart: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """One recording of one stream; arrays are `(n,)` over the deliveries received.

    Attributes:
        kind: Kind of stream.
        seed: What it was drawn from.
        true_ns: True cell time of the delivery's newest item.
        arrival_ns: Arrival on the cell clock.
        number: True number of the delivery, never wrapped nor restarted.
        counter: The device's own number: 16 bit, from 0 after a restart.
        device_ns: The device's stamp of the newest item; begins anew after a restart.
        segment: Segment that the driver announced; a restart that it was not told of does not change it.
        base_ns: Shortest time to arrival.
        drift: Rate of the cell clock against the device's, minus one.
        gamma_shape: Shape of the random part of the latency.
        gamma_mean_ns: Its mean at load 1.
        quantum_ns: Polling grid of the host, 0 for none.
        losses: What was lost, in order.
        restarts: Index of the first delivery after each restart.
    """

    kind: KindName
    seed: int
    true_ns: Int64s
    arrival_ns: Int64s
    number: Int64s
    counter: Int64s
    device_ns: Int64s
    segment: Int64s
    base_ns: int
    drift: float
    gamma_shape: float
    gamma_mean_ns: float
    quantum_ns: int
    losses: tuple[Loss, ...]
    restarts: tuple[int, ...]

    @property
    def rate_hz(self) -> float:
        """Nominal deliveries per second."""
        return KINDS[self.kind].rate_hz

    def followed(self) -> tuple[Int64s, Int64s]:
        """Numbers and segments as a driver hands them on: wraps undone, a counter that began anew is a new segment.

        As on real devices, a restart shortly before a wrap can look like that wrap.
        """
        number, segment = np.empty_like(self.counter), np.empty_like(self.segment)
        counter = DeviceCounter()
        found, before_ns, announced = 0, int(self.arrival_ns[0]), int(self.segment[0])
        columns = zip(self.counter.tolist(), self.arrival_ns.tolist(), self.segment.tolist(), strict=True)
        for i, (raw, arrival_ns, now) in enumerate(columns):
            if now != announced:
                counter, announced = DeviceCounter(), now
            followed = counter.follow(raw, plausible=16 + 4 * (arrival_ns - before_ns) / 1e9 * self.rate_hz)
            if followed is None:
                counter, found = DeviceCounter(), found + 1
                followed = counter.follow(raw, plausible=0)
                assert followed is not None
            before_ns = arrival_ns
            number[i], segment[i] = followed, announced + found
        return number, segment

    def count_axis(self) -> tuple[Int64s, Int64s]:
        """Device time of each delivery by the device's counter and nominal rate, and the segments (`followed`)."""
        number, segment = self.followed()
        return np.rint(number * (1e9 / self.rate_hz)).astype(np.int64), segment


def draw_scenario(seed: int, kind: KindName, seconds: float = 120.0) -> Scenario:
    """Draw one recording; equal arguments give equal recordings.

    Args:
        seed: Non-negative.
        kind: One of `KINDS`.
        seconds: Length, at least 10.

    Returns:
        The recording. Every fifth has no loss and no restart at all.

    Raises:
        ValueError: The recording is too short for the losses.
    """
    if seconds < 10:
        raise ValueError(f"a scenario of {seconds:g} s is too short to lose anything in; use at least 10 s")
    rng = np.random.default_rng((seed, tuple(KINDS).index(kind)))
    shape = KINDS[kind]
    n = round(seconds * shape.rate_hz)
    drift = float(rng.uniform(-100e-6, 100e-6))
    start_ns = int(rng.integers(10**12, 10**14))
    stray_s = np.zeros(n) if shape.regular else sampling_jitter(seed, shape.rate_hz, n)
    since_ns = np.rint((np.arange(n) / shape.rate_hz + stray_s) * (1.0 + drift) * 1e9).astype(np.int64)
    since_ns -= since_ns[0]

    whole = rng.random() < 0.2
    restarted = np.array([], np.int64) if whole else _draw_restarts(rng, n)
    lost = np.zeros(n, np.bool_)
    if not whole:
        _lose_bursts(rng, lost)
        for at in restarted:
            lost[at - round(rng.uniform(*_OUTAGE_S) * shape.rate_hz) : at] = True
        lost[restarted] = False
    kept = np.flatnonzero(~lost)

    gamma_shape, gamma_mean_ns = float(rng.integers(1, 5)), float(rng.uniform(0.2, 5.0)) * _MS
    base_ns = round(float(rng.uniform(0.5, 20.0)) * _MS)
    quantum_ns = _QUANTUM_NS if rng.random() < 0.5 else 0
    true_ns = start_ns + since_ns[kept]
    latency_ns = base_ns + _latency_ns(rng, since_ns[kept], gamma_shape, gamma_mean_ns)
    arrival_ns = np.maximum.accumulate(true_ns + latency_ns)
    if quantum_ns:
        arrival_ns = -(-arrival_ns // quantum_ns) * quantum_ns

    counter, device_ns = _own_axes(rng, since_ns, drift, restarted)
    announced = rng.random(len(restarted)) < 0.5
    return Scenario(
        kind=kind,
        seed=seed,
        true_ns=true_ns,
        arrival_ns=arrival_ns,
        number=kept.astype(np.int64),
        counter=counter[kept],
        device_ns=device_ns[kept],
        segment=np.searchsorted(restarted[announced], kept, side="right").astype(np.int64),
        base_ns=base_ns,
        drift=drift,
        gamma_shape=gamma_shape,
        gamma_mean_ns=gamma_mean_ns,
        quantum_ns=quantum_ns,
        losses=_losses(lost, restarted),
        restarts=tuple(np.searchsorted(kept, restarted).tolist()),
    )


def _draw_restarts(rng: np.random.Generator, n: int) -> Int64s:
    """Number of the first delivery after each of 0 to 2 restarts, in the first and the second half."""
    places = rng.integers((n // 4, 5 * n // 8), (7 * n // 16, 7 * n // 8))
    return np.sort(rng.permutation(places)[: rng.integers(0, 3)]).astype(np.int64)


def _lose_bursts(rng: np.random.Generator, lost: Bools) -> None:
    """Lose about 0.3 %, and at least one burst, nowhere near the ends."""
    n, (shortest, longest) = len(lost), _BURST
    for _ in range(max(1, round(_LOST_SHARE * n / ((shortest + longest) / 2)))):
        first = int(rng.integers(longest, n - 2 * longest))
        lost[first : first + int(rng.integers(shortest, longest + 1))] = True


def _latency_ns(rng: np.random.Generator, since_ns: Int64s, shape: float, mean_ns: float) -> Int64s:
    """Latency above the base: gamma under a load within 0.5 to 2 that changes over tens of seconds, and rare spikes."""
    n = len(since_ns)
    depth, period_s, phase = rng.uniform(0.0, 1.0), rng.uniform(20.0, 60.0), rng.uniform(0.0, 2 * np.pi)
    load = np.exp2(depth * np.sin(2 * np.pi * since_ns / _SECOND / period_s + phase))
    spikes_ns = (rng.random(n) < rng.uniform(0.001, 0.01)) * rng.uniform(10.0, 80.0, n) * _MS
    return np.rint(load * rng.gamma(shape, mean_ns / shape, n) + spikes_ns).astype(np.int64)


def _own_axes(rng: np.random.Generator, since_ns: Int64s, drift: float, restarted: Int64s) -> tuple[Int64s, Int64s]:
    """Counter and stamps of every delivery; the first life began long ago, so its counter wraps in the recording."""
    n = len(since_ns)
    turn = 1 << _COUNTER_BITS
    begins = np.concatenate(([0], restarted))
    life = np.searchsorted(restarted, np.arange(n), side="right")
    first_count = np.zeros(len(begins), np.int64)
    first_count[0] = turn - rng.integers(1, min(n, turn))
    shown_ns = rng.integers(0, _SECOND, len(begins))
    shown_ns[0] = rng.integers(10**12, 10**15)
    elapsed_ns = np.rint((since_ns - since_ns[begins][life]) / (1.0 + drift)).astype(np.int64)
    counter = (np.arange(n) - begins[life] + first_count[life]) % turn
    return counter, (shown_ns[life] + elapsed_ns) // _STAMP_NS * _STAMP_NS


def _losses(lost: Bools, restarted: Int64s) -> tuple[Loss, ...]:
    edges = np.flatnonzero(np.diff(np.concatenate(([False], lost, [False])).astype(np.int8)))
    firsts, ends = edges[::2], edges[1::2]
    return tuple(
        Loss(first=int(first), missing=int(end - first), restart=bool(np.isin(end, restarted)))
        for first, end in zip(firsts, ends, strict=True)
    )
