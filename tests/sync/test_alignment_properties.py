"""Properties of alignment: nothing is invented, no clock's origin counts, and packets are only wrapping."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import accumulate, pairwise

import numpy as np
import numpy.typing as npt
from hypothesis import given, settings
from hypothesis import strategies as st

from acquisition.packet import SENSOR_CHANNELS, ClockUpdate, Packet, SampleBlock, SensorRows, StreamInfo, VideoFrame
from sync.alignment import CHANNEL_RULES, cut
from sync.interpolation import Neighbours, fill_nearest
from sync.sample import SampleSpec, Weld4MSample
from sync.series import AudioSeries, SensorSeries, Series, VideoSeries
from tests.sync.cell_history import SPEC, History, contents, cut_all

MS = 1_000_000
SECOND = 1000 * MS
ONE_SECOND = SampleSpec(window_s=1.0, frames=9, height=2, width=3, audio_rate_hz=500, sensor_rows=23)
ROWS = StreamInfo(name="plc", modality="sensors", rate_hz=20.0, channels=SENSOR_CHANNELS, dtype="float64")
SOUND = StreamInfo(name="mic", modality="audio", rate_hz=500.0, channels=("mono",), dtype="int16")
VIDEO = StreamInfo(name="cam", modality="video", rate_hz=20.0, height=2, width=3)
Int64s = npt.NDArray[np.int64]


def window(one: Series, spec: SampleSpec) -> Weld4MSample:
    return cut((one,), 0, SECOND, spec, weld="w", index=0)


def usable(items_ns: Sequence[int], at_ns: int, period_ns: int, max_gap_ns: float, reach: bool) -> list[int]:
    """The two recorded neighbours of a point, or the near one alone; empty where nothing may be said.

    `reach`: values are taken as they are, and so reach half a period beyond their item.
    """
    before = [i for i, t in enumerate(items_ns) if t <= at_ns][-1:]
    after = [i for i, t in enumerate(items_ns) if t > at_ns][:1]
    if before and items_ns[before[0]] == at_ns:
        return before
    if before and after and items_ns[after[0]] - items_ns[before[0]] <= max_gap_ns:
        return before + after
    return [i for i in before + after if reach and 2 * abs(items_ns[i] - at_ns) <= period_ns]


steps_ms = st.lists(st.integers(0, 220), min_size=1, max_size=25)
gaps = st.sampled_from((1.0, 2.5, 3.0))
number = st.floats(-1e3, 1e3) | st.just(float("nan"))


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 220), st.lists(number, min_size=6, max_size=6)), max_size=20), gaps)
def test_a_sensor_value_is_recorded_or_lies_between_two_neighbours(
    rows: list[tuple[int, list[float]]], max_gap_periods: float
) -> None:
    spec = replace(ONE_SECOND, max_gap_periods=max_gap_periods)
    series = SensorSeries(ROWS)
    times_ns = [ms * MS - SECOND // 2 for ms in accumulate(step for step, _ in rows)]
    for i, (t_ns, (_, values)) in enumerate(zip(times_ns, rows, strict=True)):
        t = np.array([t_ns], np.int64)
        payload = SensorRows(first_row=i, values=np.array([values]), t_device_ns=None, t_arrival_ns=t)
        series.append(Packet(stream="plc", seq=i, t_arrival_ns=t_ns, payload=payload, order=i + 1), t)
    sample = window(series, spec)
    for column, name in enumerate(SENSOR_CHANNELS):
        finite = [i for i, (_, values) in enumerate(rows) if np.isfinite(values[column])]
        known_ns, known = [times_ns[i] for i in finite], [rows[i][1][column] for i in finite]
        for k in range(spec.sensor_rows):
            at_ns = (2 * k + 1) * SECOND // (2 * spec.sensor_rows)
            reach = CHANNEL_RULES[name] == "nearest"
            near = [known[i] for i in usable(known_ns, at_ns, SECOND // 20, max_gap_periods * SECOND / 20, reach)]
            value = float(sample.sensors[k, column])
            assert sample.sensors_mask[k, column] == bool(near)
            if not near:
                assert value == 0.0
            elif CHANNEL_RULES[name] in ("nearest", "hold"):
                assert value in near
            else:
                assert min(near) - 1e-9 <= value <= max(near) + 1e-9


@settings(max_examples=80, deadline=None)
@given(steps_ms, gaps)
def test_a_frame_is_one_of_the_two_neighbours(steps: list[int], max_gap_periods: float) -> None:
    spec = replace(ONE_SECOND, max_gap_periods=max_gap_periods)
    series = VideoSeries(VIDEO, spec.height, spec.width)
    times_ns = [ms * MS - SECOND // 4 for ms in accumulate(steps)]
    for i, t_ns in enumerate(times_ns):
        frame = VideoFrame(pixels=np.full((2, 3), i + 1, np.uint8))
        packet = Packet(stream="cam", seq=i, t_arrival_ns=t_ns, payload=frame, order=i + 1)
        series.append(packet, np.array([t_ns], np.int64))
    sample = window(series, spec)
    for k in range(spec.frames):
        at_ns = (2 * k + 1) * SECOND // (2 * spec.frames)
        near = usable(times_ns, at_ns, SECOND // 20, max_gap_periods * SECOND / 20, reach=True)
        assert sample.video_mask[k] == bool(near)
        seen = set(sample.video[k].ravel().tolist())
        assert len(seen) == 1
        assert seen <= ({i + 1 for i in near} or {0})


runs_of_sound = st.lists(
    st.tuples(st.integers(0, 30_000_000), st.integers(1, 200), st.integers(-30_000, 30_000)), min_size=1, max_size=6
)


@settings(max_examples=80, deadline=None)
@given(runs_of_sound, gaps)
def test_a_sound_sample_is_one_of_the_two_neighbours(runs: list[tuple[int, int, int]], max_gap_periods: float) -> None:
    spec = replace(ONE_SECOND, max_gap_periods=max_gap_periods)
    series = AudioSeries(SOUND)
    first, t_ns = 0, -SECOND // 10
    for hole_ns, n, ppm in runs:
        t = t_ns + hole_ns + np.arange(n, dtype=np.int64) * (2 * MS + 2 * ppm)
        samples = np.arange(first + 1, first + n + 1, dtype=np.int16)[:, np.newaxis]
        payload = SampleBlock(first_sample=first, rate_hz=500.0, samples=samples)
        series.append(Packet(stream="mic", seq=first, t_arrival_ns=int(t[-1]), payload=payload, order=first + 1), t)
        first, t_ns = first + n, int(t[-1])
    sample = window(series, spec)
    times_ns = series.t_ns.tolist()
    for k in range(0, spec.audio_length, 7):
        near = usable(times_ns, k * 2 * MS, 2 * MS, max_gap_periods * 2 * MS, reach=True)
        assert sample.audio_mask[k] == bool(near)
        assert int(sample.audio[0, k]) in ({i + 1 for i in near} or {0})


@settings(max_examples=80, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 400_000), st.integers(1, 3000), st.integers(-20_000, 20_000)), min_size=1, max_size=5
    ),
    st.integers(-(10**8), 10**8),
    st.builds(slice, st.just(0), st.sampled_from((0, 1, 2000))),
)
def test_looking_up_in_runs_finds_the_same_items(runs: list[tuple[int, int, int]], start_ns: int, taken: slice) -> None:
    pieces, t_ns = [], 0
    for hole_ns, n, ppm in runs:
        pieces.append(t_ns + hole_ns + np.arange(n, dtype=np.int64) * (62_500 + ppm // 16))
        t_ns = int(pieces[-1][-1])
    items_ns = np.concatenate(pieces)
    grid_ns = start_ns + np.arange(4000, dtype=np.int64) * SECOND // 16_000
    numbers = np.arange(1, len(items_ns) + 1)
    out, mask = np.zeros((1, len(grid_ns)), np.int64), np.zeros(len(grid_ns), np.bool_)
    out[0, taken], mask[taken] = -1, True
    used = fill_nearest(numbers[:, np.newaxis], items_ns, grid_ns, 187_500, 62_500, out, mask)
    index, filled = Neighbours.of(items_ns, grid_ns, 187_500).nearest(len(items_ns), 62_500)
    expected = np.where(filled, index + 1, 0)
    expected[taken] = -1
    assert (out[0] == expected).all()
    assert (mask == (expected != 0)).all()
    written = expected[expected > 0]
    assert ({min(used), max(used)} if used else set()) == set((written[[0, -1]] - 1).tolist() if len(written) else [])


histories = st.builds(
    History,
    length_s=st.sampled_from((3.0, 4.0)),
    arc_on_s=st.floats(0.3, 1.0),
    arc_off_s=st.floats(1.2, 3.0),
    mic_drift_ppb=st.integers(-100_000, 100_000),
    lost_streams=st.sampled_from(((), ("plc",), ("mic",), ("mic", "camera"))),
    gap_s=st.tuples(st.floats(1.0, 1.5), st.floats(1.5, 2.5)),
)


def with_device_clocks_shifted(packets: Iterable[Packet], shift_ns: int) -> list[Packet]:
    """What the same cell gives when its device clocks, those that are no counters, were set otherwise."""
    shifted = []
    for packet in packets:
        payload = packet.payload
        if isinstance(payload, ClockUpdate) and payload.of_stream != "mic":
            payload = replace(payload, ref_ns=payload.ref_ns + shift_ns, offset_ns=payload.offset_ns - shift_ns)
        elif isinstance(payload, SensorRows) and payload.t_device_ns is not None:
            payload = replace(payload, t_device_ns=payload.t_device_ns + shift_ns)
        stamp_ns = packet.t_device_ns
        shifted.append(replace(packet, payload=payload, t_device_ns=None if stamp_ns is None else stamp_ns + shift_ns))
    return shifted


@settings(max_examples=25, deadline=None)
@given(histories, st.integers(-(10**17), 10**17), st.integers(-(10**17), 10**17))
def test_shifting_every_clock_shifts_start_and_arrival_and_nothing_else(
    history: History, cell_ns: int, device_ns: int
) -> None:
    here = cut_all(history.packets())
    there = cut_all(with_device_clocks_shifted(replace(history, shift_ns=cell_ns).packets(), device_ns))
    assert here
    back = [
        replace(one, t0_ns=one.t0_ns - cell_ns, closed_by_arrival_ns=one.closed_by_arrival_ns - cell_ns)
        for one in there
    ]
    assert [one.digest() for one in back] == [one.digest() for one in here]
    assert [one.closed_by_arrival_ns for one in back] == [one.closed_by_arrival_ns for one in here]


def split(packet: Packet, places: Sequence[float]) -> list[Packet]:
    """Cut a packet at some of its items; the parts arrive when the whole did."""
    payload = packet.payload
    if isinstance(payload, SampleBlock):
        n, first = len(payload.samples), payload.first_sample
    elif isinstance(payload, SensorRows):
        n, first = len(payload.values), payload.first_row
    else:
        return [packet]
    parts: list[Packet] = []
    for a, b in pairwise(sorted({0, n, *(round(place * n) for place in places)})):
        if isinstance(payload, SampleBlock):
            part: SampleBlock | SensorRows = replace(payload, first_sample=first + a, samples=payload.samples[a:b])
        else:
            stamps = payload.t_device_ns
            part = replace(
                payload,
                first_row=first + a,
                values=payload.values[a:b],
                t_device_ns=None if stamps is None else stamps[a:b],
                t_arrival_ns=payload.t_arrival_ns[a:b],
            )
        parts.append(replace(packet, seq=first + a, payload=part))
    return parts


@settings(max_examples=25, deadline=None)
@given(histories, st.lists(st.lists(st.floats(0, 1), max_size=4), min_size=1, max_size=7), st.sampled_from((1000, 600)))
def test_packets_cut_anywhere_hold_the_same_windows(history: History, places: list[list[float]], sound_hz: int) -> None:
    spec = replace(SPEC, audio_rate_hz=sound_hz)
    packets = history.packets()
    parts = [part for i, packet in enumerate(packets[3:]) for part in split(packet, places[i % len(places)])]
    recut = packets[:3] + [replace(part, order=100 + i) for i, part in enumerate(parts)]
    whole, cut_up = cut_all(packets, spec), cut_all(recut, spec)
    assert whole
    assert [one.t0_ns for one in cut_up] == [one.t0_ns for one in whole]
    assert [contents(one) for one in cut_up] == [contents(one) for one in whole]
