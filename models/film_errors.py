"""How unusual an error of prediction is: a Gaussian of good welds' errors, per presence pattern and modality.

The length of an error says little: where good welds are hard to predict it is long, where they are easy a short one is
already strange. So the errors of all tokens of a window are summed up (mean and spread per feature), their principal
directions in good welds are kept, and the squared Mahalanobis distance in these is what is judged.
"""

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from sklearn.covariance import ledoit_wolf
from torch import Tensor

from models.causal_film import CausalFilmConfig, FilmOutput
from models.detector_contract import PHASES, PROCESS, PROCESS_PATTERNS
from models.network_state import array_of

Values = npt.NDArray[np.float64]
DIRECTIONS: Final = 40
_LEAST_SPREAD: Final = 1e-2
_FEW: Final = 30
"""A phase with fewer windows than this takes the location and scale of all phases."""


def widths(config: CausalFilmConfig) -> dict[str, int]:
    """Give the width of the errors of each modality: mean and spread of each feature."""
    return {m: 2 * width for m, width in config.target_widths.items()}


@torch.no_grad()
def errors_of(out: FilmOutput) -> dict[str, Values]:
    """Sum up the errors of a batch of windows, `(B, 2D)` each: mean over the known tokens, log of their spread."""
    return {m: _summed_up(out.targets[m] - out.predicted[m], out.known[m]) for m in PROCESS}


class ErrorModel:
    """Distances of errors from those of good welds; three arrays per pattern and modality."""

    def __init__(self, arrays: Mapping[str, npt.NDArray[np.float32]]) -> None:
        """Take `<pattern>.<part>.location` (3, d), `.scale` (3, d) and `.map` (d, k), by number of the pattern."""
        self._arrays = dict(arrays)

    @classmethod
    def fit(cls, errors: Mapping[tuple[int, str], Values], phases: Mapping[int, npt.NDArray[np.int64]]) -> "ErrorModel":
        """Fit on good windows.

        Args:
            errors: `(n, d)` per number of a pattern and modality.
            phases: `(n,)` number of the phase, per number of a pattern.
        """
        arrays = {}
        for (number, part), table in errors.items():
            location, scale, whitening = _gaussian(table, phases[number])
            for name, array in (("location", location), ("scale", scale), ("map", whitening)):
                arrays[f"{number}.{part}.{name}"] = np.ascontiguousarray(array, dtype=np.float32)
        return cls(arrays)

    @classmethod
    def from_state(cls, state: Mapping[str, npt.NDArray[Any]], config: CausalFilmConfig) -> "ErrorModel":
        """Take it out of a checkpoint's arrays; raises `DetectorError` when one is missing or of another size."""
        arrays = {}
        for number, pattern in enumerate(PROCESS_PATTERNS):
            for part in pattern:
                d = widths(config)[part]
                shapes = {"location": (len(PHASES), d), "scale": (len(PHASES), d), "map": (d, min(d, DIRECTIONS))}
                for name, wanted in shapes.items():
                    key = f"{number}.{part}.{name}"
                    arrays[key] = array_of(state, f"errors.{key}", wanted)
        return cls(arrays)

    def distances(self, number: int, part: str, errors: Values, phases: npt.NDArray[np.int64]) -> Values:
        """Give the logarithm of the squared distance per direction, `(n,)`, of errors `(n, d)`."""
        location, scale, whitening = (self._arrays[f"{number}.{part}.{name}"] for name in ("location", "scale", "map"))
        white = ((errors - location[phases]) / scale[phases]) @ whitening.astype(np.float64)
        return np.asarray(np.log(np.square(white).mean(axis=1) + 1e-6))

    def state(self) -> dict[str, npt.NDArray[np.float32]]:
        """Give the arrays of a checkpoint."""
        return {f"errors.{name}": array for name, array in self._arrays.items()}


def _gaussian(table: Values, phases: npt.NDArray[np.int64]) -> tuple[Values, Values, Values]:
    """Fit location and scale per phase, and the map onto whitened principal directions."""
    d = table.shape[1]
    location, scale = np.empty((len(PHASES), d)), np.empty((len(PHASES), d))
    for phase in range(len(PHASES)):
        rows = table[phases == phase]
        rows = rows if len(rows) >= _FEW else table
        location[phase], scale[phase] = rows.mean(axis=0), np.maximum(rows.std(axis=0), 1e-6)
    normal = (table - location[phases]) / scale[phases]
    powers, directions = np.linalg.eigh(normal.T @ normal / len(normal))
    kept = directions[:, np.argsort(-powers)[:DIRECTIONS]]
    covariance, _ = ledoit_wolf(normal @ kept)
    inverse = np.linalg.inv(np.linalg.cholesky(covariance + 1e-6 * np.eye(kept.shape[1])))
    return location, scale, kept @ inverse.T


def _summed_up(errors: Tensor, known: Tensor) -> Values:
    counted = known[..., None].double()
    count = counted.sum(dim=1).clamp_min(1.0)
    mean = (errors * counted).sum(dim=1) / count
    power = ((errors - mean[:, None]).square() * counted).sum(dim=1) / count
    return np.asarray(torch.cat([mean, (power + _LEAST_SPREAD).log() / 2.0], dim=1).numpy())
