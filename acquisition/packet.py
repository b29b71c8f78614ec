"""Packets: what every device hands to the capture process, and what is recorded, published and replayed.

A packet carries raw stamps only. Correcting them (`sync.clock`) happens on load, so that a better clock model can
re-time an old weld without touching a recorded byte.
"""

from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

Modality: TypeAlias = Literal["video", "audio", "sensors", "post_images"]
MODALITIES: Final[tuple[Modality, ...]] = ("video", "audio", "sensors", "post_images")

SENSOR_CHANNELS: Final[tuple[str, ...]] = (
    "pressure_bar",
    "co2_flow_l_min",
    "feed",
    "current_a",
    "wire_mm",
    "voltage_v",
)
"""The six sensor channels of Weld-4M, in the order of every sensor array; the unit of `feed` is unverified."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamInfo:
    """What a stream is: fixed when its driver opens, recorded in `weld.json`, and sent to every reader.

    Attributes:
        name: Stream name from the cell file; also the stem of its files in a weld folder.
        modality: Which of the four modalities it carries.
        rate_hz: Nominal items per second (frames, sample instants, rows); 0 for photos.
        channels: Channel names (sensors: some of `SENSOR_CHANNELS`, and `trigger` where the device has such a signal;
            sound: `("mono",)` and the like).
        units: One unit per channel, `""` where unknown.
        dtype: NumPy dtype of the payload array (`uint8`, `int16`, `int32`, `float64`).
        height: Frame height in pixels (video only).
        width: Frame width in pixels (video only).
        has_counter: The device numbers its own items, so every loss shows in `seq` / `first_sample` / `first_row`.
        device_clock: Where the time axis of the clock model comes from: `"stamps"` (`t_device_ns`), `"samples"`
            (`first_sample`, `first_row` or a frame's `seq`, over `rate_hz`) or `"none"` (arrival time as it is).
        inferred_time: Stamps were inferred (imported data without a time column), not measured.
        latency_ns: Constant time from the event to its arrival that no clock of one stream can show (exposure, bus,
            speed of sound), calibrated from arc edges (`sync.latency`); taken off every cell time.
    """

    name: str
    modality: Modality
    rate_hz: float
    channels: tuple[str, ...] = ()
    units: tuple[str, ...] = ()
    dtype: str = "uint8"
    height: int = 0
    width: int = 0
    has_counter: bool = False
    device_clock: Literal["stamps", "samples", "none"] = "none"
    inferred_time: bool = False
    latency_ns: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoFrame:
    """One gray frame, `(height, width)` uint8, full range, as delivered by the device (never tone-mapped)."""

    pixels: npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleBlock:
    """A block of sound, `(n, channels)` int16 or int32, counted by the device from its opening.

    Attributes:
        first_sample: Index of the first sample since the segment began; a jump is a loss.
        rate_hz: Nominal sample rate.
        samples: The samples, `(n, channels)`.
        t_adc_ns: The sound interface's own capture time, kept as a record only, or None.
        overflow: The device said that it lost samples before this block.
    """

    first_sample: int
    rate_hz: float
    samples: npt.NDArray[np.int16] | npt.NDArray[np.int32]
    t_adc_ns: int | None = None
    overflow: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SensorRows:
    """One or more sensor rows that arrived together.

    Attributes:
        first_row: Device row counter of the first row (the driver's own count where the device has none).
        values: `(n, channels)` float64 in the units of `StreamInfo.units`; NaN = not measured.
        t_device_ns: `(n,)` int64 device stamps, or None where the device sends none.
        t_arrival_ns: `(n,)` int64 cell-clock stamps taken before parsing.
    """

    first_row: int
    values: npt.NDArray[np.float64]
    t_device_ns: npt.NDArray[np.int64] | None
    t_arrival_ns: npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Photo:
    """One post-weld photo file as it came.

    Attributes:
        name: File name without folders.
        data: The file's bytes, never re-encoded.
        weld_hint: Weld key or id named by the file or its folder, or None.
        view: View id if known, or None.
    """

    name: str
    data: bytes
    weld_hint: str | None = None
    view: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ClockUpdate:
    """A change of one stream's online clock; valid for packets of that stream and segment with a larger `order`.

    The cell time of device time `x` is `x + offset_ns + (x - ref_ns) * drift_ppb // 10**9`, in exact integers.

    Attributes:
        of_stream: The stream whose clock changed.
        segment: The stream segment it holds for.
        ref_ns: Device time at which `offset_ns` holds.
        offset_ns: Cell time minus device time at `ref_ns`.
        drift_ppb: Rate of the cell clock against the device clock, minus one, in parts per 10^9.
        sigma_ns: One-sigma uncertainty of the offset.
    """

    of_stream: str
    segment: int
    ref_ns: int
    offset_ns: int
    drift_ppb: int
    sigma_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that happened in the cell, decided by the capture process, recorded and published like a packet.

    Attributes:
        kind: One of `EVENT_KINDS`.
        weld: Key of the weld it belongs to, or None.
        t_ns: Cell time at which it happened (back-dated for arc edges), or None.
        data: JSON-compatible details.
    """

    kind: str
    weld: str | None = None
    t_ns: int | None = None
    data: dict[str, Any] = field(default_factory=dict)


EVENT_KINDS: Final[dict[str, str]] = {
    "weld_open": "a weld begins: data first_order, pre_s, trigger, by; t_ns is the back-dated trigger",
    "arc_on": "arc-on edge of the weld: data source (current, light, sound, external, manual)",
    "arc_off": "arc-off edge of the weld: data source",
    "arc_ignored": "an arc that begins no weld: data source, reason (not armed, shorter than shortest_s), seconds",
    "trigger_ignored": "a trigger that begins no weld: data source, by, reason",
    "weld_close": "the last process packet of the weld has been taken: data last_order",
    "photo": "a photo was given to the weld: data name, view",
    "photos_done": "no further photo is waited for: data expected, received",
    "gap": "items were lost: data stream, first, missing, reason; t_ns is where the gap begins",
    "stream_lost": "a stream fell silent or its device died: data stream, reason",
    "stream_back": "a stream returned: data stream, segment",
    "clock_fault": "a device's time was unusable as it came, and was mended: data stream, segment, what, seconds",
    "sync": "where each stream saw the weld's arc, against the sensors: data offsets {stream: {offset_ms, sigma_ms}}",
    "replay_seek": "only in a replay: it goes on elsewhere (order 0): data position_s, from_order, whole",
    "mark": "somebody pressed MARK: data note",
    "label": "somebody labelled the weld: data label, by",
}

Payload: TypeAlias = VideoFrame | SampleBlock | SensorRows | Photo | ClockUpdate | Event

CLOCKS_STREAM: Final = "clocks"
EVENTS_STREAM: Final = "events"
RESERVED_STREAMS: Final = frozenset({CLOCKS_STREAM, EVENTS_STREAM, "scores", "photos", "truth", "weld"})
"""Names that a cell file may not give to a device stream, because a weld folder uses them itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Packet:
    """One delivery of one stream.

    Attributes:
        stream: Stream name (`CLOCKS_STREAM` and `EVENTS_STREAM` for the capture process's own packets).
        order: Global ingest counter, given by the capture process; 0 before that. Strictly increasing, never reused.
        segment: Counts the openings of the device; counters and device time start anew with each.
        seq: The device's item number, or the driver's own count; a jump is a loss.
        t_device_ns: Device time, or None.
        t_arrival_ns: Cell-clock time (host monotonic, ns) stamped on arrival, before decoding.
        payload: The data.
    """

    stream: str
    seq: int
    t_arrival_ns: int
    payload: Payload
    order: int = 0
    segment: int = 0
    t_device_ns: int | None = None


def item_range(packet: Packet) -> tuple[int, int]:
    """First item number and item count of a device packet (frames, sample instants or rows)."""
    payload = packet.payload
    if isinstance(payload, SampleBlock):
        return payload.first_sample, len(payload.samples)
    if isinstance(payload, SensorRows):
        return payload.first_row, len(payload.values)
    return packet.seq, 1
