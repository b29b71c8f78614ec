"""What an imported video or sound file really holds: everything is decoded once, nothing is believed from its head.

The decoding is that of every later reader of the weld, so that the index names exactly the frames that will be read.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import av
import numpy as np
import numpy.typing as npt

from acquisition.packet import StreamInfo
from recordings.audio_file import decode_sound
from recordings.audio_writer import LAYOUTS
from recordings.video_file import decode_luma, open_media
from recordings.weld4m_headers import LONGEST_S, MediaError, avi_promise, flac_promise
from recordings.weld_folder import WeldError
from sync.arc import frame_light

_SOUND_DTYPES: Final = {"s16": "int16", "s32": "int32"}
_MAX_PIXELS: Final = 4096 * 4096
_MAX_SOUND_BYTES: Final = 512 * 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoScan:
    """The frames of a video that decode.

    Attributes:
        info: The stream that they make.
        codec: How they are coded, as `weld.json` calls it.
        limited_range: Luma is coded 16-235.
        frames: `(n,)` int64 numbers of the decoded frames, strictly increasing; a jump is frames that do not decode.
        pts_us: `(n,)` int64 their times in the file.
        light: `(n,)` float64 `frame_light` of each.
        declared: Frames that the container's head promises, at least the last decoded number plus one.
        notes: What else the owner should know.
    """

    info: StreamInfo
    codec: str
    limited_range: bool
    frames: npt.NDArray[np.int64]
    pts_us: npt.NDArray[np.int64]
    light: npt.NDArray[np.float64]
    declared: int
    notes: tuple[str, ...]

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
        notes: What else the owner should know.
    """

    info: StreamInfo
    samples: npt.NDArray[np.int16] | npt.NDArray[np.int32]
    declared: int
    notes: tuple[str, ...]


def scan_video(path: Path, name: str) -> VideoScan:
    """Decode a whole AVI into what stream `name` will hold.

    Raises:
        MediaError: Not an AVI, no video in it, or no frame that decodes.
    """
    rate_hz = avi_promise(path).rate_hz
    notes = []
    try:
        with open_media(path, "avi") as container:
            stream = next(iter(container.streams.video), None)
            if stream is None or stream.codec_context is None:
                raise MediaError(f"{path.name}: holds no video that can be decoded; check or replace it")
            if container.streams.audio:
                notes.append(f"{path.name}: holds sound too, which stays in the file but is no stream of the weld")
            context, promised = stream.codec_context, stream.frames
            limited_range = not str(context.pix_fmt).startswith("yuvj") and context.color_range != 2
            codec = context.name if context.name == "mpeg4" else f"avi-{context.name}"
            info = StreamInfo(name=name, modality="video", rate_hz=rate_hz, height=context.height, width=context.width)
        if not 0 < info.height * info.width <= _MAX_PIXELS:
            raise MediaError(f"{path.name}: {info.width} x {info.height} pixels cannot be; check or replace it")
        frames: list[int] = []
        pts: list[int] = []
        light: list[float] = []
        for pts_us, pixels in decode_luma(path, info, limited_range=limited_range):
            number = max(round(pts_us * rate_hz / 1e6), frames[-1] + 1 if frames else 0)
            if number > LONGEST_S * rate_hz:
                notes.append(f"{path.name}: stands still at frame {len(frames)}; what follows is left out")
                break
            frames.append(number)
            pts.append(pts_us)
            light.append(frame_light(pixels))
    except (WeldError, av.FFmpegError) as error:
        raise _unusable(path, error) from None
    if not frames:
        raise MediaError(f"{path.name}: none of its frames can be decoded; copy the file again from its source")
    if promised > LONGEST_S * rate_hz:
        notes.append(f"{path.name}: its head promises {promised} frames, which cannot be; what decodes counts")
        promised = 0
    return VideoScan(
        info=info,
        codec=codec,
        limited_range=limited_range,
        frames=np.array(frames, np.int64),
        pts_us=np.array(pts, np.int64),
        light=np.array(light),
        declared=max(promised, frames[-1] + 1),
        notes=tuple(notes),
    )


def scan_sound(path: Path, name: str) -> SoundScan:
    """Decode a whole FLAC into what stream `name` will hold.

    Raises:
        MediaError: Not a FLAC, or no sample that decodes.
    """
    promise = flac_promise(path)
    try:
        with open_media(path, "flac") as container:
            stream = next(iter(container.streams.audio), None)
            if stream is None or stream.codec_context is None or stream.codec_context.format.name not in _SOUND_DTYPES:
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
        if channels > len(LAYOUTS):
            raise MediaError(f"{path.name}: {channels} channels are too many; check or replace it")
        parts, size = list[npt.NDArray[Any]](), 0
        for part in decode_sound(path, info):
            parts.append(part)
            size += part.nbytes
            if size > _MAX_SOUND_BYTES:
                raise MediaError(f"{path.name}: more than {_MAX_SOUND_BYTES} bytes of sound; no weld lasts that long")
    except (WeldError, av.FFmpegError) as error:
        raise _unusable(path, error) from None
    if not parts:
        raise MediaError(f"{path.name}: none of its sound can be decoded; copy the file again from its source")
    samples = np.concatenate(parts)
    promised, notes = promise.items, tuple[str, ...]()
    if promised > LONGEST_S * promise.rate_hz:
        notes = (f"{path.name}: its head promises {promised} samples, which cannot be; what decodes counts",)
        promised = 0
    return SoundScan(info=info, samples=samples, declared=max(promised, len(samples)), notes=notes)


def _unusable(path: Path, error: Exception) -> MediaError:
    """One line without the advice for recorded welds that the reader's own error ends in."""
    cause = str(error.__cause__ or error).splitlines()[0].partition(": '")[0]
    return MediaError(f"{path.name}: {cause}; copy the file again from its source, or take it away")
