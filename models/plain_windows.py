"""How unusual the plain statistics of a window are; the floor's own Gaussian, for the modalities that are looked at."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from models.detector_contract import PHASES, PROCESS, Pattern
from models.gaussian import Gaussian, Standardiser, Values, fit_standardised, log_distance
from models.network_state import array_of
from models.statistics import PARTS, SLOTS, WIDTH, slots_of

Windows = Mapping[str, npt.NDArray[Any]]
"""`statistics` (n, WIDTH), `index` (n,) and `phases` (n, 3), see `WeldTokens`."""


class PlainWindows:
    """Location and scale of each statistic per slot of a weld, and the Gaussian of all of them."""

    def __init__(self, standardiser: Standardiser, gaussian: Gaussian) -> None:
        self._standardiser = standardiser
        self._gaussian = gaussian

    @classmethod
    def fit(cls, welds: Sequence[Windows]) -> "PlainWindows":
        """Fit on the windows of good welds."""
        rows = np.concatenate([weld["statistics"] for weld in welds])
        slots = np.concatenate([_slots(weld) for weld in welds])
        groups = np.repeat(np.arange(len(welds)), [len(weld["index"]) for weld in welds])
        return cls(*fit_standardised(rows, slots, SLOTS, groups))

    @classmethod
    def from_state(cls, state: Mapping[str, npt.NDArray[Any]]) -> "PlainWindows":
        """Take it out of a checkpoint's arrays; raises `DetectorError` when one is missing or of another size."""
        shapes = {"location": (SLOTS, WIDTH), "scale": (SLOTS, WIDTH), "mean": (WIDTH,), "covariance": (WIDTH, WIDTH)}
        arrays = {n: np.asarray(array_of(state, f"plain.{n}", s), dtype=np.float64) for n, s in shapes.items()}
        return cls(
            Standardiser(location=arrays["location"], scale=arrays["scale"]),
            Gaussian(mean=arrays["mean"], covariance=arrays["covariance"]),
        )

    def distances(self, windows: Windows, rows: npt.NDArray[np.int64], pattern: Pattern) -> Values:
        """Give the logarithm of the squared Mahalanobis distance per statistic of chosen windows, `(n,)`."""
        out = np.full(len(rows), np.nan)
        slots = _slots(windows)
        for i, row in enumerate(rows):
            used = np.full(WIDTH, np.nan)
            for m in pattern:
                used[PARTS[m]] = windows["statistics"][row, PARTS[m]]
            out[i] = log_distance((self._standardiser, self._gaussian), used, slots[row])
        return out

    def state(self) -> dict[str, npt.NDArray[np.float64]]:
        """Give the arrays of a checkpoint."""
        standardiser, gaussian = self._standardiser, self._gaussian
        arrays = {"location": standardiser.location, "scale": standardiser.scale}
        arrays |= {"mean": gaussian.mean, "covariance": gaussian.covariance}
        return {f"plain.{name}": array for name, array in arrays.items()}


def _slots(windows: Windows) -> npt.NDArray[np.int64]:
    """Give the slot of each statistic of each window, `(n, WIDTH)`."""
    rows = [
        slots_of(int(index), {m: PHASES[p] for m, p in zip(PROCESS, phases, strict=True) if p >= 0})
        for index, phases in zip(windows["index"], windows["phases"], strict=True)
    ]
    return np.array(rows, dtype=np.int64).reshape(-1, WIDTH)
