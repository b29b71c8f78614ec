"""The plain statistics within Causal-FiLM are the floor's own, window for window."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from models.detector_contract import PHASES, PROCESS, PROCESS_PATTERNS, DetectorError, Pattern
from models.plain_windows import PlainWindows
from models.statistics import PARTS, WIDTH, EncodedWeld, StatisticsDetector, side_by_side
from tests.models.welds import SPEC, encoded_weld

Arrays = dict[str, npt.NDArray[Any]]
WITHOUT: dict[int, tuple[str, ...]] = {105: ("mic",), 108: ("plc",), 203: ("mic", "plc")}
"""Streams that some welds lack."""


def laid(weld: EncodedWeld) -> Arrays:
    """The windows of a weld as arrays; see `WeldTokens`."""
    return {
        "index": np.array([w.index for w in weld.windows]),
        "statistics": np.array([side_by_side(w, w.present) for w in weld.windows]),
        "phases": np.array(
            [[PHASES.index(w.phases[m]) if m in w.phases else -1 for m in PROCESS] for w in weld.windows]
        ),
    }


def welds_of(seeds: Sequence[int]) -> list[EncodedWeld]:
    """Long enough for windows of every phase."""
    return [encoded_weld(seed, arc_s=10.5, without=WITHOUT.get(seed, ())) for seed in seeds]


@pytest.fixture(scope="module")
def good() -> list[EncodedWeld]:
    return welds_of(range(100, 116))


@pytest.fixture(scope="module")
def plain(good: list[EncodedWeld]) -> PlainWindows:
    return PlainWindows.fit([laid(weld) for weld in good])


@pytest.fixture(scope="module")
def others() -> list[EncodedWeld]:
    """Welds that nothing was fitted on, the last one without sound and sensors."""
    return welds_of(range(200, 204))


@pytest.fixture(scope="module")
def windows(others: list[EncodedWeld]) -> Arrays:
    tables = [laid(weld) for weld in others]
    return {name: np.concatenate([table[name] for table in tables]) for name in tables[0]}


def rows_with(windows: Arrays, pattern: Pattern) -> npt.NDArray[np.int64]:
    there = [windows["phases"][:, PROCESS.index(m)] >= 0 for m in pattern]
    return np.flatnonzero(np.all(there, axis=0))


def test_distances_are_the_floors_own(
    good: list[EncodedWeld], others: list[EncodedWeld], plain: PlainWindows, windows: Arrays
) -> None:
    floor = StatisticsDetector.fit(SPEC, good)
    flat = [window for weld in others for window in weld.windows]
    for number, pattern in enumerate(PROCESS_PATTERNS):
        rows = rows_with(windows, pattern)
        phases = [PHASES.index(flat[row].phase(pattern)) for row in rows]
        assert set(phases) == {0, 1, 2}
        mean, sd = floor.state()["scale.window"][number][phases].T
        found = (plain.distances(windows, rows, pattern) - mean) / sd
        np.testing.assert_allclose(found, [floor.window_score(flat[row], pattern) for row in rows], rtol=1e-9)


@pytest.mark.parametrize("fill", [np.nan, np.inf, 7.0])
@pytest.mark.parametrize("pattern", PROCESS_PATTERNS)
def test_statistics_outside_the_pattern_never_count(
    plain: PlainWindows, windows: Arrays, pattern: Pattern, fill: float
) -> None:
    rows = rows_with(windows, pattern)
    before = plain.distances(windows, rows, pattern)
    assert np.isfinite(before).all()
    filled = windows | {name: windows[name].copy() for name in ("statistics", "phases")}
    for m in set(PROCESS) - set(pattern):
        filled["statistics"][:, PARTS[m]] = fill
        filled["phases"][:, PROCESS.index(m)] = -1
    np.testing.assert_array_equal(plain.distances(filled, rows, pattern), before)


def test_windows_are_judged_one_by_one(plain: PlainWindows, windows: Arrays) -> None:
    every = plain.distances(windows, np.arange(len(windows["index"])), ("video",))
    chosen = np.array([3, 1, 1, 8])
    np.testing.assert_array_equal(plain.distances(windows, chosen, ("video",)), every[chosen])
    for row in chosen:
        alone = {name: array[row : row + 1] for name, array in windows.items()}
        assert plain.distances(alone, np.array([0]), ("video",)) == every[row]
    assert plain.distances(windows, np.array([], dtype=np.int64), ("video",)).shape == (0,)
    # There is nothing to judge a window by that has none of the modalities.
    silent = np.flatnonzero((windows["phases"][:, 1:] < 0).all(axis=1))
    assert silent.size
    assert np.isnan(plain.distances(windows, silent, ("audio", "sensors"))).all()


def test_an_odd_statistic_is_far_where_it_is_looked_at(plain: PlainWindows, windows: Arrays) -> None:
    rows = rows_with(windows, PROCESS)
    odd = windows | {"statistics": windows["statistics"].copy()}
    odd["statistics"][:, PARTS["audio"].start] += 100.0
    for pattern in PROCESS_PATTERNS:
        before, after = (plain.distances(table, rows, pattern) for table in (windows, odd))
        if "audio" in pattern:
            assert (after > before + 1.0).all()
        else:
            np.testing.assert_array_equal(after, before)


def test_the_state_brings_it_back_to_the_last_bit(plain: PlainWindows, windows: Arrays) -> None:
    again = PlainWindows.from_state(plain.state())
    for pattern in PROCESS_PATTERNS:
        rows = rows_with(windows, pattern)
        np.testing.assert_array_equal(again.distances(windows, rows, pattern), plain.distances(windows, rows, pattern))


@pytest.mark.parametrize("name", ["location", "scale", "mean", "covariance"])
def test_an_odd_state_is_refused(plain: PlainWindows, name: str) -> None:
    state = plain.state()
    for odd in (None, state[f"plain.{name}"][..., :-1]):
        other = {key: array for key, array in state.items() if key != f"plain.{name}"}
        other |= {} if odd is None else {f"plain.{name}": odd}
        with pytest.raises(
            DetectorError, match=rf"'plain\.{name}' has shape .*, wanted .*{WIDTH}.*; train it again"
        ) as caught:
            PlainWindows.from_state(other)
        assert "\n" not in str(caught.value)
