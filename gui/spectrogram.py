"""The spectrogram behind the sound: a rolled uint8 picture, one column per 50 ms."""

from typing import Final

import numpy as np
import numpy.typing as npt

from gui.envelope import SPAN_S

HOP_NS: Final = 50_000_000
COLUMNS: Final = round(SPAN_S * 1e9 / HOP_NS)
BANDS: Final = 64
FLOOR_DB: Final = -110.0
CEILING_DB: Final = -30.0
LOWEST_HZ: Final = 60.0


class SpectrogramRing:
    """Levels in `BANDS` bands of equal width on a logarithmic axis, up to half the sample rate."""

    def __init__(self, capacity: int = COLUMNS) -> None:
        """Start empty; `capacity` is how many columns are kept."""
        self._picture = np.zeros((BANDS, capacity), np.uint8)
        self._column = np.full(capacity, -1, np.int64)
        self._rate_hz = 0.0
        self._waiting = np.zeros(0)
        self._waiting_ns = 0
        self._window = np.zeros(0)
        self._edges = np.zeros(0, np.int64)

    @property
    def highest_hz(self) -> float:
        """Upper end of the axis; 0 before the first sound."""
        return self._rate_hz / 2

    def clear(self) -> None:
        """Forget everything."""
        self._column.fill(-1)
        self.begin_anew()

    def begin_anew(self) -> None:
        """Forget the sound that does not fill a column yet: what follows comes from elsewhere in the weld."""
        self._waiting = self._waiting[:0]

    def push(self, t0_ns: int, samples: npt.NDArray[np.float64], rate_hz: float) -> None:
        """Add sound in -1..1, `(n,)`, whose first sample is at cell time `t0_ns`."""
        if rate_hz != self._rate_hz:
            self._set_rate(rate_hz)
        expected_ns = self._waiting_ns + round(len(self._waiting) * 1e9 / rate_hz)
        if not len(self._waiting) or abs(t0_ns - expected_ns) > HOP_NS:
            self._waiting, self._waiting_ns = samples, t0_ns
        else:
            self._waiting = np.concatenate((self._waiting, samples))
        hop, length = round(rate_hz * HOP_NS / 1e9), len(self._window)
        n = (len(self._waiting) - length) // hop + 1 if len(self._waiting) >= length else 0
        if n <= 0:
            return
        frames = np.lib.stride_tricks.sliding_window_view(self._waiting, length)[: n * hop : hop]
        power = np.abs(np.fft.rfft(frames * self._window, axis=1)) ** 2
        bands = np.maximum.reduceat(power, self._edges, axis=1)
        level_db = 10 * np.log10(bands / self._window.sum() ** 2 + 1e-14)
        levels = np.clip((level_db - FLOOR_DB) / (CEILING_DB - FLOOR_DB) * 254 + 1, 1, 255).astype(np.uint8)
        columns = (self._waiting_ns + np.arange(n) * HOP_NS) // HOP_NS
        slots = columns % len(self._column)
        self._picture[:, slots] = levels.T
        self._column[slots] = columns
        self._waiting = self._waiting[n * hop :]
        self._waiting_ns += round(n * hop * 1e9 / rate_hz)

    def picture(self, from_ns: int, to_ns: int) -> npt.NDArray[np.uint8]:
        """Give the columns after `from_ns` up to `to_ns`, `(BANDS, n)`, high tones on top; 0 is nothing heard."""
        wanted = np.arange(from_ns // HOP_NS, max(to_ns // HOP_NS, from_ns // HOP_NS + 1)) + 1
        slots = wanted % len(self._column)
        return np.ascontiguousarray(np.where(self._column[slots] == wanted, self._picture[::-1, slots], 0))

    def _set_rate(self, rate_hz: float) -> None:
        self._rate_hz = rate_hz
        length = 1 << (round(rate_hz * 0.032) - 1).bit_length()
        self._window = np.hanning(length)
        edges = np.geomspace(LOWEST_HZ, rate_hz / 2, BANDS + 1)[:-1] * length / rate_hz
        # Bands narrower than one bin share it, so the lowest ones look alike instead of empty.
        self._edges = np.minimum(np.round(edges).astype(np.int64), length // 2)
        self._waiting = np.zeros(0)
