"""Welds as a Weld-4M tree, which `import` reads back: `manifest.csv`, `<DIRECTORY>/<id>/<id>.avi|.flac|.csv`, images.

The id is `MM-DD-YY-NNNN-CC`, CC the class; a weld without a label has an id without CC, and no row in the manifest,
so that nobody takes it for a good one.
"""

import csv
import io
import re
import shutil
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any, Final, Literal

import numpy as np

from acquisition.packet import SENSOR_CHANNELS, Photo, StreamInfo
from recordings.export_place import Destination, safe_name
from recordings.export_report import ExportError
from recordings.export_source import ExportSource
from recordings.export_weld4m_csv import CSV_QUIRKS, csv_lines
from recordings.export_weld4m_media import write_avi
from recordings.verdict import CLASSES
from recordings.weld_folder import WeldError, member, replace_file
from sync.series import Int64s

_ID: Final = re.compile(r"(\d\d-\d\d-\d\d-\d{4})-\d\d$")
_PHOTO: Final = re.compile(r"\d{8}_\d{6}_\d{3}\.jpe?g$", re.IGNORECASE)
_ENDINGS: Final = {b"\xff\xd8\xff": ".jpg", b"\x89PNG\r\n": ".png"}
_COLUMNS: Final = (
    "CATEGORY",
    "WELD_TYPE",
    "THICKNESS_MM",
    "STEEL_TYPE",
    "SAMPLES",
    "CURRENT_A",
    "VOLTAGE_V",
    "GAS_BAR",
    "ROBOT_SPEED_CPM",
    "DIRECTORY",
    "SUBDIRS",
    "SPLIT",
)
_OWN: Final = frozenset({"category", "samples", "directory", "subdirs"})
_FOUND: Final = frozenset(
    {"imported_from", "started_local", "import_offsets", "value_flags", "absent", "photos"}
    | {"feed_is_derived", "feed_rows_per_s"}
)
"""Metadata that the layout itself says, and what an import finds out anew."""

MANIFEST: Final = "manifest.csv"


class Weld4MFormat:
    """One folder per weld and one manifest over all."""

    overall: tuple[str, ...] = (MANIFEST,)
    limits: tuple[str, ...] = (
        "dates and times in sensor files are naive; they are UTC where the weld knows it",
        "streams do not say when they began; manifest.csv does, in columns of our own (VIDEO_START_S, AUDIO_START_S: "
        "seconds after the first sensor row)",
        "frames stand at a constant rate, sound without its gaps",
        "events, clocks, scores, verdicts, arrival and device times, and counters are left out",
        "welds without a label have no class in the id and no row in the manifest",
    )

    def __init__(self, quirks: frozenset[str] = frozenset()) -> None:
        """Take the oddities that sensor files shall have.

        Raises:
            ExportError: One is unknown.
        """
        if wrong := sorted(quirks - CSV_QUIRKS.keys()):
            raise ExportError(f"CSV quirk {wrong[0]!r} is unknown; use some of {', '.join(CSV_QUIRKS)}")
        self._quirks = quirks

    def write(self, weld: ExportSource, place: Destination) -> tuple[list[str], dict[str, Any]]:
        """Write the folder of one weld."""
        directory = safe_name(weld.manifest.session or "welds")
        name = _id(weld, directory, place)
        folder = place.staging / directory / name
        (folder / "images").mkdir(parents=True)
        starts = self._streams(weld, folder, name)
        photos = _write_photos(weld, folder / "images")
        if not photos:
            (folder / "images").rmdir()
        if not any(folder.iterdir()):
            raise WeldError(f"{weld.folder}: holds nothing that the layout has a place for")
        return [f"{directory}/{name}"], _row(weld, directory, name, starts)

    def _streams(self, weld: ExportSource, folder: Path, name: str) -> dict[str, int]:
        """Write what was measured while welding; returns the cell time at which each stream begins."""
        starts: dict[str, int] = {}
        if info := _only(weld, weld.streams("video"), "video"):
            starts["video"] = int(write_avi(weld, info, folder / f"{name}.avi")[0])
        if info := _only(weld, weld.streams("audio"), "sound"):
            starts["audio"] = _write_sound(weld, info, folder / f"{name}.flac")
        if info := _only(weld, sorted(weld.streams("sensors"), key=_known, reverse=True), "sensor"):
            starts["sensors"] = self._write_csv(weld, info, folder / f"{name}.csv")
        return starts

    def _write_csv(self, weld: ExportSource, info: StreamInfo, path: Path) -> int:
        if strange := len(info.channels) - _known(info):
            weld.left_out.append(f"{info.name}: {strange} channels beside the six of the layout")
        t_ns, values = _sensor_table(weld, info)
        offset_ns, basis = weld.epoch()
        if basis != "UTC" and not info.inferred_time:
            weld.warnings.append(f"{info.name}: times are {basis}")
        if len(t_ns) > 1 and int(np.diff(t_ns).min()) < 0:
            weld.warnings.append(f"{info.name}: some rows are older than the row before them")
        part = str(weld.manifest.described.get("part", ""))
        with path.open("wb") as file:
            file.writelines(csv_lines(values, None if info.inferred_time else t_ns + offset_ns, part, self._quirks))
        return int(t_ns[0])

    def finish(self, place: Destination) -> None:
        """Write the manifest over all welds that are there, those of earlier runs included."""
        rows = [entry.row for entry in place.entries.values() if entry.row]
        extra = sorted({name for row in rows for name in row} - set(_COLUMNS))
        text = io.StringIO()
        writer = csv.DictWriter(text, [*_COLUMNS, *extra], lineterminator="\n")
        writer.writeheader()
        writer.writerows(sorted(rows, key=lambda row: str(row["SUBDIRS"])))
        if rows:
            replace_file(place.path(MANIFEST), text.getvalue().encode())


def _only(weld: ExportSource, streams: list[StreamInfo], what: str) -> StreamInfo | None:
    """Return the one stream of its kind that the layout has a place for."""
    weld.left_out += [f"{info.name}: the layout holds one {what} stream" for info in streams[1:]]
    return streams[0] if streams else None


def _known(info: StreamInfo) -> int:
    """Count the channels that the layout has a column for."""
    return len(set(info.channels) & set(SENSOR_CHANNELS))


def _id(weld: ExportSource, directory: str, place: Destination) -> str:
    """Return the weld's id: the one it was imported with where its class is still that, else a free one of its day."""
    label = weld.manifest.label
    code = f"-{label:02}" if 0 <= label < len(CLASSES) else ""
    before = place.entries.get(weld.manifest.key)
    if before is not None and before.digest == weld.digest:
        return PurePosixPath(before.files[0]).name
    files = (PurePosixPath(name) for entry in place.entries.values() for name in entry.files)
    taken = {file.name for file in files if file.parent.name == directory}
    own = weld.manifest.key.rpartition("/")[2]
    match = _ID.search(own)
    name = f"{match.group(1)}{code}" if match else own
    if match and name not in taken:
        if own != name:
            weld.warnings.append(f"{own} is called {name} here, after its label")
        return name
    if weld.manifest.source == "imported" and not code and safe_name(own) not in taken:
        return safe_name(own)
    day = datetime.fromtimestamp((weld.manifest.origin_ns + weld.epoch()[0]) // 10**9, UTC)
    used = {one[:13] for one in taken}
    number = next(n for n in range(1, 10_000) if f"{day:%m-%d-%y}-{n:04}" not in used)
    return f"{day:%m-%d-%y}-{number:04}{code}"


def _row(weld: ExportSource, directory: str, name: str, starts: dict[str, int]) -> dict[str, Any]:
    """Return the weld's row of the manifest, none for a weld without a label."""
    manifest, described = weld.manifest, dict(weld.manifest.described)
    if not 0 <= manifest.label < len(CLASSES):
        if lost := sorted(described.keys() - _OWN - _FOUND - {"part"}):
            weld.warnings.append(f"without a label it has no row in the manifest: {', '.join(lost)} are left out")
        return {}
    row: dict[str, Any] = dict.fromkeys(_COLUMNS, "")
    row |= {"STEEL_TYPE": described.pop("material", ""), "CATEGORY": CLASSES[manifest.label], "SAMPLES": 1}
    row |= {"DIRECTORY": directory, "SUBDIRS": f"{directory}/{name}"}
    modalities: tuple[Literal["video"], Literal["audio"]] = ("video", "audio")
    for stream in modalities:
        if stream in starts and "sensors" in starts and _is_known(weld, stream):
            row[f"{stream.upper()}_START_S"] = repr((starts[stream] - starts["sensors"]) / 1e9)
    for told, value in described.items():
        if told in _OWN | _FOUND:
            continue
        if isinstance(value, (dict, list)) or not re.fullmatch(r"[a-z0-9_]+", told) or row.get(told.upper(), ""):
            weld.warnings.append(f"the manifest has no place for {told!r}")
        else:
            row[told.upper()] = value
    return row


def _is_known(weld: ExportSource, modality: Literal["video", "audio"]) -> bool:
    """Tell whether a stream's start was measured: what an import inferred shall not come back as a fact."""
    offsets = weld.manifest.metadata.get("import_offsets", {})
    names = [info.name for info in weld.streams(modality)[:1]]
    return weld.manifest.source != "imported" or any(
        isinstance(offsets, dict) and isinstance(offsets.get(name), dict) and offsets[name].get("confidence") == "given"
        for name in names
    )


def _sensor_table(weld: ExportSource, info: StreamInfo) -> tuple[Int64s, np.ndarray[Any, np.dtype[np.float64]]]:
    """Return cell times `(n,)` and values `(n, 6)` of a sensor stream, NaN where it has no such channel."""
    times = [item.t_ns for item in weld.heads(info.name)]
    rows = weld.reader.sensors(info.name)
    values = np.full((len(rows), len(SENSOR_CHANNELS)), np.nan)
    for i, channel in enumerate(SENSOR_CHANNELS):
        if channel in info.channels:
            values[:, i] = rows[channel].to_numpy()
    return np.concatenate(times), values


def _write_sound(weld: ExportSource, info: StreamInfo, path: Path) -> int:
    """Copy the FLAC, and say what its gaps cost; returns the cell time of the first sample."""
    shutil.copyfile(member(weld.folder, weld.manifest.streams[info.name].files[0]), path)
    blocks = weld.reader.blocks(info.name)["n"].to_numpy()
    starts = np.concatenate([item.t_ns for item in weld.heads(info.name)])
    before = np.concatenate([[0], np.cumsum(blocks)[:-1]])
    error_ns = np.abs(starts - starts[0] - before * 1e9 / info.rate_hz).max()
    weld.warnings.append(f"{info.name}: blocks lie up to {error_ns / 1e6:.3f} ms from their times")
    if info.dtype != "int16":
        weld.warnings.append(f"{info.name}: kept as {info.dtype}, where the data set has 16 bit")
    return int(starts[0])


def _write_photos(weld: ExportSource, folder: Path) -> int:
    """Write the photos byte for byte; returns how many."""
    offset_ns, count = weld.epoch()[0], 0
    for item in (item for info in weld.streams("post_images") for item in weld.heads(info.name)):
        photo = item.packet.payload
        assert isinstance(photo, Photo)
        kept = weld.manifest.source == "imported" and PurePosixPath(photo.name).name == photo.name
        if _PHOTO.fullmatch(photo.name) or (kept and photo.name.isprintable() and not photo.name.startswith(".")):
            path = folder / photo.name
        else:
            found = (ending for magic, ending in _ENDINGS.items() if photo.data.startswith(magic))
            ending = next(found, safe_name(PurePosixPath(photo.name).suffix[1:] or "bin"))
            path = folder / _photo_name(int(item.t_ns[0]) + offset_ns, f".{ending.lstrip('.')}")
        while path.exists():
            path = path.with_name(f"{path.stem}_1{path.suffix}")
        path.write_bytes(photo.data)
        count += 1
    return count


def _photo_name(t_ns: int, ending: str) -> str:
    moment = datetime.fromtimestamp(t_ns // 10**9, UTC)
    return f"{moment:%Y%m%d_%H%M%S}_{t_ns // 10**6 % 1000:03}{ending}"
