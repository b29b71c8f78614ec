"""`bench fuzz`: damaged welds and sources by the thousand; nothing may crash, hang or write where it should not.

Every input is handled in a worker process with bounded memory; a worker that dies or does not answer is a finding.
"""

import contextlib
import multiprocessing
import os
import random
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Final

import av
import numpy as np

from acquisition.packet import VideoFrame
from acquisition.simulated.config import SimulationConfig
from recordings.catalogue import read_catalogue
from recordings.cell import load_cell
from recordings.fuzz_mutations import damage_bytes, damage_csv, damage_manifest, link_out, rehash, swap
from recordings.importer import import_welds
from recordings.reader import WeldReader
from recordings.recovery import recover
from recordings.simulate import plan, simulate
from recordings.verify import verify
from recordings.video_encoder import VideoEncoder
from recordings.weld4m_csv import SensorFileError, read_sensor_csv
from recordings.weld4m_tree import SourceError
from recordings.weld_folder import MANIFEST, RecordingError, WeldError, find_welds
from recordings.weld_writer import WeldWriter

DEADLINE_S: Final = 30.0
"""Longest time that one input may take."""
MEMORY_BYTES: Final = 6 * 2**30
"""Address space of a worker: a header that claims 100 GB must not be believed."""
MATCHING: Final = 0.75
"""Share of damaged welds whose digests are made to match."""
NAMED: Final = (WeldError, RecordingError, SourceError, SensorFileError)
"""Errors that are answers: one line that names the thing, the value and the next step."""
_WELDS: Final = 4
_HEADER: Final = (
    "Date,Time,Part No,Pressure,CO2 Weld Flow,Feed,Primary Weld Current,Wire Consumed,Secondary Weld Voltage,Remarks "
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bases:
    """What is damaged.

    Attributes:
        finished: Finished weld folders.
        opened: The same welds as a killed recorder leaves them.
        source: A Weld-4M source with as many welds.
    """

    finished: tuple[Path, ...]
    opened: tuple[Path, ...]
    source: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """An input that was not answered as it should be; `seed` makes it again."""

    seed: int
    target: str
    damage: str
    what: str


@dataclass
class FuzzReport:
    """What fuzzing found.

    Attributes:
        inputs: Inputs per target.
        matching: Inputs that pass the first check: digests match, or the target has none.
        refused: Inputs that were answered by a named error or reported as damaged.
        findings: What must be mended.
        seconds: Wall time.
    """

    inputs: Counter[str] = field(default_factory=Counter)
    matching: int = 0
    refused: int = 0
    findings: list[Finding] = field(default_factory=list)
    seconds: float = 0.0

    def as_json(self) -> dict[str, Any]:
        """Give the report as plain values."""
        kinds = Counter(finding.what.split(":")[0] for finding in self.findings)
        return {
            "inputs": dict(self.inputs) | {"all": sum(self.inputs.values())},
            "matching": self.matching,
            "refused": self.refused,
            "crashes": sum(n for kind, n in kinds.items() if kind not in ("hang", "outside")),
            "hangs": kinds["hang"],
            "outside": kinds["outside"],
            "findings": [f"seed {f.seed} {f.target} {f.damage}: {f.what}" for f in self.findings[:50]],
            "seconds": round(self.seconds, 1),
        }


# -- what is damaged -----------------------------------------------------------------------------------------------


def make_bases(folder: Path, seed: int = 1) -> Bases:
    """Simulate a few small welds; leave them finished, open, and as a Weld-4M source."""
    cell = load_cell()
    small = SimulationConfig(
        seed=seed, idle_s=0.6, arc_s=1.0, tail_s=0.6, photos=2, photo_delay_s=0.5,
        height=64, width=96, photo_height=64, photo_width=80,
    )  # fmt: skip
    record = replace(cell.record, pre_s=0.4, post_s=0.4)
    world = replace(cell, simulation=small, record=record, judge=replace(cell.judge, photos_expected=2))
    simulate(
        plan(_WELDS, ["good", "porosity"], (0.5, 1.0), seed, 2),
        world,
        folder / "finished",
        workers=1,
        progress=lambda _done, _all: None,
    )
    finished = tuple(find_welds(folder / "finished"))
    opened = tuple(_opened(weld, folder / "opened" / weld.name) for weld in finished)
    for number, weld in enumerate(finished):
        _source(weld, folder / "source", number)
    return Bases(finished=finished, opened=opened, source=folder / "source")


def _opened(weld: Path, folder: Path) -> Path:
    """Write a finished weld again and stop as a kill would."""
    reader = WeldReader(weld)
    encoders = {
        name: VideoEncoder(info, first_arrival_ns=reader.manifest.origin_ns)
        for name, info in reader.infos.items()
        if info.modality == "video"
    }
    manifest = reader.manifest
    for stream in manifest.streams.values():
        stream.files, stream.codec, stream.items = [], "", 0
    manifest.files = {}
    writer = WeldWriter(folder, manifest, encoders)
    for packet in reader.packets():
        if isinstance(packet.payload, VideoFrame):
            for frame in encoders[packet.stream].encode(packet):
                writer.write(frame)
        else:
            writer.write(packet)
    writer.flush()
    writer.save_manifest()
    writer.abandon()
    return folder


def _source(weld: Path, root: Path, number: int) -> None:
    """Lay a weld out as Weld-4M does: MPEG-4 in AVI, FLAC, CSV with times, photos, a row of the manifest."""
    reader = WeldReader(weld)
    name = f"01-05-26-{number:04d}-{max(0, reader.manifest.label):02d}"
    folder = root / "run" / name
    (folder / "images").mkdir(parents=True)
    with av.open(str(folder / f"{name}.avi"), "w") as container:
        stream = container.add_stream("mpeg4", rate=30)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for packet in reader.packets():
            if isinstance(packet.payload, VideoFrame):
                picture = av.VideoFrame.from_ndarray(np.stack([packet.payload.pixels] * 3, axis=2), format="rgb24")
                container.mux(stream.encode(picture))
        container.mux(stream.encode())
    shutil.copyfile(weld / "microphone.flac", folder / f"{name}.flac")
    lines = [_HEADER]
    for i, row in enumerate(reader.sensors("sensors").iter_rows(named=True)):
        values = (row[n] for n in ("pressure_bar", "co2_flow_l_min", "feed", "current_a", "wire_mm", "voltage_v"))
        lines.append(f"8/17/2022,07:50:{i / 9:06.3f},P1," + ",".join(f"{value:.2f}" for value in values))
    (folder / f"{name}.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    for i, photo in enumerate(reader.photos()):
        (folder / "images" / f"20260105_0600{i:02d}_000.jpg").write_bytes(photo.data)
    if number == 0:
        (root / "manifest.csv").write_text("CATEGORY,SUBDIRS,SPLIT\n", encoding="utf-8")
    with (root / "manifest.csv").open("a", encoding="utf-8") as table:
        table.write(f"{('Good', 'Porosity')[reader.manifest.label != 0]},run/{name},TRAIN\n")


# -- one input -----------------------------------------------------------------------------------------------------


def _copied(base: Path, place: Path) -> Path:
    shutil.copytree(base, place, copy_function=_linked)
    return place


def _linked(source: str, target: str) -> None:
    """Link a file that will not be written into; damage replaces it, programs replace what they change."""
    if Path(source).name in (MANIFEST, "marks.bin") or not Path(source).name.endswith((".parquet", ".jpg")):
        shutil.copyfile(source, target)
    else:
        os.link(source, target)


def _damage_weld(draw: random.Random, weld: Path, other: Path, outside: Path) -> tuple[str, bool]:
    files = [path for path in sorted(weld.rglob("*")) if path.is_file() and path.name != MANIFEST]
    path, kind = draw.choice(files), draw.random()
    if kind < 0.3:
        how = damage_manifest(draw, weld)
    elif kind < 0.36:
        how = damage_bytes(draw, weld / MANIFEST, outside)
    elif kind < 0.44:
        how = f"{swap(draw, path, other)} {path.name}"
    elif kind < 0.48:
        how = f"{link_out(path, outside)} {path.name}"
    else:
        how = f"{damage_bytes(draw, path, outside)} {path.name}"
    matching = draw.random() < MATCHING
    if matching:
        rehash(weld)
    return how, matching


def _read(draw: random.Random, bases: Bases, place: Path, outside: Path) -> Iterator[tuple[str, bool]]:
    base, other = draw.sample(bases.finished, 2)
    weld = _copied(base, place / "weld")
    yield _damage_weld(draw, weld, other, outside)
    refused = not verify(weld)[0].ok
    read_catalogue(place)
    for _ in WeldReader(weld).packets():
        pass
    if refused:
        raise WeldError("reported by verify")


def _recover(draw: random.Random, bases: Bases, place: Path, outside: Path) -> Iterator[tuple[str, bool]]:
    base, other = draw.sample(bases.opened, 2)
    weld = _copied(base, place / "weld")
    yield _damage_weld(draw, weld, other, outside)[0], True  # nothing is hashed while a weld is open
    report = recover(weld)[0]
    if not report.ok:
        raise WeldError(report.problems[0])
    for _ in WeldReader(weld).packets():
        pass


def _import(draw: random.Random, bases: Bases, place: Path, outside: Path) -> Iterator[tuple[str, bool]]:
    source = _copied(bases.source, place / "source")
    files = [path for path in sorted(source.rglob("*")) if path.is_file()]
    hurt = []
    for path in draw.sample(files, draw.choice((1, 1, 2, 4))):
        kind = draw.random()
        if path.suffix == ".csv" and kind < 0.6:
            hurt.append(f"{damage_csv(draw, path)} {path.name}")
        elif kind < 0.68:
            hurt.append(f"{link_out(path, outside)} {path.name}")
        elif kind < 0.72:
            renamed = path.with_name(draw.choice(("a\nb", "..a", "x" * 200, "CON", "ü\u202e", "a:b")) + path.suffix)
            path.rename(renamed)
            hurt.append(f"rename {path.name}")
        else:
            hurt.append(f"{damage_bytes(draw, path, outside)} {path.name}")
    yield ", ".join(hurt), True
    report = import_welds(source, place / "dest", dry_run=draw.random() < 0.2)
    if report.skipped or report.lossy:
        raise SourceError("; ".join(skipped["reason"] for skipped in report.skipped) or "reported as lossy")


def _csv(draw: random.Random, bases: Bases, place: Path, outside: Path) -> Iterator[tuple[str, bool]]:
    original = draw.choice(sorted(bases.source.glob("run/*/*.csv")))
    place.mkdir()
    path = place / "sensors.csv"
    shutil.copyfile(original, path)
    yield (damage_csv(draw, path) if draw.random() < 0.7 else damage_bytes(draw, path, outside)), True
    read_sensor_csv(path)


_TARGETS: Final[dict[str, Callable[[random.Random, Bases, Path, Path], Iterator[tuple[str, bool]]]]] = {
    "reader": _read,
    "recovery": _recover,
    "importer": _import,
    "csv": _csv,
}
"""Per target a generator: it damages, tells what it did and whether the damage passes the first check, then runs."""
_SHARES: Final = (4, 2, 2, 2)


def fuzz_one(seed: int, bases: Bases, work: Path) -> tuple[str, str, bool, bool, str | None]:
    """Make one damaged input from `seed` and handle it.

    Returns:
        Target, damage, whether it passes the first check, whether it was refused, and what was found or None.
    """
    draw = random.Random(seed)
    target = draw.choices(list(_TARGETS), _SHARES)[0]
    place, outside = work / "in", work / "outside"
    shutil.rmtree(place, ignore_errors=True)
    outside.mkdir(parents=True, exist_ok=True)
    (outside / "secret.avi").write_bytes(b"not for you")
    place.mkdir()
    before = _listing(work, place)
    steps = _TARGETS[target](draw, bases, place / "it", outside)
    damage, matching = next(steps)
    refused, found = False, None
    try:
        next(steps, None)
    except NAMED as error:
        refused = True
        if "\n" in str(error).strip():
            found = f"error of many lines: {str(error)[:200]!r}"
    except Exception as error:
        at = traceback.extract_tb(error.__traceback__)[-1]
        found = f"{type(error).__name__}: {str(error)[:200]!r} at {Path(at.filename).name}:{at.lineno}"
    if (after := _listing(work, place)) != before:
        found = f"outside: {sorted(after ^ before)[:3]}"
    return target, damage, matching, refused, found


def _listing(work: Path, place: Path) -> set[tuple[str, int, int]]:
    """List everything near the input that must not change."""
    found = set()
    for folder, folders, names in os.walk(work):
        folders[:] = [name for name in folders if Path(folder) / name != place]
        for name in names:
            status = os.lstat(Path(folder) / name)
            found.add((str(Path(folder) / name), status.st_size, status.st_mtime_ns))
    return found


# -- many inputs ---------------------------------------------------------------------------------------------------


def _work(requests: Connection, bases: Bases, work: Path) -> None:
    """Worker process: handle seeds until None comes."""
    if sys.platform != "win32":
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    with contextlib.suppress(EOFError, BrokenPipeError):
        while (seed := requests.recv()) is not None:
            requests.send(fuzz_one(seed, bases, work))


@dataclass
class _Worker:
    """A worker process and what it is at."""

    bases: Bases
    work: Path
    seed: int = -1
    since_s: float = 0.0

    def __post_init__(self) -> None:
        self.start()

    def start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_work, args=(theirs, self.bases, self.work), daemon=True)
        self.process.start()
        theirs.close()

    def give(self, seed: int | None) -> None:
        self.seed, self.since_s = -1 if seed is None else seed, time.monotonic()
        self.pipe.send(seed)

    def restart(self) -> None:
        self.process.kill()
        self.process.join()
        self.pipe.close()
        self.start()


def bench_fuzz(n: int, seed: int = 1, workers: int = 2, progress: Callable[[str], None] | None = None) -> FuzzReport:
    """Damage `n` inputs and handle each.

    Args:
        n: Number of inputs.
        seed: First seed; input i has seed `seed + i`.
        workers: Processes.
        progress: Told every 500 inputs.

    Returns:
        What was found.
    """
    report, began = FuzzReport(), time.monotonic()
    with tempfile.TemporaryDirectory(prefix="fuzz-") as base:
        bases = make_bases(Path(base))
        _fuzz(report, bases, Path(base), range(seed, seed + n), workers, progress)
    report.seconds = time.monotonic() - began
    return report


def _fuzz(
    report: FuzzReport,
    bases: Bases,
    base: Path,
    seeds: Sequence[int],
    workers: int,
    progress: Callable[[str], None] | None,
) -> None:
    left = iter(seeds)
    crew = [_Worker(bases, base / f"worker-{i}") for i in range(workers)]
    busy = {worker.pipe: worker for worker in crew if _next(worker, left)}
    try:
        while busy:
            ready = wait(list(busy), timeout=1.0)
            for pipe in [pipe for pipe in busy if pipe in ready or _overdue(busy[pipe])]:
                worker = busy.pop(pipe)
                try:
                    if pipe not in ready:
                        raise TimeoutError
                    _note(report, worker.seed, *worker.pipe.recv())
                except (TimeoutError, EOFError, ConnectionError) as error:
                    what = "hang: no answer" if isinstance(error, TimeoutError) else "death: the process died"
                    _note(report, worker.seed, "unknown", "unknown", True, False, what)
                    worker.restart()
                if _next(worker, left):
                    busy[worker.pipe] = worker
                done = sum(report.inputs.values())
                if progress is not None and done % 500 == 0:
                    progress(f"{done} of {len(seeds)} inputs, {len(report.findings)} findings")
    finally:
        for worker in crew:
            worker.process.kill()
            worker.process.join()
            worker.pipe.close()


def _next(worker: _Worker, left: Iterator[int]) -> bool:
    seed = next(left, None)
    if seed is not None:
        worker.give(seed)
    return seed is not None


def _overdue(worker: _Worker) -> bool:
    return time.monotonic() - worker.since_s > DEADLINE_S


def _note(
    report: FuzzReport, seed: int, target: str, damage: str, matching: bool, refused: bool, found: str | None
) -> None:
    report.inputs[target] += 1
    report.matching += matching
    report.refused += refused
    if found is not None:
        report.findings.append(Finding(seed=seed, target=target, damage=damage, what=found))
