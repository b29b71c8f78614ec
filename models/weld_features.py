"""Encoded welds from folders: read once, kept in a cache, so that fits, masks and calibrations cost next to nothing."""

import multiprocessing
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import xxhash
from safetensors import SafetensorError
from safetensors.numpy import load, save
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from models.detector_contract import PHASES, PHOTOS, PROCESS, Detector, DetectorError, Encoded
from models.statistics import NAMES, EncodedWeld, StatisticsDetector, encode_photos, encode_window
from recordings.manifest import Manifest
from recordings.reader import WeldReader
from recordings.weld_folder import WeldError, find_welds, load_manifest
from sync.alignment import AlignmentError
from sync.sample import SampleSpec, Weld4MSample
from sync.windows import WindowCutter, WindowError

Progress = Callable[[str], None]
VERSION: Final = 1
"""Raised when a statistic changes its meaning: cached values of another version are not used."""
WORKERS: Final = 2
_SAY_EVERY_S: Final = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundWeld:
    """A weld folder with what its manifest says.

    Attributes:
        folder: Where it lies.
        manifest: Its manifest.
        digest: XXH3-128 (hex) over `weld.json`, which holds the digests of all other files.
    """

    folder: Path
    manifest: Manifest
    digest: str


def found_welds(data: Path, leave_out: Callable[[Path, str], None] | None = None) -> list[FoundWeld]:
    """List the complete welds at or below `data`, by key.

    Args:
        data: Folder tree of welds.
        leave_out: Takes folder and reason of every weld that cannot be read; without it, the first one raises.

    Raises:
        DetectorError: There is none, or one cannot be read.
    """
    found = []
    try:
        for folder in find_welds(data):
            try:
                digest = xxhash.xxh3_128_hexdigest((folder / "weld.json").read_bytes())
                found.append(FoundWeld(folder=folder, manifest=load_manifest(folder), digest=digest))
            except (WeldError, OSError) as error:
                if leave_out is None:
                    raise
                leave_out(folder, str(error))
    except (WeldError, OSError) as error:
        raise DetectorError(str(error)) from error
    complete = [w for w in found if w.manifest.state != "open"]
    if not complete:
        raise DetectorError(f"{data}: all {len(found)} welds are still open; run recover on it first")
    return sorted(complete, key=lambda w: (w.manifest.session, w.manifest.key))


def windows_of(folder: Path, spec: SampleSpec) -> tuple[Manifest, list[Weld4MSample], Weld4MSample]:
    """Read one weld: its manifest, its windows and its photo-only sample.

    Raises:
        WeldError: It cannot be read.
        WindowError: Its packets are out of order.
        AlignmentError: A stream cannot be cut to the spec.
    """
    reader = WeldReader(folder)
    manifest = reader.manifest
    cutter = WindowCutter(manifest.key, spec, reader.infos, manifest.label)
    last_order = 0
    windows = []
    for packet in reader.packets():
        if packet.order <= last_order and cutter.finished:
            continue  # added after a restart, whose orders begin anew
        windows += cutter.push(packet)
        last_order = packet.order
    return manifest, windows, cutter.photo_window()


def encode_weld(folder: Path, spec: SampleSpec) -> EncodedWeld:
    """Read one weld and take its statistics; raises what `windows_of` does."""
    manifest, samples, photos = windows_of(folder, spec)
    return EncodedWeld(
        key=manifest.key,
        session=manifest.session,
        label=manifest.label,
        windows=[encode_window(sample) for sample in samples],
        photos=encode_photos(photos),
    )


def encoded_welds(welds: Sequence[FoundWeld], spec: SampleSpec, cache: Path, progress: Progress) -> list[EncodedWeld]:
    """Take the statistics of welds, two at a time, from the cache where it holds them.

    Unreadable ones are named and left out.
    """
    cache.mkdir(parents=True, exist_ok=True)
    paths = [cache / f"{_name(weld, spec)}.safetensors" for weld in welds]
    jobs = [(w.folder, spec, p) for w, p in zip(welds, paths, strict=True) if not p.exists()]
    read_in_parallel(_encode_to, jobs, len(welds), progress)
    return [_loaded(path, weld.manifest) for path, weld in zip(paths, welds, strict=True) if path.exists()]


def encoded_by(detector: Detector, welds: Sequence[FoundWeld], cache: Path, progress: Progress) -> list[EncodedWeld]:
    """Encode welds as a detector does, from the cache where it holds them; unreadable ones are named and left out."""
    if detector.name == StatisticsDetector.name:
        return encoded_welds(welds, detector.spec, cache, progress)
    from models.film_detector import encoded_by_film

    return encoded_by_film(detector, welds, cache, progress)


def read_in_parallel(
    work: Callable[[Path, SampleSpec, Path], str | None],
    jobs: Sequence[tuple[Path, SampleSpec, Path]],
    welds: int,
    progress: Progress,
) -> None:
    """Do `work` for every weld that the cache lacks and say how it goes.

    Args:
        work: Reads a weld folder into a file of the cache; returns what went wrong.
        jobs: Its arguments, a weld each.
        welds: How many welds are wanted in all.
        progress: Takes lines for the user.
    """
    if not jobs:
        return
    progress(f"{welds - len(jobs)} of {welds} welds are in the cache; reading {len(jobs)}")
    for count, (problem, left_s) in enumerate(_run(work, jobs), 1):
        if problem is not None:
            progress(problem)
        if left_s is not None:
            progress(f"read {count} of {len(jobs)} welds, {left_s:.0f} s left")


def _run(
    work: Callable[[Path, SampleSpec, Path], str | None], jobs: Sequence[tuple[Path, SampleSpec, Path]]
) -> Iterator[tuple[str | None, float | None]]:
    """Do all jobs; yields for each what went wrong, and now and then the seconds left."""
    began = said = time.monotonic()

    def left(count: int) -> float | None:
        nonlocal said
        now = time.monotonic()
        if now - said < _SAY_EVERY_S:
            return None
        said = now
        return (now - began) / count * (len(jobs) - count)

    if len(jobs) <= WORKERS:  # not worth the start of a process
        for count, job in enumerate(jobs, 1):
            yield work(*job), left(count)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(WORKERS, mp_context=context, initializer=_one_thread) as pool:
        running = [pool.submit(work, *job) for job in jobs]
        for count, future in enumerate(as_completed(running), 1):
            yield future.result(), left(count)


def _one_thread() -> None:
    threadpool_limits(limits=1)


def _encode_to(folder: Path, spec: SampleSpec, path: Path) -> str | None:
    """Encode one weld into a file of the cache; returns what went wrong."""
    try:
        weld = encode_weld(folder, spec)
    except (WeldError, WindowError, AlignmentError) as error:
        return f"left out: {error}"
    fresh = path.with_suffix(".new")
    fresh.write_bytes(save(_arrays(weld)))
    fresh.replace(path)
    return None


def _name(weld: FoundWeld, spec: SampleSpec) -> str:
    return xxhash.xxh3_128_hexdigest(repr((VERSION, weld.manifest.key, weld.digest, spec)).encode())


def _arrays(weld: EncodedWeld) -> dict[str, npt.NDArray[Any]]:
    """Lay out a weld as arrays: a row per window, NaN and phase -1 where a modality is absent."""
    count = len(weld.windows)
    arrays: dict[str, npt.NDArray[Any]] = {
        "index": np.array([w.index for w in weld.windows], dtype=np.int64),
        "phases": np.full((count, len(PROCESS)), -1, dtype=np.int64),
    }
    for column, m in enumerate(PROCESS):
        arrays[m] = np.full((count, len(NAMES[m])), np.nan)
        for row, window in enumerate(weld.windows):
            if m in window.present:
                arrays[m][row] = window.values[m]
                arrays["phases"][row, column] = PHASES.index(window.phases[m])
    if weld.photos is not None:
        arrays[PHOTOS] = weld.photos.values[PHOTOS]
    return arrays


def _loaded(path: Path, manifest: Manifest) -> EncodedWeld:
    try:
        arrays = load(path.read_bytes())
    except (OSError, SafetensorError) as error:
        raise DetectorError(f"{path}: {error}; delete it, it will be made again") from error
    windows = []
    for row, index in enumerate(arrays["index"]):
        phases = {m: int(arrays["phases"][row, column]) for column, m in enumerate(PROCESS)}
        present = tuple(m for m in PROCESS if phases[m] >= 0)
        window = Encoded(
            index=int(index),
            present=present,
            values={m: arrays[m][row] for m in present},
            phases={m: PHASES[phases[m]] for m in present},
        )
        windows.append(window)
    photos = Encoded(index=-1, present=(PHOTOS,), values={PHOTOS: arrays[PHOTOS]}) if PHOTOS in arrays else None
    return EncodedWeld(key=manifest.key, session=manifest.session, label=manifest.label, windows=windows, photos=photos)
