"""One weld of a Weld-4M source becomes one weld folder, whole or not at all."""

import errno
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from recordings.manifest import Manifest
from recordings.weld4m_content import UnreadableWeldError, WeldContent, absent_modalities, read_content
from recordings.weld4m_glance import glance
from recordings.weld4m_packets import CELL, VIDEO_FILE, weld_manifest, weld_packets
from recordings.weld4m_photos import Region
from recordings.weld4m_tree import FoundWeld
from recordings.weld_folder import (
    PART,
    PHOTOS,
    RecordingError,
    WeldError,
    digest,
    force_to_disk,
    load_manifest,
)
from recordings.weld_writer import WeldWriter

STAGING: Final = ".importing"
_LARGEST_ERRNO: Final = 4096
"""Larger ones are FFmpeg's own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportOptions:
    """How to import.

    Attributes:
        dry_run: Write nothing.
        check: With `dry_run`, read and decode everything all the same.
        link: Hard links instead of copies of what is kept byte for byte (video, photos), where the system can.
        mask: Regions of every photo that are painted over.
    """

    dry_run: bool = False
    check: bool = False
    link: bool = False
    mask: tuple[Region, ...] = ()


@dataclass(slots=True, kw_only=True)
class Outcome:
    """What became of one weld.

    Attributes:
        key: The weld.
        reason: Why it was not imported, or None.
        already: It was there before, with the same content.
        absent: Modalities that the source does not hold.
        unreadable: What it should hold but does not give.
        warnings: What else its owner should know.
        offsets: Per stream, how it was placed in time.
        copied: Why files were copied where links were asked for, or None.
        broken: The destination cannot be written any further.
    """

    key: str
    reason: str | None = None
    already: bool = False
    absent: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    offsets: dict[str, dict[str, Any]] = field(default_factory=dict)
    copied: str | None = None
    broken: bool = False


def place_of(weld: FoundWeld, destination: Path) -> Path:
    """Return the folder that a weld is imported into."""
    return destination / CELL / weld.date / weld.key


def sweep_staging(weld: FoundWeld, destination: Path) -> None:
    """Remove what an import of the weld that was killed has left."""
    shutil.rmtree(_staging(place_of(weld, destination)), ignore_errors=True)


def _staging(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}{STAGING}")


def import_one(weld: FoundWeld, destination: Path, options: ImportOptions) -> Outcome:
    """Import one weld; whatever is wrong with it is in the outcome."""
    outcome = Outcome(key=weld.key, absent=absent_modalities(weld))
    folder = place_of(weld, destination)
    try:
        if weld.problems:
            raise UnreadableWeldError("; ".join(weld.problems))
        if os.path.lexists(folder):
            outcome.already = _is_same(weld, folder, options)
            if not outcome.already:
                raise UnreadableWeldError(
                    f"something else is already in {folder}; remove that folder to import the weld again"
                )
            return outcome
        before = _states(weld)
        quick = options.dry_run and not options.check
        content = glance(weld) if quick else read_content(weld, options.mask)
        outcome.unreadable, outcome.warnings = content.unreadable, content.warnings
        outcome.offsets = {name: offset.as_json() for name, offset in content.offsets.items()}
        if not options.dry_run:
            outcome.copied = _write(weld, content, folder, before, options)
    except UnreadableWeldError as error:
        outcome.reason = str(error)
    except RecordingError as error:
        outcome.reason, outcome.broken = str(error), True
    except OSError as error:  # of the source: those of the destination have become RecordingErrors
        outcome.reason = f"{error.filename or weld.key}: {error.strerror}; check the file"
    except MemoryError:
        outcome.reason = "needs more memory than there is; look at the size of its files"
    return outcome


def _is_same(weld: FoundWeld, folder: Path, options: ImportOptions) -> bool:
    """Tell whether a folder holds what importing the weld now would give: same files, class, set-up and mask.

    Sizes and times of change are compared; where only the time differs, the digest decides.
    """
    try:
        manifest = load_manifest(folder)
    except WeldError:
        return False
    kept = manifest.metadata.get("imported_from")
    if manifest.key != weld.key or manifest.state == "open" or not isinstance(kept, dict):
        return False
    given = {name: manifest.metadata.get(name) for name in weld.metadata}
    label = (manifest.labels[0].label, manifest.labels[0].by) if manifest.labels else (-1, None)
    if given != weld.metadata or label != (weld.label, weld.label_by) or kept.get("mask") != _mask_json(options):
        return False
    files, now = kept.get("files"), _sources(weld)
    if not isinstance(files, dict) or files.keys() != now.keys():
        return False
    for name, path in now.items():
        about, then = path.stat(), files[name]
        if not isinstance(then, dict) or then.get("bytes") != about.st_size:
            return False
        if then.get("modified_ns") != about.st_mtime_ns and not (options.dry_run or then.get("xxh3") == digest(path)):
            return False
    return True


def _mask_json(options: ImportOptions) -> list[list[float]]:
    return [list(region) for region in options.mask]


def _sources(weld: FoundWeld) -> dict[str, Path]:
    """The files that a weld is made from, by a name that is unique in it."""
    return {path.name: path for path in weld.files.values()} | {f"{PHOTOS}/{path.name}": path for path in weld.photos}


def _states(weld: FoundWeld) -> dict[str, tuple[int, int]]:
    """Size and time of change of each file that a weld is made from.

    Raises:
        UnreadableWeldError: One is gone.
    """
    states = {}
    for name, path in _sources(weld).items():
        try:
            about = path.stat()
        except OSError as error:
            raise UnreadableWeldError(f"{path.name}: {error.strerror}; check the file") from None
        states[name] = about.st_size, about.st_mtime_ns
    return states


def _facts(weld: FoundWeld, content: WeldContent, states: dict[str, tuple[int, int]]) -> dict[str, dict[str, Any]]:
    """What is recorded of each file that a weld is made from; of those that gave nothing no digest."""
    streams = {"video": content.video, "audio": content.sound, "sensors": content.sensors}
    used = {weld.files[kind].name for kind, stream in streams.items() if stream is not None}
    used |= {f"{PHOTOS}/{one.photo.name}" for one in content.photos}
    return {
        name: {
            "bytes": states[name][0],
            "modified_ns": states[name][1],
            "xxh3": digest(path) if name in used else None,
        }
        for name, path in _sources(weld).items()
    }


def _write(
    weld: FoundWeld, content: WeldContent, folder: Path, before: dict[str, tuple[int, int]], options: ImportOptions
) -> str | None:
    """Write the weld beside its place and move it there when it is whole; returns why nothing was linked, or None.

    Raises:
        UnreadableWeldError: A file changed meanwhile, or holds what a weld folder cannot.
        RecordingError: The destination is full or gone.
    """
    staging = _staging(folder)
    shutil.rmtree(staging, ignore_errors=True)
    copied = None
    writer = None
    try:
        facts = _facts(weld, content, before)
        source = {"files": facts, "mask": _mask_json(options)}
        writer = WeldWriter(staging, weld_manifest(weld, content, source), {})
        kept: dict[str, str] = {}
        if content.video is not None:
            copied = _bring(weld.files["video"], staging / VIDEO_FILE, weld.root, link=options.link)
            kept[VIDEO_FILE] = facts[weld.files["video"].name]["xxh3"]
        for item in weld_packets(weld, content):
            writer.write(item)
        if not options.mask:
            photos = {path.name: path for path in weld.photos}
            for one in content.photos:
                name = f"{PHOTOS}/{one.photo.name}"
                kept[name] = facts[name]["xxh3"]
                if options.link and copied is None:
                    copied = _bring(photos[one.photo.name], staging / name, weld.root, link=True)
        manifest = writer.finalise()
        _same_as_before(weld, manifest, kept, before)
        staging.rename(folder)
        force_to_disk(folder.parent)
    except BaseException as error:
        if writer is not None:
            writer.abandon()
        shutil.rmtree(staging, ignore_errors=True)
        cause = error if isinstance(error, OSError) else error.__cause__
        if isinstance(cause, OSError) and isinstance(error, (OSError, RecordingError)):
            if cause.errno in (errno.ENOTEMPTY, errno.EEXIST) and folder.exists():
                raise UnreadableWeldError(f"{folder} appeared while the weld was imported; import it again") from error
            if _is_about_content(cause):
                raise UnreadableWeldError(f"cannot be written as a weld: {error}") from error
            raise RecordingError(f"{folder}: {cause.strerror}; make room or name another root") from error
        raise
    return copied


def _bring(source: Path, target: Path, root: Path, *, link: bool) -> str | None:
    """Put a file of the source into the weld folder; returns why it was copied though a link was asked for."""
    real = source.resolve()
    if not real.is_relative_to(root):
        raise UnreadableWeldError(f"{source.name} is a link out of {root}; copy the file there instead")
    part = target.with_name(target.name + PART)
    reason = None
    if link:
        try:
            os.link(real, part)
            part.replace(target)
        except OSError as error:
            reason = error.strerror or str(error)
        else:
            return None
    if not target.exists():
        shutil.copyfile(real, part)
        force_to_disk(part)
        part.replace(target)
    return reason


def _same_as_before(
    weld: FoundWeld, manifest: Manifest, kept: dict[str, str], before: dict[str, tuple[int, int]]
) -> None:
    """Refuse a weld whose files were written to while they were read.

    Raises:
        UnreadableWeldError: One was.
    """
    changed = [name for name, xxh3 in kept.items() if manifest.files.get(name) != xxh3]
    now = _states(weld)
    changed += [name for name in before if now[name] != before[name]]
    if changed:
        raise UnreadableWeldError(f"{changed[0]} changed while it was imported; import the weld again")


def _is_about_content(error: OSError) -> bool:
    """Tell what an encoder refuses from what the disk refuses."""
    return error.errno is None or error.errno == errno.EINVAL or error.errno > _LARGEST_ERRNO
