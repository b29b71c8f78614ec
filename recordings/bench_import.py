"""`bench import`: how long a dry run takes over a tree of the size and the oddities of Weld-4M, beside a bare walk."""

import csv
import io
import os
import tempfile
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, Final

import av
import numpy as np
from PIL import Image

from acquisition.packet import StreamInfo
from recordings.audio_writer import AudioWriter
from recordings.importer import import_welds
from recordings.verdict import CLASSES

_SESSIONS: Final = 236
_REPEATED_IDS: Final = 20
_REPEATED_FROM: Final = 100
_WITHOUT_PHOTOS: Final = 3
_PHOTOS: Final = 5
_ROWS: Final = 330
_CHANNELS: Final = "Pressure,CO2 Weld Flow,Feed,Primary Weld Current,Wire Consumed,Secondary Weld Voltage"
_COLUMNS: Final = "CATEGORY,WELD_TYPE,THICKNESS_MM,STEEL_TYPE,SAMPLES,CURRENT_A,VOLTAGE_V,GAS_BAR,ROBOT_SPEED_CPM,"
_LINKS: Final = 30_000
"""A file system may allow no more names for one file."""


def bench_import(n: int = 4040) -> dict[str, Any]:
    """Write a tree of `n` welds (small media, names of one file many times), and time a dry run over it.

    Beside it, in the same run, what no import can do without: walking the tree, reading every sensor file with the
    standard library, and taking the size of every photo.

    Returns:
        Counts, seconds of both (of processor time; best of three), their ratio, and whether the report says what was
        written.
    """
    with tempfile.TemporaryDirectory(prefix="weld4m-") as folder:
        root = Path(folder) / "source"
        began = time.perf_counter()
        expected = _write_tree(root, n)
        written_s = time.perf_counter() - began
        turns = []
        for _ in range(3):
            began = time.process_time()
            rows = _bare_walk(root)
            between = time.process_time()
            report = import_welds(root, Path(folder) / "welds", dry_run=True)
            turns.append((time.process_time() - between, between - began))
        told = {
            "imported": len(report.imported),
            "skipped": len(report.skipped),
            "without_photos": sum("post_images" in names for names in report.absent.values()),
            "warnings": len(report.warnings),
            "rows_without_weld": len(report.rows_without_weld),
            "repeated_ids": next((int(note.split()[0]) for note in report.notes if "more than one folder" in note), 0),
        }
    dry_run_s, bare_walk_s = min(seconds for seconds, _ in turns), min(seconds for _, seconds in turns)
    return {
        "welds": n,
        "sensor_rows": rows,
        "written_s": round(written_s, 2),
        "dry_run_s": round(dry_run_s, 2),
        "bare_walk_s": round(bare_walk_s, 2),
        "ratio": round(dry_run_s / bare_walk_s, 2),
        "expected": expected,
        "told": told,
        "as_expected": told == expected,
    }


def lines(result: dict[str, Any]) -> Iterator[str]:
    """The result for a human."""
    yield f"{result['welds']} welds, {result['sensor_rows']} sensor rows; report as expected: {result['as_expected']}"
    seconds = f"dry run {result['dry_run_s']} s, bare walk {result['bare_walk_s']} s (x {result['ratio']})"
    yield f"{seconds}; processor time, best of three"


def _write_tree(root: Path, n: int) -> dict[str, int]:
    """Write the tree; returns what a report about it must count."""
    store = root.parent / "store"
    store.mkdir()
    files = {".avi": _video(), ".flac": _sound(store), ".jpg": _photo()}
    sensors = (_sensors(timed=True), _sensors(timed=False), _sensors(timed=True, repeated=True))
    first_names: dict[int, str] = {}
    rows = [_COLUMNS + "DIRECTORY,SUBDIRS,SPLIT"]
    expected = dict.fromkeys(("imported", "skipped", "without_photos", "warnings", "rows_without_weld"), 0)
    for i in range(n):
        session = i * _SESSIONS // max(n, _SESSIONS)
        label = session % len(CLASSES)
        directory = f"{CLASSES[label]}_{'weld_' if session % 2 else ''}run_{session:03}"
        name = f"{1 + session % 12:02}-{1 + session % 28:02}-22-{i % 10_000:04}-{label:02}"
        if session not in first_names:
            if 0 <= session - _REPEATED_FROM < _REPEATED_IDS:
                name = first_names[session - 8 * len(CLASSES)]  # of the same class
            first_names[session] = name
        folder = root / directory / name
        (folder / "images").mkdir(parents=True)
        for ending in (".avi", ".flac"):
            _place(store, files[ending], i, folder / f"{name}{ending}")
        _place(store, sensors[2 if i % 50 == 0 else i % 2], i, folder / f"{name}.csv")
        for photo in range(0 if i < _WITHOUT_PHOTOS else _PHOTOS):
            odd = f"{photo} ({i % 20}).jpg" if i % 40 == 0 else f"20220817_08{photo:02}00_{i % 1000:03}.jpg"
            _place(store, files[".jpg"], i, folder / "images" / odd)
        category = CLASSES[label].replace("_", " ").title() if i % 3 else CLASSES[label]
        if i % 500 == 499:  # the manifest says another class than the id
            category = CLASSES[(label + 1) % len(CLASSES)]
            expected["skipped"] += 1
        else:
            expected["imported"] += 1
            expected["without_photos"] += i < _WITHOUT_PHOTOS
            expected["warnings"] += i % 50 == 0
        separator = "\\" if i % 2 else "/"
        split = ("TRAIN", "VAL", "TEST")[i % 3]
        rows.append(f"{category},butt,6,S355,20,177,24.5,3.4,42,{directory},{directory}{separator}{name},{split}")
    rows.append("Good,butt,6,S355,20,177,24.5,3.4,42,gone,gone/01-01-22-0001-00,TEST")
    repeated = len(first_names) - len(set(first_names.values()))
    expected |= {"rows_without_weld": 1, "repeated_ids": repeated}
    (root / "manifest.csv").write_text("\ufeff" + "\r\n".join(rows) + "\r\n", encoding="utf-8", newline="")
    return expected


def _place(store: Path, data: bytes, i: int, target: Path) -> None:
    """Give one content one more name, a copy where the file system has enough names for it or no links."""
    kept = store / f"{hash(data)}-{i // _LINKS}"
    if not kept.exists():
        kept.write_bytes(data)
    try:
        os.link(kept, target)
    except OSError:
        target.write_bytes(data)


def _bare_walk(root: Path) -> int:
    """Do what no import can do without; returns the number of sensor rows."""
    rows = 0
    for folder, _, names in os.walk(root):
        for name in names:
            path = os.path.join(folder, name)
            if name.endswith(".csv"):
                with open(path, encoding="utf-8-sig", newline="") as file:
                    values = list(csv.reader(file))[1:]
                rows += len(values) if name != "manifest.csv" else 0
            else:
                with open(path, "rb") as file:
                    file.read(64)
    return rows


def _sensors(*, timed: bool, repeated: bool = False) -> bytes:
    values = np.random.default_rng(1).normal(20, 1, (_ROWS, 6))
    rows = [",".join(f"{value:.2f}" for value in row) for row in values]
    ticks = [i - (repeated and i == 7) for i in range(_ROWS)]
    if timed:
        rows = [f"8/17/2022,07:5{i // 540}:{i / 9 % 60:06.3f},P1,{row}" for i, row in zip(ticks, rows, strict=True)]
    header = f"Date,Time,Part No,{_CHANNELS},Remarks " if timed else _CHANNELS
    ending = "\n" if timed else "\r\n"
    return (ending.join([header, *rows]) + ending).encode()


def _video() -> bytes:
    out = io.BytesIO()
    with av.open(out, "w", format="avi") as container:
        stream = container.add_stream("mpeg4", rate=30)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 30)
        for i in range(3):
            frame = av.VideoFrame.from_ndarray(np.full((72, 64), 100, np.uint8), format="yuv420p")
            frame.pts = i
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return out.getvalue()


def _sound(store: Path) -> bytes:
    info = StreamInfo(name="sound", modality="audio", rate_hz=16_000.0, channels=("mono",), units=("",), dtype="int16")
    writer = AudioWriter(store / "sound.flac", info)
    writer.write(np.zeros((8000, 1), np.int16))
    writer.close()
    return (store / "sound.flac").read_bytes()


def _photo() -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (64, 48), (90, 90, 90)).save(out, "JPEG")
    return out.getvalue()
