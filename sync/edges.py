"""When exactly the arc began or ended, finer than a stream samples: the posterior of one instant, per modality.

Every estimator compares what a few items around the edge show with what an arc that began or ended at each instant of a
grid would show, and gives the mean and the standard deviation of that instant. Noise is judged by a Student density
with few degrees of freedom, so that no single odd item decides.

How an arc begins and ends is taken from real GMAW recordings at 9 Hz: voltage falls 40-34-26 V over three rows, current
rises within a row and is gone after one or two, the pool glows for 0.4 s when the arc is out.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from sync.arc import ArcConfig, arc_rows

Int64s = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

EXPOSURE_S: Final = 0.005
"""A frame's stamp is the begin of its exposure, which lasts about this long."""

_STRIKE_S: Final = 0.03
_VOLTAGE_FALL_S: Final = 0.08
_CURRENT_FALL_S: Final = 0.05
"""Time constants: current and light after ignition, voltage after ignition, current after the end."""

_LIGHT_POWER: Final = 0.6
"""Light grows with this power of the current."""

_POOL_SHARE: Final = 0.05
_POOL_S: Final = 0.05
"""The pool's `frame_light` just after the arc, against the arc's, and the time constant of its fading."""

_FLOOR_S: Final = 0.003
_FADING_S: Final = 0.008
"""What the shape of an edge leaves open however good the data are; the pool makes the end of light a soft one."""

_STEP_S: Final = 0.0005
_WIDEST_S: Final = 30.0
"""Samples further apart than this say nothing about when an edge was."""
_DARK: Final = 0.02
"""Light that stands for none, so that its logarithm exists."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Edge:
    """An instant and its standard deviation, cell time."""

    t_ns: int
    sigma_ns: int


def sensor_edge(
    t_ns: Int64s,
    current_a: Floats,
    voltage_v: Floats | None,
    at_ns: int,
    *,
    rising: bool,
    config: ArcConfig,
) -> Edge | None:
    """Time arc-on or arc-off in sensor rows.

    Rows that read the value of their instant and rows that average over the time since the last one both exist (the
    simulated cell, the real data set); the rows around the edge tell which they are.

    Args:
        t_ns: `(n,)` ascending row times.
        current_a: `(n,)` A.
        voltage_v: `(n,)` V, or None where it is not measured.
        at_ns: First (rising) or last row with an arc, as `arc_edges_current` gives it.
        rising: Arc-on, else arc-off.
        config: When the arc counts as burning.

    Returns:
        The edge, or None where the recording begins or ends with the arc.
    """
    usable, _ = arc_rows(current_a, voltage_v, config)
    t, current = (t_ns[usable] - at_ns) / 1e9, current_a[usable]
    voltage = None if voltage_v is None else voltage_v[usable]
    k = int(np.searchsorted(t, 0.0))
    if rising:
        steady = slice(k + 3, k + 23)
        if k == 0 or not len(t[steady]):
            return None
        bracket = (t[k - 1], t[k])
    else:
        steady = slice(max(0, k - 20), max(0, k - 1))
        if voltage is None:
            # The dying current still counts as an arc; the arc itself is over where it has sunk by half.
            strong = np.flatnonzero(current[: k + 1] >= 0.5 * np.median(current[: k + 1][-20:]))
            k = int(strong[-1])
        if k + 1 >= len(t) or not len(t[steady]):
            return None
        bracket = (t[k], t[k + 1])
    if t[min(k + 1, len(t) - 1)] - t[k - 1] > _WIDEST_S or bracket[1] - bracket[0] > _WIDEST_S:
        return None
    if bracket[1] - bracket[0] <= 0.02:
        return _edge(at_ns, (bracket[0] + bracket[1]) / 2, (bracket[1] - bracket[0]) / 12**0.5)
    level, ripple = _level(current[steady])
    if rising:
        grid = np.arange(*bracket, _STEP_S) + _STEP_S / 2
        sampled = _sampled_strike(grid, t, current, voltage, k, steady, level, ripple)
        averaged = _student(current[k], level * (t[k] - grid) / (t[k] - t[k - 1]), 0.15 * level)
        if voltage is not None:
            averaged += 3 * -np.log(max(voltage[k - 1] - np.median(voltage[steady]), 1.0))
        averaged += _student(current[k + 1 : k + 3].mean(), level, 0.3 * level)
    else:
        grid = np.arange(t[k - 1], t[k + 1], _STEP_S) + _STEP_S / 2
        sampled, averaged = _end_of_current(grid, t, current, k, level, ripple)
    return _posterior(at_ns, grid, np.logaddexp(sampled, averaged))


def light_edge(t_ns: Int64s, light: Floats, at_ns: int, *, rising: bool) -> Edge | None:
    """Time arc-on or arc-off in frames; `light` is `frame_light`, `at_ns` as `arc_edges_light` gives it.

    Arc-on grows with the current; at arc-off the pool still glows, and a frame may hold a part of the arc.
    """
    t = (t_ns - at_ns) / 1e9
    y = np.log(np.maximum(light, 0.0) + _DARK)
    k = int(np.searchsorted(t, 0.0))
    near = slice(max(0, k - 4), k + 5)
    burning, dark = (slice(k + 3, k + 63), slice(max(0, k - 30), max(0, k - 2)))
    if not rising:
        burning, dark = slice(max(0, k - 60), max(0, k - 2)), slice(k + 15, k + 45)
    if len(t[near]) < 3 or k == 0 or k + 1 >= len(t) or not len(t[burning]):
        return None
    if t[near][-1] - t[near][0] > _WIDEST_S:
        return None
    idle = float(np.median(y[dark])) if len(t[dark]) else float(np.log(_DARK))
    level = float(np.median(y[burning]))
    grid = np.arange(t[max(0, k - 3)], t[min(len(t) - 1, k + 3)] + EXPOSURE_S, _STEP_S)
    at, seen = t[near, np.newaxis], y[near, np.newaxis]
    if rising:
        since = at + EXPOSURE_S - grid
        dimmer = -_LIGHT_POWER * np.log1p(-np.exp(-np.maximum(since, 1e-4) / _STRIKE_S))
        unlit = _student(seen, np.full_like(since, idle), 0.5)
    else:
        since = grid - at
        dimmer = -np.log(np.clip(since / EXPOSURE_S, 1e-2, 1.0))
        pool = _POOL_SHARE * np.exp(level - np.maximum(-since, 0.0) / _POOL_S)
        glowing = _student(seen, np.log(pool + np.exp(idle)), 1.0)
        unlit = np.logaddexp(glowing, _student(seen, np.full_like(since, idle), 0.5))
    lit = _like(np.maximum(seen, idle) + dimmer, y[burning])
    return _posterior(at_ns, grid, np.where(since > 0, lit, unlit).sum(0), _FLOOR_S if rising else _FADING_S)


def sound_edge(t_ns: Int64s, level_db: Floats, at_ns: int) -> Edge | None:
    """Time the change point of a fine envelope, about 1 ms per value, from idle to arc or back.

    Args:
        t_ns: `(n,)` ascending middles of the values.
        level_db: `(n,)` high-frequency level.
        at_ns: Roughly where, to 150 ms: the gate bridges 100 ms.
    """
    t = (t_ns - at_ns) / 1e9
    first, last = np.searchsorted(t, (-0.16, 0.16))
    before, after = slice(max(0, first - 500), first), slice(last, last + 500)
    if last - first < 20 or not len(t[before]) or not len(t[after]):
        return None
    y = level_db[first:last]
    ahead = _student(y, float(np.median(level_db[before])), max(1.0, _spread(level_db[before])))
    behind = _student(y, float(np.median(level_db[after])), max(1.0, _spread(level_db[after])))
    # Between value c - 1 and c: all before c are judged as before the edge, c and all later ones as after it.
    chance = np.concatenate(([0.0], np.cumsum(ahead - behind)))[1:-1]
    grid = (t[first : last - 1] + t[first + 1 : last]) / 2
    return _posterior(at_ns, grid, chance)


def _sampled_strike(
    grid: Floats,
    t: Floats,
    current: Floats,
    voltage: Floats | None,
    k: int,
    steady: slice,
    level: float,
    ripple: float,
) -> Floats:
    """Likelihood of an ignition at each instant of the grid, for rows that read the value of their instant."""
    chance = np.zeros_like(grid)
    for j in range(k, min(k + 3, len(t))):
        since = t[j] - grid
        struck = level * (1.0 - np.exp(-since / _STRIKE_S))
        struck *= 1.0 + 0.4 * np.exp(-since / 0.08) - 0.2 * np.exp(-since / 0.35)
        chance += _student(current[j], struck, np.hypot(1.5, ripple * struck))
        if voltage is not None:
            arc_v, ripple_v = _level(voltage[steady])
            fallen = arc_v + (max(voltage[k - 1], arc_v) - arc_v) * np.exp(-since / _VOLTAGE_FALL_S)
            chance += _student(voltage[j], fallen, np.hypot(0.3, ripple_v * arc_v))
    return chance


def _end_of_current(
    grid: Floats, t: Floats, current: Floats, k: int, level: float, ripple: float
) -> tuple[Floats, Floats]:
    """Likelihood of an end at each instant of the grid, for rows that sample and for rows that average.

    A sampling row after the end still sees the current die; an averaging row holds the share of its time with an arc.
    """
    nothing = np.full_like(grid, -np.inf)
    died = level * np.exp(-(t[k + 1] - grid) / _CURRENT_FALL_S)
    sampled = _student(current[k + 1], died, np.hypot(0.5, ripple * died))
    sampled += _student(current[k], level, ripple * level)
    share = level * (grid - t[k - 1]) / (t[k] - t[k - 1])
    averaged = _student(current[k], share, 0.15 * level) + _student(current[k + 1], 0.0, 0.5)
    return np.where(grid > t[k], sampled, nothing), np.where(grid <= t[k], averaged, nothing)


def _level(values: Floats) -> tuple[float, float]:
    """Median, and relative spread of at least 3 %."""
    level = float(np.median(values))
    return level, max(0.03, _spread(values) / max(abs(level), 1e-9))


def _spread(values: Floats) -> float:
    """Standard deviation by the median absolute deviation."""
    return 1.4826 * float(np.median(np.abs(values - np.median(values))))


def _student(seen: Floats | float, mean: Floats | float, spread: Floats | float) -> Floats:
    """Logarithm of a Student density with four degrees of freedom, but for a constant."""
    return np.asarray(-np.log(spread) - 2.5 * np.log1p(((seen - mean) / spread) ** 2 / 4))


def _like(seen: Floats, examples: Floats) -> Floats:
    """Logarithm of a density estimated from examples (light is bimodal: arc and short circuit), with heavy tails."""
    density = np.exp(_student(seen[..., np.newaxis], examples, 0.25)).mean(axis=-1)
    return np.asarray(np.log(density + 1e-6))


def _posterior(at_ns: int, grid: Floats, chance: Floats, floor_s: float = _FLOOR_S) -> Edge:
    weight = np.exp(chance - chance.max())
    weight /= weight.sum()
    mean = float(weight @ grid)
    return _edge(at_ns, mean, float(np.hypot(float(weight @ (grid - mean) ** 2) ** 0.5, floor_s)))


def _edge(at_ns: int, after_s: float, sigma_s: float) -> Edge:
    return Edge(t_ns=at_ns + round(after_s * 1e9), sigma_ns=round(sigma_s * 1e9) + 1)
