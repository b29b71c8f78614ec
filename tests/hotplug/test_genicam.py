"""20 times a GigE Vision camera is pulled and plugged in again."""

import pytest

from acquisition.genicam import GenicamCamera, GenicamConfig
from tests.acquisition.counterparts import wait_until
from tests.hotplug.genicam_counterpart import IP, FakeCamera
from tests.hotplug.pulls import PULLS, leak_check, report, returns

FPS = 25.0
PERIOD_NS = round(1e9 / FPS)


@pytest.fixture
def camera():
    camera = FakeCamera()
    camera.start()
    yield camera
    camera.close()


def newest_of(driver, n):
    """The last of the next `n` packets."""
    packet = None
    for _ in range(n):
        packet = driver.read(5.0)
        assert packet is not None, driver.health()
    return packet


def test_a_pulled_camera_returns(camera):
    config = GenicamConfig(camera=IP, fps=FPS, features={"Width": 256, "Height": 256}, stale_s=0.5)
    driver = GenicamCamera("camera", config)
    driver.open()
    driver.close()  # what viva-genicam keeps for the life of the process is there now
    camera.kill()
    with leak_check():
        camera.start()
        driver.open()
        first = newest_of(driver, 1).segment
        back, off = [], []
        for pull in range(PULLS):
            before = newest_of(driver, 5)
            camera.kill()
            wait_until(lambda: driver.health().state == "lost", "the loss is seen", 3.0)
            while (later := driver.read(0)) is not None:
                before = later
            returned = returns(driver, first + pull, camera.start())
            back.append(returned)
            after = returned.after
            assert (after.segment, after.seq) == (first + pull + 1, 0)
            # The camera films by a clock that outlives it, so its stamps say how many frames there were not.
            lost = (after.t_device_ns - before.t_device_ns) / PERIOD_NS - 1
            off.append((after.t_arrival_ns - before.t_arrival_ns) / PERIOD_NS - 1 - lost)
        driver.close()
        camera.kill()
    report("genicam", back)
    print(f"genicam: gaps located within {max(map(abs, off)):.2f} frames")  # noqa: T201
    assert max(map(abs, off)) <= 1.0, off
