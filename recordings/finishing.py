"""The last step of every weld, orderly or recovered: tables to Parquet, counts, losses, digests, manifest.

It may be cut off anywhere and done again: the Arrow files stay until a manifest that needs them no more is in place.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Final, Literal

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet

from acquisition.packet import CLOCKS_STREAM, EVENTS_STREAM, StreamInfo
from recordings.columns import BLOCKS, CLOCKS, EVENTS, FRAMES, PHOTOS, SCORES, sensor_columns
from recordings.manifest import Loss, Manifest, StreamRecord
from recordings.table_writer import read_table
from recordings.weld_folder import MARKS, PART, TRUTH, digest, member, store_manifest, swap_in
from recordings.weld_folder import PHOTOS as PHOTO_FOLDER

SCORES_TABLE: Final = "scores"


def stream_table(info: StreamInfo) -> tuple[str, pa.Schema]:
    """Return the stem and the columns of a device stream's table."""
    if info.modality == "video":
        return f"{info.name}.frames", FRAMES
    if info.modality == "audio":
        return f"{info.name}.blocks", BLOCKS
    if info.modality == "sensors":
        return info.name, sensor_columns(info)
    return f"{info.name}.photos", PHOTOS


def table_columns(manifest: Manifest) -> dict[str, pa.Schema]:
    """Return stem and columns of every table that the weld may have."""
    streams = dict(stream_table(record.info) for record in manifest.streams.values())
    return {**streams, EVENTS_STREAM: EVENTS, CLOCKS_STREAM: CLOCKS, SCORES_TABLE: SCORES}


def weld_table(folder: Path, stem: str, columns: pa.Schema, manifest: Manifest) -> pa.Table:
    """Read one table of a weld in whatever state it is; absent means empty.

    Raises:
        OSError: A finished table is damaged.
    """
    ending = ".arrow" if manifest.state == "open" else ".parquet"
    path = member(folder, stem + ending)
    return read_table(path, columns) if path.exists() else columns.empty_table()


def recorded_items(info: StreamInfo, table: pa.Table) -> int:
    """Count the frames, sample instants, rows or photos that a stream's table stands for."""
    if info.modality == "video":
        return table.num_rows - table["pts_us"].null_count
    if info.modality == "audio":
        return int(pc.sum(table["n"]).as_py() or 0)
    return table.num_rows


def gap_losses(events: pa.Table, manifest: Manifest) -> dict[str, list[Loss]]:
    """Return the losses that the `gap` events tell of, per stream."""
    losses: dict[str, list[Loss]] = {}
    for row in events.to_pylist():
        data = msgspec.json.decode(row["data"])
        record = manifest.streams.get(str(data.get("stream"))) if row["kind"] == "gap" else None
        if record is not None:
            missing, rate_hz, t_ns = int(data.get("missing", 0)), record.info.rate_hz, row["t_ns"]
            # The packet after a gap tells of it, and may be the weld's first: what lies before is not the weld's.
            before = 0 if t_ns is None else round((manifest.origin_ns - t_ns) * rate_hz / 1e9)
            missing -= min(max(0, before), missing)
            if not missing:
                continue
            loss = Loss(
                t_ns=t_ns if before <= 0 else manifest.origin_ns,
                first=int(data.get("first", 0)) + max(0, before),
                missing=missing,
                seconds=missing / rate_hz if rate_hz else 0.0,
                reason=str(data.get("reason", "device")),
                exact=bool(data.get("exact", True)),
            )
            losses.setdefault(record.info.name, []).append(loss)
    return losses


def finish(
    folder: Path,
    manifest: Manifest,
    tables: Mapping[str, pa.Table],
    losses: Mapping[str, list[Loss]],
    state: Literal["finalised", "recovered"],
) -> None:
    """Write what a finished weld has beside its media files, and set the manifest to `state`.

    Args:
        folder: The weld folder; its media files are complete.
        manifest: Updated in place, then stored.
        tables: Every table by stem, trimmed to what the media files hold.
        losses: What was lost per stream beside what the gap events say.
        state: The state to end in.

    Raises:
        OSError: The disk is full or gone; the weld stays `open`, nothing is lost, and recovery can try again.
    """
    for stem, table in tables.items():
        if table.num_rows:
            part = folder / f"{stem}.parquet{PART}"
            pyarrow.parquet.write_table(table, part, compression="zstd")
            swap_in(part, folder / f"{stem}.parquet")
    _apply_events(manifest, tables[EVENTS_STREAM])
    gaps = gap_losses(tables[EVENTS_STREAM], manifest)
    files = {TRUTH} | {f"{stem}.parquet" for stem, table in tables.items() if table.num_rows}
    for name, record in manifest.streams.items():
        table = tables[stream_table(record.info)[0]]
        _complete(record, table, folder)
        found = [*gaps.get(name, []), *losses.get(name, [])]
        record.losses.extend(loss for loss in found if loss not in record.losses)
        files.update(record.files)
    if manifest.last_order is None:
        orders = [tables[stream_table(record.info)[0]]["order"] for record in manifest.streams.values()]
        manifest.last_order = max((pc.max(column).as_py() or 0 for column in orders), default=0)
    manifest.files = {name: digest(folder / name) for name in sorted(files) if (folder / name).exists()}
    manifest.state = state
    store_manifest(folder, manifest)
    sweep(folder, manifest)


def sweep(folder: Path, manifest: Manifest) -> None:
    """Remove what only a recording needs from a finished weld."""
    for stem in table_columns(manifest):
        (folder / f"{stem}.arrow").unlink(missing_ok=True)
    (folder / MARKS).unlink(missing_ok=True)
    sweep_parts(folder)
    kept = {folder / name for record in manifest.streams.values() for name in record.files}
    for part in set(member(folder, PHOTO_FOLDER).glob(f"*{PART}")) - kept:
        part.unlink()


def sweep_parts(folder: Path) -> None:
    """Remove files whose writing was cut off and whose originals are still there."""
    for part in folder.glob(f"*{PART}"):
        part.unlink()


def _complete(record: StreamRecord, table: pa.Table, folder: Path) -> None:
    """Set a stream's files and count."""
    stem = stream_table(record.info)[0]
    index = [f"{stem}.parquet"] if table.num_rows else []
    if record.info.modality == "post_images":
        record.files = [*(str(name) for name in table["file"].to_pylist()), *index]
    else:
        tables = {f"{stem}.arrow", f"{stem}.parquet"}
        record.files = [name for name in record.files if name not in tables and (folder / name).exists()] + index
    if record.codec == "arrow":
        record.codec = "parquet"
    record.items = recorded_items(record.info, table)


def _apply_events(manifest: Manifest, table: pa.Table) -> None:
    """Take from the weld's own events what the manifest does not know yet."""
    for row in table.to_pylist():
        kind, t_ns = row["kind"], row["t_ns"]
        if row["weld"] == manifest.key:
            if kind == "arc_on" and manifest.arc_on_ns is None:
                manifest.arc_on_ns = t_ns
            elif kind == "arc_off" and manifest.arc_off_ns is None:
                manifest.arc_off_ns = t_ns
            elif kind == "weld_close" and manifest.last_order is None:
                manifest.last_order = msgspec.json.decode(row["data"]).get("last_order")
