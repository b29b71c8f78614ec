"""Spatter droplets: born where a bridge breaks, flying ballistically, seen as streaks, later as dots on the plate."""

from dataclasses import dataclass
from typing import Final

import numpy as np

from acquisition.simulated.causes import Floats
from acquisition.simulated.process import Process
from acquisition.simulated.seeds import generator

BIRTHS_PER_BURST: Final = 8.0
GRAVITY_PX_S2: Final = 9000.0
EXPOSURE_S: Final = 0.005


@dataclass(frozen=True, slots=True, kw_only=True)
class Spatter:
    """Droplets of one weld in order of birth; pixels are those of a 960 x 600 frame, relative to the arc.

    Attributes:
        born_s: (n,) cycle time.
        velocity_px_s: (n, 2) right and down.
        life_s: (n,) how long it glows.
        glow: (n,) brightness at birth, gray levels.
        size: (n,) 0..1, small to large.
    """

    born_s: Floats
    velocity_px_s: Floats
    life_s: Floats
    glow: Floats
    size: Floats

    def streaks(self, t_s: float) -> tuple[Floats, Floats, Floats]:
        """Return (from, to, gray level) of the k droplets glowing at `t_s`: (k, 2) and (k, 2) pixels, (k,)."""
        first, last = np.searchsorted(self.born_s, (t_s - 0.6, t_s))
        alive = np.arange(first, last)
        age = t_s - self.born_s[alive]
        keep = age < self.life_s[alive]
        alive, age = alive[keep], age[keep]
        begin = self._position(alive, age)
        end = self._position(alive, age + EXPOSURE_S)
        return begin, end, self.glow[alive] * (1.0 - 0.7 * age / self.life_s[alive])

    def _position(self, which: np.ndarray[tuple[int, ...], np.dtype[np.int64]], age_s: Floats) -> Floats:
        moved = self.velocity_px_s[which] * age_s[:, None]
        moved[:, 1] += 0.5 * GRAVITY_PX_S2 * age_s**2
        return np.asarray(moved)


def throw_spatter(process: Process) -> Spatter:
    """Let every burst throw droplets, more of them where the process spatters."""
    rng = generator(process.plan.seed, "spatter")
    bursts = process.bursts
    at = bursts.onset_s + bursts.duration_s
    strength = process.at(process.spatter, at) * np.sqrt(process.plan.recipe.current_a / 177.0)
    # Some bridges break gently and some explode: gamma-mixed counts give the measured spread of streaks per frame.
    births = rng.poisson(BIRTHS_PER_BURST * strength * rng.gamma(1.5, 1.0 / 1.5, at.size))
    n = int(births.sum())
    speed = np.exp(rng.normal(np.log(1900.0), 1.35, n))
    angle = rng.normal(0.0, 0.9, n)
    return Spatter(
        born_s=np.repeat(at, births),
        velocity_px_s=np.column_stack((speed * np.sin(angle), -speed * np.cos(angle))),
        life_s=np.minimum(rng.gamma(3.0, 0.09, n), 0.6),
        glow=rng.uniform(60.0, 250.0, n),
        size=rng.beta(1.2, 3.0, n),
    )
