"""Reading the video of a weld: whole files, files whose recorder was killed, and imported ones."""

import contextlib
import io
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import av
import numpy as np
import numpy.typing as npt
from av.container import InputContainer
from av.video.stream import VideoStream

from acquisition.packet import StreamInfo
from recordings.video_encoder import TIME_BASE
from recordings.video_writer import MP4_OPTIONS
from recordings.weld_folder import PART, WeldError, swap_in

VIDEO_FORMATS: Final = "mov,mp4,avi,matroska,webm,h264,mjpeg,mpeg"
"""Containers that a weld may hold; anything else, a playlist say, could make FFmpeg open other files."""

_EXPAND: Final = np.clip(np.rint((np.arange(256) - 16) * (255 / 219)), 0, 255).astype(np.uint8)
_EXPAND_TABLE: Final = _EXPAND.tobytes()


def open_media(path: Path, formats: str, file: io.RawIOBase | None = None) -> InputContainer:
    """Open a media file of the weld and nothing else that it may name.

    Raises:
        WeldError: It is absent, damaged, or of another format.
    """
    options = {"format_whitelist": formats, "protocol_whitelist": "file"}
    try:
        return av.open(str(path) if file is None else file, "r", options=options, metadata_errors="replace")
    except (OSError, av.FFmpegError) as error:
        cause = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise WeldError(f"{path}: {cause}; recover the weld or restore the file from a copy") from error


class _Uncovered(io.FileIO):
    """An MP4 whose closing was cut off after its fragments had been covered by one big box: shows them again."""

    def __init__(self, path: Path, at: int) -> None:
        super().__init__(path, "rb")
        self._at = at

    def read(self, size: int | None = -1, /) -> bytes:
        start = self.tell()
        data = bytearray(super().read(-1 if size is None else size) or b"")
        for i, byte in enumerate(struct.pack(">I4s", 8, b"free"), self._at - start):
            if 0 <= i < len(data):
                data[i] = byte
        return bytes(data)


def _cover(path: Path) -> int | None:
    """Return where the box lies that covers the fragments of a file which has no index of the whole, or None."""
    size, at, cover = path.stat().st_size, 0, None
    with path.open("rb") as file:
        while at + 16 <= size:
            file.seek(at)
            length, kind, long_length = struct.unpack(">I4sQ", file.read(16))
            length = long_length if length == 1 else length
            if kind == b"moov" and at + length <= size:
                return None
            if kind == b"mdat" and cover is None:
                cover = at
            if length < 8:
                break
            at += length
    return cover


@contextlib.contextmanager
def open_video(path: Path) -> Iterator[InputContainer]:
    """Open a video of the weld, finished or cut off anywhere.

    Raises:
        WeldError: Nothing in it can be read.
    """
    cover = _cover(path) if path.suffix == ".mp4" and path.exists() else None
    with contextlib.ExitStack() as stack:
        file = None if cover is None else stack.enter_context(_Uncovered(path, cover))
        yield stack.enter_context(open_media(path, VIDEO_FORMATS, file))


def whole_packets(path: Path, container: InputContainer) -> "Iterator[av.Packet[VideoStream]]":
    """Give the encoded frames that lie wholly in the file."""
    size = path.stat().st_size
    try:
        for packet in container.demux(video=0):
            at = packet.pos or 0
            if packet.size and not packet.is_corrupt and at + packet.size <= size:
                yield packet
    except av.FFmpegError:
        return  # the end of a cut-off file; the caller counts what came


def decode_luma(
    path: Path, info: StreamInfo, *, limited_range: bool, start_us: int | None = None
) -> Iterator[tuple[int, npt.NDArray[np.uint8]]]:
    """Decode a video and give (pts in microseconds, luma `(height, width)` uint8 in full range) per frame.

    The luma plane is taken as it is; no scaler gets a chance to change its range.

    Args:
        path: The file.
        info: The stream that it holds.
        limited_range: Luma is coded 16-235.
        start_us: Give only frames from this time on. Decoding begins at the keyframe before it where the file leads
            there, else at its start; the frames are the same.

    Raises:
        WeldError: It cannot be opened, or has no 8-bit luma of the stream's size.
    """
    if start_us is not None and not _leads_to(path, start_us):
        for pts_us, pixels in decode_luma(path, info, limited_range=limited_range):
            if pts_us >= start_us:
                yield pts_us, pixels
        return
    with open_video(path) as container:
        stream = container.streams.video[0] if container.streams.video else None
        if stream is None or stream.codec_context is None:
            raise WeldError(f"{path}: holds no video that can be decoded; restore the file from a copy")
        context, to_us = stream.codec_context, (stream.time_base or TIME_BASE) / TIME_BASE
        context.thread_type = "AUTO"
        # An AVI holds no presentation times; the one that FFmpeg gives H.264 in it is that of the frame after.
        late = container.format.name == "avi" and context.name == "h264"
        if start_us is not None:
            container.seek(round(start_us / to_us), stream=stream)
        for packet in _with_end(whole_packets(path, container)):
            try:
                frames = context.decode(packet)
            except av.InvalidDataError:
                continue
            for frame in frames:
                pts_us = round((frame.dts if late and frame.dts is not None else frame.pts or 0) * to_us)
                if start_us is None or pts_us >= start_us:
                    luma = _luma(path, frame, info)
                    yield pts_us, expanded(luma) if limited_range else luma


def _leads_to(path: Path, start_us: int) -> bool:
    """Tell whether the file's index leads to a keyframe at or before a time, from which on frames come in order."""
    with open_video(path) as container:
        stream = container.streams.video[0] if container.streams.video else None
        if stream is None or stream.codec_context is None or stream.codec_context.has_b_frames:
            return False
        to_us = (stream.time_base or TIME_BASE) / TIME_BASE
        try:
            container.seek(round(start_us / to_us), stream=stream)
            first = next(container.demux(stream), None)
        except av.FFmpegError:
            return False
        return first is not None and first.is_keyframe and first.pts is not None and first.pts * to_us <= start_us


def expanded(luma: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Return luma coded 16-235, `(height, width)` uint8, in full range."""
    # Three times as fast as indexing a table by the picture.
    return np.frombuffer(bytearray(luma.data).translate(_EXPAND_TABLE), np.uint8).reshape(luma.shape)


def _with_end(packets: "Iterator[av.Packet[VideoStream]]") -> "Iterator[av.Packet[VideoStream] | None]":
    yield from packets
    yield None


def _luma(path: Path, frame: av.VideoFrame, info: StreamInfo) -> npt.NDArray[np.uint8]:
    if not frame.format.name.startswith(("gray", "yuv", "nv12")) or frame.format.components[0].bits != 8:
        raise WeldError(f"{path}: pixel format {frame.format.name} has no 8-bit luma; convert it to yuv420p")
    if (frame.height, frame.width) != (info.height, info.width):
        raise WeldError(
            f"{path}: frames of {frame.width} x {frame.height}, but the manifest says {info.width} x {info.height}; "
            "restore the file or the manifest from a copy"
        )
    plane = frame.planes[0]
    rows: npt.NDArray[np.uint8] = np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)
    return rows[: frame.height, : frame.width].copy()


def salvage_video(path: Path) -> set[int]:
    """Make an ordinary MP4 of a cut-off one and return the times of its frames, microseconds.

    The encoded frames go over byte for byte into a copy that is then swapped in. A file without one whole frame is
    left alone.
    """
    times: set[int] = set()
    part = path.with_name(path.name + PART)
    try:
        with open_video(path) as source:
            if not source.streams.video:
                return times
            # A file of our own: FFmpeg does not close one whose head it could not write, on a full disk.
            with part.open("wb") as file, av.open(file, "w", format="mp4", options=MP4_OPTIONS) as copy:
                stream = copy.add_stream_from_template(source.streams.video[0])
                stream.time_base = TIME_BASE
                for packet in whole_packets(path, source):
                    times.add(round((packet.pts or 0) * packet.time_base / TIME_BASE))
                    packet.stream = stream
                    copy.mux(packet)
    except WeldError:
        return times
    if times:
        swap_in(part, path)
    return times
