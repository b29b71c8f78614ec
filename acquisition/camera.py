"""A camera as a stream of full-range gray frames: a device, a network stream or a video file (`video_source`).

The luma plane is taken as it is; a limited-range source (16-235) is expanded once by a table.
"""

import itertools
import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import av
import numpy as np
import numpy.typing as npt
from av.video.frame import VideoFrame as DecodedFrame

from acquisition.driver import ThreadedDriver
from acquisition.frame_times import FrameTimes, SenderClock
from acquisition.packet import Packet, StreamInfo, VideoFrame
from acquisition.video_source import (
    DEVICE_FORMATS,
    EXPAND,
    LUMA_FORMAT,
    Shot,
    SourceConfig,
    VideoSource,
    is_limited_range,
    luma_of,
)

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class CameraConfig(SourceConfig):
    """Settings of a camera, beyond those of its source.

    Attributes:
        loop: A file starts again at its end.
        real_time: A file is delivered at its own pace; else as fast as it is read, waiting for the reader.
    """

    loop: bool = False
    real_time: bool = True


class Camera(ThreadedDriver):
    """A camera, network stream or file as a stream of gray frames.

    A file that ended leaves the driver open and silent; a live source that ends is lost and reopened, and so is one
    that changes its picture size.

    Device time is one time base per segment: the stream's own stamps, or, where an RTP sender says its UTC before the
    first frame, those stamps moved by one constant to be the sender's UTC. So the recorded times of two cameras that
    share a PTP or NTP host, or of one camera before and after a restart, can be compared as they are. Later reports
    move nothing (`sender_clock` says how far they left the first one). A raw stream (H.264, MJPEG over HTTP) has no
    times of its own: its arrival counts.

    Attributes:
        frame_times: True rate and odd stamps of the segment, since its first frame.
        sender_clock: The sender's UTC and the latency against it, or None where the stream has no UTC.
    """

    BACKLOG: Final = 64
    """Frames that a file read without pacing may be ahead of its reader."""

    def __init__(self, name: str, config: CameraConfig) -> None:
        """Prepare the camera; touches no device."""
        super().__init__(name)
        self.config = config
        self.frame_times = FrameTimes(f"camera {name}", 0.0)
        self.sender_clock: SenderClock | None = None
        self._source = VideoSource("camera", name, config, self._is_closing)
        self._shots: Iterator[Shot] = iter(())
        self._expand = False

    def _connect(self) -> StreamInfo:
        """Open the source and decode its first frame, which alone proves that it is a video."""
        shots = self._deliveries()
        shot = self._source.first_of(shots, "file")
        self._shots = itertools.chain((shot,), shots)
        title = f"camera {self.name}"
        self.frame_times = FrameTimes(title, 0.0 if self.config.is_file else self.config.fps)
        self.sender_clock = None
        if shot.sender_utc_ns is not None and shot.t_device_ns is not None:
            self.sender_clock = SenderClock(title, shot.t_device_ns, shot.sender_utc_ns)
        frame = shot.frame
        # A converted picture is full range already.
        self._expand = bool(LUMA_FORMAT.match(frame.format.name)) and is_limited_range(
            frame, self.config.expand_limited_range
        )
        return StreamInfo(
            name=self.name,
            modality="video",
            rate_hz=self._rate_hz(),
            channels=("gray",),
            units=("",),
            height=frame.height,
            width=frame.width,
            device_clock="stamps" if self._source.has_stamps else "none",
        )

    def _rate_hz(self) -> float:
        """The file's own rate; else the rate set, with a warning when the device runs at another."""
        own, config = self._source.own_rate_hz, self.config
        if config.is_file and own:
            return own
        if config.input_format in DEVICE_FORMATS and own and abs(own - config.fps) > 0.02 * config.fps:
            fault = self._source.error(f"runs at {own:g} fps, not {config.fps:g}", "set fps to what the camera can")
            log.warning("%s", fault)
        return config.fps

    def _deliveries(self) -> Iterator[Shot]:
        """Yield the source's frames; a looping file is opened again at its end, its time and numbers going on."""
        offset_ns = seq = 0
        while True:
            last_ns: int | None = None
            for shot in self._source.shots(offset_ns, seq):
                last_ns, seq = shot.t_device_ns, shot.seq + 1
                yield shot
            if not (self.config.is_file and self.config.loop):
                return
            self._source.close()
            period_ns = round(1e9 / (self._source.own_rate_hz or self.config.fps))
            offset_ns = (offset_ns if last_ns is None else last_ns) + period_ns

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
                        t_device_ns=self._device_ns(shot),
                        t_arrival_ns=arrival_ns,
                        payload=VideoFrame(pixels=self._pixels(shot.frame)),
                    )
                )
        except av.error.FFmpegError as error:
            raise self._source.explained(error) from None
        if not config.is_file and not self._stop.is_set():
            raise self._source.error("ended the stream", "it is tried again; restart the sender if it stays away")
        self._stop.wait()  # the end of a file is no fault

    def _device_ns(self, shot: Shot) -> int | None:
        """Device time of a frame, its oddities counted."""
        if self.config.is_file:
            return shot.t_device_ns
        self.frame_times.observe(shot.t_device_ns, shot.t_arrival_ns)
        if self.sender_clock is None or shot.t_device_ns is None:
            return shot.t_device_ns
        return self.sender_clock.observe(shot.t_device_ns, shot.sender_utc_ns, shot.t_arrival_ns)

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
            raise self._source.error(
                f"changed its picture from {self.info.width}x{self.info.height} to {frame.width}x{frame.height}",
                "it is opened again; set video_size in options if it should not change",
            )
        luma = luma_of(frame)
        return EXPAND[luma] if self._expand else luma

    def _disconnect(self) -> None:
        self._shots = iter(())
        self._source.close()
