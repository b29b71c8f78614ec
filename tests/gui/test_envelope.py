"""The rings behind the curves: extremes survive, gaps stay gaps, old columns vanish."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from gui.envelope import COLUMN_NS, COLUMNS, SPAN_S, EnvelopeRing, broken_line, thinned
from gui.spectrogram import BANDS, CEILING_DB, FLOOR_DB, SpectrogramRing
from gui.spectrogram import COLUMNS as PICTURE_COLUMNS

START_NS = 10**13
SPAN_NS = round(SPAN_S * 1e9)


@given(st.lists(st.integers(1, 400), min_size=1, max_size=8), st.integers(0, 2**31))
def test_however_it_is_cut_into_blocks_every_extreme_is_kept(sizes: list[int], seed: int):
    values = np.random.default_rng(seed).normal(size=sum(sizes))
    times = START_NS + np.arange(len(values)) * 1_000_000
    ring, first = EnvelopeRing(), 0
    for size in sizes:
        ring.push(times[first : first + size], values[first : first + size])
        first += size
    columns, low, high = ring.columns(START_NS - 1, int(times[-1]))
    for column, least, most in zip(columns, low, high, strict=True):
        inside = values[times // COLUMN_NS == column]
        assert (least, most) == (inside.min(), inside.max())
    assert len(columns) == len(np.unique(times // COLUMN_NS))


def test_columns_older_than_the_axis_are_gone():
    ring = EnvelopeRing()
    ring.push(np.array([START_NS]), np.array([1.0]))
    for later, kept in ((COLUMNS - 1, 1), (COLUMNS, 0)):
        assert len(ring.columns(0, START_NS + later * COLUMN_NS)[0]) == kept


def test_nothing_measured_leaves_nothing():
    ring = EnvelopeRing()
    ring.push(np.array([START_NS, START_NS + COLUMN_NS]), np.array([np.nan, 2.0]))
    assert ring.newest == 2.0
    assert ring.at(START_NS, 0) is None
    assert ring.at(START_NS + COLUMN_NS, 0) == 2.0


def test_a_line_is_broken_at_gaps_only():
    columns = np.array([10, 14, 18, 40, 44])
    x, y = broken_line(columns, np.zeros(5), np.ones(5), 5)
    assert np.flatnonzero(np.isnan(x)).tolist() == [6]
    assert np.flatnonzero(np.isnan(y)).tolist() == [6]


def test_a_tone_lies_in_its_band_and_silence_is_not_nothing():
    rate = 16_000.0
    ring = SpectrogramRing()
    sound = 0.1 * np.sin(2 * np.pi * 2000.0 * np.arange(16_000) / rate)
    for first in range(0, 16_000, 320):
        ring.push(START_NS + round(first * 1e9 / rate), sound[first : first + 320], rate)
    picture = ring.picture(START_NS + 10**9 - SPAN_NS, START_NS + 10**9)
    assert picture.shape == (BANDS, PICTURE_COLUMNS)
    heard = picture[:, picture.any(axis=0)]
    assert 18 <= heard.shape[1] <= 20
    edges = np.geomspace(60.0, rate / 2, BANDS + 1)
    loudest = BANDS - 1 - heard.max(axis=1).argmax()
    assert edges[loudest] * 0.95 <= 2000.0 <= edges[loudest + 1] * 1.05
    expected = (20 * np.log10(0.1 / 2) - FLOOR_DB) / (CEILING_DB - FLOOR_DB)
    assert heard.max() >= 254 * min(1.0, expected)
    ring.push(START_NS + 10**9, np.zeros(4000), rate)
    assert (ring.picture(START_NS, START_NS + 12 * 10**8)[:, -1:] <= 1).all()


def test_sound_from_elsewhere_in_the_weld_does_not_join_what_was_waiting():
    rate = 16_000.0
    through, sought = SpectrogramRing(), SpectrogramRing()
    loud, quiet = np.full(100, 0.5), np.zeros(4000)
    through.push(START_NS, loud, rate)
    sought.push(START_NS, loud, rate)
    sought.begin_anew()
    later_ns = START_NS + round(100 * 1e9 / rate)
    for ring in (through, sought):
        ring.push(later_ns, quiet, rate)
    assert through.picture(START_NS - 10**8, START_NS + 10**9).max() > 1
    assert sought.picture(START_NS - 10**8, START_NS + 10**9).max() == 1


@given(st.lists(st.integers(1, 40), min_size=1, max_size=200), st.integers(1, 60))
def test_a_thinned_curve_keeps_every_extreme_and_its_order(steps: list[int], most: int):
    columns = START_NS // COLUMN_NS + np.cumsum(steps)
    values = np.random.default_rng(len(steps)).normal(size=len(columns))
    thin, low, high, step = thinned(columns, values, values, most)
    assert (low.min(), high.max()) == (values.min(), values.max())
    assert (np.diff(thin) > 0).all()
    assert step == -(-len(columns) // most)
    assert len(thin) <= len(columns)
    dense, _, _, joined = thinned(np.arange(10_000), np.zeros(10_000), np.ones(10_000), most)
    assert len(dense) <= most + 1
    assert set(np.diff(dense)[1:]) <= {joined}
