"""What is added to a weld after it was finalised: verdicts of a late judge, labels, descriptions, late photos.

Only tables of words and `weld.json` grow, by a new file swapped in for the old one; no sample data is touched. One
program at a time changes a weld, and a kill at any instant leaves either what was or what was to be.
"""

import contextlib
import math
import re
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet

from acquisition.packet import EVENTS_STREAM, Event, Packet, Photo
from recordings.columns import EVENTS, SCORES, event_row, photo_row, score_row
from recordings.finishing import SCORES_TABLE, recorded_items, stream_table
from recordings.folder_lock import locked
from recordings.manifest import LARGEST, LabelEntry, Manifest, MetadataEntry
from recordings.table_writer import read_table
from recordings.verdict import CLASSES, Score, Verdict
from recordings.weld_folder import (
    PART,
    UNPRINTABLE,
    RecordingError,
    WeldError,
    digest,
    load_manifest,
    member,
    store_manifest,
    store_photo,
    swap_in,
)

LONGEST_VALUE: Final = 2000
"""Characters of a text about a weld."""

MOST_ENTRIES: Final = 10_000
"""Labels and descriptions of one weld, so that its history stays a file of a size that is read."""

_NAME: Final = re.compile(r"[^\W\d][\w.-]{0,59}")
_FIXED: Final = frozenset({"key", "cell", "session", "state", "source", "label"})
"""What a weld is, or is told otherwise; no metadata may look like it."""


class EditError(WeldError):
    """What was to be said about a weld makes no sense; the message names it, the value and the next step."""


def add_scores(folder: Path, items: Sequence[Score | Verdict]) -> None:
    """Append scores and verdicts to a finished weld.

    Raises:
        OSError: The disk is full or gone, or another program holds the weld; the weld is as it was.
        WeldError: The folder holds no readable finished weld.
    """
    with _changing(folder) as manifest:
        _append_rows(folder, manifest, SCORES_TABLE, SCORES, [score_row(item) for item in items])


def add_packet(folder: Path, packet: Packet) -> None:
    """Add a photo that came after finalising, or an event about it, to a finished weld.

    Raises:
        OSError: The disk is full or gone, or another program holds the weld; the weld is as it was.
        RecordingError: The photo's name is no plain file name, or the weld has no such stream.
        WeldError: The folder holds no readable finished weld.
    """
    payload = packet.payload
    with _changing(folder) as manifest:
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


def add_label(folder: Path, entry: LabelEntry) -> None:
    """Append a label to a finished weld's history.

    Raises:
        EditError: There is no such class, or nobody says when or who.
        OSError: The disk is full or gone, or another program holds the weld; the weld is as it was.
        WeldError: The folder holds no readable finished weld.
    """
    check_entry(entry)
    with _changing(folder) as manifest:
        _room_for_one(folder, manifest)
        manifest.labels.append(entry)


def add_edit(folder: Path, entry: MetadataEntry) -> None:
    """Append to what is said about a finished weld; what was recorded stays beside it.

    Raises:
        EditError: The name or the value makes no sense, or what was recorded under the name is no single value.
        OSError: The disk is full or gone, or another program holds the weld; the weld is as it was.
        WeldError: The folder holds no readable finished weld.
    """
    check_entry(entry)
    with _changing(folder) as manifest:
        _room_for_one(folder, manifest)
        if isinstance(manifest.metadata.get(entry.name), list | dict):
            raise EditError(f"{folder}: {entry.name!r} was recorded as several values; choose another name")
        manifest.edits.append(entry)


def check_entry(entry: LabelEntry | MetadataEntry) -> None:
    """Check a label or a description before it is kept, whether the weld is finished or still open.

    Raises:
        EditError: It makes no sense; the message says what does.
    """
    if isinstance(entry, LabelEntry):
        if not -1 <= entry.label < len(CLASSES):
            raise EditError(f"label {entry.label} is not -1 to {len(CLASSES) - 1}; choose a listed class")
    else:
        if not _NAME.fullmatch(entry.name) or entry.name in _FIXED:
            fix = "use letters, digits, _, - and ., a letter first" if entry.name not in _FIXED else "choose another"
            raise EditError(f"{entry.name[:80]!r} is no name of metadata; {fix}")
        _check_value(entry.name, entry.value)
    if not entry.by.strip():
        raise EditError("nobody says this; name a person or a program")
    _check_value("by", entry.by)
    try:
        zone = datetime.fromisoformat(entry.utc).tzinfo
    except ValueError:
        zone = None
    if zone is None:
        raise EditError(f"{entry.utc[:80]!r} is no time; give ISO 8601 with a zone")


def _check_value(name: str, value: str | float | int | bool | None) -> None:
    if isinstance(value, str):
        if len(value) > LONGEST_VALUE:
            raise EditError(f"{name}: {len(value)} characters are more than {LONGEST_VALUE}; shorten it")
        if (found := UNPRINTABLE.search(value)) is not None:
            raise EditError(f"{name}: holds the control character {found[0]!r}; write it on one line")
    elif isinstance(value, float) and not math.isfinite(value):
        raise EditError(f"{name}: {value} is no number; give a finite one")
    elif isinstance(value, int) and abs(value) > LARGEST:
        raise EditError(f"{name}: {value} is too large a number; give it as a text")


def settle(folder: Path, manifest: Manifest) -> list[str]:
    """Decide for every file whose swapping-in was cut off whether it is the old one or the new one.

    The caller stores the manifest. Nothing is lost by a cut but the rows that were to be added, and only if the new
    file is not there yet.

    Returns:
        A line per file.

    Raises:
        OSError: A file cannot be read.
    """
    lines = []
    for name, new in list(manifest.replacing.items()):
        path = member(folder, name)
        adopted = path.exists() and digest(path) == new
        lines.append(f"{path}: an addition that was cut off is {'complete' if adopted else 'not there and dropped'}")
        if adopted:
            manifest.files[name] = new
            for record in manifest.streams.values():
                stem, columns = stream_table(record.info)
                if name == f"{stem}.parquet":
                    table = read_table(path, columns)
                    record.items = recorded_items(record.info, table)
                    photos = [str(file) for file in table["file"].to_pylist()] if "file" in table.column_names else []
                    record.files += [file for file in [*photos, name] if file not in record.files]
        del manifest.replacing[name]
    return lines


@contextlib.contextmanager
def _changing(folder: Path) -> Iterator[Manifest]:
    """Give the manifest of a finished weld to change, one program at a time, and store it if all went well."""
    load_manifest(folder)  # tells what is no weld before it is locked
    with locked(folder):
        manifest = load_manifest(folder)
        if manifest.state == "open":
            raise WeldError(f"{folder}: is not finished; wait for the end of its recording, or recover it")
        settle(folder, manifest)
        yield manifest
        store_manifest(folder, manifest)


def _room_for_one(folder: Path, manifest: Manifest) -> None:
    if len(manifest.labels) + len(manifest.edits) >= MOST_ENTRIES:
        raise EditError(f"{folder}: {MOST_ENTRIES} things were said about this weld; no more are kept")


def _append_rows(
    folder: Path, manifest: Manifest, stem: str, columns: pa.Schema, rows: Sequence[dict[str, Any]]
) -> None:
    """Swap in a table with more rows; the manifest (not yet stored in the end) has its new digest.

    Before the swap a manifest is stored that knows both digests, so that a kill leaves no file that nobody vouches for.
    """
    path = folder / f"{stem}.parquet"
    added = pa.Table.from_pylist(list(rows), schema=columns)
    known = manifest.files.get(path.name)
    if known != (digest(path) if path.exists() else None):
        raise WeldError(f"{path}: is not the file that was recorded; restore it from a copy")
    before = columns.empty_table() if known is None else read_table(path, columns)
    part = path.with_name(path.name + PART)
    part.unlink(missing_ok=True)
    try:
        pyarrow.parquet.write_table(pa.concat_tables([before, added]), part, compression="zstd")
        new = digest(part)
        manifest.replacing[path.name] = new
        store_manifest(folder, manifest)
        swap_in(part, path)
    except OSError:
        part.unlink(missing_ok=True)
        raise
    manifest.files[path.name] = new
    del manifest.replacing[path.name]
