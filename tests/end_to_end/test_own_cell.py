"""`docs/own_cell.md` stays true: its cell files load, and every setting stands there with its default."""

import dataclasses
import tomllib
from typing import Any, Final

import pytest

from acquisition.camera import CameraConfig
from acquisition.microphone import MicrophoneConfig
from acquisition.photo_camera import PhotoCameraConfig
from acquisition.photo_folder import PhotoFolderConfig
from acquisition.serial_sensors import SerialConfig
from recordings.cell import JudgeSettings, NetworkSettings, RecordSettings, load_cell
from sync.arc import ArcConfig
from tests.acquisition.counterparts import ROOT

DOCUMENT: Final = ROOT / "docs" / "own_cell.md"
SETTINGS: Final[dict[str, type[Any]]] = {
    "`[record]`": RecordSettings,
    "`[trigger]`": ArcConfig,
    "`[judge]`": JudgeSettings,
    "`camera`": CameraConfig,
    "`microphone`": MicrophoneConfig,
    "`serial`": SerialConfig,
    "`photo-folder`": PhotoFolderConfig,
    "`photo-camera`": PhotoCameraConfig,
    "`[network]`": NetworkSettings,
}


def blocks() -> list[str]:
    """The TOML blocks of the document: a whole cell file, then parts of one."""
    return [part.split("```")[0] for part in DOCUMENT.read_text(encoding="utf-8").split("```toml\n")[1:]]


@pytest.mark.parametrize("number", range(2))
def test_the_cell_files_of_the_document_are_valid(tmp_path, number):
    assert len(blocks()) == 2
    text = blocks()[number]
    (tmp_path / "cell.toml").write_text(text if text.startswith("name") else f'name = "part"\n{text}')
    cell = load_cell(tmp_path / "cell.toml")
    drivers = ["camera", "microphone", "serial", "photo-folder"]
    assert [stream.driver for stream in cell.streams] == (drivers if number == 0 else ["camera"])


@pytest.mark.parametrize("title", SETTINGS)
def test_the_document_explains_every_setting_with_its_default(title):
    section = DOCUMENT.read_text(encoding="utf-8").split(f"# {title}\n")[1].split("\n#")[0]
    rows = [[cell.strip() for cell in line.split("|")[1:4]] for line in section.splitlines() if line.startswith("| `")]
    explained = {name.strip("`"): default for name, default, _ in rows}
    assert list(explained) == [item.name for item in dataclasses.fields(SETTINGS[title])]
    for item in dataclasses.fields(SETTINGS[title]):
        shown: Any = explained[item.name]
        if item.default_factory is not dataclasses.MISSING:
            expected: Any = item.default_factory()
        else:
            expected = {dataclasses.MISSING: "needed", None: "unset"}.get(item.default, item.default)
        if shown not in ("needed", "unset"):
            shown = tomllib.loads(f"x = {shown.strip('`')}")["x"]
        assert (tuple(shown) if isinstance(expected, tuple) else shown) == expected, item.name
