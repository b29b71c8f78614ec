"""The catalogue: what its columns hold, what it passes by, and that it is always what the folders are."""

import json
import logging
import os
import shutil
import threading
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import recordings.catalogue
import recordings.catalogue_row
from recordings.bench_catalogue import bench_catalogue, lines, write_small_welds
from recordings.catalogue import INDEX, find_weld, read_catalogue
from recordings.catalogue_row import COLUMNS
from recordings.late_additions import add_edit, add_label, add_scores
from recordings.manifest import LabelEntry, Loss, MetadataEntry
from recordings.reader import WeldReader
from recordings.recorder import FinishWeld
from recordings.weld_folder import MANIFEST, WeldError, find_welds, load_manifest, store_manifest
from tests.recordings.handmade import Run, World, cell
from tests.recordings.test_recorder import score, verdict

NOW = "2026-01-01T00:00:00Z"
LONG_AGO_S = 10**9
_seconds = count(1)


def age(root: Path) -> None:
    """Give every file its own time, long ago: what changed just now is always read anew."""
    for path in root.rglob("*"):
        if path.is_file() and not path.is_symlink() and path.stat().st_mtime > 1.1 * LONG_AGO_S:
            at_ns = (LONG_AGO_S + next(_seconds)) * 10**9
            os.utime(path, ns=(at_ns, at_ns))


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("small") / "root"
    write_small_welds(root, 6)
    return root


@pytest.fixture
def root(small: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(small, tmp_path / "root"))


def folders(root: Path) -> list[Path]:
    return sorted(path.parent for path in root.rglob(MANIFEST))


def rows_read(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Note which welds are read and not remembered."""
    read: list[Path] = []
    real = recordings.catalogue_row.weld_row

    def noted(folder: Path) -> dict[str, Any]:
        read.append(folder)
        return real(folder)

    monkeypatch.setattr(recordings.catalogue, "weld_row", noted)
    return read


def test_a_recorded_weld_is_a_row_of_what_its_files_say(tmp_path: Path) -> None:
    run = Run(cell(), tmp_path).feed(World(seconds=5.0, arcs=((1.0, 2.0),), lost={"camera": range(30, 34)}).packets())
    (key,) = run.core.welds
    writer = run.core.welds[key].writer
    assert writer is not None
    writer.manifest.metadata |= {"part": 7, "thickness_mm": "2.5", "shift": "late", "list": [1]}
    run.core.handle(FinishWeld(key=key))
    folder = run.core.welds[key].folder
    add_scores(folder, [verdict(key), score(key)])
    add_label(folder, LabelEntry(label=2, by="ben", utc=NOW))
    add_label(folder, LabelEntry(label=3, by="anna", utc="2026-01-02T03:04:05+01:00"))
    for name, value in (("operator", "ann"), ("split", "TRAIN"), ("speed", 1.5)):
        add_edit(folder, MetadataEntry(name=name, value=value, by="anna", utc=NOW))
    frame = read_catalogue(tmp_path)
    assert dict(frame.schema) == COLUMNS
    (row,) = frame.to_dicts()
    reader = WeldReader(folder)
    manifest, said = reader.manifest, verdict(key)
    events = reader.table("events")
    offsets = json.loads(events.filter(pl.col("kind") == "sync")["data"][0])["offsets"]
    closed_ns = events.filter(pl.col("kind") == "weld_close")["t_arrival_ns"][0]
    assert manifest.arc_on_ns is not None
    assert manifest.arc_off_ns is not None
    began = datetime.fromtimestamp(manifest.origin_ns // 1000 / 1e6, tz=UTC)  # this cell's clock is UTC
    expected = {
        "key": key,
        "path": str(folder),
        "cell": "hand-made",
        "session": "test",
        "source": "live",
        "state": "finalised",
        "started_utc": began,
        "seconds": (closed_ns - manifest.origin_ns) / 1e9,
        "arc_s": (manifest.arc_off_ns - manifest.arc_on_ns) / 1e9,
        "part": "7",
        "program": "simulated",
        "operator": "ann",
        "material": None,
        "thickness_mm": 2.5,
        "notes": None,
        "label": 3,
        "label_name": "porosity",
        "labelled_by": "anna",
        "labelled_utc": datetime(2026, 1, 2, 2, 4, 5, tzinfo=UTC),
        "split": "TRAIN",
        "verdict": said.word,
        "stage": said.stage,
        "score": said.score,
        "p_value": said.p_value,
        "present": ["video", "audio", "sensors"],
        "video_items": manifest.streams["camera"].items,
        "audio_items": manifest.streams["microphone"].items,
        "sensors_items": manifest.streams["sensors"].items,
        "video_lost_s": 4 / 20,
        "audio_lost_s": 0.0,
        "sensors_lost_s": 0.0,
        "lost_s": 4 / 20,
        "lost_exact": True,
        "video_sync_ms": offsets["camera"]["offset_ms"],
        "video_sync_sigma_ms": offsets["camera"]["sigma_ms"],
        "audio_sync_ms": offsets["microphone"]["offset_ms"],
        "audio_sync_sigma_ms": offsets["microphone"]["sigma_ms"],
        "photos": 0,
        "bytes": sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()),
        "inferred": [],
        "metadata": '{"shift":"late","speed":1.5}',
        "problem": None,
    }
    assert row == expected


def test_a_bound_is_told_from_a_count_and_the_worst_stream_counts(root: Path) -> None:
    folder = folders(root)[0]
    manifest = load_manifest(folder)
    losses = manifest.streams["sensors"].losses
    losses.append(Loss(t_ns=None, first=0, missing=5, seconds=0.05, reason="device"))
    losses.append(Loss(t_ns=None, first=9, missing=250, seconds=2.5, reason="power cut", exact=False))
    store_manifest(folder, manifest)
    row = read_catalogue(root).row(0, named=True)
    assert (row["sensors_lost_s"], row["lost_s"], row["lost_exact"]) == (2.55, 2.55, False)


def test_an_open_weld_shows_what_is_certain_and_is_read_every_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(cell(), tmp_path).feed(World(seconds=5.0, arcs=((1.0, 2.0),)).packets())
    (key,) = run.core.welds
    age(tmp_path)
    read = rows_read(monkeypatch)
    for _ in range(2):
        (row,) = read_catalogue(tmp_path).to_dicts()
        assert (row["state"], row["key"], row["video_items"], row["present"]) == ("open", key, None, None)
    assert len(read) == 2
    run.core.handle(FinishWeld(key=key))
    assert read_catalogue(tmp_path)["state"].to_list() == ["finalised"]


def test_links_hidden_folders_and_whatever_lies_in_a_weld_are_passed_by(root: Path, tmp_path: Path) -> None:
    expected = read_catalogue(root)
    weld = folders(root)[0]
    shutil.copytree(weld, root / ".open" / "hidden")
    shutil.copytree(weld, root / ".deleted-1" / "hidden")
    shutil.copytree(weld, weld / "photos" / "inner")
    outside = Path(shutil.copytree(weld, tmp_path / "outside" / "weld"))
    (root / "linked").symlink_to(outside.parent)
    (weld.parent / "linked").symlink_to(outside)
    (root / "loop").symlink_to(root)
    (root / "unassigned").mkdir()
    found = read_catalogue(root)
    assert found["path"].to_list() == expected["path"].to_list()
    assert [str(path) for path in find_welds(root)] == expected["path"].to_list()
    assert read_catalogue(outside)["path"].to_list() == [str(outside)]
    assert not (outside / INDEX).exists()


def test_one_key_of_two_welds_is_told_with_both(root: Path) -> None:
    first, second, *_ = folders(root)
    shutil.copytree(first, root / "bench" / "copy")
    for _ in range(2):
        frame = read_catalogue(root)
        twice = frame.filter(pl.col("problem").is_not_null())
        assert twice["problem"].to_list() == ["key used twice"] * 2
        assert set(twice["path"]) == {str(first), str(root / "bench" / "copy")}
    assert find_weld(root, second.name) == second
    shutil.rmtree(root / "bench" / "copy")
    assert read_catalogue(root)["problem"].null_count() == 6


def test_only_what_changed_is_read_again(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    age(root)
    read = rows_read(monkeypatch)
    before = read_catalogue(root)
    assert len(read) == 6
    read.clear()
    assert read_catalogue(root).equals(before)
    assert read == []
    changed = folders(root)[2]
    add_label(changed, LabelEntry(label=7, by="anna", utc=NOW))
    after = read_catalogue(root)
    assert read == [changed]
    assert after.filter(pl.col("label") == 7)["path"].to_list() == [str(changed)]
    moved = root.rename(root.with_name("moved"))
    read.clear()
    assert read_catalogue(moved)["path"].str.starts_with(str(moved)).all()
    assert read == [moved / changed.relative_to(root)]  # changed a moment ago: not trusted yet


def test_a_damaged_index_is_made_anew(root: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    age(root)
    expected = read_catalogue(root)
    path = root / INDEX
    whole = path.read_bytes()
    read = rows_read(monkeypatch)
    noticed = 0
    for at in range(0, len(whole), max(1, len(whole) // 30)):
        for damaged in (whole[:at], whole[:at] + bytes([whole[at] ^ 0x41]) + whole[at + 1 :]):
            path.write_bytes(damaged)
            read.clear()
            assert read_catalogue(root).equals(expected)
            noticed += bool(read)
            assert read in ([], folders(root)) or {*read} == {*folders(root)}
    assert noticed > 50
    path.write_bytes(whole)
    table = pa.parquet.read_table(path)
    newer = table.replace_schema_metadata({b"weld_catalogue": b"2"}).set_column(
        table.column_names.index("part"), "part", pa.array(["wrong"] * 6)
    )
    pa.parquet.write_table(newer, path)
    assert read_catalogue(root).equals(expected)
    path.unlink()
    (tmp_path / "elsewhere").write_bytes(whole)
    path.symlink_to(tmp_path / "elsewhere")
    assert read_catalogue(root).equals(expected)
    assert not path.is_symlink()
    assert (tmp_path / "elsewhere").read_bytes() == whole


def test_a_root_that_takes_no_index_works_and_is_told_once(
    root: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = read_catalogue(root)
    (root / INDEX).unlink()
    (root / INDEX).mkdir()  # nothing can be swapped in here, whoever runs the tests
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert read_catalogue(root).equals(expected)
    assert [record.getMessage().count("no index can be kept") for record in caplog.records] == [1]


def test_several_may_write_the_index_at_once(root: Path) -> None:
    age(root)
    expected = read_catalogue(root, refresh=True)
    found: list[pl.DataFrame] = []

    def read() -> None:
        found.extend(read_catalogue(root, refresh=i % 2 == 0) for i in range(6))

    threads = [threading.Thread(target=read, name=f"reader-{i}") for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(found) == 24
    assert all(frame.equals(expected) for frame in found)
    assert read_catalogue(root).equals(expected)
    assert [path.name for path in root.iterdir() if path.name.startswith(INDEX)] == [INDEX]


OPERATIONS = ("add", "remove", "label", "describe", "judge", "damage", "mend", "move", "swap", "twin", "lose index")


class Folders:
    """A root to which things happen."""

    def __init__(self, root: Path, source: list[Path]) -> None:
        self.root, self.source, self._numbers = root, source, count()
        (root / "a").mkdir(parents=True)

    def welds(self) -> list[Path]:
        return sorted(path.parent for path in self.root.rglob(MANIFEST))

    def happen(self, what: str, which: int) -> None:
        welds = self.welds()
        if what == "add" or not welds:
            shutil.copytree(self.source[which % len(self.source)], self._fresh())
            return
        weld = welds[which % len(welds)]
        if what == "remove":
            shutil.rmtree(weld)
        elif what == "move":
            weld.rename(self._fresh())
        elif what == "twin":
            shutil.copytree(weld, self._fresh())
        elif what == "swap":
            other, aside = welds[(which + 1) % len(welds)], self.root / ".aside"
            if other != weld:
                weld.rename(aside)
                other.rename(weld)
                aside.rename(other)
        elif what == "damage":
            name = (MANIFEST, "events.parquet", "scores.parquet")[which % 3]
            data = bytearray((weld / name).read_bytes())
            at = which * 7 % len(data)
            data[at : at + 3] = b"\0\0\0"
            (weld / name).write_bytes(data)
        elif what == "mend":
            shutil.rmtree(weld)
            shutil.copytree(self.source[which % len(self.source)], weld)
        elif what == "lose index":
            (self.root / INDEX).unlink(missing_ok=True)
        else:
            self._say(weld, what, which)

    def _say(self, weld: Path, what: str, which: int) -> None:
        try:
            if what == "label":
                add_label(weld, LabelEntry(label=which % 12, by="anna", utc=NOW))
            elif what == "describe":
                add_edit(weld, MetadataEntry(name="part", value=f"p{which}", by="anna", utc=NOW))
            else:
                add_scores(weld, [verdict(weld.name)])
        except (OSError, WeldError):
            return  # it was damaged before

    def _fresh(self) -> Path:
        return self.root / "ab"[next(self._numbers) % 2] / "day" / f"w{next(self._numbers)}"


@settings(deadline=None, max_examples=25, database=None)
@given(happened=st.lists(st.tuples(st.sampled_from(OPERATIONS), st.integers(0, 40)), min_size=1, max_size=14))
def test_an_updated_catalogue_equals_a_rebuilt_one(
    small: Path, tmp_path_factory: pytest.TempPathFactory, happened: list[tuple[str, int]]
) -> None:
    place = tmp_path_factory.mktemp("happens")
    world = Folders(place / "root", folders(small))
    for what, which in happened:
        (world.root / "b" / "day").mkdir(parents=True, exist_ok=True)
        (world.root / "a" / "day").mkdir(parents=True, exist_ok=True)
        world.happen(what, which)
        age(world.root)
        updated = read_catalogue(world.root)
        assert len(updated) == len(world.welds())
    (world.root / INDEX).unlink(missing_ok=True)
    assert updated.equals(read_catalogue(world.root, refresh=True))
    shutil.rmtree(place)


def test_a_weld_is_found_where_the_layout_puts_it_or_wherever_it_is(root: Path, tmp_path: Path) -> None:
    first, second, third, fourth, *_ = folders(root)
    assert find_weld(root, first.name) == first
    assert not (root / INDEX).exists()
    imported = root / "imported" / "2023-03-22" / "good run" / "03-22-23-0041-06"
    imported.parent.mkdir(parents=True)
    manifest = load_manifest(second)
    manifest.key = "good run/03-22-23-0041-06"
    store_manifest(second, manifest)
    second.rename(imported)
    assert find_weld(root, manifest.key, search=False) == imported
    moved = root / "by hand" / "kept" / "for" / "ever"
    moved.parent.mkdir(parents=True)
    third.rename(moved)
    assert find_weld(root, third.name, search=False) is None
    assert find_weld(root, third.name) == moved
    outside = tmp_path / "outside"
    fourth.rename(outside)
    fourth.symlink_to(outside)
    for key in (fourth.name, "nothing", "", "../x", "/etc", f"./{first.name}", f"{first.name}/", "a\nb"):
        assert find_weld(root, key) is None
    shutil.copytree(first, root / "other" / "2020-01-01" / first.name)
    with pytest.raises(WeldError, match="have the same key"):
        find_weld(root, first.name)
    with pytest.raises(WeldError, match="name a recordings root"):
        find_weld(tmp_path / "absent", "x")
    with pytest.raises(WeldError, match="name a recordings root"):
        read_catalogue(tmp_path / "absent")


def test_the_bench_measures_what_it_says() -> None:
    result = bench_catalogue(12)
    assert (result["welds"], result["equal"]) == (12, True)
    assert len(lines(result)) == 2
