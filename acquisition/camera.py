"""A camera by PyAV: a device (v4l2, avfoundation, dshow), a network stream or a video file, as full-range gray frames.

Frames are stamped when their packet leaves the demuxer, before it is decoded. The luma plane is taken as it is; a
limited-range source (16-235) is expanded once by a table.
"""

import itertools
import logging
import re
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

import av
import numpy as np
import numpy.typing as npt
from av.container import InputContainer
from av.video.frame import VideoFrame as DecodedFrame
from av.video.stream import VideoStream

from acquisition.driver import DeviceError, ThreadedDriver
from acquisition.packet import Packet, StreamInfo, VideoFrame

log = logging.getLogger(__name__)

DEVICE_FORMATS: Final = frozenset({"v4l2", "video4linux2", "avfoundation", "dshow", "gdigrab", "x11grab"})
MEDIA_FORMATS: Final = (
    "avi,mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,mpegts,mpeg,nut,flv,h264,hevc,m4v,mjpeg,mpjpeg,ivf,rtsp"
)
"""Demuxers that hold pictures themselves. Playlists (concat, hls, sdp, ...) are left out: they open other files."""

PROTOCOLS: Final[dict[str, str]] = {
    "": "file",
    "file": "file",
    "tcp": "tcp",
    "udp": "udp",
    "rtp": "rtp,udp",
    "unix": "unix",
    "http": "http,tcp",
    "https": "https,tls,tcp",
    "rtsp": "rtsp,rtp,udp,tcp",
    "rtsps": "rtsps,rtsp,rtp,srtp,tls,tcp",
    "rtmp": "rtmp,tcp",
}
"""What FFmpeg may open, by the scheme of the URL: nothing but the transport that the cell file names."""

FIRST_FRAME_S: Final = 10.0
"""A stream joined between two keyframes shows its first picture only at the next one."""

PROBED_FRAMES: Final = 64
"""At most as many first frames of a live source are taken for old ones, that lay in a buffer while it was opened."""

FULL_RANGE: Final = 2
LIMITED_RANGE: Final = 1
LUMA_FORMAT: Final = re.compile(r"(gray|yuvj?4..p|nv12|nv16|nv21|nv24|yuyv422|uyvy422)$")
"""Pixel formats whose luma is taken as it is."""

EXPAND: Final = np.clip(np.rint((np.arange(256) - 16.0) * 255.0 / 219.0), 0, 255).astype(np.uint8)
"""Limited-range luma (ITU-R BT.601: black 16, white 235) to full range."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CameraConfig:
    """Settings of a camera.

    Attributes:
        url: Device (`/dev/video0`), stream (`tcp://host:port`, `rtsp://...`) or video file.
        format: FFmpeg input format (`v4l2`, `avfoundation`, `dshow`, `nut`, ...); empty to find out.
        fps: Nominal frames per second; a device is asked for it, a file has its own.
        options: Further FFmpeg options, such as `video_size`, `input_format` or `rtsp_transport`.
        read_timeout_s: A live source that shows nothing for this long is lost (found after half to all of it).
        loop: A file starts again at its end.
        real_time: A file is delivered at its own pace; else as fast as it is read, waiting for the reader.
        expand_limited_range: Expand 16-235 to 0-255; None to follow what the source says of itself.
    """

    url: str
    format: str = ""
    fps: float = 30.0
    options: dict[str, str] = field(default_factory=dict)
    read_timeout_s: float = 2.0
    loop: bool = False
    real_time: bool = True
    expand_limited_range: bool | None = None

    def __post_init__(self) -> None:
        """Refuse what no source could satisfy."""
        if not self.url:
            raise ValueError("url is empty; name a device, a stream or a file")
        if self.fps <= 0 or self.read_timeout_s <= 0:
            raise ValueError(f"fps ({self.fps}) and read_timeout_s ({self.read_timeout_s}) must be positive")
        if self.format and self.format not in DEVICE_FORMATS and self.format not in MEDIA_FORMATS.split(","):
            raise ValueError(f"format '{self.format}' is not accepted; use '' or one of {MEDIA_FORMATS}")
        if self.scheme not in PROTOCOLS:
            raise ValueError(f"url scheme '{self.scheme}' is not accepted; use one of {', '.join(PROTOCOLS)}")

    @property
    def scheme(self) -> str:
        """URL scheme in lower case, empty for paths and devices."""
        found = re.match(r"([A-Za-z][A-Za-z0-9+.-]+)://", self.url)
        return found[1].lower() if found else ""

    @property
    def input_format(self) -> str:
        """The FFmpeg input format, empty to find out."""
        if not self.format and sys.platform == "linux" and self.url.startswith("/dev/video"):
            return "v4l2"
        return self.format

    @property
    def is_file(self) -> bool:
        """The source ends by nature."""
        return self.scheme in ("", "file") and self.input_format not in DEVICE_FORMATS


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shot:
    """A decoded frame with the stamp of the packet it came from and its number in this segment."""

    frame: DecodedFrame
    seq: int
    t_arrival_ns: int
    t_device_ns: int | None


class Camera(ThreadedDriver):
    """A camera, network stream or file as a stream of gray frames.

    A file that ended leaves the driver open and silent; a live source that ends is lost and reopened.
    """

    BACKLOG: Final = 64
    """Frames that a file read without pacing may be ahead of its reader."""

    def __init__(self, name: str, config: CameraConfig) -> None:
        """Prepare the camera; touches no device."""
        super().__init__(name)
        self.config = config
        self._container: InputContainer | None = None
        self._shots: Iterator[_Shot] = iter(())
        self._expand = False
        self._own_rate_hz = 0.0
        self._seq = 0

    def _error(self, what: str, fix: str) -> DeviceError:
        shown = re.sub(r"//[^/@]*@", "//***@", self.config.url)  # no password reaches a log
        return DeviceError(f"camera {self.name}: {shown} {what}; {fix}")

    def _explained(self, error: av.error.FFmpegError) -> DeviceError:
        """Say what an FFmpeg error means here."""
        fix = "correct url in the cell file"
        if isinstance(error, FileNotFoundError):
            return self._error("does not exist", f"plug the camera in or {fix}")
        if isinstance(error, ConnectionRefusedError):
            return self._error("refused the connection", f"start the sender or {fix}")
        if isinstance(error, PermissionError):
            return self._error("may not be read by this user", "give the user the right (on Linux: group 'video')")
        if isinstance(error, av.error.ExitError | TimeoutError):
            return self._error(
                f"sent nothing for {self.config.read_timeout_s:g} s", f"check the sender and cable, or {fix}"
            )
        if isinstance(error, av.error.InvalidDataError | av.error.ArgumentError | av.error.EOFError):
            return self._error(
                f"is cut off or no video of an accepted kind ({error.strerror})", f"check the source or {fix}"
            )
        return self._error(f"cannot be read ({error.strerror})", f"check the source or {fix}")

    def _open_container(self) -> tuple[InputContainer, VideoStream]:
        config = self.config
        kind = config.input_format
        options = dict(config.options)
        if kind in DEVICE_FORMATS:
            options.setdefault("framerate", f"{config.fps:g}")
        elif not config.is_file:
            options.setdefault("fpsprobesize", "0")  # else the first 20 frames are held back to guess a rate
        # The whitelists come last: a cell file's options do not loosen them.
        options["format_whitelist"] = f"{MEDIA_FORMATS},{kind}" if kind else MEDIA_FORMATS
        options["protocol_whitelist"] = PROTOCOLS[config.scheme]
        # FFmpeg may start its read timeout anew once, so half of it keeps the promise of `read_timeout_s`.
        wait_s = config.read_timeout_s / 2
        container = av.open(config.url, "r", format=kind or None, options=options, timeout=(wait_s, wait_s))
        if not container.streams.video:
            container.close()
            raise self._error("holds no video", "correct url in the cell file")
        stream = container.streams.video[0]
        self._own_rate_hz = float(stream.average_rate or 0)
        stream.thread_type = "NONE"  # frame threads would hold frames back
        stream.codec_context.flags |= av.codec.context.Flags.low_delay
        return container, stream

    def _connect(self) -> StreamInfo:
        """Open the source and decode its first frame, which alone proves that it is a video."""
        self._seq = 0
        self._shots = self._deliveries()
        try:
            shot = next(self._shots)
        except StopIteration:
            self._disconnect()
            raise self._error("holds no readable picture", "check the file or correct url in the cell file") from None
        except DeviceError:
            self._disconnect()
            raise
        except av.error.FFmpegError as error:
            self._disconnect()
            raise self._explained(error) from error
        self._shots = itertools.chain((shot,), self._shots)
        frame = shot.frame
        forced = self.config.expand_limited_range
        self._expand = _is_limited_range(frame) if forced is None else forced
        self._expand &= bool(LUMA_FORMAT.match(frame.format.name))  # a converted picture is full range already
        return StreamInfo(
            name=self.name,
            modality="video",
            rate_hz=self._rate_hz(),
            channels=("gray",),
            units=("",),
            height=frame.height,
            width=frame.width,
            device_clock="none" if shot.t_device_ns is None else "stamps",
        )

    def _rate_hz(self) -> float:
        """The file's own rate; else the rate set, with a warning when the device runs at another."""
        own = self._own_rate_hz
        if self.config.is_file and own:
            return own
        if self.config.input_format in DEVICE_FORMATS and own and abs(own - self.config.fps) > 0.02 * self.config.fps:
            log.warning(
                "%s",
                self._error(f"runs at {own:g} fps, not {self.config.fps:g}", "set fps to what the camera can"),
            )
        return self.config.fps

    def _deliveries(self) -> Iterator[_Shot]:
        """Open the source and yield its frames; a looping file is opened again at its end, its time going on."""
        offset_ns = 0
        while True:
            self._container, stream = self._open_container()
            last_ns: int | None = None
            for shot in self._decoded(self._container, stream, offset_ns):
                last_ns = shot.t_device_ns
                yield shot
            if not (self.config.is_file and self.config.loop):
                return
            self._container.close()
            offset_ns = (offset_ns if last_ns is None else last_ns) + round(
                1e9 / (self._own_rate_hz or self.config.fps)
            )

    def _decoded(self, container: InputContainer, stream: VideoStream, offset_ns: int) -> Iterator[_Shot]:
        """Demux, stamp, decode; a packet that cannot be decoded leaves a hole in `seq`.

        FFmpeg reads ahead while it opens a live source. Nobody knows when those packets arrived, and a late stamp would
        start the stream's clock late; so their frames are decoded, but what is delivered begins with the first packet
        that had to be waited for.
        """
        stamps: dict[int | None, int] = {}
        fresh_ns = 0 if self.config.is_file else None
        waited_ns, read_ahead = round(0.2e9 / self.config.fps), 0
        first_pts: int | None = None
        shown_ns, patience_s = time.monotonic_ns(), FIRST_FRAME_S
        shown, lost = False, 0
        asked_ns = time.monotonic_ns()
        for packet in container.demux(stream):
            arrival_ns = time.monotonic_ns()
            if fresh_ns is None and (arrival_ns - asked_ns > waited_ns or read_ahead >= PROBED_FRAMES):
                fresh_ns = arrival_ns
            read_ahead += 1
            if packet.pts is not None:
                stamps[packet.pts] = arrival_ns
                if len(stamps) > 256:  # pictures that never came
                    stamps.pop(next(iter(stamps)))
            try:
                frames = packet.decode()
            except av.error.InvalidDataError:
                frames = []
                lost += 1
                self._seq += shown  # what comes before the first keyframe of a stream is no loss
            for frame in frames:
                if not isinstance(frame, DecodedFrame):
                    continue
                t_device_ns = None
                if frame.pts is not None and frame.time_base is not None:
                    first_pts = frame.pts if first_pts is None else first_pts
                    base = frame.time_base
                    pts = frame.pts - first_pts if offset_ns else frame.pts
                    t_device_ns = pts * base.numerator * 1_000_000_000 // base.denominator + offset_ns
                stamp_ns = stamps.pop(frame.pts, arrival_ns)
                shown_ns, patience_s = arrival_ns, self.config.read_timeout_s
                if fresh_ns is not None and stamp_ns >= fresh_ns:
                    yield _Shot(frame=frame, seq=self._seq, t_arrival_ns=stamp_ns, t_device_ns=t_device_ns)
                    self._seq += 1
                    shown = True
            if not self.config.is_file and arrival_ns - shown_ns > patience_s * 1e9:
                raise self._error(f"showed no picture for {patience_s:g} s", "check the camera's encoder and the line")
            if self._stop.is_set() and self._state != "opening":
                return
            asked_ns = time.monotonic_ns()
        if lost and self.config.is_file:
            log.warning("%s", self._error(f"has {lost} pictures that cannot be decoded", "they are missing in seq"))

    def _run(self) -> None:
        config = self.config
        paced, clock_ns, period_ns = config.is_file and config.real_time, 0, round(1e9 / self.info.rate_hz)
        try:
            for shot in self._shots:
                arrival_ns = shot.t_arrival_ns
                if config.is_file:
                    media_ns = shot.seq * period_ns if shot.t_device_ns is None else shot.t_device_ns
                    clock_ns = clock_ns or time.monotonic_ns() - media_ns
                    self._wait_for_turn(clock_ns + media_ns if paced else None)
                    arrival_ns = time.monotonic_ns()
                if self._stop.is_set():
                    return
                self._put(
                    Packet(
                        stream=self.name,
                        seq=shot.seq,
                        t_device_ns=shot.t_device_ns,
                        t_arrival_ns=arrival_ns,
                        payload=VideoFrame(pixels=self._pixels(shot.frame)),
                    )
                )
        except av.error.FFmpegError as error:
            raise self._explained(error) from error
        if not config.is_file and not self._stop.is_set():
            raise self._error("ended the stream", "it is tried again; restart the sender if it stays away")
        self._stop.wait()  # the end of a file is no fault

    def _wait_for_turn(self, due_ns: int | None) -> None:
        """Wait until a file's frame is due; without pacing (None), until the reader has caught up."""
        if due_ns is not None:
            self._stop.wait(max(0.0, (due_ns - time.monotonic_ns()) / 1e9))
            return
        while len(self._packets) >= self.BACKLOG and not self._stop.wait(0.002):
            pass

    def _pixels(self, frame: DecodedFrame) -> npt.NDArray[np.uint8]:
        """The frame's luma, `(height, width)` uint8, full range."""
        if (frame.height, frame.width) != (self.info.height, self.info.width):
            raise self._error(
                f"changed its picture from {self.info.width}x{self.info.height} to {frame.width}x{frame.height}",
                "it is opened again; set video_size in options if it should not change",
            )
        luma = _luma(frame)
        return EXPAND[luma] if self._expand else luma

    def _disconnect(self) -> None:
        container, self._container = self._container, None
        self._shots = iter(())
        if container is not None:
            try:
                container.close()
            except av.error.FFmpegError as error:
                log.warning("%s: closing: %s", self.name, error)


def _luma(frame: DecodedFrame) -> npt.NDArray[np.uint8]:
    """Copy the luma out of a decoded frame; only pictures without 8-bit luma are converted (to full range)."""
    if not LUMA_FORMAT.match(frame.format.name):
        frame = frame.reformat(format="gray")
    plane = frame.planes[0]
    rows = np.frombuffer(memoryview(plane), np.uint8).reshape(plane.height, plane.line_size)
    if frame.format.name in ("yuyv422", "uyvy422"):
        start = 0 if frame.format.name == "yuyv422" else 1
        return rows[:, start : start + 2 * frame.width : 2].copy()
    return rows[:, : frame.width].copy()


def _is_limited_range(frame: DecodedFrame) -> bool:
    """Whether black is 16 and white 235: said by the source, or usual where it says nothing (YUV, but not gray)."""
    tagged = int(frame.color_range)
    if tagged in (FULL_RANGE, LIMITED_RANGE):
        return tagged == LIMITED_RANGE
    return not frame.format.name.startswith(("gray", "yuvj"))
