"""`evaluate`: how well a checkpoint tells good welds from bad ones that it has never seen, with honest intervals."""

import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from acquisition.packet import MODALITIES
from models.checkpoint import Checkpoint, load_checkpoint
from models.conformal import p_value
from models.detector_contract import PATTERNS, PROCESS, PROCESS_PATTERNS, DetectorError, Pattern
from models.metrics import (
    Flags,
    Values,
    auroc,
    average_precision,
    beta_binomial_interval,
    binomial_interval,
    bootstrap_interval,
    f1_max,
    fpr_at_tpr,
)
from models.report_details import GOOD, ReportDetails, RowScores
from models.splits import Split, chosen
from models.training import CACHE, weld_scores
from models.weld_features import FoundWeld, Progress, encoded_by, found_welds
from recordings.manifest import Manifest
from recordings.verdict import CLASSES
from sync.sample import SampleSpec, Weld4MSample

ROWS: Final[tuple[Pattern, ...]] = (MODALITIES, PROCESS, *((m,) for m in MODALITIES))
"""Presence patterns that get a row each; the first is the headline."""
_NOT_MEASURED: Final = dict.fromkeys(
    (
        *("accuracy", "macro_f1", "per_class_f1", "aupro_30", "aupro_05", "aupro_01"),
        *("p_auroc", "pro", "iou", "dice"),
    )
)
"""Numbers of classifiers and of pixel maps, which this detector does not have."""


def evaluate(
    run: Path,
    data: Path,
    *,
    split: Split | str | None = None,
    part: str = "test",
    absent_ok: bool = False,
    alpha: float = 0.05,
    seed: int = 0,
    floor: Path | None = None,
    report: Path | None = None,
    progress: Progress = lambda _: None,
) -> dict[str, Any]:
    """Evaluate a checkpoint on the labelled welds of `data` that it was neither fitted nor calibrated on.

    Args:
        run: Folder of the checkpoint.
        data: Folder tree of welds.
        split: Only welds whose metadata name this split, or those of a part of a split that was made.
        part: Which part of it.
        absent_ok: Take what is there of the part; otherwise a weld that is not there is an error.
        alpha: False-alarm rate aimed at.
        seed: Of the bootstrap.
        floor: Another checkpoint, whose rows follow: the statistics floor, to compare with.
        report: Folder that gets plots and one HTML page.
        progress: Takes lines for the user.

    Returns:
        `{"protocol": ..., "rows": [...]}`.

    Raises:
        DetectorError: The checkpoint cannot be read, welds of the split are not there, or no labelled weld is left.
    """
    welds = chosen(found_welds(data), split, (part,), absent_ok=absent_ok)
    name = f"{part} of a {split.kind} split, seed {split.seed}" if isinstance(split, Split) else split
    result, details = evaluate_in_detail(run, data, welds, split=name, alpha=alpha, seed=seed, progress=progress)
    beside = None
    if floor is not None:
        progress(f"the same welds by {floor}")
        beside = evaluate_in_detail(floor, data, welds, split=name, alpha=alpha, seed=seed, progress=progress)
    if report is not None:
        from models.report import write_report

        progress(f"report: {write_report(result, details, report, floor=beside)}")
    if beside is not None:
        result["protocol"]["floor"] = beside[0]["protocol"]["checkpoint"]
        result["rows"] = result["rows"] + beside[0]["rows"]
    return result


def evaluate_in_detail(
    run: Path,
    data: Path,
    found: Sequence[FoundWeld],
    *,
    split: str | None,
    alpha: float,
    seed: int,
    progress: Progress,
) -> tuple[dict[str, Any], ReportDetails]:
    """Evaluate welds of `data` as `evaluate` does, and give the score of every weld too, as a report needs it."""
    checkpoint = load_checkpoint(run)
    used = {*checkpoint.training.welds, *checkpoint.training.validation} | {
        k for c in checkpoint.calibrations.values() for k in c.welds
    }
    labelled = [w for w in found if w.manifest.label >= 0]
    welds = [w for w in labelled if w.manifest.key not in used]
    if len(welds) < len(labelled):
        progress(f"{len(labelled) - len(welds)} welds were used for fitting or calibration; left out")
    if not welds:
        raise DetectorError(f"{data}: no labelled weld that {run} has not seen; evaluate on other welds")
    known = set(checkpoint.training.sessions) | {s for c in checkpoint.calibrations.values() for s in c.sessions}
    leaked = sorted({w.manifest.session for w in welds} & known)
    if leaked:
        progress(f"warning: {len(leaked)} sessions ({leaked[0]}, ...) are also in the training set: the split leaks")
    encoded = {w.key: w for w in encoded_by(checkpoint.detector, welds, run / CACHE, progress) if w.windows}
    welds = [w for w in welds if w.manifest.key in encoded]
    scores = np.array([weld_scores(checkpoint.detector, encoded[w.manifest.key]) for w in welds])
    latency = latency_ms(checkpoint)
    rows = [
        _row(checkpoint, pattern, welds, scores[:, PATTERNS.index(pattern)], alpha, seed) | {"latency_ms": latency}
        for pattern in ROWS
        if not np.isnan(scores[:, PATTERNS.index(pattern)]).all()
    ]
    protocol = {
        "split": split or "all welds not seen in training or calibration",
        "seeds": [seed],
        "supervised": False,
        "session_disjoint": not leaked,
        "welds": len(welds),
        "sessions": len({w.manifest.session for w in welds}),
        "checkpoint": checkpoint.title,
    }
    details = ReportDetails(
        keys=tuple(w.manifest.key for w in welds),
        classes=tuple(class_of(w.manifest) for w in welds),
        sessions=tuple(w.manifest.session for w in welds),
        known_sessions=frozenset(known),
        rows=tuple(_row_scores(checkpoint, tuple(row["modalities"]), welds, scores) for row in rows),
    )
    return {"protocol": protocol, "rows": rows}, details


def class_of(manifest: Manifest) -> str:
    """Name what a weld is: its class, or the set for testing only that it belongs to (swapped beads, silent parts)."""
    return str(manifest.described.get("set") or CLASSES[manifest.label])


def _row_scores(checkpoint: Checkpoint, pattern: Pattern, welds: Sequence[FoundWeld], scores: Values) -> RowScores:
    """Give every weld's score under `pattern` and its p-value in its own cell (NaN where there is none)."""
    column = scores[:, PATTERNS.index(pattern)]
    good = {cell: calibration.of(pattern) for cell, calibration in checkpoint.calibrations.items()}
    p_values = np.full(len(welds), np.nan)
    for i, weld in enumerate(welds):
        mine = good.get(weld.manifest.cell)
        if mine is not None and mine.size and np.isfinite(column[i]):
            p_values[i] = p_value(mine, float(column[i]))
    return RowScores(modalities=pattern, scores=column, p_values=p_values)


def _row(
    checkpoint: Checkpoint,
    pattern: Pattern,
    welds: Sequence[FoundWeld],
    scores: Values,
    alpha: float,
    seed: int,
) -> dict[str, Any]:
    judged = ~np.isnan(scores)
    kept = [w for w, ok in zip(welds, judged, strict=True) if ok]
    score = scores[judged]
    classes = np.array([class_of(w.manifest) for w in kept])
    bad: Flags = classes != GOOD
    interval = bootstrap_interval(auroc, score, bad, seed=seed)
    against = {c: (classes == c) | ~bad for c in sorted(set(classes.tolist()) - {GOOD})}
    intervals = {c: bootstrap_interval(auroc, score[of], bad[of], seed=seed) for c, of in against.items()}
    recipes = np.array([str(w.manifest.described.get("recipe", "")) for w in kept])
    return {
        "model": checkpoint.detector.name,
        "modalities": list(pattern),
        "auroc": auroc(score, bad),
        "auroc_ci": None if interval is None else list(interval),
        "ap": average_precision(score, bad),
        "f1_max": f1_max(score, bad),
        "prevalence": float(bad.mean()),
        "fpr95": fpr_at_tpr(score, bad),
        "per_class": {c: auroc(score[of], bad[of]) for c, of in against.items()},
        "per_class_ci": {c: None if ci is None else list(ci) for c, ci in intervals.items()},
        "per_class_welds": {c: int((classes == c).sum()) for c in against},
        "per_recipe": {r: auroc(score[recipes == r], bad[recipes == r]) for r in sorted(set(recipes)) if r} or None,
        "false_alarms": _alarms(
            checkpoint, pattern, [w for w, b in zip(kept, bad, strict=True) if not b], score[~bad], alpha
        ),
        "detections": _alarms(checkpoint, pattern, [w for w, b in zip(kept, bad, strict=True) if b], score[bad], alpha),
        "params": checkpoint.detector.parameters(),
        "train_s": checkpoint.training.seconds,
        **_NOT_MEASURED,
    }


def _alarms(
    checkpoint: Checkpoint, pattern: Pattern, welds: Sequence[FoundWeld], scores: Values, alpha: float
) -> dict[str, Any] | None:
    """Count NO-GO verdicts among welds, each against the calibration of its own cell; None where there is none."""
    calibrations = {c: k.of(pattern) for c, k in checkpoint.calibrations.items() if k.of(pattern).size}
    pairs = [
        (calibrations[w.manifest.cell], float(s))
        for w, s in zip(welds, scores, strict=True)
        if w.manifest.cell in calibrations
    ]
    if not pairs:
        return None
    count = sum(1 for good, s in pairs if p_value(good, s) <= alpha)
    calibrated = min(good.size for good, _ in pairs)
    allowed = math.floor(alpha * (calibrated + 1) + 1e-9)
    expected = beta_binomial_interval(allowed, calibrated, len(pairs)) if allowed else (0, 0)
    return {
        "alpha": alpha,
        "n": len(pairs),
        "no_go": count,
        "rate": count / len(pairs),
        "rate_ci": list(binomial_interval(count, len(pairs))),
        "calibration_welds": calibrated,
        "expected_if_good_90": list(expected),
    }


def latency_ms(checkpoint: Checkpoint, repeats: int = 20) -> dict[str, float]:
    """Time one window, encoding and all seven process scores, on a window of noise; p50 and p95."""
    detector = checkpoint.detector
    window = noise_window(detector.spec)
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        encoded = detector.encode_window(window)
        for pattern in PROCESS_PATTERNS:
            detector.window_score(encoded, pattern)
        times.append(1e3 * (time.perf_counter() - began))
    p50, p95 = np.percentile(times, [50, 95])
    return {"p50": round(float(p50), 3), "p95": round(float(p95), 3)}


def noise_window(spec: SampleSpec, index: int = 10, seed: int = 0) -> Weld4MSample:
    """Make a full window of noise: the same work as a real one, and no meaning."""
    rng = np.random.default_rng(seed)
    return Weld4MSample(
        weld="noise",
        index=index,
        t0_ns=0,
        duration_ns=round(spec.window_s * 1e9),
        spec=spec,
        video=rng.integers(0, 256, (spec.frames, 1, spec.height, spec.width), dtype=np.uint8),
        video_mask=np.ones(spec.frames, dtype=np.bool_),
        audio=rng.integers(-3000, 3000, (spec.audio_channels, spec.audio_length), dtype=np.int16),
        audio_mask=np.ones(spec.audio_length, dtype=np.bool_),
        sensors=rng.normal((5, 15, 100, 177, 100, 25), (0.1, 0.1, 1, 5, 1, 0.5), (spec.sensor_rows, 6)),
        sensors_mask=np.ones((spec.sensor_rows, 6), dtype=np.bool_),
        post_images=rng.integers(0, 256, (spec.photos, 3, spec.photo_height, spec.photo_width), dtype=np.uint8),
        post_images_mask=np.ones(spec.photos, dtype=np.bool_),
        present=MODALITIES,
    )
