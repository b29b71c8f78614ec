"""`train` and `calibrate`: fit on good welds, then ask good welds that the fit never saw what is normal."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
import xxhash

from acquisition.packet import MODALITIES
from models.checkpoint import DETECTORS, Checkpoint, TrainingRecord, load_checkpoint, save_checkpoint
from models.conformal import Calibration, false_alarm_range, welds_needed
from models.detector_contract import PATTERNS, PHOTOS, Detector, DetectorError
from models.splits import PRETRAIN, Split, chosen
from models.statistics import EncodedWeld, StatisticsDetector
from models.weld_features import FoundWeld, Progress, encoded_by, encoded_welds, found_welds
from sync.sample import SampleSpec

GOOD: Final = 0
CACHE: Final = "features"


def train(
    model: str,
    data: Path,
    out: Path,
    *,
    config: Path | None = None,
    weights: Path | None = None,
    split: Split | None = None,
    absent_ok: bool = False,
    progress: Progress = lambda _: None,
) -> dict[str, Any]:
    """Train one of `DETECTORS`.

    Args:
        model: Its name.
        data: Folder tree of welds. Where welds carry a `split` in their metadata, only TRAIN is used.
        split: Its train part is used, and its unlabelled welds to pretrain, whatever the metadata say.
        absent_ok: Take what is there of the split; otherwise a weld that is not there is an error.
        out: Folder of the run, which is its checkpoint. A run that was killed goes on with the same arguments.
        config: Settings in TOML; `statistics` has none.
        weights: Folder of the pretrained backbones that the settings name.
        progress: Takes lines for the user.

    Returns:
        Counts, as JSON.

    Raises:
        DetectorError: The model is unknown, a setting is wrong, the welds are too few or too bad, or it went wrong.
    """
    if model == "causal-film":
        welds = training_welds(data, split, absent_ok=absent_ok)
        return train_network(welds, out, config=config, weights=weights, progress=progress)
    if model != "statistics":
        raise DetectorError(f"no model '{model}'; there are: {', '.join(DETECTORS)}")
    for name, given in (("config", config), ("weights", weights)):
        if given is not None:
            raise DetectorError(f"{given}: 'statistics' has no {name}; leave --{name} out")
    return train_statistics(data, out, split=split, absent_ok=absent_ok, progress=progress)


def train_network(
    welds: Sequence[FoundWeld],
    out: Path,
    *,
    config: Path | None = None,
    weights: Path | None = None,
    progress: Progress = lambda _: None,
) -> dict[str, Any]:
    """Train Causal-FiLM and calibrate it on whole sessions held out; see `train`."""
    from models.film_run import save_record, train_causal_film

    checkpoint, encoded, record = train_causal_film(welds, out, config=config, weights=weights, progress=progress)
    by_key = {w.key: w for w in encoded}
    calibrators = [w for w in welds if w.manifest.key in by_key]
    calibrations = calibrations_of(checkpoint.detector, calibrators, by_key, progress)
    save_checkpoint(out, replace(checkpoint, calibrations=calibrations))
    save_record(out, record)
    return {
        "run": str(out),
        "trained_on": {"welds": record.welds["fit"], "sessions": len(checkpoint.training.sessions)},
        "parameters": record.parameters,
        "seconds": record.seconds,
        "collapse": {name: record.training[-1].figures.get(name) for name in ("cosine", "std", "rank")},
        "calibrated": [_summary(c) for c in calibrations.values()],
    }


def training_welds(data: Path, split: Split | None = None, *, absent_ok: bool = False) -> list[FoundWeld]:
    """List the complete welds at or below `data` that may train.

    Without a split that was made: those of no other part than TRAIN, and of no set for testing only.

    Raises:
        DetectorError: There is none, or one of the split is not there.
    """
    found = found_welds(data)
    if split is not None:
        return chosen(found, split, ("train", PRETRAIN), absent_ok=absent_ok)
    now = [(w, w.manifest.described) for w in found]
    return [w for w, d in now if str(d.get("split", "TRAIN")).upper() == "TRAIN" and not d.get("set")]


def train_statistics(
    data: Path,
    out: Path,
    *,
    spec: SampleSpec | None = None,
    hold_out: float = 0.4,
    seed: int = 0,
    split: Split | None = None,
    absent_ok: bool = False,
    progress: Progress = lambda _: None,
) -> dict[str, Any]:
    """Fit the floor on good welds and calibrate it on whole sessions held out.

    Args:
        data: Folder tree of welds. Where welds carry a `split` in their metadata, only TRAIN is used.
        out: Folder of the checkpoint.
        spec: What samples are cut to.
        hold_out: Share of the good welds that calibrate; whole sessions, drawn at random.
        seed: Of the draw.
        split: See `train`.
        absent_ok: See `train`.
        progress: Takes lines for the user.

    Returns:
        Counts, as JSON.

    Raises:
        DetectorError: There are too few good welds.
    """
    spec = spec or SampleSpec()
    found = training_welds(data, split, absent_ok=absent_ok)
    good = [w for w in found if w.manifest.label == GOOD]
    sessions = {w.manifest.session for w in good}
    progress(f"{len(found)} welds, {len(good)} of them labelled good, from {len(sessions)} sessions")
    encoded = {w.key: w for w in encoded_welds(good, spec, out / CACHE, progress) if w.windows}
    good = [w for w in good if w.manifest.key in encoded]
    held = held_out(good, hold_out, seed)
    if len(sessions) == 1:
        progress("only one session: single welds are held out, and the false-alarm rate in another session is unknown")
    fitted = [w for w in good if w.manifest.key not in held]
    detector = StatisticsDetector.fit(spec, [encoded[w.manifest.key] for w in fitted], progress)
    training = TrainingRecord(
        welds=[w.manifest.key for w in fitted],
        sessions=sorted({w.manifest.session for w in fitted}),
        held_out=sorted(held),
        digest=xxhash.xxh3_128_hexdigest("".join(w.digest for w in fitted).encode()),
        utc=_now(),
    )
    calibrators = [w for w in good if w.manifest.key in held]
    calibrations = calibrations_of(detector, calibrators, encoded, progress)
    save_checkpoint(out, Checkpoint(detector=detector, training=training, calibrations=calibrations))
    return {
        "run": str(out),
        "trained_on": {"welds": len(fitted), "sessions": len(training.sessions)},
        "calibrated": [_summary(c) for c in calibrations.values()],
    }


def calibrate(
    run: Path,
    data: Path,
    *,
    cell: str | None = None,
    split: Split | None = None,
    absent_ok: bool = False,
    progress: Progress = lambda _: None,
) -> dict[str, Any]:
    """Calibrate a checkpoint on the good welds of `data`, each cell on its own, and store that in it.

    Args:
        run: Folder of the checkpoint.
        data: Folder tree of welds.
        cell: Only this cell.
        split: Only its val part: what a test is to tell must not set the threshold.
        absent_ok: See `train`.
        progress: Takes lines for the user.

    Raises:
        DetectorError: The checkpoint cannot be read, or there is no good weld that it was not fitted on.
    """
    checkpoint = load_checkpoint(run)
    seen = {*checkpoint.training.welds, *checkpoint.training.validation}
    good = [
        w
        for w in chosen(found_welds(data), split, ("val",), absent_ok=absent_ok)
        if w.manifest.label == GOOD and cell in (None, w.manifest.cell) and not w.manifest.described.get("set")
    ]
    fresh = [w for w in good if w.manifest.key not in seen]
    if len(fresh) < len(good):
        progress(f"{len(good) - len(fresh)} welds were used for training and cannot calibrate; left out")
    if not fresh:
        raise DetectorError(
            f"{data}: no good weld{f' of cell {cell}' if cell else ''} that {run} was not trained on; "
            "record and label good welds first"
        )
    detector = checkpoint.detector
    encoded = {w.key: w for w in encoded_by(detector, fresh, run / CACHE, progress) if w.windows}
    fresh = [w for w in fresh if w.manifest.key in encoded]
    made = calibrations_of(detector, fresh, encoded, progress)
    save_checkpoint(run, replace(checkpoint, calibrations=checkpoint.calibrations | made))
    return {"run": str(run), "calibrated": [_summary(c) for c in made.values()]}


def held_out(welds: Sequence[FoundWeld], share: float, seed: int) -> set[str]:
    """Draw whole sessions (single welds if there is only one session) until `share` of the welds is drawn."""
    session_of = {w.manifest.key: w.manifest.session for w in welds}
    one = len(set(session_of.values())) == 1
    groups = sorted(session_of) if one else sorted(set(session_of.values()))
    drawn: set[str] = set()
    for i in np.random.default_rng(seed).permutation(len(groups)):
        if len(drawn) >= share * len(welds):
            break
        drawn |= {key for key, session in session_of.items() if groups[i] in (key if one else session,)}
    return drawn


def calibrations_of(
    detector: Detector, welds: Sequence[FoundWeld], encoded: dict[str, EncodedWeld], progress: Progress
) -> dict[str, Calibration]:
    """Score good welds under all 15 presence patterns, per cell."""
    made = {}
    for cell, count in sorted(Counter(w.manifest.cell for w in welds).items()):
        progress(f"calibrating for cell '{cell}' on {count} good welds")
        mine = [w.manifest for w in welds if w.manifest.cell == cell]
        scores = np.array([weld_scores(detector, encoded[m.key]) for m in mine]).T
        made[cell] = Calibration(
            cell=cell,
            scores=np.ascontiguousarray(scores),
            welds=tuple(m.key for m in mine),
            sessions=tuple(m.session for m in mine),
            utc=_now(),
        )
    return made


def weld_scores(detector: Detector, weld: EncodedWeld) -> list[float]:
    """Score a weld under each of `PATTERNS`; NaN where it lacks a modality of the pattern."""
    counts = Counter(m for window in weld.windows for m in window.present)
    there = {m for m in MODALITIES if counts[m] >= 0.9 * max(len(weld.windows), 1)}
    there |= {PHOTOS} if weld.photos is not None else set()
    return [detector.weld_score(weld.windows, weld.photos, p) if set(p) <= there else float("nan") for p in PATTERNS]


def _summary(calibration: Calibration, alpha: float = 0.05) -> dict[str, Any]:
    n = len(calibration.welds)
    low, high = false_alarm_range(n, alpha)
    return {
        "cell": calibration.cell,
        "welds": n,
        "sessions": len(set(calibration.sessions)),
        "welds_needed": welds_needed(alpha),
        "alpha": alpha,
        "false_alarm_range_90": [round(low, 4), round(high, 4)],
    }


def _now() -> str:
    return datetime.now(tz=UTC).isoformat(timespec="seconds")
