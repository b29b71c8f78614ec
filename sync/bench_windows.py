"""`bench windows`: how fast windows are cut from packets, beside polars and numpy doing the same.

The packets of one long weld are made in memory: a camera, a microphone, six sensor channels, photos at the end, and
changing clocks, all by arrival. They go through `WindowCutter` as live, once with large frames and once with frames of
the size wanted; then `cut` alone reads the windows of the first minute from finished series, in turns with polars
`join_asof`, `numpy.interp` and slices on finished arrays.
"""

import io
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Final, TypeAlias

import numpy as np
from PIL import Image

from acquisition.packet import (
    CLOCKS_STREAM,
    EVENTS_STREAM,
    SENSOR_CHANNELS,
    ClockUpdate,
    Event,
    Packet,
    Photo,
    SampleBlock,
    SensorRows,
    StreamInfo,
    VideoFrame,
)
from sync.alignment import cut
from sync.bench_baselines import BenchError
from sync.bench_polars import Tables, polars_window
from sync.clock import ClockTable
from sync.sample import SampleSpec, Weld4MSample
from sync.series import Series, make_series
from sync.windows import WindowCutter

Progress: TypeAlias = Callable[[str], None]

_WELD: Final = "bench"
_SECOND: Final = 1_000_000_000
_LATENCY_NS: Final = 3_000_000
_LEAD_S: Final = 1.0
_COMPARED_S: Final = 60.0
_ROUNDS: Final = 5
_PICTURES: Final = 64
"""Frames and sound repeat after this many, or ten minutes of video would not fit into memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Weld:
    """What the cell delivers.

    Attributes:
        seconds: Arc time.
        fps: Frames per second.
        frame: Height and width of a frame, pixels.
        sound_hz: Sample rate of the sound, in blocks of 10 ms.
        rows_hz: Rows per second of all six channels, in packets of 10 ms (one row, where that is less).
        photos: Photos after the weld.
    """

    seconds: float = 600.0
    fps: float = 30.0
    frame: tuple[int, int] = (600, 960)
    sound_hz: int = 16_000
    rows_hz: float = 1000.0
    photos: int = 5

    @property
    def infos(self) -> dict[str, StreamInfo]:
        """The streams."""
        height, width = self.frame
        camera = StreamInfo(
            name="camera", modality="video", rate_hz=self.fps, height=height, width=width, device_clock="stamps"
        )
        mic = StreamInfo(
            name="mic",
            modality="audio",
            rate_hz=float(self.sound_hz),
            channels=("mono",),
            dtype="int16",
            device_clock="samples",
        )
        plc = StreamInfo(
            name="plc",
            modality="sensors",
            rate_hz=self.rows_hz,
            channels=SENSOR_CHANNELS,
            dtype="float64",
            device_clock="stamps",
        )
        photos = StreamInfo(name="photos", modality="post_images", rate_hz=0.0)
        return {info.name: info for info in (camera, mic, plc, photos)}

    def packets(self) -> list[Packet]:
        """All packets by arrival, `order` counted from 1."""
        made = [*self._clocks(), *self._frames(), *self._blocks(), *self._rows(), *self._events(), *self._photos()]
        return [replace(p, order=i + 1) for i, p in enumerate(sorted(made, key=lambda p: p.t_arrival_ns))]

    @property
    def _all_s(self) -> float:
        return _LEAD_S + self.seconds + 2.0

    def _clocks(self) -> Iterator[Packet]:
        """A change a second per stream, as the online clocks make them."""
        for name, drift_ppb in (("camera", 20_000), ("mic", -35_000), ("plc", 8_000)):
            for second in range(int(self._all_s)):
                update = ClockUpdate(
                    of_stream=name,
                    segment=0,
                    ref_ns=second * _SECOND,
                    offset_ns=second * drift_ppb,
                    drift_ppb=drift_ppb,
                    sigma_ns=10_000,
                )
                yield Packet(stream=CLOCKS_STREAM, seq=second, t_arrival_ns=second * _SECOND, payload=update)

    def _frames(self) -> Iterator[Packet]:
        rng = np.random.default_rng(1)
        pictures = rng.integers(0, 256, (_PICTURES, *self.frame), dtype=np.uint8)
        for i in range(round(self._all_s * self.fps)):
            t_ns = round(i * _SECOND / self.fps)
            yield Packet(
                stream="camera",
                seq=i,
                t_device_ns=t_ns,
                t_arrival_ns=t_ns + _LATENCY_NS,
                payload=VideoFrame(pixels=pictures[i % _PICTURES]),
            )

    def _blocks(self) -> Iterator[Packet]:
        n = self.sound_hz // 100
        sound = np.random.default_rng(2).integers(-9000, 9000, (_PICTURES, n, 1), dtype=np.int16)
        for i in range(round(self._all_s * 100)):
            block = SampleBlock(first_sample=i * n, rate_hz=float(self.sound_hz), samples=sound[i % _PICTURES])
            arrival_ns = (i + 1) * 10_000_000 + _LATENCY_NS
            yield Packet(stream="mic", seq=i * n, t_arrival_ns=arrival_ns, payload=block)

    def _rows(self) -> Iterator[Packet]:
        n = max(1, round(self.rows_hz / 100))
        rng = np.random.default_rng(3)
        for first in range(0, round(self._all_s * self.rows_hz), n):
            t_ns = np.rint(np.arange(first, first + n) * (_SECOND / self.rows_hz)).astype(np.int64)
            values = rng.normal(10.0, 1.0, (n, len(SENSOR_CHANNELS)))
            values[:, SENSOR_CHANNELS.index("wire_mm")] = np.arange(first, first + n) * 0.01
            arrival_ns = int(t_ns[-1]) + _LATENCY_NS
            rows = SensorRows(
                first_row=first, values=values, t_device_ns=t_ns, t_arrival_ns=np.full(n, arrival_ns, np.int64)
            )
            yield Packet(stream="plc", seq=first, t_arrival_ns=arrival_ns, payload=rows)

    def _events(self) -> Iterator[Packet]:
        on_ns = round(_LEAD_S * _SECOND)
        off_ns = on_ns + round(self.seconds * _SECOND)
        events = (
            (on_ns + _SECOND // 4, Event(kind="arc_on", weld=_WELD, t_ns=on_ns)),
            (off_ns + _SECOND // 2, Event(kind="arc_off", weld=_WELD, t_ns=off_ns)),
        )
        for i, (at_ns, event) in enumerate(events):
            yield Packet(stream=EVENTS_STREAM, seq=i, t_arrival_ns=at_ns, payload=event)

    def _photos(self) -> Iterator[Packet]:
        rng = np.random.default_rng(4)
        for i in range(self.photos):
            data = io.BytesIO()
            Image.fromarray(rng.integers(0, 256, (600, 800, 3), dtype=np.uint8)).save(data, "JPEG")
            photo = Photo(name=f"{i}.jpg", data=data.getvalue(), weld_hint=_WELD)
            yield Packet(stream="photos", seq=i, t_arrival_ns=round(self._all_s * _SECOND), payload=photo)


def bench_windows(seconds: float = 600.0, progress: Progress = lambda _: None) -> dict[str, Any]:
    """Measure how many seconds of weld are cut into windows of the default spec per second of work, on one thread.

    Args:
        seconds: Arc time, at least 10.
        progress: Takes lines for the user.

    Returns:
        `{"seconds", "window_s", "hop_s", "cells"}`; a cell is `{"rows_hz", "sound_hz", "packets", "windows", "live_x",
        "live_small_x", "cut_x", "polars_x", "equal"}`: times real time, and the share of values that polars gives the
        same (a slice of sound knows no clock drift).

    Raises:
        BenchError: The weld is too short to be timed.
    """
    if seconds < 10:
        raise BenchError(f"{seconds:g} s of weld are too few to be timed; use at least 10 s")
    spec = SampleSpec()
    cells = []
    for rows_hz in (9.0, 1000.0):
        weld = Weld(seconds=seconds, rows_hz=rows_hz)
        progress(f"live, sensors at {rows_hz:g} Hz")
        live = _live(weld, spec)
        small = _live(replace(weld, frame=(spec.height, spec.width)), spec)
        progress(f"beside polars, sensors at {rows_hz:g} Hz")
        cells.append({"rows_hz": rows_hz, "sound_hz": weld.sound_hz} | live | {"live_small_x": small["live_x"]})
        cells[-1] |= _compared(replace(weld, seconds=min(seconds, _COMPARED_S)), spec)
    return {"seconds": seconds, "window_s": spec.window_s, "hop_s": spec.hop_s, "cells": cells}


def _live(weld: Weld, spec: SampleSpec) -> dict[str, Any]:
    packets = weld.packets()
    cutter = WindowCutter(_WELD, spec, weld.infos)
    began = time.perf_counter()
    windows = sum(len(cutter.push(packet)) for packet in packets)
    cutter.photo_window()
    took_s = time.perf_counter() - began
    return {"packets": len(packets), "windows": windows, "live_x": round(weld.seconds / took_s, 1)}


def _compared(weld: Weld, spec: SampleSpec) -> dict[str, Any]:
    series = recorded_series(weld, spec)
    tables = Tables.of(series)
    starts = [round((_LEAD_S + i * spec.hop_s) * _SECOND) for i in range(int(weld.seconds - spec.window_s))]
    window_ns = round(spec.window_s * _SECOND)

    def ours(t0_ns: int) -> Weld4MSample:
        return cut(series.values(), t0_ns, t0_ns + window_ns, spec, weld=_WELD, index=0)

    def theirs(t0_ns: int) -> dict[str, Any]:
        return polars_window(tables, weld.infos, t0_ns, spec)

    took_s: dict[str, list[float]] = {"cut_x": [], "polars_x": []}
    for _ in range(_ROUNDS):
        for name, one in (("cut_x", ours), ("polars_x", theirs)):
            began = time.perf_counter()
            for t0_ns in starts:
                one(t0_ns)
            took_s[name].append(time.perf_counter() - began)
    speeds = {name: round(len(starts) * spec.hop_s / float(np.median(times)), 1) for name, times in took_s.items()}
    pairs = [(ours(t0_ns), theirs(t0_ns)) for t0_ns in starts[:: max(1, len(starts) // 10)]]
    equal = {
        name: round(float(np.mean([np.isclose(getattr(a, name), b[name]).mean() for a, b in pairs])), 4)
        for name in pairs[0][1]
    }
    return {**speeds, "equal": equal}


def recorded_series(weld: Weld, spec: SampleSpec) -> dict[str, Series]:
    """Fill the series of all streams with a whole weld."""
    infos = {name: info for name, info in weld.infos.items() if info.modality != "post_images"}
    series = {name: one for name, info in infos.items() if (one := make_series(info, spec)) is not None}
    clocks = ClockTable()
    for packet in weld.packets():
        if isinstance(packet.payload, ClockUpdate):
            clocks.apply(packet.payload)
        elif packet.stream in series:
            series[packet.stream].append(packet, clocks.cell_times_ns(infos[packet.stream], packet))
    return series


def lines(result: dict[str, Any]) -> Iterator[str]:
    """Lay out the result for people."""
    yield (
        f"Windows of {result['window_s']:g} s every {result['hop_s']:g} s out of {result['seconds']:g} s: "
        "times real time, one thread"
    )
    yield f"  {'sensors':10}{'live, 960 x 600':>17}{'live, small frames':>20}{'cut alone':>12}{'polars':>10}"
    for cell in result["cells"]:
        live, small, ours, theirs = (cell[name] for name in ("live_x", "live_small_x", "cut_x", "polars_x"))
        yield f"  {cell['rows_hz']:6g} Hz {live:17.0f}{small:20.0f}{ours:12.0f}{theirs:10.0f}"
        yield "    the same as polars: " + ", ".join(f"{name} {share:.1%}" for name, share in cell["equal"].items())
