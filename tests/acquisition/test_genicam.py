"""GigE Vision cameras against Aravis' fake one: numbers over their wrap, stamps, lost packets, refused settings."""

import sys

import numpy as np
import pytest

from acquisition.driver import DeviceError
from acquisition.genicam import BlockCounter, GenicamCamera, GenicamConfig, find_cameras
from acquisition.packet import Packet
from tests.acquisition.counterparts import wait_until
from tests.hotplug.genicam_counterpart import FIRST_BLOCK, IP, FakeCamera

SMALL = {"Width": 128, "Height": 96}


@pytest.fixture
def camera(request):
    camera = FakeCamera(*getattr(request, "param", ()))
    camera.start()
    yield camera
    camera.close()


@pytest.fixture
def opened(camera):
    drivers = []

    def open_camera(**settings):
        driver = GenicamCamera("camera", GenicamConfig(**{"camera": IP, "features": SMALL} | settings))
        drivers.append(driver)
        driver.open()
        return driver

    yield open_camera
    for driver in drivers:
        driver.close()


def frames_of(driver, n):
    packets: list[Packet] = []
    while len(packets) < n:
        packet = driver.read(5.0)
        assert packet is not None, f"only {len(packets)} of {n} frames came: {driver.health()}"
        packets.append(packet)
    return packets


def test_numbers_and_stamps_go_on_over_the_wrap_of_the_block_id(opened):
    driver = opened(fps=100.0)
    assert (driver.info.height, driver.info.width, driver.info.rate_hz) == (96, 128, 100.0)
    assert (driver.info.has_counter, driver.info.device_clock) == (True, "stamps")
    packets = frames_of(driver, 0xFFFF - FIRST_BLOCK + 60)
    seq = np.array([packet.seq for packet in packets])
    device_ns = np.array([packet.t_device_ns for packet in packets])
    arrival_ns = np.array([packet.t_arrival_ns for packet in packets])
    assert seq[0] == 0
    assert seq[-1] > 0xFFFF - FIRST_BLOCK
    # Aravis films on a schedule: each number is a period, and a wrap that counted the 0 too would put the rest one off.
    late = (device_ns - device_ns[0]) / 1e7 - seq
    wrap = int(np.searchsorted(seq, 0xFFFF - FIRST_BLOCK + 1))
    assert abs(np.median(late[wrap:]) - np.median(late[wrap - 20 : wrap])) < 0.5
    assert np.all(np.diff(seq) >= 1)
    assert np.all(np.diff(arrival_ns) >= 0)
    assert packets[0].payload.pixels.shape == (96, 128)
    assert packets[0].payload.pixels.dtype == np.uint8


def test_block_ids_of_64_bits_do_not_wrap_and_going_back_is_no_wrap():
    counter = BlockCounter()
    assert [counter.number(block, 10) for block in (65_534, 65_535, 1, 3)] == [65_533, 65_534, 65_535, 65_537]
    assert counter.number(2, 10) is None
    counter = BlockCounter()
    assert [counter.number(block, 10) for block in (65_535, 65_536, 70_000)] == [65_534, 65_535, 69_999]
    assert counter.number(1, 1e9) is None


@pytest.mark.parametrize("camera", [("-r", "20")], indirect=True)
def test_frames_that_lack_packets_are_left_out_and_located(opened, caplog):
    driver = opened(fps=50.0, features={"Width": 128, "Height": 128}, stale_s=3.0)
    packets = frames_of(driver, 40)
    holes = np.diff([packet.seq for packet in packets]) - 1
    assert holes.sum() > 0
    assert driver.incomplete >= holes.sum()
    assert len(set(packets[0].payload.pixels.ravel().tolist())) > 1
    said = [record.message for record in caplog.records if "lacks packets" in record.message]
    assert len(said) == 1


def test_the_camera_is_found_by_its_serial_number_too(opened):
    driver = opened(camera="gv01")
    frames_of(driver, 2)
    assert [info.ip for info in find_cameras("GV01")] == [IP]


def test_a_deeper_format_is_shifted_to_eight_bits(opened):
    frame = frames_of(opened(pixel_format="Mono16"), 1)[0].payload.pixels
    assert (frame.dtype, frame.shape) == (np.uint8, (96, 128))


def test_exposure_and_gain_arrive_at_the_camera(opened):
    frames = []
    for settings in ({"exposure_us": 1000.0, "gain": 0.0}, {"exposure_us": 3000.0, "gain": 6.0}):
        driver = opened(**settings)
        assert (driver._camera.exposure_time(), driver._camera.gain()) == tuple(settings.values())
        frames.append(frames_of(driver, 1)[0].payload.pixels)
        driver.close()
    assert frames[0].mean() < frames[1].mean()


def test_what_the_camera_refuses_is_named(camera):
    for settings, said in (
        ({"fps": 2000.0}, r"refuses fps = 2000.0 \(.*above the maximum 1000\); correct it in the cell file"),
        ({"gain": 100.0}, r"refuses gain = 100.0 \(.*above the maximum 10\); correct it"),
        ({"exposure_us": 1e8}, r"refuses exposure_us = 100000000.0 \(.*above the maximum"),
        ({"pixel_format": "Mono12"}, r"refuses pixel_format = Mono12 \("),
        ({"features": {"Colour": "blue"}}, r"refuses Colour = blue \("),
        ({"camera": "GV99"}, r"genicam camera: GV99 does not answer; check"),
    ):
        driver = GenicamCamera("camera", GenicamConfig(**{"camera": IP} | settings))
        with pytest.raises(DeviceError, match=said):
            driver.open()
        assert driver.health().state == "closed"


def test_a_camera_that_waits_for_a_trigger_says_so(camera):
    driver = GenicamCamera("camera", GenicamConfig(camera=IP, features={"TriggerMode": "On"}))
    with pytest.raises(DeviceError, match=r"sent no frame for 1.5 s; check its power, cable and trigger"):
        driver.open()


def test_a_camera_that_another_program_uses_says_so(opened, camera):
    frames_of(opened(), 1)
    second = GenicamCamera("second", GenicamConfig(camera=IP))
    with pytest.raises(DeviceError, match=r"cannot be opened \(.*\); close other programs that use it"):
        second.open()


def test_a_frozen_camera_is_lost_and_returns(opened, camera):
    driver = opened(fps=50.0)
    frames_of(driver, 3)
    camera.process.freeze()
    wait_until(lambda: driver.health().state == "lost", "the silence is seen", 3.0)
    while driver.read(0.0):
        pass
    camera.thaw()
    packet = driver.read(10.0)
    assert packet is not None
    assert (packet.segment, packet.seq) == (1, 0)
    camera.process.freeze()
    driver.close()
    camera.thaw()
    assert driver.health().state == "closed"


def test_without_the_package_the_error_names_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "viva_genicam", None)
    with pytest.raises(DeviceError, match=r"without viva-genicam; run: pip install viva-genicam"):
        GenicamCamera("camera", GenicamConfig()).open()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"fps": 0.0}, "fps"),
        ({"fps": 1.0}, "stale_s is 1.0; at 1 fps give at least 2"),
        ({"exposure_us": -1.0}, "exposure_us is -1.0"),
        ({"pixel_format": "RGB8"}, "pixel_format 'RGB8' is not gray; use Mono8"),
        ({"packet_size": 100}, "packet_size is 100"),
    ],
)
def test_a_wrong_setting_is_refused(settings, said):
    with pytest.raises(ValueError, match=said):
        GenicamConfig(**settings)
