"""Finds the welds of a Weld-4M source: a tree, a flat folder of files named by id, or one weld's files.

A weld is known by `DIRECTORY/id`, because ids repeat between folders. Its class comes from `manifest.csv`, checked
against the two digits that end its id; without a manifest from those digits; never from a folder's or file's words.
"""

import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from recordings.verdict import CLASSES
from recordings.weld4m_files import naming_problem, placing_problem, shown
from recordings.weld4m_manifest import MANIFEST, ManifestRow, find_manifest, read_class_rows
from recordings.weld4m_manifest import SourceError as SourceError

_KINDS: Final = {".avi": "video", ".flac": "audio", ".csv": "sensors"}
_PHOTOS: Final = frozenset({".jpg", ".jpeg", ".png"})
_NO_PHOTOS: Final = frozenset({"thumbs.db", "desktop.ini"})
_ID: Final = re.compile(r"(\d{2})-(\d{2})-(\d{2})-\d{4}(?:-(\d{2}))?$", re.ASCII)
"""`MM-DD-YY-NNNN-CC`; our own export leaves CC out where the class is unknown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundWeld:
    """The files of one weld and what their place says about it.

    Attributes:
        key: `DIRECTORY/id`, or `DIRECTORY/stem` where a name ends in no id.
        date: ISO date in the id, or `undated`.
        root: The source; no file of the weld may lie outside it.
        files: Media file by kind (`video`, `audio`, `sensors`).
        photos: Photo files, by name.
        label: 0-11, or -1 for unknown.
        label_by: `manifest` or `id`, or None where the class is unknown.
        metadata: The manifest's row, its names in lower case.
        starts_s: When streams began by the manifest, by modality; seconds after the first sensor row.
        problems: What is wrong with the weld as it lies there; such a weld is not imported.
        left_out: Files that seem to belong to it and are not imported, with the reason.
        oddities: What else the owner should know.
    """

    key: str
    date: str
    root: Path
    files: dict[str, Path]
    photos: tuple[Path, ...] = ()
    label: int = -1
    label_by: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    starts_s: dict[str, float] = field(default_factory=dict)
    problems: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    oddities: tuple[str, ...] = ()

    @property
    def session(self) -> str:
        """The DIRECTORY: label and set-up are constant in it, so that splits must keep it whole."""
        return self.key.rpartition("/")[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Everything found in a source.

    Attributes:
        welds: In order of their keys.
        rows_without_weld: Keys of manifest rows for which no file is there.
        refused: Folders that were not entered, with the reason.
        notes: What holds for the source as a whole, one line each.
    """

    welds: tuple[FoundWeld, ...]
    rows_without_weld: tuple[str, ...]
    refused: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]


@dataclass(slots=True)
class _Walk:
    """What lies in a source, file by file.

    Attributes:
        root: The source.
        groups: Media files by weld key.
        photos: Files in `images/`, by the folder that holds it.
        empty: Folders named by an id that hold no media file.
        refused: Folders that were not entered, with the reason.
        others: Number of files of other kinds, by ending.
    """

    root: Path
    groups: dict[str, list[Path]] = field(default_factory=dict)
    photos: dict[Path, list[Path]] = field(default_factory=dict)
    empty: list[Path] = field(default_factory=list)
    refused: list[tuple[str, str]] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)

    def enter(self, folder: Path, *, deeper: bool = True) -> None:
        """Take every file of a folder, and of the folders in it."""
        waiting = [folder]
        while waiting:
            here = waiting.pop()
            try:
                entries = sorted(os.scandir(here), key=lambda entry: entry.name)
            except OSError as error:
                self._refuse(here, f"cannot be read: {error.strerror}; check its permissions")
                continue
            if any(entry.name == "weld.json" for entry in entries):
                continue  # a weld of our own, imported before
            took = False
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                path = here / entry.name
                if entry.is_dir(follow_symlinks=False):
                    if entry.name.lower() == "images":
                        self._take_photos(here, path)
                    elif deeper:
                        waiting.append(path)
                elif entry.is_symlink() and path.is_dir():
                    self._refuse(path, "is a link to a folder, which is not followed; import that folder itself")
                else:
                    took |= self._take(path)
            if not took and _ID.fullmatch(here.name):
                self.empty.append(here)

    def _take(self, path: Path) -> bool:
        kind = _KINDS.get(path.suffix.lower())
        if kind is None:
            self.others[path.suffix.lower()] += 1
        elif path.name.lower() != MANIFEST:
            self.groups.setdefault(_key(path), []).append(path)
            return True
        return False

    def _take_photos(self, owner: Path, folder: Path) -> None:
        try:
            self.photos.setdefault(owner, []).extend(
                path for path in sorted(folder.iterdir()) if not path.name.startswith(".")
            )
        except OSError as error:
            self._refuse(folder, f"cannot be read: {error.strerror}; check its permissions")

    def _refuse(self, folder: Path, reason: str) -> None:
        self.refused.append((str(folder.relative_to(self.root)), reason))


def find_welds(source: Path) -> Source:
    """Find every weld under a folder, or the one that a file belongs to.

    Raises:
        SourceError: The source does not exist, its manifest cannot be read, or there is no weld in it.
    """
    try:
        source = source.expanduser().resolve(strict=True)
    except (OSError, RuntimeError):
        raise SourceError(
            f"{source}: there is no such file or folder; give a Weld-4M folder or one weld's file"
        ) from None
    only = None if source.is_dir() else source
    root = source if only is None else source.parent
    manifest_path = find_manifest(root)
    manifest = None if manifest_path is None else read_class_rows(manifest_path)
    walk = _Walk(root)
    walk.enter(root, deeper=only is None)
    groups = walk.groups if only is None else {key: walk.groups[key] for key in walk.groups if key == _key(only)}
    if not groups:
        raise SourceError(f"{source}: no .avi, .flac or .csv in it; give a Weld-4M folder or one weld's file")
    welds = [_weld(key, groups[key], walk, manifest) for key in groups]
    if only is None:
        known = {weld.key for weld in welds}
        welds += [weld for weld in (_empty(folder, root) for folder in walk.empty) if weld.key not in known]
    keys = {weld.key for weld in welds}
    missing = [] if manifest is None or only is not None else [key for key in manifest if key not in keys]
    return Source(
        welds=tuple(sorted(welds, key=lambda weld: weld.key)),
        rows_without_weld=tuple(sorted(missing)),
        refused=tuple(walk.refused),
        notes=tuple(_notes(keys, missing, walk)) if only is None else (),
    )


def _notes(keys: set[str], missing: list[str], walk: _Walk) -> Iterator[str]:
    names = Counter(key.rpartition("/")[2] for key in keys)
    if repeated := sum(n > 1 for n in names.values()):
        yield f"{repeated} ids are in more than one folder; each weld is known by DIRECTORY/id"
    if missing:
        yield f"{len(missing)} rows of {MANIFEST} name welds that are not here, {shown(min(missing))} the first"
    if walk.others:
        kinds = ", ".join(f"{n} {shown(ending) or 'without ending'}" for ending, n in walk.others.most_common(8))
        yield f"{walk.others.total()} files of other kinds were left alone ({kinds})"


def _key(file: Path) -> str:
    match = _ID.search(file.stem)
    name = match.group() if match else file.stem
    directory = file.parent
    if _ID.fullmatch(file.parent.name) or file.parent.name == name:
        name, directory = file.parent.name, file.parent.parent  # whatever the file's own name says: see `_weld`
    return f"{directory.name or 'root'}/{name}"


def _weld(key: str, files: list[Path], walk: _Walk, manifest: dict[str, ManifestRow] | None) -> FoundWeld:
    name = key.rpartition("/")[2]
    match = _ID.search(name)
    problems = [problem for part in key.split("/") if (problem := naming_problem(part)) is not None]
    problems += [
        f"the file name {file.name!r} holds control characters; rename it"
        for file in files
        if not file.name.isprintable()
    ]
    left_out, chosen = [], dict[str, Path]()
    for file in files:
        kind, own = _KINDS[file.suffix.lower()], _ID.search(file.stem)
        if match and (own is None or own.group() != match.group()):
            left_out.append(f"{shown(file.name)}: lies in the folder of {match.group()} but is not named so; rename it")
            continue
        if kind in chosen:
            problems.append(f"{shown(chosen[kind].name)} and {shown(file.name)} claim the same weld; remove one")
        chosen[kind] = file
    if not chosen and not problems:
        problems.append("; ".join(left_out))
    photos = []
    for file in _images_of(key, chosen, walk):
        if file.suffix.lower() in _PHOTOS and (problem := naming_problem(file.name)) is not None:
            left_out.append(f"photo left out: {problem}")
        elif file.suffix.lower() in _PHOTOS:
            photos.append(file)
        elif file.name.lower() not in _NO_PHOTOS:
            left_out.append(f"photo left out: {shown(file.name)}: is neither JPEG nor PNG; convert it")
    found = [problem for file in (*chosen.values(), *photos) if (problem := placing_problem(file, walk.root))]
    row = None if manifest is None else manifest.get(key)
    label, by, said, oddities = _class(match, row, manifest is not None)
    return FoundWeld(
        key=key,
        date=_date(match),
        root=walk.root,
        files=chosen,
        photos=tuple(photos),
        label=label,
        label_by=by,
        metadata=row.metadata if row is not None else {},
        starts_s=row.starts_s if row is not None else {},
        problems=(*problems, *found, *said),
        left_out=tuple(left_out),
        oddities=oddities,
    )


def _images_of(key: str, files: dict[str, Path], walk: _Walk) -> list[Path]:
    """Photos beside the weld's files, where these are all that lies there."""
    folders = {file.parent for file in files.values()}
    if len(folders) != 1 or not (photos := walk.photos.get(folder := folders.pop())):
        return []
    shared = folder.name != key.rpartition("/")[2] and any(
        file.parent == folder for other, group in walk.groups.items() if other != key for file in group
    )
    return [] if shared else photos


def _class(
    match: re.Match[str] | None, row: ManifestRow | None, listed: bool
) -> tuple[int, str | None, tuple[str, ...], tuple[str, ...]]:
    """Return label, who says so, problems and oddities; manifest and id must not contradict each other."""
    code = int(match.group(4)) if match and match.group(4) else None
    if row is not None:
        if row.label >= 0 and code is not None and code != row.label:
            ends = f"{CLASSES[code]} ({code:02})" if code < len(CLASSES) else f"{code:02}, which Weld-4M has not"
            said = f"{MANIFEST} says {CLASSES[row.label]} ({row.label:02}), the id ends in {ends}; correct one of them"
            return -1, None, (said,), row.oddities
        return row.label, "manifest", row.problems, row.oddities
    oddities = (f"{MANIFEST} has no row for it",) if listed else ()
    if code is None:
        return -1, None, (), oddities
    if code >= len(CLASSES):
        said = f"the id ends in class {code:02}, which Weld-4M has not (00-11); correct the name"
        return -1, None, (said,), oddities
    return code, "id", (), oddities


def _date(match: re.Match[str] | None) -> str:
    month, day = (int(match.group(1)), int(match.group(2))) if match else (0, 0)
    dated = match and 1 <= month <= 12 and 1 <= day <= 31
    return f"20{match.group(3)}-{month:02}-{day:02}" if match and dated else "undated"


def _empty(folder: Path, root: Path) -> FoundWeld:
    key = f"{folder.parent.name or 'root'}/{folder.name}"
    problem = "holds neither video nor sound nor sensor file; copy them there or take the folder away"
    return FoundWeld(key=key, date="undated", root=root, files={}, problems=(problem,))
