"""Cameras over the network, each protocol against a real sender; their times, and what a broken sender does."""

import contextlib
import io
import logging
import socket
import socketserver
import threading
import time
import traceback
from fractions import Fraction

import av
import numpy as np
import pytest

from acquisition.camera import Camera, CameraConfig
from acquisition.driver import DeviceError
from acquisition.packet import Packet
from tests.acquisition.counterparts import free_port, wait_until
from tests.hotplug.camera_counterparts import CameraProcess, read


@pytest.fixture
def started():
    """Start camera processes that end with the test."""
    cameras = []

    def start(protocol, *settings):
        cameras.append(CameraProcess(protocol, *settings))
        cameras[-1].start()
        return cameras[-1]

    yield start
    for camera in cameras:
        camera.kill()


@pytest.fixture
def opened():
    """Open drivers that are closed again whatever happens."""
    drivers = []

    def open_driver(url, **settings):
        driver = Camera("camera", CameraConfig(url=url, **settings))
        drivers.append(driver)
        driver.open()
        return driver

    yield open_driver
    for driver in drivers:
        driver.close()


@pytest.fixture
def served():
    """Serve bytes over TCP: `handler(send, ended)` runs for each reader; `ended` is set after the test."""
    servers = []
    ended = threading.Event()

    def serve(handler):
        class Handler(socketserver.BaseRequestHandler):
            def handle(self):
                with contextlib.suppress(OSError):  # the reader went
                    handler(self.request.sendall, ended)

        server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        servers.append((server, thread))
        return server.server_address[1]

    yield serve
    ended.set()
    for server, thread in servers:
        server.shutdown()
        thread.join()
        server.server_close()


def frames_of(camera, n):
    packets: list[Packet] = []
    while len(packets) < n:
        packet = camera.read(5.0)
        assert packet is not None, f"only {len(packets)} of {n} frames came: {camera.health()}"
        packets.append(packet)
    return packets


def latencies_ms(packets):
    """From drawing a picture to its arrival stamp."""
    return [(packet.t_arrival_ns - read(packet.payload.pixels)[1]) / 1e6 for packet in packets]


@pytest.mark.parametrize(
    ("protocol", "settings", "clock", "goal_ms"),
    [
        ("tcp", {}, "stamps", 20),
        ("udp", {}, "stamps", 20),
        ("http-ts", {"format": "mpegts"}, "stamps", 20),
        ("http-mjpeg", {}, "none", 20),
        ("rtsp", {}, "stamps", 55),  # RTP: a frame ends where the next one begins
        ("rtsp", {"options": {"rtsp_transport": "udp"}}, "stamps", 55),
    ],
)
def test_every_protocol_is_fast_and_complete(started, opened, protocol, settings, clock, goal_ms):
    camera = opened(started(protocol).url, **settings)
    packets = frames_of(camera, 60)
    numbers = [read(packet.payload.pixels)[0] for packet in packets]
    assert camera.info.device_clock == clock
    assert [packet.seq for packet in packets] == list(range(60))
    assert sorted(set(numbers)) == numbers
    assert numbers[-1] - numbers[0] <= 75  # a number is left out only where the sender itself was held up
    late = latencies_ms(packets)
    assert min(late) > 0  # none is older than its stamp says, the first included
    assert np.percentile(late, 20) < goal_ms, late  # what is held back is held back always; the rest is a busy machine
    sent_ns = np.array([read(packet.payload.pixels)[1] for packet in packets])
    if clock == "stamps":  # the stamps are the sender's own, not made up
        device_ns = np.array([packet.t_device_ns for packet in packets])
        assert np.ptp(device_ns - sent_ns) < 1e6
    else:
        assert {packet.t_device_ns for packet in packets} == {None}


def test_a_stream_joined_between_keyframes_seconds_apart_is_opened(started, opened):
    url = started("udp", "--gop", "100", "--noise", "16").url
    wait = threading.Event()
    for _ in range(3):  # anywhere between two keyframes
        wait.wait(0.4)
        camera = opened(url)
        assert frames_of(camera, 2)[-1].seq == 1
        camera.close()


def test_two_cameras_of_one_host_agree_in_utc(started, opened):
    cameras = [opened(started("rtsp").url, options={"rtsp_transport": kind}) for kind in ("tcp", "udp")]
    utc_ns = time.time_ns() - time.monotonic_ns()
    errors_ms = []
    for camera in cameras:
        packets = frames_of(camera, 80)
        errors_ms.append([(p.t_device_ns - utc_ns - read(p.payload.pixels)[1]) / 1e6 for p in packets])
        assert camera.sender_clock is not None
        assert abs(camera.sender_clock.latency_ns) < 100e6
        assert abs(camera.sender_clock.moved_ns) < 5e6
    # Between drawing the first picture and reporting its time lies its encoding, on a machine that may be busy.
    assert abs(np.median(errors_ms[0])) < 100
    assert abs(np.median(errors_ms[0]) - np.median(errors_ms[1])) < 100
    assert all(np.ptp(errors) < 1 for errors in errors_ms)  # one time base, no step when a report comes


def test_a_changed_size_is_a_new_segment(started, opened):
    camera = opened(started("http-mjpeg", "--resize-s", "1.5").url)
    first = camera.info
    assert (first.height, first.width) == (96, 160)
    packets = frames_of(camera, 1)
    while packets[-1].segment == 0:
        packets += frames_of(camera, 1)
    assert {p.payload.pixels.shape for p in packets[:-1]} == {(96, 160)}
    assert packets[-1].payload.pixels.shape == (192, 320)
    assert packets[-1].seq == 0
    assert camera.info is not first
    assert (camera.info.height, camera.info.width) == (192, 320)


def test_a_rate_that_is_not_the_one_set_is_told(started, opened, caplog):
    camera = opened(started("tcp", "--fps", "31.2").url, fps=25.0)
    wait_until(lambda: camera.newest(1.0) is not None and camera.frame_times.rate_hz > 0, "the rate is measured")
    assert camera.frame_times.rate_hz == pytest.approx(31.2, abs=2)
    assert camera.health().problem is None
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 1
    assert "frames per second, not 25; set fps = 3" in told[0]


def test_garbage_between_datagrams_is_passed_over(started, opened):
    camera = opened(started("udp").url)
    port = int(camera.config.url.rpartition(":")[2])
    before = frames_of(camera, 5)
    noise = np.random.default_rng(0)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
        for _ in range(40):
            stranger.sendto(noise.bytes(int(noise.integers(1, 1400))), ("127.0.0.1", port))
            frames_of(camera, 1)
    after = frames_of(camera, 30)
    assert after[-1].segment == before[0].segment
    assert np.percentile(latencies_ms(after), 20) < 20


def _babble(send, ended):
    noise = np.random.default_rng(0)
    while not ended.is_set():
        send(noise.bytes(65_536))


def _drip(send, ended):
    """Send an HTTP header that never ends, one byte at a time."""
    for byte in b"HTTP/1.1 200 OK\r\nX-Padding: " + b"x" * 1000:
        send(bytes([byte]))
        ended.wait(0.05)


@pytest.mark.parametrize(
    ("scheme", "handler"),
    [("tcp", _babble), ("http", _drip), ("rtsp", _drip), ("http", _babble), ("tcp", lambda send, ended: None)],
)
def test_what_is_no_camera_is_refused_in_time(served, scheme, handler):
    camera = Camera("camera", CameraConfig(url=f"{scheme}://127.0.0.1:{served(handler)}/", read_timeout_s=1.0))
    begin = time.monotonic()
    with pytest.raises(DeviceError) as caught:
        camera.open()
    assert time.monotonic() - begin < 2.0
    assert "; " in str(caught.value)
    assert "\n" not in str(caught.value)
    assert camera.health().state == "closed"


def test_no_password_is_ever_shown(caplog):
    caplog.set_level(logging.DEBUG)
    url = f"rtsp://admin:se/cr@et@127.0.0.1:{free_port()}/stream?pwd=secret2"
    camera = Camera("camera", CameraConfig(url=url))
    with pytest.raises(DeviceError) as caught:
        camera.open()
    shown = "".join(traceback.format_exception(caught.value)) + caplog.text
    assert "rtsp://***@127.0.0.1" in shown
    assert not any(part in shown for part in ("admin", "se/cr", "et@", "secret2"))


def _transport_stream(stamps):
    """MPEG-TS pieces, each a whole picture with a stamp of its own (90 kHz), whatever the one before had."""
    pieces = []
    for stamp in stamps:
        data = io.BytesIO()
        with av.open(data, "w", format="mpegts", options={"omit_video_pes_length": "0"}) as container:
            stream = container.add_stream("libx264", options={"preset": "ultrafast", "tune": "zerolatency"})
            stream.height, stream.width, stream.pix_fmt = 64, 64, "yuv420p"
            stream.codec_context.time_base = stream.time_base = Fraction(1, 90_000)
            frame = av.VideoFrame.from_ndarray(np.full((96, 64), 128, np.uint8), format="yuv420p")
            frame.pts, frame.time_base = stamp, Fraction(1, 90_000)
            container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        pieces.append(data.getvalue())
    return pieces


def test_impossible_stamps_are_passed_on_and_counted(served, opened, caplog):
    good = [3000 * n for n in range(1, 41)]
    stamps = [*good, good[-1], good[-1], good[-2], *(90_000_00 + 3000 * n for n in range(1, 41))]
    pieces = _transport_stream(stamps)

    def send_paced(send, ended):
        for piece in pieces:
            send(piece)
            ended.wait(1 / 30)
        ended.wait(5)

    camera = opened(f"tcp://127.0.0.1:{served(send_paced)}", format="mpegts")
    wait_until(lambda: camera.frame_times.odd["jumped"] > 0, "the jump is seen")
    packets = frames_of(camera, 48)
    assert camera.health().state == "streaming"
    assert {packet.segment for packet in packets} == {0}
    ms = np.array([packet.t_device_ns for packet in packets]) / 1e6
    steps = np.rint(np.diff(ms))
    assert 0 in steps
    assert steps.min() < 0
    odd = camera.frame_times.odd
    assert odd["repeated"] >= 1
    assert odd["backwards"] >= 1
    assert len(caplog.records) == sum(count > 0 for count in odd.values())  # each kind is said once


def test_a_damaged_picture_and_what_is_predicted_from_it_are_lost(served, opened):
    data, ends = io.BytesIO(), []
    noise = np.random.default_rng(0)
    with av.open(data, "w", format="mpegts", options={"omit_video_pes_length": "0"}) as container:
        options = {"preset": "ultrafast", "tune": "zerolatency", "g": "30", "keyint_min": "30", "sc_threshold": "0"}
        stream = container.add_stream("libx264", rate=30, options=options)
        stream.height, stream.width, stream.pix_fmt = 64, 64, "yuv420p"
        for number in range(90):
            frame = av.VideoFrame.from_ndarray(noise.integers(0, 256, (96, 64), np.uint8), format="yuv420p")
            frame.pts, frame.time_base = number, Fraction(1, 30)
            container.mux(stream.encode(frame))
            ends.append(data.tell())
    whole = data.getvalue()
    pieces = [whole[begin:end] for begin, end in zip([0, *ends], ends, strict=False)]
    assert len(pieces[50]) > 10 * 188
    pieces[50] = pieces[50][: 5 * 188] + pieces[50][6 * 188 :]  # a datagram that never came

    def send_paced(send, ended):
        for piece in pieces:
            send(piece)
            ended.wait(1 / 30)
        ended.wait(5)

    camera = opened(f"tcp://127.0.0.1:{served(send_paced)}", format="mpegts")
    packets = frames_of(camera, 70)
    steps = np.rint(np.diff([packet.t_device_ns for packet in packets]) * 30 / 1e9)
    assert sorted(set(steps.tolist())) == [1, 11]  # pictures 50 to 59, up to the next keyframe
    assert np.array_equal(steps, np.diff([packet.seq for packet in packets]))
