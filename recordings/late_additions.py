"""What is added to a weld after it was finalised: verdicts of a late judge, labels, photos taken hours later.

Only tables of words grow, by a new file swapped in for the old one; no sample data is touched.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet

from acquisition.packet import EVENTS_STREAM, Event, Packet, Photo
from recordings.columns import EVENTS, SCORES, event_row, photo_row, score_row
from recordings.finishing import SCORES_TABLE, stream_table
from recordings.manifest import LabelEntry, Manifest
from recordings.table_writer import read_table
from recordings.verdict import Score, Verdict
from recordings.weld_folder import (
    PART,
    RecordingError,
    digest,
    load_manifest,
    store_manifest,
    store_photo,
    swap_in,
)


def add_scores(folder: Path, items: Sequence[Score | Verdict]) -> None:
    """Append scores and verdicts to a finished weld.

    Raises:
        OSError: The disk is full or gone; the weld is as it was.
        WeldError: The folder holds no readable weld.
    """
    manifest = load_manifest(folder)
    _append_rows(folder, manifest, SCORES_TABLE, SCORES, [score_row(item) for item in items])
    store_manifest(folder, manifest)


def add_packet(folder: Path, packet: Packet) -> None:
    """Add a photo that came after finalising, or an event about it, to a finished weld.

    Raises:
        OSError: The disk is full or gone; the weld is as it was.
        RecordingError: The photo's name is no plain file name, or the weld has no such stream.
        WeldError: The folder holds no readable weld.
    """
    manifest = load_manifest(folder)
    payload = packet.payload
    if isinstance(payload, Event):
        _append_rows(folder, manifest, EVENTS_STREAM, EVENTS, [event_row(packet, payload)])
    elif isinstance(payload, Photo):
        record = manifest.streams.get(packet.stream)
        if record is None:
            raise RecordingError(f"{folder}: no stream {packet.stream!r} in this weld; give the photo by hand")
        file = store_photo(folder, payload)
        manifest.files[file] = digest(folder / file)
        stem, columns = stream_table(record.info)
        _append_rows(folder, manifest, stem, columns, [photo_row(packet, payload, file)])
        record.files = [*record.files, *(name for name in (file, f"{stem}.parquet") if name not in record.files)]
        record.items += 1
    store_manifest(folder, manifest)


def add_label(folder: Path, entry: LabelEntry) -> None:
    """Append a label to a finished weld's history.

    Raises:
        OSError: The disk is full or gone; the weld is as it was.
        WeldError: The folder holds no readable weld.
    """
    manifest = load_manifest(folder)
    manifest.labels.append(entry)
    store_manifest(folder, manifest)


def _append_rows(
    folder: Path, manifest: Manifest, stem: str, columns: pa.Schema, rows: Sequence[dict[str, Any]]
) -> None:
    """Swap in a table with more rows and note its new digest in the manifest (not yet stored)."""
    path = folder / f"{stem}.parquet"
    added = pa.Table.from_pylist(list(rows), schema=columns)
    before = read_table(path, columns) if path.exists() else columns.empty_table()
    part = path.with_name(path.name + PART)
    pyarrow.parquet.write_table(pa.concat_tables([before, added]), part, compression="zstd")
    swap_in(part, path)
    manifest.files[path.name] = digest(path)
