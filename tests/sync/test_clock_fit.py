"""Clocks of whole recordings: how close, how honest, and what is not claimed."""

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sync.clock import ClockFit, fit_clock, fit_stream
from sync.item_count import find_missed
from sync.polling_grid import PollingGrid
from sync.scenarios import KINDS, KindName, Scenario, draw_scenario

MS = 10**6
SECOND = 10**9
Int64s = npt.NDArray[np.int64]

REGULAR: tuple[KindName, ...] = ("frames", "blocks", "fast_rows")


def errors_ms(fits: list[ClockFit], device_ns: Int64s, truth: Scenario) -> tuple[npt.NDArray[np.float64], float]:
    """Error of each delivery against true time plus base, and the largest stated sigma."""
    cell = np.empty_like(device_ns)
    for fit, end in zip(fits, [*(fit.first for fit in fits[1:]), len(device_ns)], strict=True):
        cell[fit.first : end] = fit.model.to_cell_ns_array(device_ns[fit.first : end])
    return (cell - truth.true_ns - truth.base_ns) / MS, max(fit.model.sigma_ns for fit in fits) / MS


def counted(truth: Scenario) -> tuple[Int64s, int]:
    """What a driver counts that sees no numbers: deliveries since the segment began, at the nominal rate."""
    step_ns = round(SECOND / truth.rate_hz)
    number = np.arange(len(truth.segment))
    first = np.searchsorted(truth.segment, truth.segment)
    return (number - first) * step_ns, step_ns


@pytest.mark.parametrize("kind", list(KINDS))
def test_every_device_life_is_fitted_closely_and_honestly(kind: KindName) -> None:
    constant, varying, inside = [], [], []
    for seed in range(6):
        truth = draw_scenario(seed, kind, seconds=90)
        fits = fit_stream(truth.device_ns, truth.arrival_ns, truth.segment)
        assert [fit.first for fit in fits] == [0, *truth.restarts]
        assert all(fit.identified for fit in fits)
        assert abs(fits[0].drift_ppm - truth.drift * 1e6) < 5 * fits[0].drift_sigma_ppm
        error, sigma = errors_ms(fits, truth.device_ns, truth)
        constant.append(abs(np.median(error)))
        varying.append(np.abs(error - np.median(error)))
        inside.append(np.mean(np.abs(error) < 2 * sigma))
    assert np.quantile(constant, 0.95) < 0.5
    assert np.quantile(np.concatenate(varying), 0.99) < (0.35 if kind == "rows" else 0.12)
    assert np.mean(inside) > 0.75


@pytest.mark.parametrize("kind", REGULAR)
@pytest.mark.parametrize("claim", [1.0, 31.2 / 30])
def test_losses_are_found_without_any_number_of_the_device(kind: KindName, claim: float) -> None:
    """Whatever rate is claimed, each loss is located to the delivery, and the times after it are right."""
    for seed in range(3):
        truth = draw_scenario(seed, kind, seconds=60)
        device_ns, step_ns = counted(truth)
        device_ns, step_ns = np.rint(device_ns * claim).astype(np.int64), round(step_ns * claim)
        fits = fit_stream(device_ns, truth.arrival_ns, truth.segment, counted_step_ns=step_ns)
        announced = np.flatnonzero(np.diff(truth.segment)) + 1
        at = {int(np.searchsorted(truth.number, loss.first)) for loss in truth.losses}
        assert {fit.first for fit in fits} == {0, *at, *announced.tolist()}
        error, _ = errors_ms(fits, device_ns, truth)
        assert np.quantile(np.abs(error - np.median(error)), 0.99) < 1.0
        assert fits[0].drift_ppm == pytest.approx((1 / claim * (1 + truth.drift) - 1) * 1e6, abs=10)


def test_a_stall_is_no_loss() -> None:
    count_ns = np.arange(2000, dtype=np.int64) * 10 * MS
    arrival_ns = count_ns.copy()
    arrival_ns[700:760] = arrival_ns[760]
    arrival_ns[1200:1203] += 25 * MS
    assert find_missed(count_ns, np.maximum.accumulate(arrival_ns), 10 * MS)[0] == []


def test_a_short_recording_claims_no_drift() -> None:
    rng = np.random.default_rng(3)
    device_ns = np.arange(40, dtype=np.int64) * 111 * MS
    arrival_ns = device_ns + (rng.gamma(3, 2, 40) * MS).astype(np.int64)
    (fit,) = fit_stream(device_ns, arrival_ns, np.zeros(40, np.int64))
    assert not fit.identified
    assert (fit.drift_ppm, fit.model.drift_ppb, fit.drift_sigma_ppm) == (0.0, 0, 50.0)
    assert fit.model.sigma_ns > 50e-6 * 2 * SECOND, "sigma covers the drift that nobody saw"


def test_the_drift_of_a_long_recording_is_known_within_a_ppm() -> None:
    rng = np.random.default_rng(3)
    device_ns = np.arange(36_000, dtype=np.int64) * 100 * MS
    arrival_ns = device_ns - device_ns * 37 // 10**6 + (rng.gamma(2, 1, 36_000) * MS).astype(np.int64)
    (fit,) = fit_stream(device_ns, arrival_ns, np.zeros(36_000, np.int64))
    assert fit.identified
    assert fit.drift_ppm == pytest.approx(-37, abs=1)


def test_absurd_stamps_pull_nothing() -> None:
    truth = draw_scenario(12, "frames", seconds=60)
    device_ns = truth.device_ns.copy()
    odd = np.arange(50, 1700, 97)
    device_ns[odd] += np.where(odd % 2, 3600 * SECOND, -7200 * SECOND)
    fits = fit_stream(device_ns, truth.arrival_ns, truth.segment)
    clean = fit_stream(truth.device_ns, truth.arrival_ns, truth.segment)
    assert [fit.first for fit in fits] == [fit.first for fit in clean]
    for fit, other in zip(fits, clean, strict=True):
        at_ns = int(truth.device_ns[fit.first])
        assert abs(fit.model.to_cell_ns(at_ns) - other.model.to_cell_ns(at_ns)) < MS // 2
        assert fit.model.sigma_ns < 2 * other.model.sigma_ns


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(-(2**61), 2**61) | st.integers(0, SECOND), st.integers(0, SECOND), st.booleans()),
        min_size=1,
        max_size=60,
    ),
    st.sampled_from([0, 33 * MS]),
)
def test_nothing_that_a_device_shows_raises(moves: list[tuple[int, int, bool]], step_ns: int) -> None:
    device_ns = np.array([device for device, _, _ in moves], np.int64)
    arrival_ns = np.cumsum([wait for _, wait, _ in moves]).astype(np.int64)
    segment = np.cumsum([new for _, _, new in moves]).astype(np.int64)
    if step_ns:
        device_ns = np.arange(len(moves), dtype=np.int64) * step_ns
    fits = fit_stream(device_ns, arrival_ns, segment, counted_step_ns=step_ns)
    firsts = [fit.first for fit in fits]
    assert firsts == sorted(set(firsts))
    assert set(np.flatnonzero(np.diff(segment, prepend=segment[0] - 1))) <= set(firsts)
    assert all(fit.model.sigma_ns > 0 for fit in fits)


@settings(max_examples=10, deadline=None)
@given(st.integers(-(10**15), 10**15), st.integers(-(10**15), 10**15))
def test_where_the_clocks_began_changes_nothing(device_shift_ns: int, arrival_shift_ns: int) -> None:
    truth = draw_scenario(2, "rows", seconds=20)
    shifted = fit_stream(truth.device_ns + device_shift_ns, truth.arrival_ns + arrival_shift_ns, truth.segment)
    plain = fit_stream(truth.device_ns, truth.arrival_ns, truth.segment)
    for fit, other in zip(shifted, plain, strict=True):
        moved = fit.model.to_cell_ns(other.model.ref_ns + device_shift_ns) - arrival_shift_ns
        assert moved == pytest.approx(other.model.to_cell_ns(other.model.ref_ns), abs=2)


def test_a_fit_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 2"):
        fit_clock(np.array([1], np.int64), np.array([1], np.int64))
    nothing = np.array([], np.int64)
    assert fit_stream(nothing, nothing, nothing) == []


def test_a_polling_grid_is_told_from_a_device_in_step_with_it() -> None:
    rng = np.random.default_rng(0)
    polled = PollingGrid()
    for arrival_ns in rng.integers(0, SECOND, 100).tolist():
        polled.see(arrival_ns // MS * MS + 12_345)
    assert polled.quantum_ms(spread_ms=2.0) == 1.0
    assert polled.quantum_ms(spread_ms=0.1) == 0.125
    at_once = PollingGrid()
    at_once.see_all(rng.integers(0, SECOND, 100))
    assert at_once.quantum_ms(spread_ms=2.0) == 0.0


@pytest.mark.parametrize("left", [2, 300])
def test_a_restart_that_nobody_announced_is_found_though_its_first_delivery_is_late(left: int) -> None:
    n, queue_ns = 1000, 400_000_000
    true_ns = np.arange(n, dtype=np.int64) * 10_000_000
    device_ns = 720_000 * 10**9 + true_ns
    at = n - left
    device_ns[at:] -= int(device_ns[at])
    late_ns = np.maximum(queue_ns - (true_ns - true_ns[at]), 0)
    late_ns[:at] = 0
    arrival_ns = true_ns + late_ns + np.random.default_rng(1).gamma(2.0, 0.5e6, n).astype(np.int64)
    fits = fit_stream(device_ns, arrival_ns, np.zeros(n, np.int64))
    assert [fit.first for fit in fits] == [0, at]
    assert np.abs(fits[1].model.to_cell_ns_array(device_ns[at:]) - true_ns[at:]).max() < queue_ns + 10_000_000
