"""The commands about many welds, and the page that tells of them."""

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from typer.testing import CliRunner, Result

from recordings.bench_catalogue import write_small_welds
from recordings.catalogue_commands import commands
from recordings.catalogue_row import COLUMNS
from recordings.weld_folder import MANIFEST, find_welds, load_manifest

CHECKOUT = Path(__file__).parents[2]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_small_welds(tmp_path / "root", 6)
    return tmp_path / "root"


def call(*words: object) -> Result:
    return CliRunner().invoke(commands, [str(word) for word in words])


def listed(root: Path, *words: object) -> list[str]:
    result = call("welds", root, *words, "--json")
    assert result.exit_code == 0, result.output
    return [weld["key"] for weld in json.loads(result.stdout)["welds"]]


def test_welds_are_chosen_and_sorted(root: Path) -> None:
    keys = [folder.name for folder in find_welds(root)]
    assert listed(root) == keys
    assert listed(root, "--unlabelled") == [keys[0], keys[3]]
    assert listed(root, "--label", "burnthrough", "--label", "5") == [keys[2], keys[5]]
    assert listed(root, "--since", "2025-01-06T06:20", "--until", "2025-01-06T07:00") == keys[1:3]
    assert listed(root, "--since", "2025-01-06T07:20+01:00", "--until", "2025-01-06T07:00Z") == keys[1:3]
    assert listed(root, "--sort", "-started_utc") == keys[::-1]
    assert listed(root, "--verdict", "NO-GO") == listed(root, "--part", "x") == listed(root, "--lossy") == []
    assert listed(root, "--verdict", "GO", "--part", "bracket", "--session", "s0", "--cell", "bench") == keys
    (find_welds(root)[1] / MANIFEST).write_text("{")
    assert listed(root, "--unreadable") == [None]
    for wrong in (("--sort", "beauty"), ("--label", "12"), ("--label", "pretty"), ("--since", "noon")):
        result = call("welds", root, *wrong)
        assert result.exit_code == 2
        assert wrong[1] in result.output
    result = call("welds", root)
    assert result.exit_code == 0
    assert "6 welds, 1 with problems" in result.stdout
    assert result.stdout.count("restore the file from a copy") == 1


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_a_listing_is_written_for_others(root: Path, tmp_path: Path, ending: str) -> None:
    out = tmp_path / f"welds.{ending}"
    assert call("welds", root, "--label", "burnthrough", "--out", out).exit_code == 0
    frame = pl.read_csv(out) if ending == "csv" else pl.read_parquet(out)
    assert (frame["key"].to_list(), frame.columns) == ([find_welds(root)[2].name], list(COLUMNS))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["root", f"welds.{ending}"]
    assert call("welds", root, "--out", tmp_path / "welds.xls").exit_code == 2
    assert call("welds", root, "--out", tmp_path / "absent" / "welds.csv").exit_code == 1


def test_welds_are_labelled_and_described_one_bad_one_not_stopping_the_rest(root: Path) -> None:
    first, second, third, *_ = find_welds(root)
    (second / MANIFEST).write_text("{")
    result = call("label", first, second, root / third.name, "--label", "spatter", "--by", "anna", "--json")
    assert result.exit_code == 3
    told = json.loads(result.stdout)
    assert told["changed"] == [str(first), str(third)]
    assert [failed["path"] for failed in told["failed"]] == [str(second)]
    assert [load_manifest(folder).labels[-1].by for folder in (first, third)] == ["anna", "anna"]
    words = ("part=007", "thickness_mm=4.5", "notes=a = b", "material=")
    assert call("describe", root / first.name, *words, "--by", "ben").exit_code == 0
    described = load_manifest(first).described
    assert {name: described.get(name) for name in ("part", "thickness_mm", "notes", "material")} == {
        "part": "007",
        "thickness_mm": 4.5,
        "notes": "a = b",
        "material": None,
    }
    assert {edit.by for edit in load_manifest(first).edits} == {"ben"}
    assert call("label", root / "nothing", "--label", "3", "--by", "anna").exit_code == 1
    assert call("label", second, "--label", "3", "--by", "anna").exit_code == 1
    assert call("describe", first, "--by", "anna").exit_code == 2
    assert call("label", first, "--label", "3").exit_code == 2


def _examples() -> Iterator[list[str]]:
    text = (CHECKOUT / "docs" / "catalogue.md").read_text(encoding="utf-8")
    for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL):
        for line in block.splitlines():
            yield shlex.split(line, comments=True)


@pytest.mark.parametrize("words", list(_examples()), ids=" ".join)
def test_the_examples_of_the_page_run(root: Path, monkeypatch: pytest.MonkeyPatch, words: list[str]) -> None:
    key = find_welds(root)[0].name
    monkeypatch.chdir(root.parent)
    assert words[0] == "app.py"
    result = call(*(word.replace("~/welds", str(root)).replace("KEY", key) for word in words[1:]))
    assert result.exit_code == 0, result.output
    assert result.stdout


def test_the_page_names_every_column_and_its_code_runs(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (CHECKOUT / "docs" / "catalogue.md").read_text(encoding="utf-8")
    table = "".join(line.partition("|")[2].partition("|")[0] for line in text.splitlines() if line.startswith("| `"))
    named = set(re.findall(r"`(\w+)`", table)) | {"audio_sync_ms", "audio_sync_sigma_ms"}
    assert named == set(COLUMNS)
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    monkeypatch.setenv("HOME", str(root.parent))
    root.rename(root.with_name("welds"))
    scope: dict[str, Any] = {}
    exec(code, scope)
    assert len(scope["welds"]) == 6
