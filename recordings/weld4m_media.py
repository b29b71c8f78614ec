"""What an imported video or sound file really holds: everything is decoded once, nothing is believed from its head.

The decoding is that of every later reader of the weld, so that the index names exactly the frames that will be read.
"""

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Final

import av
import numpy as np
import numpy.typing as npt

from acquisition.packet import StreamInfo
from recordings.audio_file import decode_sound
from recordings.video_file import decode_luma, open_media
from recordings.weld_folder import WeldError
from sync.arc import frame_light

_SOUND_DTYPES: Final = {"s16": "int16", "s32": "int32"}
_MAX_PIXELS: Final = 4096 * 4096


class MediaError(Exception):
    """A media file holds nothing that can be used; the message names file, cause and next step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoScan:
    """The frames of a video that decode.

    Attributes:
        info: The stream that they make.
        limited_range: Luma is coded 16-235.
        frames: `(n,)` int64 numbers of the decoded frames, strictly increasing; a jump is frames that do not decode.
        pts_us: `(n,)` int64 their times in the file.
        light: `(n,)` float64 `frame_light` of each.
        declared: Frames that the container's head promises, at least the last decoded number plus one.
    """

    info: StreamInfo
    limited_range: bool
    frames: npt.NDArray[np.int64]
    pts_us: npt.NDArray[np.int64]
    light: npt.NDArray[np.float64]
    declared: int

    @property
    def frame_ns(self) -> npt.NDArray[np.int64]:
        """`(n,)` int64 times of the frames since the first one of the file."""
        return (self.frames / self.info.rate_hz * 1e9).round().astype(np.int64)


@dataclass(frozen=True, slots=True, kw_only=True)
class SoundScan:
    """The samples of a sound file that decode.

    Attributes:
        info: The stream that they make.
        samples: `(n, channels)` int16 or int32.
        declared: Samples that the file's head promises, at least n.
    """

    info: StreamInfo
    samples: npt.NDArray[np.int16] | npt.NDArray[np.int32]
    declared: int


def scan_video(path: Path, name: str) -> VideoScan:
    """Decode a whole AVI into what stream `name` will hold.

    Raises:
        MediaError: Not an AVI, no video in it, or no frame that decodes.
    """
    try:
        with open_media(path, "avi") as container:
            stream = next(iter(container.streams.video), None)
            if stream is None:
                raise MediaError(f"{path.name}: holds no video; check or replace it")
            context, promised = stream.codec_context, stream.frames
            rate_hz = float(stream.average_rate or Fraction(30))
            limited_range = not str(context.pix_fmt).startswith("yuvj") and context.color_range != 2
            info = StreamInfo(name=name, modality="video", rate_hz=rate_hz, height=context.height, width=context.width)
        if info.height * info.width > _MAX_PIXELS:
            raise MediaError(f"{path.name}: {info.width} x {info.height} pixels are too many; check or replace it")
        frames: list[int] = []
        pts: list[int] = []
        light: list[float] = []
        for pts_us, pixels in decode_luma(path, info, limited_range=limited_range):
            frames.append(max(round(pts_us * rate_hz / 1e6), frames[-1] + 1 if frames else 0))
            pts.append(pts_us)
            light.append(frame_light(pixels))
    except (WeldError, av.FFmpegError) as error:
        raise _unusable(path, error) from None
    if not frames:
        raise MediaError(f"{path.name}: none of its frames can be decoded; copy the file again from its source")
    return VideoScan(
        info=info,
        limited_range=limited_range,
        frames=np.array(frames, np.int64),
        pts_us=np.array(pts, np.int64),
        light=np.array(light),
        declared=max(promised, frames[-1] + 1),
    )


def scan_sound(path: Path, name: str) -> SoundScan:
    """Decode a whole FLAC into what stream `name` will hold.

    Raises:
        MediaError: Not a FLAC, or no sample that decodes.
    """
    try:
        with open_media(path, "flac") as container:
            stream = next(iter(container.streams.audio), None)
            if stream is None or stream.codec_context.format.name not in _SOUND_DTYPES:
                raise MediaError(f"{path.name}: holds no sound of 16 to 32 bits; check or replace it")
            context = stream.codec_context
            channels = context.channels
            info = StreamInfo(
                name=name,
                modality="audio",
                rate_hz=float(context.sample_rate),
                channels=("mono",) if channels == 1 else tuple(f"channel_{i}" for i in range(channels)),
                units=("",) * channels,
                dtype=_SOUND_DTYPES[context.format.name],
            )
            seconds = (stream.duration or 0) * (stream.time_base or Fraction(0))
            promised = round(seconds * context.sample_rate)
        parts = list(decode_sound(path, info))
    except (WeldError, av.FFmpegError) as error:
        raise _unusable(path, error) from None
    if not parts:
        raise MediaError(f"{path.name}: none of its sound can be decoded; copy the file again from its source")
    samples: npt.NDArray[Any] = np.concatenate(parts)
    return SoundScan(info=info, samples=samples, declared=max(promised, len(samples)))


def _unusable(path: Path, error: Exception) -> MediaError:
    """One line without the advice for recorded welds that the reader's own error ends in."""
    cause = str(error.__cause__ or error).splitlines()[0].partition(": '")[0]
    return MediaError(f"{path.name}: {cause}; copy the file again from its source, or take it away")
