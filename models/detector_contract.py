"""The contract between a detector and everything that uses one: live judging, replay, training and evaluation.

A detector works in two steps, so that a window is looked at once and may then be judged under any set of modalities:
`encode_*` (pre-process and forward, per modality) and `*_score` (cheap). Contents under a false mask never reach an
encoding, and an encoding of a modality never reaches the score of a set without it.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from acquisition.packet import MODALITIES
from sync.sample import SampleSpec, Weld4MSample

Phase = Literal["start", "steady", "end"]
PHASES: Final[tuple[Phase, ...]] = ("start", "steady", "end")
START_WINDOWS: Final = 8
"""Windows that belong to the start: gas and wire settle for about as many seconds after arc-on."""

PHOTOS: Final = "post_images"
PROCESS: Final[tuple[str, ...]] = tuple(m for m in MODALITIES if m != PHOTOS)
Pattern = tuple[str, ...]
"""Modalities that are present, in the order of `MODALITIES`."""


def pattern_of(modalities: Iterable[str]) -> Pattern:
    """Put modalities into the canonical order, each once."""
    wanted = set(modalities)
    return tuple(m for m in MODALITIES if m in wanted)


def subsets(modalities: Sequence[str]) -> tuple[Pattern, ...]:
    """List all non-empty sets of the modalities given, small ones first."""
    return tuple(pattern_of(c) for n in range(1, len(modalities) + 1) for c in combinations(modalities, n))


PATTERNS: Final = subsets(MODALITIES)
"""The 15 presence patterns. Those with photos are judged at stage `consistency`, the others at stage `process`."""
PROCESS_PATTERNS: Final = subsets(PROCESS)


class DetectorError(Exception):
    """A checkpoint or an input does not fit; the message names the thing, the value and the next step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoded:
    """What a detector keeps of one window, or of the photos of a weld.

    Attributes:
        index: Window index, or -1 for photos.
        present: Modalities that cover at least 90 % of the window and were encoded.
        values: Float arrays by name: one per present modality (statistics, tokens, ...), NaN = could not be measured,
            and what a detector has made of several of them, per presence pattern.
        phases: Phase of each present process modality, told from its own contents alone.
    """

    index: int
    present: Pattern
    values: dict[str, npt.NDArray[Any]]
    phases: dict[str, Phase] = field(default_factory=dict)

    def phase(self, pattern: Pattern) -> Phase:
        """Tell the phase of the window as the given modalities see it; an end seen by one of them is the end."""
        seen = {self.phases[m] for m in pattern if m in self.phases}
        return "end" if "end" in seen else "start" if "start" in seen else "steady"


class Detector(ABC):
    """Judges windows while the weld runs, photos afterwards, and then both together. Larger is more abnormal.

    Attributes:
        name: What the user calls it.
        spec: What its samples must be cut to.
        made_with: Packages on whose versions its numbers depend.
    """

    name: str
    spec: SampleSpec
    made_with: tuple[str, ...] = ("numpy", "scipy", "scikit-learn")

    @abstractmethod
    def encode_window(self, window: Weld4MSample) -> Encoded:
        """Look at the process modalities of one window; raises `DetectorError` when it was cut to another spec."""

    @abstractmethod
    def encode_photos(self, sample: Weld4MSample) -> Encoded | None:
        """Look at the photos of a weld; None when there are none."""

    @abstractmethod
    def window_score(self, window: Encoded, pattern: Pattern) -> float:
        """Judge an encoded window by the modalities of `pattern` that it has.

        Returns:
            A z-score against the training good welds, or NaN when it has none of them.
        """

    @abstractmethod
    def photo_score(self, photos: Encoded) -> float:
        """Judge encoded photos alone: a z-score against the training good welds."""

    @abstractmethod
    def whole_score(self, windows: Sequence[Encoded], photos: Encoded, pattern: Pattern) -> float:
        """Judge the whole weld, photos included, by the modalities of `pattern`."""

    @abstractmethod
    def state(self) -> dict[str, npt.NDArray[Any]]:
        """Give every fitted array by name, as a checkpoint keeps them."""

    def configuration(self) -> dict[str, Any]:
        """Give what it takes beside `state` to make it again, as JSON."""
        return {}

    def parameters(self) -> int:
        """Count the numbers that were fitted."""
        return sum(int(array.size) for array in self.state().values())

    def disagreement(self, windows: Sequence[Encoded], photos: Encoded, pattern: Pattern) -> dict[str, float]:
        """Tell where result and process disagree most: names and z-scores, largest first; empty if it cannot say."""
        del windows, photos, pattern
        return {}

    def process_score(self, window: Weld4MSample) -> float:
        """Judge one window by everything present in it."""
        return self.window_score(self.encode_window(window), PROCESS)

    def result_score(self, photos: Weld4MSample) -> float:
        """Judge the photos of a weld; NaN without a photo."""
        encoded = self.encode_photos(photos)
        return float("nan") if encoded is None else self.photo_score(encoded)

    def consistency_score(self, windows: Sequence[Weld4MSample], photos: Weld4MSample) -> float:
        """Judge a whole weld by everything present in it; NaN when nothing is."""
        return self.weld_score([self.encode_window(w) for w in windows], self.encode_photos(photos), MODALITIES)

    def weld_score(self, windows: Sequence[Encoded], photos: Encoded | None, pattern: Pattern) -> float:
        """Judge a weld so far: by `whole_score` if `pattern` and the weld have photos, else by its windows.

        Returns:
            The score of the weld's stage, or NaN when no modality of `pattern` was ever there.
        """
        if photos is not None and PHOTOS in pattern:
            return self.whole_score(windows, photos, pattern)
        return running_maximum([self.window_score(w, pattern) for w in windows])


def leave_one_out(pattern: Pattern, score: Callable[[Pattern], float]) -> dict[str, float]:
    """Tell by how much each modality raised a score: the score with all of `pattern` minus the one without it."""
    full = score(pattern)
    if not np.isfinite(full):
        return {}
    if len(pattern) == 1:
        return {pattern[0]: full}
    rest = {m: score(tuple(p for p in pattern if p != m)) for m in pattern}
    return {m: full - without for m, without in rest.items() if np.isfinite(without)}


def running_maximum(scores: Sequence[float]) -> float:
    """Give the largest mean of three consecutive window scores; NaN scores (nothing to judge by) are passed over.

    Before the third window the mean is filled up with zeros, the score of an average good window: the mean of fewer
    would be noisier, and the noise of two windows would then set the threshold for all others.

    Returns:
        The weld score, or NaN when no window could be judged.
    """
    known = [s for s in scores if not np.isnan(s)]
    if not known:
        return float("nan")
    padded = np.array([0.0, 0.0, *known])
    return float(np.max((padded[:-2] + padded[1:-1] + padded[2:]) / 3.0))


def mask_to(sample: Weld4MSample, pattern: Pattern) -> Weld4MSample:
    """Give the sample with the masks of every modality outside `pattern` false."""
    masks = {f"{m}_mask": np.zeros_like(getattr(sample, f"{m}_mask")) for m in MODALITIES if m not in pattern}
    return replace(sample, present=tuple(m for m in sample.present if m in pattern), **masks)


def same_spec(found: SampleSpec, wanted: SampleSpec, name: str) -> None:
    """Refuse a sample or weld cut to another spec than the detector's.

    Raises:
        DetectorError: Some field differs; the message names the first one.
    """
    for key in SampleSpec.__dataclass_fields__:
        if getattr(found, key) != getattr(wanted, key):
            raise DetectorError(
                f"{name}: samples have {key} = {getattr(found, key)}, the detector wants {getattr(wanted, key)}; "
                "cut the samples to the spec of the checkpoint"
            )
