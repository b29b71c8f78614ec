"""Resampling: recorded sound at another rate, run by unbroken run, the same however it was cut into blocks."""

from collections.abc import Iterator
from fractions import Fraction
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from scipy.signal import resample_poly

from acquisition.packet import StreamInfo
from sync.series import AudioSeries, Int64s

_LARGEST_FACTOR: Final = 1000
"""Odd rates are approached by a ratio of small numbers; the time of every output sample stays exact."""


def _factors(info: StreamInfo, rate_hz: int) -> tuple[int, int]:
    ratio = (Fraction(rate_hz) / Fraction(info.rate_hz)).limit_denominator(_LARGEST_FACTOR)
    return ratio.numerator, ratio.denominator


def _half_filter(up: int, down: int) -> int:
    """Half the length of the filter of `resample_poly`, in native samples."""
    return 10 * max(up, down) // up + 1


def look_ahead_ns(info: StreamInfo, rate_hz: int) -> int:
    """How far past a window's end the sound must be known, so that what follows can no longer change the window."""
    if info.rate_hz == rate_hz:
        return 0
    return round((_half_filter(*_factors(info, rate_hz)) + 2) * 1e9 / info.rate_hz)


def resampled_runs(
    audio: AudioSeries, rate_hz: int, t0_ns: int, t1_ns: int, channels: int
) -> Iterator[tuple[Int64s, npt.NDArray[Any], tuple[int, int]]]:
    """Resample every unbroken run of samples that reaches into a window.

    Polyphase with the Kaiser filter of `scipy.signal.resample_poly`. The filter starts at a multiple of `down` in the
    device's own numbering and one filter length ahead, so it sees the same samples whatever else is in memory.

    Args:
        audio: Recorded sound.
        rate_hz: Rate wanted.
        t0_ns: Start of the window, cell time.
        t1_ns: End of the window, cell time.
        channels: How many channels to take.

    Yields:
        Cell times `(m,)`, samples `(m, channels)` in the recorded dtype, and the first and last native index
        in the window.
    """
    period_ns = audio.period_ns
    a, b = np.searchsorted(audio.t_ns, (t0_ns - period_ns, t1_ns + period_ns))
    if a >= b:
        return
    up, down = _factors(audio.info, rate_hz)
    breaks = a + 1 + np.flatnonzero(np.diff(audio.runs[a:b]))
    for first, stop in zip((a, *breaks), (*breaks, b), strict=True):
        made = _resample(audio, int(first), int(stop), up, down, channels)
        if made is not None:
            yield *made, (int(first), int(stop) - 1)


def _resample(
    audio: AudioSeries, first: int, stop: int, up: int, down: int, channels: int
) -> tuple[Int64s, npt.NDArray[Any]] | None:
    """Resample the samples `first` to `stop` (exclusive) of one run."""
    half = _half_filter(up, down)
    run = audio.runs[first]
    begin = max(first - half - down, int(np.searchsorted(audio.runs, run)))
    end = min(stop + half, int(np.searchsorted(audio.runs, run, side="right")))
    begin += -int(audio.numbers[begin]) % down
    if begin >= end:
        return None
    native = audio.samples[begin:end, :channels].astype(np.float64)
    made = resample_poly(native, up, down, axis=0)
    # Output k stands at native position begin + k * down / up; its time lies on the line between two samples.
    position = np.arange(len(made), dtype=np.int64) * down
    whole, part = begin + position // up, position % up
    inside = (whole < end - 1) | ((whole == end - 1) & (part == 0))
    whole, part, made = whole[inside], part[inside], made[inside]
    step_ns = audio.t_ns[np.minimum(whole + 1, end - 1)] - audio.t_ns[whole]
    limits = np.iinfo(audio.info.dtype)
    samples = np.clip(np.rint(made), limits.min, limits.max).astype(audio.info.dtype)
    return audio.t_ns[whole] + step_ns * part // up, samples
