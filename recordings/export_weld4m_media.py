"""Video of an exported weld as the AVI of Weld-4M: frames go over unchanged, at a constant rate."""

import shutil
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Final

import av
import numpy as np

from acquisition.packet import StreamInfo
from recordings.export_source import ExportSource
from recordings.export_video import is_h264
from recordings.weld_folder import WeldError, member
from sync.series import Int64s

_FINEST_RATE: Final = 1000
"""Largest denominator of a measured frame rate."""

_MOST_FRAMES: Final = 10**7


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """Frames on a constant rate.

    Attributes:
        rate: Frames per second of the file.
        numbers: `(n,)` int64 place of every frame; a jump is frames known to be lost.
        error_ns: Largest distance between a frame's cell time and its place, the first frame aside.
    """

    rate: Fraction
    numbers: Int64s
    error_ns: int


def write_avi(weld: ExportSource, info: StreamInfo, path: Path) -> Int64s:
    """Write the AVI of a video stream and return the cell times of its frames; says in `weld` what is lost.

    An imported AVI is copied byte for byte; H.264 is put into the new container as it is.

    Raises:
        WeldError: The video is damaged.
        OSError: The disk is full or gone.
    """
    t_ns = np.concatenate([item.t_ns for item in weld.heads(info.name)])
    if not is_h264(weld.reader, info.name):
        shutil.copyfile(member(weld.folder, weld.manifest.streams[info.name].files[0]), path)
        return t_ns
    placed = place_frames(t_ns, _skipped(weld, info), info.rate_hz)
    with av.open(str(path), "w", format="avi") as container:
        stream = container.add_mux_stream("h264", rate=placed.rate, width=info.width, height=info.height)
        stream.time_base = 1 / placed.rate
        for number, item in zip(placed.numbers.tolist(), weld.frames(info.name), strict=True):
            packet = av.Packet(item.frame.data)
            packet.stream, packet.is_keyframe, packet.duration = stream, item.frame.keyframe, 1
            packet.pts = packet.dts = number
            packet.time_base = stream.time_base
            container.mux(packet)
    rate = f"{float(placed.rate):.6g} frames a second"
    weld.warnings.append(f"{info.name}: at {rate}, frames lie up to {placed.error_ns / 1e6:.3f} ms from their times")
    return t_ns


def _skipped(weld: ExportSource, info: StreamInfo) -> Int64s:
    """Return, for every frame of a stream, how many frames are known to be lost before it."""
    rows = weld.reader.frames(info.name)
    missing: Int64s = rows["missing"].cum_sum().to_numpy().astype(np.int64)
    kept: Int64s = missing[rows["pts_us"].is_not_null().to_numpy()]
    return kept


def place_frames(t_ns: Int64s, skipped: Int64s, nominal_hz: float) -> Placed:
    """Place frames on a constant rate: the nominal one where it fits to half a frame, else the measured one.

    Args:
        t_ns: `(n,)` cell times, n > 0.
        skipped: `(n,)` frames known to be lost before each.
        nominal_hz: Nominal rate.

    Raises:
        WeldError: More frames are said to be lost than any weld has.
    """
    numbers = np.arange(len(t_ns), dtype=np.int64) + skipped - skipped[0]
    if np.any(np.diff(numbers) < 1) or numbers[-1] > _MOST_FRAMES:
        raise WeldError(f"{numbers[-1]} frames between its first and last one cannot be; do not trust this weld")
    rate = Fraction(nominal_hz or 30).limit_denominator(_FINEST_RATE)
    error_ns = _error_ns(t_ns, numbers, rate)
    span_ns = int(t_ns[-1] - t_ns[0])
    if error_ns * rate > 5 * 10**8 and span_ns > 0:
        measured = Fraction(int(numbers[-1]) * 10**9, span_ns).limit_denominator(_FINEST_RATE)
        if measured > 0 and _error_ns(t_ns, numbers, measured) < error_ns:
            rate, error_ns = measured, _error_ns(t_ns, numbers, measured)
    return Placed(rate=rate, numbers=numbers, error_ns=error_ns)


def _error_ns(t_ns: Int64s, numbers: Int64s, rate: Fraction) -> int:
    ideal = numbers * rate.denominator * 10**9 // rate.numerator
    return int(np.abs(t_ns - t_ns[0] - ideal).max())
