"""Why a verdict says what it says: which modality, what of the bead, and when in the weld."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

UNUSUAL_Z: Final = 2.0
"""Above this a z-score is told: what of the bead fits the process least, and windows where nothing is calibrated."""
MOST: Final = 3
"""Names and stretches that are told, the worst of them."""

Span = tuple[int, int]
"""Cell time of a beginning and an end, ns."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """What a verdict says beside its word; see `Verdict`."""

    contributions: dict[str, float]
    disagreements: dict[str, float]
    rose: tuple[Span, ...]


def told(z: Mapping[str, float]) -> dict[str, float]:
    """Keep of named z-scores the largest that are worth telling, the largest first."""
    high = [(name, float(by)) for name, by in z.items() if UNUSUAL_Z < by < np.inf]
    return dict(sorted(high, key=lambda item: -item[1])[:MOST])


def at_words(rose: Sequence[Span], arc_on_ns: int | None, *, finished: bool) -> str:
    """Say where the worst stretch is, in seconds after arc-on: " at 6-9 s"; nothing where there is none.

    Before the last window (`finished`) its end may still move, in both directions: " from 6 s".
    """
    if not rose or arc_on_ns is None:
        return ""
    first, last = (round((t_ns - arc_on_ns) / 1e9) for t_ns in rose[0])
    return f" at {first}-{max(last, first + 1)} s" if finished else f" from {first} s"


def rises(windows: Sequence[Span], scores: Sequence[float], limit: float) -> tuple[Span, ...]:
    """Tell where in a weld its scores rose: somewhere if, and only if, the weld score is above a positive `limit`.

    Whether they rose says the mean of three windows, whose maximum is the weld score; where, which of those windows
    are themselves above `limit`. Windows overlap, so it can be told more closely than to a window: it came when the
    last window before them had ended, and was over when the next one after them began. Where that leaves nothing,
    only a part of what happened was enough to raise a window: then it is the time that all of them share.

    Args:
        windows: Beginning and end of each window, in order.
        scores: Score of each, NaN where nothing could be judged.
        limit: Score above which a mean of three is unusual.

    Returns:
        At most `MOST` stretches, the one with the highest mean first. One that raises the newest window ends with it,
        for the next ones must show how much of that window it holds.
    """
    known = [(window, score) for window, score in zip(windows, scores, strict=True) if not np.isnan(score)]
    spans = [window for window, _ in known]
    padded = np.array([0.0, 0.0, *(score for _, score in known)])
    means = (padded[:-2] + padded[1:-1] + padded[2:]) / 3.0
    high = np.flatnonzero(means > limit)
    found: list[tuple[int, int, float]] = []
    for run in np.split(high, np.flatnonzero(np.diff(high) > 2) + 1) if high.size else []:
        raised = [i for i in range(max(0, run[0] - 2), run[-1] + 1) if known[i][1] > limit]
        if raised:
            found.append((*_narrowed(spans, raised[0], raised[-1]), float(means[run].max())))
    worst_first = sorted(_merged(found), key=lambda stretch: -stretch[2])
    return tuple((t0_ns, t1_ns) for t0_ns, t1_ns, _ in worst_first[:MOST])


def _narrowed(windows: Sequence[Span], first: int, last: int) -> Span:
    """Tell from where to where something lasted that raised the windows `first` to `last` and no other."""
    after_ns = windows[first - 1][1] if first > 0 else windows[0][0]
    before_ns = windows[last + 1][0] if last + 1 < len(windows) else windows[-1][1]
    if after_ns < before_ns:
        return after_ns, before_ns
    return windows[last][0], windows[first][1]


def _merged(stretches: Sequence[tuple[int, int, float]]) -> list[tuple[int, int, float]]:
    out: list[tuple[int, int, float]] = []
    for t0_ns, t1_ns, most in sorted(stretches):
        if out and t0_ns <= out[-1][1]:
            out[-1] = (out[-1][0], max(t1_ns, out[-1][1]), max(most, out[-1][2]))
        else:
            out.append((t0_ns, t1_ns, most))
    return out
