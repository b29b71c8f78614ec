"""A weld folder as such: its names, its manifest on disk, digests, and the errors that reading and writing raise."""

import os
import re
import stat
from pathlib import Path, PurePosixPath
from typing import Final

import msgspec
import xxhash

from acquisition.packet import MODALITIES, Photo
from recordings.manifest import SCHEMA, Manifest, StreamRecord

MANIFEST: Final = "weld.json"
LARGEST_MANIFEST: Final = 64 * 2**20
"""Bytes of a `weld.json` that are read; a larger one is no work of this app."""
MARKS: Final = "marks.bin"
PHOTOS: Final = "photos"
TRUTH: Final = "truth.json"
PART: Final = ".part"
"""Ending of a file that is being written in full and will be renamed; one that a crash left behind means nothing."""

UNPRINTABLE: Final = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
"""Control characters, line ends and lone surrogates: in no name and no value that is shown or written."""

_MOST_STREAMS: Final = 256
_MOST_CHANNELS: Final = 4096
_DTYPES: Final = frozenset({"", "uint8", "int16", "int32", "float32", "float64"})
_MOST_FILES: Final = 10_000
_LONGEST_NAME: Final = 400
_LONGEST_STREAM_NAME: Final = 64
_LONGEST_PART: Final = 255
_LONGEST_LATENCY_NS: Final = 60 * 10**9


class WeldError(Exception):
    """A weld cannot be read; the message names the file, what is wrong and the next step."""


class RecordingError(Exception):
    """A weld cannot be written any further; the message names the path, the cause and the next step."""


def member(folder: Path, name: str) -> Path:
    """Return the path of a file of the weld, refusing every name that leads out of the folder.

    Raises:
        WeldError: The name is absolute, holds `..` or control characters, or is a link to somewhere else.
    """
    pure = PurePosixPath(name)
    if UNPRINTABLE.search(name):
        raise WeldError(f"{folder}: the file name {name!r} holds control characters; do not trust this weld")
    if not name or pure.is_absolute() or ".." in pure.parts or "\\" in name or ":" in name:
        raise WeldError(f"{folder}: the file name {name!r} leads out of the weld folder; do not trust this weld")
    if any(len(os.fsencode(part)) > _LONGEST_PART for part in pure.parts):
        raise WeldError(f"{folder}: the file name {name[:40]}... is longer than any file's; do not trust this weld")
    path = folder / pure
    if not path.resolve().is_relative_to(folder.resolve()):
        raise WeldError(f"{path}: is a link that leads out of the weld folder; do not trust this weld")
    return path


def data_file(folder: Path, record: StreamRecord) -> Path:
    """Return the path of the file that holds a stream's pictures or sound.

    Raises:
        WeldError: The manifest names none, or one outside the folder.
    """
    if not record.files:
        raise WeldError(f"{folder / MANIFEST}: names no file of {record.info.name}; restore it from a copy")
    return member(folder, record.files[0])


def load_manifest(folder: Path) -> Manifest:
    """Read and check `weld.json`.

    Raises:
        WeldError: It is absent, malformed, of a newer schema, or names files outside the folder.
    """
    manifest = read_manifest(folder)
    for name in _file_names(manifest):
        member(folder, name)
    return manifest


def read_manifest(folder: Path) -> Manifest:
    """Read and check `weld.json` alone; whoever opens one of its files asks `member` for the path.

    Raises:
        WeldError: It is absent, too large, malformed, of a newer schema, or holds names that make no sense.
    """
    path = folder / MANIFEST
    try:
        about = path.lstat()
        if not stat.S_ISREG(about.st_mode):
            raise WeldError(f"{path}: is a link or no file; do not trust this weld")
        if about.st_size > LARGEST_MANIFEST:
            raise WeldError(f"{path}: {about.st_size} bytes are more than {LARGEST_MANIFEST}; restore it from a copy")
        data = path.read_bytes()
    except OSError as error:
        raise WeldError(f"{path}: {error.strerror}; name a weld folder, one that holds {MANIFEST}") from error
    try:
        schema = msgspec.json.decode(data, type=_Schema).schema
        if schema > SCHEMA:
            raise WeldError(f"{path}: schema {schema} is newer than {SCHEMA}; read it with a newer version of the app")
        manifest = msgspec.json.decode(data, type=Manifest)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise WeldError(f"{path}: {' '.join(str(error).split())}; restore the file from a copy") from error
    if (problem := _nonsense(manifest)) is not None:
        raise WeldError(f"{path}: {problem}; do not trust this weld")
    return manifest


class _Schema(msgspec.Struct):
    schema: int = SCHEMA


def _file_names(manifest: Manifest) -> set[str]:
    names = {name for record in manifest.streams.values() for name in record.files}
    return names | manifest.files.keys() | manifest.replacing.keys()


def _nonsense(manifest: Manifest) -> str | None:
    """Tell what no writer of this app would have written: the file may come from anywhere."""
    parts = manifest.key.split("/")
    if any(part in ("", ".", "..") for part in parts):
        return f"{manifest.key!r} is no weld key"
    for name in (manifest.key, manifest.cell, manifest.session):
        if len(name) > _LONGEST_NAME or UNPRINTABLE.search(name):
            return f"the name {name[:80]!r} is too long or holds control characters"
    if len(manifest.streams) > _MOST_STREAMS:
        return f"{len(manifest.streams)} streams are more than {_MOST_STREAMS}"
    for name, record in manifest.streams.items():
        info = record.info
        if (
            name != info.name
            or len(name) > _LONGEST_STREAM_NAME
            or PurePosixPath(name).name != name
            or "\\" in name
            or name == ".."
        ):
            return f"{name[:80]!r} is no stream name"
        if (
            UNPRINTABLE.search(name)
            or not (info.rate_hz == 0 or 1e-3 <= info.rate_hz <= 1e9)
            or not all(0 <= size <= 2**16 for size in (info.height, info.width))
        ):
            return f"{name!r}: {info.height} x {info.width} at {info.rate_hz} Hz is no stream"
        if abs(info.latency_ns) > _LONGEST_LATENCY_NS:
            return f"{name!r}: no stream is {info.latency_ns / 1e9:g} s late"
        if info.modality not in MODALITIES or info.dtype not in _DTYPES or len(info.channels) > _MOST_CHANNELS:
            return f"{name!r}: {len(info.channels)} channels of {info.modality!r}, {info.dtype!r} are no stream"
    files = _file_names(manifest)
    if len(files) > _MOST_FILES:
        return f"{len(files)} files are more than {_MOST_FILES}"
    return None


def store_manifest(folder: Path, manifest: Manifest, *, durable: bool = True) -> None:
    """Replace `weld.json` atomically: after a crash the old or the new one is there, never half of one.

    Whatever schema the weld had when it was read, it is written in today's. Without `durable` only the death of the
    process is survived, not a power cut; it saves the wait for the disk.
    """
    manifest.schema = SCHEMA
    data = msgspec.json.format(msgspec.json.encode(manifest), indent=1)
    if durable:
        replace_file(folder / MANIFEST, data)
    else:
        part = folder / (MANIFEST + PART)
        part.unlink(missing_ok=True)
        part.write_bytes(data)
        part.replace(folder / MANIFEST)


def store_photo(folder: Path, photo: Photo) -> str:
    """Store a photo under its own name, or a numbered one where that is taken; returns the name in the weld folder.

    What no file here may be called becomes `_` (`12:30.jpg` is stored as `12_30.jpg`); the table of photos keeps the
    name as it came.

    Raises:
        OSError: The disk is full or gone.
        RecordingError: Its name is no plain file name.
        WeldError: The folder of photos is a link that leads out of the weld folder.
    """
    if PurePosixPath(photo.name).name != photo.name or photo.name in ("", ".."):
        raise RecordingError(f"{folder}: {photo.name!r} is no plain file name; rename the photo")
    name = UNPRINTABLE.sub("_", photo.name).replace("\\", "_").replace(":", "_")
    member(folder, f"{PHOTOS}/{name}")
    (folder / PHOTOS).mkdir(exist_ok=True)
    stem, dot, ending = name.rpartition(".")
    path, n = folder / PHOTOS / name, 1
    while path.exists():
        path, n = path.with_name(f"{stem}_{n}{dot}{ending}"), n + 1
    replace_file(path, photo.data)
    return f"{PHOTOS}/{path.name}"


def replace_file(path: Path, data: bytes) -> None:
    """Write a whole file beside `path`, force it to the disk and swap it in."""
    part = path.with_name(path.name + PART)
    part.unlink(missing_ok=True)  # one that leads elsewhere must not be written through
    with part.open("xb") as file:
        file.write(data)
    swap_in(part, path)


def swap_in(part: Path, path: Path) -> None:
    """Force a finished file to the disk and give it its final name."""
    force_to_disk(part)
    part.replace(path)
    force_to_disk(path.parent)


def force_to_disk(path: Path) -> None:
    """Wait until a file (or, where the system can, a folder's names) would survive a power cut."""
    if path.is_dir() and os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def digest(path: Path) -> str:
    """Hash a file (XXH3-128, hex)."""
    h = xxhash.xxh3_128()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            h.update(chunk)
    return h.hexdigest()


def find_welds(path: Path) -> list[Path]:
    """List the weld folders at or below `path`, in name order; links are not followed, hidden folders passed by.

    Raises:
        WeldError: There is none.
    """
    if (path / MANIFEST).exists():
        return [path]
    found = []
    for base, below, files in os.walk(path):
        if MANIFEST in files:
            found.append(Path(base))
            below.clear()
        below[:] = [name for name in below if not name.startswith(".")]
    if not found:
        raise WeldError(
            f"{path}: holds no weld (no {MANIFEST} in it or below); name a weld folder or a recordings root"
        )
    return sorted(found)
