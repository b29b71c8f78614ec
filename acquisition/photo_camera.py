"""Photos taken by a camera on command: some time after each weld, and whenever somebody asks for them."""

import io
import logging
import queue
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import av
import PIL.Image
from av.video.frame import VideoFrame as DecodedFrame

from acquisition.driver import ThreadedDriver
from acquisition.packet import Event, Packet, Photo, StreamInfo
from acquisition.video_source import (
    EXPAND,
    FULL_RANGE,
    LIMITED_RANGE,
    Shot,
    SourceConfig,
    VideoSource,
    is_limited_range,
    luma_of,
)

log = logging.getLogger(__name__)

COMMANDS_WAITING: Final = 100
"""More commands than this at a time are refused."""
STALE_NS: Final = 3_000_000_000
"""Frames that seem to be later than this are not late: the camera's clock was set."""
DRIFT: Final = 500e-6
"""No camera's clock is further off."""
LOOK_S: Final = 0.1
"""How often a closed camera looks for a command."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PhotoCameraConfig(SourceConfig):
    """Settings of a camera that takes photos, beyond those of its source.

    Attributes:
        delay_s: The first photo of a weld is taken this long after its arc went out (smoke, glow, torch).
        photos: Photos per command, numbered as views 0, 1, ...
        interval_s: Time from one photo to the next.
        keep_open: Keep the camera running between photos, which costs decoding; otherwise it is opened when needed.
        latency_s: A frame that arrives this soon after its command may show what was before, and is passed over.
        give_up_s: A photo that could not be taken for this long is missed, and said so.
        quality: JPEG quality.
    """

    delay_s: float = 3.0
    photos: int = 1
    interval_s: float = 0.5
    keep_open: bool = True
    latency_s: float = 0.1
    give_up_s: float = 15.0
    quality: int = 92

    def __post_init__(self) -> None:
        """Refuse what could never take a photo."""
        SourceConfig.__post_init__(self)  # a slotted dataclass has no zero-argument super
        if self.is_file:
            raise ValueError(f"url '{self.url}' is a file, which takes no photos; name a device or stream")
        if not (1 <= self.photos <= 100 and 1 <= self.quality <= 100):
            raise ValueError(f"photos ({self.photos}) and quality ({self.quality}) must be 1 to 100")
        for name in ("delay_s", "interval_s", "latency_s", "give_up_s"):
            if not 0 <= getattr(self, name) <= 3600:
                raise ValueError(f"{name} is {getattr(self, name)}; give 0 to 3600 seconds")


@dataclass(frozen=True, slots=True)
class _Wanted:
    """A photo to be taken at the first frame from `due_ns` on."""

    due_ns: int
    view: int
    weld: str | None


class PhotoCamera(ThreadedDriver):
    """A camera as a stream of photos, JPEG in the camera's colours, full range.

    `arc_off` and `take_photos` are its commands. A photo always shows what was after its command; one that a dead
    camera could not take is taken when it is back, until `give_up_s`. Every photo takes a frame of its own.

    Attributes:
        missed: Photos that were commanded and never taken.
    """

    def __init__(self, name: str, config: PhotoCameraConfig) -> None:
        """Prepare the camera; touches no device."""
        super().__init__(name)
        self.config = config
        self.missed = 0
        self._source = VideoSource("photos", name, config, self._is_closing)
        self._shots: Iterator[Shot] | None = None
        self._commands: queue.SimpleQueue[tuple[int, str | None]] = queue.SimpleQueue()
        self._wanted: list[_Wanted] = []
        self._taken = 0
        self._least_ns: int | None = None
        self._before_ns = 0

    def notify(self, event: Event) -> None:
        """Command photos; any other event is none of its business."""
        if event.kind not in ("arc_off", "take_photos"):
            return
        if self._commands.qsize() >= COMMANDS_WAITING:
            self._miss(self.config.photos, f"more than {COMMANDS_WAITING} commands wait")
            return
        now_ns = due_ns = time.monotonic_ns()
        if event.kind == "arc_off":
            went_out_ns = now_ns if event.t_ns is None else min(event.t_ns, now_ns)  # it is back-dated
            due_ns = max(now_ns, went_out_ns + round(self.config.delay_s * 1e9))
        self._commands.put((due_ns + round(self.config.latency_s * 1e9), event.weld))

    def _connect(self) -> StreamInfo:
        """Open the camera and see its first frame; what waited in vain meanwhile is given up."""
        self._listen()
        shots = self._source.shots()
        self._source.first_of(shots, "camera")
        self._shots, self._least_ns = shots, None
        return StreamInfo(name=self.name, modality="post_images", rate_hz=0.0)

    def _run(self) -> None:
        while not self._stop.is_set():
            if self._shots is None:
                self._stop.wait(LOOK_S)
                self._listen()
                if self._wanted:
                    self._connect()
            else:
                self._watch(self._shots)

    def _watch(self, shots: Iterator[Shot]) -> None:
        """Take the photos that fall due while the camera runs; returns when it is not needed any more."""
        try:
            for shot in shots:
                self._listen()
                shown_ns = self._shown_ns(shot)
                if self._wanted and shown_ns >= self._wanted[0].due_ns:
                    self._take(self._wanted[0], shot)
                    del self._wanted[0]
                if not (self._wanted or self.config.keep_open):
                    self._disconnect()
                    return
        except av.error.FFmpegError as error:
            raise self._source.explained(error) from None
        if not self._stop.is_set():
            raise self._source.error("ended the stream", "it is tried again; restart the camera if it stays away")

    def _shown_ns(self, shot: Shot) -> int:
        """When a frame would have arrived had nothing held it up: what lay in a buffer is not newer for that."""
        if shot.t_device_ns is None:
            return shot.t_arrival_ns
        delay_ns = shot.t_arrival_ns - shot.t_device_ns
        if self._least_ns is not None:  # the least delay so far, as far as the clocks may have drifted apart since
            least_ns = self._least_ns + round(DRIFT * max(0, shot.t_arrival_ns - self._before_ns))
            delay_ns = delay_ns if delay_ns > least_ns + STALE_NS else min(delay_ns, least_ns)
        self._least_ns, self._before_ns = delay_ns, shot.t_arrival_ns
        return shot.t_device_ns + delay_ns

    def _listen(self) -> None:
        """Take over new commands, and give up what has waited too long."""
        while not self._commands.empty():
            due_ns, weld = self._commands.get()
            step_ns = round(self.config.interval_s * 1e9)
            self._wanted += [_Wanted(due_ns + view * step_ns, view, weld) for view in range(self.config.photos)]
        self._wanted.sort(key=lambda wanted: wanted.due_ns)
        over_ns = time.monotonic_ns() - round(self.config.give_up_s * 1e9)
        late = [wanted for wanted in self._wanted if wanted.due_ns < over_ns]
        if late:
            del self._wanted[: len(late)]
            self._miss(len(late), f"the camera showed nothing for {self.config.give_up_s:g} s")

    def _miss(self, count: int, reason: str) -> None:
        self.missed += count
        self._problem = str(
            self._source.error(f"missed {count} photos: {reason}", "check the camera and take them by hand")
        )
        log.warning("%s (%d missed so far)", self._problem, self.missed)

    def _take(self, wanted: _Wanted, shot: Shot) -> None:
        """Develop and deliver a photo."""
        utc = datetime.fromtimestamp((time.time_ns() - time.monotonic_ns() + shot.t_arrival_ns) / 1e9, tz=UTC)
        name = f"{utc:%Y%m%dT%H%M%S}_{utc.microsecond // 1000:03d}Z-{wanted.view}.jpg"
        data = jpeg(shot.frame, self.config.quality, self.config.expand_limited_range)
        self._put(
            Packet(
                stream=self.name,
                seq=self._taken,
                t_arrival_ns=shot.t_arrival_ns,
                payload=Photo(name=name, data=data, weld_hint=wanted.weld, view=wanted.view),
            )
        )
        self._taken += 1

    def _disconnect(self) -> None:
        self._shots = None
        self._source.close()


def jpeg(frame: DecodedFrame, quality: int, limited_range: bool | None = None) -> bytes:
    """Encode a decoded frame as JPEG, full range, in colour where it has any.

    Args:
        frame: The frame.
        quality: 1 to 100.
        limited_range: Black is 16 and white 235; None to follow what the frame says.
    """
    limited = is_limited_range(frame, limited_range)
    if frame.format.name == "gray":
        luma = luma_of(frame)
        image = PIL.Image.fromarray(EXPAND[luma] if limited else luma)
    else:
        source_range = LIMITED_RANGE if limited else FULL_RANGE
        rgb = frame.reformat(format="rgb24", src_color_range=source_range, dst_color_range=FULL_RANGE)
        image = PIL.Image.fromarray(rgb.to_ndarray())
    data = io.BytesIO()
    image.save(data, "JPEG", quality=quality)
    return data.getvalue()
