"""From weld folders to a calibrated checkpoint and an honest evaluation, through the real recorder and reader."""

from pathlib import Path

import pytest

from models.checkpoint import load_checkpoint
from models.detector_contract import PATTERNS, DetectorError
from models.evaluation import evaluate
from models.training import CACHE, calibrate, held_out, train_statistics
from models.weld_features import encoded_welds, found_welds
from tests.models.welds import CELL, SPEC, weld_packets, write_weld


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """36 good welds of 6 sessions, and a test set of 10 good and 10 bad ones of two others."""
    root = tmp_path_factory.mktemp("welds")
    for seed in range(36):
        packets = weld_packets(seed, key=f"g{seed:02d}", arc_s=3.0)
        write_weld(root / "train" / f"g{seed:02d}", packets, session=f"s{seed // 6}")
    for seed in range(20):
        bad = seed % 2 == 1
        packets = weld_packets(
            500 + seed, key=f"t{seed:02d}", arc_s=3.0, fault=0.6 * bad, photo_fault=40.0 * bad, without=("mic",)
        )
        label = (0, 3 if seed % 4 == 1 else 9)[bad]
        write_weld(root / "test" / f"t{seed:02d}", packets, session=f"x{seed // 10}", label=label)
    return root


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run")
    found = train_statistics(data / "train", out, spec=SPEC, hold_out=0.5)
    assert found["trained_on"] == {"welds": 18, "sessions": 3}
    assert (found["calibrated"][0]["welds"], found["calibrated"][0]["sessions"]) == (18, 3)
    return out


def test_sessions_never_cross(run: Path) -> None:
    checkpoint = load_checkpoint(run, SPEC)
    calibration = checkpoint.calibrations[CELL]
    assert not set(checkpoint.training.sessions) & set(calibration.sessions)
    assert not set(checkpoint.training.welds) & set(calibration.welds)
    assert set(checkpoint.training.held_out) == set(calibration.welds)
    assert all(calibration.of(p).size == 18 for p in PATTERNS)


def test_evaluation_tells_bad_from_good_with_what_is_there(run: Path, data: Path) -> None:
    found = evaluate(run, data, split=None)
    assert found["protocol"]["session_disjoint"]
    assert found["protocol"]["welds"] == 20  # the training and calibration welds below `data` are left out
    rows = {tuple(row["modalities"]): row for row in found["rows"]}
    assert ("audio",) not in rows  # no test weld has sound
    photos = rows[("post_images",)]
    assert photos["auroc"] > 0.95
    assert photos["auroc_ci"][0] <= photos["auroc"] <= photos["auroc_ci"][1]
    assert photos["prevalence"] == 0.5
    assert set(photos["per_class"]) == {"porosity", "spatter"}
    assert photos["false_alarms"]["n"] == 10
    assert photos["false_alarms"]["calibration_welds"] == 18
    assert photos["aupro_30"] is None
    assert photos["latency_ms"]["p50"] > 0


def test_a_leaking_split_is_said(run: Path, data: Path, tmp_path: Path) -> None:
    seen = load_checkpoint(run).training.sessions[0]
    write_weld(tmp_path / "leak", weld_packets(900, key="leak", arc_s=3.0), session=seen)
    lines: list[str] = []
    found = evaluate(run, tmp_path, progress=lines.append)
    assert not found["protocol"]["session_disjoint"]
    assert any("the split leaks" in line for line in lines)


def test_calibration_binds_to_the_cell(run: Path, data: Path, tmp_path: Path) -> None:
    for seed in range(3):
        packets = weld_packets(700 + seed, key=f"o{seed}", arc_s=3.0)
        write_weld(tmp_path / f"o{seed}", packets, session="other", cell="other")
    before = load_checkpoint(run)
    calibrate(run, tmp_path)
    after = load_checkpoint(run)
    assert set(after.calibrations) == {CELL, "other"}
    assert after.calibrations[CELL] is not None
    assert after.calibrations["other"].scores.shape == (15, 3)
    assert after.training == before.training
    assert after.digest != before.digest
    with pytest.raises(DetectorError, match="no good weld of cell third"):
        calibrate(run, tmp_path, cell="third")


def test_the_cache_gives_what_the_weld_gave(run: Path, data: Path, tmp_path: Path) -> None:
    welds = found_welds(data / "train")[:2]
    lines: list[str] = []
    first = encoded_welds(welds, SPEC, tmp_path / CACHE, lines.append)
    again = encoded_welds(welds, SPEC, tmp_path / CACHE, lines.append)
    assert lines == ["0 of 2 welds are in the cache; reading 2"]
    detector = load_checkpoint(run).detector
    for a, b in zip(first, again, strict=True):
        for p in PATTERNS:
            assert detector.weld_score(a.windows, a.photos, p) == detector.weld_score(b.windows, b.photos, p)


def test_an_unreadable_weld_is_named_and_left_out(tmp_path: Path) -> None:
    for seed in range(2):
        write_weld(tmp_path / "data" / f"w{seed}", weld_packets(seed, key=f"w{seed}", arc_s=3.0))
    (tmp_path / "data" / "w1" / "plc.parquet").write_bytes(b"not a table")
    lines: list[str] = []
    kept = encoded_welds(found_welds(tmp_path / "data"), SPEC, tmp_path / CACHE, lines.append)
    assert [w.key for w in kept] == ["w0"]
    assert any(line.startswith("left out: ") and "plc" in line for line in lines)
    with pytest.raises(DetectorError, match="1 good training welds have windows; at least 10 are needed"):
        train_statistics(tmp_path / "data", tmp_path / "run", spec=SPEC, hold_out=0.0)
    with pytest.raises(DetectorError, match="holds no weld"):
        found_welds(tmp_path / "nothing")


def test_held_out_sessions_are_whole_and_seeded(data: Path) -> None:
    welds = found_welds(data / "train")
    drawn = held_out(welds, 0.3, seed=1)
    assert drawn == held_out(welds, 0.3, seed=1)
    assert len(drawn) == 12
    assert len({w.manifest.session for w in welds if w.manifest.key in drawn}) == 2
    one = [w for w in welds if w.manifest.session == "s0"]
    assert len(held_out(one, 0.5, seed=0)) == 3
