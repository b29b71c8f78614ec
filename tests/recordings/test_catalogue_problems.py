"""Welds that cannot be read, or only in part: rows of the catalogue with their problem, never an exception."""

import os
import re
import sys
from pathlib import Path

import msgspec
import polars as pl
import pyarrow as pa
import pyarrow.parquet
import pytest

from recordings.bench_catalogue import write_small_welds
from recordings.catalogue import read_catalogue
from recordings.weld_folder import MANIFEST, WeldError, find_welds, load_manifest


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_small_welds(tmp_path / "root", 3)
    return tmp_path / "root"


def _hostile(folder: Path, how: str) -> None:
    path = folder / MANIFEST
    if how == "absurd number":
        path.write_text(re.sub(r'"origin_ns": \d+', '"origin_ns": 1' + "0" * 40, path.read_text()))
    elif how == "absurd time":
        path.write_text(re.sub(r'"utc_ns": \d+', f'"utc_ns": {2**62}', path.read_text()))
    elif how == "too large":
        os.truncate(path, 65 * 2**20)
    elif how == "deep":
        path.write_text('{"metadata":' + '{"a":' * 200_000)
    elif how == "folder":
        path.unlink()
        path.mkdir()
    elif how == "link":
        path.rename(folder / "real.json")
        path.symlink_to("real.json")
    elif how == "pipe":
        path.unlink()
        os.mkfifo(path)
    elif how == "no text":
        path.write_bytes(b"\xff\xfe" * 100)
    elif how == "line break in key":
        path.write_text(re.sub(r'"key": "[^"]+"', r'"key": "a\\nb"', path.read_text()))
    elif how == "key leads out":
        path.write_text(re.sub(r'"key": "[^"]+"', '"key": "../../x"', path.read_text()))
    elif how == "unknown class":
        path.write_text(re.sub(r'"labels": \[\]', '"labels": [{"label":57,"by":"x","utc":"y"}]', path.read_text()))
    elif how == "many streams":
        manifest = msgspec.json.decode(path.read_bytes())
        stream = manifest["streams"]["sensors"]
        manifest["streams"] = {f"s{i}": stream | {"info": stream["info"] | {"name": f"s{i}"}} for i in range(300)}
        path.write_bytes(msgspec.json.encode(manifest))
    elif how == "newer":
        path.write_text(path.read_text().replace('"schema": 2', '"schema": 3'))


HOSTILE = {
    "absurd number": "origin_ns",
    "too large": "bytes are more than",
    "deep": "recursion",
    "folder": "is a link or no file",
    "link": "is a link or no file",
    "pipe": "is a link or no file",
    "no text": "restore",
    "line break in key": "control characters",
    "key leads out": "is no weld key",
    "unknown class": "`int` <= 11",
    "many streams": "300 streams are more than 256",
    "newer": "newer than 2",
}


@pytest.mark.parametrize("how", HOSTILE)
def test_a_weld_that_cannot_be_read_is_a_row_with_its_problem(root: Path, how: str) -> None:
    folder = find_welds(root)[0]
    _hostile(folder, how)
    row, *others = read_catalogue(root).to_dicts()
    assert (row["state"], row["key"], row["path"]) == ("unreadable", None, str(folder))
    assert HOSTILE[how] in row["problem"]
    assert len(row["problem"].splitlines()) == 1
    assert all(other["problem"] is None for other in others)
    with pytest.raises(WeldError):
        load_manifest(folder)


def test_a_time_as_far_away_as_a_manifest_holds_is_a_time(root: Path) -> None:
    _hostile(find_welds(root)[0], "absurd time")
    row = read_catalogue(root).row(0, named=True)
    assert row["problem"] is None
    assert row["started_utc"].year == 2116


def _table(path: Path, how: str) -> None:
    if how == "empty":
        path.write_bytes(b"")
    elif how == "cut off":
        path.write_bytes(path.read_bytes()[:-20])
    elif how == "link":
        path.rename(path.with_name("real"))
        path.symlink_to("real")
    elif how == "other columns":
        pa.parquet.write_table(pa.table({"kind": [1], "x": [2]}), path)
    elif how == "no JSON":
        table = pa.parquet.read_table(path)
        name = "data" if "data" in table.column_names else "kind"
        kinds = pa.array([b"\xff{"] * table.num_rows, pa.binary())
        pa.parquet.write_table(table.set_column(table.schema.get_field_index(name), name, kinds), path)


@pytest.mark.parametrize("name", ["scores.parquet", "events.parquet"])
@pytest.mark.parametrize("how", ["empty", "cut off", "link", "other columns", "no JSON"])
def test_a_damaged_table_is_told_and_the_rest_of_the_row_stands(root: Path, name: str, how: str) -> None:
    folder = find_welds(root)[0]
    _table(folder / name, how)
    row, *others = read_catalogue(root).to_dicts()
    assert row["problem"].startswith(f"{folder / name}: ")
    assert (row["key"], row["sensors_items"], row["part"]) == (folder.name, 400, "bracket")
    assert (row["verdict"] is None) == (name == "scores.parquet")
    assert all(other["problem"] is None for other in others)


@pytest.mark.skipif(sys.platform != "linux", reason="names are UTF-8 elsewhere")
def test_a_folder_whose_name_is_no_text_is_a_row(root: Path) -> None:
    folder = find_welds(root)[0]
    folder.rename(Path(os.fsdecode(os.fsencode(folder.parent) + b"/caf\xe9")))
    frame = read_catalogue(root)
    assert frame.height == 3
    assert frame.filter(pl.col("path").str.ends_with("caf\\xe9"))["key"].to_list() == [folder.name]
