"""Finds the welds of a Weld-4M source: a tree, a flat folder of files named by id, or one weld's files.

A weld is known by `DIRECTORY/id`, because ids repeat between folders. Its class comes from `manifest.csv`, else from
the two digits that end its id, never from a folder's or file's other words.
"""

import csv
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from recordings.verdict import CLASSES

MANIFEST: Final = "manifest.csv"
_KINDS: Final = {".avi": "video", ".flac": "audio", ".csv": "sensors"}
_PHOTOS: Final = frozenset({".jpg", ".jpeg", ".png"})
_ID: Final = re.compile(r"(\d{2})-(\d{2})-(\d{2})-\d{4}-(\d{2})$")
_NUMBERS: Final = frozenset({"thickness_mm", "current_a", "voltage_v", "gas_bar", "robot_speed_cpm"})


class SourceError(Exception):
    """A source as a whole cannot be imported; the message names path, value and next step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundWeld:
    """The files of one weld and what their place says about it.

    Attributes:
        key: `DIRECTORY/id`, or `DIRECTORY/stem` where a name ends in no id.
        date: ISO date in the id, or `undated`.
        files: Media file by kind (`video`, `audio`, `sensors`).
        photos: Photo files, by name.
        label: 0-11, or -1 for unknown.
        label_by: `manifest` or `id`, or None where the class is unknown.
        metadata: The manifest's row, its names in lower case.
        problems: What is wrong with the weld as it lies there; such a weld is not imported.
    """

    key: str
    date: str
    files: dict[str, Path]
    photos: tuple[Path, ...] = ()
    label: int = -1
    label_by: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    problems: tuple[str, ...] = ()

    @property
    def session(self) -> str:
        """The DIRECTORY: label and set-up are constant in it, so that splits must keep it whole."""
        return self.key.rpartition("/")[0]


def find_welds(source: Path) -> Iterator[FoundWeld]:
    """Find every weld under a folder, or the one that a file belongs to, in order of their keys.

    Raises:
        SourceError: The source does not exist, its manifest cannot be read, or there is no weld in it.
    """
    source = source.expanduser().resolve()
    if not source.exists():
        raise SourceError(f"{source}: there is no such file or folder; give a Weld-4M folder or one weld's file")
    only = None if source.is_dir() else source
    root = source if only is None else source.parent
    manifest = _read_manifest(root / MANIFEST) if (root / MANIFEST).is_file() else {}
    groups: dict[str, list[Path]] = {}
    for file in sorted(_media(root)) if only is None else sorted(root.iterdir()):
        if file.suffix.lower() in _KINDS and file.name.lower() != MANIFEST:
            groups.setdefault(_key(file), []).append(file)
    if only is not None:
        groups = {key: files for key, files in groups.items() if key == _key(only)}
    if not groups:
        raise SourceError(f"{source}: no .avi, .flac or .csv in it; give a Weld-4M folder or one weld's file")
    for key in sorted(groups):
        yield _weld(key, groups[key], root, manifest)


def _media(root: Path) -> Iterator[Path]:
    for folder, folders, names in os.walk(root, followlinks=False):
        if "weld.json" in names:  # a weld of our own, imported before
            folders.clear()
            continue
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (Path(folder) / name for name in names if not name.startswith("."))


def _key(file: Path) -> str:
    match = _ID.search(file.stem)
    name = match.group() if match else file.stem
    directory = file.parent.parent if file.parent.name == name else file.parent
    return f"{directory.name or 'root'}/{name}"


def _weld(key: str, files: list[Path], root: Path, manifest: dict[str, dict[str, str]]) -> FoundWeld:
    name = key.rpartition("/")[2]
    match = _ID.search(name)
    problems = []
    if not key.isprintable() or any(c in key for c in '\\:*?"<>|'):
        problems.append(f"the name {key!r} holds a character that no folder may have everywhere; rename it")
    chosen: dict[str, Path] = {}
    for file in files:
        kind = _KINDS[file.suffix.lower()]
        if kind in chosen:
            problems.append(f"{chosen[kind].name} and {file.name} claim the same weld; remove or rename one")
        chosen[kind] = file
    own = next((file.parent for file in files if file.parent.name == name), None)
    images = sorted((own / "images").iterdir()) if own is not None and (own / "images").is_dir() else []
    photos = [file for file in images if file.suffix.lower() in _PHOTOS and not file.name.startswith(".")]
    for file in (*chosen.values(), *photos):
        if not file.resolve().is_relative_to(root):
            problems.append(f"{file.name} is a link out of {root}; copy the file there instead")

    row = manifest.get(key, {})
    label, by = -1, None
    if row:
        label, by = _CLASS_OF.get(_letters(row["category"]), -1), "manifest"
        if label < 0:
            problems.append(f"{MANIFEST} gives the category {row['category']!r}, which is none of Weld-4M; correct it")
    elif match:
        code = int(match.group(4))
        if code < len(CLASSES):
            label, by = code, "id"
        else:
            problems.append(f"the id ends in class {match.group(4)}, which Weld-4M has not (00-11); correct the name")
    month, day = (int(match.group(1)), int(match.group(2))) if match else (0, 0)
    dated = match and 1 <= month <= 12 and 1 <= day <= 31
    return FoundWeld(
        key=key,
        date=f"20{match.group(3)}-{month:02}-{day:02}" if match and dated else "undated",
        files=chosen,
        photos=tuple(photos),
        label=label,
        label_by=by,
        metadata={name: _number(value) if name in _NUMBERS else value for name, value in row.items() if value},
        problems=tuple(problems),
    )


def _read_manifest(path: Path) -> dict[str, dict[str, str]]:
    """Read `manifest.csv` into a row per weld key, or refuse it: a misread manifest would mislabel every weld."""
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as lines:
        reader = csv.DictReader(lines)
        names = {name.strip().lower(): name for name in reader.fieldnames or ()}
        for needed in ("category", "subdirs"):
            if needed not in names:
                raise SourceError(f"{path}: line 1: no column {needed.upper()}; correct the manifest or take it away")
        try:
            rows = [{name: (row[given] or "").strip() for name, given in names.items()} for row in reader]
        except csv.Error as error:
            raise SourceError(
                f"{path}: line {reader.line_num}: {error}; correct the manifest or take it away"
            ) from None
    return {row["subdirs"].replace("\\", "/").strip("/"): row for row in rows}


def _number(text: str) -> float | str:
    try:
        return float(text.replace(",", "."))
    except ValueError:
        return text


def _letters(category: str) -> str:
    """Reduce a category to what all its spellings share: `Porosity w/ Excessive Penetration` and the like."""
    letters = re.sub(r"[^a-z]+", " ", category.lower().replace("weld", ""))
    return re.sub(r" (with|w|and) ", " w ", f" {letters} ").replace(" ", "")


_CLASS_OF: Final = {_letters(name): label for label, name in enumerate(CLASSES)} | {
    "porositywep": CLASSES.index("porosity_w_excessive_penetration")
}
