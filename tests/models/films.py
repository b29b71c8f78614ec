"""Causal-FiLM, tiny, on the tiny cell of `tests.models.welds`."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from models import collapse, weld_features
from models.film_config import FilmRun, load_run
from models.film_data import CutFile, cut_welds
from models.weld_features import found_welds
from tests.models.welds import weld_packets, write_weld

TINY = """
seed = 3
threads = 1

[sample]
window_s = 2.0
frames = 8
height = 24
width = 40
audio_rate_hz = 8000
sensor_rows = 40
photos = 2
photo_height = 30
photo_width = 40

[sessions]
validation = 0.25
calibration = 0.25

[encoders]
width = 16
video_regions = [1, 2]
audio_rate_hz = 8000
audio_bands = 16
audio_tokens = 8
sensor_tokens = 5
photo_width = 8
contrast_width = 8

[result]
words = 6
bands = 2

[model]
width = 32
process_tokens = 16
heads = 2
ff = 32
encoder_blocks = 1
decoder_blocks = 1

[pretraining]
epochs = 3
batch = 16

[training]
epochs = 3
batch = 16
"""


def tiny_file(folder: Path, changes: dict[str, str] | None = None) -> Path:
    """Write the settings, with parts of the text replaced."""
    text = TINY
    for old, new in (changes or {}).items():
        assert old in text
        text = text.replace(old, new)
    path = folder / "tiny.toml"
    path.write_text(text)
    return path


def tiny_run(folder: Path) -> FilmRun:
    return load_run(tiny_file(folder))


def good_welds(root: Path, *, sessions: int = 8, per_session: int = 4, photos: int = 2) -> Path:
    """Record good welds, the same number in each session."""
    for seed in range(sessions * per_session):
        key = f"g{seed:02d}"
        packets = weld_packets(seed, key=key, arc_s=2.0, photos=photos)
        write_weld(root / key, packets, session=f"s{seed // per_session}")
    return root


@contextmanager
def in_this_process() -> Iterator[None]:
    """Read welds without helpers: starting one takes longer than reading all tiny welds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(weld_features, "WORKERS", 1000)
        yield


@contextmanager
def open_gate() -> Iterator[None]:
    """Let every run pass: a dozen tiny welds do not differ enough for the gate of real ones."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(collapse, "MIN_RANK", 0.0)
        patch.setattr(collapse, "MAX_COSINE", 1.1)
        patch.setattr(collapse, "MIN_SAMPLES", 2)
        yield


def cut_files(data: Path, cache: Path, run: FilmRun) -> list[CutFile]:
    return cut_welds(found_welds(data), run.sample, cache, lambda _: None)
