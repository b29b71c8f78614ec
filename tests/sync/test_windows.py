"""The fold from packets to windows: which windows, when, with what, and never anything else."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from acquisition.packet import EVENTS_STREAM, Event, Packet, Photo
from sync.windows import WindowCutter, WindowError
from tests.sync.cell_history import INFOS, SECOND, SPEC, History, contents, cut_all


def test_windows_start_at_arc_on_and_the_last_is_right_aligned() -> None:
    windows = cut_all(History(arc_off_s=4.1).packets())
    assert [w.t0_ns / SECOND for w in windows] == [1.0, 1.5, 2.0, 2.5, 2.85]
    assert [w.index for w in windows] == list(range(5))
    assert all(w.duration_ns == 2 * SECOND and w.label == 3 and w.missing == 0 for w in windows)
    assert all(w.present == ("video", "audio", "sensors") for w in windows)


def test_a_coinciding_last_window_is_not_cut_twice() -> None:
    windows = cut_all(History(arc_off_s=4.25).packets())
    assert [w.t0_ns / SECOND for w in windows] == [1.0, 1.5, 2.0, 2.5, 3.0]


def test_a_short_arc_gives_one_right_aligned_window_masked_where_nothing_was_recorded() -> None:
    (window,) = cut_all(History(arc_on_s=0.5, arc_off_s=0.9).packets())
    assert window.t0_ns == round(-0.35 * SECOND)
    before = np.arange(SPEC.audio_length) < 349
    assert not window.audio_mask[before].any()
    assert not window.audio[0, before].any()
    assert window.audio_mask[~before][1:].all()
    assert window.present == ()


def test_a_window_comes_out_with_the_first_packet_that_completes_it() -> None:
    cutter = WindowCutter("w", SPEC, INFOS)
    for packet in History().packets():
        for window in cutter.push(packet):
            end_ns = window.t0_ns + window.duration_ns
            assert window.closed_by_order == packet.order
            assert window.closed_by_arrival_ns == packet.t_arrival_ns
            assert end_ns <= packet.t_arrival_ns <= end_ns + 0.15 * SECOND


def test_a_silent_stream_delays_a_window_by_the_lateness_at_most() -> None:
    packets = History(lost_streams=("plc",), gap_s=(2.0, 99.0)).packets()
    windows = cut_all(packets)
    assert len(windows) == len(cut_all(History().packets()))
    for window in windows:
        end_ns = window.t0_ns + window.duration_ns
        assert window.closed_by_arrival_ns - end_ns <= (SPEC.max_lateness_s + 0.05) * SECOND
        assert "sensors" not in window.present
        assert {"video", "audio"} <= set(window.present)
    assert not windows[-1].sensors_mask.any()
    assert "plc" not in windows[-1].orders


def test_closing_without_arc_off_ends_the_weld_where_the_data_ends() -> None:
    packets = [p for p in History(length_s=4.6).packets() if not _is(p, "arc_off")]
    windows = cut_all(packets)
    assert [w.t0_ns / SECOND for w in windows[:-1]] == [1.0, 1.5, 2.0, 2.5]
    assert windows[-1].t0_ns / SECOND == pytest.approx(2.6, abs=0.06)


def _is(packet: Packet, kind: str) -> bool:
    return isinstance(packet.payload, Event) and packet.payload.kind == kind


def test_an_arc_that_burned_before_the_weld_was_opened_gives_no_window() -> None:
    packets = [p for p in History().packets() if not (isinstance(p.payload, Event) and p.payload.kind == "arc_on")]
    assert any(isinstance(p.payload, Event) and p.payload.kind == "arc_off" for p in packets)
    assert cut_all(packets) == []


def test_packets_lost_in_transport_are_counted_in_the_windows_that_they_may_belong_to() -> None:
    packets = History().packets()
    lost = [p for p in packets if p.stream == "camera" and 1.9 * SECOND < p.t_arrival_ns < 2.2 * SECOND]
    windows = cut_all([p for p in packets if p not in lost])
    assert len(lost) == 6
    assert [w.missing for w in windows] == [6, 6, 4, 0, 0, 0, 0][: len(windows)]


def test_a_late_subscriber_knows_what_it_missed() -> None:
    packets = History().packets()
    late = cut_all(packets[:3] + packets[13:])
    assert late[0].missing == 0, "the ten packets before arc-on cannot have held anything of the window"
    at = next(i for i, p in enumerate(packets) if p.t_arrival_ns > 1.1 * SECOND)
    assert cut_all(packets[:3] + packets[at:])[0].missing == at - 3


def test_orders_name_the_packets_used() -> None:
    packets = {p.order: p for p in History().packets()}
    for window in cut_all(packets.values()):
        assert set(window.orders) == set(INFOS)
        for stream, (first, last) in window.orders.items():
            assert packets[first].stream == packets[last].stream == stream
            assert first < last <= window.closed_by_order


def test_a_packet_out_of_order_is_refused() -> None:
    cutter = WindowCutter("w", SPEC, INFOS)
    packets = History().packets()
    for packet in packets[:6]:
        cutter.push(packet)
    with pytest.raises(WindowError, match="ascending order"):
        cutter.push(packets[4])


def test_photos_are_those_of_this_weld() -> None:
    cutter = WindowCutter("w", SPEC, INFOS)
    for packet in History().packets():
        cutter.push(packet)
    assert cutter.finished
    order = 10_000

    def push(stream: str, payload: Photo | Event) -> None:
        nonlocal order
        order += 1
        assert cutter.push(Packet(stream=stream, seq=0, t_arrival_ns=99 * SECOND, payload=payload, order=order)) == []

    push("photos", Photo(name="mine.jpg", data=b"x", weld_hint="w"))
    push("photos", Photo(name="theirs.jpg", data=b"x", weld_hint="other"))
    push("photos", Photo(name="unknown.jpg", data=b"x"))
    push(EVENTS_STREAM, Event(kind="photo", weld="w", data={"name": "unknown.jpg"}))
    push(EVENTS_STREAM, Event(kind="photo", weld="w", data={"name": "promised.jpg"}))
    push("photos", Photo(name="promised.jpg", data=b"x"))
    assert [photo.name for photo in cutter.photos] == ["mine.jpg", "unknown.jpg", "promised.jpg"]
    window = cutter.photo_window()
    assert window.index == -1
    assert window.present == ()
    assert not window.post_images_mask.any()


def test_memory_stays_bounded_in_an_endless_weld() -> None:
    cutter = WindowCutter("w", SPEC, INFOS)
    packets = [p for p in History(length_s=30.0, arc_off_s=29.0, close=False).packets() if not _is(p, "arc_off")]
    for packet in packets:
        cutter.push(packet)
    assert all(30 - one.t_ns[0] / SECOND < 2 + 10 + 1.2 for one in cutter._series.values())


histories = st.builds(
    History,
    length_s=st.sampled_from((3.0, 5.0)),
    arc_on_s=st.floats(0.3, 1.5),
    arc_off_s=st.floats(1.6, 4.0),
    mic_drift_ppb=st.integers(-100_000, 100_000),
    lost_streams=st.sampled_from(((), ("plc",), ("mic", "camera"))),
    gap_s=st.tuples(st.floats(1.0, 2.0), st.floats(2.0, 3.0)),
)


@settings(max_examples=20, deadline=None)
@given(histories)
def test_replaying_the_same_packets_gives_equal_digests(history: History) -> None:
    first = [w.digest() for w in cut_all(history.packets())]
    assert first == [w.digest() for w in cut_all(history.packets())]
    assert first


@settings(max_examples=20, deadline=None)
@given(histories, st.integers(-(10**15), 10**15))
def test_shifting_all_clocks_shifts_the_start_and_nothing_else(history: History, shift_ns: int) -> None:
    here = cut_all(history.packets())
    there = cut_all(replace(history, shift_ns=shift_ns).packets())
    assert [w.t0_ns + shift_ns for w in here] == [w.t0_ns for w in there]
    assert [contents(w) for w in here] == [contents(w) for w in there]
    assert [(w.present, w.orders, w.closed_by_order) for w in here] == [
        (w.present, w.orders, w.closed_by_order) for w in there
    ]


@settings(max_examples=20, deadline=None)
@given(histories, st.sampled_from((1, 2, 10, 25, 50)), st.sampled_from((1, 2, 5, 10)), st.sampled_from((1000, 600)))
def test_how_a_stream_is_split_into_packets_changes_no_content(
    history: History, block: int, batch: int, rate_hz: int
) -> None:
    # Items that arrive in smaller portions arrive earlier: losses are left out, since they drop whole packets.
    history = replace(history, lost_streams=())
    spec = replace(SPEC, audio_rate_hz=rate_hz)
    whole = cut_all(history.packets(), spec)
    split = cut_all(replace(history, block=block, batch=batch).packets(), spec)
    assert [w.t0_ns for w in whole] == [w.t0_ns for w in split]
    assert [contents(w) for w in whole] == [contents(w) for w in split]
