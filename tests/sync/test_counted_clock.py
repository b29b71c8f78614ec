"""Streams that only the driver counts: losses are found while it runs, and time stays right and monotone."""

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sync.clock import CountedClock
from sync.scenarios import KindName, Scenario, draw_scenario

MS = 10**6
SECOND = 10**9


def run(truth: Scenario, claim: float) -> tuple[dict[int, int], npt.NDArray[np.int64]]:
    """Follow a scenario by counting; returns the losses found (first delivery after: missing) and the cell times."""
    step_ns = round(SECOND / truth.rate_hz * claim)
    clock: CountedClock | None = None
    found, cell = {}, []
    count = 0
    for i, (arrival_ns, segment) in enumerate(zip(truth.arrival_ns.tolist(), truth.segment.tolist(), strict=True)):
        if clock is None or clock.segment != segment:
            clock, count = CountedClock("s", segment, step_ns, clock), 0
        clock.observe(count * step_ns, arrival_ns)
        cell.append(clock.model.to_cell_ns(count * step_ns))
        if clock.missed is not None:
            found[i - clock.missed.index] = clock.missed.count
        count += 1
    return found, np.array(cell)


@pytest.mark.parametrize("kind", ["frames", "blocks", "fast_rows"])
@pytest.mark.parametrize("claim", [1.0, 30 / 31.2, 31.2 / 30])
def test_losses_are_found_as_they_happen(kind: KindName, claim: float) -> None:
    varying = []
    for seed in range(2):
        truth = draw_scenario(seed, kind, seconds=45)
        found, cell = run(truth, claim)
        announced = {0, *(np.flatnonzero(np.diff(truth.segment)) + 1).tolist()}
        lost = {int(np.searchsorted(truth.number, loss.first)): loss.missing for loss in truth.losses}
        assert found == {at: missing for at, missing in lost.items() if at not in announced}
        steps = np.diff(cell)[np.diff(truth.segment) == 0]
        assert (steps >= 0).all()
        error = (cell - truth.true_ns - truth.base_ns)[truth.true_ns - truth.true_ns[0] > 10 * SECOND] / MS
        varying.append(np.abs(error - np.median(error)))
    assert np.quantile(np.concatenate(varying), 0.98) < 2.0


def test_a_stall_and_a_spike_are_no_loss() -> None:
    clock = CountedClock("s", 0, 10 * MS)
    arrival_ns = np.arange(3000) * 10 * MS
    arrival_ns[1000:1080] = arrival_ns[1080]
    arrival_ns[2000:2003] += 60 * MS
    for i, at_ns in enumerate(np.maximum.accumulate(arrival_ns).tolist()):
        clock.observe(i * 10 * MS, at_ns)
        assert clock.missed is None


def test_blocks_of_sound_are_lost_in_samples() -> None:
    clock = CountedClock("s", 0, SECOND / 48_000)
    missed = None
    for i in range(600):
        lost = 5 if i >= 400 else 0
        clock.observe((i + 1) * 10 * MS, (i + 1 + lost) * 10 * MS + i % 7 * 100_000)
        missed = missed or clock.missed
    assert missed is not None
    assert missed.count == 5 * 480


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 80 * MS)), min_size=2, max_size=300))
def test_counted_time_never_goes_backwards(moves: list[tuple[int, int]]) -> None:
    clock = CountedClock("s", 0, 10 * MS)
    arrival_ns, last_ns = 0, -SECOND
    for i, (lost, late_ns) in enumerate(moves):
        arrival_ns += (1 + lost) * 10 * MS + late_ns
        clock.observe(i * 10 * MS, arrival_ns)
        cell_ns = arrival_ns if clock.untimed else clock.model.to_cell_ns(i * 10 * MS)
        assert cell_ns >= last_ns
        last_ns = cell_ns
