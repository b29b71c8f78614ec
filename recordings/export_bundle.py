"""A weld in two ordinary files: `<key>.parquet` with a row per thing that happened, `<key>.mp4` to play."""

from collections.abc import Iterator
from typing import Any, Final

import msgspec
import pyarrow as pa
import pyarrow.parquet

from acquisition.packet import Photo, SampleBlock, SensorRows, StreamInfo
from recordings.export_bundle_media import BundleMedia
from recordings.export_place import Destination, safe_path
from recordings.export_source import ExportSource, TimedFrame, TimedPacket
from recordings.export_video import is_h264
from recordings.verdict import Score
from recordings.weld_folder import MANIFEST

_BATCH: Final = 4096
_INT = pa.int64()
_WORD = pa.dictionary(pa.int16(), pa.string())
_FIELDS: "Final[list[pa.Field[Any]]]" = [
    pa.field("stream", _WORD, nullable=False),
    pa.field("kind", _WORD, nullable=False),
    pa.field("t_ns", _INT, nullable=False),
    pa.field("utc_ns", _INT),
    *(pa.field(name, _INT) for name in ("order", "segment", "seq", "t_device_ns", "t_arrival_ns", "mp4_us")),
    *(pa.field(name, _INT) for name in ("first_sample", "n", "row")),
    pa.field("name", pa.string()),
    pa.field("data", pa.binary()),
    pa.field("json", pa.string()),
]


class BundleFormat:
    """Parquet and MP4, one of each per weld."""

    overall: tuple[str, ...] = ()
    limits: tuple[str, ...] = (
        "the MP4 has times in whole microseconds and its gaps are not filled; the Parquet file has every time exactly",
        "truth.json of simulated welds is not exported",
    )

    def write(self, weld: ExportSource, place: Destination) -> tuple[list[str], dict[str, Any]]:
        """Write both files of one weld."""
        name = safe_path(weld.manifest.key)
        table = place.staging / f"{name}.parquet"
        table.parent.mkdir(parents=True, exist_ok=True)
        videos = {info.name: info for info in weld.streams("video")}
        sounds = {info.name: info for info in weld.streams("audio")}
        media = None
        if videos or sounds:
            begins = [int(next(weld.heads(stream)).t_ns[0]) for stream in (*videos, *sounds)]
            media = BundleMedia(place.staging / f"{name}.mp4", videos, sounds, min(begins))
        else:
            weld.warnings.append("neither video nor sound: there is no MP4")
        try:
            _write_table(weld, table, _rows(weld, media, [*videos]), min(begins) if media else None)
        except BaseException:
            if media is not None:
                media.abandon()
            raise
        if media is not None:
            media.close()
            for stream, error_ns in media.error_ns.items():
                weld.warnings.append(f"{stream}: sound in the MP4 lies up to {error_ns / 1e6:.3f} ms from its time")
        for stream in videos:
            if not is_h264(weld.reader, stream):
                weld.warnings.append(f"{stream}: no H.264; encoded anew without loss, decoded values are equal")
        return [f"{name}.mp4", f"{name}.parquet"] if media else [f"{name}.parquet"], {}

    def finish(self, place: Destination) -> None:
        """Nothing stands over all welds."""


def _columns(weld: ExportSource) -> dict[tuple[str, str], str]:
    """Return the column of every (sensor stream, channel): the channel's name where that is unmistakable."""
    pairs = [(info.name, channel) for info in weld.streams("sensors") for channel in info.channels]
    names = [channel for _, channel in pairs] + [field.name for field in _FIELDS]
    return {
        (stream, channel): channel if names.count(channel) == 1 else f"{stream}.{channel}" for stream, channel in pairs
    }


def _write_table(weld: ExportSource, path: Any, rows: Iterator[dict[str, Any]], mp4_begins_ns: int | None) -> None:
    channels = [pa.field(name, pa.float64()) for name in _columns(weld).values()]
    about: dict[bytes | str, bytes | str] = {
        MANIFEST: (weld.folder / MANIFEST).read_bytes(),
        "units": msgspec.json.encode(_units(weld)),
        "utc_offset_ns": str(weld.utc_offset_ns),
        "mp4_begins_ns": str(mp4_begins_ns),
    }
    schema = pa.schema([*_FIELDS, *channels], metadata=about)
    with pyarrow.parquet.ParquetWriter(path, schema, compression="zstd") as writer:
        batch: list[dict[str, Any]] = []
        for row in rows:
            batch.append(row)
            if len(batch) == _BATCH:
                writer.write_table(pa.Table.from_pylist(batch, schema=schema))
                batch = []
        writer.write_table(pa.Table.from_pylist(batch, schema=schema))


def _units(weld: ExportSource) -> dict[str, str]:
    columns = _columns(weld)
    return {
        columns[info.name, channel]: unit
        for info in weld.streams("sensors")
        for channel, unit in zip(info.channels, info.units, strict=False)
    }


def _rows(weld: ExportSource, media: BundleMedia | None, videos: list[str]) -> Iterator[dict[str, Any]]:
    """Give the rows by arrival, and put frames and sound into the MP4 on the way."""
    columns, offset_ns = _columns(weld), weld.utc_offset_ns

    def timed(t_ns: int) -> dict[str, Any]:
        return {"t_ns": t_ns, "utc_ns": None if offset_ns is None else t_ns + offset_ns}

    for item in weld.merged(videos):
        if isinstance(item, TimedFrame):
            at_us = None if media is None else media.write_frame(item)
            yield {
                "stream": item.frame.stream,
                "kind": "frame",
                **timed(item.t_ns),
                **_keys(item.frame),
                "mp4_us": at_us,
            }
            continue
        packet, payload = item.packet, item.packet.payload
        row = {"stream": packet.stream, **_keys(packet)}
        if isinstance(payload, SensorRows):
            info = weld.reader.infos[packet.stream]
            for one in _sensor_rows(item, payload, info, columns):
                yield {**row, "kind": "row", **one, **timed(one["t_ns"])}
        elif isinstance(payload, SampleBlock):
            at_us = None if media is None else media.write_block(item, payload)
            counts = {"first_sample": payload.first_sample, "n": len(payload.samples), "mp4_us": at_us}
            yield {**row, "kind": "block", **counts, **timed(_first_ns(item))}
        elif isinstance(payload, Photo):
            yield {**row, "kind": "photo", **timed(_first_ns(item)), "name": payload.name, "data": payload.data}
        else:
            kind = "event" if packet.stream == "events" else "clock"
            yield {**row, "kind": kind, **timed(_first_ns(item)), "json": msgspec.json.encode(payload).decode()}
    t_ns = weld.manifest.origin_ns
    for judged in weld.scored():
        t_ns = judged.t1_ns if isinstance(judged, Score) else t_ns
        kind = "score" if isinstance(judged, Score) else "verdict"
        yield {"stream": "scores", "kind": kind, **timed(t_ns), "json": msgspec.json.encode(judged).decode()}


def _keys(item: Any) -> dict[str, Any]:
    return {name: getattr(item, name) for name in ("order", "segment", "seq", "t_device_ns", "t_arrival_ns")}


def _first_ns(item: TimedPacket) -> int:
    return int(item.t_ns[0]) if len(item.t_ns) else item.packet.t_arrival_ns


def _sensor_rows(
    item: TimedPacket, rows: SensorRows, info: StreamInfo, columns: dict[tuple[str, str], str]
) -> Iterator[dict[str, Any]]:
    names = [columns[info.name, channel] for channel in info.channels]
    stamps = [None] * len(rows.values) if rows.t_device_ns is None else rows.t_device_ns.tolist()
    times = zip(item.t_ns.tolist(), stamps, rows.t_arrival_ns.tolist(), rows.values.tolist(), strict=True)
    for i, (t_ns, device_ns, arrival_ns, values) in enumerate(times):
        measured = {name: None if value != value else value for name, value in zip(names, values, strict=True)}
        yield {
            "t_ns": t_ns,
            "t_device_ns": device_ns,
            "t_arrival_ns": arrival_ns,
            "row": rows.first_row + i,
            **measured,
        }
