"""A weld as one MCAP file, for Foxglove and every MCAP reader: all streams on one time axis, exact to the nanosecond.

`log_time` is cell time put onto UTC by one offset, `publish_time` the arrival; the tables of the weld, with every
stamp and counter, are attached as they are.
"""

from base64 import b64encode
from typing import Any, Final

import msgspec
import numpy as np
from mcap.writer import CompressionType, Writer

from acquisition.packet import ClockUpdate, Event, Photo, SampleBlock, SensorRows, StreamInfo
from recordings.export_mcap_schemas import (
    CLOCK,
    EVENT,
    IMAGE,
    SCORE,
    SOUND,
    SOUND_32,
    VERDICT,
    VIDEO,
    schema,
    sensor_schema,
    stamp,
)
from recordings.export_place import Destination, safe_path
from recordings.export_source import ExportSource, TimedFrame, TimedPacket
from recordings.export_video import is_h264
from recordings.verdict import CLASSES, Score
from recordings.weld_folder import MANIFEST, WeldError, member

_LIBRARY: Final = "weld-4m"
_MAGIC: Final = {b"\xff\xd8\xff": "jpeg", b"\x89PNG\r\n": "png"}


class McapFormat:
    """One `<key>.mcap` per weld."""

    overall: tuple[str, ...] = ()
    limits: tuple[str, ...] = (
        "times stand on UTC by the clock pair at the weld's start; cell time is log_time minus utc_offset_ns of the "
        "metadata record 'weld'",
        "truth.json of simulated welds is not exported",
    )

    def write(self, weld: ExportSource, place: Destination) -> tuple[list[str], dict[str, Any]]:
        """Write the file of one weld."""
        name = f"{safe_path(weld.manifest.key)}.mcap"
        path = place.staging / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            writer = Writer(file, compression=CompressionType.ZSTD)
            writer.start(profile="", library=_LIBRARY)
            _Messages(weld, writer).write()
            writer.finish()  # type: ignore[no-untyped-call]
        return [name], {}

    def finish(self, place: Destination) -> None:
        """Nothing stands over all welds."""


class _Messages:
    """Puts one weld into an MCAP writer."""

    def __init__(self, weld: ExportSource, writer: Writer) -> None:
        self._weld = weld
        self._writer = writer
        self._offset_ns, self._basis = weld.epoch()
        self._schemas: dict[str, int] = {}
        self._channels: dict[str, int] = {}

    def write(self) -> None:
        """Write metadata, all messages by arrival, what was judged, then the tables as attachments."""
        weld, manifest = self._weld, self._weld.manifest
        cameras = weld.streams("video")
        self._describe()
        for item in weld.merged([info.name for info in cameras]):
            self._frame(item) if isinstance(item, TimedFrame) else self._packet(item)
        self._judgement()
        for info in cameras:
            if not is_h264(weld.reader, info.name):
                weld.warnings.append(f"{info.name}: no H.264; encoded anew without loss, decoded values are equal")
        for info in weld.streams("audio"):
            if info.dtype != "int16":
                weld.warnings.append(
                    f"{info.name}: /{info.name}/audio holds the upper 16 bits, /{info.name}/pcm32 all of them"
                )
        if self._basis != "UTC":
            weld.warnings.append(f"times are {self._basis}")
        for name in [MANIFEST, *sorted(name for name in manifest.files if name.endswith(".parquet"))]:
            kind = "application/json" if name == MANIFEST else "application/vnd.apache.parquet"
            self._attach(name, kind, member(weld.folder, name).read_bytes(), manifest.origin_ns)

    def _describe(self) -> None:
        manifest, offset_ns = self._weld.manifest, self._offset_ns
        about = {
            "key": manifest.key,
            "cell": manifest.cell,
            "session": manifest.session,
            "source": manifest.source,
            "label": str(manifest.label),
            "class": CLASSES[manifest.label] if 0 <= manifest.label < len(CLASSES) else "unknown",
            "utc_offset_ns": str(offset_ns),
            "times_are": self._basis,
            "arc_on_ns": str(manifest.arc_on_ns),
            "arc_off_ns": str(manifest.arc_off_ns),
            "weld_json_xxh3_128": self._weld.digest,
        }
        described = {f"metadata.{name}": str(value) for name, value in manifest.described.items()}
        self._writer.add_metadata("weld", about | described)

    def _channel(self, topic: str, name: str, data: bytes | None = None, about: dict[str, str] | None = None) -> int:
        """Return the channel of a topic, made with its schema on first use."""
        if topic not in self._channels:
            if name not in self._schemas:
                self._schemas[name] = self._writer.register_schema(name, "jsonschema", data or schema(name))
            self._channels[topic] = self._writer.register_channel(topic, "json", self._schemas[name], about or {})
        return self._channels[topic]

    def _time(self, t_ns: int) -> int:
        """Put a cell time onto the file's axis."""
        if t_ns + self._offset_ns < 0:
            raise WeldError(f"{self._weld.folder}: an item lies before 1970; its UTC pairs are wrong")
        return t_ns + self._offset_ns

    def _send(self, channel: int, t_ns: int, arrival_ns: int, body: dict[str, Any], seq: int = 0) -> None:
        log_ns = self._time(t_ns)
        data = msgspec.json.encode({"timestamp": stamp(log_ns), **body})
        self._writer.add_message(channel, log_ns, data, self._time(arrival_ns), seq & 0xFFFFFFFF)

    def _frame(self, item: TimedFrame) -> None:
        frame = item.frame
        body = {"frame_id": frame.stream, "data": b64encode(frame.data).decode(), "format": "h264"}
        channel = self._channel(f"/{frame.stream}/video", VIDEO)
        self._send(channel, item.t_ns, frame.t_arrival_ns, body, frame.seq)

    def _packet(self, item: TimedPacket) -> None:
        packet, payload, t_ns = item.packet, item.packet.payload, item.t_ns
        info = self._weld.reader.infos.get(packet.stream)
        if isinstance(payload, SampleBlock) and info is not None:
            self._block(item, payload, info)
        elif isinstance(payload, SensorRows) and info is not None:
            self._rows(item, payload, info)
        elif isinstance(payload, Photo):
            self._photo(item, payload)
        elif isinstance(payload, Event):
            body = {"kind": payload.kind, "weld": payload.weld, "data": payload.data}
            self._send(self._channel("/events", EVENT), int(t_ns[0]), packet.t_arrival_ns, body, packet.seq)
        elif isinstance(payload, ClockUpdate):
            body = msgspec.to_builtins(payload)
            self._send(self._channel("/clocks", CLOCK), int(t_ns[0]), packet.t_arrival_ns, body, packet.seq)

    def _block(self, item: TimedPacket, block: SampleBlock, info: StreamInfo) -> None:
        if not len(block.samples):
            return
        packet, t_ns = item.packet, int(item.t_ns[0])
        about = {"sample_rate": round(block.rate_hz), "number_of_channels": block.samples.shape[1]}
        samples = block.samples
        if samples.dtype != np.int16:
            data = b64encode(samples.astype("<i4").tobytes()).decode()
            channel = self._channel(f"/{info.name}/pcm32", SOUND_32)
            self._send(channel, t_ns, packet.t_arrival_ns, {"data": data, "format": "pcm-s32", **about}, packet.seq)
            samples = samples >> 16
        data = b64encode(samples.astype("<i2").tobytes()).decode()
        channel = self._channel(f"/{info.name}/audio", SOUND)
        self._send(channel, t_ns, packet.t_arrival_ns, {"data": data, "format": "pcm-s16", **about}, packet.seq)

    def _rows(self, item: TimedPacket, rows: SensorRows, info: StreamInfo) -> None:
        name, data = sensor_schema(info)
        units = dict(zip(info.channels, info.units, strict=False))
        channel = self._channel(f"/{info.name}", name, data, units)
        times = zip(item.t_ns.tolist(), rows.t_arrival_ns.tolist(), rows.values.tolist(), strict=True)
        for i, (t_ns, arrival_ns, values) in enumerate(times):
            body = {"row": rows.first_row + i, **dict(zip(info.channels, values, strict=True))}
            self._send(channel, t_ns, arrival_ns, body, rows.first_row + i)

    def _photo(self, item: TimedPacket, photo: Photo) -> None:
        packet, t_ns = item.packet, int(item.t_ns[0])
        kind = next((kind for magic, kind in _MAGIC.items() if photo.data.startswith(magic)), None)
        if kind is None:
            self._attach(f"photos/{photo.name}", "application/octet-stream", photo.data, t_ns)
            self._weld.warnings.append(f"photo {photo.name!r} is neither JPEG nor PNG; it is an attachment")
            return
        body = {"frame_id": photo.name, "data": b64encode(photo.data).decode(), "format": kind}
        self._send(self._channel(f"/{packet.stream}", IMAGE), t_ns, packet.t_arrival_ns, body, packet.seq)

    def _judgement(self) -> None:
        """Write scores and verdicts; a verdict stands where the newest score before it ends."""
        manifest = self._weld.manifest
        t_ns = manifest.origin_ns
        for item in self._weld.scored():
            is_score = isinstance(item, Score)
            t_ns = item.t1_ns if isinstance(item, Score) else t_ns
            channel = self._channel("/scores", SCORE) if is_score else self._channel("/verdicts", VERDICT)
            self._send(channel, t_ns, t_ns, msgspec.to_builtins(item))

    def _attach(self, name: str, kind: str, data: bytes, t_ns: int) -> None:
        self._writer.add_attachment(self._time(t_ns), self._time(t_ns), name, kind, data)
