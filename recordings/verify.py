"""Verification: is a weld what its manifest says, can everything in it be read, and do its streams agree in time?"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TypedDict

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from acquisition.packet import EVENTS_STREAM, ClockUpdate, Packet, SampleBlock, SensorRows, StreamInfo, VideoFrame
from recordings.columns import EVENTS
from recordings.finishing import recorded_items, stream_table, table_columns, weld_table
from recordings.manifest import Manifest
from recordings.reader import WeldReader
from recordings.recovery import StreamLoss, total_losses
from recordings.weld_folder import WeldError, digest, find_welds, member
from sync.arc import arc_edges_current, arc_edges_light, arc_edges_sound, block_sound_level, frame_light
from sync.clock import ClockTable


class StreamSync(TypedDict):
    """Where one stream sees the arc, against the sensors.

    `arc_on_s` and `arc_off_s` are seconds from the weld's first sample. `offset_ms` is positive where the stream is
    late, and None where the sensors saw no arc; `sigma_ms` is what the two sampling periods leave open.
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


def verify(path: Path, *, deep: bool = True) -> list[WeldReport]:
    """Check every weld at or below `path`; nothing is changed.

    Args:
        path: A weld folder or a recordings root.
        deep: Decode everything and measure the sync residuals too; without it digests, counts and order only.

    Raises:
        WeldError: There is no weld.
    """
    return [_verify_one(folder, deep) for folder in find_welds(path)]


def _verify_one(folder: Path, deep: bool) -> WeldReport:
    try:
        reader = WeldReader(folder)
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
    problems = []
    for name, expected in manifest.files.items():
        path = member(folder, name)
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
    problems = []
    columns = table_columns(manifest)
    for name, record in manifest.streams.items():
        stem = stream_table(record.info)[0]
        try:
            table = weld_table(folder, stem, columns[stem], manifest)
        except (OSError, pa.ArrowException, ValueError) as error:
            line = str(error).splitlines()[0]
            problems.append(f"{folder / stem}.parquet: {line}; restore it from a copy")
            continue
        problems += [f"{folder / stem}: {line}" for line in _disorder(table, record.info)]
        items = recorded_items(record.info, table)
        if manifest.state != "open" and items != record.items:
            problems.append(f"{folder}: {name} holds {items} items, but the manifest says {record.items}")
    return problems + _photos(folder, manifest)


def _photos(folder: Path, manifest: Manifest) -> list[str]:
    """Check that the photos that the weld was given are there."""
    records = [record for record in manifest.streams.values() if record.info.modality == "post_images"]
    try:
        events = weld_table(folder, EVENTS_STREAM, EVENTS, manifest).to_pylist()
    except (OSError, pa.ArrowException, ValueError) as error:
        return [f"{folder / EVENTS_STREAM}.parquet: {str(error).splitlines()[0]}; restore it from a copy"]
    given = [
        msgspec.json.decode(row["data"]).get("received", 0)
        for row in events
        if row["kind"] == "photos_done" and row["weld"] == manifest.key
    ]
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


class _ArcTrace:
    """What one stream shows of the arc: a level per item, with its cell time."""

    def __init__(self, info: StreamInfo) -> None:
        self.info = info
        self.period_ns = 1e9 / info.rate_hz if info.rate_hz else 0.0
        self._t_ns: list[npt.NDArray[np.int64]] = []
        self._levels: list[npt.NDArray[np.float64]] = []

    def take(self, packet: Packet, t_ns: npt.NDArray[np.int64]) -> None:
        payload = packet.payload
        if isinstance(payload, VideoFrame):
            self._t_ns.append(t_ns)
            self._levels.append(np.array([[frame_light(payload.pixels)]]))
        elif isinstance(payload, SampleBlock):
            self._take_sound(payload, t_ns)
        elif isinstance(payload, SensorRows) and "current_a" in self.info.channels:
            names = [name for name in ("current_a", "voltage_v") if name in self.info.channels]
            self._t_ns.append(t_ns)
            self._levels.append(payload.values[:, [self.info.channels.index(name) for name in names]])

    def _take_sound(self, block: SampleBlock, t_ns: npt.NDArray[np.int64]) -> None:
        """Measure the level every 10 ms at most, whatever the device's block length."""
        n = max(1, round(block.rate_hz / 100))
        for start in range(0, len(t_ns) - n // 2, n):
            level = block_sound_level(block.samples[start : start + n], block.rate_hz)
            self._t_ns.append(t_ns[start : start + 1])
            self._levels.append(np.array([[level]]))
            self.period_ns = 1e9 * min(n, len(t_ns)) / block.rate_hz

    def arcs(self) -> list[tuple[int, int]]:
        """Return the arcs it shows, (on, off) in cell time."""
        if not self._t_ns:
            return []
        t_ns, levels = np.concatenate(self._t_ns), np.concatenate(self._levels)
        if self.info.modality == "sensors":
            return arc_edges_current(t_ns, levels[:, 0], levels[:, 1] if levels.shape[1] > 1 else None)
        edges = arc_edges_light if self.info.modality == "video" else arc_edges_sound
        return edges(t_ns, levels[:, 0])


def _contents(reader: WeldReader) -> tuple[list[str], dict[str, StreamSync]]:
    """Decode everything, count it, and see where each stream shows the arc."""
    clocks, traces = ClockTable(), {name: _ArcTrace(info) for name, info in reader.infos.items()}
    items = dict.fromkeys(reader.infos, 0)
    for packet in reader.packets():
        payload = packet.payload
        if isinstance(payload, ClockUpdate):
            clocks.apply(payload)
        elif packet.stream in traces:
            items[packet.stream] += _count(packet)
            if isinstance(payload, VideoFrame | SampleBlock | SensorRows):
                traces[packet.stream].take(packet, clocks.cell_times_ns(reader.infos[packet.stream], packet))
    problems = [
        f"{reader.folder}: {items[name]} of {record.items} items of {name} can be read; restore it from a copy"
        for name, record in reader.manifest.streams.items()
        if reader.manifest.state != "open" and items[name] != record.items
    ]
    return problems, _sync(reader.manifest, traces)


def _count(packet: Packet) -> int:
    payload = packet.payload
    if isinstance(payload, SampleBlock):
        return len(payload.samples)
    return len(payload.values) if isinstance(payload, SensorRows) else 1


def _sync(manifest: Manifest, traces: dict[str, _ArcTrace]) -> dict[str, StreamSync]:
    """Compare arc-on of every stream with the sensors'.

    An edge is the first item that shows the arc, on average half a period late; that half is taken off.
    """
    seen = {name: arcs for name, trace in traces.items() if (arcs := trace.arcs())}
    sensors = next((name for name in seen if traces[name].info.modality == "sensors"), None)
    reference = None if sensors is None else max(seen[sensors], key=_length)
    sync: dict[str, StreamSync] = {}
    for name, arcs in seen.items():
        on_ns, off_ns = max(arcs, key=_length if reference is None else lambda arc: _overlap(arc, reference))
        offset_ms = sigma_ms = None
        if sensors is not None and reference is not None:
            mine, theirs = traces[name].period_ns, traces[sensors].period_ns
            offset_ms = ((on_ns - mine / 2) - (reference[0] - theirs / 2)) / 1e6
            sigma_ms = 0.0 if name == sensors else float(np.sqrt((mine**2 + theirs**2) / 12)) / 1e6
        sync[name] = StreamSync(
            offset_ms=offset_ms,
            sigma_ms=sigma_ms,
            arc_on_s=(on_ns - manifest.origin_ns) / 1e9,
            arc_off_s=(off_ns - manifest.origin_ns) / 1e9,
        )
    return sync


def _length(arc: tuple[int, int]) -> int:
    return arc[1] - arc[0]


def _overlap(arc: tuple[int, int], other: tuple[int, int]) -> int:
    return min(arc[1], other[1]) - max(arc[0], other[0])
