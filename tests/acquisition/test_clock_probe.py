import time

from hypothesis import given
from hypothesis import strategies as st

from acquisition.clock_probe import DRIFT_PPM, ClockProbe, RoundTrip, round_trip
from acquisition.keys import CELL, give_keys, read_client
from tests.acquisition.counterparts import wait_until
from tests.acquisition.guarded_cell import guarded_cell

STAMPS = st.integers(-(10**18), 10**18)
DELAYS = st.integers(0, 10**9)


@given(sent=STAMPS, offset=STAMPS, there=DELAYS, busy=DELAYS, back=DELAYS)
def test_the_true_offset_lies_within_the_bound(sent, offset, there, busy, back):
    """Whatever the two ways and the answer take; equal ways give it to the nanosecond."""
    received = sent + offset + there
    trip = round_trip(sent, received, received + busy, sent + there + busy + back)
    assert abs(trip.offset_ns - offset) <= trip.bound_ns
    assert trip.bound_ns <= (there + back) // 2 + 1
    assert trip.offset_ns == offset + (there - back) // 2


def test_the_tightest_burst_counts_until_the_clocks_may_have_parted():
    probe = ClockProbe("ipc:///nobody/there")
    now_ns = time.monotonic_ns()
    probe.take([RoundTrip(now_ns, 1000, 90_000), RoundTrip(now_ns, 2000, 50_000)])
    assert probe.offset_ns == 2000
    assert probe.sigma_ns is not None
    assert 50_000 <= probe.sigma_ns < 50_000 + 60 * DRIFT_PPM * 1000
    # Ten seconds older, but closer even so; then one that its age has made worthless.
    probe.take([RoundTrip(now_ns - 10**10, 3000, 10)])
    assert probe.offset_ns == 2000
    probe.take([RoundTrip(now_ns - 10**8, 4000, 10)])
    assert probe.offset_ns == 4000
    cell_ns = probe.now_ns()
    assert cell_ns is not None
    assert 4000 - 10**9 < cell_ns - time.monotonic_ns() <= 4000
    # The host was restarted: its clock began anew, and what was known of it is wrong.
    probe.take([RoundTrip(now_ns, -(10**12), 80_000)])
    assert probe.offset_ns == -(10**12)
    probe.close()


def test_the_clock_of_another_process_is_found(tmp_path):
    """Its monotonic clock is ahead by a known time; the answer comes over TCP with CURVE."""
    keys = tmp_path / "keys"
    give_keys(keys, "screen")
    assert (keys / f"{CELL}.secret").exists()
    with guarded_cell(keys, offset_s=86_400.25) as cell:
        probe = ClockProbe(cell.control, read_client(keys / "screen" / "screen"))
        assert probe.offset_ns is None
        assert probe.now_ns() is None
        wait_until(lambda: probe.offset_ns is not None, "the cell's clock is known")
        offset_ns, bound_ns = probe.offset_ns, probe.sigma_ns
        probe.close()
    assert offset_ns is not None
    assert bound_ns is not None
    error_ns = offset_ns - round(86_400.25e9)
    print(f"clock found within {abs(error_ns) / 1e3:.0f} us, bound {bound_ns / 1e3:.0f} us")  # noqa: T201  # with -rP
    assert abs(error_ns) <= bound_ns
    assert bound_ns < 50_000_000
