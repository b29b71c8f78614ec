"""A small synthetic weld, packet by packet, for the tests of writing and reading; no device, no simulation."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
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
from recordings.manifest import Manifest, StreamRecord
from recordings.video_encoder import VideoEncoder
from recordings.weld_writer import WeldWriter

HEIGHT, WIDTH = 200, 320
FPS, RATE_HZ, BLOCK, ROWS_HZ = 30, 48_000, 480, 500
ORIGIN_NS = 5_000_000_000_000
KEY = "2026-01-02T030405Z-1"

INFOS = {
    "camera": StreamInfo(
        name="camera", modality="video", rate_hz=FPS, height=HEIGHT, width=WIDTH, device_clock="stamps"
    ),
    "microphone": StreamInfo(
        name="microphone",
        modality="audio",
        rate_hz=RATE_HZ,
        channels=("mono",),
        units=("",),
        dtype="int16",
        has_counter=True,
        device_clock="samples",
    ),
    "process": StreamInfo(
        name="process",
        modality="sensors",
        rate_hz=ROWS_HZ,
        channels=SENSOR_CHANNELS,
        units=("bar", "l/min", "", "A", "mm", "V"),
        dtype="float64",
        has_counter=True,
        device_clock="stamps",
    ),
    "bead": StreamInfo(name="bead", modality="post_images", rate_hz=0),
}


@dataclass
class Cell:
    """Makes the packets of a weld in ingest order, the same ones for the same seed."""

    seed: int = 1
    arc_s: tuple[float, float] = (1.0, 3.0)
    infos: dict[str, StreamInfo] = field(default_factory=lambda: dict(INFOS))
    light_delay_s: float = 0.0
    order: int = 100
    event_seq: int = 0

    def __post_init__(self) -> None:
        self._random = np.random.default_rng(self.seed)
        self._texture = self._random.integers(0, 40, (HEIGHT, WIDTH), dtype=np.uint8)

    def packet(self, stream: str, seq: int, t_ns: int, payload: Payload, **more: Any) -> Packet:
        self.order += 1
        return Packet(stream=stream, seq=seq, t_arrival_ns=t_ns, payload=payload, order=self.order, **more)

    def event(self, kind: str, t_s: float, *, weld: str | None = KEY, **data: Any) -> Packet:
        self.event_seq += 1
        t_ns = ORIGIN_NS + round(t_s * 1e9)
        return self.packet("events", self.event_seq, t_ns, Event(kind=kind, weld=weld, t_ns=t_ns, data=data))

    def clock(self, stream: str, t_s: float) -> Packet:
        update = ClockUpdate(of_stream=stream, segment=0, ref_ns=0, offset_ns=ORIGIN_NS, drift_ppb=0, sigma_ns=1000)
        return self.packet("clocks", self.order, ORIGIN_NS + round(t_s * 1e9), update)

    def burning(self, t_s: float) -> bool:
        return self.arc_s[0] <= t_s < self.arc_s[1]

    def process(self, seconds: float, *, start_s: float = 0.0) -> Iterator[Packet]:
        """Give the device packets of `seconds`, merged by arrival, 10 ms at a time."""
        frame_at = start_s
        for tick in range(round(start_s * 100), round((start_s + seconds) * 100)):
            t_s = tick / 100
            if t_s >= frame_at:
                seq = round(t_s * FPS)
                frame_at = (seq + 1) / FPS
                yield self.frame(seq, t_s)
            yield self.block(tick, t_s)
            yield self.rows(tick, t_s)

    def frame(self, seq: int, t_s: float) -> Packet:
        pixels = self._texture + np.uint8(10)
        if self.burning(t_s - self.light_delay_s):
            pixels[60:140, 100:220] = 255 - self._random.integers(0, 9, (80, 120), dtype=np.uint8)
        jitter_ns = int(self._random.integers(0, 3_000_000))
        t_ns = ORIGIN_NS + round(t_s * 1e9)
        return self.packet("camera", seq, t_ns + jitter_ns, VideoFrame(pixels=pixels), t_device_ns=t_ns - ORIGIN_NS)

    def block(self, tick: int, t_s: float) -> Packet:
        loud = 8000 if self.burning(t_s) else 20
        info = self.infos["microphone"]
        shape = (BLOCK, len(info.channels))
        samples = self._random.integers(-loud, loud, shape).astype(info.dtype)
        if info.dtype == "int32":
            samples = samples * 65_537 + 3
        block = SampleBlock(
            first_sample=tick * BLOCK,
            rate_hz=RATE_HZ,
            samples=samples.astype(info.dtype),
            t_adc_ns=tick if tick % 2 else None,
            overflow=tick % 7 == 0,
        )
        return self.packet("microphone", tick, ORIGIN_NS + round((t_s + 0.01) * 1e9), block)

    def rows(self, tick: int, t_s: float) -> Packet:
        n = ROWS_HZ // 100
        values = self._random.normal(1.0, 0.1, (n, len(SENSOR_CHANNELS)))
        values[:, 3] = 150.0 if self.burning(t_s) else 0.0
        values[:, 5] = 20.0 if self.burning(t_s) else 0.5
        values[0, 0] = np.nan
        device_ns = np.arange(n, dtype=np.int64) * (1_000_000_000 // ROWS_HZ) + tick * 10_000_000
        arrival_ns = np.full(n, ORIGIN_NS + round((t_s + 0.01) * 1e9), np.int64)
        rows = SensorRows(first_row=tick * n, values=values, t_device_ns=device_ns, t_arrival_ns=arrival_ns)
        return self.packet("process", tick, int(arrival_ns[0]), rows, t_device_ns=int(device_ns[0]))

    def weld(self, seconds: float = 4.0, photos: int = 2) -> Iterator[Packet]:
        """Give a whole weld: clocks, opening, process, edges, a gap, closing, photos."""
        yield self.clock("process", 0.0)
        yield self.clock("camera", 0.0)
        yield self.clock("microphone", 0.0)
        yield from self.process(self.arc_s[0])
        yield self.event("weld_open", self.arc_s[0], first_order=104, pre_s=1.0, trigger="arc")
        yield self.event("arc_on", self.arc_s[0], source="current")
        yield from self.process(self.arc_s[1] - self.arc_s[0], start_s=self.arc_s[0])
        yield self.event("arc_off", self.arc_s[1], source="current")
        yield self.event("gap", self.arc_s[1], weld=None, stream="camera", first=90, missing=3, reason="device")
        yield from self.process(seconds - self.arc_s[1], start_s=self.arc_s[1])
        yield self.event("weld_close", seconds, last_order=self.order)
        for i in range(photos):
            photo = Photo(name="bead.jpg", data=bytes(range(i, 200)), weld_hint=KEY, view=i if i else None)
            yield self.packet("bead", i, ORIGIN_NS + round((seconds + i) * 1e9), photo)
            yield self.event("photo", seconds + i, name="bead.jpg", view=i)
        yield self.event("photos_done", seconds + photos, expected=photos, received=photos)


def manifest(infos: dict[str, StreamInfo] | None = None) -> Manifest:
    streams = {name: StreamRecord(info=info, files=[], codec="") for name, info in (infos or INFOS).items()}
    return Manifest(
        key=KEY, cell="test", session="s", state="open", streams=streams, first_order=104, origin_ns=ORIGIN_NS
    )


class Recording:
    """A writer with its encoder: what the capture process does, on one thread."""

    def __init__(self, folder: Path, infos: dict[str, StreamInfo] | None = None, *, lossless: bool = True) -> None:
        infos = infos or INFOS
        self.encoder = VideoEncoder(infos["camera"], lossless=lossless)
        self.writer = WeldWriter(folder, manifest(infos), {"camera": self.encoder})

    def take(self, packet: Packet) -> None:
        self.writer.received(packet)
        if isinstance(packet.payload, VideoFrame):
            for frame in self.encoder.encode(packet):
                self.writer.write(frame)
        else:
            self.writer.write(packet)

    def take_all(self, packets: Iterable[Packet], taken: list[Packet]) -> None:
        """Take packets, listing in `taken` those that went through."""
        for packet in packets:
            self.take(packet)
            taken.append(packet)


def same(a: Packet, b: Packet) -> bool:
    """Tell whether two packets are equal, arrays byte for byte."""
    heads = [(p.stream, p.order, p.segment, p.seq, p.t_device_ns, p.t_arrival_ns, type(p.payload)) for p in (a, b)]
    if heads[0] != heads[1]:
        return False
    for name in type(a.payload).__dataclass_fields__:
        x, y = getattr(a.payload, name), getattr(b.payload, name)
        if isinstance(x, np.ndarray):
            if not isinstance(y, np.ndarray) or (x.dtype, x.shape, x.tobytes()) != (y.dtype, y.shape, y.tobytes()):
                return False
        elif x != y:
            return False
    return True
