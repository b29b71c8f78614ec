"""Statistics of a feature over any number of frames, in one pass: minimum, maximum, mean, standard deviation."""

from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt

_EMPTY: Final = np.zeros(0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Moments:
    """Moments of a feature, per element; only what was measured counts.

    Attributes:
        frames: Frames seen.
        counts: `(d,)` values that count, per element.
        sums: `(d,)` of the values.
        squares: `(d,)` of the values squared.
        least: `(d,)` the smallest value.
        most: `(d,)` the largest value.
        picture: The feature is a video: its statistics are told per colour, `(3, 1, 1)`.
    """

    frames: int = 0
    counts: npt.NDArray[np.float64] = field(default_factory=lambda: _EMPTY)
    sums: npt.NDArray[np.float64] = field(default_factory=lambda: _EMPTY)
    squares: npt.NDArray[np.float64] = field(default_factory=lambda: _EMPTY)
    least: npt.NDArray[np.float64] = field(default_factory=lambda: _EMPTY)
    most: npt.NDArray[np.float64] = field(default_factory=lambda: _EMPTY)
    picture: bool = False

    @classmethod
    def of(cls, values: npt.NDArray[Any], mask: npt.NDArray[np.bool_] | None = None) -> "Moments":
        """Take `(n,)` or `(n, d)` values, and which of them were measured."""
        flat = values.reshape(len(values), -1).astype(np.float64)
        counts = np.ones(flat.shape, np.bool_) if mask is None else mask.reshape(flat.shape)
        return cls(
            frames=len(flat),
            counts=counts.sum(axis=0).astype(np.float64),
            sums=np.where(counts, flat, 0.0).sum(axis=0),
            squares=np.where(counts, flat * flat, 0.0).sum(axis=0),
            least=np.where(counts, flat, np.inf).min(axis=0, initial=np.inf),
            most=np.where(counts, flat, -np.inf).max(axis=0, initial=-np.inf),
        )

    @classmethod
    def of_histogram(cls, histogram: npt.NDArray[np.int64], frames: int) -> "Moments":
        """Take the gray values 0 to 255 of whole frames, `(256,)` counts; they are told as 0 to 1."""
        levels, seen = np.arange(256) / 255.0, np.flatnonzero(histogram)
        return cls(
            frames=frames,
            counts=np.array([histogram.sum()], np.float64),
            sums=np.array([(histogram * levels).sum()]),
            squares=np.array([(histogram * levels**2).sum()]),
            least=levels[seen[:1]],
            most=levels[seen[-1:]],
            picture=True,
        )

    def __add__(self, other: "Moments") -> "Moments":
        """Join the moments of two stretches."""
        if not self.frames:
            return other
        return Moments(
            frames=self.frames + other.frames,
            counts=self.counts + other.counts,
            sums=self.sums + other.sums,
            squares=self.squares + other.squares,
            least=np.minimum(self.least, other.least),
            most=np.maximum(self.most, other.most),
            picture=self.picture,
        )

    def told(self) -> dict[str, Any]:
        """Return the statistics as LeRobot writes them; 0 where nothing was measured."""
        measured = self.counts > 0
        counts = np.where(measured, self.counts, 1.0)
        mean = self.sums / counts
        std = np.sqrt(np.maximum(self.squares / counts - mean**2, 0.0))
        told = {
            "min": np.where(measured, self.least, 0.0),
            "max": np.where(measured, self.most, 0.0),
            "mean": mean,
            "std": std,
        }
        shaped = {name: np.repeat(one, 3).reshape(3, 1, 1) if self.picture else one for name, one in told.items()}
        return {**{name: one.tolist() for name, one in shaped.items()}, "count": [self.frames]}
