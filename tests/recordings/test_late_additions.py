import dataclasses
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

import recordings.late_additions
from acquisition.packet import Event, Packet
from recordings.folder_lock import locked
from recordings.late_additions import EditError, add_edit, add_label, add_packet, add_scores, check_entry
from recordings.manifest import SCHEMA, LabelEntry, MetadataEntry
from recordings.reader import WeldReader
from recordings.recorder import FinishWeld
from recordings.recovery import recover
from recordings.verify import verify
from recordings.weld_folder import MANIFEST, RecordingError, WeldError, load_manifest, store_manifest
from tests.recordings.handmade import Run, World, cell, photo
from tests.recordings.test_recorder import score, verdict

CHECKOUT = Path(__file__).parents[2]
NOW = "2026-01-01T00:00:00Z"


@pytest.fixture(scope="module")
def recorded(tmp_path_factory) -> Path:
    run = Run(cell(), tmp_path_factory.mktemp("root")).feed(World(seconds=5.0, arcs=((1.0, 2.0),)).packets())
    (key,) = run.core.welds
    run.core.handle(FinishWeld(key=key))
    return run.core.welds[key].folder


@pytest.fixture
def weld(recorded: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(recorded, tmp_path / recorded.name))


def entry(label: int) -> LabelEntry:
    return LabelEntry(label=label, by="anna", utc=NOW)


def edit(name: str, value: Any, by: str = "anna") -> MetadataEntry:
    return MetadataEntry(name=name, value=value, by=by, utc=NOW)


def test_scores_are_appended_and_nothing_is_overwritten(weld):
    before = WeldReader(weld).manifest.files
    add_scores(weld, [score("k", 0)])
    add_scores(weld, [score("k", 1), verdict("k")])
    reader = WeldReader(weld)
    assert [item.window for item in reader.scores()] == [0, 1]
    assert reader.verdicts() == [verdict("k")]
    assert {name: d for name, d in reader.manifest.files.items() if name != "scores.parquet"} == before
    (report,) = verify(weld)
    assert (report.ok, report.problems) == (True, [])


def test_labels_are_a_history(weld):
    add_label(weld, entry(3))
    add_label(weld, entry(-1))
    add_label(weld, entry(9))
    manifest = WeldReader(weld).manifest
    assert [item.label for item in manifest.labels] == [3, -1, 9]
    assert manifest.label == 9
    assert verify(weld)[0].ok


def test_what_is_said_later_stands_beside_what_was_recorded(weld):
    manifest = load_manifest(weld)
    manifest.metadata |= {"part": "bracket", "operator": "ben", "files": ["a", "b"]}
    store_manifest(weld, manifest)
    before = {path.name: path.read_bytes() for path in weld.iterdir() if path.name != MANIFEST}
    add_edit(weld, edit("part", "007"))
    add_edit(weld, edit("operator", None, by="carl"))
    add_edit(weld, edit("thickness_mm", 3.25))
    add_edit(weld, edit("part", "008"))
    manifest = load_manifest(weld)
    assert manifest.metadata["part"] == "bracket"
    assert [(e.name, e.value, e.by) for e in manifest.edits] == [
        ("part", "007", "anna"),
        ("operator", None, "carl"),
        ("thickness_mm", 3.25, "anna"),
        ("part", "008", "anna"),
    ]
    described = manifest.described
    assert (described["part"], described["thickness_mm"], "operator" in described) == ("008", 3.25, False)
    assert {path.name: path.read_bytes() for path in weld.iterdir() if path.name != MANIFEST} == before
    with pytest.raises(EditError, match="several values"):
        add_edit(weld, edit("files", "a"))


def test_a_weld_of_an_older_schema_gets_the_new_number(weld):
    path = weld / MANIFEST
    path.write_text(path.read_text().replace(f'"schema": {SCHEMA}', '"schema": 1'))
    assert load_manifest(weld).schema == 1
    add_edit(weld, edit("notes", "old"))
    assert load_manifest(weld).schema == SCHEMA


@pytest.mark.parametrize(
    ("said", "what"),
    [
        (entry(12), "label 12 is not -1 to 11"),
        (entry(-2), "label -2"),
        (edit("", "x"), "no name of metadata"),
        (edit("a b", "x"), "no name of metadata"),
        (edit("../x", "x"), "no name of metadata"),
        (edit("x" * 61, "x"), "no name of metadata"),
        (edit("label", "3"), "'label' is no name of metadata; choose another"),
        (edit("notes", "x" * 2001), "2001 characters are more than 2000"),
        (edit("notes", "two\nlines"), r"control character '\\n'"),
        (edit("notes", "\ud800"), "control character"),
        (edit("x", float("nan")), "nan is no number"),
        (edit("x", 2**63), "too large a number"),
        (edit("x", "y", by=" "), "nobody says this"),
        (edit("x", "y", by="a\x1b[2J"), "by: holds the control character"),
        (MetadataEntry(name="x", value=1, by="a", utc="yesterday"), "'yesterday' is no time"),
        (LabelEntry(label=1, by="a", utc="2026-01-01"), "is no time"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(weld, said, what):
    before = (weld / MANIFEST).read_bytes()
    with pytest.raises(EditError, match=what) as caught:
        add_label(weld, said) if isinstance(said, LabelEntry) else add_edit(weld, said)
    assert len(str(caught.value).splitlines()) == 1
    assert (weld / MANIFEST).read_bytes() == before


@pytest.mark.parametrize("value", [None, True, 0, -1.5, "", "Schweißnaht, Ø 3 mm", "x" * 2000])
def test_whatever_makes_sense_comes_back_as_it_was_said(weld, value):
    check_entry(edit("größe.x-1", value))
    add_edit(weld, edit("größe.x-1", value))
    found = load_manifest(weld).edits[-1].value
    assert (found, type(found)) == (value, type(value))


def test_a_changed_table_is_still_noticed(weld):
    """The new digest is that of the new table: whoever changes it afterwards is found out."""
    add_scores(weld, [score("k")])
    path = weld / "scores.parquet"
    path.write_bytes(path.read_bytes() + b"x")
    assert not verify(weld, deep=False)[0].ok
    with pytest.raises(WeldError, match=r"scores\.parquet: is not the file that was recorded"):
        add_scores(weld, [score("k")])


def test_a_weld_that_is_gone_or_not_finished_is_said_so(weld):
    manifest = load_manifest(weld)
    manifest.state = "open"
    store_manifest(weld, manifest)
    with pytest.raises(WeldError, match="is not finished"):
        add_label(weld, entry(1))
    shutil.rmtree(weld)
    with pytest.raises(WeldError, match=r"weld\.json"):
        add_scores(weld, [score("k")])
    with pytest.raises(WeldError, match=r"weld\.json"):
        add_label(weld, entry(1))


class Killed(BaseException):
    """The process is gone: nothing after this runs but what a test needs to look at the folder."""


def additions(weld: Path) -> dict[str, Any]:
    """Give what may be added: scores, an event, a photo."""
    event = Event(kind="label", weld=weld.name, data={"label": 3})
    return {
        "scores": lambda: add_scores(weld, [score("k", 7)]),
        "event": lambda: add_packet(weld, Packet(stream="events", seq=1, t_arrival_ns=1, payload=event, order=10**9)),
        "photo": lambda: add_packet(weld, dataclasses.replace(photo(9.0), order=10**9)),
    }


def contents(weld: Path) -> tuple[int, int, int]:
    reader = WeldReader(weld)
    return len(reader.scores()), len(reader.table("events")), len(reader.photos())


@pytest.mark.parametrize("what", ["scores", "event", "photo"])
@pytest.mark.parametrize("first", [True, False])
def test_a_kill_after_any_step_leaves_the_old_or_the_new(weld, monkeypatch, what, first):
    """Each step of an addition is the last one in turn; whatever is left is recovered, verified and added to again."""
    if not first:
        additions(weld)[what]()
    whole = weld.parent / "whole"
    shutil.copytree(weld, whole)
    before, names = contents(weld), ("store_manifest", "swap_in", "store_photo", "digest")
    steps = 0
    additions(whole)[what]()
    after = contents(whole)
    assert before != after
    while True:
        folder = Path(shutil.copytree(weld, weld.parent / f"killed{steps}"))
        left = [steps]

        def dying(name: str, left: list[int] = left) -> Any:
            real = getattr(recordings.late_additions, name)

            def act(*args: Any, **more: Any) -> Any:
                result = real(*args, **more)
                left[0] -= 1
                if left[0] < 0:
                    raise Killed
                return result

            return act

        with monkeypatch.context() as patch:
            for name in names:
                patch.setattr(recordings.late_additions, name, dying(name))
            try:
                additions(folder)[what]()
            except Killed:
                pass
            else:
                break
        steps += 1
        (report,) = recover(folder)
        assert (report.ok, report.state) == (True, "finalised")
        assert (load_manifest(folder).replacing, list(folder.glob("*.part"))) == ({}, [])
        (found,) = verify(folder, deep=False)
        assert (found.ok, found.problems) == (True, [])
        assert contents(folder) in (before, after)
        reached = contents(folder)
        additions(folder)[what]()
        assert contents(folder) != reached
        assert verify(folder, deep=False)[0].ok
    assert steps >= 4


def test_an_addition_that_was_cut_off_is_settled_by_the_next_one(weld, monkeypatch):
    def die(*_: Any) -> None:
        raise Killed

    for name in ("swap_in", "store_manifest"):
        with monkeypatch.context() as patch:
            if name == "swap_in":
                patch.setattr(recordings.late_additions, name, die)
            else:
                stored: list[int] = []

                def second(folder: Path, manifest: Any, stored: list[int] = stored) -> None:
                    stored.append(1)
                    store_manifest(folder, manifest) if len(stored) == 1 else die()

                patch.setattr(recordings.late_additions, name, second)
            with pytest.raises(Killed):
                add_scores(weld, [score("k", 5)])
        assert load_manifest(weld).replacing
    add_label(weld, entry(2))
    manifest = load_manifest(weld)
    assert (manifest.replacing, manifest.label) == ({}, 2)
    assert [item.window for item in WeldReader(weld).scores()] == [5]
    assert verify(weld)[0].ok


def test_several_programs_label_at_once_and_no_word_is_lost(weld):
    program = (
        "import sys; from pathlib import Path; from recordings.late_additions import add_label\n"
        "from recordings.manifest import LabelEntry\n"
        "sys.stdin.readline()\n"
        f"for i in range(12): add_label(Path(sys.argv[1]), LabelEntry(label=i, by=sys.argv[2], utc={NOW!r}))\n"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(weld), name], cwd=CHECKOUT, stdin=subprocess.PIPE, text=True
        )
        for name in ("anna", "ben", "carl")
    ]
    for process in processes:
        process.communicate("go\n", timeout=60)
        assert process.returncode == 0
    labels = load_manifest(weld).labels
    assert len(labels) == 36
    for name in ("anna", "ben", "carl"):
        assert [item.label for item in labels if item.by == name] == list(range(12))


def test_the_death_of_a_program_lets_go_of_its_weld(weld):
    program = (
        "import sys; from pathlib import Path; from recordings.folder_lock import locked\n"
        "with locked(Path(sys.argv[1])): print('held', flush=True); sys.stdin.readline()\n"
    )
    names = sorted(path.name for path in weld.iterdir())
    with subprocess.Popen(
        [sys.executable, "-c", program, str(weld)], cwd=CHECKOUT, stdin=-1, stdout=-1, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        with pytest.raises(TimeoutError, match="being changed by another program"), locked(weld, wait_s=0.05):
            pass
        assert sorted(path.name for path in weld.iterdir()) == names
        process.kill()
    add_label(weld, entry(4))
    assert load_manifest(weld).label == 4


def test_threads_keep_each_other_out_too(weld):
    entered, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with locked(weld):
            entered.set()
            leave.wait(10)

    thread = threading.Thread(target=hold, name="holder")
    thread.start()
    assert entered.wait(10)
    with pytest.raises(TimeoutError), locked(weld, wait_s=0.0):
        pass
    leave.set()
    thread.join(10)
    with locked(weld, wait_s=0.0):
        pass


def test_nothing_is_written_through_a_link_laid_into_the_weld(weld, tmp_path):
    other = tmp_path / "mine.txt"
    other.write_text("mine")
    for name in (f"{MANIFEST}.part", "scores.parquet.part"):
        (weld / name).symlink_to(other)
    add_scores(weld, [score("k")])
    assert other.read_text() == "mine"
    outside = tmp_path / "outside"
    outside.mkdir()
    (weld / "photos").symlink_to(outside)
    with pytest.raises(WeldError, match="leads out of the weld folder"):
        add_packet(weld, photo(9.0))
    assert list(outside.iterdir()) == []


def test_a_photo_of_an_odd_name_is_kept_under_another(weld):
    for name in ("12:30.png", "a\nb.png", "back\\slash.png", "12:30.png"):
        add_packet(weld, photo(9.0, name=name))
    table = WeldReader(weld).table("photos")
    assert table["name"].to_list() == ["12:30.png", "a\nb.png", "back\\slash.png", "12:30.png"]
    files = ["photos/12_30.png", "photos/a_b.png", "photos/back_slash.png", "photos/12_30_1.png"]
    assert table["file"].to_list() == files
    assert verify(weld)[0].ok
    with pytest.raises(RecordingError, match="no plain file name"):
        add_packet(weld, photo(9.0, name=".."))
