"""`bench catalogue`: listing many welds, cold and warm, beside a plain loop over their JSON files."""

import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet

from acquisition.packet import EVENTS_STREAM, SENSOR_CHANNELS, Event, Packet, SensorRows, StreamInfo
from recordings.catalogue import find_weld, read_catalogue
from recordings.catalogue_row import EVENTS_FILE, SCORES_FILE
from recordings.manifest import LabelEntry, Manifest, StreamRecord, UtcPair
from recordings.verdict import Verdict
from recordings.weld_folder import MANIFEST, digest, load_manifest
from recordings.weld_writer import WeldWriter

_BEGIN: Final = datetime(2025, 1, 6, 6, 0, tzinfo=UTC)
_SPACING: Final = timedelta(minutes=20)
_ORIGIN_NS: Final = 10**12
_RATE_HZ: Final = 100.0
_SECONDS: Final = 4
_STREAM: Final = StreamInfo(
    name="sensors",
    modality="sensors",
    rate_hz=_RATE_HZ,
    channels=SENSOR_CHANNELS,
    units=("bar", "L/min", "", "A", "mm", "V"),
    dtype="float64",
    has_counter=True,
    device_clock="stamps",
)


def bench_catalogue(n: int) -> dict[str, Any]:
    """Measure the catalogue on `n` small welds in a temporary folder; seconds.

    `cold_s` reads every weld, `warm_s` none, `one_changed_s` one; `find_s` finds one weld by its key. The plain loop
    (`plain_s`: `rglob` and `json.loads`, no verdict and no sync) is what somebody writes without the catalogue;
    `plain_verdict_s` reads the verdicts, too.
    """
    folder = Path(tempfile.mkdtemp(prefix="weld-catalogue-"))
    try:
        making_s, _ = _timed(lambda: write_small_welds(folder, n))
        cold_s, cold = _timed(lambda: read_catalogue(folder))
        warm_s, warm = _timed(lambda: read_catalogue(folder))
        last = Path(str(warm["path"][-1]))
        (last / MANIFEST).touch()
        changed_s, _ = _timed(lambda: read_catalogue(folder))
        key = str(warm["key"][n // 2])
        find_s, found = _timed(lambda: find_weld(folder, key))
        plain_s, plain = _timed(lambda: _plain(folder, verdicts=False))
        plain_verdict_s, _ = _timed(lambda: _plain(folder, verdicts=True))
        return {
            "welds": n,
            "making_s": round(making_s, 2),
            "cold_s": round(cold_s, 3),
            "warm_s": round(warm_s, 3),
            "one_changed_s": round(changed_s, 3),
            "find_s": round(find_s, 4),
            "plain_s": round(plain_s, 3),
            "plain_verdict_s": round(plain_verdict_s, 3),
            "index_bytes": (folder / ".catalogue.parquet").stat().st_size,
            "equal": cold.equals(warm) and found is not None and plain == set(warm["key"]),
        }
    finally:
        shutil.rmtree(folder)


def lines(result: dict[str, Any]) -> list[str]:
    """Say a result in words."""
    return [
        f"{result['welds']} welds: cold {result['cold_s']:.2f} s, warm {result['warm_s']:.2f} s, "
        f"after one change {result['one_changed_s']:.2f} s, one weld found in {result['find_s'] * 1e3:.1f} ms",
        f"a plain loop over the JSON files: {result['plain_s']:.2f} s, with the verdicts "
        f"{result['plain_verdict_s']:.2f} s",
    ]


def write_small_welds(root: Path, n: int) -> list[Path]:
    """Write `n` true welds of a few sensor rows, 20 minutes apart: one is recorded, the others vary it."""
    first = _recorded(root.with_name(f"{root.name}-first"))
    try:
        manifest = load_manifest(first)
        tables = {name: pa.parquet.read_table(first / name) for name in (EVENTS_FILE, SCORES_FILE)}
        return [_varied(root, first, manifest, tables, i) for i in range(n)]
    finally:
        shutil.rmtree(first)


def _recorded(folder: Path) -> Path:
    """Record one weld: an arc, its closing, where a camera would have seen it, a verdict."""
    manifest = Manifest(
        key="first",
        cell="bench",
        session="s",
        state="open",
        streams={"sensors": StreamRecord(info=_STREAM, files=[], codec="")},
        first_order=1,
        origin_ns=_ORIGIN_NS,
        arc_on_ns=_ORIGIN_NS + 10**9,
        arc_off_ns=_ORIGIN_NS + 3 * 10**9,
        metadata={"part": "bracket", "program": "P1", "material": "S235", "thickness_mm": 3.0, "shift": "early"},
    )
    writer = WeldWriter(folder, manifest, {})
    rows = round(_SECONDS * _RATE_HZ)
    stamps = _ORIGIN_NS + np.arange(rows, dtype=np.int64) * round(1e9 / _RATE_HZ)
    values = np.tile(np.array([3.0, 12.0, 1.0, 150.0, 5.0, 20.0]), (rows, 1))
    payload = SensorRows(first_row=0, values=values, t_device_ns=stamps, t_arrival_ns=stamps)
    writer.write(Packet(stream="sensors", seq=0, t_arrival_ns=_ORIGIN_NS, payload=payload, order=1))
    told: list[tuple[str, dict[str, Any]]] = [
        ("sync", {"offsets": {"sensors": {"offset_ms": 0.0, "sigma_ms": 0.1}}}),
        ("weld_close", {"last_order": 1}),
    ]
    for order, (kind, data) in enumerate(told, start=2):
        event = Event(kind=kind, weld="first", t_ns=_ORIGIN_NS, data=data)
        closed_ns = _ORIGIN_NS + _SECONDS * 10**9
        writer.write(Packet(stream=EVENTS_STREAM, seq=order, t_arrival_ns=closed_ns, payload=event, order=order))
    verdict = Verdict(
        weld="first",
        stage="process",
        final=True,
        word="GO",
        reason="as normal as the good welds",
        score=0.5,
        threshold=1.0,
        p_value=0.4,
        alpha=0.05,
        calibration_welds=40,
        calibration_sessions=2,
        present=("sensors",),
        photos_pending=False,
        detector="bench",
    )
    for stage in ("process", "consistency"):
        writer.score(replace(verdict, stage=stage))
    writer.finalise()
    return folder


def _varied(root: Path, first: Path, manifest: Manifest, tables: dict[str, pa.Table], i: int) -> Path:
    """Write the weld again under another key and time, with files of that age."""
    started = _BEGIN + i * _SPACING
    key = f"{started:%Y-%m-%dT%H%M%SZ}-{i}"
    folder = root / "bench" / f"{started:%Y-%m-%d}" / key
    folder.mkdir(parents=True)
    shutil.copyfile(first / "sensors.parquet", folder / "sensors.parquet")
    files = dict(manifest.files)
    for name, table in tables.items():
        keys = pa.array([key] * table.num_rows, pa.string())
        pa.parquet.write_table(table.set_column(table.schema.get_field_index("weld"), "weld", keys), folder / name)
        files[name] = digest(folder / name)
    utc_ns = round(started.timestamp()) * 10**9
    label = LabelEntry(label=i % 12, by="bench", utc=started.isoformat())
    varied = msgspec.structs.replace(
        manifest,
        key=key,
        files=files,
        utc=[UtcPair(monotonic_ns=_ORIGIN_NS, utc_ns=utc_ns, uncertainty_ns=1)],
        labels=[label] if i % 3 else [],
        session=f"s{i // 50}",
    )
    (folder / MANIFEST).write_bytes(msgspec.json.format(msgspec.json.encode(varied), indent=1))
    for name in (MANIFEST, *files):
        os.utime(folder / name, ns=(utc_ns, utc_ns))
    return folder


def _plain(root: Path, *, verdicts: bool) -> set[str]:
    keys = set()
    for path in root.rglob(MANIFEST):
        keys.add(json.loads(path.read_text(encoding="utf-8"))["key"])
        if verdicts:
            pl.read_parquet(path.with_name(SCORES_FILE), columns=["kind", "word"]).filter(pl.col("kind") == "verdict")
            pl.read_parquet(path.with_name(EVENTS_FILE), columns=["kind", "data"]).filter(pl.col("kind") == "sync")
    return keys


def _timed(act: Callable[[], Any]) -> tuple[float, Any]:
    began = time.perf_counter()
    result = act()
    return time.perf_counter() - began, result
