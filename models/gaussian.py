"""A Gaussian of good welds: robust standardisation, Ledoit-Wolf covariance, Mahalanobis distance of any part of it.

The distance of a part of the vector is that of the marginal Gaussian, whose covariance is the sub-matrix. It is divided
by its number of elements (its mean for good welds), so that parts of different size can be compared.

Source: Ledoit & Wolf, "A well-conditioned estimator for large-dimensional covariance matrices" (2004).
"""

from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.linalg import solve_triangular
from sklearn.covariance import ledoit_wolf_shrinkage, shrunk_covariance

Values = npt.NDArray[np.float64]
MIN_SLOT: Final = 20
"""A slot with fewer training rows than this takes the location and scale of all rows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Standardiser:
    """Location and scale of each element, per slot (a slot is a phase or a single window of the start).

    Attributes:
        location: `(slots, d)` medians.
        scale: `(slots, d)`, positive.
    """

    location: Values
    scale: Values

    @classmethod
    def fit(cls, rows: Values, slots: npt.NDArray[np.int64], count: int) -> "Standardiser":
        """Fit on `(n, d)` rows (NaN = unknown) with the slot of each element, `(n, d)`.

        An element that is known in no row gets location NaN, and is thereby left out of every distance.
        """
        d = rows.shape[1]
        location, scale = np.full((count, d), np.nan), np.ones((count, d))
        for j in range(d):
            known = ~np.isnan(rows[:, j])
            if not known.any():
                continue
            for slot in range(count):
                x = rows[known & (slots[:, j] == slot), j]
                location[slot, j], scale[slot, j] = _robust(x if x.size >= MIN_SLOT else rows[known, j])
        return cls(location=location, scale=scale)

    def apply(self, row: Values, slots: npt.NDArray[np.int64]) -> Values:
        """Standardise `(..., d)` values, each by its own slot."""
        columns = np.arange(self.location.shape[1])
        return np.asarray((row - self.location[slots, columns]) / self.scale[slots, columns])


def _robust(x: Values) -> tuple[float, float]:
    """Give median and scale. Values that hardly ever change have no MAD: then half the sd, or a per mille, counts."""
    middle = float(np.median(x))
    mad = 1.4826 * float(np.median(np.abs(x - middle)))
    return middle, max(mad, 0.5 * float(x.std()), 1e-3 * max(abs(middle), 1e-3))


@dataclass(slots=True, kw_only=True)
class Gaussian:
    """Mean and covariance of standardised values, with the Cholesky factor of every part asked for so far."""

    mean: Values
    covariance: Values
    _factors: dict[bytes, tuple[npt.NDArray[np.intp], Values]] = field(default_factory=dict)

    @classmethod
    def fit(cls, rows: Values, groups: npt.NDArray[np.int64]) -> "Gaussian":
        """Fit on `(n, d)` standardised rows; an unknown element counts as typical (0).

        Ledoit and Wolf's shrinkage supposes independent rows. Windows of one weld are anything but that, so it is
        estimated from the means of the groups (welds); the covariance that is shrunk is that of all rows.
        """
        known = np.nan_to_num(rows, nan=0.0)
        means = np.stack([known[groups == group].mean(axis=0) for group in np.unique(groups)])
        shrinkage = float(ledoit_wolf_shrinkage(means))
        return cls(mean=known.mean(axis=0), covariance=np.asarray(shrunk_covariance(np.cov(known.T), shrinkage)))

    def distance(self, row: Values) -> float:
        """Give the squared Mahalanobis distance per known element of a `(d,)` row; NaN when none is known."""
        known = np.isfinite(row)
        key = known.tobytes()
        if key not in self._factors:
            where = np.flatnonzero(known)
            self._factors[key] = (
                where,
                np.asarray(np.linalg.cholesky(self.covariance[np.ix_(where, where)]), dtype=np.float64),
            )
        where, factor = self._factors[key]
        if not where.size:
            return float("nan")
        whitened = solve_triangular(factor, row[where] - self.mean[where], lower=True, check_finite=False)
        return float(whitened @ whitened / where.size)


def fit_standardised(
    rows: Values, slots: npt.NDArray[np.int64], count: int, groups: npt.NDArray[np.int64]
) -> tuple[Standardiser, Gaussian]:
    """Fit both on `(n, d)` rows: see `Standardiser.fit` for the slots, `Gaussian.fit` for the groups."""
    standardiser = Standardiser.fit(rows, slots, count)
    return standardiser, Gaussian.fit(standardiser.apply(rows, slots), groups)


def log_distance(model: tuple[Standardiser, Gaussian], row: Values, slots: npt.NDArray[np.int64]) -> float:
    """Give the logarithm of the distance of a `(d,)` row, whose elements are of the given slots."""
    standardiser, gaussian = model
    return float(np.log(gaussian.distance(standardiser.apply(row, slots)) + 1e-9))
