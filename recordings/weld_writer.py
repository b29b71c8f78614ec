"""`WeldWriter`: the folder of one weld while it is recorded, and its finalising."""

import contextlib
import os
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, Protocol

import av
import pyarrow as pa

from acquisition.packet import (
    CLOCKS_STREAM,
    EVENTS_STREAM,
    ClockUpdate,
    Event,
    Packet,
    Photo,
    SampleBlock,
    SensorRows,
    StreamInfo,
    VideoFrame,
    item_range,
)
from recordings.audio_writer import AudioWriter
from recordings.columns import clock_row, event_row, packet_row, photo_row, score_row, sensor_lists
from recordings.finishing import SCORES_TABLE, finish, stream_table, table_columns
from recordings.manifest import Manifest, StreamRecord
from recordings.marks import Mark, Marks
from recordings.table_writer import TableWriter, read_table
from recordings.verdict import Score, Verdict
from recordings.video_encoder import CODEC, CODEC_LOSSLESS, EncodedFrame
from recordings.video_writer import VideoWriter
from recordings.weld_folder import MANIFEST, MARKS, RecordingError, force_to_disk, store_manifest, store_photo

POWER_CUT_S: Final = 2.5
"""What a power cut may cost: the time between forced writes plus what is still in memory."""

SYNC_S: Final = 2.0


class Coded(Protocol):
    """How a video stream is encoded; a `VideoEncoder`, or what is remembered of one."""

    @property
    def info(self) -> StreamInfo:
        """The stream, in the size that is encoded."""

    @property
    def codec(self) -> str:
        """`StreamRecord.codec`."""

    @property
    def extradata(self) -> bytes:
        """The parameter sets, for the head of a file."""


_CODECS: Final = {"video": CODEC, "audio": "flac", "sensors": "arrow", "post_images": "files"}


class WeldWriter:
    """Records one weld. All methods but `received` run on one thread, and all disk work happens there.

    Attributes:
        folder: The weld folder.
        manifest: The weld's manifest; whoever changes it calls `save_manifest`.
    """

    def __init__(
        self,
        folder: Path,
        manifest: Manifest,
        encoders: Mapping[str, Coded],
        *,
        flush_s: float = 0.25,
        expected: Sequence[Packet | EncodedFrame] = (),
    ) -> None:
        """Create the folder, the manifest (state `open`) and the marks file; the rest comes with its first item.

        Args:
            folder: A folder that holds no weld yet.
            manifest: Its `streams` are the streams that can be written.
            encoders: The encoder of every video stream that is encoded here. A video stream of another codec (an
                imported file that the caller puts into the folder) only gets its frame index written.
            flush_s: Longest packet time that a table row waits in memory.
            expected: The pre-roll that will be written next, so that a kill before that is reported as its loss; the
                caller then calls `save_manifest` once it is written.

        Raises:
            RecordingError: The folder cannot be made, or holds a weld.
        """
        self.folder = folder
        self.manifest = manifest
        self._encoders = encoders
        self._flush_s = flush_s
        self._columns = table_columns(manifest)
        self._tables: dict[str, TableWriter] = {}
        self._media: dict[str, VideoWriter | AudioWriter] = {}
        self._last_order: dict[str, int] = {}
        self._error: RecordingError | None = None
        self._noted: dict[str, tuple[int, int, int]] = {}
        self._note_lock = threading.Lock()
        self._closed_order: int | None = None
        self._now_ns = 0
        self._synced_s = time.monotonic()
        self._named = False
        if (folder / MANIFEST).exists():
            raise RecordingError(f"{folder}: already holds a weld; give this one another key")
        with self._guard(folder):
            folder.mkdir(parents=True, exist_ok=True)
            # Marks first: whoever sees the manifest of an open weld can tell whether it is still being written.
            self._marks = Marks(folder / MARKS, [*manifest.streams])
            manifest.state = "open"
            for name, record in manifest.streams.items():
                record.files = record.files or _files(name, record)
                record.codec = record.codec or _CODECS[record.info.modality]
                if record.info.modality == "video" and name in encoders:
                    record.codec = encoders[name].codec
            for item in expected:
                self._note(item)
            # The pre-roll is older than a kill may cost: no waiting for the disk until it is written.
            store_manifest(folder, manifest, durable=not expected)

    @contextlib.contextmanager
    def _guard(self, path: Path) -> Iterator[None]:
        """Turn an error of the disk into one line, and refuse to go on after it: never half an item."""
        if self._error is not None:
            raise self._error
        try:
            yield
        except (OSError, av.FFmpegError, pa.ArrowException) as error:
            cause = error.strerror if isinstance(error, OSError) and error.strerror else str(error).splitlines()[0]
            step = "make room or name another root"
            if not self.folder.exists():
                cause, step = "the folder is gone", "bring the disk back or name another root"
            self._error = RecordingError(f"{path}: {cause}; {step} (what was written so far stays readable)")
            raise self._error from error

    def received(self, packet: Packet) -> None:
        """Note that a packet of this weld was received; on the ingest thread, in order, before it is encoded.

        What was received and is not on the disk after a kill is the loss that recovery reports. A stream that this is
        never called for counts as received what is written.
        """
        event = packet.payload
        if isinstance(event, Event) and event.kind == "weld_close" and event.weld == self.manifest.key:
            self._closed_order = int(event.data["last_order"])
        late = self._closed_order is not None and packet.order > self._closed_order
        if late and not isinstance(event, Photo):
            return  # not this weld's; the ingest thread is ahead of the writing one, which has yet to see the close
        self._note(packet)

    def catch_up(
        self, marks: Mapping[str, Mark | None], last_order: int | None, before: Iterable[Packet | EncodedFrame]
    ) -> None:
        """Note what had been received before `received` could be told: it may wait for the disk, or be lost.

        Args:
            marks: The last item received of every stream, of this weld or not.
            last_order: The weld's last packet, if it has closed meanwhile.
            before: Items from before the weld, in order: what came after a stream's last one is the weld's.
        """
        self._closed_order = last_order if self._closed_order is None else self._closed_order
        last = {item.stream: item for item in before}
        streams = self.manifest.streams
        for name, mark in marks.items():
            # A photo that has come since the weld began is another's.
            if mark is None or name not in streams or streams[name].info.modality == "post_images":
                continue
            if mark.last_order < self.manifest.first_order:
                continue
            with self._note_lock:
                noted = self._noted.get(name)
                if noted is None and name in last:
                    noted = (last[name].order, last[name].segment, _item_after(last[name]))
                if noted is None and mark.first_order >= self.manifest.first_order:
                    noted = (mark.first_order - 1, mark.segment, mark.item - mark.items)
                # Otherwise nobody knows how much of what was received is the weld's.
                if noted is not None and mark.last_order > noted[0]:
                    items = mark.item - noted[2] if noted[1] == mark.segment else mark.item
                    self._mark(name, mark.last_order, mark.segment, mark.seq, mark.item, mark.arrival_ns, items)

    def _note(self, item: Packet | EncodedFrame) -> None:
        if item.stream not in self.manifest.streams:
            return
        first, items = item_range(item) if isinstance(item, Packet) else (item.seq, 1)
        with self._note_lock:
            if item.order > self._noted.get(item.stream, (-1,))[0]:
                after = first + items
                self._mark(item.stream, item.order, item.segment, item.seq, after, item.t_arrival_ns, items)

    def _mark(
        self,
        stream: str,
        order: int,
        segment: int,
        seq: int,
        item: int,
        arrival_ns: int,
        items: int,
    ) -> None:
        self._noted[stream] = (order, segment, item)
        self._marks.note(
            stream,
            order=order,
            segment=segment,
            seq=seq,
            item=item,
            arrival_ns=arrival_ns,
            items=items,
        )

    def write(self, item: Packet | EncodedFrame) -> None:
        """Record a device packet, an event, a clock change, or an encoded frame of a video stream.

        Raises:
            RecordingError: The disk is full or gone, the stream is not one of this weld, the item does not fit it, or
                its `order` does not increase.
        """
        self._note(item)
        self._now_ns = max(self._now_ns, item.t_arrival_ns)
        if isinstance(item, Packet) and isinstance(item.payload, ClockUpdate):
            with self._guard(self.folder / CLOCKS_STREAM):
                self._table(CLOCKS_STREAM).append(clock_row(item, item.payload), now_ns=self._now_ns)
            return
        last = self._last_order.get(item.stream)
        if last is not None and item.order <= last:
            raise RecordingError(f"{self.folder}: {item.stream} order {item.order} came after {last}; write in order")
        if isinstance(item, Packet) and isinstance(item.payload, Event):
            self._write_event(item, item.payload)
        else:
            record = self.manifest.streams.get(item.stream)
            if record is None:
                raise RecordingError(f"{self.folder}: no stream {item.stream!r} in this weld; name it in the manifest")
            with self._guard(self.folder / item.stream):
                self._write_device(item, record)
        self._last_order[item.stream] = item.order

    def _write_event(self, packet: Packet, event: Event) -> None:
        with self._guard(self.folder / EVENTS_STREAM):
            self._table(EVENTS_STREAM).append(event_row(packet, event), now_ns=self._now_ns)
            record = self.manifest.streams.get(str(event.data.get("stream"))) if event.kind == "gap" else None
            if record is not None and record.info.modality == "video":
                gap = {
                    **packet_row(packet),
                    "segment": event.data.get("segment", packet.segment),
                    "seq": event.data.get("first", 0),
                    "missing": event.data.get("missing", 0),
                    "reason": event.data.get("reason"),
                }
                self._table(stream_table(record.info)[0]).append(gap, now_ns=self._now_ns)

    def _write_device(self, item: Packet | EncodedFrame, record: StreamRecord) -> None:
        info = record.info
        table = self._table(stream_table(info)[0])
        if isinstance(item, EncodedFrame):
            pts_us = item.pts_us
            if record.codec in (CODEC, CODEC_LOSSLESS):
                pts_us = self._video(item.stream).write(item)
            keys = {name: getattr(item, name) for name in ("order", "segment", "seq", "t_device_ns", "t_arrival_ns")}
            table.append({**keys, "pts_us": pts_us, "missing": 0}, now_ns=self._now_ns)
        elif isinstance(item.payload, SampleBlock):
            block = item.payload
            self._audio(record).write(block.samples)
            row = {
                **packet_row(item),
                "first_sample": block.first_sample,
                "n": len(block.samples),
                "t_adc_ns": block.t_adc_ns,
                "overflow": block.overflow,
            }
            table.append(row, now_ns=self._now_ns)
        elif isinstance(item.payload, SensorRows):
            if item.payload.values.shape[1:] != (len(info.channels),):
                raise RecordingError(
                    f"{self.folder}: {item.stream} rows of shape {item.payload.values.shape} do not fit its "
                    f"{len(info.channels)} channels; correct the cell file"
                )
            table.extend(sensor_lists(item, item.payload, info.channels), now_ns=self._now_ns)
        elif isinstance(item.payload, Photo):
            photo = item.payload
            file = store_photo(self.folder, photo)
            table.append(photo_row(item, photo, file), now_ns=self._now_ns)
            table.flush()  # the photo itself is on the disk; without its row it would be lost
        elif isinstance(item.payload, VideoFrame):
            raise RecordingError(f"{self.folder}: {item.stream} got a raw frame; pass it through its VideoEncoder")

    def score(self, item: Score | Verdict) -> None:
        """Append a score or a verdict; nothing is ever overwritten.

        Raises:
            RecordingError: The disk is full or gone.
        """
        with self._guard(self.folder / SCORES_TABLE):
            self._table(SCORES_TABLE).append(score_row(item), now_ns=self._now_ns)

    def save_manifest(self) -> None:
        """Replace `weld.json` by the manifest as it is now.

        Raises:
            RecordingError: The disk is full or gone.
        """
        with self._guard(self.folder):
            store_manifest(self.folder, self.manifest)

    @property
    def buffered_bytes(self) -> int:
        """Bytes received by `write` that no file holds yet."""
        return sum(writer.buffered_bytes for writer in [*self._tables.values(), *self._media.values()])

    def flush(self) -> None:
        """Write the rows that wait; call it at least every 250 ms, also when nothing comes.

        Every 2 s it also forces everything to the disk, which bounds what a power cut costs.

        Raises:
            RecordingError: The disk is full or gone.
        """
        with self._guard(self.folder):
            for table in self._tables.values():
                table.flush()
            # Open files outlive a removed folder on Linux: without this look nobody would notice.
            self.folder.stat()
            if time.monotonic() - self._synced_s >= SYNC_S:
                for writer in [*self._tables.values(), *self._media.values()]:
                    if writer.path.exists():
                        force_to_disk(writer.path)
                for folder in [self.folder] if self._named else [self.folder, *self.folder.parents[:3]]:
                    force_to_disk(folder)
                self._named = True
                self._synced_s = time.monotonic()

    def finalise(self) -> Manifest:
        """Close the files, turn the tables into Parquet, hash everything, and set the weld `finalised`.

        May be killed at any instant; `recordings.recovery.recover` then ends it.

        Raises:
            RecordingError: The disk is full or gone; the weld stays open and can be recovered.
        """
        with self._guard(self.folder):
            for writer in [*self._tables.values(), *self._media.values()]:
                writer.close()
            for medium in self._media.values():
                force_to_disk(medium.path)
            tables = {
                stem: read_table(self.folder / f"{stem}.arrow", columns) for stem, columns in self._columns.items()
            }
            if os.name == "nt":  # an open file cannot be removed there
                self._marks.close()
            finish(self.folder, self.manifest, tables, {}, "finalised")
            self._marks.close()
        self._error = RecordingError(f"{self.folder}: the weld is finalised and takes no more packets")
        return self.manifest

    def stop(self) -> None:
        """Close what is written, and go on counting what is `received`; for use after a `RecordingError`."""
        for writer in [*self._media.values(), *self._tables.values()]:
            with contextlib.suppress(OSError, av.FFmpegError, pa.ArrowException):
                writer.close()
        self._error = self._error or RecordingError(f"{self.folder}: the weld was abandoned; recover it")

    def abandon(self) -> None:
        """Let go of every file and leave the weld open, as a kill would."""
        self.stop()
        self._marks.close()

    def _table(self, stem: str) -> TableWriter:
        if stem not in self._tables:
            path = self.folder / f"{stem}.arrow"
            self._tables[stem] = TableWriter(path, self._columns[stem], flush_s=self._flush_s)
        return self._tables[stem]

    def _video(self, stream: str) -> VideoWriter:
        writer = self._media.get(stream)
        if not isinstance(writer, VideoWriter):
            encoder = self._encoders[stream]
            self.manifest.streams[stream].codec = encoder.codec
            writer = VideoWriter(self.folder / f"{stream}.mp4", encoder.info, encoder.extradata)
            self._media[stream] = writer
        return writer

    def _audio(self, record: StreamRecord) -> AudioWriter:
        writer = self._media.get(record.info.name)
        if not isinstance(writer, AudioWriter):
            writer = AudioWriter(self.folder / f"{record.info.name}.flac", record.info)
            self._media[record.info.name] = writer
        return writer


def _item_after(item: Packet | EncodedFrame) -> int:
    """Return the number of the item after a packet or frame."""
    first, items = item_range(item) if isinstance(item, Packet) else (item.seq, 1)
    return first + items


def _files(name: str, record: StreamRecord) -> list[str]:
    """Return the names of a stream's files while it is recorded."""
    table = f"{stream_table(record.info)[0]}.arrow"
    media = {"video": [f"{name}.mp4"], "audio": [f"{name}.flac"]}
    return [*media.get(record.info.modality, []), table]
