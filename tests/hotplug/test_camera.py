"""Network cameras that are pulled, frozen and plugged in again; every picture says which one it is."""

import pytest

from acquisition.camera import Camera, CameraConfig
from tests.acquisition.counterparts import wait_until
from tests.hotplug.camera_counterparts import CameraProcess, read
from tests.hotplug.pulls import PULLS, leak_check, report, returns

FPS = 10.0
PERIOD_NS = round(1e9 / FPS)


@pytest.fixture
def camera(request):
    noise = "64" if request.param == "udp" else "0"  # MPEG-TS is probed by the kilobyte
    camera = CameraProcess(request.param, "--fps", str(FPS), "--noise", noise)
    camera.start()
    yield camera
    camera.kill()


def newest_of(driver, n):
    """The last of the next `n` packets."""
    packet = None
    for _ in range(n):
        packet = driver.read(5.0)
        assert packet is not None, driver.health()
    return packet


def drained(driver, packet):
    """The last packet in the queue, or `packet` if none is left."""
    while (later := driver.read(0)) is not None:
        packet = later
    return packet


def lost_frames(before, after):
    """How many pictures were missed in between, by the times at which the two were drawn."""
    return (read(after.payload.pixels)[1] - read(before.payload.pixels)[1]) / PERIOD_NS - 1


def located_frames(before, after, in_utc):
    """The same by the stream's own times where they are UTC, else by arrival."""
    if in_utc:
        return (after.t_device_ns - before.t_device_ns) / PERIOD_NS - 1
    return (after.t_arrival_ns - before.t_arrival_ns) / PERIOD_NS - 1


@pytest.mark.parametrize("camera", ["tcp", "udp", "rtsp"], indirect=True)
def test_a_pulled_camera_returns(camera, request):
    kind = request.node.callspec.params["camera"]
    driver = Camera("camera", CameraConfig(url=camera.url, fps=FPS, read_timeout_s=1.0))
    driver.open()
    driver.close()
    camera.kill()
    with leak_check():
        camera.start()
        driver.open()
        first = newest_of(driver, 1).segment
        back, off = [], []
        for pull in range(PULLS):
            before = newest_of(driver, 3)
            camera.kill()
            wait_until(lambda: driver.health().state == "lost", "the loss is seen", 3.0)
            before = drained(driver, before)
            returned = returns(driver, first + pull, camera.start())
            back.append(returned)
            off.append(located_frames(before, returned.after, kind == "rtsp") - lost_frames(before, returned.after))
            assert returned.after.segment == first + pull + 1
            assert returned.after.seq == 0
        driver.close()
        camera.kill()
    report(f"camera over {kind}", back)
    print(f"camera over {kind}: gaps located within {max(map(abs, off)):.2f} frames")  # noqa: T201
    assert max(map(abs, off)) <= 1.0, off


@pytest.mark.parametrize("camera", ["tcp"], indirect=True)
def test_a_frozen_camera_returns(camera):
    driver = Camera("camera", CameraConfig(url=camera.url, fps=FPS, read_timeout_s=1.0))
    driver.open()
    seconds = []
    for pull in range(5):
        before = newest_of(driver, 3)
        camera.process.freeze()
        wait_until(lambda: driver.health().state == "lost", "the silence is seen", 2.0)
        before = drained(driver, before)
        returned = returns(driver, pull, camera.thaw())
        seconds.append(returned.seconds)
        assert abs(located_frames(before, returned.after, False) - lost_frames(before, returned.after)) <= 1.0
    driver.close()
    print(f"camera frozen: back after max {max(seconds):.2f} s (5 times)")  # noqa: T201
    assert max(seconds) <= 3.0, seconds
