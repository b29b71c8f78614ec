"""The command `import`: arguments checked, one result on stdout, exit codes as everywhere."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from recordings.bench_import import bench_import, lines
from recordings.import_command import commands
from tests.recordings.synthetic_weld4m import HEADER, make_sensors

ID = "03-22-23-0041-06"


def run(*arguments: object) -> Result:
    return CliRunner().invoke(commands, [str(argument) for argument in arguments])


@pytest.fixture
def source(tmp_path) -> Path:
    make_sensors(tmp_path / "source" / "run" / ID / f"{ID}.csv")
    folder: Path = tmp_path / "source"
    return folder


def test_a_clean_import_ends_with_0_and_a_second_one_finds_it_done(tmp_path, source):
    first = run(source, tmp_path / "welds", "--workers", 0, "--json")
    assert first.exit_code == 0
    report = json.loads(first.stdout)
    assert report["imported"] == [f"run/{ID}"]
    assert report["absent"] == {f"run/{ID}": ["video", "audio", "post_images"]}
    second = run(source, tmp_path / "welds", "--workers", 0)
    assert second.exit_code == 0
    assert second.stdout.startswith("0 imported, 1 were there already, 0 skipped, 0 warnings\n")


def test_losses_end_with_3_and_every_name_is_one_line(tmp_path, source):
    (source / "run" / "two\nlines.csv").write_text(HEADER + "\n3.4,0,0,0,7,0\n")
    result = run(source, tmp_path / "welds", "--dry-run")
    assert result.exit_code == 3
    assert not (tmp_path / "welds").exists()
    assert "skipped 'run/two\\nlines': the name 'two\\nlines' holds" in result.stdout
    assert "1 welds have no video" in result.stdout
    assert "add --check" in result.stdout


@pytest.mark.parametrize(
    "wrong", [["--check"], ["--mask-label", "0,0,2"], ["--mask-label", "1,1,1,1"], ["--workers", "-1"]]
)
def test_wrong_use_ends_with_2(tmp_path, source, wrong):
    assert run(source, tmp_path / "welds", *wrong).exit_code == 2
    assert not (tmp_path / "welds").exists()


def test_the_bench_counts_what_it_wrote():
    result = bench_import(300)
    assert result["as_expected"], result
    assert result["told"]["repeated_ids"] == 20
    assert result["told"]["warnings"] == 6
    assert "report as expected: True" in next(lines(result))
