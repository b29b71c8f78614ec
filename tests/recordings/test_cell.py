import sys
from pathlib import Path

import pytest

from acquisition.camera import Camera, CameraConfig
from acquisition.serial_sensors import SerialConfig, SerialSensors
from recordings.cell import SIMULATED_CELL, CellError, build_drivers, load_cell

GOOD = """\
name = "bench-1"

[record]
video = "lossless"
pre_s = 1

[judge]
alpha = 0.1

[simulation]
seed = 4

[[stream]]
name = "camera"
modality = "video"
driver = "simulated"

[[stream]]
name = "plc"
modality = "sensors"
driver = "simulated"
"""

DRIVER = """
from dataclasses import dataclass

from acquisition.driver import Driver


@dataclass(frozen=True, kw_only=True)
class PlcConfig:
    host: str
    port: int = 102


class Plc(Driver):
    def __init__(self, name: str, config: PlcConfig) -> None:
        self.name, self.config = name, config

    def open(self, wakeup=None): ...
    def read(self, timeout_s): ...
    def newest(self, timeout_s): ...
    def peek(self, max_age_s): ...
    def health(self): ...
    def close(self): ...


class Untyped(Plc):
    def __init__(self, name, config):
        super().__init__(name, config)


class NoDriver:
    pass
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "cell.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_the_shipped_cell_loads():
    cell = load_cell(None)
    assert cell.path == SIMULATED_CELL
    assert [s.modality for s in cell.streams] == ["video", "audio", "sensors", "post_images"]
    assert cell.simulation is not None
    drivers, world = build_drivers(cell)
    assert world is not None
    assert list(drivers) == ["camera", "microphone", "sensors", "photos"]


def test_a_good_cell_keeps_every_setting(tmp_path):
    cell = load_cell(write(tmp_path, GOOD + '\n[metadata]\npart = "A"\n'))
    assert (cell.name, cell.record.video, cell.record.pre_s, cell.record.post_s) == ("bench-1", "lossless", 1.0, 2.0)
    assert (cell.judge.alpha, cell.metadata) == (0.1, {"part": "A"})
    assert cell.simulation is not None
    assert cell.simulation.seed == 4


WRONG = {
    "unknown table": ("[record]", "[recrod]", 3, "unknown entry 'recrod'; did you mean 'record'"),
    "unknown entry": ('name = "bench-1"', 'name = "b"\nzzz = 1', 2, "unknown entry 'zzz'; known are judge, metadata"),
    "unknown key": ("pre_s = 1", "pre_sec = 1", 5, "unknown setting 'pre_sec' in [record]; did you mean 'pre_s'"),
    "unknown key, far": ("pre_s = 1", "qqqq = 1", 5, "unknown setting 'qqqq' in [record]; known are: delete_below_gb"),
    "wrong type": ("pre_s = 1", 'pre_s = "two"', 5, "'pre_s' is 'two': Expected `float`, got `str`"),
    "wrong choice": ('"lossless"', '"mpeg2"', 4, "'video' is 'mpeg2'"),
    "negative": ("pre_s = 1", "pre_s = -1", 5, "pre_s is -1.0; give a number of at least 0"),
    "infinite": ("pre_s = 1", "longest_s = inf", 5, "longest_s is inf"),
    "alpha": ("alpha = 0.1", "alpha = 1.5", 8, "alpha is 1.5; it must lie between 0 and 1"),
    "simulation": ("seed = 4", "drop_rate = 2.0", 11, "drop_rate 2.0: give a share"),
    "no table": ("[judge]\nalpha = 0.1", "", 1, "not a table; write a line [judge]"),
    "inline": ("[judge]\nalpha = 0.1", "", 2, "unknown setting 'alfa' in [judge]; did you mean 'alpha'"),
    "no cell name": ('name = "bench-1"', "", 1, "a cell needs a name"),
    "stream without name": ('name = "plc"', "", 18, "every [[stream]] needs a text 'name'"),
    "stream without driver": ('name = "plc"', 'name = "plc"\ndriver = 3', 20, "needs a text 'driver'"),
    "duplicate": ('name = "plc"', 'name = "camera"', 19, "two streams are called 'camera'; rename one"),
    "reserved": ('name = "plc"', 'name = "events"', 19, "'events' cannot name a stream; use up to 32"),
    "bad name": ('name = "plc"', 'name = "../x"', 19, "'../x' cannot name a stream"),
    "modality": ('"sensors"', '"sensor"', 20, "unknown modality 'sensor'; use video, audio, sensors, post_images"),
    "unknown driver": ('"sensors"\ndriver = "simulated"', '"sensors"\ndriver = "serail"', 21, "did you mean 'serial'"),
    "strange driver": ('"sensors"\ndriver = "simulated"', '"sensors"\ndriver = "%%"', 21, "known are camera, micr"),
    "no simulation": ("[simulation]\nseed = 4", "\n", 16, "a simulated stream needs a [simulation] table"),
    "setting of a simulated stream": ('name = "plc"', 'name = "plc"\nport = "x"', 20, "are set in [simulation]"),
    "not TOML": ("pre_s = 1", "pre_s = = 1", 5, "not valid TOML"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_setting_names_its_line_and_the_fix(tmp_path, case):
    old, new, line, message = WRONG[case]
    assert GOOD.count(old) == 1
    text = GOOD.replace(old, new)
    if case == "no table":
        text = "judge = 3\n" + text
    elif case == "inline":
        text = text.replace('"bench-1"\n', '"bench-1"\njudge = {alfa = 0.1}\n')
    elif case == "stream without driver":
        text = text.replace('modality = "sensors"\ndriver = "simulated"', 'modality = "sensors"')
    path = write(tmp_path, text)
    with pytest.raises(CellError) as raised:
        load_cell(path)
    shown = str(raised.value)
    where = f"(at line {line}," if case == "not TOML" else f"{path}:{line}: "
    assert where in shown, shown
    assert message in shown
    assert "\n" not in shown


def test_files_that_are_no_text_or_not_there(tmp_path):
    with pytest.raises(CellError, match=r"absent\.toml: no such cell file; write one"):
        load_cell(tmp_path / "absent.toml")
    with pytest.raises(CellError, match="Is a directory"):
        load_cell(tmp_path)
    path = tmp_path / "latin.toml"
    path.write_bytes('name = "a"\n# für\n'.encode("latin-1"))
    with pytest.raises(CellError, match=r"latin\.toml:2: not UTF-8 text"):
        load_cell(path)
    with pytest.raises(CellError, match=r"a \[\[stream\]\] table for every device"):
        load_cell(write(tmp_path, 'name = "a"\n'))
    with pytest.raises(CellError, match=r":2: a cell needs a \[\[stream\]\] table"):
        load_cell(write(tmp_path, 'name = "a"\nstream = [1]\n'))


def test_drivers_get_their_checked_settings(tmp_path):
    text = """name = "real"
[[stream]]
name = "eye"
modality = "video"
driver = "camera"
url = "tcp://127.0.0.1:9"
[[stream]]
name = "plc"
modality = "sensors"
driver = "serial"
port = "/dev/ttyUSB0"
columns = ["current_a", "voltage_v"]
"""
    cell = load_cell(write(tmp_path, text))
    drivers, world = build_drivers(cell)
    assert world is None
    eye, plc = drivers["eye"], drivers["plc"]
    assert isinstance(eye, Camera)
    assert isinstance(plc, SerialSensors)
    assert isinstance(eye.config, CameraConfig)
    assert isinstance(cell.streams[1].config, SerialConfig)
    assert (eye.name, eye.config.url, plc.config.port) == ("eye", "tcp://127.0.0.1:9", "/dev/ttyUSB0")
    with pytest.raises(CellError, match=r":6: unknown setting 'ulr' in \[stream\]; did you mean 'url'"):
        load_cell(write(tmp_path, text.replace("url =", "ulr =")))
    with pytest.raises(CellError, match=r":2: \[stream\] lacks 'url'; add a line 'url = "):
        load_cell(write(tmp_path, text.replace('url = "tcp://127.0.0.1:9"\n', "")))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("triggers = []", 'triggers is empty; name current, light or sound, or "manual" for welds by hand only'),
        ('triggers = ["arc"]', "'triggers' is ['arc']: Invalid enum value 'arc'"),
        ('external = "plc"', "external is 'plc'; write STREAM.CHANNEL"),
        ('external = "robot.arc"', "there is no sensor stream 'robot'; known are: plc"),
        ('external = "camera.arc"', "there is no sensor stream 'camera'; known are: plc"),
        ("shortest_s = -1", "shortest_s is -1.0; give a number of at least 0"),
        ("ring_mb = 0.5", "ring_mb is 0.5; give a number of at least 1"),
    ],
)
def test_a_wrong_trigger_stops_with_its_line(tmp_path, setting, message):
    path = write(tmp_path, GOOD.replace("pre_s = 1", setting))
    with pytest.raises(CellError) as raised:
        load_cell(path)
    assert str(raised.value).startswith(f"{path}:5: ")
    assert message in str(raised.value)


@pytest.mark.parametrize(
    ("settings", "triggers", "external"),
    [
        ('triggers = ["manual"]', ("manual",), ""),
        ('triggers = []\nexternal = "plc.arc.on"', (), "plc.arc.on"),
        ('triggers = ["sound", "current"]', ("sound", "current"), ""),
    ],
)
def test_triggers_of_a_cell(tmp_path, settings, triggers, external):
    record = load_cell(write(tmp_path, GOOD.replace("pre_s = 1", settings))).record
    assert (record.triggers, record.external) == (triggers, external)


@pytest.fixture
def third_party(tmp_path, monkeypatch):
    (tmp_path / "lab_plc.py").write_text(DRIVER)
    (tmp_path / "lab_broken.py").write_text("this is no python")
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in ("lab_plc", "lab_broken"):
        sys.modules.pop(name, None)


def other(driver: str, setting: str = "") -> str:
    return f'name = "x"\n[[stream]]\nname = "plc"\nmodality = "sensors"\ndriver = "{driver}"\n{setting}'


def test_a_driver_of_somebody_else(third_party):
    cell = load_cell(write(third_party, other("lab_plc:Plc", 'host = "10.0.0.2"')))
    drivers, _ = build_drivers(cell)
    assert type(drivers["plc"]).__name__ == "Plc"
    assert (cell.streams[0].config.host, cell.streams[0].config.port) == ("10.0.0.2", 102)


@pytest.mark.parametrize(
    ("driver", "setting", "line", "message"),
    [
        ("lab_plc:Plc", "host = 3", 6, "'host' is 3: Expected `str`"),
        ("lab_plc:Plc", "", 2, "lacks 'host'"),
        ("lab_plc:Absent", "", 5, "cannot be loaded"),
        ("lab_absent:Plc", "", 5, "cannot be loaded"),
        ("lab_broken:Plc", "", 5, "SyntaxError"),
        (":Plc", "", 5, "cannot be loaded"),
        (".relative:Plc", "", 5, "cannot be loaded"),
        ("lab_plc:NoDriver", "", 5, "is not an acquisition.driver.Driver"),
        ("lab_plc:Untyped", "", 5, "its settings dataclass"),
    ],
)
def test_a_wrong_driver_of_somebody_else(third_party, driver, setting, line, message):
    path = write(third_party, other(driver, setting))
    with pytest.raises(CellError) as raised:
        load_cell(path)
    assert str(raised.value).startswith(f"{path}:{line}: ")
    assert message in str(raised.value)
