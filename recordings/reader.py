"""`WeldReader`: a recorded weld, packet by packet as it was, or as tables."""

import heapq
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from acquisition.packet import (
    CLOCKS_STREAM,
    EVENTS_STREAM,
    Packet,
    Photo,
    SampleBlock,
    StreamInfo,
    VideoFrame,
)
from recordings.audio_file import decode_sound
from recordings.audio_writer import Samples
from recordings.columns import Row, clock_packet, event_packet, scored_item, sensor_packets
from recordings.finishing import SCORES_TABLE, stream_table, table_columns, weld_table
from recordings.manifest import Manifest, StreamRecord
from recordings.verdict import Score, Verdict
from recordings.video_encoder import CODEC, CODEC_LOSSLESS
from recordings.video_file import decode_luma
from recordings.weld_folder import WeldError, load_manifest, member

_Keyed: TypeAlias = tuple[int, int, Packet]
"""Where the packet lies in the weld: its order (behind its forerunner's, should its run be a later one), its own order
once more, the packet."""


class WeldReader:
    """Reads a weld in any state; of an open one (just killed, or still being recorded) what is whole.

    Attributes:
        folder: The weld folder.
        manifest: Its manifest.
        infos: The device streams by name.
    """

    def __init__(self, folder: Path) -> None:
        """Read the manifest.

        Raises:
            WeldError: The folder holds no readable weld, or one of a newer schema.
        """
        self.folder = folder
        self.manifest: Manifest = load_manifest(folder)
        self.infos: dict[str, StreamInfo] = {name: record.info for name, record in self.manifest.streams.items()}

    def packets(self, *, video: bool = True) -> Iterator[Packet]:
        """Give every packet of the weld by `order`, exactly as it was recorded.

        The snapshot of the clocks comes first. What was added after the process packets (photos, verdict events; after
        a restart their orders may be lower) comes after them, in the order in which it was added.

        Args:
            video: Decode the video; without it its packets are left out.

        Raises:
            WeldError: A file is damaged, or a finished weld lacks items that its tables list.
        """
        parts = [self._clocks(), self._events()]
        for record in self.manifest.streams.values():
            if record.info.modality == "video":
                if video:
                    parts.append(_keyed(self.pictures(record.info.name)))
            elif record.info.modality == "audio":
                parts.append(_keyed(self._sound(record)))
            elif record.info.modality == "sensors":
                parts.append(_keyed(sensor_packets(record.info, self._stream_table(record))))
            else:
                parts.append(self._late(self._photo_packets(record)))
        for *_, packet in heapq.merge(*parts, key=lambda keyed: keyed[:2]):
            yield packet

    def sensors(self, stream: str) -> pl.DataFrame:
        """Return the rows of a sensor stream: keys, raw stamps, one column per channel."""
        return self.table(stream)

    def frames(self, stream: str) -> pl.DataFrame:
        """Return the frame index of a video stream, gap rows (`missing` > 0, no `pts_us`) included."""
        return self.table(stream)

    def blocks(self, stream: str) -> pl.DataFrame:
        """Return the block index of a sound stream."""
        return self.table(stream)

    def table(self, name: str) -> pl.DataFrame:
        """Return the table of a device stream, or `events`, `clocks` or `scores`.

        Raises:
            WeldError: There is no such table, or it is damaged.
        """
        if name in self.manifest.streams:
            table = self._stream_table(self.manifest.streams[name])
        elif name in (EVENTS_STREAM, CLOCKS_STREAM, SCORES_TABLE):
            table = self._table(name)
        else:
            known = ", ".join([*self.manifest.streams, EVENTS_STREAM, CLOCKS_STREAM, SCORES_TABLE])
            raise WeldError(f"{self.folder}: no stream {name!r}; it has {known}")
        frame = pl.from_arrow(table)
        assert isinstance(frame, pl.DataFrame)
        return frame

    def scores(self) -> list[Score]:
        """Return every score, in the order in which they were given."""
        return [item for item in self._scored() if isinstance(item, Score)]

    def verdicts(self) -> list[Verdict]:
        """Return every verdict, in the order in which they were given; the last one counts."""
        return [item for item in self._scored() if isinstance(item, Verdict)]

    def photos(self) -> list[Photo]:
        """Return the post-weld photos, in the order in which they came."""
        records = [record for record in self.manifest.streams.values() if record.info.modality == "post_images"]
        packets = [packet for record in records for packet in self._photo_packets(record)]
        return [packet.payload for packet in packets if isinstance(packet.payload, Photo)]

    def pictures(self, stream: str) -> Iterator[Packet]:
        """Give the decoded frames of a video stream as packets.

        Raises:
            WeldError: The file is damaged, or a finished weld's file lacks frames of the index.
        """
        record = self.manifest.streams[stream]
        rows = [row for row in self._stream_table(record).to_pylist() if row["pts_us"] is not None]
        if not rows:
            return
        path = member(self.folder, record.files[0])
        decoded = self._decoded(path, record)
        pairs: Iterable[tuple[Row | None, npt.NDArray[np.uint8]]]
        if record.codec in (CODEC, CODEC_LOSSLESS):
            by_time = {row["pts_us"]: row for row in rows}
            pairs = ((by_time.get(pts_us), pixels) for pts_us, pixels in decoded)
        else:
            # An imported file: its own times may be rough, its frames come one after the other.
            pairs = zip(iter(rows), (pixels for _, pixels in decoded), strict=False)
        count = 0
        for row, pixels in pairs:
            if row is not None:
                count += 1
                yield _device_packet(record.info, row, VideoFrame(pixels=pixels))
        if count != len(rows) and self.manifest.state != "open":
            raise WeldError(f"{path}: {count} of {len(rows)} frames can be read; run verify, restore it from a copy")

    def _decoded(self, path: Path, record: StreamRecord) -> Iterator[tuple[int, npt.NDArray[np.uint8]]]:
        try:
            yield from decode_luma(path, record.info, limited_range=record.limited_range)
        except WeldError:
            if self.manifest.state != "open":
                raise

    def _sound(self, record: StreamRecord) -> Iterator[Packet]:
        rows = self._stream_table(record).to_pylist()
        if not rows:
            return
        path = member(self.folder, record.files[0])
        take = _taker(path, record.info)
        for row in rows:
            samples = take(row["n"])
            if len(samples) < row["n"] and self.manifest.state != "open":
                raise WeldError(f"{path}: the sound ends in block {row['order']}; run verify, restore it from a copy")
            if len(samples) or not row["n"]:
                block = SampleBlock(
                    first_sample=row["first_sample"],
                    rate_hz=record.info.rate_hz,
                    samples=samples,
                    t_adc_ns=row["t_adc_ns"],
                    overflow=row["overflow"],
                )
                yield _device_packet(record.info, row, block)

    def _photo_packets(self, record: StreamRecord) -> Iterator[Packet]:
        for row in self._stream_table(record).to_pylist():
            path = member(self.folder, row["file"])
            try:
                data = path.read_bytes()
            except OSError as error:
                raise WeldError(f"{path}: {error.strerror}; restore it from a copy") from error
            photo = Photo(name=row["name"], data=data, weld_hint=row["weld_hint"], view=row["view"])
            yield _device_packet(record.info, row, photo)

    def _late(self, photos: Iterator[Packet]) -> Iterator[_Keyed]:
        """Put photos of a later run, whose orders began anew, behind everything of the weld's own run.

        A low order alone does not tell: a quick photo comes before the weld closes. One of a later run comes after it.
        """
        last_order = self.manifest.last_order or 0
        events = self._table(EVENTS_STREAM).to_pylist()
        closed_ns = max((row["t_arrival_ns"] for row in events if row["order"] == last_order), default=0)
        end = max([last_order, *(row["order"] for row in events)])
        for photo in photos:
            later_run = photo.order <= last_order and photo.t_arrival_ns > closed_ns
            end += later_run
            yield (end if later_run else photo.order), photo.order, photo

    def _events(self) -> Iterator[_Keyed]:
        return _keyed(event_packet(row) for row in self._table(EVENTS_STREAM).to_pylist())

    def _clocks(self) -> Iterator[_Keyed]:
        rows = sorted(self._table(CLOCKS_STREAM).to_pylist(), key=lambda row: int(row["order"]))
        return _keyed(clock_packet(row) for row in rows)

    def _scored(self) -> list[Score | Verdict]:
        return [scored_item(row) for row in self._table(SCORES_TABLE).to_pylist()]

    def _stream_table(self, record: StreamRecord) -> pa.Table:
        return self._table(stream_table(record.info)[0])

    def _table(self, stem: str) -> pa.Table:
        try:
            return weld_table(self.folder, stem, table_columns(self.manifest)[stem], self.manifest)
        except (OSError, pa.ArrowException, ValueError) as error:
            raise WeldError(
                f"{self.folder / stem}: {str(error).splitlines()[0]}; restore the file from a copy"
            ) from error


def _keyed(packets: Iterator[Packet]) -> Iterator[_Keyed]:
    after = 0
    for packet in packets:
        after = max(after + 1, packet.order)
        yield after, packet.order, packet


def _device_packet(info: StreamInfo, row: Row, payload: VideoFrame | SampleBlock | Photo) -> Packet:
    keys: dict[str, Any] = {name: row[name] for name in ("order", "segment", "seq", "t_device_ns", "t_arrival_ns")}
    return Packet(stream=info.name, payload=payload, **keys)


def _taker(path: Path, info: StreamInfo) -> Callable[[int], Samples]:
    """Return a function that takes the next n samples of a sound file, fewer at its end."""
    empty = np.zeros((0, len(info.channels)), info.dtype)
    blocks = decode_sound(path, info)
    rest = empty

    def take(n: int) -> Samples:
        nonlocal rest
        parts, have = [rest], len(rest)
        while have < n and (block := next(blocks, None)) is not None:
            parts.append(block)
            have += len(block)
        joined = np.concatenate(parts)
        rest = joined[n:]
        return joined[:n].copy()

    return take
