"""The model card of a checkpoint: one Markdown page of what its files say, and of nothing else.

Numbers come from the checkpoint, from the record of its run (`run.json`) and from evaluations (`evaluate --json`); an
evaluation of another checkpoint is refused, so that a card cannot praise what it does not lie beside.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec

from acquisition.packet import MODALITIES
from models.checkpoint import ARRAYS, DESCRIPTION, Checkpoint, load_checkpoint
from models.conformal import Calibration, false_alarm_range
from models.detector_contract import DetectorError
from models.report_html import number, rate, span, with_interval

CARD: Final = "CARD.md"
RECORD: Final = "run.json"
_WORDS: Final = {"video": "video", "audio": "sound", "sensors": "sensors", "post_images": "photos"}
_COLLAPSE: Final = {"cosine": "mean pairwise cosine", "std": "standard deviation", "rank": "effective rank"}

T = TypeVar("T")
Interval = tuple[float, float]


class Alarms(msgspec.Struct, frozen=True, kw_only=True):
    """NO-GO verdicts among welds of one kind, as an evaluation counts them."""

    alpha: float
    n: int
    no_go: int
    rate: float
    rate_ci: Interval
    calibration_welds: int
    expected_if_good_90: tuple[int, int]


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """What an evaluation says of one set of modalities; see `models.evaluation`."""

    model: str
    modalities: list[str]
    auroc: float | None
    auroc_ci: Interval | None
    ap: float | None
    f1_max: float | None
    prevalence: float
    fpr95: float | None
    per_class: dict[str, float | None]
    per_class_ci: dict[str, Interval | None] = {}
    per_class_welds: dict[str, int] = {}
    false_alarms: Alarms | None
    detections: Alarms | None
    latency_ms: dict[str, float] = {}


class Protocol(msgspec.Struct, frozen=True, kw_only=True):
    """How an evaluation was done."""

    checkpoint: str
    split: str
    seeds: list[int]
    session_disjoint: bool
    welds: int
    sessions: int
    floor: str | None = None


class Evaluation(msgspec.Struct, frozen=True, kw_only=True):
    """What `evaluate --json` prints: the rows of the checkpoint, then those of the floor."""

    protocol: Protocol
    rows: list[Row]

    def pairs(self) -> Iterator[tuple[Row, Row | None]]:
        """Give each row of the checkpoint with that of the floor."""
        count = len(self.rows)
        for i, row in enumerate(self.rows):
            same = [k for k in range(count) if self.rows[k].modalities == row.modalities]
            if same[0] == i:
                yield row, self.rows[same[1]] if len(same) > 1 else None


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """What a card takes from `run.json`."""

    settings: dict[str, Any] = {}
    welds: dict[str, int] = {}
    parameters: dict[str, list[int]] = {}
    pretraining: list[dict[str, Any]] = []
    training: list[dict[str, Any]] = []
    seconds: dict[str, float] = {}


def write_card(run: Path, evaluations: Sequence[Path], out: Path | None = None) -> dict[str, Any]:
    """Write the card of a checkpoint, beside it if `out` does not say where.

    Returns:
        `{"card", "checkpoint", "evaluations"}`.

    Raises:
        DetectorError: Checkpoint, record or an evaluation cannot be used, or `out` cannot be written.
    """
    checkpoint = load_checkpoint(run)
    found: dict[str, Evaluation] = {}
    for path in evaluations:
        if path.stem in found:
            raise DetectorError(f"{path}: a second evaluation of the name '{path.stem}'; give it another file name")
        found[path.stem] = _read(path, Evaluation)
        of = found[path.stem].protocol.checkpoint
        if of != checkpoint.title:
            raise DetectorError(f"{path}: an evaluation of {of}, not of {checkpoint.title}; evaluate this one again")
        if not found[path.stem].rows:
            raise DetectorError(f"{path}: an evaluation without a row; evaluate on welds that can be judged")
    record = _read(run / RECORD, Record) if (run / RECORD).exists() else None
    size = sum((run / name).stat().st_size for name in (ARRAYS, DESCRIPTION))
    out = out or run / CARD
    try:
        out.write_text(model_card(checkpoint, record, found, size_bytes=size), encoding="utf-8")
    except OSError as error:
        raise DetectorError(f"{out}: {error.strerror}; name a file that can be written") from error
    return {"card": str(out), "checkpoint": checkpoint.title, "evaluations": sorted(found)}


def model_card(
    checkpoint: Checkpoint, record: Record | None, evaluations: Mapping[str, Evaluation], *, size_bytes: int
) -> str:
    """Say in Markdown what a checkpoint was made from, how good it is and where not to trust it.

    Args:
        checkpoint: As loaded.
        record: Of its run, where there is one.
        evaluations: Of this checkpoint, by the name of their set of welds.
        size_bytes: Of its files.
    """
    parts = [
        f"# {checkpoint.title}",
        f"A `{checkpoint.detector.name}` detector, fitted on good welds only, made {checkpoint.training.utc}. "
        f"{checkpoint.detector.parameters():,} parameters, {size_bytes / 1e6:.1f} MB. "
        "Written by `card` from the files of the run and its evaluations.",
        "## Data",
        *_data(checkpoint, record),
        "## Training",
        *_training(checkpoint, record),
        "## How good it is",
        *_quality(evaluations),
        "## False alarms",
        *_alarms(evaluations),
        "## Limits",
        "\n".join(f"- {text}" for text in _limits(checkpoint, evaluations)),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _data(checkpoint: Checkpoint, record: Record | None) -> Iterator[str]:
    training = checkpoint.training
    rows = [
        ("welds of the fit", str(len(training.welds))),
        ("welds that stopped the training and set the scales", str(len(training.validation))),
        ("sessions of both", str(len(training.sessions))),
        ("good welds held out to calibrate", str(len(training.held_out))),
        *((f"welds used: {name}", str(count)) for name, count in (record.welds if record else {}).items()),
        ("digest of the training welds", f"`{training.digest}`"),
    ]
    yield _table(("", ""), rows)
    if not checkpoint.calibrations:
        yield "Calibrated for no cell: every verdict is NO DATA."
        return
    calibrated = ((c.cell, str(len(c.welds)), str(_sessions(c)), c.utc) for c in checkpoint.calibrations.values())
    yield _table(("calibrated for cell", "good welds", "sessions", "when"), calibrated)


def _training(checkpoint: Checkpoint, record: Record | None) -> Iterator[str]:
    if record is None or "sample" not in record.settings:
        spec = ", ".join(f"{name} {value}" for name, value in asdict(checkpoint.detector.spec).items())
        yield f"Samples: {spec}."
    seconds = checkpoint.training.seconds
    if seconds is not None:
        yield f"It took {seconds / 60:.1f} minutes."
    if record is None:
        yield "No record of the run lies beside it."
        return
    counts = ((name, f"{c[0]:,}", f"{c[-1]:,}") for name, c in record.parameters.items())
    yield _table(("network", "parameters", "trained"), counts)
    for name, history in (("Pretraining", record.pretraining), ("Training", record.training)):
        if history:
            best = min(history, key=lambda epoch: epoch["validation"])
            said = (
                f"{name}: {len(history)} epochs, best validation loss {best['validation']:.4g} in epoch {best['epoch']}"
            )
            signs = [f"{w} {best['figures'][n]:.3g}" for n, w in _COLLAPSE.items() if n in best.get("figures", {})]
            yield said + (f"; signs of collapse then: {', '.join(signs)}." if signs else ".")
    yield _table(("step", "seconds"), ((name, f"{value:g}") for name, value in record.seconds.items()))
    yield _table(("setting", "value"), ((f"`{name}`", f"{value}") for name, value in _leaves(record.settings)))


def _quality(evaluations: Mapping[str, Evaluation]) -> Iterator[str]:
    if not evaluations:
        yield "Not evaluated."
    for name, evaluation in evaluations.items():
        p = evaluation.protocol
        yield f"### {name}"
        apart = "none of them seen in training or calibration" if p.session_disjoint else "**some seen in training**"
        floor = f" Floor: {p.floor}." if p.floor else ""
        seeds = ", ".join(map(str, p.seeds))
        yield f"{p.welds} welds of {p.sessions} sessions, {apart}; {p.split}; bootstrap seed {seeds}.{floor}"
        yield _table(
            (
                "judged by",
                "AUROC (95 %)",
                "floor (95 %)",
                "average precision",
                "best F1",
                "bad welds",
                "FPR at 95 % TPR",
            ),
            (
                (
                    _modalities(row),
                    with_interval(row.auroc, row.auroc_ci),
                    with_interval(floor_row.auroc, floor_row.auroc_ci) if floor_row else "n/a",
                    number(row.ap),
                    number(row.f1_max),
                    number(row.prevalence, ".0%"),
                    number(row.fpr95, ".1%"),
                )
                for row, floor_row in evaluation.pairs()
            ),
        )
        yield _classes(evaluation)
        latency = evaluation.rows[0].latency_ms
        if latency:
            yield "One window takes " + ", ".join(f"{value:g} ms ({which})" for which, value in latency.items()) + "."


def _classes(evaluation: Evaluation) -> str:
    """Make the table of classes: a column of AUROC per set of modalities."""
    pairs = list(evaluation.pairs())
    head, floor = pairs[0]
    columns = ["class against good", *(["welds"] if head.per_class_welds else []), *(_modalities(r) for r, _ in pairs)]
    rows = (
        (
            name.replace("_", " "),
            *([str(head.per_class_welds.get(name, "n/a"))] if head.per_class_welds else []),
            *(with_interval(row.per_class.get(name), row.per_class_ci.get(name)) for row, _ in pairs),
            *([with_interval(floor.per_class.get(name), floor.per_class_ci.get(name))] if floor else []),
        )
        for name in head.per_class
    )
    note = "" if head.per_class_ci else "\n\nThe evaluation gives no intervals for classes."
    return _table([*columns, *(["floor"] if floor else [])], rows) + note


def _alarms(evaluations: Mapping[str, Evaluation]) -> Iterator[str]:
    rows = []
    for name, row in _rows(evaluations):
        alarms, found = row.false_alarms, row.detections
        if alarms is not None:
            low, high = alarms.expected_if_good_90
            expected = f"{low} to {high}"
            share = f"{with_interval(alarms.rate, alarms.rate_ci, '.1%')}"
            missed = rate(found.no_go, found.n) if found else "n/a"
            counts = f"{alarms.no_go} of {alarms.n}"
            rows.append((name, _modalities(row), f"{alarms.alpha:g}", counts, share, expected, missed))
    columns = ("set", "judged by", "alpha", "good welds stopped", "rate (95 %)", "expected (90 %)", "bad welds stopped")
    yield _table(columns, rows) or "Not measured."


def _limits(checkpoint: Checkpoint, evaluations: Mapping[str, Evaluation]) -> Iterator[str]:
    """Say what follows from the files and limits the use."""
    cells = ", ".join(f"`{name}`" for name in checkpoint.calibrations) or "no cell"
    yield f"Calibrated for {cells}; for any other every verdict is NO DATA until `calibrate` was run there."
    alphas = sorted({row.false_alarms.alpha for _, row in _rows(evaluations) if row.false_alarms})
    for c in checkpoint.calibrations.values():
        for alpha in alphas:
            low, high = false_alarm_range(len(c.welds), alpha)
            yield (
                f"Cell `{c.cell}`: at alpha {alpha:g}, {len(c.welds)} calibration welds of {_sessions(c)} sessions "
                f"leave the true rate of false alarms between {low:.1%} and {high:.1%} (90 %) for like welds."
            )
    for name, evaluation in evaluations.items():
        yield from _limits_of(name, evaluation)
    yield "Intervals take welds as independent; welds of one session resemble each other, so the truth is wider."


def _limits_of(name: str, evaluation: Evaluation) -> Iterator[str]:
    if not evaluation.protocol.session_disjoint:
        yield f"{name}: sessions of these welds were seen in training or calibration; the numbers flatter."
    for row, floor in evaluation.pairs():
        by = f"{name}, {_modalities(row)}"
        alarms, ci = row.false_alarms, row.auroc_ci
        if ci is not None and ci[0] <= 0.5:
            yield f"{by}: AUROC {span(ci, '.3f')} is not told from guessing."
        if floor is not None and row.auroc is not None and floor.auroc is not None and row.auroc < floor.auroc:
            yield f"{by}: AUROC {number(row.auroc)} is below the floor's {number(floor.auroc)}."
        if alarms is not None and alarms.no_go > alarms.expected_if_good_90[1]:
            yield f"{by}: {alarms.no_go} false alarms of {alarms.n} are more than alpha {alarms.alpha:g} allows."
    blind = [
        c.replace("_", " ") for c, ci in evaluation.rows[0].per_class_ci.items() if ci is not None and ci[0] <= 0.5
    ]
    if blind:
        yield f"{name}: not told from good welds: {', '.join(blind)}."


def _rows(evaluations: Mapping[str, Evaluation]) -> Iterator[tuple[str, Row]]:
    for name, evaluation in evaluations.items():
        for row, _ in evaluation.pairs():
            yield name, row


def _modalities(row: Row) -> str:
    return "everything" if len(row.modalities) == len(MODALITIES) else ", ".join(_WORDS[m] for m in row.modalities)


def _sessions(calibration: Calibration) -> int:
    return len(set(calibration.sessions))


def _leaves(settings: Mapping[str, Any], table: str = "") -> Iterator[tuple[str, Any]]:
    """Give every setting with its full name."""
    for name, value in settings.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{table}{name}.")
        else:
            yield f"{table}{name}", value


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Make a Markdown table; empty without a row."""
    texts = [[cell.replace("|", "\\|") for cell in row] for row in (columns, *rows)]
    if len(texts) == 1:
        return ""
    return "\n".join(f"| {' | '.join(row)} |" for row in (texts[0], ["---"] * len(columns), *texts[1:]))


def _read(path: Path, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except OSError as error:
        raise DetectorError(f"{path}: {error.strerror}; name a file that `evaluate --json` printed") from error
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise DetectorError(f"{path}: {error}; make it again with this version") from error
