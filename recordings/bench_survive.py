"""`bench survive`: a recording capture process is killed again and again, and what is left is held against the truth.

The process that runs it has everything imported and forks the capture processes, so a kill costs no start of Python.
The simulated cell notes what it handed over in a file that outlives the kill (`acquisition.simulated.tally`).
"""

import contextlib
import multiprocessing
import os
import random
import shutil
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from acquisition.simulated.tally import read_tally
from recordings.capture import CaptureOptions, run_capture
from recordings.cell import load_cell
from recordings.opening import OPEN_WELDS, markers
from recordings.runtime import Runtime
from recordings.survival import CRITICAL, Remains, remains
from recordings.weld_folder import MANIFEST, PART, TRUTH

_SHORT_WELDS: Final = """
name = "survive"
[record]
pre_s = 0.3
post_s = 0.2
reserve_gb = 0.01
[judge]
photos_expected = 1
photo_wait_s = 0.4
[simulation]
seed = {seed}
tally = '{tally}'
classes = ["good"]
idle_s = 0.5
arc_s = 0.6
tail_s = 0.7
gap_s = 0.0
photos = 1
photo_delay_s = 0.6
height = 64
width = 96
photo_height = 64
photo_width = 64
sensor_rate_hz = 100.0
saturated_rows = 0.0
[[stream]]
name = "camera"
modality = "video"
driver = "simulated"
[[stream]]
name = "microphone"
modality = "audio"
driver = "simulated"
[[stream]]
name = "sensors"
modality = "sensors"
driver = "simulated"
[[stream]]
name = "photos"
modality = "post_images"
driver = "simulated"
"""

_LIFE_S: Final = 4.0
"""A kill that is not aimed comes this long after the start at most: two welds."""

_PATIENCE_S: Final = 30.0
"""What a kill is aimed at must show itself within this time, and before the weld is complete."""

JOBS: Final = 6
"""Captures at once: their load is about one core."""


_RESULT: Final = "result.json"

_CONTEXT: Final[Any] = multiprocessing.get_context(
    "fork" if "fork" in multiprocessing.get_all_start_methods() else "spawn"
)
"""Forked processes have everything imported; where there is no fork each one starts anew."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Aim:
    """What is looked for on the disk, and how long after it the kill comes.

    Attributes:
        name: For messages.
        files: One of these, drawn, must show itself in the folder of a weld that is being recorded; `.` is the naming
            of the weld itself, before its folder exists. None for the start of the process.
        times: It must show itself so often: a drawn number, this at most.
        spread_s: The kill comes up to so much later.
    """

    name: str
    files: tuple[str, ...] | None
    times: int = 1
    spread_s: float = 0.0


_ANY_TIME: Final = Aim(name="any time", files=None, spread_s=_LIFE_S)
_AIMS: Final = (
    Aim(name="start", files=None, spread_s=0.2),
    Aim(name="opening", files=(".",), spread_s=0.01),
    Aim(name="replacing", files=(MANIFEST + PART,), times=5),
    Aim(name="finalising", files=(TRUTH,), spread_s=0.02),
    Aim(name="tables", files=(f"events.parquet{PART}", f"sensors.parquet{PART}"), spread_s=0.01),
    *[_ANY_TIME] * 5,
)
"""One after the other. The manifest of a weld is replaced five times."""


def survive(out: Path | None, trials: int, jobs: int = JOBS, *, progress: Progress = lambda *_: None) -> dict[str, Any]:
    """Kill `trials` capture processes, `jobs` at a time, and hold what they left against the tally.

    Each is killed at an instant of its own, drawn with the trial's number as seed, and runs in a process of its own.

    Returns:
        Kills per phase, judged from the disk; loss per stream of the welds that were open; and by trial what could not
        be read, was not kept at all, was lost unsaid, or died in the hands of the process.
    """
    results: dict[str, Remains] = {}
    running: dict[BaseProcess, Path] = {}

    def collect() -> None:
        wait([process.sentinel for process in running])
        for process in [process for process in running if process.exitcode is not None]:
            folder = running.pop(process)
            results[folder.name] = _result(folder, process)
            progress(len(results), trials)

    with tempfile.TemporaryDirectory(prefix="survive-", dir=out) as base:
        for number in range(trials):
            while len(running) >= jobs:
                collect()
            folder = Path(base, f"{number:04d}")
            folder.mkdir()
            process = _CONTEXT.Process(target=_trial, args=(folder, number), name=f"trial-{number}")
            process.start()
            running[process] = folder
        while running:
            collect()
    return _summary(results)


def _result(folder: Path, process: BaseProcess) -> Remains:
    path = folder / _RESULT
    if not path.exists():
        raise RuntimeError(f"trial {folder.name} ended with code {process.exitcode}; its messages are above")
    found = msgspec.json.decode(path.read_bytes(), type=Remains)
    shutil.rmtree(folder)
    return found


def _trial(folder: Path, number: int) -> None:
    """Kill one capture process; what it left goes to `_RESULT`."""
    root, tally = folder / "welds", folder / "tally"
    cell = folder / "cell.toml"
    cell.write_text(_SHORT_WELDS.format(seed=number + 1, tally=tally), encoding="utf-8")
    aim, draw = _AIMS[number % len(_AIMS)], random.Random(number)
    runtime = Path(tempfile.mkdtemp(prefix="w4m-"))
    process = _CONTEXT.Process(target=_capture, args=(cell, runtime, root, folder / "log"))
    process.start()
    try:
        _look(aim, root, draw, process)
    finally:
        process.kill()
        process.join()
        shutil.rmtree(runtime, ignore_errors=True)
    found = remains(root, read_tally(tally))
    if process.exitcode != -signal.SIGKILL:
        log = (folder / "log").read_text(errors="replace")
        found.problems.append(f"capture ended by itself with code {process.exitcode}: {log[-2000:]}")
    (folder / _RESULT).write_bytes(msgspec.json.encode(found))


def _capture(cell: Path, runtime: Path, root: Path, log: Path) -> None:
    with log.open("wb") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    run_capture(load_cell(cell), Runtime(runtime), root, CaptureOptions(judged=False))


def _look(aim: Aim, root: Path, draw: random.Random, process: BaseProcess) -> None:
    """Return when the kill is due."""
    deadline = time.monotonic() + _PATIENCE_S

    def until(condition: Callable[[], bool], pause_s: float) -> None:
        while not condition() and process.is_alive() and time.monotonic() < deadline:
            time.sleep(pause_s)

    if aim.files is not None:
        file, times = draw.choice(aim.files), draw.randint(1, aim.times)
        until(lambda: _named(root) is not None, 0.0005)
        folder = _named(root) if file != "." else None
        if folder is not None:
            path, marker = os.fspath(folder / file), os.fspath(root / OPEN_WELDS / folder.name)
            for _ in range(times - 1):
                until(lambda: os.path.exists(path) or not os.path.exists(marker), 0.0)
                until(lambda: not os.path.exists(path), 0.0)
            until(lambda: os.path.exists(path) or not os.path.exists(marker), 0.0)
    time.sleep(draw.uniform(0.0, aim.spread_s))


def _named(root: Path) -> Path | None:
    """Give the folder of the first weld that is being recorded, if there is one."""
    with contextlib.suppress(OSError):  # it may be complete before it is read
        return next((folder for _, folder in markers(root) if folder != root), None)
    return None


def _summary(results: dict[str, Remains]) -> dict[str, Any]:
    phases = Counter(found.phase for found in results.values())
    seconds: dict[str, list[float]] = {}
    for found in results.values():
        for weld in found.welds.values():
            for name, stream in weld.streams.items():
                seconds.setdefault(name, []).append(stream.seconds)

    def of(kind: str) -> list[str]:
        return [f"{trial}: {line}" for trial, found in sorted(results.items()) for line in getattr(found, kind)]

    return {
        "trials": len(results),
        "phases": dict(phases.most_common()),
        "critical_share": round(sum(phases[phase] for phase in CRITICAL) / max(1, len(results)), 3),
        "welds_open_when_killed": sum(len(found.welds) for found in results.values()),
        "unreadable": of("unreadable"),
        "unkept": of("unkept"),
        "stated_is_not_true": of("problems"),
        "died_with_a_packet_in_hand": sum(found.in_hand for found in results.values()),
        "loss_s": {
            name: {
                "mean": round(float(np.mean(values)), 4),
                "p99": round(float(np.percentile(values, 99)), 4),
                "worst": round(max(values), 4),
            }
            for name, values in seconds.items()
        },
    }


def lines(result: dict[str, Any]) -> Iterator[str]:
    """Say the result in words."""
    phases = ", ".join(f"{phase} {n}" for phase, n in result["phases"].items())
    yield f"{result['trials']} kills ({phases}); {100 * result['critical_share']:.0f} % where something can be torn"
    yield f"{result['welds_open_when_killed']} welds were open, {len(result['unreadable'])} cannot be read"
    for name, loss in result["loss_s"].items():
        yield f"{name}: lost {loss['mean']:.3f} s on average, p99 {loss['p99']:.3f} s, at worst {loss['worst']:.3f} s"
    yield f"{len(result['stated_is_not_true'])} times the stated loss was not the true one"
    yield f"{result['died_with_a_packet_in_hand']} times the process died between taking a packet and marking it"
    for kind in ("unreadable", "unkept", "stated_is_not_true"):
        yield from (f"{kind}: {line}" for line in result[kind])
