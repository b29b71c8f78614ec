"""A weld folder as such: its names, its manifest on disk, digests, and the errors that reading and writing raise."""

import os
from pathlib import Path, PurePosixPath
from typing import Final

import msgspec
import xxhash

from acquisition.packet import Photo
from recordings.manifest import SCHEMA, Manifest

MANIFEST: Final = "weld.json"
MARKS: Final = "marks.bin"
PHOTOS: Final = "photos"
TRUTH: Final = "truth.json"
PART: Final = ".part"
"""Ending of a file that is being written in full and will be renamed; one that a crash left behind means nothing."""


class WeldError(Exception):
    """A weld cannot be read; the message names the file, what is wrong and the next step."""


class RecordingError(Exception):
    """A weld cannot be written any further; the message names the path, the cause and the next step."""


def member(folder: Path, name: str) -> Path:
    """Return the path of a file of the weld, refusing every name that leads out of the folder.

    Raises:
        WeldError: The name is absolute, holds `..`, or is a link to somewhere else.
    """
    pure = PurePosixPath(name)
    if not name or pure.is_absolute() or ".." in pure.parts or "\\" in name or ":" in name:
        raise WeldError(f"{folder}: the file name {name!r} leads out of the weld folder; do not trust this weld")
    path = folder / pure
    if not path.resolve().is_relative_to(folder.resolve()):
        raise WeldError(f"{path}: is a link that leads out of the weld folder; do not trust this weld")
    return path


def load_manifest(folder: Path) -> Manifest:
    """Read and check `weld.json`.

    Raises:
        WeldError: It is absent, malformed, of a newer schema, or names files outside the folder.
    """
    path = folder / MANIFEST
    try:
        data = path.read_bytes()
    except OSError as error:
        raise WeldError(f"{path}: {error.strerror}; name a weld folder, one that holds {MANIFEST}") from error
    try:
        schema = msgspec.json.decode(data, type=dict[str, object]).get("schema", SCHEMA)
        if not isinstance(schema, int) or schema > SCHEMA:
            raise WeldError(f"{path}: schema {schema} is newer than {SCHEMA}; read it with a newer version of the app")
        manifest = msgspec.json.decode(data, type=Manifest)
    except msgspec.MsgspecError as error:
        raise WeldError(f"{path}: {error}; restore the file from a copy") from error
    for name, record in manifest.streams.items():
        if name != record.info.name or PurePosixPath(name).name != name or "\\" in name or name == "..":
            raise WeldError(f"{path}: {name!r} is no stream name; do not trust this weld")
        for file in record.files:
            member(folder, file)
    for file in manifest.files:
        member(folder, file)
    return manifest


def store_manifest(folder: Path, manifest: Manifest, *, durable: bool = True) -> None:
    """Replace `weld.json` atomically: after a crash the old or the new one is there, never half of one.

    Without `durable` only the death of the process is survived, not a power cut; it saves the wait for the disk.
    """
    data = msgspec.json.format(msgspec.json.encode(manifest), indent=1)
    if durable:
        replace_file(folder / MANIFEST, data)
    else:
        part = folder / (MANIFEST + PART)
        part.write_bytes(data)
        part.replace(folder / MANIFEST)


def store_photo(folder: Path, photo: Photo) -> str:
    """Store a photo under its own name, or a numbered one where that is taken; returns the name in the weld folder.

    Raises:
        RecordingError: Its name is no plain file name.
        OSError: The disk is full or gone.
    """
    if PurePosixPath(photo.name).name != photo.name or "\\" in photo.name or ":" in photo.name:
        raise RecordingError(f"{folder}: {photo.name!r} is no plain file name; rename the photo")
    (folder / PHOTOS).mkdir(exist_ok=True)
    stem, dot, ending = photo.name.rpartition(".")
    path, n = folder / PHOTOS / photo.name, 1
    while path.exists():
        path, n = path.with_name(f"{stem}_{n}{dot}{ending}"), n + 1
    replace_file(path, photo.data)
    return f"{PHOTOS}/{path.name}"


def replace_file(path: Path, data: bytes) -> None:
    """Write a whole file beside `path`, force it to the disk and swap it in."""
    part = path.with_name(path.name + PART)
    with part.open("wb") as file:
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
    """List the weld folders at or below `path`, in name order; links are not followed.

    Raises:
        WeldError: There is none.
    """
    if (path / MANIFEST).exists():
        return [path]
    found = sorted(Path(base) for base, _, files in os.walk(path) if MANIFEST in files)
    if not found:
        raise WeldError(
            f"{path}: holds no weld (no {MANIFEST} in it or below); name a weld folder or a recordings root"
        )
    return found
