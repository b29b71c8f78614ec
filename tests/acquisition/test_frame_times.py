"""What the times of a video stream say of it, on made-up times."""

import pytest

from acquisition.frame_times import LATENCY_FRAMES, FrameTimes, SenderClock

PERIOD_NS = 33_333_333


def said(caplog):
    return [record.getMessage() for record in caplog.records]


def test_a_steady_stream_gives_no_cause_for_a_word(caplog):
    times = FrameTimes("camera eye", 30.0)
    for n in range(300):
        times.observe(n * PERIOD_NS, 10**9 + n * PERIOD_NS + (n % 7) * 10**6)
    assert times.odd == {"missing": 0, "repeated": 0, "backwards": 0, "jumped": 0}
    assert times.rate_hz == pytest.approx(30.0, abs=0.05)
    assert said(caplog) == []


def test_the_measured_rate_is_told_once(caplog):
    times = FrameTimes("camera eye", 30.0)
    for n in range(1000):
        times.observe(None, round(n * 1e9 / 31.2))
    assert times.rate_hz == pytest.approx(31.2, abs=0.05)
    assert said(caplog) == [
        "camera eye: sends 31.2 frames per second, not 30; set fps = 31.2 in the cell file",
    ]
    assert times.odd["missing"] == 0  # a stream that has no stamps at all misses none


def test_odd_stamps_are_counted_and_each_kind_said_once(caplog):
    times = FrameTimes("camera eye", 30.0)
    stamps = [0, 33, 66, 66, 66, 50, 99, None, None, 133, 166]
    for n, stamp in enumerate(stamps):
        times.observe(None if stamp is None else stamp * 10**6, n * PERIOD_NS)
    times.observe(10**13, len(stamps) * PERIOD_NS)
    assert times.odd == {"missing": 2, "repeated": 2, "backwards": 1, "jumped": 1}
    assert len(said(caplog)) == 4
    assert "runs backwards (by -16 ms)" in said(caplog)[1]
    assert "was its clock set" in said(caplog)[3]


def test_a_stall_is_no_jump():
    times = FrameTimes("camera eye", 30.0)
    times.observe(0, 0)
    times.observe(5 * 10**9, 5 * 10**9)
    assert times.odd["jumped"] == 0


def test_utc_of_the_sender_holds_still_when_it_is_stepped(caplog):
    utc_ns = 1_700_000_000 * 10**9
    clock = SenderClock("camera eye", 0, utc_ns)
    for n in range(2 * LATENCY_FRAMES):
        step_ns = 3600 * 10**9 if n >= LATENCY_FRAMES else 0
        assert clock.observe(n * PERIOD_NS, utc_ns + n * PERIOD_NS + step_ns, n * PERIOD_NS) == utc_ns + n * PERIOD_NS
    assert clock.moved_ns == 3600 * 10**9
    assert clock.latency_ns is not None
    assert [line for line in said(caplog) if "moved by +3600.0 s" in line] == [
        "camera eye: the sender's UTC moved by +3600.0 s against its own stamps, which go on as they began; "
        "synchronise the camera (NTP, PTP)"
    ]
