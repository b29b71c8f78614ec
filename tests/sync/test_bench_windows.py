"""`bench windows`: what is timed is the same job on both sides."""

import numpy as np
import pytest

from sync.alignment import cut
from sync.bench_baselines import BenchError
from sync.bench_polars import Tables, polars_window
from sync.bench_windows import Weld, bench_windows, lines, recorded_series
from sync.sample import SampleSpec
from sync.windows import WindowCutter

SECOND = 10**9


def test_polars_gives_what_cut_gives() -> None:
    spec = SampleSpec()
    weld = Weld(seconds=10.0, frame=(96, 160), rows_hz=100.0)
    series = recorded_series(weld, spec)
    t0_ns = 3 * SECOND
    ours = cut(series.values(), t0_ns, t0_ns + 4 * SECOND, spec, weld="w", index=0)
    theirs = polars_window(Tables.of(series), weld.infos, t0_ns, spec)
    for name in ("video", "video_mask", "audio_mask", "sensors_mask"):
        assert (getattr(ours, name) == theirs[name]).all(), name
    assert np.isclose(ours.sensors, theirs["sensors"]).mean() > 0.98, "ties may go to either row"
    assert ours.sensors_mask.all()
    # Sound runs 35 ppm slow: after 0.9 s the slice is one sample off.
    assert (ours.audio[0, :10_000] == theirs["audio"][0, :10_000]).mean() > 0.9


def test_the_weld_is_whole() -> None:
    weld = Weld(seconds=12.0, frame=(12, 16))
    packets = weld.packets()
    assert [p.order for p in packets] == list(range(1, len(packets) + 1))
    cutter = WindowCutter("bench", SampleSpec(), weld.infos)
    windows = [window for packet in packets for window in cutter.push(packet)]
    assert cutter.finished
    assert len(windows) == 10
    assert all(window.present == ("video", "audio", "sensors") for window in windows)
    assert cutter.photo_window().post_images_mask.all()


def test_the_bench_says_how_fast_it_is() -> None:
    result = bench_windows(10.0)
    assert [cell["rows_hz"] for cell in result["cells"]] == [9.0, 1000.0]
    for cell in result["cells"]:
        assert cell["windows"] == 8
        assert min(cell[name] for name in ("live_x", "live_small_x", "cut_x", "polars_x")) > 1
        assert cell["equal"]["video"] == cell["equal"]["sensors_mask"] == 1.0
    assert sum(" Hz " in line for line in lines(result)) == 2


def test_a_weld_too_short_to_be_timed_is_refused() -> None:
    with pytest.raises(BenchError, match="5 s of weld"):
        bench_windows(5.0)
