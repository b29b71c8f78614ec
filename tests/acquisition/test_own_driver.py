"""The third-party driver of docs/own_driver.md, as it stands there: named in a cell file, recorded with, pulled."""

import re
import socket
import struct
import sys
import threading
import time
from pathlib import Path

import pytest

from acquisition.device_check import check_devices
from acquisition.driver import DeviceError
from acquisition.packet import Event, SensorRows
from acquisition.transport import ControlClient
from recordings.capture import Capture, CaptureOptions
from recordings.cell import build_drivers, load_cell
from recordings.reader import WeldReader
from recordings.runtime import Runtime
from tests.acquisition.counterparts import ROOT, wait_until

RATE_HZ = 100.0
CELL = """
name = "own"

[record]
pre_s = 0.2
post_s = 0.2

[judge]
required_process = ["sensors"]
required_final = ["sensors"]
photos_expected = 0

"""


class Box:
    """The box of the page: sends rows by UDP, an arc in them when told to; leaves out every 50th row."""

    def __init__(self) -> None:
        with socket.socket(type=socket.SOCK_DGRAM) as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.arc = False
        self.arc_rows = 0
        self.mute = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._send, name="udp-box")
        self._thread.start()

    def _send(self) -> None:
        begin_ns = time.monotonic_ns()
        with socket.socket(type=socket.SOCK_DGRAM) as sender:
            number = 0
            while not self._stop.wait(max(0.0, (begin_ns + number * 1e9 / RATE_HZ - time.monotonic_ns()) / 1e9)):
                number += 1
                values = (150.0, 21.0) if self.arc else (0.0, 0.0)
                row = struct.pack("<IQ2f", number, round(number * 1e6 / RATE_HZ), *values)
                self.arc_rows += self.arc
                if not self.mute and number % 50:
                    sender.sendto(row, ("127.0.0.1", self.port))

    def close(self) -> None:
        self._stop.set()
        self._thread.join()


@pytest.fixture
def box():
    box = Box()
    yield box
    box.close()


@pytest.fixture
def cell(box, tmp_path, monkeypatch):
    """The page's driver in a module of its own, and a cell file with the page's lines."""
    page = (ROOT / "docs" / "own_driver.md").read_text(encoding="utf-8")
    blocks = dict(re.findall(r"^```(python|toml)\n(.*?)^```$", page, re.MULTILINE | re.DOTALL))
    (tmp_path / "udp_sensors.py").write_text(blocks["python"], encoding="utf-8")
    lines = blocks["toml"].replace("port = 5005", f"port = {box.port}")
    assert f"port = {box.port}" in lines
    (tmp_path / "cell.toml").write_text(CELL + lines, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    yield load_cell(tmp_path / "cell.toml")
    sys.modules.pop("udp_sensors", None)


def test_it_fits_on_a_page():
    page = (ROOT / "docs" / "own_driver.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    assert len([line for line in code.splitlines() if line.strip()]) <= 40


def test_a_weld_is_recorded_with_it(box, cell, tmp_path, runtime_dir):
    capture = Capture(cell, Runtime(runtime_dir), tmp_path / "welds", CaptureOptions(for_s=60, welds=1, judged=False))
    thread = threading.Thread(target=capture.run, name="capture")
    thread.start()
    try:
        client = ControlClient(capture.runtime.control)
        wait_until(lambda: client.request("status", timeout_s=5.0).ok, "capture runs", 20.0)
        client.close()
        box.arc = True
        wait_until(lambda: bool(list(_welds(tmp_path))) or not thread.is_alive(), "the weld is open", 20.0)
        wait_until(lambda: box.arc_rows > 150, "the arc burned for a while")
        box.arc = False
        thread.join(30.0)
        assert not thread.is_alive()
    finally:
        capture.stop.set()
        thread.join(20.0)
    (folder,) = _welds(tmp_path)
    reader = WeldReader(folder)
    assert reader.manifest.state == "finalised"
    rows = reader.sensors("sensors")
    assert rows["current_a"].max() == 150.0
    assert (rows["current_a"] == 150.0).sum() > 100
    events = [packet.payload for packet in reader.packets() if isinstance(packet.payload, Event)]
    gaps = [event for event in events if event.kind == "gap"]
    assert gaps
    assert all((gap.data["missing"], gap.data["reason"], gap.data["first"] % 50) == (1, "device", 0) for gap in gaps)


def _welds(root: Path) -> list[Path]:
    return [path.parent for path in root.glob("welds/*/*/*/weld.json")]


def test_it_returns_as_a_new_segment_after_silence(box, cell):
    driver = build_drivers(cell)[0]["sensors"]
    driver.open()
    first = driver.read(5.0)
    assert first is not None
    assert isinstance(first.payload, SensorRows)
    box.mute = True
    wait_until(lambda: driver.health().state == "lost", "the silence is seen", 3.0)
    assert "nothing for 1 s" in str(driver.health().problem)
    box.mute = False
    wait_until(lambda: (packet := driver.read(1.0)) is not None and packet.segment > 0, "it returns", 5.0)
    driver.close()


def test_its_check_names_rate_and_losses(box, cell):
    ((checked,),) = check_devices([[build_drivers(cell)[0]["sensors"]]], seconds=2.0)
    assert checked.problem is None
    assert checked.rate_hz == pytest.approx(RATE_HZ, rel=0.02)
    assert 3 <= checked.drops <= 5


def test_a_taken_port_is_one_clear_line(box, cell):
    with socket.socket(type=socket.SOCK_DGRAM) as other:
        other.bind(("", box.port))
        with pytest.raises(DeviceError, match=r"udp sensors: port \d+: .*; choose another port"):
            build_drivers(cell)[0]["sensors"].open()
