"""Scales and numbers of the tracks: what range a row shows, what stands beside it, what a value is called."""

from typing import Final

import numpy as np
import numpy.typing as npt

from gui.envelope import COLUMN_NS, COLUMNS
from gui.spectrogram import LOWEST_HZ
from gui.tracks import Tracks, TrackSpec

BREAK_PERIODS: Final = 3.0
"""Values further apart than this many periods are not joined, and not taken for the present."""
_LOUDNESS_STEP_DB: Final = 6.0
_QUIETEST_DB: Final = -60.0
_LOUD_PERCENT: Final = 98.0
_FAR_COLUMNS: Final = 40
_NEARLY_ZERO: Final = 0.02

NONE: Final = "–"
CLIPPED: Final = "▲"


def break_columns(tracks: Tracks, key: str) -> int:
    """Give the number of empty columns that is a gap in a track."""
    return int(BREAK_PERIODS * tracks.periods_ns.get(key, 1e9) / COLUMN_NS) + 1


def nice_range(low: float, high: float) -> tuple[float, float]:
    """Widen a range to round numbers, and to zero where that costs less than half of it; noise about zero is zero."""
    if abs(low) < (high - low) * _NEARLY_ZERO or 0 < low < high / 2:
        low = 0.0
    span = max(high - low, abs(high) * 0.02, 1e-3)
    step = 10.0 ** np.floor(np.log10(span))
    step = next(step * factor for factor in (0.2, 0.5, 1.0, 2.0) if span / (step * factor) <= 5.0)
    return float(np.floor(low / step) * step), float(np.ceil(max(high, low + span) / step) * step)


def curve_range(spec: TrackSpec, low: npt.NDArray[np.float64], high: npt.NDArray[np.float64]) -> tuple[float, float]:
    """Give the range that a row shows, from minima and maxima per column, `(n,)` each, `n` > 0.

    A single crack in the sound must not flatten all the rest: the loudest columns may reach beyond its row.
    """
    if spec.kind == "sound":
        return sound_range(float(np.percentile(np.maximum(high, -low), _LOUD_PERCENT)))
    return nice_range(float(low.min()), float(high.max()))


def sound_range(peak: float) -> tuple[float, float]:
    """Give a range of sound, in steps of loudness so that it does not pump."""
    peak_db = max(decibel(peak), _QUIETEST_DB)
    most = float(10 ** (np.ceil(peak_db / _LOUDNESS_STEP_DB) * _LOUDNESS_STEP_DB / 20))
    return -most, most


def decibel(value: float) -> float:
    """Give a value of sound in decibel below full scale."""
    return float(20 * np.log10(max(abs(value), 1e-6)))


def range_words(spec: TrackSpec, least: float, most: float) -> tuple[str, str]:
    """Give the words at the top and at the bottom of a row."""
    if spec.kind == "sound":
        return f"{decibel(most):.0f} {spec.unit}", ""
    if spec.kind == "spectrogram":
        return f"{most / 1000:g} kHz", f"{LOWEST_HZ:.0f} Hz"
    return f"{most:.4g}", f"{least:.4g}"


def value_words(tracks: Tracks, spec: TrackSpec, at_ns: int) -> str:
    """Give the value of a track at a moment with its unit; a dash where there is none."""
    if spec.kind == "spectrogram":
        return ""
    if spec.kind == "score":
        before = [p for p in tracks.scores if p.t_ns <= at_ns and at_ns - p.t_ns < 2 * COLUMNS * COLUMN_NS]
        return f"{before[-1].weld_score:.2f}" if before else NONE
    ring = tracks.sound if spec.kind == "sound" else tracks.channels[spec.key]
    reach = min(break_columns(tracks, spec.key) + _FAR_COLUMNS, COLUMNS)
    stopped = [at_ns // COLUMN_NS - t_ns // COLUMN_NS for t_ns in tracks.clipped.get(spec.key, ()) if t_ns <= at_ns]
    if stopped and stopped[-1] <= reach and ring.at(at_ns, stopped[-1] - 1) is None:
        return CLIPPED
    value = ring.at(at_ns, reach)
    if value is None:
        return NONE
    if spec.kind == "sound":
        return f"{decibel(value):.0f} {spec.unit}"
    value = value if abs(value) >= 0.005 else 0.0
    words = f"{value:.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"
    return f"{words} {spec.unit}".strip()
