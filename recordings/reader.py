"""`WeldReader`: a recorded weld, packet by packet as it was, or as tables."""

import contextlib
import heapq
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from acquisition.packet import (
    CLOCKS_STREAM,
    EVENTS_STREAM,
    ClockUpdate,
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
from recordings.weld_folder import WeldError, data_file, load_manifest, member

Int64s: TypeAlias = npt.NDArray[np.int64]
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
        for _, packet in self.placed(video=video):
            yield packet

    def placed(self, *, video: bool = True, since: int | None = None) -> Iterator[tuple[int, Packet]]:
        """Give every packet, as `packets` does, with its place: its order, or behind its forerunner's.

        Args:
            video: Decode the video.
            since: Begin at this place: the newest clocks before it come first, then all events before it, then
                everything from it on. Nothing is decoded in vain but up to a keyframe's frames.

        Raises:
            WeldError: A file is damaged, or a finished weld lacks items that its tables list.
        """
        clocks = list(self._clocks())
        if since is not None:
            newest = {_of_stream(keyed[2]): keyed for keyed in clocks if keyed[0] < since}
            clocks = [*sorted(newest.values(), key=_place), *(keyed for keyed in clocks if keyed[0] >= since)]
        parts: list[Iterable[_Keyed]] = [clocks, self._events()]
        for record in self.manifest.streams.values():
            if record.info.modality == "video":
                if video:
                    parts.append(_keyed(self.pictures(record.info.name, since)))
            elif record.info.modality == "audio":
                parts.append(_keyed(self._sound(record, since)))
            elif record.info.modality == "sensors":
                parts.append(_keyed(sensor_packets(record.info, _from(self._stream_table(record), since))))
            else:
                photos = self._late(self._photo_packets(record))
                parts.append(photo for photo in photos if since is None or photo[0] >= since)
        for place, _, packet in heapq.merge(*parts, key=_place):
            yield place, packet

    def places(self, stream: str) -> tuple[Int64s, Int64s, Int64s]:
        """Return place, arrival and number of items of every packet of a device stream, `clocks` or `events`.

        Nothing is decoded. All are `(packets,)` int64, in the order of `placed`.

        Raises:
            WeldError: There is no such table, or it is damaged.
        """
        table = self.table(stream)
        record = self.manifest.streams.get(stream)
        if record is None or record.info.modality == "post_images":
            if record is not None:
                keyed = list(self._late(self._photo_packets(record, data=False)))
            else:
                keyed = list(self._events() if stream == EVENTS_STREAM else self._clocks())
            table = pl.DataFrame({"order": [k[0] for k in keyed], "t_arrival_ns": [k[2].t_arrival_ns for k in keyed]})
        elif record.info.modality == "video":
            table = table.filter(pl.col("pts_us").is_not_null())
        elif record.info.modality == "sensors":
            arrival = pl.col("packet_t_arrival_ns").first().alias("t_arrival_ns")
            table = table.group_by("order", maintain_order=True).agg(arrival, pl.len().alias("n"))
        items = table["n"].to_numpy() if "n" in table.columns else np.ones(table.height)
        order, arrival_ns = table["order"].to_numpy(), table["t_arrival_ns"].to_numpy()
        return order.astype(np.int64), arrival_ns.astype(np.int64), items.astype(np.int64)

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

    def pictures(self, stream: str, since: int | None = None) -> Iterator[Packet]:
        """Give the decoded frames of a video stream as packets, from order `since` on.

        Raises:
            WeldError: The file is damaged, or a finished weld's file lacks frames of the index.
        """
        record = self.manifest.streams[stream]
        table = self._stream_table(record)
        table = table.filter(pc.is_valid(table["pts_us"]))
        rows = _from(table, since).to_pylist()
        if not rows:
            return
        path = data_file(self.folder, record)
        pairs: Iterable[tuple[Row | None, npt.NDArray[np.uint8]]]
        if record.codec in (CODEC, CODEC_LOSSLESS):
            by_time = {row["pts_us"]: row for row in rows}
            decoded = self._decoded(path, record, None if since is None else rows[0]["pts_us"])
            pairs = ((by_time.get(pts_us), pixels) for pts_us, pixels in decoded)
        else:
            # An imported file: its own times may be rough, its frames come one after the other.
            passed = table.num_rows - len(rows)
            rising = passed and bool((np.diff(table["pts_us"].to_numpy()) > 0).all())
            frames = self._decoded(path, record, rows[0]["pts_us"] if rising else None)
            pairs = zip(rows, (p for _, p in islice(frames, 0 if rising else passed, None)), strict=False)
        count = 0
        for row, pixels in pairs:
            if row is not None:
                count += 1
                yield _device_packet(record.info, row, VideoFrame(pixels=pixels))
        if count != len(rows) and self.manifest.state != "open":
            raise WeldError(f"{path}: {count} of {len(rows)} frames can be read; run verify, restore it from a copy")

    def _decoded(
        self, path: Path, record: StreamRecord, start_us: int | None
    ) -> Iterator[tuple[int, npt.NDArray[np.uint8]]]:
        try:
            yield from decode_luma(path, record.info, limited_range=record.limited_range, start_us=start_us)
        except WeldError:
            if self.manifest.state != "open":
                raise

    def _sound(self, record: StreamRecord, since: int | None = None) -> Iterator[Packet]:
        table = self._stream_table(record)
        rows = _from(table, since).to_pylist()
        if not rows:
            return
        path = data_file(self.folder, record)
        passed = int(pc.sum(table["n"].slice(0, table.num_rows - len(rows))).as_py() or 0)
        take = _taker(path, record.info, passed)
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

    def _photo_packets(self, record: StreamRecord, *, data: bool = True) -> Iterator[Packet]:
        """Give the photos, with the bytes of their files unless only their places are asked for."""
        for row in self._stream_table(record).to_pylist():
            path = member(self.folder, row["file"])
            try:
                content = path.read_bytes() if data else b""
            except OSError as error:
                raise WeldError(f"{path}: {error.strerror}; restore it from a copy") from error
            photo = Photo(name=row["name"], data=content, weld_hint=row["weld_hint"], view=row["view"])
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
        with self._damaged(EVENTS_STREAM):
            events = [event_packet(row) for row in self._table(EVENTS_STREAM).to_pylist()]
        return _keyed(iter(events))

    def _clocks(self) -> Iterator[_Keyed]:
        rows = sorted(self._table(CLOCKS_STREAM).to_pylist(), key=lambda row: int(row["order"]))
        return _keyed(clock_packet(row) for row in rows)

    def _scored(self) -> list[Score | Verdict]:
        with self._damaged(SCORES_TABLE):
            return [scored_item(row) for row in self._table(SCORES_TABLE).to_pylist()]

    def _stream_table(self, record: StreamRecord) -> pa.Table:
        return self._table(stream_table(record.info)[0])

    def _table(self, stem: str) -> pa.Table:
        with self._damaged(stem):
            return weld_table(self.folder, stem, table_columns(self.manifest)[stem], self.manifest)

    @contextlib.contextmanager
    def _damaged(self, stem: str) -> Iterator[None]:
        """Turn whatever a damaged table leads to into one line."""
        try:
            yield
        except (OSError, pa.ArrowException, msgspec.MsgspecError, ValueError, TypeError) as error:
            cause = " ".join(str(error).split())[:200]
            raise WeldError(f"{self.folder / stem}: {cause}; restore the file from a copy") from error


def _keyed(packets: Iterator[Packet]) -> Iterator[_Keyed]:
    after = 0
    for packet in packets:
        after = max(after + 1, packet.order)
        yield after, packet.order, packet


def _place(keyed: _Keyed) -> tuple[int, int]:
    return keyed[0], keyed[1]


def _of_stream(packet: Packet) -> str:
    assert isinstance(packet.payload, ClockUpdate)
    return packet.payload.of_stream


def _from(table: pa.Table, since: int | None) -> pa.Table:
    """Leave out what a table of process packets has before order `since`."""
    if since is None or not table.num_rows:
        return table
    return table.slice(int(np.searchsorted(table["order"].to_numpy(), since)))


def _device_packet(info: StreamInfo, row: Row, payload: VideoFrame | SampleBlock | Photo) -> Packet:
    keys: dict[str, Any] = {name: row[name] for name in ("order", "segment", "seq", "t_device_ns", "t_arrival_ns")}
    return Packet(stream=info.name, payload=payload, **keys)


def _taker(path: Path, info: StreamInfo, first: int) -> Callable[[int], Samples]:
    """Return a function that takes the next n samples of a sound file from `first` on, fewer at its end."""
    empty = np.zeros((0, len(info.channels)), info.dtype)
    blocks = decode_sound(path, info, first)
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
