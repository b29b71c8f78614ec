"""Writing latencies into a cell file: what changes, what stays, and what is refused."""

from pathlib import Path

import pytest

from recordings.cell import CellError, load_cell
from recordings.cell_edit import write_latencies

TEXT = """\
# My cell.
name = "north"

[simulation]
seed = 1  # any number

[[stream]]
driver = "simulated"
name = "camera"   # the one on the torch
modality = "video"

[[ stream ]]  # second
name = 'microphone'
latency_ms = 3.5  # as measured in May
modality = "audio"
driver = "simulated"

[[stream]]
name = "sensors"
modality = "sensors"
driver = "simulated"
"""


@pytest.fixture
def cell(tmp_path: Path) -> Path:
    path = tmp_path / "cell.toml"
    path.write_bytes(TEXT.encode())
    return path


def test_only_the_latencies_change(cell: Path) -> None:
    assert write_latencies(cell, {"camera": 12.34567, "microphone": -1.0})
    expected = TEXT.replace("the torch\n", "the torch\nlatency_ms = 12.346\n").replace("= 3.5  #", "= -1.0  #")
    assert cell.read_text() == expected
    loaded = load_cell(cell)
    assert (loaded.latency_ns("camera"), loaded.latency_ns("microphone")) == (12_346_000, -1_000_000)
    assert sorted(path.name for path in cell.parent.iterdir()) == ["cell.toml"]


def test_writing_the_same_again_changes_nothing(cell: Path) -> None:
    assert not write_latencies(cell, {"microphone": 3.5})
    assert cell.read_text() == TEXT
    assert write_latencies(cell, {"camera": 1.0})
    before = cell.stat().st_mtime_ns
    assert not write_latencies(cell, {"camera": 1.0})
    assert cell.stat().st_mtime_ns == before


def test_windows_line_ends_stay(cell: Path) -> None:
    cell.write_bytes(TEXT.replace("\n", "\r\n").encode())
    write_latencies(cell, {"camera": 2.0, "microphone": 4.0})
    data = cell.read_bytes()
    assert data.count(b"\n") == data.count(b"\r\n") == TEXT.count("\n") + 1
    assert b"latency_ms = 4.0  # as measured in May\r\n" in data


@pytest.mark.parametrize(
    ("text", "latencies", "message"),
    [
        (TEXT, {"pyrometer": 1.0}, "has no stream 'pyrometer', only camera, microphone, sensors"),
        (TEXT, {"camera": 20_000.0}, "20000 ms for 'camera' is no latency"),
        (TEXT, {"camera": float("nan")}, "is no latency"),
        ('name = "x"\nstream = [{name = "camera"}]\n', {"camera": 1.0}, "write latency_ms yourself: 'camera' 1.000"),
        ("name = [", {"camera": 1.0}, "cannot be edited"),
    ],
)
def test_what_cannot_be_edited_is_said_and_left_alone(
    cell: Path, text: str, latencies: dict[str, float], message: str
) -> None:
    cell.write_text(text)
    with pytest.raises(CellError, match=message):
        write_latencies(cell, latencies)
    assert cell.read_text() == text


def test_a_missing_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(CellError, match=r"none\.toml: cannot be edited .*name a cell file"):
        write_latencies(tmp_path / "none.toml", {"camera": 1.0})
