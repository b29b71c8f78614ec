"""`devices`: what is found stands in lines that a cell file takes; a check says what was put in."""

import sys
import threading
import time
import tomllib
import uuid

import numpy as np
import pytest

from acquisition import discovery
from acquisition.device_check import DeviceCheck, check_devices
from acquisition.discovery import FoundDevice, check_streams, list_devices
from acquisition.driver import DeviceError, Driver, DriverHealth
from acquisition.packet import Packet, SampleBlock, SensorRows, StreamInfo, VideoFrame
from acquisition.serial_sensors import SerialConfig, SerialSensors
from recordings.cell import load_cell
from tests.acquisition.counterparts import Pty
from tests.hotplug.genicam_counterpart import FakeCamera
from tests.hotplug.server_counterpart import Server


@pytest.fixture
def camera():
    camera = FakeCamera()
    camera.start()
    yield camera
    camera.close()


@pytest.fixture
def sender():
    server = Server("tests.hotplug.lsl_counterpart", f"found-{uuid.uuid4()}", "rows", "100.0", "0")
    server.start()
    yield server
    server.kill()


def of_kind(listed, kind):
    return [device for device in listed if device["kind"] == kind]


def test_cameras_and_streams_on_the_network_are_lines_that_a_cell_file_takes(camera, sender, tmp_path):
    listed = list_devices()
    (found,) = of_kind(listed, "genicam")
    assert found["name"] == "Aravis Fake at 127.0.0.1"
    (stream,) = [one for one in of_kind(listed, "lsl") if sender.arguments[0] in "\n".join(one["lines"])]
    assert 'columns = ["pressure_bar", "co2_flow_l_min"]  # what each field is' in "\n".join(stream["lines"])
    lines = [line for device in listed for line in device["lines"]]
    (tmp_path / "cell.toml").write_text("\n".join(['name = "found"', *lines]), encoding="utf-8")
    cell = load_cell(tmp_path / "cell.toml")
    assert {"genicam", "lsl"} <= {one.driver for one in cell.streams}
    assert len({one.name for one in cell.streams}) == len(cell.streams)


def test_a_check_reports_what_a_camera_and_a_stream_deliver(camera, sender, monkeypatch):
    monkeypatch.setattr(discovery, "SEARCHES", {kind: discovery.SEARCHES[kind] for kind in ("genicam", "lsl")})
    begin_s = time.monotonic()
    listed = list_devices(check=True, seconds=2.0)
    assert time.monotonic() - begin_s < 2.0 + 6.0  # beside each other
    (found,) = of_kind(listed, "genicam")
    assert found["problem"] is None
    assert found["rate_hz"] == pytest.approx(25.0, rel=0.02)
    assert found["lines"][0].startswith("# opens; 512x512 uint8, 25.")
    assert 40 <= found["items"] <= 55
    assert found["drops"] <= 2
    assert 0 < found["jitter_ms"] < 40
    (stream,) = [one for one in of_kind(listed, "lsl") if sender.arguments[0] in "\n".join(one["lines"])]
    assert stream["rate_hz"] == pytest.approx(100.0, rel=0.05)
    assert stream["problem"] is None


def test_a_serial_port_that_says_nothing_is_a_problem_and_one_that_speaks_is_not():
    box, mute = Pty(), Pty()
    columns = ("seq", "device_ms", "current_a")
    stop = threading.Event()

    def send():
        begin_s = time.monotonic()
        for number in range(10_000):
            if stop.wait(max(0.0, begin_s + number / 100 - time.monotonic())):
                return
            if number % 25 != 24:
                box.write(f"{number},{number * 10},12.5\n".encode())

    thread = threading.Thread(target=send, name="box")
    thread.start()
    drivers: dict[str, Driver] = {
        name: SerialSensors(name, SerialConfig(port=port.path, rate_hz=100.0, columns=columns))
        for name, port in (("speaks", box), ("mute", mute))
    }
    begin_s = time.monotonic()
    speaks, silent = check_streams(drivers, seconds=2.0)
    assert time.monotonic() - begin_s < 4.0
    stop.set()
    thread.join()
    assert speaks["problem"] is None
    assert speaks["rate_hz"] == pytest.approx(100.0, rel=0.02)
    assert 5 <= speaks["drops"] <= 9
    assert speaks["lines"][0].startswith("speaks: opens; 1 x float64 (current_a), ")
    assert silent["problem"].startswith("opens, but sent nothing in 2 s")
    assert (silent["items"], silent["rate_hz"]) == (0, None)
    for port in (box, mute):
        port.unplug()
    (gone,) = check_streams({"gone": SerialSensors("gone", SerialConfig(port=box.path, columns=columns))}, seconds=1.0)
    assert "correct port" in gone["problem"]


def test_a_serial_port_is_listed_as_lines_that_open_it():
    found = FoundDevice(kind="serial", name="a\nbox", settings={"port": "/dev/x", "columns": ("current_a", "wire_mm")})
    assert found.lines[0] == "# a box"
    stream = tomllib.loads("\n".join(found.lines))["stream"][0]
    assert (stream["name"], stream["driver"], stream["columns"]) == ("sensors", "serial", ["current_a", "wire_mm"])
    driver = found.driver()
    assert isinstance(driver, SerialSensors)
    assert driver.config.columns == ("current_a", "wire_mm")


def test_searches_that_fail_or_lack_a_package_leave_the_others_alone(monkeypatch):
    def fails():
        raise RuntimeError("the driver of the driver is gone")

    def refuses():
        raise DeviceError("no sound server; start it")

    serial = FoundDevice(kind="serial", name="box", settings={"port": "/dev/x", "columns": ("current_a",)})
    searches = {
        **discovery.SEARCHES,
        "camera": fails,
        "microphone": refuses,
        "serial": lambda: [serial, serial],
        "lsl": list,
    }
    monkeypatch.setattr(discovery, "SEARCHES", searches)
    monkeypatch.setitem(sys.modules, "viva_genicam", None)
    listed = list_devices()
    assert "RuntimeError: the driver of the driver is gone" in of_kind(listed, "camera")[0]["problem"]
    assert of_kind(listed, "microphone")[0]["lines"] == ["# no sound server; start it"]
    (absent,) = of_kind(listed, "genicam")
    assert absent["problem"] is None
    assert "pip install viva-genicam" in absent["lines"][0]
    names = [tomllib.loads("\n".join(one["lines"]))["stream"][0]["name"] for one in of_kind(listed, "serial")]
    assert names == ["sensors", "sensors-2"]


def test_a_search_that_hangs_is_given_up(monkeypatch):
    held = threading.Event()

    def hangs():
        held.wait(30.0)
        return []

    monkeypatch.setattr(discovery, "SEARCHES", {"camera": hangs, "serial": list})
    monkeypatch.setattr(discovery, "SEARCH_S", 0.2)
    (given_up,) = list_devices()
    held.set()
    assert given_up["problem"] == "looking for camera devices took over 0.2 s; unplug what hangs and look again"


class Scripted(Driver):
    """A driver that delivers given packets, or hangs while it opens; what it delivers is known to the nanosecond."""

    def __init__(self, info, packets=(), held=None):
        self.info = info
        self._packets, self._held = list(packets), held
        self._rest = threading.Event()

    def open(self, wakeup=None):
        if self._held is not None:
            self._held.wait(30.0)

    def read(self, timeout_s):
        if self._packets:
            return self._packets.pop(0)
        self._rest.wait(timeout_s)
        return None

    def newest(self, timeout_s):
        return self.read(timeout_s)

    def peek(self, max_age_s):
        return None

    def health(self):
        return DriverHealth(state="streaming", delivered=0, overrun=0, age_s=None, problem=None)

    def close(self):
        pass


def checked(info, packets):
    ((outcome,),) = check_devices([[Scripted(info, packets)]], seconds=0.1)
    return outcome


def frames(numbers, rate_hz, late_ms, stamps=True):
    begin_ns = time.monotonic_ns()
    for number, late in zip(numbers, late_ms, strict=True):
        yield Packet(
            stream="camera",
            seq=number,
            t_device_ns=round(number * 1e9 / rate_hz) if stamps else None,
            t_arrival_ns=begin_ns + round(number * 1e9 / rate_hz + late * 1e6),
            payload=VideoFrame(pixels=np.zeros((2, 2), np.uint8)),
        )


def video(rate_hz=30.0, **settings):
    return StreamInfo(name="camera", modality="video", rate_hz=rate_hz, channels=("gray",), **settings)


def test_jitter_and_drops_are_those_that_were_put_in():
    late_ms = np.random.default_rng(1).gamma(2.0, 1.0, 600)
    numbers = [n for n in range(603) if n not in (100, 101, 300)]
    found = checked(video(has_counter=True, device_clock="stamps"), frames(numbers, 30.0, late_ms))
    assert found.problem is None
    assert (found.items, found.drops) == (600, 3)
    assert found.jitter_ms == pytest.approx(np.std(late_ms), rel=0.02)
    expected = np.percentile(np.abs(late_ms - np.median(late_ms)), 99)
    assert found.jitter_p99_ms == pytest.approx(expected, rel=0.05)
    assert found.rate_hz == pytest.approx(30.0, rel=1e-3)


def test_without_a_counter_the_stamps_tell_the_drops():
    numbers = [n for n in range(200) if n not in (50, 51, 52)]
    uncounted = [
        Packet(stream="camera", seq=i, t_device_ns=p.t_device_ns, t_arrival_ns=p.t_arrival_ns, payload=p.payload)
        for i, p in enumerate(frames(numbers, 30.0, np.zeros(197)))
    ]
    assert checked(video(device_clock="stamps"), uncounted).drops == 3


def test_a_camera_that_claims_30_and_sends_31_is_told():
    found = checked(video(), frames(range(200), 31.2, np.zeros(200), stamps=False))
    assert found.problem == "sends 31.20 items per second, not 30; set its rate in the cell file"
    assert found.line.startswith("opens; 0x0 uint8, 31.20 Hz (set: 30), 200 items, 0 lost")


def test_sound_is_counted_in_samples():
    info = StreamInfo(
        name="sound", modality="audio", rate_hz=48_000.0, channels=("mono",), dtype="int16", device_clock="samples"
    )
    begin_ns = time.monotonic_ns()
    blocks = [
        Packet(
            stream="sound",
            seq=i,
            t_arrival_ns=begin_ns + (i + 1) * 10_000_000,
            payload=SampleBlock(first_sample=480 * i, rate_hz=48_000.0, samples=np.zeros((480, 1), np.int16)),
        )
        for i in range(100)
        if i not in (20, 21)
    ]
    found = checked(info, blocks)
    assert (found.items, found.drops) == (480 * 98, 960)
    assert found.rate_hz == pytest.approx(48_000.0)
    assert found.jitter_ms == pytest.approx(0.0, abs=1e-6)


def test_a_device_that_breaks_off_is_told():
    first, second = (list(frames(range(20), 30.0, np.zeros(20))) for _ in range(2))
    again = [Packet(stream="c", seq=p.seq, segment=1, t_arrival_ns=p.t_arrival_ns, payload=p.payload) for p in second]
    assert checked(video(), first + again).problem == "broke off 1 times; check its cable and power"


def test_stamps_that_are_all_equal_give_no_jitter_and_no_warning():
    rows = [
        Packet(
            stream="sensors",
            seq=i,
            t_arrival_ns=10**9 + i * 10**7,
            payload=SensorRows(
                first_row=i,
                values=np.zeros((1, 1)),
                t_device_ns=np.array([7]),
                t_arrival_ns=np.array([10**9 + i * 10**7]),
            ),
        )
        for i in range(50)
    ]
    info = StreamInfo(
        name="sensors",
        modality="sensors",
        rate_hz=100.0,
        channels=("wire_mm",),
        has_counter=True,
        device_clock="stamps",
    )
    found = checked(info, rows)
    assert (found.jitter_ms, found.drops) == (None, 0)
    assert found.rate_hz == pytest.approx(100.0)


def test_a_photo_station_need_not_send_anything():
    assert checked(StreamInfo(name="photos", modality="post_images", rate_hz=0.0), []).problem is None


def test_a_device_that_hangs_is_left_behind_and_the_others_are_checked(monkeypatch):
    monkeypatch.setattr("acquisition.device_check.OPEN_S", 0.3)
    held = threading.Event()
    hangs = Scripted(video(), held=held)
    good = Scripted(video(), list(frames(range(20), 30.0, np.zeros(20))))
    begin_s = time.monotonic()
    (stuck,), (fine,) = check_devices([[hangs], [good]], seconds=0.2)
    assert time.monotonic() - begin_s < 2.0
    held.set()
    assert isinstance(stuck, DeviceCheck)
    assert "did not answer" in str(stuck.problem)
    assert fine.items == 20
