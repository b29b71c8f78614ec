"""Photos on command by a real network camera, whose every picture says when it was drawn."""

import contextlib
import io
import socket
import socketserver
import threading
import time
from fractions import Fraction

import av
import numpy as np
import PIL.Image
import pytest

from acquisition.driver import DeviceError
from acquisition.packet import Event, Photo
from acquisition.photo_camera import COMMANDS_WAITING, PhotoCamera, PhotoCameraConfig, jpeg
from tests.acquisition.counterparts import free_port, wait_until
from tests.hotplug.camera_counterparts import CameraProcess, read


@pytest.fixture
def sender():
    camera = CameraProcess("tcp")
    camera.start()
    yield camera
    camera.kill()


@pytest.fixture
def opened(sender):
    """Open photo cameras that are closed again whatever happens."""
    drivers = []

    def open_driver(**settings):
        driver = PhotoCamera("photos", PhotoCameraConfig(url=sender.url, **settings))
        drivers.append(driver)
        driver.open()
        return driver

    yield open_driver
    for driver in drivers:
        driver.close()


def photo_of(driver, timeout_s=5.0):
    packet = driver.read(timeout_s)
    assert packet is not None, driver.health()
    assert isinstance(packet.payload, Photo)
    return packet


def drawn_ns(photo):
    """When the picture on a photo was drawn."""
    with PIL.Image.open(io.BytesIO(photo.data)) as image:
        assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (160, 96))
        return read(np.asarray(image.convert("L")))[1]


@pytest.mark.parametrize("keep_open", [True, False])
def test_photos_are_taken_after_the_arc_and_are_newer_than_their_command(opened, keep_open):
    driver = opened(delay_s=0.5, photos=3, interval_s=0.2, keep_open=keep_open)
    assert (driver.info.modality, driver.info.rate_hz) == ("post_images", 0.0)
    went_out_ns = time.monotonic_ns() - 100_000_000
    driver.notify(Event(kind="arc_off", weld="2025-03-01T101112Z-345", t_ns=went_out_ns))
    packets = [photo_of(driver) for _ in range(3)]
    photos = [packet.payload for packet in packets]
    assert [photo.view for photo in photos] == [0, 1, 2]
    assert {photo.weld_hint for photo in photos} == {"2025-03-01T101112Z-345"}
    assert len({photo.name for photo in photos}) == 3
    assert all(photo.name.endswith(f"Z-{view}.jpg") for view, photo in enumerate(photos))
    assert [packet.seq for packet in packets] == [0, 1, 2]
    for view, photo in enumerate(photos):
        assert drawn_ns(photo) > went_out_ns + (0.3 + 0.2 * view) * 1e9  # late by 0.3 s only on a busy machine
    assert driver.missed == 0
    assert driver.read(0.3) is None  # no more than commanded


def test_a_photo_on_demand_is_taken_at_once(opened):
    driver = opened(delay_s=3.0, latency_s=0.3)
    asked_ns = time.monotonic_ns()
    driver.notify(Event(kind="weld_open", weld="w"))
    driver.notify(Event(kind="take_photos"))
    packet = photo_of(driver)
    assert asked_ns < drawn_ns(packet.payload)
    assert packet.t_arrival_ns - asked_ns < 2_000_000_000
    assert packet.payload.weld_hint is None
    assert driver.read(0.2) is None


def test_what_lies_in_a_buffer_is_no_photo(sender):
    held, ended = threading.Event(), threading.Event()

    class Line(socketserver.BaseRequestHandler):
        """A line to the camera that can be held up."""

        def handle(self):
            with socket.create_connection(("127.0.0.1", sender.port)) as camera, contextlib.suppress(OSError):
                while not ended.is_set():
                    while held.is_set():
                        ended.wait(0.01)
                    self.request.sendall(camera.recv(65_536))

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Line) as line:
        thread = threading.Thread(target=line.serve_forever, args=(0.05,))
        thread.start()
        url = f"tcp://127.0.0.1:{line.server_address[1]}"
        driver = PhotoCamera("photos", PhotoCameraConfig(url=url, read_timeout_s=10.0))
        driver.open()
        try:
            driver.notify(Event(kind="take_photos"))
            photo_of(driver)
            held.set()
            ended.wait(1.0)  # a second of pictures piles up
            asked_ns = time.monotonic_ns()
            driver.notify(Event(kind="take_photos"))
            ended.wait(0.5)
            held.clear()
            assert drawn_ns(photo_of(driver).payload) > asked_ns
        finally:
            ended.set()
            driver.close()
            line.shutdown()
            thread.join()


def test_an_idle_camera_is_closed_where_it_is_not_kept_open(opened, sender):
    driver = opened(keep_open=False, latency_s=0.3)
    wait_until(lambda: driver._source._container is None, "the camera is let go")
    sender.kill()  # nobody notices
    sender.start()
    asked_ns = time.monotonic_ns()
    driver.notify(Event(kind="take_photos"))
    packet = photo_of(driver)
    assert packet.segment == 0
    assert drawn_ns(packet.payload) > asked_ns


def test_photos_of_a_dead_camera_are_taken_when_it_is_back(opened, sender):
    driver = opened(photos=2, interval_s=0.0)
    sender.kill()
    wait_until(lambda: driver.health().state == "lost", "the loss is seen")
    driver.notify(Event(kind="take_photos", weld="w"))
    replugged_ns = sender.start()
    packets = [photo_of(driver) for _ in range(2)]
    assert [(p.payload.view, p.payload.weld_hint, p.segment) for p in packets] == [(0, "w", 1), (1, "w", 1)]
    assert all(drawn_ns(p.payload) > replugged_ns - 1e9 for p in packets)
    assert driver.missed == 0


def test_photos_that_could_not_be_taken_are_said_and_counted(opened, sender, caplog):
    driver = opened(photos=3, interval_s=0.0, give_up_s=0.3)
    sender.kill()
    wait_until(lambda: driver.health().state == "lost", "the loss is seen")
    driver.notify(Event(kind="take_photos", weld="w"))
    wait_until(lambda: driver.missed == 3, "the photos are given up")
    told = [record.getMessage() for record in caplog.records if "missed 3 photos" in record.getMessage()]
    assert told == [
        f"photos photos: {sender.url} missed 3 photos: the camera showed nothing for 0.3 s; "
        "check the camera and take them by hand (3 missed so far)"
    ]
    sender.start()
    wait_until(lambda: driver.health().state == "streaming", "the camera is back")
    driver.notify(Event(kind="take_photos", weld="later"))
    assert photo_of(driver).payload.weld_hint == "later"


def test_a_flood_of_commands_is_refused_and_blocks_nobody(opened, sender):
    driver = opened(give_up_s=0.0)
    sender.process.freeze()  # the reader waits for the camera, and takes no command
    begin = time.monotonic()
    for _ in range(COMMANDS_WAITING + 50):
        driver.notify(Event(kind="take_photos"))
    assert time.monotonic() - begin < 1.0
    assert driver.missed >= 49


def test_closing_a_camera_with_photos_to_take_is_quick(opened):
    driver = opened()
    driver.notify(Event(kind="arc_off", weld="w"))
    begin = time.monotonic()
    driver.close()
    assert time.monotonic() - begin < 2.0
    assert driver.health().state == "closed"


def test_an_absent_camera_says_what_to_do():
    url = f"tcp://user:secret@127.0.0.1:{free_port()}"
    with pytest.raises(DeviceError, match=r"photos photos: tcp://\*\*\*@.* refused the connection; start the sender"):
        PhotoCamera("photos", PhotoCameraConfig(url=url)).open()


@pytest.mark.parametrize(("limited", "shown"), [(True, [0, 130, 255]), (False, [16, 128, 235])])
def test_a_photo_is_full_range(limited, shown):
    for pixel_format in ("gray", "yuv420p") if limited else ("gray", "yuv420p", "yuvj420p"):  # which is full by name
        for level, expected in zip([16, 128, 235], shown, strict=True):
            frame = av.VideoFrame(64, 64, pixel_format)
            frame.time_base = Fraction(1, 30)
            for plane, value in zip(frame.planes, (level, 128, 128), strict=False):
                plane.update(bytes([value]) * plane.buffer_size)
            with PIL.Image.open(io.BytesIO(jpeg(frame, 92, limited))) as image:
                assert image.mode == ("L" if pixel_format == "gray" else "RGB")
                assert np.all(np.abs(np.asarray(image, int) - expected) <= 2), (pixel_format, level)


def test_colours_stay_what_they_are():
    red = np.zeros((64, 64, 3), np.uint8)
    red[..., 0] = 200
    frame = av.VideoFrame.from_ndarray(red, format="rgb24").reformat(format="yuv420p")
    with PIL.Image.open(io.BytesIO(jpeg(frame, 92))) as image:
        assert np.all(np.abs(np.asarray(image, int) - [200, 0, 0]) <= 6)


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ({"url": ""}, "url is empty"),
        ({"url": "a.avi"}, "is a file, which takes no photos"),
        ({"url": "tcp://h:1", "photos": 0}, r"photos \(0\)"),
        ({"url": "tcp://h:1", "quality": 101}, r"quality \(101\)"),
        ({"url": "tcp://h:1", "delay_s": -1.0}, "delay_s is -1.0"),
        ({"url": "tcp://h:1", "give_up_s": float("nan")}, "give_up_s is nan"),
    ],
)
def test_a_wrong_setting_is_refused(settings, what):
    with pytest.raises(ValueError, match=what):
        PhotoCameraConfig(**settings)
