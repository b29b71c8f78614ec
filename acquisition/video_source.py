"""A source of pictures by PyAV: a device (v4l2, avfoundation, dshow), a network stream or a file, decoded one by one.

Frames are stamped when their packet leaves the demuxer, before it is decoded. FFmpeg may open nothing but what the
address itself names, and an error never shows the password in it.
"""

import logging
import re
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

import av
import numpy as np
import numpy.typing as npt
from av.container import InputContainer
from av.video.frame import VideoFrame as DecodedFrame
from av.video.stream import VideoStream

from acquisition.driver import DeviceError
from acquisition.frame_times import sender_utc_ns

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

LIVE: Final = {"fpsprobesize": "0", "analyzeduration": "500000"}
"""Else the first 20 frames are held back to guess a rate."""

PROBED_BYTES_PER_S: Final = 120_000
"""A stream of less than 1 Mbit/s must show a keyframe within half of `read_timeout_s`."""

LOW_LATENCY: Final[dict[str, dict[str, str]]] = {
    "tcp": {"tcp_nodelay": "1"},
    "udp": {"buffer_size": "4194304", "overrun_nonfatal": "1"},
    "rtsp": {"rtsp_flags": "prefer_tcp"},  # a datagram lost within a picture spoils it, and FFmpeg does not say so
    "rtsps": {"rtsp_flags": "prefer_tcp"},
    "mpegts": {"fflags": "noparse"},
}
"""Options by URL scheme or input format. MPEG-TS has a frame per PES packet, so that a parser, which only ends a frame
when the next one begins, can be spared; RTP has not, so RTSP stays one frame period late."""

FIRST_FRAME_S: Final = 10.0
"""A stream joined between two keyframes shows its first picture only at the next one."""

REPORT_S: Final = 1.0
"""How long the first frame of an RTP stream may wait for the report that says the sender's UTC."""

PROBED_FRAMES: Final = 64
"""At most as many first frames of a live source are taken for old ones, that lay in a buffer while it was opened."""

NO_TIMESTAMPS: Final = 0x80
"""FFmpeg's AVFMT_NOTIMESTAMPS."""

FULL_RANGE: Final = 2
LIMITED_RANGE: Final = 1
LUMA_FORMAT: Final = re.compile(r"(gray|yuvj?4..p|nv12|nv16|nv21|nv24|yuyv422|uyvy422)$")
"""Pixel formats whose luma is taken as it is."""

EXPAND: Final = np.clip(np.rint((np.arange(256) - 16.0) * 255.0 / 219.0), 0, 255).astype(np.uint8)
"""Limited-range luma (ITU-R BT.601: black 16, white 235) to full range."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceConfig:
    """Settings of every source of pictures.

    Attributes:
        url: Device (`/dev/video0`), stream (`tcp://host:port`, `rtsp://...`) or video file.
        format: FFmpeg input format (`v4l2`, `avfoundation`, `dshow`, `nut`, ...); empty to find out (UDP: `mpegts`).
        fps: Nominal frames per second; a device is asked for it, a file has its own.
        options: Further FFmpeg options, such as `video_size`, `input_format` or `rtsp_transport`.
        read_timeout_s: A live source that shows nothing for this long is lost (found after half to all of it).
        expand_limited_range: Expand 16-235 to 0-255; None to follow what the source says of itself.
    """

    url: str
    format: str = ""
    fps: float = 30.0
    options: dict[str, str] = field(default_factory=dict)
    read_timeout_s: float = 2.0
    expand_limited_range: bool | None = None

    def __post_init__(self) -> None:
        """Refuse what no source could satisfy."""
        if not self.url:
            raise ValueError("url is empty; name a device, a stream or a file")
        if not (0 < self.fps <= 100_000 and 0 < self.read_timeout_s <= 3600):
            raise ValueError(
                f"fps ({self.fps}) and read_timeout_s ({self.read_timeout_s}) must be positive, not endless"
            )
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
        return self.format or ("mpegts" if self.scheme == "udp" else "")

    @property
    def is_file(self) -> bool:
        """The source ends by nature."""
        return self.scheme in ("", "file") and self.input_format not in DEVICE_FORMATS

    @property
    def shown_url(self) -> str:
        """The address without user, password and query, for messages."""
        return re.sub(r"\?.*", "?***", re.sub(r"//.*@", "//***@", self.url))


@dataclass(frozen=True, slots=True, kw_only=True)
class Shot:
    """A decoded frame.

    Attributes:
        frame: The picture.
        seq: Its number in this segment.
        t_arrival_ns: Cell-clock time at which its packet left the demuxer.
        t_device_ns: The stream's own stamp, or None.
        sender_utc_ns: UTC (ns) of the frame by the sender's newest RTCP report, or None.
    """

    frame: DecodedFrame
    seq: int
    t_arrival_ns: int
    t_device_ns: int | None
    sender_utc_ns: int | None


class VideoSource:
    """One source, opened and read by one thread.

    Attributes:
        own_rate_hz: What the source says its frame rate is, or 0.
        has_stamps: The stream carries times of its own (raw H.264 and MJPEG do not: FFmpeg would make them up).
    """

    def __init__(self, kind: str, name: str, config: SourceConfig, stopped: Callable[[], bool]) -> None:
        """Prepare the source; touches no device.

        Args:
            kind: What it is to the user (`camera`), for messages.
            name: Stream name.
            config: Settings.
            stopped: Asked after each packet whether to end.
        """
        self.config = config
        self.own_rate_hz = 0.0
        self.has_stamps = False
        self._title = f"{kind} {name}"
        self._stopped = stopped
        self._container: InputContainer | None = None

    def error(self, what: str, fix: str) -> DeviceError:
        """Make an error of this source: what it does, and what to do."""
        return DeviceError(f"{self._title}: {self.config.shown_url} {what}; {fix}")

    def explained(self, error: av.error.FFmpegError) -> DeviceError:
        """Say what an FFmpeg error means here; raise it `from None`, as FFmpeg's own message holds the password."""
        fix = "correct url in the cell file"
        if isinstance(error, FileNotFoundError):
            return self.error("does not exist", f"plug the camera in or {fix}")
        if isinstance(error, ConnectionRefusedError):
            return self.error("refused the connection", f"start the sender or {fix}")
        if isinstance(error, PermissionError):
            return self.error("may not be read by this user", "give the user the right (on Linux: group 'video')")
        if isinstance(error, av.error.HTTPUnauthorizedError | av.error.HTTPForbiddenError):
            return self.error("refused user or password", f"write them into url as //user:password@, or {fix}")
        if isinstance(error, av.error.ExitError | TimeoutError):
            return self.error(
                f"sent nothing for {self.config.read_timeout_s:g} s", f"check the sender and cable, or {fix}"
            )
        if isinstance(error, av.error.InvalidDataError | av.error.ArgumentError | av.error.EOFError):
            return self.error(
                f"is cut off or no video of an accepted kind ({error.strerror})", f"check the source or {fix}"
            )
        return self.error(f"cannot be read ({error.strerror})", f"check the source or {fix}")

    def shots(self, offset_ns: int = 0, first_seq: int = 0) -> Iterator[Shot]:
        """Open the source and yield its frames until it ends; the caller closes it.

        Args:
            offset_ns: Stamps begin with this, in the place of the source's own begin, unless it is 0.
            first_seq: Number of the first frame.

        Raises:
            DeviceError: It shows no pictures (any more).
            av.error.FFmpegError: The same in FFmpeg's words, for `explained`.
        """
        container, stream = self._open()
        yield from self._decoded(container, stream, offset_ns, first_seq)

    def first_of(self, shots: Iterator[Shot], to_check: str) -> Shot:
        """Take the first frame, which alone proves that this is a video; closes the source where there is none.

        Args:
            shots: The frames, of `shots` or made of it.
            to_check: What the user should look at where it holds no picture.

        Raises:
            DeviceError: It shows none.
        """
        try:
            shot = next(shots, None)
            if shot is None:
                raise self.error("holds no readable picture", f"check the {to_check} or correct url in the cell file")
        except av.error.FFmpegError as error:
            self.close()
            raise self.explained(error) from None
        except BaseException:
            self.close()
            raise
        return shot

    def close(self) -> None:
        """Let go of the source; may be called twice."""
        container, self._container = self._container, None
        if container is not None:
            try:
                container.close()
            except av.error.FFmpegError as error:
                log.warning("%s: closing: %s", self._title, error.strerror)

    def _open(self) -> tuple[InputContainer, VideoStream]:
        config = self.config
        kind = config.input_format
        options = dict(config.options)
        if kind in DEVICE_FORMATS:
            options.setdefault("framerate", f"{config.fps:g}")
        elif not config.is_file:
            options = LIVE | LOW_LATENCY.get(config.scheme, {}) | LOW_LATENCY.get(kind, {}) | options
            if kind == "mpegts":
                # The keyframe with the picture's size may be seconds away; the decoder can wait for it.
                options.setdefault("probesize", str(round(PROBED_BYTES_PER_S * config.read_timeout_s / 2)))
        # The whitelists come last: a cell file's options do not loosen them.
        options["format_whitelist"] = f"{MEDIA_FORMATS},{kind}" if kind else MEDIA_FORMATS
        options["protocol_whitelist"] = PROTOCOLS[config.scheme]
        # FFmpeg may start its read timeout anew once, so half of it keeps the promise of `read_timeout_s`.
        wait_s = config.read_timeout_s / 2
        container = av.open(config.url, "r", format=kind or None, options=options, timeout=(wait_s, wait_s))
        self._container = container
        if not container.streams.video:
            raise self.error("holds no video", "correct url in the cell file")
        stream = container.streams.video[0]
        self.own_rate_hz = float(stream.average_rate or 0)
        self.has_stamps = config.is_file or not container.format.flags & NO_TIMESTAMPS
        stream.thread_type = "NONE"  # frame threads would hold frames back
        stream.codec_context.flags |= av.codec.context.Flags.low_delay
        return container, stream

    def _decoded(self, container: InputContainer, stream: VideoStream, offset_ns: int, seq: int) -> Iterator[Shot]:
        """Demux, stamp, decode; what cannot be decoded, or is damaged, leaves a hole in `seq`.

        FFmpeg reads ahead while it opens a live source. Nobody knows when those packets arrived, and a late stamp would
        start the stream's clock late; so their frames are decoded, but what is delivered begins with the first packet
        that had to be waited for (with RTP: and has the sender's UTC, if that comes soon).
        """
        live = not self.config.is_file
        arrivals: dict[int | None, tuple[int, int | None]] = {}
        fresh_ns = None if live else 0
        waited_ns, read_ahead = round(0.2e9 / self.config.fps), 0
        report_ns = round(REPORT_S * 1e9) if self.config.scheme in ("rtp", "rtsp", "rtsps") else 0
        first_pts: int | None = None
        asked_ns = shown_ns = opened_ns = time.monotonic_ns()
        patience_s = FIRST_FRAME_S
        shown, damaged, lost = False, False, 0
        for packet in container.demux(stream):
            arrival_ns = time.monotonic_ns()
            utc_ns = sender_utc_ns(packet) if report_ns else None
            waited = arrival_ns - asked_ns > waited_ns or read_ahead >= PROBED_FRAMES
            known = utc_ns is not None and packet.pts is not None  # FFmpeg leaves the first RTP packet without a stamp
            if fresh_ns is None and waited and (known or arrival_ns - opened_ns >= report_ns):
                fresh_ns = arrival_ns
            read_ahead += 1
            if packet.pts is not None:
                arrivals[packet.pts] = (arrival_ns, utc_ns)
                if len(arrivals) > 256:  # pictures that never came
                    arrivals.pop(next(iter(arrivals)))
            try:
                frames = packet.decode()
            except av.error.InvalidDataError:
                frames = []
                lost += 1
                seq += shown  # what comes before the first keyframe of a stream is no loss
            for frame in frames:
                if not isinstance(frame, DecodedFrame):
                    continue
                t_device_ns = None
                if self.has_stamps and frame.pts is not None and frame.time_base is not None:
                    first_pts = frame.pts if first_pts is None else first_pts
                    base = frame.time_base
                    pts = frame.pts - first_pts if offset_ns else frame.pts
                    t_device_ns = pts * base.numerator * 1_000_000_000 // base.denominator + offset_ns
                stamp_ns, utc_ns = arrivals.pop(frame.pts, (arrival_ns, utc_ns))
                shown_ns, patience_s = arrival_ns, self.config.read_timeout_s
                damaged = live and (packet.is_corrupt or (damaged and not frame.key_frame))
                if damaged:  # MPEG-TS counts its packets, and says so where one is missing
                    lost += 1
                    seq += shown
                    continue
                if fresh_ns is not None and stamp_ns >= fresh_ns:
                    yield Shot(
                        frame=frame, seq=seq, t_arrival_ns=stamp_ns, t_device_ns=t_device_ns, sender_utc_ns=utc_ns
                    )
                    seq += 1
                    shown = True
            if live and arrival_ns - shown_ns > patience_s * 1e9:
                raise self.error(f"showed no picture for {patience_s:g} s", "check the camera's encoder and the line")
            if self._stopped():
                return
            asked_ns = time.monotonic_ns()
        if lost and not live:
            log.warning("%s", self.error(f"has {lost} pictures that cannot be decoded", "they are missing in seq"))


def luma_of(frame: DecodedFrame) -> npt.NDArray[np.uint8]:
    """Copy the luma out of a decoded frame; only pictures without 8-bit luma are converted (to full range)."""
    if not LUMA_FORMAT.match(frame.format.name):
        frame = frame.reformat(format="gray")
    plane = frame.planes[0]
    rows = np.frombuffer(memoryview(plane), np.uint8).reshape(plane.height, plane.line_size)
    if frame.format.name in ("yuyv422", "uyvy422"):
        start = 0 if frame.format.name == "yuyv422" else 1
        return rows[:, start : start + 2 * frame.width : 2].copy()
    return rows[:, : frame.width].copy()


def is_limited_range(frame: DecodedFrame, forced: bool | None = None) -> bool:
    """Whether black is 16 and white 235: `forced`, else said by the source, else usual for YUV (but not gray)."""
    if forced is not None:
        return forced
    tagged = int(frame.color_range)
    if tagged in (FULL_RANGE, LIMITED_RANGE):
        return tagged == LIMITED_RANGE
    return not frame.format.name.startswith(("gray", "yuvj"))
