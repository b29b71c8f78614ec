"""Retention: below a limit of free space the oldest welds that nobody said anything about make room for new ones.

Off unless the cell file says otherwise. A weld goes as a whole: it is renamed to a hidden folder, noted, then removed;
what a kill leaves of that is removed the next time.
"""

import contextlib
import io
import os
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

import msgspec
import polars as pl

from recordings.catalogue import read_catalogue
from recordings.folder_lock import locked
from recordings.manifest import Manifest
from recordings.marks import being_written
from recordings.utc import utc_now
from recordings.weld_folder import MANIFEST, MARKS, WeldError, load_manifest

DELETED: Final = ".deleted-"
"""Beginning of the name of a folder of a root that is being removed."""

LOG: Final = "deleted.jsonl"
"""File of a root with a line per deleted weld."""

RESTING_S: Final = 600.0
"""A weld changed this recently is left alone: a judge, a reader or a late photo may still be at it."""


class Deletion(msgspec.Struct, frozen=True, kw_only=True):
    """A line of `LOG`.

    Attributes:
        utc: When, ISO 8601 in UTC.
        key: Weld key.
        folder: Where it was, relative to the root.
        removed_as: Name under which it is removed.
        bytes: What it held.
        started_utc: When it was recorded, or None where unknown.
        why: In plain words.
    """

    utc: str
    key: str
    folder: str
    removed_as: str
    bytes: int
    started_utc: str | None
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Candidate:
    folder: Path
    key: str
    started_utc: datetime | None


def make_room(
    root: Path,
    cell: str | None,
    below_bytes: float,
    *,
    dry_run: bool = False,
    free_bytes: Callable[[Path], int] = lambda root: shutil.disk_usage(root).free,
) -> list[str]:
    """Delete the oldest unlabelled welds until `below_bytes` are free, and not one more.

    Only welds recorded here (`live`, `simulated`) that are `finalised` go. What was imported, labelled or described by
    anybody stays, as do recovered welds, which show what a crash cost, and welds changed within `RESTING_S`. Links are
    not followed.

    Args:
        root: The recordings root.
        cell: Name of the cell whose welds may go; None for every cell's.
        below_bytes: Free space that is to be had; 0 deletes nothing.
        dry_run: Change nothing, tell what would go.
        free_bytes: Tells the free space of the disk that holds a folder.

    Returns:
        A line per weld that went (or would go), or could not; empty when there is nothing to do or nothing that may go.

    Raises:
        OSError: The disk is gone, or the log cannot be written.
        WeldError: The root cannot be listed.
    """
    lines = [] if dry_run else _sweep(root)
    free = free_bytes(root)
    if below_bytes <= 0 or free >= below_bytes:
        return lines
    why = f"{free / 1e9:.2f} GB were free, less than {below_bytes / 1e9:.2f} GB"
    gained = 0
    with contextlib.ExitStack() as stack:
        # Opened before anything goes: what cannot be noted is not deleted.
        log = None if dry_run else stack.enter_context(_log(root))
        for weld in _candidates(root, cell):
            # What the file system says may lag behind: a deletion counts for what it must have given.
            if max(free + gained, free if dry_run else free_bytes(root)) >= below_bytes:
                break
            name = f"{DELETED}{time.time_ns()}-{weld.folder.name[:100]}"
            try:
                with locked(weld.folder, wait_s=0.0):
                    size = _size(str(weld.folder))
                    if not _may_go(root, weld.folder, cell):
                        continue
                    if not dry_run:
                        weld.folder.rename(root / name)
            except (OSError, WeldError) as error:
                lines.append(f"{weld.key}: cannot be deleted: {getattr(error, 'strerror', None) or error}")
                continue
            if log is not None:
                _finish(root, log, _deletion(root, weld, name, size, why))
            gained += size
            when = f"{weld.started_utc:%Y-%m-%d %H:%M} UTC" if weld.started_utc else "unknown time"
            word = "would be deleted" if dry_run else "deleted"
            lines.append(f"{weld.key}: {word}, {size / 1e6:.1f} MB of {when}, never labelled; {why}")
    return lines


def _candidates(root: Path, cell: str | None) -> Iterator[_Candidate]:
    """Give the welds that may go by the catalogue, the oldest first."""
    frame = read_catalogue(root).filter(
        pl.col("state") == "finalised",
        pl.col("source").is_in(["live", "simulated"]),
        pl.col("label") == -1,
        pl.col("problem").is_null(),
        pl.lit(True) if cell is None else pl.col("cell") == cell,
    )
    for row in frame.sort("started_utc", "path", nulls_last=True).select("path", "key", "started_utc").to_dicts():
        yield _Candidate(folder=Path(row["path"]), key=row["key"], started_utc=row["started_utc"])


def _may_go(root: Path, folder: Path, cell: str | None) -> bool:
    """Look at the weld itself, under its lock: what the catalogue knew may be a moment old."""
    if folder.is_symlink() or not folder.resolve().is_relative_to(root.resolve()) or folder == root:
        return False
    if time.time() - (folder / MANIFEST).lstat().st_mtime < RESTING_S or being_written(folder / MARKS):
        return False
    return _forgotten(load_manifest(folder), cell)


def _forgotten(manifest: Manifest, cell: str | None) -> bool:
    """Tell whether nobody ever said anything about a weld of this cell that was recorded here as a whole."""
    mine = cell is None or manifest.cell == cell
    whole = manifest.state == "finalised" and manifest.source != "imported"
    return mine and whole and not manifest.labels and not manifest.edits


def _deletion(root: Path, weld: _Candidate, name: str, size: int, why: str) -> Deletion:
    return Deletion(
        utc=utc_now(),
        key=weld.key,
        folder=weld.folder.relative_to(root).as_posix(),
        removed_as=name,
        bytes=size,
        started_utc=weld.started_utc.isoformat() if weld.started_utc else None,
        why=why,
    )


def _finish(root: Path, log: io.FileIO, entry: Deletion) -> None:
    """Note a weld that is out of sight, and remove it; on a full disk the other way round.

    What resists being removed is tried again the next time.
    """
    try:
        _note(log, entry)
    except OSError:
        shutil.rmtree(root / entry.removed_as, ignore_errors=True)
        _note(log, entry)
    else:
        shutil.rmtree(root / entry.removed_as, ignore_errors=True)


def _log(root: Path) -> io.FileIO:
    """Open the log for appending, unless it is a link."""
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
    return io.FileIO(os.open(root / LOG, flags, 0o644), "a")


def _note(log: io.FileIO, entry: Deletion) -> None:
    log.write(msgspec.json.encode(entry) + b"\n")
    os.fsync(log.fileno())


def _sweep(root: Path) -> list[str]:
    """Remove what a kill left of earlier deletions, and note those that it kept from being noted."""
    with os.scandir(root) as entries:
        left = [Path(e.path) for e in entries if e.name.startswith(DELETED) and e.is_dir(follow_symlinks=False)]
    if not left:
        return []
    path = root / LOG
    noted = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
    lines = []
    with _log(root) as log:
        for folder in left:
            if folder.name.encode() not in noted:
                lines.append(_note_late(log, folder))
            shutil.rmtree(folder, ignore_errors=True)  # another program may be at it, too
    return lines


def _note_late(log: io.FileIO, folder: Path) -> str:
    """Note a deletion that was cut off between taking the weld away and noting it: the folder is still whole."""
    try:
        key = load_manifest(folder).key
    except WeldError:
        key = folder.name.removeprefix(DELETED).partition("-")[2]
    why = "its deletion was cut off and is completed now"
    utc = utc_now()
    size = _size(str(folder))
    _note(log, Deletion(utc=utc, key=key, folder="", removed_as=folder.name, bytes=size, started_utc=None, why=why))
    return f"{key}: deleted; {why}"


def _size(folder: str) -> int:
    """Bytes that removing a folder gives back: a file that has another name elsewhere gives none."""
    total = 0
    with os.scandir(folder) as entries:
        for entry in entries:
            about = entry.stat(follow_symlinks=False)
            if stat.S_ISDIR(about.st_mode):
                total += _size(entry.path)
            elif about.st_nlink == 1:
                total += about.st_size
    return total
