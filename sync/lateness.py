"""How late deliveries are: the maximum-likelihood line below one-sided latency.

A delivery arrives a constant base after its device time, and a random time more: `load(t) * Gamma(shape)`, where the
load of host and bus changes over seconds, and rarely a spike of any size. Minima use only the luckiest deliveries, and
of a gamma of shape 4 even those lie far above the base. The likelihood uses all of them: clock lines (one level per
device life, one slope for the crystal), shape and load are found together by damped scoring (BHHH: Berndt, Hall, Hall,
Hausman, "Estimation and inference in nonlinear structural models", 1974), with the edge of the support softened and
then sharpened, because a gamma of shape 1 has a cliff there.

Each arrival counts as an interval: a host that polls on a grid shows only the grid point after the delivery, and one
that waited behind its predecessor shows only an upper bound.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt
from scipy.special import expit, gammaincc, gammaln

Floats: TypeAlias = npt.NDArray[np.float64]
Ints: TypeAlias = npt.NDArray[np.int64]
Bools: TypeAlias = npt.NDArray[np.bool_]

_RESOLUTION_MS: Final = 0.02
"""Stamps of one host are not better than this."""
_STRAY: Final = 0.01
"""Share of deliveries that no gamma explains; they say nothing about the line."""
_STRAY_MS: Final = 100.0
_SHAPES: Final = (0.8, 8.0)
_LOAD_STEP: Final = 0.15
"""Typical change of the log load within a second, as a random walk."""
_ANYWHERE_MS: Final = 1000.0
"""How far a level may be from where the fit begins."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Deliveries:
    """Deliveries of one stream, `(n,)` each.

    Attributes:
        x_s: Device time, on one axis for all lines.
        late_ms: Arrival minus device time, less a constant per line.
        line: Number of the clock line (one per device life), ascending from 0.
        knot: Place in the load curve, in knots.
        queued: Came right behind its predecessor, so its own latency may have been shorter.
        of: Each is the least late of so many (1 or more): long memories keep minima, which say most about the line.
    """

    x_s: Floats
    late_ms: Floats
    line: Ints
    knot: Floats
    queued: Bools
    of: Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class Belief:
    """What is known of a crystal and its bus before (or without) seeing deliveries: mean and standard deviation.

    Attributes:
        slope: ms per s, that is 1000 ppm.
        log_shape: Logarithm of the gamma shape.
        log_mean: Logarithm of the mean random latency in ms, at the beginning.
    """

    slope: tuple[float, float] = (0.0, 0.05)
    log_shape: tuple[float, float] = (0.7, 0.5)
    log_mean: tuple[float, float] = (0.0, 1.1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lines:
    """Fitted lines: line `g` is at `level_ms[g] + slope * (x_s - x0_s)`.

    Attributes:
        x0_s: Where the levels hold.
        level_ms: `(lines,)`.
        slope: ms per s.
        log_shape: Logarithm of the gamma shape.
        log_mean: `(knots,)` logarithm of the mean random latency in ms.
        covariance: Of `(level_ms..., slope)`.
        shape_sigma: Standard deviation of `log_shape`.
    """

    x0_s: float
    level_ms: Floats
    slope: float
    log_shape: float
    log_mean: Floats
    covariance: Floats
    shape_sigma: float

    def at(self, line: int, x_s: float) -> float:
        """Level of a line at device time `x_s`, ms."""
        return float(self.level_ms[line] + self.slope * (x_s - self.x0_s))

    def sigma_ms(self, line: int, x_s: float) -> float:
        """Standard deviation of `at`."""
        weight = np.zeros(len(self.covariance))
        weight[line], weight[-1] = 1.0, x_s - self.x0_s
        return float(np.sqrt(weight @ self.covariance @ weight))


class _Likelihood:
    """Log-likelihood, its gradient and the outer products of the scores, at one softness of the edge."""

    def __init__(
        self, d: Deliveries, knot_s: float, knots: int, start: Lines, quantum_ms: float, belief: Belief
    ) -> None:
        self.lines = int(d.line[-1]) + 1
        self.d, self.dx = d, d.x_s - start.x0_s
        self.low = np.minimum(d.knot.astype(np.int64), knots - 2)
        self.high_part = d.knot - self.low
        self.width = max(quantum_ms, _RESOLUTION_MS)
        self.size = self.lines + 2 + knots
        self.center = np.zeros(self.size)
        self.precision = np.zeros((self.size, self.size))
        slope, shape, load = self.lines, self.lines + 1, np.arange(self.lines + 2, self.size)
        self.center[: self.lines] = start.level_ms
        self.precision[range(self.lines), range(self.lines)] = _ANYWHERE_MS**-2
        for place, known in ((slope, belief.slope), (shape, belief.log_shape), (load[0], belief.log_mean)):
            self.center[place], self.precision[place, place] = known[0], known[1] ** -2
        self.center[load] = belief.log_mean[0]
        walk = 1.0 / (_LOAD_STEP**2 * knot_s)
        for a, b in pairwise(load):
            self.precision[a, a] += walk
            self.precision[b, b] += walk
            self.precision[a, b] -= walk
            self.precision[b, a] -= walk
        self.scores = np.zeros((len(d.x_s), self.size))

    def _terms(self, theta: Floats, soft_ms: float) -> tuple[float, Floats, Floats, Floats, Floats, Floats, Floats]:
        """Shape; upper and lower end of each interval in units of its scale, and their softness; scale; probability."""
        load = theta[self.lines + 2 :]
        shape = float(np.exp(theta[self.lines + 1]))
        scale = np.exp(load[self.low] * (1.0 - self.high_part) + load[self.low + 1] * self.high_part) / shape
        rest = (self.d.late_ms - theta[: self.lines][self.d.line] - theta[self.lines] * self.dx) / soft_ms
        before = rest - self.width / soft_ms
        upper = soft_ms * np.logaddexp(0.0, rest) / scale
        lower = np.where(self.d.queued, 0.0, soft_ms * np.logaddexp(0.0, before) / scale)
        inside = self._over(shape, lower) - self._over(shape, upper)
        chance = (1.0 - _STRAY) * inside + _STRAY * self.width / _STRAY_MS
        return shape, upper, lower, expit(rest), np.where(self.d.queued, 0.0, expit(before)), scale, chance

    def _over(self, shape: float, v: Floats) -> Floats:
        """Chance that all deliveries behind one entry are later than `v`."""
        over: Floats = gammaincc(shape, v) ** self.d.of
        return over

    def _density(self, shape: float, v: Floats) -> Floats:
        """Density of the least late delivery behind one entry."""
        one = np.exp((shape - 1.0) * np.log(np.maximum(v, 1e-12)) - v - gammaln(shape))
        density: Floats = np.where(v > 0.0, self.d.of * gammaincc(shape, v) ** (self.d.of - 1.0) * one, 0.0)
        return density

    def value(self, theta: Floats, soft_ms: float) -> float:
        away = theta - self.center
        return float(np.log(self._terms(theta, soft_ms)[-1]).sum() - 0.5 * away @ self.precision @ away)

    def derivatives(self, theta: Floats, soft_ms: float) -> tuple[Floats, Floats]:
        """Gradient, and information (outer products of the scores, plus what was believed)."""
        shape, upper, lower, upper_soft, lower_soft, scale, chance = self._terms(theta, soft_ms)
        weight = (1.0 - _STRAY) / chance
        upper_pdf, lower_pdf = self._density(shape, upper), self._density(shape, lower)
        level = -weight * (upper_pdf * upper_soft - lower_pdf * lower_soft) / scale
        load = -weight * (upper_pdf * upper - lower_pdf * lower)
        step = 1e-3
        more, less = np.exp(step), np.exp(-step)
        wider = self._over(shape * more, lower * more) - self._over(shape * more, upper * more)
        narrower = self._over(shape * less, lower * less) - self._over(shape * less, upper * less)
        row = np.arange(len(level))
        scores = self.scores
        scores[:] = 0.0
        scores[row, self.d.line] = level
        scores[:, self.lines] = level * self.dx
        scores[:, self.lines + 1] = weight * (wider - narrower) / (2.0 * step)
        scores[row, self.lines + 2 + self.low] = load * (1.0 - self.high_part)
        scores[row, self.lines + 3 + self.low] = load * self.high_part
        gradient: Floats = scores.sum(axis=0) - self.precision @ (theta - self.center)
        information: Floats = scores.T @ scores + self.precision
        return gradient, information


def fit_lines(
    d: Deliveries,
    *,
    knots: int,
    knot_s: float,
    quantum_ms: float,
    belief: Belief,
    start: Lines,
    softness: tuple[float, ...] = (0.3, 0.1, 0.03),
    steps: int = 12,
) -> Lines:
    """Fit the lines.

    Args:
        d: At least one delivery.
        knots: Points of the load curve, at least 2.
        knot_s: Their distance.
        quantum_ms: Grid on which the host polls; 0 for none.
        belief: What is known before.
        start: Where to begin; the result keeps its `x0_s`.
        softness: Softness of the edge, in mean latencies, one pass each.
        steps: Most steps per pass.

    Returns:
        The most likely lines, with their uncertainty.
    """
    f = _Likelihood(d, knot_s, knots, start, quantum_ms, belief)
    theta = np.concatenate((start.level_ms, [start.slope, start.log_shape], start.log_mean))
    information = f.precision
    for share in softness:
        soft_ms = max(share * float(np.exp(np.median(theta[f.lines + 2 :]))), _RESOLUTION_MS / 4)
        theta, information = _climb(f, theta, soft_ms, steps)
    covariance = np.asarray(np.linalg.inv(information), np.float64)
    return Lines(
        x0_s=start.x0_s,
        level_ms=theta[: f.lines],
        slope=float(theta[f.lines]),
        log_shape=float(theta[f.lines + 1]),
        log_mean=theta[f.lines + 2 :],
        covariance=covariance[: f.lines + 1, : f.lines + 1],
        shape_sigma=float(np.sqrt(covariance[f.lines + 1, f.lines + 1])),
    )


def _climb(f: _Likelihood, theta: Floats, soft_ms: float, steps: int) -> tuple[Floats, Floats]:
    """Damped scoring: every step raises the likelihood; ends when little is gained."""
    damping, value = 1e-2, f.value(theta, soft_ms)
    gradient, information = f.derivatives(theta, soft_ms)
    for _ in range(steps):
        for _ in range(6):
            step = np.linalg.solve(information + damping * np.diag(np.diag(information)), gradient)
            step[f.lines + 1 :] = np.clip(step[f.lines + 1 :], -0.7, 0.7)
            tried = theta + step
            tried[f.lines + 1] = np.clip(tried[f.lines + 1], *np.log(_SHAPES))
            reached = f.value(tried, soft_ms)
            if reached > value:
                break
            damping *= 4.0
        else:
            break
        gained, value, theta, damping = reached - value, reached, tried, max(damping / 4.0, 1e-6)
        gradient, information = f.derivatives(theta, soft_ms)
        if gained < 1e-3:
            break
    return theta, information
