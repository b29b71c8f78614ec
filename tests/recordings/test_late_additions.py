import shutil

import pytest

from recordings.late_additions import add_label, add_scores
from recordings.manifest import LabelEntry
from recordings.reader import WeldReader
from recordings.recorder import FinishWeld
from recordings.verify import verify
from recordings.weld_folder import WeldError
from tests.recordings.handmade import Run, World, cell
from tests.recordings.test_recorder import score, verdict


@pytest.fixture
def weld(tmp_path):
    run = Run(cell(), tmp_path).feed(World(seconds=5.0, arcs=((1.0, 2.0),)).packets())
    (key,) = run.core.welds
    run.core.handle(FinishWeld(key=key))
    return run.core.welds[key].folder


def entry(label: int) -> LabelEntry:
    return LabelEntry(label=label, by="anna", utc="2026-01-01T00:00:00Z")


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


def test_a_changed_table_is_still_noticed(weld):
    """The new digest is that of the new table: whoever changes it afterwards is found out."""
    add_scores(weld, [score("k")])
    path = weld / "scores.parquet"
    path.write_bytes(path.read_bytes() + b"x")
    assert not verify(weld, deep=False)[0].ok


def test_a_weld_that_is_gone_is_said_so(weld):
    shutil.rmtree(weld)
    with pytest.raises(WeldError, match=r"weld\.json"):
        add_scores(weld, [score("k")])
    with pytest.raises(WeldError, match=r"weld\.json"):
        add_label(weld, entry(1))
