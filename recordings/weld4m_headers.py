"""What the first bytes of an AVI and a FLAC promise, read without decoding: no library is there to be fooled.

Sources: Microsoft, "AVI RIFF File Reference" (avih, strh); RFC 9639, section 8.2 (STREAMINFO).
"""

import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from recordings.weld4m_files import FileError, read_head, shown

LONGEST_S: Final = 6 * 3600
"""No weld lasts longer; a head that promises more is damaged."""

_HEAD: Final = 64 * 2**10
_VIDEO_RATES_HZ: Final = (0.1, 1000.0)


class MediaError(Exception):
    """A media file holds nothing that can be used; the message names file, cause and next step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Promise:
    """What a head says.

    Attributes:
        items: Frames or sample instants; 0 where it leaves that open.
        rate_hz: Items per second.
        height: Pixels, 0 for sound.
        width: Pixels, 0 for sound.
        cut_off: Bytes that the head promises and the file does not hold.
    """

    items: int
    rate_hz: float
    height: int = 0
    width: int = 0
    cut_off: int = 0


def avi_promise(path: Path) -> Promise:
    """Read the head of an AVI.

    Raises:
        MediaError: It is none, or holds no video.
    """
    head = _head(path)
    if head[:4] != b"RIFF" or head[8:12] != b"AVI ":
        raise MediaError(f"{shown(path.name)}: is no AVI; copy the file again from its source, or take it away")
    cut_off = max(0, int.from_bytes(head[4:8], "little") + 8 - os.stat(path).st_size)
    at = head.find(b"strh")
    while at >= 0:
        kind, (scale, rate, _, frames) = head[at + 8 : at + 12], _words(head, at + 28, 4)
        form = head.find(b"strf", at)
        if kind == b"vids":
            width, height = _words(head, form + 12, 2) if form >= 0 else (0, 0)
            rate_hz = rate / scale if scale else 0.0
            if not _VIDEO_RATES_HZ[0] <= rate_hz <= _VIDEO_RATES_HZ[1]:
                raise MediaError(f"{shown(path.name)}: {rate_hz:g} frames a second cannot be; replace it")
            if height >= 2**31:  # a negative height: the picture is stored from its top
                height = 2**32 - height
            return Promise(items=frames, rate_hz=rate_hz, height=height, width=width, cut_off=cut_off)
        at = head.find(b"strh", at + 4)
    raise MediaError(f"{shown(path.name)}: its head names no video; copy the file again from its source")


def flac_promise(path: Path) -> Promise:
    """Read the head of a FLAC.

    Raises:
        MediaError: It is none.
    """
    head = _head(path)
    if head[:3] == b"ID3":  # a tag in front, its length in four times seven bits
        head = head[10 + sum((byte & 0x7F) << 7 * (3 - i) for i, byte in enumerate(head[6:10])) :]
    if head[:4] != b"fLaC" or len(head) < 42 or head[4] & 0x7F:
        raise MediaError(f"{shown(path.name)}: is no FLAC; copy the file again from its source, or take it away")
    fields = int.from_bytes(head[18:26], "big")
    if not (rate_hz := fields >> 44):
        raise MediaError(f"{shown(path.name)}: its head gives no sample rate; copy the file again from its source")
    return Promise(items=fields & (1 << 36) - 1, rate_hz=float(rate_hz))


def _words(head: bytes, at: int, n: int) -> tuple[int, ...]:
    if at + 4 * n > len(head):
        return (0,) * n
    return struct.unpack_from(f"<{n}I", head, at)


def _head(path: Path) -> bytes:
    try:
        head = read_head(path, _HEAD)
    except FileError as error:
        raise MediaError(f"{error}; check the file") from None
    if len(head) < 12:
        raise MediaError(f"{shown(path.name)}: {len(head)} bytes are no media file; copy it again from its source")
    return head
