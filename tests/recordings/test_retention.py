"""Making room: what may go, in which order, and what a kill in the middle leaves."""

import io
import json
import os
import shutil
from pathlib import Path

import pytest

import recordings.retention
from recordings.bench_catalogue import write_small_welds
from recordings.catalogue import read_catalogue
from recordings.late_additions import add_edit, add_label
from recordings.manifest import LabelEntry, MetadataEntry
from recordings.retention import DELETED, LOG, make_room
from recordings.weld_folder import MANIFEST, load_manifest, store_manifest

NOW = "2026-01-01T00:00:00Z"


class Disk:
    """A disk of a certain size that holds one root; `lag` makes it tell late what was freed."""

    def __init__(self, root: Path, free: int, *, lag: bool = False) -> None:
        self._root, self._free, self._lag = root, free, lag
        self._full = self._used()

    def _used(self) -> int:
        return sum(path.stat().st_size for path in self._root.rglob("*.parquet") if path.name != ".catalogue.parquet")

    def __call__(self, root: Path) -> int:
        return self._free + (0 if self._lag else self._full - self._used())


def age(folder: Path) -> None:
    """Let the weld's last change be long ago."""
    os.utime(folder / MANIFEST, ns=(10**18, 10**18))


@pytest.fixture
def welds(tmp_path: Path) -> list[Path]:
    """Four welds that may go, the oldest first."""
    folders = write_small_welds(tmp_path / "root", 4)
    for folder in folders:
        manifest = load_manifest(folder)
        manifest.labels.clear()
        store_manifest(folder, manifest, durable=False)
        age(folder)
    return folders


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "root"


def size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


def notes(root: Path) -> list[dict[str, object]]:
    path = root / LOG
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.mark.parametrize("lag", [False, True])
def test_the_oldest_go_until_there_is_room_and_not_one_more(root: Path, welds: list[Path], lag: bool) -> None:
    need = size(welds[0]) + 1
    lines = make_room(root, "bench", 1000 + need, free_bytes=Disk(root, 1000, lag=lag))
    assert [folder.exists() for folder in welds] == [False, False, True, True]
    assert [line.partition(":")[0] for line in lines] == [folder.name for folder in welds[:2]]
    assert [(note["key"], note["folder"]) for note in notes(root)] == [
        (folder.name, folder.relative_to(root).as_posix()) for folder in welds[:2]
    ]
    assert all("GB were free" in str(note["why"]) and note["started_utc"] for note in notes(root))
    assert not list(root.glob(f"{DELETED}*"))
    assert make_room(root, "bench", 1000, free_bytes=lambda _: 1000) == []


def test_a_dry_run_tells_the_same_and_changes_nothing(root: Path, welds: list[Path]) -> None:
    need = size(welds[0]) + 1
    before = sorted(path for path in root.rglob("*") if path.is_file() and path.name != ".catalogue.parquet")
    told = make_room(root, "bench", 1000 + need, dry_run=True, free_bytes=Disk(root, 1000))
    assert sorted(path for path in root.rglob("*") if path.is_file() and path.name != ".catalogue.parquet") == before
    done = make_room(root, "bench", 1000 + need, free_bytes=Disk(root, 1000))
    assert [line.replace("would be deleted", "deleted") for line in told] == done
    assert len(done) == 2


def test_it_is_off_at_zero(root: Path, welds: list[Path]) -> None:
    assert make_room(root, None, 0.0, free_bytes=lambda _: 0) == []
    assert all(folder.exists() for folder in welds)


def change(folder: Path, **values: object) -> None:
    manifest = load_manifest(folder)
    for name, value in values.items():
        setattr(manifest, name, value)
    store_manifest(folder, manifest, durable=False)
    age(folder)


def test_what_somebody_cared_for_or_what_is_not_ours_stays(root: Path, welds: list[Path], tmp_path: Path) -> None:
    more = write_small_welds(tmp_path / "more", 9)[4:]
    for folder in more:
        change(folder, labels=[])
        shutil.move(folder, root / "bench" / folder.name)
    imported, recovered, again, fresh, other = (root / "bench" / folder.name for folder in more)
    add_label(welds[0], LabelEntry(label=3, by="anna", utc=NOW))
    add_edit(welds[1], MetadataEntry(name="notes", value="keep", by="anna", utc=NOW))
    change(imported, source="imported")
    change(recovered, state="recovered")
    change(again, labels=[LabelEntry(label=label, by="anna", utc=NOW) for label in (3, -1)])
    (fresh / MANIFEST).touch()
    change(other, cell="other")
    for folder in welds[:2]:
        age(folder)
    outside = tmp_path / "outside"
    shutil.move(welds[3], outside)
    welds[3].symlink_to(outside)
    (welds[2] / "link.flac").symlink_to(outside / "sensors.parquet")

    lines = make_room(root, "bench", 1e18, free_bytes=lambda _: 1000)
    assert [line.partition(":")[0] for line in lines] == [welds[2].name]
    kept = {folder for folder in (*welds[:2], imported, recovered, again, fresh, other) if folder.exists()}
    assert kept == {*welds[:2], imported, recovered, again, fresh, other}
    assert (outside / "sensors.parquet").exists()
    assert not welds[2].exists()


def test_a_weld_labelled_since_the_catalogue_was_read_stays(
    root: Path, welds: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    frame = read_catalogue(root)
    add_label(welds[0], LabelEntry(label=3, by="anna", utc=NOW))
    age(welds[0])
    monkeypatch.setattr(recordings.retention, "read_catalogue", lambda _: frame)
    make_room(root, "bench", 1001, free_bytes=Disk(root, 1000))
    assert [folder.exists() for folder in welds] == [True, False, True, True]


@pytest.mark.parametrize("step", ["_note", "rmtree"])
def test_a_deletion_that_is_cut_off_is_completed_and_noted_once(
    root: Path, welds: list[Path], monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    class Killed(BaseException):
        pass

    def kill(*_: object, **__: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(recordings.retention if step == "_note" else shutil, step, kill)
        with pytest.raises(Killed):
            make_room(root, "bench", 1001, free_bytes=Disk(root, 1000))
    assert not welds[0].exists()
    assert len(list(root.glob(f"{DELETED}*"))) == 1
    assert len(read_catalogue(root)) == 3
    lines = make_room(root, "bench", 1000, free_bytes=lambda _: 1000)
    assert not list(root.glob(f"{DELETED}*"))
    assert [note["key"] for note in notes(root)] == [welds[0].name]
    assert len(lines) == (1 if step == "_note" else 0)


def test_a_full_disk_cannot_keep_a_deletion_from_being_noted(
    root: Path, welds: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    note = recordings.retention._note

    def full(log: io.FileIO, entry: recordings.retention.Deletion) -> None:
        if list(root.glob(f"{DELETED}*")):
            raise OSError(28, "No space left on device")
        note(log, entry)

    monkeypatch.setattr(recordings.retention, "_note", full)
    make_room(root, "bench", 1001, free_bytes=Disk(root, 1000))
    assert [entry["key"] for entry in notes(root)] == [welds[0].name]


def test_what_cannot_be_noted_is_not_deleted(root: Path, welds: list[Path], tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_text("mine")
    (root / LOG).symlink_to(other)
    with pytest.raises(OSError, match=r".+"):
        make_room(root, "bench", 1001, free_bytes=Disk(root, 1000))
    assert other.read_text() == "mine"
    assert all(folder.exists() for folder in welds)
