"""One weld as a row of the catalogue: what `weld.json`, the newest verdict and the sync event say of it."""

import os
import stat
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import msgspec
import polars as pl
import pyarrow as pa
import pyarrow.parquet

from acquisition.packet import EVENTS_STREAM, MODALITIES
from recordings.columns import EVENTS, SCORES
from recordings.finishing import SCORES_TABLE
from recordings.manifest import Manifest
from recordings.verdict import CLASSES
from recordings.weld_folder import WeldError, read_manifest

UNREADABLE: Final = "unreadable"
"""`state` of a weld whose `weld.json` says nothing."""

SCORES_FILE: Final = f"{SCORES_TABLE}.parquet"
EVENTS_FILE: Final = f"{EVENTS_STREAM}.parquet"

_TEXT: Final = pl.String()
_REAL: Final = pl.Float64()
_COUNT: Final = pl.Int64()
_TIME: Final = pl.Datetime("us", "UTC")
_TEXTS: Final = ("part", "program", "operator", "material", "notes", "split")

COLUMNS: Final[dict[str, pl.DataType]] = {
    **dict.fromkeys(("key", "path", "cell", "session", "source", "state"), _TEXT),
    "started_utc": _TIME,
    **dict.fromkeys(("seconds", "arc_s"), _REAL),
    **dict.fromkeys(("part", "program", "operator", "material"), _TEXT),
    "thickness_mm": _REAL,
    "notes": _TEXT,
    "label": pl.Int8(),
    **dict.fromkeys(("label_name", "labelled_by"), _TEXT),
    "labelled_utc": _TIME,
    **dict.fromkeys(("split", "verdict", "stage"), _TEXT),
    **dict.fromkeys(("score", "p_value"), _REAL),
    "present": pl.List(pl.String()),
    **dict.fromkeys(("video_items", "audio_items", "sensors_items"), _COUNT),
    **dict.fromkeys(("video_lost_s", "audio_lost_s", "sensors_lost_s", "lost_s"), _REAL),
    "lost_exact": pl.Boolean(),
    **dict.fromkeys(("video_sync_ms", "video_sync_sigma_ms", "audio_sync_ms", "audio_sync_sigma_ms"), _REAL),
    **dict.fromkeys(("photos", "bytes"), _COUNT),
    "inferred": pl.List(pl.String()),
    "metadata": _TEXT,
    "problem": _TEXT,
}
"""Columns and types of the catalogue; docs/catalogue.md says what each holds."""

_MOST_ROWS: Final = 1_000_000
_LARGEST_TABLE: Final = 64 * 2**20
_LARGEST: Final = 2**63 - 1
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_VERDICT: Final = pa.schema([SCORES.field(name) for name in ("kind", "word", "stage", "score", "p_value")])
_EVENT: Final = pa.schema([EVENTS.field(name) for name in ("kind", "weld", "t_arrival_ns", "data")])


class _Offset(msgspec.Struct):
    offset_ms: float | None = None
    sigma_ms: float | None = None


class _Sync(msgspec.Struct):
    offsets: dict[str, _Offset]


def weld_row(folder: Path) -> dict[str, Any]:
    """Read a weld's row; whatever is wrong with the weld becomes its `problem`.

    Tables of a weld that is still open are left alone: what they hold is not final.
    """
    row: dict[str, Any] = dict.fromkeys(COLUMNS)
    try:
        manifest = read_manifest(folder)
    except WeldError as error:
        return row | {"state": UNREADABLE, "problem": str(error)}
    row |= _said(manifest) | _told(manifest)
    if manifest.state == "open":
        return row
    row |= _recorded(manifest)
    problems = []
    for name, columns, read in ((SCORES_FILE, _VERDICT, _judged), (EVENTS_FILE, _EVENT, _decided)):
        try:
            if (table := _table(folder / name, columns)) is not None:
                row |= read(table, manifest)
        except (OSError, ValueError, pa.ArrowException) as error:
            cause = error.strerror if isinstance(error, OSError) and error.strerror else (str(error) or repr(error))
            problems.append(f"{folder / name}: {cause.splitlines()[0]}; restore it from a copy")
    row["bytes"] = sum(_sizes(str(folder)))
    row["problem"] = "; ".join(problems) or None
    return row


def _said(manifest: Manifest) -> dict[str, Any]:
    """What the manifest says the weld is."""
    pairs, arc = manifest.utc, (manifest.arc_on_ns, manifest.arc_off_ns)
    started = None
    if pairs:
        started = _time(pairs[0].utc_ns + manifest.origin_ns - pairs[0].monotonic_ns)
    return {
        **{name: getattr(manifest, name) for name in ("key", "cell", "session", "source", "state")},
        "inferred": manifest.inferred,
        "started_utc": started,
        "arc_s": None if arc[0] is None or arc[1] is None else (arc[1] - arc[0]) / 1e9,
    }


def _told(manifest: Manifest) -> dict[str, Any]:
    """What somebody said about the weld: labels and metadata as they count now."""
    row: dict[str, Any] = {"label": manifest.label}
    if manifest.labels:
        last = manifest.labels[-1]
        row |= {"labelled_by": last.by, "labelled_utc": _parsed(last.utc)}
        row["label_name"] = CLASSES[last.label] if last.label >= 0 else None
    others = {name: value for name, value in manifest.described.items() if not isinstance(value, list | dict)}
    row |= {name: str(others.pop(name)) for name in _TEXTS if name in others}
    try:
        row["thickness_mm"] = float(others["thickness_mm"])
    except (KeyError, ValueError):
        pass  # what is no number stays a text, among the others
    else:
        del others["thickness_mm"]
    return row | {"metadata": msgspec.json.encode(others, order="sorted").decode()}


def _recorded(manifest: Manifest) -> dict[str, Any]:
    """What was recorded, and what was lost, per modality."""
    row: dict[str, Any] = {"lost_exact": True, "lost_s": 0.0}
    items = dict.fromkeys(MODALITIES, 0)
    lost_s, spans_s = dict.fromkeys(MODALITIES, 0.0), [0.0]
    for record in manifest.streams.values():
        modality, rate_hz = record.info.modality, record.info.rate_hz
        items[modality] = min(items[modality] + record.items, _LARGEST)
        lost_s[modality] = max(lost_s[modality], sum(loss.seconds for loss in record.losses))
        row["lost_exact"] &= all(loss.exact for loss in record.losses)
        if rate_hz:
            spans_s.append((record.items + sum(loss.missing for loss in record.losses)) / rate_hz)
    for modality in ("video", "audio", "sensors"):
        row |= {f"{modality}_items": items[modality], f"{modality}_lost_s": lost_s[modality]}
    row |= {"photos": items["post_images"], "lost_s": max(lost_s.values()), "seconds": max(spans_s)}
    return row | {"present": [modality for modality in MODALITIES if items[modality]]}


def _judged(table: pa.Table, _: Manifest) -> dict[str, Any]:
    """The newest verdict."""
    kinds = table["kind"].to_pylist()
    if "verdict" not in kinds:
        return {}
    last = table.slice(len(kinds) - 1 - kinds[::-1].index("verdict"), 1).to_pylist()[0]
    return {name: last["word" if name == "verdict" else name] for name in ("verdict", "stage", "score", "p_value")}


def _decided(table: pa.Table, manifest: Manifest) -> dict[str, Any]:
    """When the weld was closed, and how late each modality saw its arc (of several streams the worst)."""
    row: dict[str, Any] = {}
    kinds = table["kind"].to_pylist()
    for i in (i for i, kind in enumerate(kinds) if kind in ("weld_close", "sync")):
        event = table.slice(i, 1).to_pylist()[0]
        if event["weld"] != manifest.key:
            continue
        if event["kind"] == "weld_close":
            row["seconds"] = (event["t_arrival_ns"] - manifest.origin_ns) / 1e9
            continue
        worst: dict[str, float] = {}
        for name, offset in msgspec.json.decode(event["data"], type=_Sync).offsets.items():
            record = manifest.streams.get(name)
            modality = record.info.modality if record is not None else None
            if modality in ("video", "audio") and offset.offset_ms is not None:
                if abs(offset.offset_ms) < worst.get(modality, 0.0):
                    continue
                worst[modality] = abs(offset.offset_ms)
                row |= {f"{modality}_sync_ms": offset.offset_ms, f"{modality}_sync_sigma_ms": offset.sigma_ms}
    return row


def _table(path: Path, columns: pa.Schema) -> pa.Table | None:
    """Read some columns of a table that may come from anywhere; None where there is none."""
    try:
        about = path.lstat()
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(about.st_mode) or about.st_size > _LARGEST_TABLE:
        raise ValueError(f"is a link, no file, or larger than {_LARGEST_TABLE} bytes")
    with pa.parquet.ParquetFile(path) as file:
        if not 0 <= file.metadata.num_rows <= _MOST_ROWS:
            raise ValueError(f"{file.metadata.num_rows} rows are more than {_MOST_ROWS}")
        if missing := sorted({*columns.names} - {*file.schema_arrow.names}):
            raise ValueError(f"has no column {missing[0]}")
        return file.read(columns=columns.names, use_threads=False).select(columns.names).cast(columns)


def _sizes(folder: str) -> Iterator[int]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from _sizes(entry.path)
            else:
                yield entry.stat(follow_symlinks=False).st_size


def _time(utc_ns: int) -> datetime | None:
    try:
        return _EPOCH + timedelta(microseconds=utc_ns // 1000)
    except OverflowError:
        return None


def _parsed(text: str) -> datetime | None:
    try:
        time = datetime.fromisoformat(text)
        return time.astimezone(UTC) if time.tzinfo is not None else None
    except (ValueError, OverflowError):
        return None
