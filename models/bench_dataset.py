"""`bench dataset`: samples per second in random order, beside a reader that decodes a weld for every sample.

The other reader is what one writes first: PyAV decodes all frames and all sound, numpy picks the nearest, polars reads
the tables. It gives the same shapes, on arrival times alone and without masks, so that it even does less. Photos are
left out on both sides. Both run in turns over the same welds, in this process and in two spawned workers.
"""

import os
import platform
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import av
import numpy as np
import polars as pl
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, Sampler

from acquisition.packet import SENSOR_CHANNELS
from acquisition.simulated.config import SimulationConfig
from models.dataset_samples import Sample, collate
from models.detector_contract import DetectorError
from models.weld_features import windows_of
from models.welding_dataset import WeldingDataset
from recordings.cell import load_cell
from recordings.simulate import plan, write_weld
from recordings.weld_folder import load_manifest
from sync.sample import SampleSpec

Progress = Callable[[str], None]
SIZES: Final = ((600, 960), (1200, 1920))
"""Height and width: what `simulate` writes, and a larger camera."""
WORKERS: Final = (0, 2)
_BATCH: Final = 4
_SEED: Final = 1


def bench_dataset(
    data: Path | None = None,
    *,
    welds: int = 6,
    samples: int = 48,
    plain_samples: int = 12,
    sizes: tuple[tuple[int, int], ...] = SIZES,
    workers: tuple[int, ...] = WORKERS,
    progress: Progress = lambda _: None,
) -> dict[str, Any]:
    """Measure samples per second.

    Args:
        data: Folder tree of welds; without it, welds of the simulated cell are made, in a temporary folder.
        welds: How many are made, of each size.
        samples: Drawn by the data set, twice: the first time every weld is new to it.
        plain_samples: Drawn by the plain reader.
        sizes: Height and width of the frames that are made.
        workers: Numbers of worker processes.
        progress: Takes lines for the user.

    Returns:
        `{"machine", "sizes": [{"frames", "welds", "samples", "equal", "per_s", "first_batch_s", "ratio"}]}`: `per_s` by
        reader and workers, `ratio` of the data set to the plain reader with as many workers.

    Raises:
        DetectorError: There are too few windows.
    """
    found = []
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
    with tempfile.TemporaryDirectory(prefix="weld4m-bench-") as folder:
        for size in sizes if data is None else (None,):
            root = data
            if size is not None:
                progress(f"simulating {welds} welds of {size[1]} x {size[0]}")
                root = _simulated(Path(folder) / f"{size[1]}", welds, size)
            assert root is not None
            found.append(_measured(root, (samples, plain_samples), workers, Path(folder), progress))
    machine = {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count(), "load": round(load, 2)}
    return {"machine": machine, "sizes": found}


def _simulated(root: Path, welds: int, size: tuple[int, int]) -> Path:
    cell = load_cell(None)
    simulation = replace(cell.simulation or SimulationConfig(), height=size[0], width=size[1])
    for order in plan(welds, ["good"], (0.5, 0.5), _SEED, 20):
        write_weld(order, replace(cell, simulation=simulation), root)
    return root


def _measured(
    root: Path, drawn: tuple[int, int], workers: tuple[int, ...], folder: Path, progress: Progress
) -> dict[str, Any]:
    spec, (samples, plain_samples) = SampleSpec(), drawn
    dataset = WeldingDataset(root, spec, photos=False)
    if len(dataset) < max(samples, plain_samples):
        raise DetectorError(f"{root}: {len(dataset)} windows are too few; make more welds or draw fewer samples")
    order = np.random.default_rng(_SEED).permutation(len(dataset)).tolist()
    plain = PlainReader(dataset)
    per_s: dict[str, dict[str, float]] = {}
    first_s: dict[str, dict[str, float]] = {}
    for count in workers:
        progress(key := f"{count} workers")
        cache = folder / f"cache-{count}"
        runs: tuple[tuple[str, Dataset[Sample], int], ...] = (
            ("plain", plain, plain_samples),
            ("dataset", WeldingDataset(root, spec, photos=False), samples),
            ("cached", WeldingDataset(root, spec, photos=False, cache=cache, open_welds=2), samples),
        )
        per_s[key], first_s[key] = {}, {}
        for name, reader, numbers in runs:
            passes = 1 if reader is plain else 2
            first_s[key][name], rates = _timed(reader, order[:numbers], count, passes)
            for when, rate in zip((name, f"{name}, again"), rates, strict=False):
                per_s[key][when] = rate
        shutil.rmtree(cache)
    streams = load_manifest(dataset.entries[0].folder).streams.values()
    width, height = next((r.info.width, r.info.height) for r in streams if r.info.modality == "video")
    return {
        "frames": f"{width} x {height}",
        "welds": len(dataset.entries),
        "samples": samples,
        "equal": _equal(dataset, spec, order[:8]),
        "per_s": per_s,
        "first_batch_s": first_s,
        "ratio": {
            key: {name: round(rate / rates["plain"], 1) for name, rate in rates.items() if name != "plain"}
            for key, rates in per_s.items()
        },
    }


class _Order(Sampler[int]):
    """Samples in an order that changes from pass to pass."""

    def __init__(self, numbers: list[int]) -> None:
        self.numbers = numbers

    def __iter__(self) -> Iterator[int]:
        return iter(self.numbers)

    def __len__(self) -> int:
        return len(self.numbers)


def _timed(reader: Dataset[Sample], numbers: list[int], workers: int, passes: int) -> tuple[float, list[float]]:
    """Draw samples; returns the time to a first batch, and samples per second of each pass over `numbers` after it."""
    order = _Order(numbers[:_BATCH])
    loader = DataLoader(
        reader,
        batch_size=_BATCH,
        sampler=order,
        num_workers=workers,
        multiprocessing_context="spawn" if workers else None,
        persistent_workers=workers > 0,
        collate_fn=collate,
    )
    began = time.perf_counter()
    sum(1 for _ in loader)
    first_s = time.perf_counter() - began
    order.numbers = numbers
    rates = []
    for _ in range(passes):
        began = time.perf_counter()
        count = sum(len(batch["video"]) for batch in loader)
        rates.append(round(count / (time.perf_counter() - began), 2))
    return round(first_s, 3), rates


def _equal(dataset: WeldingDataset, spec: SampleSpec, numbers: list[int]) -> bool:
    """Tell whether samples are those of the fold over the whole weld, to the last bit."""
    for number in numbers:
        sample = dataset[number]
        folder = next(e.folder for e in dataset.entries if e.key == sample["key"])
        window = windows_of(folder, spec)[1][int(sample["index"])]
        for name in ("video", "audio", "sensors", "video_mask", "audio_mask", "sensors_mask"):
            if sample[name].numpy().tobytes() != getattr(window, name).tobytes():
                return False
    return True


class PlainReader(Dataset[Sample]):
    """Windows as a script reads them: everything is decoded, then the nearest is taken by arrival time."""

    def __init__(self, dataset: WeldingDataset) -> None:
        self._spec = dataset.spec
        self._windows = [(e.folder, k) for e in dataset.entries for k in range(e.windows)]

    def __len__(self) -> int:
        return len(self._windows)

    def __getitem__(self, index: int) -> Sample:
        folder, window = self._windows[index]
        spec, manifest = self._spec, load_manifest(folder)
        name = {record.info.modality: stream for stream, record in manifest.streams.items()}
        video, sound, sensors = (manifest.streams[name[m]] for m in ("video", "audio", "sensors"))
        t0_ns = (manifest.arc_on_ns or manifest.origin_ns) + round(window * spec.hop_s * 1e9)
        grid_ns = t0_ns + np.linspace(0, spec.window_s * 1e9, spec.frames)
        with av.open(str(folder / video.files[0])) as container:
            frames = [frame.to_ndarray(format="gray") for frame in container.decode(video=0)]
        times_ns = pl.read_parquet(folder / f"{name['video']}.frames.parquet").drop_nulls("pts_us")["t_arrival_ns"]
        nearest = np.abs(times_ns.to_numpy()[:, None] - grid_ns).argmin(0)
        small = [Image.fromarray(frames[i]).resize((spec.width, spec.height), Image.Resampling.BOX) for i in nearest]
        with av.open(str(folder / sound.files[0])) as container:
            samples = np.concatenate([frame.to_ndarray().reshape(-1) for frame in container.decode(audio=0)])
        blocks = pl.read_parquet(folder / f"{name['audio']}.blocks.parquet")
        first = round((t0_ns - int(blocks["t_arrival_ns"][0])) * sound.info.rate_hz / 1e9)
        heard = np.zeros(spec.audio_length, np.int16)
        part = samples[max(first, 0) : max(first, 0) + spec.audio_length]
        heard[: len(part)] = part
        rows = pl.read_parquet(folder / sensors.files[0])
        at_ns = np.linspace(t0_ns, t0_ns + spec.window_s * 1e9, spec.sensor_rows)
        table = [np.interp(at_ns, rows["t_arrival_ns"], rows[channel]) for channel in SENSOR_CHANNELS]
        return {
            "video": torch.from_numpy(np.stack([np.asarray(picture) for picture in small])[:, None]),
            "audio": torch.from_numpy(heard[None]),
            "sensors": torch.from_numpy(np.stack(table, 1)),
        }


def lines(result: dict[str, Any]) -> Iterator[str]:
    """Lay out the result for people."""
    machine = result["machine"]
    yield f"{machine['processor']}, {machine['cores']} cores, load {machine['load']}"
    for size in result["sizes"]:
        same = "equal to the fold's" if size["equal"] else "NOT EQUAL to the fold's"
        yield f"{size['frames']}, {size['welds']} welds, {size['samples']} samples in random order, {same}"
        for workers, rates in size["per_s"].items():
            for name, rate in rates.items():
                ratio = size["ratio"][workers].get(name)
                first = size["first_batch_s"][workers].get(name)
                yield (
                    f"  {workers}  {name:16}{rate:9.2f} samples/s"
                    + (f"{ratio:8.1f}x" if ratio is not None else " " * 9)
                    + (f"{first:10.2f} s to the first batch" if first is not None else "")
                )
