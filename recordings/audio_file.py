"""Reading the FLAC of a weld: whole ones and those whose recorder was killed."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import av
from av.audio.stream import AudioStream
from av.container import InputContainer

from acquisition.packet import StreamInfo
from recordings.audio_writer import Samples
from recordings.video_file import open_media
from recordings.weld_folder import PART, WeldError, swap_in

_LENGTH_AT: Final = 18
"""Where STREAMINFO holds 20 bits rate, 3 bits channels, 5 bits sample size and 36 bits length (RFC 9639, 8.2)."""


def _crc_table() -> list[int]:
    table = []
    for byte in range(256):
        crc = byte << 8
        for _ in range(8):
            crc = (crc << 1 ^ 0x8005 if crc & 0x8000 else crc << 1) & 0xFFFF
        table.append(crc)
    return table


_CRC: Final = _crc_table()


def _whole(frame: bytes) -> bool:
    """Tell whether a FLAC frame is complete: its CRC-16 over everything, the CRC included, is zero (RFC 9639, 9.3)."""
    crc = 0
    for byte in frame:
        crc = (crc << 8 & 0xFFFF) ^ _CRC[crc >> 8 ^ byte]
    return crc == 0


def whole_frames(container: InputContainer) -> "Iterator[av.Packet[AudioStream]]":
    """Give the FLAC frames of the file; only the last one can be cut off, so only that one is checked."""
    last: av.Packet[AudioStream] | None = None
    try:
        for packet in container.demux(audio=0):
            if packet.size:
                if last is not None:
                    yield last
                last = packet
    except av.FFmpegError:
        pass  # the end of a cut-off file; the caller counts what came
    if last is not None and _whole(bytes(last)):
        yield last


def decode_sound(path: Path, info: StreamInfo, first: int = 0) -> Iterator[Samples]:
    """Decode a sound file, `(n, channels)` of the stream's dtype at a time, from sample `first` of the file on.

    Raises:
        WeldError: It cannot be opened, or holds another type or number of channels.
    """
    with open_media(path, "flac") as container:
        stream = container.streams.audio[0] if container.streams.audio else None
        if stream is None or stream.codec_context is None:
            raise WeldError(f"{path}: holds no sound that can be decoded; restore the file from a copy")
        context, skip = stream.codec_context, first
        if first and _leads_to(path, first):
            container.seek(first, stream=stream)
            skip = -1
        for packet in whole_frames(container):
            if skip < 0:
                skip = first - (packet.pts or 0)
            try:
                frames = context.decode(packet)
            except av.InvalidDataError:
                continue
            for frame in frames:
                samples: Any = frame.to_ndarray().reshape(-1, len(frame.layout.channels))
                if samples.dtype != info.dtype or samples.shape[1] != len(info.channels):
                    raise WeldError(
                        f"{path}: {samples.dtype} with {samples.shape[1]} channels, but the manifest says {info.dtype} "
                        f"with {len(info.channels)}; restore the file or the manifest from a copy"
                    )
                passed = min(skip, len(samples))
                skip -= passed
                if passed < len(samples):
                    yield samples[passed:]


def _leads_to(path: Path, first: int) -> bool:
    """Tell whether seeking finds a frame at or before a sample, whose number its frame header tells."""
    with open_media(path, "flac") as container:
        stream = container.streams.audio[0]
        try:
            container.seek(first, stream=stream)
            frame = next(container.demux(stream), None)
        except av.FFmpegError:
            return False
        if frame is None or frame.pts is None or frame.time_base is None:
            return False
        return bool(frame.time_base * stream.rate == 1) and frame.pts <= first


def salvage_sound(path: Path, info: StreamInfo) -> int:
    """Complete a cut-off FLAC and return the samples in it.

    Its frames go over byte for byte into a copy whose head gets the length; a torn last frame stays behind. A file
    without one whole frame is left alone.
    """
    try:
        samples = sum(len(block) for block in decode_sound(path, info))
        with open_media(path, "flac") as container:
            frames = b"".join(bytes(frame) for frame in whole_frames(container))
    except WeldError:
        return 0
    if not samples:
        return 0
    data = path.read_bytes()
    start = data.index(frames[:16], 4)
    head = bytearray(data[:start])
    fields = int.from_bytes(head[_LENGTH_AT : _LENGTH_AT + 8], "big")
    head[_LENGTH_AT : _LENGTH_AT + 8] = (fields >> 36 << 36 | samples).to_bytes(8, "big")
    part = path.with_name(path.name + PART)
    part.write_bytes(bytes(head) + frames)
    swap_in(part, path)
    return samples
