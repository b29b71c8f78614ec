"""Plain statistics of one window: what a welder's meters would say of the sensors, the sound and the picture.

Every function takes the arrays and masks of a `Weld4MSample` and returns one float64 per name in its table, NaN where
the window does not allow it, with the phase that the modality sees. Scale-like quantities are logarithms: they vary by
factors, and a Gaussian is fitted to them. Levels stay in the units of the cell: normalisation belongs to the model.
"""

from typing import Final

import numpy as np
import numpy.typing as npt

from acquisition.packet import SENSOR_CHANNELS
from models.active_part import active_part
from models.detector_contract import Phase
from sync.sample import CHANNEL_INDEX

Values = npt.NDArray[np.float64]

ARC_CURRENT_A: Final = 5.0
"""Arc-on threshold of the cell (`sync.arc`), used here for the active part only."""
RESOLUTION: Final = np.array([0.01, 0.01, 0.05, 0.5, 0.1, 0.05])
"""Added below the logarithm, per sensor channel: about the last digit of the real recordings."""
MIN_ROWS: Final = 4

_PER_CHANNEL: Final = ("level", "log_sd", "log_range", "log_step")
SENSOR_STATISTICS: Final = (
    *(f"{channel}.{name}" for channel in SENSOR_CHANNELS for name in _PER_CHANNEL),
    "current_voltage_correlation",
    "arc_share",
)


def sensor_statistics(values: Values, mask: npt.NDArray[np.bool_], index: int, window_s: float) -> tuple[Values, Phase]:
    """Compute `SENSOR_STATISTICS`.

    Per channel: mean, standard deviation, range and mean absolute difference of rows. `wire_mm` is cumulative: its
    level is the mean feed speed, and the other three are taken of its increments.

    Args:
        values: `(S, 6)` sensor grid.
        mask: `(S, 6)`.
        index: Window index.
        window_s: Window length.
    """
    rows = len(values)
    current = CHANNEL_INDEX["current_a"]
    known = mask[:, current]
    arc = known & (np.where(known, values[:, current], 0.0) > ARC_CURRENT_A)
    part, share, phase = active_part(arc, known, index, window_s)
    out = np.full(len(SENSOR_STATISTICS), np.nan)
    for c in range(len(SENSOR_CHANNELS)):
        good = mask[part, c]
        x = values[part, c][good]
        if x.size < MIN_ROWS:
            continue
        if c == CHANNEL_INDEX["wire_mm"]:
            x = np.diff(x) * (rows / window_s) / np.maximum(np.diff(np.flatnonzero(good)), 1)
        spread = np.array([x.std(), np.ptp(x), np.abs(np.diff(x)).mean()])
        out[4 * c] = x.mean()
        out[4 * c + 1 : 4 * c + 4] = np.log(spread + RESOLUTION[c])
    both = mask[part, current] & mask[part, CHANNEL_INDEX["voltage_v"]]
    i, v = values[part, current][both], values[part, CHANNEL_INDEX["voltage_v"]][both]
    if i.size >= MIN_ROWS and i.std() > 0 and v.std() > 0:
        out[-2] = np.corrcoef(i, v)[0, 1]
    out[-1] = share if known.any() else np.nan
    return out, phase


BLOCK: Final = 1024
"""Samples per block of the spectrum and of the level over time (64 ms at 16 kHz)."""
FINE: Final = 32
"""Samples per step of the burst envelope (2 ms at 16 kHz): the clicks of a burst come 3 in 8-10 ms."""
OCTAVES_HZ: Final = (63, 125, 250, 500, 1000, 2000, 4000, 8000)
QUIET_DB: Final = 12.0
"""A block this far below the median block of the window does not hear the arc."""
AUDIO_STATISTICS: Final = (
    "level_db",
    "level_sd_db",
    "log_kurtosis",
    "crest_db",
    *(f"octave_{f}_db" for f in OCTAVES_HZ),
    "share_above_4k_db",
    "log_bursts_per_s",
    "burst_contrast_db",
    "arc_share",
)
_FLOOR: Final = 1e-12
"""Power of -120 dBFS: half a step of 16 bits is at -101 dBFS, so this only keeps logarithms of silence finite."""
_HANN: Final = np.hanning(BLOCK + 1)[:BLOCK].astype(np.float32)


def audio_statistics(
    samples: npt.NDArray[np.int16] | npt.NDArray[np.int32],
    mask: npt.NDArray[np.bool_],
    rate_hz: int,
    index: int,
    window_s: float,
) -> tuple[Values, Phase]:
    """Compute `AUDIO_STATISTICS` of the mean of all channels over the complete blocks of the active part.

    Args:
        samples: `(C, L)` sound as recorded.
        mask: `(L,)`.
        rate_hz: Sample rate.
        index: Window index.
        window_s: Window length.
    """
    n = samples.shape[1] // BLOCK * BLOCK
    scale = np.float32(-1.0 / np.iinfo(samples.dtype).min)
    heard = np.where(mask[:n], samples[:, :n].mean(axis=0, dtype=np.float32), np.float32(0)) * scale
    blocks = heard.reshape(-1, BLOCK)
    valid = np.asarray(mask[:n].reshape(-1, BLOCK).all(axis=1))
    out = np.full(len(AUDIO_STATISTICS), np.nan)
    if not valid.any():
        return out, active_part(valid, valid, index, window_s)[2]
    power = np.einsum("ij,ij->i", blocks, blocks).astype(np.float64) / BLOCK + _FLOOR
    level = 10 * np.log10(power)
    part, share, phase = active_part(level > np.median(level[valid]) - QUIET_DB, valid, index, window_s)
    use = np.flatnonzero(valid[part]) + part.start
    x = blocks[use]
    x = x - x.mean(dtype=np.float64).astype(np.float32)
    square = np.square(x)
    mean_square = float(square.mean(dtype=np.float64)) + _FLOOR
    fourth = float(np.square(square).mean(dtype=np.float64)) + _FLOOR**2
    peak = float(square.max()) + _FLOOR
    bursts_per_s, contrast_db = _bursts(square.reshape(len(use), -1, FINE).mean(axis=2), len(use) * BLOCK / rate_hz)
    octaves_db, treble_db = _spectrum(x, rate_hz)
    out[:] = (
        10 * np.log10(mean_square),
        level[use].std(),
        np.log(fourth / mean_square**2),
        10 * np.log10(peak / mean_square),
        *octaves_db,
        treble_db,
        np.log(bursts_per_s + 1.0),
        contrast_db,
        share,
    )
    return out, phase


def _bursts(envelope: npt.NDArray[np.float32], seconds: float) -> tuple[float, float]:
    """Count rises of the `(blocks, steps)` power envelope above 6 dB over its median, and tell peaks from troughs."""
    flat = envelope.ravel()
    low, middle, high = np.percentile(flat, [10, 50, 98]) + _FLOOR
    above = flat > 4.0 * middle
    return float(np.count_nonzero(above[1:] & ~above[:-1]) / seconds), float(10 * np.log10(high / low))


def _spectrum(blocks: npt.NDArray[np.float32], rate_hz: int) -> tuple[Values, float]:
    """Give octave levels and the share above 4 kHz, both in dB re the whole power, of `(n, BLOCK)` samples."""
    spectrum = np.square(np.abs(np.fft.rfft(blocks * _HANN, axis=1))).mean(axis=0).astype(np.float64)
    frequency = np.fft.rfftfreq(BLOCK, 1 / rate_hz)
    total = float(spectrum.sum()) + _FLOOR
    bands = np.full(len(OCTAVES_HZ), np.nan)
    for k, centre in enumerate(OCTAVES_HZ):
        inside = (frequency >= centre / np.sqrt(2)) & (frequency < centre * np.sqrt(2))
        if inside.any():
            bands[k] = 10 * np.log10(spectrum[inside].sum() / total + _FLOOR)
    return bands, float(10 * np.log10(spectrum[frequency > 4000].sum() / total + _FLOOR))


BRIGHT: Final = 200
"""Gray level above which a pixel belongs to the arc's blob."""
ARC_PIXELS: Final = 1e-4
"""Share of bright pixels above which a frame shows the arc (1.5 of 96 x 160)."""
STREAK: Final = 8
"""Gray levels by which a pixel outside the blob must stand out of its surroundings to count as a streak."""
_PER_FRAME: Final = ("level", "bright", "dark", "streaks", "blob_x", "blob_y", "blob_width", "blob_height")
VIDEO_STATISTICS: Final = (
    *(f"{name}_{kind}" for kind in ("mean", "log_sd") for name in _PER_FRAME),
    "log_pixel_sd",
    "short_share",
    "arc_share",
)
_FRAME_RESOLUTION: Final = np.array([0.1, 1e-4, 1e-3, 1e-4, 0.1, 0.1, 0.1, 0.1])


def video_statistics(
    frames: npt.NDArray[np.uint8], mask: npt.NDArray[np.bool_], index: int, window_s: float
) -> tuple[Values, Phase]:
    """Compute `VIDEO_STATISTICS`: mean and spread over time of each frame's level, blob and streaks.

    Args:
        frames: `(T, 1, H, W)` gray, full range.
        mask: `(T,)`.
        index: Window index.
        window_s: Window length.
    """
    out = np.full(len(VIDEO_STATISTICS), np.nan)
    bright = frames[:, 0] > BRIGHT
    share_bright = bright.mean(axis=(1, 2))
    part, share, phase = active_part(share_bright > ARC_PIXELS, mask, index, window_s)
    use = np.flatnonzero(mask[part]) + part.start
    if not use.size:
        return out, phase
    picture = frames[use, 0].astype(np.float32)
    table = np.full((len(use), len(_PER_FRAME)), np.nan)
    table[:, 0] = picture.mean(axis=(1, 2))
    table[:, 1] = share_bright[use]
    table[:, 2] = (frames[use, 0] < 16).mean(axis=(1, 2))
    table[:, 3] = _streaks(picture, bright[use])
    table[:, 4:] = _blobs(bright[use])
    lit = table[~np.isnan(table[:, 4])]
    out[:4] = table[:, :4].mean(axis=0)
    out[8:12] = np.log(table[:, :4].std(axis=0) + _FRAME_RESOLUTION[:4])
    if len(lit):
        out[4:8] = lit[:, 4:].mean(axis=0)
        out[12:16] = np.log(lit[:, 4:].std(axis=0) + _FRAME_RESOLUTION[4:])
    out[16] = np.log(picture.std(axis=0).mean() + 0.1)
    out[17] = float((table[:, 0] < 0.75 * np.median(table[:, 0])).mean())
    out[18] = share
    return out, phase


def _streaks(picture: npt.NDArray[np.float32], bright: npt.NDArray[np.bool_]) -> Values:
    """Give the share of pixels, per frame, that stand out of their four neighbours at two pixels' distance."""
    around = (picture[:, 4:, 2:-2] + picture[:, :-4, 2:-2] + picture[:, 2:-2, 4:] + picture[:, 2:-2, :-4]) / 4
    out = (picture[:, 2:-2, 2:-2] - around > STREAK) & ~bright[:, 2:-2, 2:-2]
    return np.asarray(out.mean(axis=(1, 2)))


def _blobs(bright: npt.NDArray[np.bool_]) -> Values:
    """Give centre x, y and spread in x, y of the bright pixels, `(T, 4)` in pixels; NaN where a frame has none."""
    columns, rows = bright.sum(axis=1), bright.sum(axis=2)
    count = columns.sum(axis=1).astype(np.float64)
    count[count == 0] = np.nan
    x, y = np.arange(bright.shape[2]), np.arange(bright.shape[1])
    centre_x, centre_y = columns @ x / count, rows @ y / count
    spread_x = np.sqrt(np.maximum(columns @ (x * x) / count - centre_x**2, 0.0))
    spread_y = np.sqrt(np.maximum(rows @ (y * y) / count - centre_y**2, 0.0))
    return np.stack([centre_x, centre_y, spread_x, spread_y], axis=1)
