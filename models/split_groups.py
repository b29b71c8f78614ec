"""Sharing out whole groups so that every class has about the wanted share in each part.

A randomised greedy start, then moves and swaps of groups until none helps, several times from other starts: on some
hundred groups the best of these is as good as one can tell. Which one is found follows from the seed.
"""

from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Choice = npt.NDArray[np.int64]
PARTS: Final = ("train", "val", "test")
_STARTS: Final = 8
_PASSES: Final = 50
_ABSENT: Final = np.array([4.0, 1.0, 2.0])
"""What it costs that a part which should have some of a class has none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stratum:
    """Welds that are shared out alike.

    Attributes:
        name: Of the class or test set.
        fractions: Wanted for each of `PARTS`.
        allowed: Parts that may hold such welds at all; elsewhere they are lost.
    """

    name: str
    fractions: tuple[float, float, float]
    allowed: tuple[str, ...]


def joined_groups(keys: Collection[str], bonds: Iterable[tuple[Hashable, str]]) -> list[list[str]]:
    """Join keys that share a bond, directly or through others; sorted groups of sorted keys."""
    parent = {key: key for key in keys}

    def root(key: str) -> str:
        while parent[key] != key:
            parent[key] = parent[parent[key]]
            key = parent[key]
        return key

    first: dict[Hashable, str] = {}
    for bond, key in bonds:
        a, b = root(first.setdefault(bond, key)), root(key)
        parent[max(a, b)] = min(a, b)
    groups: dict[str, list[str]] = {}
    for key in sorted(keys):
        groups.setdefault(root(key), []).append(key)
    return [groups[name] for name in sorted(groups)]


def share_out(groups: Sequence[Sequence[str]], strata: Mapping[str, Stratum], seed: int) -> tuple[list[str], float]:
    """Choose a part for every group.

    Args:
        groups: Keys that stay together.
        strata: Of every key.
        seed: Of the starts.

    Returns:
        The part of each group, and the largest difference between the share of a stratum that a part has and the one
        wanted for it.
    """
    problem = _Problem(groups, strata)
    rng = np.random.default_rng(seed)
    found = [problem.improved(problem.start(rng), rng) for _ in range(_STARTS)]
    best = min(found, key=problem.cost)
    return [PARTS[p] for p in best], problem.deviation(best)


class _Problem:
    """Counts and wishes as arrays: G groups, P parts, K strata."""

    def __init__(self, groups: Sequence[Sequence[str]], strata: Mapping[str, Stratum]) -> None:
        kinds = {s.name: s for s in strata.values() if s.allowed}
        names = sorted(kinds)
        counts = np.zeros((len(groups), len(names)))
        for g, group in enumerate(groups):
            for key in group:
                if strata[key].allowed:
                    counts[g, names.index(strata[key].name)] += 1
        allowed = np.array([[p in kinds[name].allowed for name in names] for p in PARTS], np.float64)
        self.given: Floats = counts[:, None, :] * allowed  # (G, P, K): what a group adds to a part
        self.total: Floats = np.maximum(counts.sum(0), 1)
        self.wanted: Floats = np.array([kinds[name].fractions for name in names]).reshape(-1, len(PARTS)).T  # (P, K)

    def start(self, rng: np.random.Generator) -> Choice:
        """Place groups one by one, about the largest first, where they cost least."""
        size = self.given.max(1).sum(1) * rng.uniform(0.7, 1.3, len(self.given))
        choice = np.zeros(len(self.given), np.int64)
        held = np.zeros_like(self.wanted)
        for g in np.argsort(-size, kind="stable"):
            added = held + self.given[g][:, None, :] * np.eye(len(PARTS))[:, :, None]
            choice[g] = int(np.argmin(self._costs(added) + rng.uniform(0, 1e-9, len(PARTS))))
            held[choice[g]] += self.given[g, choice[g]]
        return choice

    def improved(self, choice: Choice, rng: np.random.Generator) -> Choice:
        """Move one group, or swap two, as long as that helps."""
        eye = np.eye(len(PARTS))
        for _ in range(_PASSES):
            before = self.cost(choice)
            for g in rng.permutation(len(choice)):
                held = self._held(choice)
                without = held - eye[choice[g]][:, None] * self.given[g, choice[g]]
                moved = self._costs(without + self.given[g][:, None, :] * eye[:, :, None])
                choice[g] = int(np.argmin(np.where(np.arange(len(PARTS)) == choice[g], moved - 1e-12, moved)))
                others = np.flatnonzero(choice != choice[g])
                if not len(others):
                    continue
                mine, theirs = choice[g], choice[others]
                change = np.zeros((len(others), *held.shape))
                change[:, mine] += self.given[others, mine] - self.given[g, mine]
                rows = np.arange(len(others))
                change[rows, theirs] += self.given[g, theirs] - self.given[others, theirs]
                held = self._held(choice)
                swapped = self._costs(held + change)
                best = int(np.argmin(swapped))
                if swapped[best] < float(self._costs(held)) - 1e-12:
                    choice[g], choice[others[best]] = theirs[best], mine
            if self.cost(choice) >= before - 1e-12:
                break
        return choice

    def cost(self, choice: Choice) -> float:
        """Tell how far the parts are from what is wanted."""
        return float(self._costs(self._held(choice)))

    def deviation(self, choice: Choice) -> float:
        """Give the largest difference of a share, 0 to 1."""
        return float(np.abs(self._held(choice) / self.total - self.wanted).max(initial=0.0))

    def _held(self, choice: Choice) -> Floats:
        held = np.zeros_like(self.wanted)
        np.add.at(held, choice, self.given[np.arange(len(choice)), choice])
        return held

    def _costs(self, held: Floats) -> Floats:
        """Cost of `(..., P, K)` counts."""
        off = np.square(held / self.total - self.wanted).sum((-2, -1))
        absent = ((held <= 0) & (self.wanted > 0)) * _ABSENT[:, None]
        return np.asarray(off + absent.sum((-2, -1)))
