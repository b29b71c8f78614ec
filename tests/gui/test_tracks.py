"""What the time axis keeps: clocks from the status, clipped readings apart, nothing of a future that was wound back."""

from dataclasses import replace
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from acquisition.packet import SENSOR_CHANNELS, ClockUpdate, Event, Packet, SampleBlock, SensorRows
from gui.rise_marks import rise_marks
from gui.theme import NO_GO
from gui.track_scale import CLIPPED, NONE, curve_range, nice_range, range_words, sound_range, value_words
from gui.tracks import TRACKS, Tracks
from recordings.status import Gap, ReplayStatus
from recordings.verdict import Score
from tests.gui.conftest import INFOS, KEY, make_status, make_verdict, make_weld

START_NS = 10**13
CURRENT = next(spec for spec in TRACKS if spec.key == "current_a")


FAR_NS = START_NS + 10**12


def known(**changes) -> Tracks:
    tracks = Tracks()
    tracks.take_status(make_status(**changes))
    return tracks


def sound(order: int, t_ns: int, first_sample: int = 0) -> Packet:
    samples = np.full((320, 1), 3000, np.int16)
    block = SampleBlock(first_sample=first_sample, rate_hz=16_000, samples=samples)
    return Packet(stream="microphone", seq=order, order=order, t_arrival_ns=t_ns, payload=block)


def rows(order: int, t_ns: int, current_a: float, voltage_v: float = 24.0) -> Packet:
    values = np.full((1, len(SENSOR_CHANNELS)), 1.0)
    values[0, SENSOR_CHANNELS.index("current_a")] = current_a
    values[0, SENSOR_CHANNELS.index("voltage_v")] = voltage_v
    payload = SensorRows(first_row=order, values=values, t_device_ns=None, t_arrival_ns=np.array([t_ns], np.int64))
    return Packet(stream="sensors", seq=order, order=order, t_arrival_ns=t_ns, payload=payload)


def test_a_screen_that_came_late_uses_the_clocks_of_the_status():
    clock = ClockUpdate(of_stream=INFOS[1].name, segment=0, ref_ns=0, offset_ns=START_NS, drift_ppb=0, sigma_ns=0)
    tracks = known(clocks=[clock])
    tracks.push(sound(1, START_NS + 400_000_000, first_sample=1600))
    assert tracks.newest_ns == START_NS + 100_000_000 + 319 * 62_500
    without = known()
    without.push(sound(1, START_NS + 400_000_000, first_sample=1600))
    assert without.newest_ns is not None
    assert without.newest_ns > START_NS + 400_000_000


def test_readings_at_the_stop_are_marked_and_do_not_stretch_the_scale():
    tracks = known()
    for i, current in enumerate((170.0, 180.0, 819.03, 175.0)):
        tracks.push(rows(i + 1, START_NS + i * 110_000_000, current, 81.9 if i == 1 else 24.0))
    now_ns = START_NS + 330_000_000
    _, low, high = tracks.channels["current_a"].columns(START_NS - 1, now_ns)
    assert nice_range(low.min(), high.max())[1] <= 200
    assert list(tracks.clipped["current_a"]) == [START_NS + 220_000_000]
    assert list(tracks.clipped["voltage_v"]) == [START_NS + 110_000_000]
    said = [value_words(tracks, CURRENT, START_NS + ms * 1_000_000) for ms in (110, 220, 300, 330)]
    assert said == ["180 A", CLIPPED, CLIPPED, "175 A"]
    assert value_words(tracks, CURRENT, START_NS - 10**9) == NONE


def at(position_s: float, **changes: Any) -> ReplayStatus:
    plain = ReplayStatus(position_s=position_s, duration_s=20.0, speed=1.0, playing=False, origin_ns=START_NS)
    return replace(plain, **changes)


def sought(t_ns: int) -> Packet:
    event = Event(kind="replay_seek", weld=KEY, t_ns=t_ns, data={"position_s": 0.0, "from_order": 1, "whole": False})
    return Packet(stream="events", seq=1, order=0, t_arrival_ns=t_ns, payload=event)


def drawn(tracks: Tracks) -> list[np.ndarray]:
    rings = [tracks.sound, *tracks.channels.values()]
    curves = [array for ring in rings for array in ring.columns(START_NS - 1, START_NS + 20 * 10**9)]
    return [*curves, tracks.spectrogram.picture(START_NS, START_NS + 20 * 10**9)]


def test_what_was_heard_before_a_seek_stays_and_comes_again_the_same():
    tracks = known(replay=at(0.0))
    packets = [sound(2 * i + 10, START_NS + i * 20_000_000, 320 * i) for i in range(200)]
    packets += [rows(2 * i + 11, START_NS + i * 20_000_000, 170.0 + i % 7) for i in range(200)]
    packets.sort(key=lambda packet: packet.order)
    for packet in packets:
        tracks.push(packet)
    once = drawn(tracks)
    for start in (0, 100, 250):
        tracks.push(sought(packets[start].t_arrival_ns))
        for packet in packets[start:]:
            tracks.push(packet)
    assert all(np.array_equal(before, after) for before, after in zip(once, drawn(tracks), strict=True))


def test_a_seek_begins_judging_anew():
    tracks = known(replay=at(5.0), welds=[make_weld(verdict=make_verdict(word="NO-GO", rose=((1, 2),)))])
    tracks.push(rows(7, START_NS + 5 * 10**9, 170.0))
    tracks.take_score(score(0, 1.0))
    tracks.push(sought(START_NS + 10**9))
    assert (tracks.scores, tracks.rises, tracks.newest_ns) == ([], {}, None)
    tracks.push(rows(3, START_NS + 10**9, 170.0))
    assert tracks.newest_ns == START_NS + 10**9


def test_a_long_weld_has_room_and_another_one_begins_empty():
    tracks = known(replay=at(0.0, duration_s=300.0))
    for second in range(0, 300, 10):
        tracks.push(rows(second + 1, START_NS + second * 10**9, 170.0))
    current = tracks.channels["current_a"]
    assert len(current.columns(START_NS - 1, START_NS + 300 * 10**9)[0]) == 30
    tracks.take_status(make_status(replay=at(0.0), welds=[make_weld(path="/another")]))
    assert len(tracks.channels["current_a"].columns(START_NS - 1, FAR_NS)[0]) == 0
    assert not tracks.arcs


def test_gaps_and_events_of_a_replayed_weld_are_known_before_they_are_played_and_once():
    gap = Gap(stream="camera", t_ns=START_NS + 10**9, missing=3, seconds=0.1, reason="device")
    ticks = [(START_NS + 2 * 10**9, "mark", "spatter"), (START_NS + 3 * 10**9, "unheard_of", "")]
    tracks = known(replay=at(0.0, gaps=[gap], ticks=ticks))
    mark = Event(kind="mark", weld=KEY, t_ns=START_NS + 2 * 10**9, data={"note": "spatter"})
    tracks.push(Packet(stream="events", seq=1, order=9, t_arrival_ns=START_NS + 2 * 10**9, payload=mark))
    tracks.take_status(make_status(replay=at(4.0, gaps=[gap], ticks=ticks), gaps=[gap]))
    assert tracks.gaps == [gap]
    assert list(tracks.ticks) == [(START_NS + 2 * 10**9, "mark spatter")]


def test_a_capture_process_that_came_back_keeps_the_curves():
    tracks = known()
    tracks.push(rows(1000, START_NS, 170.0))
    tracks.push(rows(1, START_NS + 2 * 10**9, 180.0))
    assert len(tracks.channels["current_a"].columns(START_NS - 1, START_NS + 2 * 10**9)[0]) == 2


def score(window: int, weld_score: float) -> Score:
    return Score(
        weld=KEY,
        window=window,
        t0_ns=START_NS + window * 10**9,
        t1_ns=START_NS + (window + 4) * 10**9,
        score=weld_score,
        weld_score=weld_score,
        p_value=None,
        present=("audio",),
        orders={},
        missing=0,
        sample_digest="",
        closed_by_order=1,
    )


def test_a_window_scored_again_takes_the_place_of_the_first():
    tracks = known()
    for window, value in ((0, 1.0), (1, 2.0), (0, 1.5), (1, 2.5)):
        tracks.take_score(score(window, value))
    assert [point.weld_score for point in tracks.scores] == [1.5, 2.5]
    assert tracks.running_score(KEY) == 2.5
    assert tracks.running_score("another") is None


def test_windows_are_held_against_the_threshold_of_the_process_alone():
    tracks = known(welds=[])
    tracks.take_verdict(make_verdict(stage="process", threshold=3.0))
    tracks.take_verdict(make_verdict(stage="consistency", threshold=2.5))
    assert tracks.thresholds == {KEY: 3.0}


def test_stretches_are_marked_as_long_as_they_are_in_sight_the_worst_on_top():
    on_ns = START_NS
    rose = ((on_ns + 6 * 10**9, on_ns + 9 * 10**9), (on_ns + 2 * 10**9, on_ns + 3 * 10**9))
    weld = make_weld(arc_on_ns=on_ns, verdict=make_verdict(word="NO-GO", rose=rose))
    tracks = known(welds=[weld])

    def marks(from_s: int, to_s: int) -> list[str]:
        found = rise_marks(tracks, on_ns + from_s * 10**9, on_ns + to_s * 10**9, lambda t_ns: (t_ns - on_ns) / 1e9)
        assert all(mark.right - mark.left >= 3.0 and mark.colour == NO_GO for mark in found)
        return [mark.words for mark in found]

    assert marks(0, 20) == ["rose from 2 s", "rose from 6 s"]
    tracks.take_status(make_status(welds=[replace(weld, arc_off_ns=on_ns + 14 * 10**9)]))
    assert marks(0, 20) == ["rose at 2–3 s", "rose at 6–9 s"]
    assert marks(4, 20) == ["rose at 6–9 s"]
    assert marks(0, 2) == marks(9, 30) == []
    tracks.take_status(make_status(welds=[make_weld(key="another", verdict=None)]))
    assert marks(0, 20) == []


@given(st.floats(-1e5, 1e5), st.floats(0, 1e5))
def test_a_scale_holds_its_values_and_its_ends_can_be_written(low: float, span: float):
    least, most = nice_range(low, low + span)
    noise = span * 0.02 + 1e-12 * abs(low)
    assert least <= low + noise
    assert most >= low + span
    assert least < most


def test_noise_about_zero_does_not_open_the_scale_downwards():
    assert nice_range(-0.05, 14.2) == (0.0, 15.0)


@given(st.floats(1e-5, 1.0))
def test_the_sound_scale_goes_in_steps_of_six_decibels(peak: float):
    least, most = sound_range(peak)
    assert least == -most
    assert most >= min(peak, 1.0) * 0.999
    assert round(20 * np.log10(most) / 6, 6) % 1 == 0


def test_one_crack_does_not_flatten_the_sound():
    sound_spec = next(spec for spec in TRACKS if spec.kind == "sound")
    high = np.full(200, 0.1)
    high[7] = 0.9
    assert curve_range(sound_spec, -high, high)[1] < 0.2
    assert curve_range(CURRENT, np.zeros(200), high)[1] >= 0.9


def test_the_ends_of_a_scale_are_named():
    spec = {spec.key: spec for spec in TRACKS}
    assert range_words(spec["current_a"], 0.0, 300.0) == ("300", "0")
    assert range_words(spec["sound"], -0.25, 0.25) == ("-12 dB", "")
    assert range_words(spec["spectrogram"], 0.0, 8000.0) == ("8 kHz", "60 Hz")
