"""Presence rules: any of the 15 patterns gives a finite score, and what a false mask hides never changes it."""

import math
from dataclasses import replace

import numpy as np
import pytest

from acquisition.packet import MODALITIES
from models.checkpoint import Checkpoint
from models.detector_contract import (
    PATTERNS,
    PHOTOS,
    DetectorError,
    Pattern,
    leave_one_out,
    mask_to,
    running_maximum,
)
from models.evaluation import noise_window
from sync.sample import SampleSpec, Weld4MSample
from tests.models.welds import SPEC, encoded_weld


def scrambled(sample: Weld4MSample, seed: int) -> Weld4MSample:
    """Fill everything under a false mask with noise, NaN where the type has it."""
    rng = np.random.default_rng(seed)
    arrays = {}
    for m in MODALITIES:
        contents, mask = getattr(sample, m).copy(), getattr(sample, f"{m}_mask")
        hidden = ~mask
        if m == "sensors":
            contents[hidden] = np.nan
        elif m == "audio":
            contents[:, hidden] = rng.integers(-32768, 32767, (len(contents), int(hidden.sum())))
        else:
            contents[hidden] = rng.integers(0, 256, contents[hidden].shape)
        arrays[m] = contents
    return replace(sample, **arrays)


def score(checkpoint: Checkpoint, sample: Weld4MSample, pattern: Pattern) -> float:
    if PHOTOS in pattern:
        windows = [sample] if len(pattern) > 1 else []
        return checkpoint.detector.consistency_score(windows, sample)
    return checkpoint.detector.process_score(sample)


@pytest.mark.parametrize("pattern", PATTERNS, ids="+".join)
def test_every_pattern_is_finite_and_blind_to_masked_contents(checkpoint: Checkpoint, pattern: Pattern) -> None:
    sample = mask_to(noise_window(SPEC), pattern)
    first = score(checkpoint, sample, pattern)
    assert math.isfinite(first)
    for seed in (1, 2):
        assert score(checkpoint, scrambled(sample, seed), pattern) == first


def test_partly_masked_modalities_are_blind_too(checkpoint: Checkpoint) -> None:
    sample = noise_window(SPEC)
    sample.video_mask[3] = False
    sample.audio_mask[500:900] = False
    sample.sensors_mask[5:8, 3] = False
    sample.sensors_mask[:, 0] = False
    sample.post_images_mask[1] = False
    first = score(checkpoint, sample, MODALITIES)
    assert math.isfinite(first)
    assert score(checkpoint, scrambled(sample, 3), MODALITIES) == first
    assert first != score(checkpoint, noise_window(SPEC), MODALITIES)


def test_a_masked_window_equals_the_encoded_one_judged_by_a_part(checkpoint: Checkpoint) -> None:
    """Calibration masks encodings; that must be the same as masking samples."""
    detector, sample = checkpoint.detector, noise_window(SPEC)
    whole = detector.encode_window(sample)
    for pattern in PATTERNS:
        if PHOTOS not in pattern:
            assert detector.process_score(mask_to(sample, pattern)) == detector.window_score(whole, pattern)


def test_nothing_present_has_no_score(checkpoint: Checkpoint) -> None:
    nothing = mask_to(noise_window(SPEC), ())
    assert math.isnan(checkpoint.detector.process_score(nothing))
    assert math.isnan(checkpoint.detector.result_score(nothing))


def test_another_spec_is_refused(checkpoint: Checkpoint) -> None:
    with pytest.raises(DetectorError, match=r"window_s = 4\.0, the detector wants 2\.0"):
        checkpoint.detector.process_score(noise_window(SampleSpec()))


def test_running_maximum_is_that_of_three_window_means_and_never_falls() -> None:
    scores = [1.0, 4.0, 1.0, float("nan"), 7.0, -9.0]
    expected = [1 / 3, 5 / 3, 2.0, 2.0, 4.0, 4.0]
    assert [running_maximum(scores[: n + 1]) for n in range(6)] == pytest.approx(expected)
    assert math.isnan(running_maximum([float("nan")]))


def test_leave_one_out_names_the_modality_that_raised_the_score() -> None:
    worth = {"video": 1.0, "audio": 5.0, "sensors": 0.5}
    found = leave_one_out(("video", "audio", "sensors"), lambda p: sum(worth[m] for m in p))
    assert found == pytest.approx(worth)
    assert leave_one_out(("video",), lambda p: 3.0) == {"video": 3.0}


@pytest.mark.parametrize("modality", MODALITIES)
def test_a_fault_raises_the_score_of_its_own_modality(checkpoint: Checkpoint, modality: str) -> None:
    detector = checkpoint.detector
    good, bad = encoded_weld(1), encoded_weld(1, fault=1.0, photo_fault=60.0)
    assert detector.weld_score(bad.windows, bad.photos, (modality,)) > 2 + detector.weld_score(
        good.windows, good.photos, (modality,)
    )
