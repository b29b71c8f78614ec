"""Verification: is a weld what its manifest says, can everything in it be read, and do its streams agree in time?"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypedDict

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from acquisition.packet import EVENTS_STREAM, ClockUpdate, StreamInfo, item_range
from recordings.columns import EVENTS
from recordings.finishing import recorded_items, stream_table, table_columns, weld_table
from recordings.manifest import Manifest
from recordings.reader import WeldReader
from recordings.recovery import StreamLoss, total_losses
from recordings.resync import ResyncedReader
from recordings.weld_folder import WeldError, digest, find_welds, member
from sync.arc_watch import ArcWatch
from sync.clock import ClockTable


class StreamSync(TypedDict):
    """Where one stream sees the arc, against the sensors.

    `arc_on_s` and `arc_off_s` are those of its first and last item with an arc, seconds from the weld's first sample.
    `offset_ms` is positive where the stream is late, and None where the sensors or the stream show no edge; `sigma_ms`
    is its standard deviation (`sync.edges`: finer than a frame or row).
    """

    offset_ms: float | None
    sigma_ms: float | None
    arc_on_s: float
    arc_off_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class WeldReport:
    """What verification found out about one weld.

    Attributes:
        path: The weld folder.
        state: Its state, or `unreadable`.
        ok: Finished, and nothing below contradicts the manifest; located losses are no contradiction.
        losses: Per stream that lacks items.
        problems: One line each.
        sync: Per stream in which the arc can be seen.
    """

    path: Path
    state: str
    ok: bool
    losses: dict[str, StreamLoss] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    sync: dict[str, StreamSync] = field(default_factory=dict)


def verify(
    path: Path, *, deep: bool = True, resync: bool = False, latencies_ns: Mapping[str, int] | None = None
) -> list[WeldReport]:
    """Check every weld at or below `path`; nothing is changed.

    Args:
        path: A weld folder or a recordings root.
        deep: Decode everything and measure the sync residuals too; without it digests, counts and order only.
        resync: Measure the residuals with the clocks as they are fitted to the whole weld, not with those recorded.
        latencies_ns: With `resync`, calibrated latency by stream name in the place of the recorded one.

    Raises:
        WeldError: There is no weld.
    """
    open_weld = partial(ResyncedReader, latencies_ns=latencies_ns) if resync else WeldReader
    return [_verify_one(folder, deep, open_weld) for folder in find_welds(path)]


def _verify_one(folder: Path, deep: bool, open_weld: Callable[[Path], WeldReader]) -> WeldReport:
    try:
        reader = open_weld(folder)
    except WeldError as error:
        return WeldReport(path=folder, state="unreadable", ok=False, problems=[str(error)])
    manifest, sync = reader.manifest, dict[str, StreamSync]()
    problems = [] if manifest.state != "open" else [f"{folder}: is open; recover it unless it is being recorded"]
    problems += _digests(folder, manifest) + _tables(folder, manifest)
    if deep:
        try:
            found, sync = _contents(reader)
            problems += found
        except WeldError as error:
            problems.append(str(error))
    return WeldReport(
        path=folder,
        state=manifest.state,
        ok=not problems,
        losses=total_losses(manifest),
        problems=problems,
        sync=sync,
    )


def _digests(folder: Path, manifest: Manifest) -> list[str]:
    problems = [f"{folder / name}: an addition to it was cut off; recover the weld" for name in manifest.replacing]
    for name, expected in manifest.files.items():
        path = member(folder, name)
        if name in manifest.replacing:
            continue
        if not path.exists():
            problems.append(f"{path}: is missing; restore it from a copy")
        elif (found := digest(path)) != expected:
            problems.append(f"{path}: its digest is {found}, not {expected}; it was changed, restore it from a copy")
    if manifest.state != "open":
        listed = {name for record in manifest.streams.values() for name in record.files}
        problems += [f"{folder / name}: has no digest in the manifest" for name in sorted(listed - set(manifest.files))]
    return problems


def _tables(folder: Path, manifest: Manifest) -> list[str]:
    """Check counts and that order, arrival and file time only ever increase."""
    problems, tables = list[str](), dict[str, pa.Table]()
    for stem, columns in table_columns(manifest).items():
        try:
            tables[stem] = weld_table(folder, stem, columns, manifest)
        except (OSError, pa.ArrowException, ValueError) as error:
            problems.append(f"{folder / stem}.parquet: {str(error).splitlines()[0]}; restore it from a copy")
    for name, record in manifest.streams.items():
        stem = stream_table(record.info)[0]
        if stem not in tables:
            continue
        table = tables[stem]
        problems += [f"{folder / stem}: {line}" for line in _disorder(table, record.info)]
        items = recorded_items(record.info, table)
        if manifest.state != "open" and items != record.items:
            problems.append(f"{folder}: {name} holds {items} items, but the manifest says {record.items}")
    return problems + _photos(folder, manifest, tables.get(EVENTS_STREAM, EVENTS.empty_table()))


class _PhotosDone(msgspec.Struct):
    received: int = 0


def _photos(folder: Path, manifest: Manifest, events: pa.Table) -> list[str]:
    """Check that the photos that the weld was given are there."""
    records = [record for record in manifest.streams.values() if record.info.modality == "post_images"]
    done = [row for row in events.to_pylist() if row["kind"] == "photos_done" and row["weld"] == manifest.key]
    try:
        given = [msgspec.json.decode(row["data"], type=_PhotosDone).received for row in done]
    except msgspec.MsgspecError as error:
        return [f"{folder / EVENTS_STREAM}: {' '.join(str(error).split())}; restore it from a copy"]
    kept = sum(record.items for record in records)
    if not records or not given or kept >= given[-1] or manifest.state == "open":
        return []
    return [f"{folder}: {kept} of the {given[-1]} photos that it was given are kept; look for them beside the weld"]


def _disorder(table: pa.Table, info: StreamInfo) -> list[str]:
    arrival = "packet_t_arrival_ns" if info.modality == "sensors" else "t_arrival_ns"
    # A sensor packet has many rows of one order; a late photo may come from a later run, whose orders begin anew.
    least = {"order": 0 if info.modality == "sensors" else 1, arrival: 0, "pts_us": 1}
    if info.modality == "post_images":
        least = {}
    problems = []
    for name, step in least.items():
        if name not in table.column_names:
            continue
        steps = np.diff(pc.drop_null(table[name]).to_numpy())
        if len(steps) and steps.min() < step:
            row = int(np.argmin(steps)) + 1
            problems.append(f"{name} runs backwards at row {row} ({steps.min()}); do not trust it there")
    return problems


def _contents(reader: WeldReader) -> tuple[list[str], dict[str, StreamSync]]:
    """Decode everything, count it, and see where each stream shows the arc."""
    clocks, watch = ClockTable(), ArcWatch(reader.infos, everything=True)
    items = dict.fromkeys(reader.infos, 0)
    for packet in reader.packets():
        if isinstance(packet.payload, ClockUpdate):
            clocks.apply(packet.payload)
        elif packet.stream in items:
            items[packet.stream] += item_range(packet)[1]
            watch.take(packet, clocks)
    problems = [
        f"{reader.folder}: {items[name]} of {record.items} items of {name} can be read; restore it from a copy"
        for name, record in reader.manifest.streams.items()
        if reader.manifest.state != "open" and items[name] != record.items
    ]
    return problems, _sync(reader.manifest, watch)


def _sync(manifest: Manifest, watch: ArcWatch) -> dict[str, StreamSync]:
    residuals = watch.residuals()
    return {
        name: StreamSync(
            offset_ms=residuals[name]["offset_ms"] if name in residuals else None,
            sigma_ms=residuals[name]["sigma_ms"] if name in residuals else None,
            arc_on_s=(on_ns - manifest.origin_ns) / 1e9,
            arc_off_s=(off_ns - manifest.origin_ns) / 1e9,
        )
        for name, (on_ns, off_ns) in watch.arcs().items()
    }
