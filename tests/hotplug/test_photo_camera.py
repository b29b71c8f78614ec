"""A camera that takes photos, pulled while photos are commanded: every one is taken when it is back."""

import io

import numpy as np
import PIL.Image

from acquisition.packet import Event, Photo
from acquisition.photo_camera import PhotoCamera, PhotoCameraConfig
from tests.acquisition.counterparts import wait_until
from tests.hotplug.camera_counterparts import CameraProcess, read
from tests.hotplug.pulls import PULLS, leak_check, report, returns


def drawn_ns(packet):
    """When the picture on a photo was drawn."""
    with PIL.Image.open(io.BytesIO(packet.payload.data)) as image:
        return read(np.asarray(image.convert("L")))[1]


def test_a_pulled_photo_camera_returns_and_owes_no_photo():
    camera = CameraProcess("tcp")
    camera.start()
    driver = PhotoCamera("photos", PhotoCameraConfig(url=camera.url, latency_s=0.0))
    driver.open()
    driver.close()
    camera.kill()
    with leak_check():
        camera.start()
        driver.open()
        driver.notify(Event(kind="take_photos", weld="first"))
        assert driver.read(5.0) is not None
        back = []
        for pull in range(PULLS):
            camera.kill()
            wait_until(lambda: driver.health().state == "lost", "the loss is seen", 3.0)
            driver.notify(Event(kind="take_photos", weld=f"weld {pull}"))
            replugged_ns = camera.start()
            returned = returns(driver, pull, replugged_ns)
            back.append(returned)
            assert returned.before is None
            assert isinstance(returned.after.payload, Photo)
            assert returned.after.payload.weld_hint == f"weld {pull}"
            assert drawn_ns(returned.after) > replugged_ns - 1_000_000_000  # not one that lay about
        assert driver.missed == 0
        assert driver.read(0) is None  # no photo twice
        driver.close()
        camera.kill()
    report("photo camera", back)
