"""The camera against a real H.264 sender on loopback, and against good, broken and hostile files."""

import time
from fractions import Fraction

import av
import numpy as np
import pytest

from acquisition.camera import Camera, CameraConfig
from acquisition.driver import DeviceError
from acquisition.packet import Packet
from acquisition.video_source import EXPAND
from tests.acquisition.counterparts import NetworkCamera, free_port, wait_until

LEVELS = (20, 80, 140, 200, 250)


def steps(frames_per_level=10, height=96, width=160):
    """Frames whose luminance rises in known steps, `(n, height, width)`."""
    levels = np.repeat(np.array(LEVELS, np.uint8), frames_per_level)
    return np.broadcast_to(levels[:, None, None], (len(levels), height, width)).copy()


def write_video(path, levels, pixel_format="yuv420p", color_range=0, fps=30, codec="libx264", size=(96, 160)):
    """A lossless video of flat frames whose luma plane holds exactly `levels`."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=fps, options={"qp": "0"} if codec == "libx264" else {})
        stream.height, stream.width = size
        stream.pix_fmt = pixel_format
        stream.codec_context.color_range = color_range
        for number, level in enumerate(levels):
            frame = av.VideoFrame(size[1], size[0], pixel_format)
            for plane, value in zip(frame.planes, (level, 128, 128), strict=False):
                plane.update(bytes([value]) * plane.buffer_size)
            frame.color_range = color_range
            frame.pts, frame.time_base = number, Fraction(1, fps)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def frames_of(camera, n, timeout_s=5.0):
    packets: list[Packet] = []
    while len(packets) < n:
        packet = camera.read(timeout_s)
        assert packet is not None, f"only {len(packets)} of {n} frames came: {camera.health()}"
        packets.append(packet)
    return packets


@pytest.fixture
def opened():
    """Open cameras that are closed again whatever happens."""
    cameras = []

    def open_camera(**settings):
        camera = Camera("camera", CameraConfig(**settings))
        cameras.append(camera)
        camera.open()
        return camera

    yield open_camera
    for camera in cameras:
        camera.close()


@pytest.fixture
def sender(tmp_path):
    sender = NetworkCamera(tmp_path, steps())
    yield sender
    sender.kill()


def test_luminance_steps_over_the_network_are_found_again(sender, opened):
    start_ns = time.monotonic_ns() + 3_000_000_000
    sender.start(start_ns)
    camera = opened(url=sender.url)
    assert (camera.info.height, camera.info.width, camera.info.device_clock) == (96, 160, "stamps")
    packets = [camera.read(5.0)]
    while packets[-1].payload.pixels[0, 0] < LEVELS[-1]:
        packets += frames_of(camera, 1)
    assert [p.seq for p in packets] == list(range(len(packets)))
    assert all(p.payload.pixels.dtype == np.uint8 and np.ptp(p.payload.pixels) == 0 for p in packets)
    luma = np.array([p.payload.pixels[0, 0] for p in packets])
    assert sorted(set(luma.tolist())) == list(LEVELS)  # full range is untouched
    device_ns = np.array([p.t_device_ns for p in packets])
    arrival_ns = np.array([p.t_arrival_ns for p in packets])
    assert np.all(np.diff(device_ns) > 0)
    assert np.all(np.diff(arrival_ns) >= 0)
    # Latency is one-sided, so the earliest arrival gives the offset between the two clocks.
    edges_ns = device_ns[np.flatnonzero(np.diff(luma)) + 1] + np.min(arrival_ns - device_ns)
    true_ns = start_ns + np.arange(1, len(LEVELS)) * 10 * 1e9 / 30
    late_ms = (edges_ns - true_ns) / 1e6
    # Never early; late by up to a frame period and the encoding, and by more only if the sender itself was held up.
    assert np.all(late_ms > -2), late_ms
    assert np.median(late_ms) < 60, late_ms


def test_a_killed_sender_returns_as_a_new_segment(sender, opened):
    sender.start()
    camera = opened(url=sender.url)
    assert frames_of(camera, 5)[-1].segment == 0
    sender.kill()
    wait_until(lambda: camera.health().state == "lost", "the loss is seen", 3.0)
    assert str(camera.health().problem).startswith(f"camera camera: {sender.url} ")
    while camera.read(0.0):
        pass
    sender.start()
    packets = frames_of(camera, 3)
    assert [(p.segment, p.seq) for p in packets] == [(1, 0), (1, 1), (1, 2)]
    assert camera.health().state == "streaming"


def test_a_frozen_sender_is_lost_and_closing_does_not_hang(sender, opened):
    sender.start()
    camera = opened(url=sender.url, read_timeout_s=0.6)
    frames_of(camera, 2)
    sender.process.freeze()
    wait_until(lambda: camera.health().state == "lost", "the loss is seen", 2.0)
    begin = time.monotonic()
    camera.close()
    assert time.monotonic() - begin < 1.5


@pytest.mark.parametrize(
    ("pixel_format", "color_range", "expanded"),
    [("yuv420p", 0, True), ("yuv420p", 1, True), ("yuv420p", 2, False), ("yuvj420p", 2, False), ("yuv422p", 1, True)],
)
def test_only_limited_range_is_expanded(tmp_path, opened, pixel_format, color_range, expanded):
    levels = [16, 25, 128, 235]
    write_video(tmp_path / "a.mp4", levels, pixel_format, color_range)
    camera = opened(url=str(tmp_path / "a.mp4"), real_time=False)
    shown = [p.payload.pixels[5, 5] for p in frames_of(camera, 4)]
    assert shown == ([0, 10, 130, 255] if expanded else levels)
    assert EXPAND[25] == 10


@pytest.mark.parametrize("codec", ["ffv1", "mjpeg"])
def test_gray_and_jpeg_are_full_range_already(tmp_path, opened, codec):
    pixel_format = "gray" if codec == "ffv1" else "yuvj420p"
    write_video(tmp_path / "a.avi", [10, 128, 250], pixel_format, 2, codec=codec)
    camera = opened(url=str(tmp_path / "a.avi"), real_time=False)
    shown = np.array([p.payload.pixels[5, 5] for p in frames_of(camera, 3)], int)
    assert np.all(np.abs(shown - [10, 128, 250]) <= 1)


def test_expansion_can_be_forced_off(tmp_path, opened):
    write_video(tmp_path / "a.mp4", [16, 235])
    camera = opened(url=str(tmp_path / "a.mp4"), expand_limited_range=False)
    assert [p.payload.pixels[0, 0] for p in frames_of(camera, 2)] == [16, 235]


def test_a_file_keeps_its_own_pace_and_ends_in_silence(tmp_path, opened):
    write_video(tmp_path / "a.mp4", range(50, 66), fps=31)
    camera = opened(url=str(tmp_path / "a.mp4"))
    assert camera.info.rate_hz == pytest.approx(31)
    packets = frames_of(camera, 16)
    device_ns = np.array([p.t_device_ns for p in packets])
    assert device_ns[-1] - device_ns[0] == pytest.approx(15e9 / 31, abs=1e3)
    assert packets[-1].t_arrival_ns - packets[0].t_arrival_ns >= 15e9 / 31 - 2e6
    assert camera.read(0.2) is None
    assert (camera.health().state, camera.health().problem) == ("streaming", None)


def test_a_looping_file_goes_on_in_time(tmp_path, opened):
    write_video(tmp_path / "a.mp4", [50, 60, 70], fps=30, color_range=2)
    camera = opened(url=str(tmp_path / "a.mp4"), loop=True, real_time=False)
    packets = frames_of(camera, 8)
    assert [p.payload.pixels[0, 0] for p in packets] == [50, 60, 70, 50, 60, 70, 50, 60]
    assert [p.seq for p in packets] == list(range(8))
    assert np.allclose(np.diff([p.t_device_ns for p in packets]), 1e9 / 30, atol=1e3)


def test_an_unpaced_file_waits_for_its_reader(tmp_path, opened):
    write_video(tmp_path / "a.mp4", [100] * 200, size=(32, 32))
    camera = opened(url=str(tmp_path / "a.mp4"), real_time=False)
    wait_until(lambda: camera.health().delivered >= camera.BACKLOG, "the backlog fills")
    assert len(frames_of(camera, 200)) == 200
    assert camera.health().overrun == 0


def test_a_text_file_named_avi_opens_nothing_else(tmp_path, opened):
    write_video(tmp_path / "other.avi", [100] * 3, codec="mpeg4")
    (tmp_path / "trap.avi").write_text("ffconcat version 1.0\nfile other.avi\n")
    with av.open(str(tmp_path / "trap.avi")) as container:  # FFmpeg itself would follow it
        assert container.format.name == "concat"
    with pytest.raises(DeviceError, match="is cut off or no video of an accepted kind"):
        opened(url=str(tmp_path / "trap.avi"))


def test_options_of_a_cell_file_do_not_loosen_the_whitelists(tmp_path, opened):
    write_video(tmp_path / "other.avi", [100] * 3, codec="mpeg4")
    (tmp_path / "trap.avi").write_text("ffconcat version 1.0\nfile other.avi\n")
    with pytest.raises(DeviceError, match="no video of an accepted kind"):
        opened(url=str(tmp_path / "trap.avi"), options={"format_whitelist": "concat,avi"})
    playlist = tmp_path / "trap.m3u8"
    playlist.write_text("#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nother.avi\n#EXT-X-ENDLIST\n")
    with pytest.raises(DeviceError, match="no video of an accepted kind"):
        opened(url=str(playlist))


@pytest.mark.parametrize("kind", ["text", "empty", "no index", "cut header", "sound only"])
def test_a_broken_file_is_one_clear_error(tmp_path, opened, kind):
    path = tmp_path / "broken.mp4"
    if kind == "sound only":
        with av.open(str(path), "w") as container:
            stream = container.add_stream("aac", rate=48_000)
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 4096), np.float32), format="fltp", layout="mono")
            frame.sample_rate = 48_000
            container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
    else:
        write_video(path, [100] * 30)
        whole = path.read_bytes()
        no_index = whole[: whole.index(b"moov")]  # a recorder that lost its power
        path.write_bytes({"text": b"not a video\n" * 99, "empty": b"", "no index": no_index}.get(kind, whole[:40]))
    with pytest.raises(DeviceError) as caught:
        opened(url=str(path))
    message = str(caught.value)
    assert message.startswith(f"camera camera: {path} ")
    assert "; " in message
    assert "\n" not in message


def test_a_file_cut_in_the_middle_shows_what_it_has(tmp_path, opened):
    write_video(tmp_path / "a.avi", [100] * 60, codec="mpeg4")
    whole = (tmp_path / "a.avi").read_bytes()
    data = whole.index(b"movi")
    (tmp_path / "cut.avi").write_bytes(whole[: (data + len(whole)) // 2])
    camera = opened(url=str(tmp_path / "cut.avi"), real_time=False)
    assert len(frames_of(camera, 10)) == 10


def test_an_absent_source_says_what_to_do(tmp_path, opened):
    port = free_port()
    with pytest.raises(DeviceError) as refused:
        opened(url=f"tcp://127.0.0.1:{port}")
    assert str(refused.value) == (
        f"camera camera: tcp://127.0.0.1:{port} refused the connection; "
        "start the sender or correct url in the cell file"
    )
    with pytest.raises(DeviceError, match="does not exist; plug the camera in or correct url"):
        opened(url=str(tmp_path / "absent.avi"))
    with pytest.raises(DeviceError, match=r"tcp://\*\*\*@127"):
        opened(url=f"tcp://user:secret@127.0.0.1:{port}")


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ({"url": ""}, "url is empty"),
        ({"url": "a.avi", "fps": 0.0}, "must be positive"),
        ({"url": "a.avi", "format": "concat"}, "format 'concat' is not accepted"),
        ({"url": "concat://a|b"}, "scheme 'concat' is not accepted"),
    ],
)
def test_a_wrong_setting_is_refused(settings, what):
    with pytest.raises(ValueError, match=what):
        CameraConfig(**settings)
