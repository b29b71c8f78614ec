"""Sound of a weld: clicks where bursts end, hiss while the arc burns, and a shop that is never silent."""

import functools
from typing import Final

import numpy as np
import numpy.typing as npt
import scipy.fft

from acquisition.simulated.causes import Floats
from acquisition.simulated.process import Process
from acquisition.simulated.seeds import generator

Floats32 = npt.NDArray[np.float32]

CLICK_LEVEL: Final = 0.056
"""Amplitude of a burst's last click at the reference current, full scale = 1."""
HISS_DBFS: Final = -55.0
"""Level of the arc's hiss."""
HISS_BANDS_HZ: Final = (30.0, 63.0, 125.0, 250.0, 500.0, 1000.0, 2000.0, 4000.0, 8000.0, 16000.0, 48000.0)
HISS_BANDS_DB: Final = (-30.0, -18.0, -17.0, -16.0, -13.0, -11.0, -8.0, -5.0, -3.0, -8.0, -30.0)
"""Octave levels of the hiss: what real arcs have beyond their clicks."""
SHARE_ABOVE_4K: Final = (0.10, 0.22, 0.38)
"""Share of the power above 4 kHz at the start, on average, and at the end of a weld: the plate warms up."""

_OFFSETS = 8
"""Sub-sample positions of a click."""


def click(t_s: Floats) -> Floats:
    """Evaluate one click: steep rise, undershoot, and a tail of 1.2 ms below zero."""
    spike = np.exp(-0.5 * (t_s / 3.2e-5) ** 2)
    under = -0.20 * np.exp(-0.5 * ((t_s - 2.2e-4) / 9e-5) ** 2)
    tail = np.where(t_s > 1e-4, -0.20 * np.exp(-(t_s - 1e-4) / 1.2e-3), 0.0)
    return np.asarray(spike + under + tail)


@functools.lru_cache(maxsize=4)
def _click_table(rate_hz: int) -> tuple[int, Floats32]:
    """Return (samples before the spike, (offsets, length) sampled clicks)."""
    before = int(np.ceil(2e-4 * rate_hz)) + 1
    index = np.arange(before + int(6e-3 * rate_hz)) - before
    shift = np.arange(_OFFSETS) / _OFFSETS
    return before, click((index[None, :] - shift[:, None]) / rate_hz).astype(np.float32)


def _coloured(rng: np.random.Generator, n: int, gain: Floats) -> Floats32:
    """Make noise of unit power with the given amplitude per frequency bin."""
    bins = gain.size
    spectrum = np.empty(bins, np.complex64)
    spectrum.real = rng.standard_normal(bins, np.float32)
    spectrum.imag = rng.standard_normal(bins, np.float32)
    spectrum *= gain.astype(np.float32)
    noise: Floats32 = scipy.fft.irfft(spectrum, n)
    return noise / np.float32(np.sqrt(np.mean(noise**2)))


def _bands(f_hz: Floats, bands_hz: tuple[float, ...], levels_db: tuple[float, ...]) -> Floats:
    """Return the amplitude per bin that gives the octaves these levels (an octave is wider the higher it is)."""
    f = np.maximum(f_hz, 1.0)
    level_db = np.interp(np.log2(f), np.log2(bands_hz), levels_db, left=-60.0)
    return np.asarray(10.0 ** (level_db / 20.0) / np.sqrt(f))


def _shop(process: Process, n: int, rate_hz: int, f_hz: Floats) -> Floats32:
    """Hum, rumble and the odd clank of a workshop, at the session's level."""
    rng = generator(process.plan.seed, "shop")
    t = np.arange(n, dtype=np.float32) / np.float32(rate_hz)
    rumble = _coloured(rng, n, _bands(f_hz, (30.0, 100.0, 1000.0, 8000.0), (0.0, 0.0, -6.0, -12.0)))
    phase = rng.uniform(0.0, 2.0 * np.pi, 3).astype(np.float32)
    hum = sum(
        np.float32(a) * np.sin(np.float32(2.0 * np.pi * f) * t + p)
        for a, f, p in zip((0.5, 0.8, 0.25), (50.0, 100.0, 150.0), phase, strict=True)
    )
    out = 0.8 * rumble + 0.6 * np.asarray(hum, np.float32)
    ring = np.arange(int(0.12 * rate_hz), dtype=np.float32) / np.float32(rate_hz)
    for at in rng.integers(0, n, rng.poisson(0.08 * n / rate_hz)):
        tone = np.sin(np.float32(2.0 * np.pi * rng.uniform(600.0, 2400.0)) * ring) * np.exp(-ring / np.float32(0.03))
        stretch = out[at : at + ring.size]
        stretch += np.float32(rng.uniform(2.0, 6.0)) * tone[: stretch.size]
    return np.asarray(out * np.float32(10.0 ** (process.plan.nuisances.floor_dbfs / 20.0)), np.float32)


def render_sound(process: Process, phase_s: float, step_s: float, n: int, rate_hz: int) -> npt.NDArray[np.int16]:
    """Render the microphone's samples of a whole cycle.

    Args:
        process: The hidden process.
        phase_s: Cycle time of the first sample.
        step_s: True time between samples (1 / rate, stretched by the device's drift).
        n: Number of samples.
        rate_hz: Nominal rate.

    Returns:
        (n,) int16.
    """
    plan, bursts = process.plan, process.bursts
    size = scipy.fft.next_fast_len(n, real=True)
    f: Floats = np.fft.rfftfreq(size, 1.0 / rate_hz).astype(np.float64)
    gain_at = 10.0 ** (process.loudness_db / 20.0) * np.sqrt(process.plan.recipe.current_a / 177.0)

    before, table = _click_table(rate_hz)
    where = (bursts.click_s - phase_s) / step_s
    whole = np.floor(where).astype(np.int64)
    offset = ((where - whole) * _OFFSETS).astype(np.int64)
    loud = CLICK_LEVEL * bursts.click_amplitude * process.at(gain_at, bursts.click_s)
    index = whole[:, None] - before + np.arange(table.shape[1])[None, :]
    inside = (index >= 0) & (index < size)
    arc_sound = np.zeros(size, np.float32)
    np.add.at(arc_sound, index[inside], (table[offset] * loud[:, None].astype(np.float32))[inside])

    # Gate at the state's rate: the hiss pauses while the wire is shorted and follows the arc.
    gate = process.arc * gain_at * (1.0 - 0.7 * bursts.shorted(process.t_s - 0.0025, process.t_s + 0.0025))
    gate *= 10.0 ** (HISS_DBFS / 20.0)
    t = phase_s + step_s * np.arange(size)
    hiss = _coloured(generator(plan.seed, "hiss"), size, _bands(f, HISS_BANDS_HZ, HISS_BANDS_DB))
    arc_sound += hiss * np.interp(t, process.t_s, gate).astype(np.float32)

    spectrum = scipy.fft.rfft(arc_sound)
    tilt_db = plan.nuisances.mic_tilt_db_per_octave * np.log2(np.maximum(f, 60.0) / 2000.0)
    response = (10.0 ** ((plan.nuisances.mic_gain_db + tilt_db) / 20.0)).astype(np.float32)
    high = spectrum * response * (f > 4000.0)
    spectrum *= response
    spectrum -= high
    first, mean, last = SHARE_ABOVE_4K
    arc_s = plan.arc_off_s - plan.arc_on_s
    share = first + (last - first) * np.clip((process.t_s - plan.arc_on_s) / arc_s, 0.0, 1.0)
    brighten = np.sqrt(share * (1.0 - mean) / (mean * (1.0 - share)))
    sound: Floats32 = scipy.fft.irfft(spectrum, size).astype(np.float32, copy=False)
    sound += scipy.fft.irfft(high, size) * np.interp(t, process.t_s, brighten).astype(np.float32)
    sound = sound[:n] + _shop(process, size, rate_hz, f)[:n]
    return np.asarray(np.clip(np.rint(sound * 32767.0), -32768, 32767), np.int16)
