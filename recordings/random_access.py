"""Single frames and stretches of sound of a finished weld, without decoding what lies before them.

Both are found through the file's own index and checked by their time stamps. A file whose stamps do not lead there (an
imported one with unreadable frames, say) is read from its start, as `WeldReader` does: slower, and never another frame.
"""

import contextlib
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, pairwise
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt

from recordings.audio_file import decode_sound
from recordings.audio_writer import Samples
from recordings.manifest import StreamRecord
from recordings.video_encoder import CODEC, CODEC_LOSSLESS, TIME_BASE
from recordings.video_file import _luma, decode_luma, expanded, open_media, open_video, whole_packets
from recordings.weld_folder import WeldError

Luma = npt.NDArray[np.uint8]


class FrameAccess:
    """Frames of one video file by their place in the frame index; one decoder, one thread.

    The file is opened with the first frame and stays open until `close`.
    """

    def __init__(self, path: Path, record: StreamRecord, pts_us: Sequence[int]) -> None:
        """Prepare for a file.

        Args:
            path: The video file.
            record: Its stream.
            pts_us: Time in the file of every frame of the index, in file order.
        """
        self._path = path
        self._record = record
        self._pts_us = pts_us
        self._stack = contextlib.ExitStack()
        self._container: av.container.InputContainer | None = None
        self._keyframes: list[int] = []
        self._frames: Iterator[tuple[int, av.VideoFrame]] = iter(())
        self._at: int | None = None
        ascending = all(a < b for a, b in pairwise(pts_us))
        self._seekable = ascending and not record.losses

    def close(self) -> None:
        """Close the file; the next frame opens it again."""
        self._stack.close()
        self._container, self._frames, self._at = None, iter(()), None

    def read(self, numbers: Iterable[int]) -> dict[int, Luma]:
        """Decode frames.

        Args:
            numbers: Places in the frame index.

        Returns:
            Luma `(height, width)` uint8 in full range, by place.

        Raises:
            WeldError: The file is damaged, or lacks a frame.
        """
        wanted = sorted(set(numbers))
        found = dict(self._sought(wanted)) if self._seekable else {}
        return found if len(found) == len(wanted) else self._from_start(set(wanted))

    def _sought(self, wanted: list[int]) -> Iterator[tuple[int, Luma]]:
        """Give frames by ascending place, up to the first that is not where the file's index says."""
        try:
            if not self._open():
                return
            for number in wanted:
                pts_us = self._pts_us[number]
                place = bisect_right(self._keyframes, pts_us)
                if not place:
                    return
                key = self._keyframes[place - 1]
                if self._at is None or not key <= self._at < pts_us:
                    self._seek(key)
                frame = self._advance(pts_us)
                if frame is None or self._at != pts_us:
                    return
                luma = _luma(self._path, frame, self._record.info)
                yield number, expanded(luma) if self._record.limited_range else luma
        except av.FFmpegError:
            self.close()

    def _advance(self, pts_us: int) -> av.VideoFrame | None:
        """Decode up to the first frame that is not before `pts_us`."""
        for at_us, frame in self._frames:
            self._at = at_us
            if at_us >= pts_us:
                return frame
        self._at = None
        return None

    def _open(self) -> bool:
        """Open the file; returns whether its index leads to frames that need none before them."""
        if self._container is not None:
            return True
        container = self._stack.enter_context(open_video(self._path))
        stream = container.streams.video[0] if container.streams.video else None
        if stream is None or stream.codec_context is None:
            raise WeldError(f"{self._path}: holds no video that can be decoded; restore the file from a copy")
        if stream.codec_context.has_b_frames:
            self.close()
            return False
        # One thread: a worker has one core, a fork has no threads, and a seek throws away what others decode ahead.
        stream.codec_context.thread_count = 1
        to_us = (stream.time_base or TIME_BASE) / TIME_BASE
        self._keyframes = [round(entry.timestamp * to_us) for entry in stream.index_entries if entry.is_keyframe]
        self._container = container
        return True

    def _seek(self, key_us: int) -> None:
        assert self._container is not None
        stream = self._container.streams.video[0]
        to_us = (stream.time_base or TIME_BASE) / TIME_BASE
        self._container.seek(round(key_us / to_us), stream=stream)
        self._frames, self._at = self._decoded(), None

    def _decoded(self) -> Iterator[tuple[int, av.VideoFrame]]:
        assert self._container is not None
        stream = self._container.streams.video[0]
        to_us = (stream.time_base or TIME_BASE) / TIME_BASE
        for packet in chain(whole_packets(self._path, self._container), (None,)):
            with contextlib.suppress(av.InvalidDataError):
                for frame in stream.codec_context.decode(packet):
                    yield round((frame.pts or 0) * to_us), frame

    def _from_start(self, numbers: set[int]) -> dict[int, Luma]:
        info, limited_range = self._record.info, self._record.limited_range
        frames = decode_luma(self._path, info, limited_range=limited_range)
        by_time = self._record.codec in (CODEC, CODEC_LOSSLESS)
        place = {pts_us: n for n, pts_us in enumerate(self._pts_us)}
        found: dict[int, Luma] = {}
        for count, (pts_us, pixels) in enumerate(frames):
            number = place.get(pts_us, -1) if by_time else count
            if number in numbers:
                found[number] = pixels
            if len(found) == len(numbers):
                break
        if missing := sorted(numbers - found.keys()):
            raise WeldError(
                f"{self._path}: frame {missing[0]} of {len(self._pts_us)} cannot be read; run verify, "
                "restore the file from a copy"
            )
        return found


class SoundAccess:
    """Stretches of one FLAC file by sample number; stays open until `close`."""

    def __init__(self, path: Path, record: StreamRecord) -> None:
        """Prepare for the sound file `path` of the stream `record`."""
        self._path = path
        self._info = record.info
        self._container: av.container.InputContainer | None = None

    def close(self) -> None:
        """Close the file; the next stretch opens it again."""
        if self._container is not None:
            self._container.close()
            self._container = None

    def read(self, start: int, stop: int) -> Samples:
        """Decode the samples `start` to `stop` (exclusive) of the file, `(n, channels)` in the stream's dtype.

        Raises:
            WeldError: The file is damaged or ends before.
        """
        found = self._sought(start, stop)
        if len(found) < stop - start:
            found = self._from_start(start, stop)
        if len(found) < stop - start:
            raise WeldError(f"{self._path}: the sound ends before sample {stop}; run verify, restore it from a copy")
        return found

    def _sought(self, start: int, stop: int) -> Samples:
        parts, at = [np.zeros((0, len(self._info.channels)), self._info.dtype)], start
        try:
            if self._container is None:
                self._container = open_media(self._path, "flac")
            if not self._container.streams.audio or start >= stop:
                return parts[0]
            stream = self._container.streams.audio[0]
            self._container.seek(start, stream=stream)
            for frame in self._container.decode(stream):
                samples = frame.to_ndarray().reshape(-1, len(frame.layout.channels))
                first = frame.pts
                if first is None or first > at or samples.dtype != self._info.dtype:
                    break  # not where it should be: the caller reads from the start, which says what is wrong
                parts.append(samples[at - first : stop - first])
                at = max(at, min(stop, first + len(samples)))
                if at >= stop:
                    break
        except av.FFmpegError:
            self.close()
        return np.concatenate([part for part in parts if part.shape[1] == len(self._info.channels)])

    def _from_start(self, start: int, stop: int) -> Samples:
        parts, at = [np.zeros((0, len(self._info.channels)), self._info.dtype)], 0
        for samples in decode_sound(self._path, self._info):
            parts.append(samples[max(start - at, 0) : max(stop - at, 0)])
            at += len(samples)
            if at >= stop:
                break
        return np.concatenate(parts)
