"""`manifest.csv` of Weld-4M: class, split and set-up per weld, read strictly, because a misread row mislabels a weld.

The class counts only where nothing contradicts it: an unknown category, rows that disagree, a row that does not fit the
header or a class other than the one in the id are problems of that weld, which is then not imported.
"""

import csv
import io
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from recordings.verdict import CLASSES
from recordings.weld4m_files import FileError, read_bounded

MANIFEST: Final = "manifest.csv"
SPLITS: Final = frozenset({"TRAIN", "VAL", "TEST"})
_NUMBERS: Final = frozenset({"thickness_mm", "current_a", "voltage_v", "gas_bar", "robot_speed_cpm", "samples"})
_STARTS: Final = {"video_start_s": "video", "audio_start_s": "audio"}
_NAMES: Final = {"steel_type": "material"}
_SAID_ANEW: Final = frozenset(
    {"imported_from", "import_offsets", "absent", "photos", "value_flags", "feed_is_derived", "feed_rows_per_s"}
)
"""What an import finds out itself; a column of such a name, which our own export may have written, is not believed."""
_LONGEST_S: Final = 3600.0
_MAX_BYTES: Final = 16 * 2**20
"""A row of the public manifest has about 120 bytes, the whole file 0.5 MB."""


class SourceError(Exception):
    """A source as a whole cannot be imported; the message names path, value and next step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ManifestRow:
    """What the manifest says about one weld.

    Attributes:
        label: 0-11, or -1 where `problems` says why there is none.
        metadata: Every filled field, its name in lower case with `_`; set-up columns as numbers; STEEL_TYPE is called
            `material`.
        starts_s: When streams of a modality began, seconds after the first sensor row (our own export says it).
        problems: Why the weld cannot be trusted, one line each.
        oddities: What its owner should know, one line each.
    """

    label: int
    metadata: dict[str, Any] = field(default_factory=dict)
    starts_s: dict[str, float] = field(default_factory=dict)
    problems: tuple[str, ...] = ()
    oddities: tuple[str, ...] = ()


def find_manifest(root: Path) -> Path | None:
    """Return the manifest of a source, whatever the case of its name.

    Raises:
        SourceError: There are two.
    """
    found = sorted(path for path in root.iterdir() if path.name.lower() == MANIFEST)
    if len(found) > 1:
        raise SourceError(f"{root}: {found[0].name} and {found[1].name} both claim to be the manifest; keep one")
    return found[0] if found else None


def read_class_rows(path: Path) -> dict[str, ManifestRow]:
    """Read a manifest into one row per weld key (`DIRECTORY/id`).

    Raises:
        SourceError: It cannot be read as a whole: no file, too large, no CATEGORY or SUBDIRS, broken CSV.
    """
    advice = "correct the manifest or take it away"
    try:
        text = read_bounded(path, _MAX_BYTES).decode("utf-8-sig", errors="replace")
    except FileError as error:
        raise SourceError(f"{path.parent / str(error)}; {advice}") from None
    first = text.lstrip("\r\n").partition("\n")[0]
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=first.count))
    lines: dict[str, list[tuple[int, dict[str, str], bool]]] = {}
    try:
        header = next((row for row in reader if any(row)), [])
        names = [re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_") for name in header]
        for needed in ("category", "subdirs"):
            if names.count(needed) != 1:
                said = "no column" if needed not in names else f"{names.count(needed)} columns"
                raise SourceError(f"{path}: line {max(1, reader.line_num)}: {said} {needed.upper()}; {advice}")
        for row in reader:
            fields = [value.strip() for value in row]
            fields += [""] * (len(names) - len(fields))
            values = dict(zip(names, fields, strict=False))
            if any(fields[len(names) :]):  # shifted: what stands where SUBDIRS should be is something else
                keys = [_key({"subdirs": value}) for value in fields if "/" in value or "\\" in value]
                if not keys:
                    raise SourceError(f"{path}: line {reader.line_num}: more fields than the header names; {advice}")
                for key in keys:
                    lines.setdefault(key, []).append((reader.line_num, values, False))
            elif any(fields):
                lines.setdefault(_key(values), []).append((reader.line_num, values, True))
    except csv.Error as error:
        raise SourceError(f"{path}: line {reader.line_num}: {error}; {advice}") from None
    return {key: _row(found, len(names)) for key, found in lines.items() if key}


def _key(values: dict[str, str]) -> str:
    """`DIRECTORY/id` out of SUBDIRS, which may hold backslashes, more folders in front, or the id alone."""
    parts = [part for part in values.get("subdirs", "").replace("\\", "/").split("/") if part not in ("", ".")]
    if len(parts) == 1 and values.get("directory"):
        parts.insert(0, values["directory"].replace("\\", "/").strip("/").rpartition("/")[2])
    return "/".join(parts[-2:])


def _row(found: list[tuple[int, dict[str, str], bool]], columns: int) -> ManifestRow:
    if shifted := [line for line, _, fits in found if not fits]:
        problem = (
            f"line {shifted[0]} of {MANIFEST} has more than the {columns} fields that the header names; correct it"
        )
        return ManifestRow(label=-1, problems=(problem,))
    line, values, _ = found[0]
    oddities = []
    for other, differing, _ in found[1:]:
        unequal = [name for name, value in values.items() if differing.get(name, "") != value]
        if unequal:
            both = f"{unequal[0].upper()}: {values[unequal[0]]!r} and {differing.get(unequal[0], '')!r}"
            problem = f"lines {line} and {other} of {MANIFEST} contradict each other ({both}); keep one"
            return ManifestRow(label=-1, problems=(problem,))
        oddities.append(f"line {other} of {MANIFEST} repeats line {line}")
    label = class_of(values["category"])
    problems = []
    if label < 0:
        problems.append(
            f"{MANIFEST} gives the category {values['category']!r} (line {line}), which is none of Weld-4M; correct it"
        )
    metadata, starts_s = {}, {}
    for name, text in values.items():
        if name in _STARTS and text:
            start_s = _number(text)
            if start_s is None or abs(start_s) > _LONGEST_S:
                problems.append(f"{MANIFEST} line {line}: {name.upper()} is {text!r}, not seconds; correct it")
            else:
                starts_s[_STARTS[name]] = start_s
        elif name and text and name not in _SAID_ANEW:
            metadata[_NAMES.get(name, name)] = _value(name, text)
    split = str(metadata.get("split", "")).upper()
    if split and split not in SPLITS:
        oddities.append(f"the split {split!r} of {MANIFEST} (line {line}) is none of TRAIN, VAL, TEST")
    return ManifestRow(
        label=label, metadata=metadata, starts_s=starts_s, problems=tuple(problems), oddities=tuple(oddities)
    )


def _value(name: str, text: str) -> float | str:
    if name == "split":
        return text.upper()
    number = _number(text) if name in _NUMBERS else None
    return text if number is None else number


def _number(text: str) -> float | None:
    try:
        number = float(text.replace(",", "."))
    except ValueError:
        return None
    return number if abs(number) < 1e9 else None  # no NaN and no infinity: JSON has neither


def class_of(category: str) -> int:
    """Return the class that a category spells, -1 for none: spellings vary in case, separators and `weld`."""
    return _CLASS_OF.get(_letters(category), -1)


def _letters(category: str) -> str:
    """Reduce a category to what all its spellings share: `Porosity w/ Excessive Penetration` and the like."""
    letters = re.sub(r"[^a-z]+", " ", category.lower().replace("weld", ""))
    return re.sub(r" (with|w|and) ", " w ", f" {letters} ").replace(" ", "")


_CLASS_OF: Final = {_letters(name): label for label, name in enumerate(CLASSES)} | {
    "porositywep": CLASSES.index("porosity_w_excessive_penetration")
}
