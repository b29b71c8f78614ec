"""A tree with every irregularity of the real data set: counts and every warning as expected, dry and for good."""

import pytest

from recordings.importer import ImportReport, import_welds
from recordings.reader import WeldReader
from recordings.verify import verify
from recordings.weld_folder import digest
from tests.recordings.synthetic_weld4m import write_tree


def told(report: ImportReport) -> list[tuple[str, str]]:
    return [(one["key"], one["what"]) for one in report.warnings]


def test_a_tree_with_every_irregularity_gives_exactly_what_is_expected(tmp_path):
    expected = write_tree(tmp_path / "source", tmp_path / "outside")
    before = {path: digest(path) for path in (tmp_path / "outside").iterdir()}
    report = import_welds(tmp_path / "source", tmp_path / "welds")
    assert set(report.imported) == set(expected.imported)
    reasons = {one["key"]: one["reason"] for one in report.skipped}
    assert set(reasons) == set(expected.skipped)
    assert all(text in reasons[key] for key, text in expected.skipped.items()), reasons
    assert not any("\n" in text for text in (*reasons.values(), *(what for _, what in told(report))))
    for key, text in expected.warnings:
        assert any(of == key and text in what for of, what in told(report)), (key, text, told(report))
    assert len(report.warnings) == len(expected.warnings)
    assert {key: report.absent.get(key, []) for key in expected.absent} == expected.absent
    assert report.rows_without_weld == expected.rows_without_weld
    assert len(report.notes) == len(expected.notes)
    assert all(text in note for text, note in zip(expected.notes, report.notes, strict=True)), report.notes
    assert report.lossy
    for (key, stream), offset_ms in expected.offsets_ms.items():
        found = report.offsets[key][stream]
        assert found["offset_ms"] == pytest.approx(offset_ms, abs=60), (key, stream, found)
        assert found["confidence"] == ("high" if "good_weld" in key else "medium")
    readers = {weld.path.name: weld for weld in verify(tmp_path / "welds")}
    assert len(readers) == len(expected.imported) - 1, "one id is in two folders"
    assert all(weld.ok for weld in verify(tmp_path / "welds"))
    for path in (tmp_path / "welds").rglob("weld.json"):
        manifest = WeldReader(path.parent).manifest
        by = manifest.labels[0].by if manifest.labels else None
        assert (manifest.label, by) == expected.imported[manifest.key]
    assert {path: digest(path) for path in (tmp_path / "outside").iterdir()} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["outside", "source", "welds"]


def test_a_dry_run_tells_the_same_but_for_what_needs_decoding(tmp_path):
    expected = write_tree(tmp_path / "source", tmp_path / "outside")
    quick = import_welds(tmp_path / "source", tmp_path / "welds", dry_run=True)
    checked = import_welds(tmp_path / "source", tmp_path / "welds", dry_run=True, check=True)
    assert not (tmp_path / "welds").exists()
    for report in (quick, checked):
        assert set(report.imported) == set(expected.imported)
        assert {one["key"] for one in report.skipped} == set(expected.skipped)
        assert {key: report.absent.get(key, []) for key in expected.absent} == expected.absent
    unknown = {
        (key, text) for key, text in expected.warnings if not any(k == key and text in what for k, what in told(quick))
    }
    assert {text for _, text in unknown} == expected.needs_decoding
    assert any("its head promises; it is cut off" in what for _, what in told(quick))
    assert len(checked.warnings) == len(expected.warnings)
    assert "decodes nothing" in quick.notes[-1]
    assert checked.notes == quick.notes[:-1]
