"""A small cell history with known contents: camera, microphone, sensors, clocks and events of one weld, in order."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from acquisition.packet import (
    CLOCKS_STREAM,
    EVENTS_STREAM,
    SENSOR_CHANNELS,
    ClockUpdate,
    Event,
    Packet,
    SampleBlock,
    SensorRows,
    StreamInfo,
    VideoFrame,
)
from sync.sample import SampleSpec, Weld4MSample
from sync.windows import WindowCutter

SECOND = 10**9
SPEC = SampleSpec(window_s=2.0, hop_s=0.5, frames=4, height=6, width=8, audio_rate_hz=1000, sensor_rows=16, tail_s=0.75)
INFOS = {
    "camera": StreamInfo(
        name="camera", modality="video", rate_hz=20.0, height=12, width=16, has_counter=True, device_clock="stamps"
    ),
    "mic": StreamInfo(
        name="mic", modality="audio", rate_hz=1000.0, channels=("mono",), dtype="int16", device_clock="samples"
    ),
    "plc": StreamInfo(
        name="plc", modality="sensors", rate_hz=50.0, channels=SENSOR_CHANNELS, dtype="float64", device_clock="stamps"
    ),
}


@dataclass(frozen=True)
class History:
    """What happens; all times in ns of a true clock that starts at 0."""

    length_s: float = 7.0
    arc_on_s: float = 1.0
    arc_off_s: float = 5.0
    block: int = 50
    batch: int = 5
    shift_ns: int = 0
    mic_drift_ppb: int = 40_000
    lost_streams: tuple[str, ...] = ()
    gap_s: tuple[float, float] = (0.0, 0.0)
    close: bool = True

    def packets(self) -> list[Packet]:
        """All packets, ordered by arrival, with contiguous orders from 100 on after a clock snapshot."""
        snapshot = [
            ClockUpdate(
                of_stream=name,
                segment=0,
                ref_ns=0,
                offset_ns=self.shift_ns,
                drift_ppb=self.mic_drift_ppb if name == "mic" else 0,
                sigma_ns=1000,
            )
            for name in INFOS
        ]
        timed = sorted((p for p in self._device() if not self._lost(p)), key=lambda p: p.t_arrival_ns)
        timed = self._with_events(timed)
        before = [
            Packet(stream=CLOCKS_STREAM, seq=i, t_arrival_ns=self.shift_ns, payload=update, order=3 + 7 * i)
            for i, update in enumerate(snapshot)
        ]
        return before + [replace(p, order=100 + i) for i, p in enumerate(timed)]

    def _lost(self, packet: Packet) -> bool:
        at_s = (packet.t_arrival_ns - self.shift_ns) / SECOND
        return packet.stream in self.lost_streams and self.gap_s[0] <= at_s < self.gap_s[1]

    def _device(self) -> Iterable[Packet]:
        latency_ns = 3_000_000
        for i in range(round(self.length_s * 20)):
            t = i * 50_000_000
            pixels = np.full((12, 16), i % 256, np.uint8)
            yield Packet(
                stream="camera",
                seq=i,
                t_device_ns=t,
                t_arrival_ns=t + latency_ns + self.shift_ns,
                payload=VideoFrame(pixels=pixels),
            )
        for first in range(0, round(self.length_s * 1000), self.block):
            samples = np.arange(first, first + self.block, dtype=np.int16)[:, np.newaxis]
            yield Packet(
                stream="mic",
                seq=first,
                t_arrival_ns=(first + self.block) * 1_000_040 + latency_ns + self.shift_ns,
                payload=SampleBlock(first_sample=first, rate_hz=1000.0, samples=samples),
            )
        for first in range(0, round(self.length_s * 50), self.batch):
            row = np.arange(first, first + self.batch, dtype=np.int64)
            values = row[:, np.newaxis] * 1.0 + np.arange(6) * 1000.0
            yield Packet(
                stream="plc",
                seq=first,
                t_arrival_ns=int(row[-1]) * 20_000_000 + latency_ns + 7 + self.shift_ns,
                payload=SensorRows(
                    first_row=first,
                    values=values,
                    t_device_ns=row * 20_000_000,
                    t_arrival_ns=row * 20_000_000 + latency_ns + self.shift_ns,
                ),
            )

    def _with_events(self, timed: list[Packet]) -> list[Packet]:
        on_ns, off_ns = (round(t * SECOND) + self.shift_ns for t in (self.arc_on_s, self.arc_off_s))
        events = [
            (on_ns + 250_000_000, Event(kind="weld_open", weld="w", t_ns=on_ns, data={"first_order": 100})),
            (on_ns + 250_000_000, Event(kind="arc_on", weld="w", t_ns=on_ns)),
            (on_ns + 300_000_000, Event(kind="arc_on", weld="other", t_ns=on_ns - SECOND)),
            (off_ns + 520_000_000, Event(kind="arc_off", weld="w", t_ns=off_ns)),
        ]
        if self.close:
            events.append((timed[-1].t_arrival_ns, Event(kind="weld_close", weld="w")))
        made = [
            Packet(stream=EVENTS_STREAM, seq=i, t_arrival_ns=at, payload=event)
            for i, (at, event) in enumerate(events)
            if at <= timed[-1].t_arrival_ns
        ]
        return sorted([*timed, *made], key=lambda p: p.t_arrival_ns)


def cut_all(packets: Iterable[Packet], spec: SampleSpec = SPEC) -> list[Weld4MSample]:
    """Push everything into a new cutter."""
    cutter = WindowCutter("w", spec, INFOS, label=3)
    return [window for packet in packets for window in cutter.push(packet)]


def contents(window: Weld4MSample) -> tuple[object, ...]:
    """Every array and mask of a window, as bytes."""
    return tuple(
        getattr(window, name).tobytes()
        for name in ("video", "video_mask", "audio", "audio_mask", "sensors", "sensors_mask")
    )
