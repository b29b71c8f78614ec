"""A hand-made cell: exact times, counters and losses, for the tests of ingest and recorder."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from acquisition.packet import (
    SENSOR_CHANNELS,
    ClockUpdate,
    Event,
    Packet,
    Payload,
    Photo,
    SampleBlock,
    SensorRows,
    StreamInfo,
    VideoFrame,
)
from recordings.cell import Cell, load_cell
from recordings.ingest import Ingest
from recordings.manifest import UtcPair
from recordings.recorder import IngestedPacket, RecorderCore
from sync.sample import SampleSpec, Weld4MSample
from sync.windows import WindowCutter

START_NS = 10**12
FPS, SOUND_HZ, BLOCK, ROWS_HZ, SIZE = 20, 2000, 100, 50, 64
LATENCY_NS = {"camera": 30_000_000, "second": 45_000_000, "microphone": 12_000_000, "sensors": 4_000_000}
SPEC = SampleSpec(
    window_s=1.0, hop_s=0.5, frames=4, height=32, width=32, audio_rate_hz=SOUND_HZ, sensor_rows=16, photos=2
)
CAMERA = StreamInfo(
    name="camera",
    modality="video",
    rate_hz=FPS,
    height=SIZE,
    width=SIZE,
    has_counter=True,
    device_clock="stamps",
)
MICROPHONE = StreamInfo(
    name="microphone",
    modality="audio",
    rate_hz=SOUND_HZ,
    channels=("mono",),
    units=("",),
    dtype="int16",
    has_counter=True,
    device_clock="samples",
)
SENSORS = StreamInfo(
    name="sensors",
    modality="sensors",
    rate_hz=ROWS_HZ,
    channels=SENSOR_CHANNELS,
    units=("",) * 6,
    dtype="float64",
    has_counter=True,
    device_clock="stamps",
)
PHOTOS = StreamInfo(name="photos", modality="post_images", rate_hz=0)
INFOS = {info.name: info for info in (CAMERA, MICROPHONE, SENSORS, PHOTOS)}


def cell(**changes: Any) -> Cell:
    """Give a cell with half a second of pre- and one of post-roll, and no photos, unless `changes` say otherwise."""
    base = load_cell(None)
    given = {name: changes.pop(name) for name in list(changes) if hasattr(base.record, name)}
    record: dict[str, Any] = {"video": "lossless", "pre_s": 0.5, "post_s": 1.0, "reserve_gb": 0.0} | given
    judge: dict[str, Any] = {"photos_expected": 0, "photo_wait_s": 3.0} | changes
    return replace(
        base,
        name="hand-made",
        record=replace(base.record, **record),
        judge=replace(base.judge, **judge),
        simulation=None,
    )


@dataclass
class World:
    """Devices with perfect clocks.

    Attributes:
        seconds: How long they deliver.
        arcs: When the arc burns, in seconds.
        lost: Packet numbers that never arrive, per stream.
        silent: (from, to) in seconds without any packet, per stream; the counters go on.
        restarts: When a device starts anew, per stream: a new segment whose counters begin at 0.
        infos: The streams.
    """

    seconds: float = 6.0
    arcs: tuple[tuple[float, float], ...] = ((2.0, 3.5),)
    lost: Mapping[str, Collection[int]] = field(default_factory=dict)
    silent: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    restarts: Mapping[str, float] = field(default_factory=dict)
    infos: Mapping[str, StreamInfo] = field(default_factory=lambda: INFOS)

    def packets(self) -> list[Packet]:
        made = [p for info in self.infos.values() if info.modality != "post_images" for p in self._stream(info)]
        return sorted(made, key=lambda packet: packet.t_arrival_ns)

    def _stream(self, info: StreamInfo) -> Iterator[Packet]:
        step = BLOCK if info.modality == "audio" else 1
        gone = self.lost.get(info.name, ())
        quiet = self.silent.get(info.name, (-1.0, -1.0))
        restart_s = self.restarts.get(info.name, self.seconds + 1.0)
        segment, base = 0, 0
        for n in range(round(self.seconds * info.rate_hz) // step):
            t_s = n * step / info.rate_hz
            if t_s >= restart_s and not segment:
                segment, base = 1, n
            if n not in gone and not quiet[0] <= t_s < quiet[1]:
                yield self._packet(info, n, n - base, step, segment)

    def _packet(self, info: StreamInfo, n: int, number: int, step: int, segment: int) -> Packet:
        t_ns = round(n * step * 1e9 / info.rate_hz)
        end_ns = round((n + 1) * step * 1e9 / info.rate_hz) if info.modality == "audio" else t_ns
        arrival_ns = START_NS + end_ns + LATENCY_NS[info.name]
        burns = any(on <= t_ns / 1e9 < off for on, off in self.arcs)
        device_ns = None if info.modality == "audio" else 7_000_000_000 + round(number * step * 1e9 / info.rate_hz)
        payload: Payload
        if info.modality == "video":
            pixels = np.full((SIZE, SIZE), 240 if burns else 20, np.uint8)
            pixels[n % SIZE] = n % 251
            payload = VideoFrame(pixels=pixels)
        elif info.modality == "audio":
            wave = (np.arange(step) * (37 + n)) % 199 * (100 if burns else 1)
            payload = SampleBlock(first_sample=number * step, rate_hz=info.rate_hz, samples=wave[:, None].astype("i2"))
        else:
            values = np.full((1, 6), float(n))
            values[0, 3], values[0, 5] = (150.0, 22.0) if burns else (0.0, 0.0)
            stamps = np.array([device_ns], np.int64)
            arrivals = np.array([arrival_ns], np.int64)
            payload = SensorRows(first_row=number, values=values, t_device_ns=stamps, t_arrival_ns=arrivals)
        return Packet(
            stream=info.name,
            seq=number,
            segment=segment,
            t_device_ns=device_ns,
            t_arrival_ns=arrival_ns,
            payload=payload,
        )


def photo(t_s: float, name: str = "bead.png", hint: str | None = None) -> Packet:
    payload = Photo(name=name, data=name.encode(), weld_hint=hint)
    return Packet(stream="photos", seq=0, t_arrival_ns=START_NS + round(t_s * 1e9), payload=payload)


@dataclass
class Run:
    """An ingest with everything that came out of it, and a recorder behind it if there is a `root`."""

    cell: Cell
    root: Path | None = None
    infos: Mapping[str, StreamInfo] = field(default_factory=lambda: INFOS)
    published: list[Packet] = field(default_factory=list)
    keyframes: set[int] = field(default_factory=set)
    problems: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.ingest = Ingest(self.cell, self.infos, lambda cell_ns: cell_ns)
        pair = UtcPair(monotonic_ns=START_NS, utc_ns=START_NS, uncertainty_ns=1)
        self.core = RecorderCore(
            cell=self.cell,
            infos=self.ingest.infos,
            root=self.root or Path("nowhere"),
            session="test",
            utc=lambda: pair,
            on_problem=self.problems.append,
        )

    def take(self, packets: Iterable[Packet]) -> None:
        for packet in packets:
            self.published.append(packet)
            key = packet.order == self.ingest.keyframe_order
            if key:
                self.keyframes.add(packet.order)
            if self.root is not None:
                self.core.handle(IngestedPacket(packet=packet, keyframe=key))

    def feed(
        self,
        packets: Iterable[Packet],
        *,
        tick_ns: int = 20_000_000,
        at: Mapping[float, Callable[[Ingest, int], list[Packet]]] | None = None,
    ) -> "Run":
        """Push packets with a tick every `tick_ns`; `at` holds commands by the second at which they are given."""
        commands = sorted((at or {}).items())
        now_ns = START_NS
        for packet in packets:
            while now_ns + tick_ns <= packet.t_arrival_ns:
                now_ns += tick_ns
                while commands and now_ns >= START_NS + commands[0][0] * 1e9:
                    self.take(commands.pop(0)[1](self.ingest, now_ns))
                self.take(self.ingest.tick(now_ns))
            self.take(self.ingest.push(packet))
        return self

    def events(self, kind: str) -> list[Event]:
        return [p.payload for p in self.published if isinstance(p.payload, Event) and p.payload.kind == kind]

    def live(self, key: str) -> list[Packet]:
        """Give what a detector holds for a weld: the clocks in force at its first order, then all later packets."""
        first = next(e.data["first_order"] for e in self.events("weld_open") if e.weld == key)
        before = [p for p in self.published if p.order < first and isinstance(p.payload, ClockUpdate)]
        newest = {p.payload.of_stream: p for p in before if isinstance(p.payload, ClockUpdate)}
        return [*newest.values(), *(p for p in self.published if p.order >= first)]

    def windows(self, key: str) -> list[Weld4MSample]:
        return cut_windows(key, self.live(key), self.infos)


def cut_windows(key: str, packets: Iterable[Packet], infos: Mapping[str, StreamInfo]) -> list[Weld4MSample]:
    cutter = WindowCutter(key, SPEC, infos)
    return [sample for packet in packets for sample in cutter.push(packet)]
