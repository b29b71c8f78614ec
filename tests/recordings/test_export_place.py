"""Where exports go: only below the destination, never over anything, on from where a killed run stopped."""

import json
import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recordings.export_place import LEDGER, Destination, safe_name, safe_path
from recordings.export_report import ExportError
from recordings.exporter import FORMATS, export_welds
from recordings.late_additions import add_label
from recordings.manifest import LabelEntry
from recordings.weld_folder import load_manifest, store_manifest
from tests.recordings.exported_welds import make_weld
from tests.recordings.synthetic_weld import KEY


@pytest.fixture(scope="module")
def welds(tmp_path_factory) -> Path:
    root: Path = tmp_path_factory.mktemp("welds")
    make_weld(root / "a", key="a-1")
    make_weld(root / "b", key="b-1", seed=2)
    return root


@pytest.fixture
def root(welds, tmp_path) -> Path:
    copy: Path = tmp_path / "root"
    shutil.copytree(welds, copy)
    return copy


def rename(weld: Path, key: str) -> None:
    manifest = load_manifest(weld)
    manifest.key = manifest.session = key
    store_manifest(weld, manifest)


def everything(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


@settings(deadline=None)
@given(st.text(max_size=150))
def test_any_text_becomes_a_harmless_name(text):
    name = safe_name(text)
    assert name == safe_name(text)
    assert 0 < len(name) <= 100
    assert name.isascii()
    assert name.isprintable()
    assert not set(name) & set('/\\:*?"<>|')
    assert name == name.strip(". ")
    assert safe_path(f"{text}/{text}").count("/") >= 1


@settings(deadline=None)
@given(st.lists(st.text(max_size=12), unique=True, max_size=20))
def test_different_texts_become_different_names(texts):
    assert len({safe_name(text) for text in texts}) == len(texts)


@pytest.mark.parametrize("format", FORMATS)
def test_hostile_keys_stay_inside(root, tmp_path, format):
    rename(root / "a", "... con/COM1. \N{SNOWMAN}*?")
    out = tmp_path / "deep" / "out"
    before = everything(tmp_path)
    report = export_welds([root], out, format)
    assert len(report.exported) == 2
    assert all(name.startswith("deep/out/") for name in everything(tmp_path) - before)
    assert not list(out.glob(".exporting*"))


def test_one_bad_weld_does_not_stop_the_rest(root, tmp_path):
    video = root / "a" / "camera.mp4"
    data = bytearray(video.read_bytes())
    data[len(data) // 2] ^= 1
    video.write_bytes(data)
    (root / "c").mkdir()
    (root / "c" / "weld.json").write_text("{")
    report = export_welds([root, tmp_path / "nowhere"], tmp_path / "out", "mcap")
    assert report.exported == ["b-1"]
    reasons = {entry["key"]: entry["reason"] for entry in report.skipped}
    assert "camera.mp4: is not what weld.json says" in reasons["a-1"]
    assert "weld.json" in reasons["c"]
    assert "holds no weld" in reasons[str(tmp_path / "nowhere")]
    assert report.lossy
    assert everything(tmp_path / "out") == {"b-1.mcap", LEDGER}


@pytest.mark.parametrize("format", FORMATS)
def test_a_weld_that_fails_half_way_leaves_no_trace(root, tmp_path, format):
    """Digests that agree with damaged contents: somebody made this weld so."""
    manifest = load_manifest(root / "a")
    video = root / "a" / "camera.mp4"
    video.write_bytes(video.read_bytes()[: video.stat().st_size // 2])
    manifest.files = {name: digest for name, digest in manifest.files.items() if name != "camera.mp4"}
    store_manifest(root / "a", manifest)
    report = export_welds([root], tmp_path / "out", format)
    assert report.exported == ["b-1"]
    assert [entry["key"] for entry in report.skipped] == ["a-1"]
    alone = export_welds([root / "b"], tmp_path / "alone", format)
    assert alone.exported == ["b-1"]
    assert everything(tmp_path / "out") == everything(tmp_path / "alone")


@pytest.mark.parametrize("format", FORMATS)
def test_a_second_run_does_nothing_and_overwrites_nothing(root, tmp_path, format):
    out = tmp_path / "out"
    export_welds([root], out, format)
    before = {path: (out / path).stat().st_mtime_ns for path in everything(out) if not path.endswith("manifest.csv")}
    report = export_welds([root], out, format)
    assert (report.exported, sorted(report.present), report.lossy) == ([], ["a-1", "b-1"], False)
    assert {path: (out / path).stat().st_mtime_ns for path in before} == before


def test_a_killed_run_is_taken_up_where_it_stopped(root, tmp_path):
    out = tmp_path / "out"
    export_welds([root / "a"], out, "bundle")
    whole = (out / LEDGER).read_bytes()
    (out / "a-1.parquet").unlink()  # killed between the two files
    (out / ".exporting-x").mkdir()
    (out / ".exporting-x" / "b-1.mp4").write_bytes(b"half")
    (out / LEDGER).write_bytes(whole + b'{"format":"bun')
    report = export_welds([root], out, "bundle")
    assert (report.exported, report.skipped) == (["a-1", "b-1"], [])
    assert everything(out) == {"a-1.mp4", "a-1.parquet", "b-1.mp4", "b-1.parquet", LEDGER}
    assert [json.loads(line)["key"] for line in (out / LEDGER).read_text().splitlines()] == ["a-1", "a-1", "b-1"]


def test_what_is_not_of_this_export_is_left_alone(root, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "a-1.mcap").write_text("mine")
    report = export_welds([root], out, "mcap")
    assert report.exported == ["b-1"]
    assert "is not of this weld" in report.skipped[0]["reason"]
    assert (out / "a-1.mcap").read_text() == "mine"
    add_label(root / "b", LabelEntry(label=1, by="test", utc="2026-01-02T03:05:00.000+00:00"))
    report = export_welds([root / "b"], out, "mcap")
    assert "with other contents" in report.skipped[0]["reason"]
    with pytest.raises(ExportError, match="export to mcap; export to bundle into another folder"):
        export_welds([root], out, "bundle")


def test_links_that_lead_out_are_not_followed(root, tmp_path):
    rename(root / "a", "run/01")
    (tmp_path / "elsewhere").mkdir()
    out = tmp_path / "out"
    out.mkdir()
    (out / "run").symlink_to(tmp_path / "elsewhere")
    report = export_welds([root], out, "mcap")
    assert report.exported == ["b-1"]
    assert "leads out of" in report.skipped[0]["reason"]
    assert not list((tmp_path / "elsewhere").iterdir())


def test_an_open_weld_and_a_destination_inside_a_weld_are_refused(root, tmp_path):
    manifest = load_manifest(root / "a")
    manifest.state = "open"
    store_manifest(root / "a", manifest)
    report = export_welds([root / "a"], tmp_path / "out", "bundle")
    assert "is open; recover it first" in report.skipped[0]["reason"]
    with pytest.raises(ExportError, match="lies in the weld"):
        export_welds([root / "b"], root / "b" / "out", "mcap")
    with pytest.raises(ExportError, match="format 'zip' is unknown"):
        export_welds([root / "b"], tmp_path / "out", "zip")


def test_a_destination_that_cannot_be_made_is_one_line(root, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ExportError, match="name another destination"):
        Destination(tmp_path / "file" / "out", "mcap")


def test_the_default_weld_has_its_own_name(tmp_path):
    make_weld(tmp_path / "w")
    assert export_welds([tmp_path / "w"], tmp_path / "out", "mcap").exported == [KEY]
    assert (tmp_path / "out" / f"{KEY}.mcap").is_file()
