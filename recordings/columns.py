"""Columns of a weld's tables, and how packets, scores and verdicts become rows and come back unchanged."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, Final, TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from acquisition.packet import CLOCKS_STREAM, EVENTS_STREAM, ClockUpdate, Event, Packet, Photo, SensorRows, StreamInfo
from recordings.verdict import Score, Verdict

Row: TypeAlias = Mapping[str, Any]

_INT = pa.int64()
_PACKET: "Final[list[pa.Field[Any]]]" = [
    pa.field("order", _INT, nullable=False),
    pa.field("segment", _INT, nullable=False),
    pa.field("seq", _INT, nullable=False),
    pa.field("t_device_ns", _INT),
    pa.field("t_arrival_ns", _INT, nullable=False),
]


def _columns(fields: "list[pa.Field[Any]]") -> pa.Schema:
    return pa.schema(fields)


FRAMES: Final = _columns(
    [*_PACKET, pa.field("pts_us", _INT), pa.field("missing", _INT, nullable=False), pa.field("reason", pa.string())]
)
"""A row per frame; a gap row has `missing` > 0, `seq` = first lost frame and no `pts_us`."""

BLOCKS: Final = _columns(
    [
        *_PACKET,
        pa.field("first_sample", _INT, nullable=False),
        pa.field("n", _INT, nullable=False),
        pa.field("t_adc_ns", _INT),
        pa.field("overflow", pa.bool_(), nullable=False),
    ]
)
"""A row per block of sound; the blocks lie in the FLAC file one after the other, `n` samples each."""

EVENTS: Final = _columns(
    [
        *_PACKET,
        pa.field("kind", pa.string(), nullable=False),
        pa.field("weld", pa.string()),
        pa.field("t_ns", _INT),
        pa.field("data", pa.string(), nullable=False),
    ]
)
CLOCKS: Final = _columns(
    [
        *_PACKET,
        pa.field("of_stream", pa.string(), nullable=False),
        pa.field("of_segment", _INT, nullable=False),
        *(pa.field(name, _INT, nullable=False) for name in ("ref_ns", "offset_ns", "drift_ppb", "sigma_ns")),
    ]
)
PHOTOS: Final = _columns(
    [
        *_PACKET,
        pa.field("name", pa.string(), nullable=False),
        pa.field("file", pa.string(), nullable=False),
        pa.field("weld_hint", pa.string()),
        pa.field("view", _INT),
    ]
)
SCORES: Final = _columns(
    [
        pa.field("kind", pa.string(), nullable=False),
        *(pa.field(name, pa.string()) for name in ("weld", "stage", "word", "reason", "detector", "sample_digest")),
        *(pa.field(name, _INT) for name in ("window", "t0_ns", "t1_ns", "closed_by_order", "missing")),
        *(pa.field(name, pa.float64()) for name in ("score", "weld_score", "threshold", "p_value", "alpha")),
        pa.field("latency_ms", pa.float64()),
        *(pa.field(name, _INT) for name in ("calibration_welds", "calibration_sessions")),
        *(pa.field(name, pa.bool_()) for name in ("final", "photos_pending")),
        pa.field("present", pa.list_(pa.string())),
        *(pa.field(name, pa.string()) for name in ("orders", "contributions", "disagreements", "rose")),
    ]
)
"""A row per `Score` (`kind` "score") and per `Verdict` ("verdict"), in the order in which they were given."""
_AS_JSON: Final[dict[str, Any]] = {
    "orders": dict[str, tuple[int, int]],
    "contributions": dict[str, float],
    "disagreements": dict[str, float],
    "rose": tuple[tuple[int, int], ...],
}

_SENSOR_KEYS: "Final[list[pa.Field[Any]]]" = [
    *_PACKET,
    pa.field("row", _INT, nullable=False),
    pa.field("packet_t_device_ns", _INT),
    pa.field("packet_t_arrival_ns", _INT, nullable=False),
]


def sensor_columns(info: StreamInfo) -> pa.Schema:
    """Return the columns of a sensor table: the keys, then one float64 column per channel."""
    return _columns([*_SENSOR_KEYS, *(pa.field(name, pa.float64(), nullable=False) for name in info.channels)])


def packet_row(packet: Packet) -> dict[str, Any]:
    """Return the columns that every packet has."""
    return {
        "order": packet.order,
        "segment": packet.segment,
        "seq": packet.seq,
        "t_device_ns": packet.t_device_ns,
        "t_arrival_ns": packet.t_arrival_ns,
    }


def sensor_lists(packet: Packet, rows: SensorRows, channels: tuple[str, ...]) -> dict[str, list[Any]]:
    """Return the columns of a packet's sensor rows, one table row per sensor row."""
    n = len(rows.values)
    every = {
        "order": packet.order,
        "segment": packet.segment,
        "seq": packet.seq,
        "packet_t_device_ns": packet.t_device_ns,
        "packet_t_arrival_ns": packet.t_arrival_ns,
    }
    return {
        **{name: [value] * n for name, value in every.items()},
        "row": list(range(rows.first_row, rows.first_row + n)),
        "t_device_ns": [None] * n if rows.t_device_ns is None else rows.t_device_ns.tolist(),
        "t_arrival_ns": rows.t_arrival_ns.tolist(),
        **dict(zip(channels, rows.values.T.tolist(), strict=True)),
    }


def sensor_packets(info: StreamInfo, table: pa.Table) -> Iterator[Packet]:
    """Put the rows of a sensor table together again, one packet per `order`."""
    if not table.num_rows:
        return

    def column(name: str) -> npt.NDArray[np.int64]:
        return np.asarray(table[name].combine_chunks().to_numpy(zero_copy_only=False), np.int64)

    order, row, arrival = column("order"), column("row"), column("t_arrival_ns")
    stamps = table["t_device_ns"].combine_chunks()
    stamped = ~np.asarray(stamps.is_null().to_numpy(zero_copy_only=False))
    device = np.asarray(stamps.fill_null(0).to_numpy(zero_copy_only=False), np.int64)
    values = np.column_stack([table[name].combine_chunks().to_numpy(zero_copy_only=False) for name in info.channels])
    starts = np.flatnonzero(np.r_[True, order[1:] != order[:-1]])
    heads = table.select(["segment", "seq", "packet_t_device_ns", "packet_t_arrival_ns"]).take(starts)
    for start, end, head in zip(starts, np.r_[starts[1:], len(order)], heads.to_pylist(), strict=True):
        yield Packet(
            stream=info.name,
            order=int(order[start]),
            segment=head["segment"],
            seq=head["seq"],
            t_device_ns=head["packet_t_device_ns"],
            t_arrival_ns=head["packet_t_arrival_ns"],
            payload=SensorRows(
                first_row=int(row[start]),
                values=np.ascontiguousarray(values[start:end], np.float64),
                t_device_ns=device[start:end].copy() if stamped[start] else None,
                t_arrival_ns=arrival[start:end].copy(),
            ),
        )


def photo_row(packet: Packet, photo: Photo, file: str) -> dict[str, Any]:
    """Return the row of a photo that is stored as `file`."""
    return {
        **packet_row(packet),
        "name": photo.name,
        "file": file,
        "weld_hint": photo.weld_hint,
        "view": photo.view,
    }


def event_row(packet: Packet, event: Event) -> dict[str, Any]:
    """Return the row of an event; its details become JSON."""
    data = msgspec.json.encode(event.data).decode()
    return {**packet_row(packet), "kind": event.kind, "weld": event.weld, "t_ns": event.t_ns, "data": data}


def event_packet(row: Row) -> Packet:
    """Return the packet of an event row."""
    data = msgspec.json.decode(row["data"], type=dict[str, Any])
    return _packet(EVENTS_STREAM, row, Event(kind=row["kind"], weld=row["weld"], t_ns=row["t_ns"], data=data))


def clock_row(packet: Packet, update: ClockUpdate) -> dict[str, Any]:
    """Return the row of a clock change."""
    row = dataclasses.asdict(update)
    return {**row, "of_segment": update.segment, **packet_row(packet)}


def clock_packet(row: Row) -> Packet:
    """Return the packet of a clock row."""
    names = ("of_stream", "ref_ns", "offset_ns", "drift_ppb", "sigma_ns")
    update = ClockUpdate(segment=row["of_segment"], **{name: row[name] for name in names})
    return _packet(CLOCKS_STREAM, row, update)


def _packet(stream: str, row: Row, payload: Event | ClockUpdate) -> Packet:
    keys = {name: row[name] for name in ("order", "segment", "seq", "t_device_ns", "t_arrival_ns")}
    return Packet(stream=stream, payload=payload, **keys)


def score_row(item: Score | Verdict) -> dict[str, Any]:
    """Return the row of a score or a verdict; what a column cannot hold becomes JSON."""
    row = {name: getattr(item, name) for name in (field.name for field in dataclasses.fields(item))}
    for name in _AS_JSON.keys() & row.keys():
        row[name] = msgspec.json.encode(row[name]).decode()
    return {**row, "kind": "score" if isinstance(item, Score) else "verdict", "present": list(item.present)}


def scored_item(row: Row) -> Score | Verdict:
    """Return the score or verdict of a row; what an earlier version did not write yet is empty."""
    kind: type[Score] | type[Verdict] = Score if row["kind"] == "score" else Verdict
    values = {field.name: row[field.name] for field in dataclasses.fields(kind)}
    values["present"] = tuple(values["present"])
    for name in _AS_JSON.keys() & values.keys():
        text = values.pop(name)
        if text is not None:
            values[name] = msgspec.json.decode(text, type=_AS_JSON[name])
    return kind(**values)
