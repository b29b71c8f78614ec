"""A weld as exporters read it: checked first, then item by item with its cell time, never as a whole in memory."""

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Final

import numpy as np

from acquisition.packet import (
    CLOCKS_STREAM,
    ClockUpdate,
    Event,
    Modality,
    Packet,
    Payload,
    Photo,
    SampleBlock,
    SensorRows,
    StreamInfo,
    VideoFrame,
)
from recordings.columns import clock_packet, scored_item, sensor_packets
from recordings.export_report import ExportReport, ExportWarning
from recordings.export_video import annexb_frames
from recordings.finishing import SCORES_TABLE
from recordings.manifest import LARGEST
from recordings.reader import WeldReader
from recordings.verdict import Score, Verdict
from recordings.video_encoder import EncodedFrame
from recordings.weld_folder import MANIFEST, WeldError, digest, member
from sync.clock import ClockTable
from sync.series import Int64s

_NO_PIXELS: Final = VideoFrame(pixels=np.zeros((0, 0), np.uint8))
_NO_SAMPLES: Final = np.zeros((0, 1), np.int16)


@dataclass(frozen=True, slots=True)
class TimedPacket:
    """A packet and the cell time of each of its items (`(n,)` int64; one for everything but sound and rows)."""

    packet: Packet
    t_ns: Int64s


@dataclass(frozen=True, slots=True)
class TimedFrame:
    """An encoded frame (H.264, Annex B, parameter sets before keyframes) and its cell time."""

    frame: EncodedFrame
    t_ns: int


class ExportSource:
    """One weld, and what its export cannot hold of it.

    Attributes:
        folder: The weld folder.
        reader: Its reader.
        manifest: Its manifest.
        digest: Digest of `weld.json`, and so of everything in the weld.
        warnings: What the export holds less exactly than recorded; exporters add to it.
        left_out: Measured items that the export lacks or changes; exporters add to it.
    """

    def __init__(self, folder: Path) -> None:
        """Read the manifest.

        Raises:
            WeldError: The weld cannot be read.
        """
        self.folder = folder
        self.digest = digest(folder / MANIFEST) if (folder / MANIFEST).is_file() else ""
        self.reader = WeldReader(folder)
        self.manifest = self.reader.manifest
        self.warnings: list[str] = []
        self.left_out: list[str] = []

    def check(self) -> None:
        """Compare every file with its digest: what was damaged is not passed on.

        Raises:
            WeldError: The weld is open, or is not what its manifest says.
        """
        if self.manifest.state == "open":
            raise WeldError(f"{self.folder}: is open; recover it first, unless it is being recorded")
        for name, expected in self.manifest.files.items():
            path = member(self.folder, name)
            if not path.is_file():
                raise WeldError(f"{path}: is missing; restore it from a copy")
            if digest(path) not in (expected, self.manifest.replacing.get(name)):
                raise WeldError(f"{path}: is not what {MANIFEST} says; run verify, restore it from a copy")

    def tell(self, report: ExportReport) -> None:
        """Put what was found out about this weld, now exported, into the report."""
        key = self.manifest.key
        report.warnings += [ExportWarning(key=key, what=what) for what in (*self.left_out, *self.warnings)]
        report.lossy |= bool(self.left_out)

    def streams(self, modality: Modality) -> list[StreamInfo]:
        """Return the streams of one modality that hold anything, in the order of the cell file."""
        records = self.manifest.streams.values()
        return [record.info for record in records if record.info.modality == modality and record.items]

    def packets(self) -> Iterator[TimedPacket]:
        """Give everything but the video in the order of `WeldReader.packets`.

        Raises:
            WeldError: A file is damaged.
        """
        clocks = ClockTable()
        for packet in self.reader.packets(video=False):
            payload = packet.payload
            if isinstance(payload, ClockUpdate):
                clocks.apply(payload)
            info = self.reader.infos.get(packet.stream)
            if info is not None and info.modality in ("audio", "sensors"):
                yield TimedPacket(packet, _checked(self.folder, clocks.cell_times_ns(info, packet)))
            else:
                known = payload.t_ns if isinstance(payload, Event) else None
                t_ns = packet.t_arrival_ns if known is None else known
                yield TimedPacket(packet, _checked(self.folder, np.array([t_ns], np.int64)))

    def frames(self, stream: str) -> Iterator[TimedFrame]:
        """Give the encoded frames of a video stream; imported video that is no H.264 is encoded losslessly.

        Raises:
            WeldError: The file is damaged.
        """
        times = (int(item.t_ns[0]) for item in self.heads(stream))
        for frame, t_ns in zip(annexb_frames(self.reader, stream), times, strict=True):
            yield TimedFrame(frame, t_ns)

    def heads(self, stream: str) -> Iterator[TimedPacket]:
        """Give the packets of a stream without pixels and samples; of a sound block, the time of its first sample.

        Raises:
            WeldError: A table is damaged.
        """
        info, clocks = self.reader.infos[stream], ClockTable()
        rows = sorted(self.reader.table(CLOCKS_STREAM).to_dicts(), key=lambda row: int(row["order"]))
        for packet in heapq.merge(map(clock_packet, rows), self._heads(info), key=lambda packet: packet.order):
            payload = packet.payload
            if isinstance(payload, ClockUpdate):
                clocks.apply(payload)
            elif isinstance(payload, SensorRows):
                yield TimedPacket(packet, _checked(self.folder, clocks.cell_times_ns(info, packet)))
            else:
                t_ns = packet.t_arrival_ns if isinstance(payload, Photo) else clocks.cell_time_ns(info, packet)
                yield TimedPacket(packet, _checked(self.folder, np.array([t_ns], np.int64)))

    def _heads(self, info: StreamInfo) -> Iterator[Packet]:
        table = self.reader.table(info.name)
        if info.modality == "sensors":
            yield from sensor_packets(info, table.to_arrow())
            return
        for row in table.to_dicts():
            if info.modality == "video":
                payload: Payload = _NO_PIXELS
                if row["pts_us"] is None:
                    continue
            elif info.modality == "audio":
                payload = SampleBlock(first_sample=row["first_sample"], rate_hz=info.rate_hz, samples=_NO_SAMPLES)
            else:
                payload = Photo(name=row["name"], data=member(self.folder, row["file"]).read_bytes(), view=row["view"])
            keys = {name: row[name] for name in ("order", "segment", "seq", "t_device_ns", "t_arrival_ns")}
            yield Packet(stream=info.name, payload=payload, **keys)

    def merged(self, videos: Sequence[str]) -> Iterator[TimedPacket | TimedFrame]:
        """Give `packets` and the frames of the streams `videos` by arrival, as they would come live.

        Raises:
            WeldError: A file is damaged.
        """
        parts: list[Iterator[TimedPacket | TimedFrame]] = [self.packets(), *map(self.frames, videos)]
        yield from heapq.merge(*parts, key=_arrival)

    def scored(self) -> Iterator[Score | Verdict]:
        """Give every score and verdict, in the order in which they were given.

        Raises:
            WeldError: The table is damaged.
        """
        yield from map(scored_item, self.reader.table(SCORES_TABLE).to_dicts())

    @cached_property
    def utc_offset_ns(self) -> int | None:
        """UTC minus cell time, from the pair at the weld's start; None where the weld has none.

        One offset for the whole weld: distances in time stay exact to the nanosecond.
        """
        if not self.manifest.utc:
            return None
        return self.manifest.utc[0].utc_ns - self.manifest.utc[0].monotonic_ns

    @cached_property
    def local_offset_ns(self) -> int | None:
        """Naive local time, read as if it were UTC, minus cell time; None where no file told of any."""
        started, streams = self.manifest.metadata.get("started_local"), self.streams("sensors")
        if not isinstance(started, str) or not streams:
            return None
        try:
            # 1970 and UTC are only where counting starts: nothing here knows the zone.
            seconds = (datetime.fromisoformat(started) - datetime(1970, 1, 1)).total_seconds()
        except (ValueError, TypeError):
            return None
        first = self.reader.table(streams[0].name)["t_arrival_ns"][0]
        return round(seconds * 1e6) * 1000 - int(first)

    def epoch(self) -> tuple[int, str]:
        """Return what turns cell time into the time that files carry, and what that is, in words."""
        if self.utc_offset_ns is not None:
            return self.utc_offset_ns, "UTC"
        if self.local_offset_ns is not None:
            return self.local_offset_ns, "local time of an unknown zone, written as if it were UTC"
        return 0, "cell time (the weld does not know its date)"


def _arrival(item: TimedPacket | TimedFrame) -> int:
    return item.frame.t_arrival_ns if isinstance(item, TimedFrame) else item.packet.t_arrival_ns


def _checked(folder: Path, t_ns: Int64s) -> Int64s:
    if len(t_ns) and (int(t_ns.min()) < -LARGEST or int(t_ns.max()) > LARGEST):
        raise WeldError(f"{folder}: an item lies at {int(t_ns[0])} ns, which is no time; do not trust this weld")
    return t_ns
