"""Short-circuit bursts: the one list of events that sound, light, spatter and electrical ripple are all made from."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from acquisition.simulated.causes import Floats

EARLY_CLICK = 0.34
"""Median amplitude of a burst's earlier clicks, against its last one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bursts:
    """Bursts of one weld, in order of time; times are cycle seconds.

    Attributes:
        onset_s: (n,) when the wire first touches the pool.
        duration_s: (n,) how long the arc is shorted.
        click_s: (m,) when a bridge breaks and the arc re-ignites, which is heard.
        click_amplitude: (m,) loudness of each click, about 1 for a burst's last one.
        click_burst: (m,) which burst a click belongs to.
    """

    onset_s: Floats
    duration_s: Floats
    click_s: Floats
    click_amplitude: Floats
    click_burst: npt.NDArray[np.int64]

    def shorted(self, t0_s: Floats, t1_s: Floats) -> Floats:
        """Return the share of each interval [t0, t1] that was spent short-circuited (0..1)."""
        if self.onset_s.size == 0:
            return np.zeros_like(t0_s)
        knots = np.column_stack((self.onset_s, self.onset_s + self.duration_s)).ravel()
        total = np.concatenate(([0.0], np.cumsum(self.duration_s)))
        at_knots = np.column_stack((total[:-1], total[1:])).ravel()
        spent: Floats = np.interp(t1_s, knots, at_knots) - np.interp(t0_s, knots, at_knots)
        return spent / (t1_s - t0_s)


def draw_bursts(
    t_s: Floats, rate_hz: Floats, cv: Floats, begin_s: float, end_s: float, rng: np.random.Generator
) -> Bursts:
    """Draw a renewal process with gamma intervals whose rate and irregularity follow the process.

    Args:
        t_s: (n,) equally spaced times of the hidden state.
        rate_hz: (n,) bursts per second.
        cv: (n,) coefficient of variation of the intervals.
        begin_s: Arc-on.
        end_s: Arc-off.
        rng: The weld's generator for bursts.
    """
    step = t_s[1] - t_s[0]
    onsets: list[float] = []
    now = begin_s + 0.02
    while True:
        i = min(int((now - t_s[0]) / step), t_s.size - 1)
        shape = 1.0 / cv[i] ** 2
        now += max(rng.gamma(shape, 1.0 / shape) / rate_hz[i], 0.004)
        if now >= end_s - 0.01:
            break
        onsets.append(now)
    onset = np.array(onsets)
    n = onset.size
    room = np.diff(np.append(onset, end_s))
    duration = np.minimum(rng.uniform(0.008, 0.012, n), 0.8 * room)
    clicks = 1 + rng.poisson(2.0, n)
    burst = np.repeat(np.arange(n), clicks)
    last = np.cumsum(clicks) - 1
    share = rng.uniform(0.0, 0.9, burst.size)
    share[last] = 1.0
    amplitude = EARLY_CLICK * np.exp(rng.normal(0.0, 0.55, burst.size))
    amplitude[last] = np.exp(rng.normal(0.0, 0.31, n))
    return Bursts(
        onset_s=onset,
        duration_s=duration,
        click_s=onset[burst] + share * duration[burst],
        click_amplitude=amplitude,
        click_burst=burst,
    )
