"""Causal-FiLM as a detector: one window looks the same live and in replay, and what is not there says nothing."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
import xxhash
from safetensors.numpy import load, save

import models.collapse as collapse
from acquisition.packet import MODALITIES, Event
from models.checkpoint import ARRAYS, DESCRIPTION, Checkpoint, load_checkpoint, save_checkpoint
from models.detector_contract import PATTERNS, PHOTOS, PROCESS, DetectorError, mask_to
from models.evaluation import evaluate, noise_window
from models.film_detector import RESIDUALS, FilmDetector
from models.judge import WeldJudge
from models.training import CACHE, calibrate, train
from models.weld_features import encoded_by, found_welds, windows_of
from recordings.verdict import Score, Verdict
from tests.models.films import good_welds, tiny_file
from tests.models.welds import CELL, INFOS, REQUIRED, SPEC, fitted, weld_packets, write_weld

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny trained run; the collapse gate is meant for real ones."""
    folder = tmp_path_factory.mktemp("film")
    data = good_welds(folder / "data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(collapse, "MIN_RANK", 0.0)
        patch.setattr(collapse, "MAX_COSINE", 1.1)
        patch.setattr(collapse, "MIN_SAMPLES", 2)
        train("causal-film", data, folder / "run", config=tiny_file(folder))
    return folder / "run"


@pytest.fixture(scope="module")
def loaded(run: Path) -> Checkpoint:
    return load_checkpoint(run, SPEC)


def film_of(checkpoint: Checkpoint) -> FilmDetector:
    assert isinstance(checkpoint.detector, FilmDetector)
    return checkpoint.detector


def said(checkpoint: Checkpoint, seed: int = 900) -> list[Score | Verdict]:
    """Judge one weld, packet by packet."""
    judge: WeldJudge | None = None
    before = []
    found: list[Score | Verdict] = []
    for packet in weld_packets(seed):
        before.append(packet)
        event = packet.payload
        if judge is not None:
            found += judge.push(packet)
        elif isinstance(event, Event) and event.kind == "weld_open":
            judge = WeldJudge(checkpoint, event, INFOS, required=REQUIRED, cell=CELL, alpha=0.2)
            for early in before:
                found += judge.push(early)
    return found


def test_it_judges_the_same_weld_the_same_way_to_the_last_bit(run: Path, loaded: Checkpoint) -> None:
    first = said(loaded)
    torch.manual_seed(5)
    again = said(load_checkpoint(run))
    assert first == again
    scores = [item.score for item in first if isinstance(item, Score)]
    assert len(scores) > 3
    assert np.isfinite(scores).all()
    last = first[-1]
    assert isinstance(last, Verdict)
    assert last.stage == "consistency"
    assert last.score is not None
    assert set(last.contributions) == set(MODALITIES)


def test_loading_gives_one_thread(run: Path) -> None:
    torch.set_num_threads(2)
    load_checkpoint(run)
    assert torch.get_num_threads() == 1


def test_the_floor_does_not_load_torch() -> None:
    modules = ", ".join(f"models.{name}" for name in ("detector", "judge", "training", "evaluation", "replaying"))
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_every_presence_pattern_is_finite_and_calibrated(loaded: Checkpoint) -> None:
    window = noise_window(SPEC)
    detector = loaded.detector
    photos = detector.encode_photos(window)
    for pattern in PATTERNS:
        assert np.isfinite(detector.weld_score([detector.encode_window(window)], photos, pattern))
        assert np.isfinite(loaded.calibrations[CELL].of(pattern)).all()
        assert loaded.calibrations[CELL].of(pattern).size == 8


@pytest.mark.parametrize("pattern", [p for p in PATTERNS if PHOTOS not in p])
def test_what_is_not_there_says_nothing(loaded: Checkpoint, pattern: tuple[str, ...]) -> None:
    detector = loaded.detector
    masked = mask_to(noise_window(SPEC), pattern)
    other = noise_window(SPEC, seed=1)
    filled = replace(masked, **{m: getattr(other, m) for m in PROCESS if m not in pattern})
    if "sensors" not in pattern:
        filled.sensors[:] = np.nan
    whole = detector.encode_window(noise_window(SPEC))
    a, b = (detector.encode_window(w) for w in (masked, filled))
    assert a.present == b.present == pattern
    np.testing.assert_array_equal(a.values[RESIDUALS], b.values[RESIDUALS])
    assert detector.window_score(a, PROCESS) == detector.window_score(b, PROCESS)
    # The same window with everything, judged by this pattern only: other batches, so not to the last bit.
    phases = {m: whole.phases[m] for m in pattern}
    assert phases == a.phases
    assert detector.window_score(whole, pattern) == pytest.approx(detector.window_score(a, pattern), abs=1e-3)


def test_recorded_welds_score_as_single_windows_do(run: Path, loaded: Checkpoint, tmp_path: Path) -> None:
    write_weld(tmp_path / "data" / "w", weld_packets(901, key="w"), session="x")
    found = found_welds(tmp_path / "data")
    detector = film_of(loaded)
    lines: list[str] = []
    cached = [encoded_by(detector, found, tmp_path / CACHE, lines.append)[0] for _ in range(2)]
    assert len(lines) == 1
    _, windows, photos = windows_of(found[0].folder, SPEC)
    single = [detector.encode_window(w) for w in windows]
    bead = detector.encode_photos(photos)
    for pattern in PATTERNS:
        scores = [detector.weld_score(weld.windows, weld.photos, pattern) for weld in cached]
        assert scores[0] == scores[1]
        assert scores[0] == pytest.approx(detector.weld_score(single, bead, pattern), abs=1e-3)


def test_it_tells_which_result_tokens_disagree(loaded: Checkpoint) -> None:
    detector = film_of(loaded)
    window = noise_window(SPEC)
    photos = detector.encode_photos(window)
    assert photos is not None
    found = detector.disagreement([detector.encode_window(window)], photos, MODALITIES)
    values = list(found.values())
    assert len(values) == detector.film.config.result_tokens
    assert values == sorted(values, reverse=True)
    assert next(iter(found)).startswith(("fine: ", "middle: ", "coarse: "))
    assert detector.disagreement([], photos, MODALITIES) == {}


def test_calibrate_and_evaluate_take_it(run: Path, tmp_path: Path) -> None:
    for seed in range(12):
        bad = seed % 2 == 1
        packets = weld_packets(600 + seed, key=f"t{seed:02d}", arc_s=3.0, fault=3.0 * bad, photo_fault=60.0 * bad)
        write_weld(tmp_path / "test" / f"t{seed:02d}", packets, session=f"x{seed // 4}", label=9 if bad else 0)
    for seed in range(3):
        packets = weld_packets(700 + seed, key=f"o{seed}", arc_s=3.0)
        write_weld(tmp_path / "other" / f"o{seed}", packets, session="other", cell="other")
    save_checkpoint(tmp_path / "floor", fitted(12, 12))
    found = evaluate(run, tmp_path / "test", floor=tmp_path / "floor")
    floor = [row for row in found["rows"] if row["model"] == "statistics"]
    assert [row["modalities"] for row in floor] == [row["modalities"] for row in found["rows"][: len(floor)]]
    assert found["protocol"]["floor"].startswith("statistics")
    rows = {tuple(row["modalities"]): row for row in found["rows"] if row["model"] == "causal-film"}
    assert set(rows) == {MODALITIES, PROCESS, *((m,) for m in MODALITIES)}
    assert rows[PROCESS]["auroc"] > 0.9
    assert rows[PROCESS]["train_s"] > 0
    calibrate(run, tmp_path / "other")
    assert set(load_checkpoint(run).calibrations) == {CELL, "other"}


# -- the checkpoint ------------------------------------------------------------------------------------------------


def copied(run: Path, folder: Path) -> Path:
    for name in (ARRAYS, DESCRIPTION):
        (folder / name).write_bytes((run / name).read_bytes())
    return folder


def test_a_tampered_checkpoint_is_refused(run: Path, tmp_path: Path) -> None:
    copied(run, tmp_path)
    data = bytearray((tmp_path / ARRAYS).read_bytes())
    data[-5] ^= 1
    (tmp_path / ARRAYS).write_bytes(data)
    with pytest.raises(DetectorError, match="does not belong"):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"film": {"width": 64}}, "this version wants"),
        ({"film": {"width": "wide"}}, "configuration of 'film'"),
        ({"film": {"heads": 3}}, "configuration of 'film'"),
        ({"encoders": {"width": 32}}, "this version wants"),
    ],
)
def test_another_width_is_refused(run: Path, tmp_path: Path, change: dict[str, dict[str, object]], what: str) -> None:
    copied(run, tmp_path)
    description = msgspec.json.decode((tmp_path / DESCRIPTION).read_bytes())
    for part, values in change.items():
        description["configuration"][part] |= values
    (tmp_path / DESCRIPTION).write_bytes(msgspec.json.encode(description))
    with pytest.raises(DetectorError, match=what) as caught:
        load_checkpoint(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_missing_array_is_refused(run: Path, tmp_path: Path) -> None:
    copied(run, tmp_path)
    arrays = load((tmp_path / ARRAYS).read_bytes())
    del arrays["film.sensors_mean"]
    data = save(arrays)
    (tmp_path / ARRAYS).write_bytes(data)
    description = msgspec.json.decode((tmp_path / DESCRIPTION).read_bytes())
    description["arrays_digest"] = xxhash.xxh3_128_hexdigest(data)
    (tmp_path / DESCRIPTION).write_bytes(msgspec.json.encode(description))
    with pytest.raises(DetectorError, match=r"no array 'film\.sensors_mean'"):
        load_checkpoint(tmp_path)
