"""The catalogue: all welds under a root as one table, rebuilt from the folders at any time.

An index beside them (`INDEX`) remembers a row per folder, so that a look at 10,000 welds costs a few `stat` each. It is
nothing but memory: it may be deleted, be damaged, or be written by several programs at once.
"""

import logging
import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import polars as pl
import pyarrow as pa
import pyarrow.parquet

from recordings.catalogue_row import COLUMNS, EVENTS_FILE, SCORES_FILE, weld_row
from recordings.folder_lock import locked
from recordings.weld_folder import MANIFEST, PART, UNPRINTABLE, WeldError, read_manifest, swap_in

log = logging.getLogger(__name__)

INDEX: Final = ".catalogue.parquet"
"""File of a root; its name is hidden, as are all that the catalogue passes by."""

_VERSION: Final = b"1"
"""Of the index; one of another version is ignored and replaced."""

_VERSION_KEY: Final = b"weld_catalogue"
_SETTLED_NS: Final = 2_000_000_000
"""A file changed this recently may change again without looking different (FAT counts in 2 s): it is read again."""

_LISTING: Final[dict[str, pl.DataType]] = {"folder": pl.String(), "stamp": pl.String()}
_REMEMBERED: Final[dict[str, pl.DataType]] = {**_LISTING, **COLUMNS}
_unwritable: Final[set[Path]] = set()


def read_catalogue(root: Path, *, refresh: bool = False) -> pl.DataFrame:
    """List all welds under a root, in the order of their folders; links and hidden folders are passed by.

    Args:
        root: A recordings root, or a weld folder, which is a catalogue of one.
        refresh: Read every weld anew, whatever the index remembers.

    Returns:
        `COLUMNS`, a row per weld. One that cannot be read has a `problem` and is no error; nor is a key that two welds
        have, which both say so.

    Raises:
        WeldError: `root` is no folder, or cannot be listed.
    """
    try:
        found = dict(_welds(root))
    except OSError as error:
        raise WeldError(f"{root}: {error.strerror}; name a recordings root") from error
    before = _blank() if refresh or not root.is_dir() else _read_index(root)
    known_by = {folder: stamp for folder, stamp in found.items() if stamp}
    listing = pl.DataFrame({"folder": list(known_by), "stamp": list(known_by.values())}, _LISTING)
    kept = before.join(listing, on=["folder", "stamp"], how="semi")
    known = set(kept["folder"])
    fresh = pl.DataFrame([_row(root, *one) for one in found.items() if one[0] not in known], _REMEMBERED)
    lasting = fresh.filter((pl.col("stamp") != "") & pl.col("problem").is_null() & (pl.col("state") != "open"))
    if "." not in found and (refresh or len(lasting) or len(kept) < len(before)):
        _write_index(root, pl.concat([kept, lasting]))
    return _finished(root, pl.concat([kept, fresh]).sort("folder"))


def find_weld(root: Path, key: str, *, search: bool = True) -> Path | None:
    """Return the folder of a weld: where the layout puts it, or else where the catalogue finds it.

    Args:
        root: The recordings root.
        key: Weld key.
        search: Without it only the layout counts, which takes no longer than a look into every day's folder.

    Raises:
        WeldError: The root cannot be listed, or two welds have this key.
    """
    if UNPRINTABLE.search(key) or any(part in ("", ".", "..") for part in key.split("/")):
        return None
    try:
        found = list(_by_layout(root, key))
    except OSError as error:
        raise WeldError(f"{root}: {error.strerror}; name a recordings root") from error
    if not found and search:
        frame = read_catalogue(root)
        found = [Path(path) for path in frame.filter(pl.col("key") == key)["path"]]
    if len(found) > 1:
        raise WeldError(f"{found[0]} and {found[1]} have the same key {key}; name the folder that is meant")
    return found[0] if found else None


def _by_layout(root: Path, key: str) -> Iterator[Path]:
    """Look into `<root>/<cell>/<date>/<key>`."""
    for cell in _folders(str(root)):
        for day in _folders(cell):
            folder = Path(day, key)
            if any(path.is_symlink() for path in (folder, *folder.parents[: key.count("/")])):
                continue
            try:
                if read_manifest(folder).key == key:
                    yield folder
            except WeldError:
                continue  # no weld there, or one that does not know its own key


def _folders(folder: str) -> list[str]:
    with os.scandir(folder) as entries:
        return [e.path for e in entries if not e.name.startswith(".") and e.is_dir(follow_symlinks=False)]


def _welds(root: Path) -> Iterator[tuple[str, str]]:
    """Give every weld folder, relative to the root, with what tells its contents from others (empty: nothing does)."""
    now_ns, prefix = time.time_ns(), len(str(root)) + 1
    if (stamp := _stamp(str(root), now_ns)) is not None:
        yield ".", ""
        return
    waiting = [str(root)]
    while waiting:
        folder = waiting.pop()
        try:
            below = _folders(folder)
        except OSError:
            if folder == str(root):
                raise
            yield folder[prefix:].replace(os.sep, "/"), ""  # reading it will say why
            continue
        for path in below:
            if (stamp := _stamp(path, now_ns)) is None:
                waiting.append(path)
            else:
                # A name need not be UTF-8; such a weld is listed, but no table can remember it.
                yield path[prefix:].replace(os.sep, "/"), stamp if _is_text(path) else ""


def _is_text(path: str) -> bool:
    return path.isascii() or UNPRINTABLE.search(path) is None


def _stamp(folder: str, now_ns: int) -> str | None:
    """Tell when, how long and which the files are that a row comes from; None for a folder that holds no weld."""
    parts = []
    for name in (MANIFEST, SCORES_FILE, EVENTS_FILE):
        try:
            about = os.lstat(f"{folder}/{name}")
        except FileNotFoundError:
            if name == MANIFEST:
                return None
            parts.append("")
            continue
        except OSError:
            return ""
        if abs(now_ns - about.st_mtime_ns) < _SETTLED_NS:
            return ""
        parts.append(f"{about.st_mtime_ns},{about.st_size},{about.st_ino}")
    return " ".join(parts)


def _row(root: Path, folder: str, stamp: str) -> dict[str, object]:
    try:
        row = weld_row(root / folder)
    except OSError as error:
        row = {"problem": f"{root / folder}: {error.strerror}; check the disk"}
    row = {"folder": folder, "stamp": stamp, **row}
    for name in ("folder", "problem"):
        if isinstance(text := row[name], str) and not _is_text(text):
            row[name] = os.fsencode(text).decode("utf-8", "backslashreplace")
    return row


def _finished(root: Path, frame: pl.DataFrame) -> pl.DataFrame:
    """Add what depends on where the root is, and on the other welds."""
    path = pl.concat_str(pl.lit(f"{root}/"), "folder") if list(frame["folder"]) != ["."] else pl.lit(str(root))
    twice = pl.when(pl.col("key").is_not_null() & pl.col("key").is_duplicated()).then(pl.lit("key used twice"))
    problem = pl.concat_str("problem", twice, separator="; ", ignore_nulls=True)
    return frame.with_columns(path=path, problem=pl.when(problem != "").then(problem)).select(list(COLUMNS))


def _blank() -> pl.DataFrame:
    return pl.DataFrame(schema=_REMEMBERED)


def _read_index(root: Path) -> pl.DataFrame:
    """Return what the index remembers: nothing where it is absent, damaged or of another version."""
    path = root / INDEX
    try:
        if not stat.S_ISREG(path.lstat().st_mode):
            return _blank()
        with pa.parquet.ParquetFile(path, page_checksum_verification=True) as file:
            if (file.schema_arrow.metadata or {}).get(_VERSION_KEY) != _VERSION:
                return _blank()
            frame = pl.from_arrow(file.read())
    except (OSError, ValueError, pa.ArrowException, pl.exceptions.PolarsError) as error:
        if not isinstance(error, FileNotFoundError):
            log.info("%s: ignored and made anew (%s)", path, error)
        return _blank()
    return frame if isinstance(frame, pl.DataFrame) and frame.schema == _REMEMBERED else _blank()


def _write_index(root: Path, frame: pl.DataFrame) -> None:
    """Swap a new index in; where another program is at it, or nothing can be written, the old one stays."""
    table = frame.to_arrow(compat_level=pl.CompatLevel.oldest())
    part = root / f"{INDEX}{PART}"
    try:
        with locked(root, wait_s=0.0):
            metadata = {_VERSION_KEY: _VERSION}
            part.unlink(missing_ok=True)
            pa.parquet.write_table(
                table.replace_schema_metadata(metadata), part, compression="zstd", write_page_checksum=True
            )
            swap_in(part, root / INDEX)
    except TimeoutError:
        return
    except OSError as error:
        if root not in _unwritable:
            _unwritable.add(root)
            log.warning("%s: no index can be kept (%s); every listing reads all welds", root, error.strerror or error)
