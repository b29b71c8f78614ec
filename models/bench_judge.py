"""`bench judge`: window to verdict, part by part.

A weld is judged packet by packet, exactly as live, with stopwatches around the functions that do the work. Nothing is
done again here, so what is measured is what runs; a part that has moved is named instead of measured wrongly. The
statistics floor judges the same weld in turns with it, and so tells how fast the machine was at that time.
"""

import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import wraps
from importlib import import_module
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from acquisition.packet import Event
from models.checkpoint import Checkpoint, load_checkpoint
from models.detector_contract import Detector, DetectorError
from models.judge import WeldJudge, judge_packets
from models.statistics import StatisticsDetector
from recordings.cell import load_cell
from recordings.reader import WeldReader
from recordings.simulate import plan, write_weld
from recordings.verdict import Score, Verdict

Progress = Callable[[str], None]
WINDOW: Final = "window"
PHOTOS: Final = "photos"
TOTAL: Final = "total"
_ALPHA: Final = 0.05
_NEEDS: Final[dict[str, tuple[str, ...]]] = {"process": (), "final": ()}


class Part(NamedTuple):
    """Where one part of the work is done.

    Attributes:
        name: As it is shown; indented by two blanks within the part above it.
        where: `module:attribute`, or `detector:attribute` for a method of the detector or of something that it holds.
    """

    name: str
    where: str


_ANY: Final = (
    Part("cut from packets", "sync.windows:cut"),
    Part("digest of the sample", "sync.sample:Weld4MSample.digest"),
    Part("encode window", "detector:encode_window"),
)
_STATISTICS: Final = (
    Part("  video", "models.statistics:video_statistics"),
    Part("  audio", "models.statistics:audio_statistics"),
    Part("  sensors", "models.statistics:sensor_statistics"),
)
_FILM: Final = (
    Part("  prepare", "models.film_tokens:process_batch"),
    Part("    scale sensors", "models.film_inputs:SensorScale.apply"),
    Part("  encode video", "detector:inputs.encoders.video"),
    Part("  encode audio", "detector:inputs.encoders.audio"),
    Part("  phases", "models.film_tokens:statistics_of"),
    Part("  network, 7 patterns", "models.film_detector:look"),
    Part("  error distances", "models.film_errors:ErrorModel.distances"),
)
_AFTER: Final = (
    Part("photos into sample", "sync.windows:photo_sample"),
    Part("encode photos", "detector:encode_photos"),
    Part("scores of windows", "detector:window_score"),
    Part("score of the whole", "detector:whole_score"),
    Part("leave-one-out", "models.judge:leave_one_out"),
    Part("disagreement", "detector:disagreement"),
    Part(TOTAL, "models.judge:WeldJudge.push"),
)
PARTS: Final = {
    "statistics": (*_ANY, *_STATISTICS, *_AFTER),
    "causal-film": (*_ANY, *_FILM, *_AFTER),
}
"""Per kind of detector, in the order in which they are shown."""


@dataclass
class Stopwatch:
    """Sums up the time of each part until it is read; owned by one thread.

    Attributes:
        spent: Seconds by part since the last reading.
        times: Milliseconds per window, and per verdict with photos, by part.
    """

    spent: dict[str, float] = field(default_factory=dict)
    times: dict[str, dict[str, list[float]]] = field(default_factory=lambda: {WINDOW: {}, PHOTOS: {}})
    _running: set[str] = field(default_factory=set)

    def around(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap a function; a part within itself counts once."""

        @wraps(function)
        def timed(*args: Any, **named: Any) -> Any:
            if part in self._running:
                return function(*args, **named)
            self._running.add(part)
            began = time.perf_counter()
            try:
                return function(*args, **named)
            finally:
                self.spent[part] = self.spent.get(part, 0.0) + time.perf_counter() - began
                self._running.discard(part)

        return timed

    def note(self, kind: str, count: int) -> None:
        """Book what was spent on `count` windows or verdicts."""
        for part, seconds in self.spent.items():
            self.times[kind].setdefault(part, []).extend([1e3 * seconds / count] * count)


def bench_judge(
    checkpoint: Path,
    floor: Path,
    *,
    weld: Path | None = None,
    windows: int = 200,
    progress: Progress = lambda _: None,
) -> dict[str, Any]:
    """Measure what a checkpoint takes from the packet that completes a window to its verdict.

    Args:
        checkpoint: Folder of the detector.
        floor: Folder of a statistics detector, the baseline; only its work counts, on windows of the same spec.
        weld: Folder of a recorded weld; without it, one is simulated.
        windows: How many windows are measured at least; a whole weld comes first to warm up.
        progress: Takes lines for the user.

    Returns:
        `{"machine", "checkpoint", "baseline", "weld", "window_ms", "photos_ms", "baseline_ms", "ratio"}`; a time is
        `{"median", "p95", "p99", "n"}` in ms per window, or per verdict with photos.

    Raises:
        DetectorError: A checkpoint cannot be used, the weld has no window, or a part to be measured is gone.
        WeldError: The weld cannot be read.
    """
    if windows < 1:
        raise DetectorError(f"--n is {windows}; measure at least 1 window")
    loaded = load_checkpoint(checkpoint)
    base = load_checkpoint(floor)
    if not isinstance(base.detector, StatisticsDetector):
        raise DetectorError(f"{floor}: a '{base.detector.name}' checkpoint; the baseline is a statistics detector")
    # Scores of samples of another spec mean nothing, but they are the same work.
    base = replace(base, detector=StatisticsDetector.from_state(loaded.detector.spec, base.detector.state()))
    with tempfile.TemporaryDirectory(prefix="bench-") as folder, threadpool_limits(limits=1):
        if weld is None:
            progress("simulating a weld")
            weld = write_weld(plan(1, ["good"], (0.5, 0.5), 1, 1)[0], load_cell(None), Path(folder))
        reader = WeldReader(weld)
        watches = _measured((loaded, base), reader, windows, progress)
    mine, theirs = (_summaries(w) for w in watches)
    return {
        "machine": {
            "processor": platform.processor() or platform.machine(),
            "cores": os.cpu_count(),
            "load": round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None,
            "threads": 1,
            "python": platform.python_version(),
        },
        "checkpoint": loaded.title,
        "baseline": base.title,
        "weld": reader.manifest.key,
        "window_ms": _in_order(mine[WINDOW], loaded.detector),
        "photos_ms": _in_order(mine[PHOTOS], loaded.detector),
        "baseline_ms": {kind: theirs[kind].get(TOTAL) for kind in (WINDOW, PHOTOS)},
        "ratio": {
            kind: round(mine[kind][TOTAL]["median"] / theirs[kind][TOTAL]["median"], 2)
            for kind in (WINDOW, PHOTOS)
            if TOTAL in mine[kind] and TOTAL in theirs[kind]
        },
    }


def lines(result: dict[str, Any]) -> Iterator[str]:
    """Lay out the result for people."""
    machine = result["machine"]
    yield f"{result['checkpoint']} judging weld {result['weld']}, one thread"
    yield f"{machine['processor']}, {machine['cores']} cores, load {machine['load']}"
    for kind, title in ((WINDOW, "ms per window"), (PHOTOS, "ms per verdict with photos")):
        parts, base = result[f"{kind}_ms"], result["baseline_ms"][kind]
        if not parts:
            yield f"{title}: the weld has none"
            continue
        heading = f"{title} (n = {parts[TOTAL]['n']})"
        yield f"{heading:36}{'median':>9}{'p95':>9}{'p99':>9}"
        for name, t in [*parts.items(), *([(result["baseline"], base)] if base else [])]:
            yield f"  {name:34}{t['median']:9.2f}{t['p95']:9.2f}{t['p99']:9.2f}"
        if kind in result["ratio"]:
            yield f"  {'median against the baseline':34}{result['ratio'][kind]:8.2f}x"


def _measured(
    checkpoints: Sequence[Checkpoint], reader: WeldReader, windows: int, progress: Progress
) -> list[Stopwatch]:
    """Judge the weld in turns until every checkpoint has been measured on enough windows."""
    watches = [Stopwatch() for _ in checkpoints]
    for checkpoint in checkpoints:
        with stopwatches(checkpoint.detector, warm := Stopwatch()):
            _judge(checkpoint, reader, warm)
        if not warm.times[WINDOW]:
            raise DetectorError(f"{reader.folder}: no window can be cut from this weld; name another with --weld")
    done = 0
    while done < windows:
        for checkpoint, watch in zip(checkpoints, watches, strict=True):
            with stopwatches(checkpoint.detector, watch):
                _judge(checkpoint, reader, watch)
        done = min(len(w.times[WINDOW][TOTAL]) for w in watches)
        progress(f"{min(done, windows)} of {windows} windows measured")
    return watches


def _judge(checkpoint: Checkpoint, reader: WeldReader, watch: Stopwatch) -> None:
    """Judge a recorded weld as if it were live; a window's time is that of the packet that completes it."""

    def judge_of(event: Event) -> WeldJudge:
        return WeldJudge(checkpoint, event, reader.infos, required=_NEEDS, cell=reader.manifest.cell, alpha=_ALPHA)

    said: list[Score | Verdict] = []
    for item in judge_packets(reader.packets(), judge_of):
        if item is not None:
            said.append(item)
            continue
        scores = sum(isinstance(one, Score) for one in said)
        if scores:
            watch.note(WINDOW, scores)
        elif any(isinstance(one, Verdict) and one.final for one in said):
            watch.note(PHOTOS, 1)
        watch.spent.clear()
        said.clear()


@contextmanager
def stopwatches(detector: Detector, watch: Stopwatch) -> Iterator[None]:
    """Put stopwatches around every part of a detector's work, and take them off again."""
    with ExitStack() as undo:
        for part in PARTS[detector.name]:
            owner, name = _place(part, detector)
            honest = vars(owner).get(name)
            setattr(owner, name, watch.around(part.name.strip(), getattr(owner, name)))
            if honest is None:
                undo.callback(delattr, owner, name)
            else:
                undo.callback(setattr, owner, name, honest)
        yield


def _place(part: Part, detector: Detector) -> tuple[Any, str]:
    """Find the module or class that holds a part, and its name there."""
    module, _, names = part.where.partition(":")
    *path, name = names.split(".")
    try:
        owner: Any = detector if module == "detector" else import_module(module)
        for step in path:
            owner = getattr(owner, step)
        owner = type(owner) if module == "detector" else owner
        if callable(getattr(owner, name)):
            return owner, name
    except (AttributeError, ImportError):
        pass
    raise DetectorError(
        f"{part.where}: gone, so '{part.name.strip()}' cannot be measured; name its new place in models/bench_judge.py"
    )


def _summaries(watch: Stopwatch) -> dict[str, dict[str, dict[str, float]]]:
    return {kind: {part: summary(values) for part, values in parts.items()} for kind, parts in watch.times.items()}


def summary(values: Sequence[float]) -> dict[str, float]:
    """Give median, p95, p99 and count."""
    median, p95, p99 = np.percentile(values, [50, 95, 99])
    return {"median": round(median, 3), "p95": round(p95, 3), "p99": round(p99, 3), "n": len(values)}


def _in_order(found: dict[str, dict[str, float]], detector: Detector) -> dict[str, dict[str, float]]:
    """Sort the parts as `PARTS` lists them, indented as there."""
    names = [part.name for part in PARTS[detector.name]]
    return {name: found[name.strip()] for name in names if name.strip() in found}
