"""`bench latency-calibration`: are injected offsets between modalities found, and is the stated uncertainty true?"""

import heapq
import math
import os
import tempfile
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from acquisition.packet import ClockUpdate, Packet, SensorRows
from acquisition.simulated.causes import CLASS_LABELS
from acquisition.simulated.config import SimulationConfig
from acquisition.simulated.devices import CAMERA, MICROPHONE, SENSORS
from acquisition.simulated.weld import SimulatedWeld, simulated_weld
from recordings.importer import import_welds
from sync.arc_watch import ArcWatch
from sync.clock import ClockTable, OnlineClock, device_time_ns
from sync.latency import Residual

_START_NS: Final = 10**12
_TOLERANCE_MS: Final = {CAMERA: 1e3 / 31.0, MICROPHONE: 20.0}
_UNSEEN: Final = Residual(offset_ms=math.inf, sigma_ms=1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    """One stream of one weld: how wrong the offset that was found is, and how wrong it says it may be."""

    weld_class: str
    stream: str
    error_ms: float
    sigma_ms: float


def bench_latency(welds: int = 200, seed: int = 0) -> dict[str, Any]:
    """Inject offsets (sound -1.3 +- 0.3 s, video +-0.1 s) into simulated welds of all classes and look for them.

    The packets go through the online clocks as they would while capturing; the truth is what was injected plus what
    those clocks are off at the edges. With `WELD4M_REAL_WELD` set, the real weld of that folder is measured too.
    """
    began, found = time.perf_counter(), list[_Found]()
    classes = list(CLASS_LABELS)
    for n in range(welds):
        found += _weld(classes[n % len(classes)], n, seed)
    report: dict[str, Any] = {"welds": welds, "seed": seed, "streams": {s: _summary(found, s) for s in _TOLERANCE_MS}}
    if folder := os.environ.get("WELD4M_REAL_WELD"):
        report["real_weld"] = _real_weld(Path(folder))
    return report | {"seconds": round(time.perf_counter() - began, 1)}


def _real_weld(source: Path) -> dict[str, Any]:
    """Measure the first weld of a Weld-4M folder that has a video: offset of the light against the current."""
    video = min(source.rglob("*.avi"))
    with tempfile.TemporaryDirectory() as root:
        report = import_welds(video, Path(root), dry_run=True, check=True)
    offset = next(iter(report.offsets.values()))["camera"]
    late_ms, half_ms = offset["offset_ms"], 1.96 * offset["sigma_ms"]
    interval = [round(late_ms - half_ms, 1), round(late_ms + half_ms, 1)]
    return {
        "weld": video.stem,
        "video_offset_ms": round(late_ms, 1),
        "interval_95_ms": interval,
        "confidence": offset["confidence"],
    }


def _weld(weld_class: str, n: int, seed: int) -> list[_Found]:
    rng = np.random.default_rng([seed, n])
    weld = simulated_weld(
        # An arc that is struck at a whole second meets every device in the same phase.
        SimulationConfig(seed=seed * 1000 + n, session=seed * 1000 + n // 4, idle_s=float(rng.uniform(3.0, 3.5))),
        weld_class=weld_class,
        severity=float(rng.uniform(0.2, 1.0)),
        seed=zlib.crc32(f"{seed}/{n}/latency".encode()),
        start_ns=_START_NS,
    )
    injected_ms = {
        SENSORS: 0.0,
        MICROPHONE: float(rng.normal(-1300.0, 300.0)),
        CAMERA: float(rng.uniform(-100.0, 100.0)),
    }
    watch, clocks, truth = ArcWatch(weld.infos), ClockTable(), _true_clocks(weld)
    online = {stream: OnlineClock(stream, 0) for stream in injected_ms}
    wrong_ms: dict[str, list[float]] = {stream: [] for stream in injected_ms}
    arc = (weld.truth["arc_on_ns"], weld.truth["arc_off_ns"])
    announced = list(arc)
    for packet in heapq.merge(
        *(_late(weld.device_packets(stream), round(ms * 1e6)) for stream, ms in injected_ms.items()),
        key=lambda packet: packet.t_arrival_ns,
    ):
        info, device_ns = weld.infos[packet.stream], device_time_ns(weld.infos[packet.stream], packet)
        assert device_ns is not None
        update = online[packet.stream].observe(device_ns, packet.t_arrival_ns)
        if update is not None:
            clocks.apply(update)
        watch.take(packet, clocks)
        true_ns = truth.cell_time_ns(info, packet)
        if min(abs(true_ns - edge_ns) for edge_ns in arc) < 200_000_000:
            wrong_ms[packet.stream].append((clocks.cell_time_ns(info, packet) - true_ns) / 1e6)
        if announced and packet.t_arrival_ns > announced[0] + 10**9:
            watch.edge(announced.pop(0))
    residuals = watch.residuals(*arc)
    return [
        _Found(
            weld_class=weld_class,
            stream=stream,
            error_ms=one["offset_ms"] - float(np.mean(wrong_ms[stream]) - np.mean(wrong_ms[SENSORS])),
            sigma_ms=one["sigma_ms"],
        )
        for stream in _TOLERANCE_MS
        for one in [residuals.get(stream, _UNSEEN)]
    ]


def _late(packets: Iterator[Packet], late_ns: int) -> Iterator[Packet]:
    """Let every packet arrive later (or earlier) by a constant."""
    for packet in packets:
        payload = packet.payload
        if isinstance(payload, SensorRows):
            payload = replace(payload, t_arrival_ns=payload.t_arrival_ns + late_ns)
        yield replace(packet, t_arrival_ns=packet.t_arrival_ns + late_ns, payload=payload)


def _true_clocks(weld: SimulatedWeld) -> ClockTable:
    table = ClockTable()
    for stream, device in weld.truth["devices"].items():
        line = device["clocks"][-1]
        table.apply(
            ClockUpdate(
                of_stream=stream,
                segment=line["segment"],
                ref_ns=line["ref_ns"],
                offset_ns=line["offset_ns"],
                drift_ppb=line["drift_ppb"],
                sigma_ns=0,
            )
        )
    return table


def _summary(found: list[_Found], stream: str) -> dict[str, Any]:
    errors_ms = np.array([one.error_ms for one in found if one.stream == stream])
    sigmas_ms = np.array([one.sigma_ms for one in found if one.stream == stream])
    size = np.abs(errors_ms)
    within = size <= _TOLERANCE_MS[stream]
    classes = np.array([one.weld_class for one in found if one.stream == stream])
    return {
        "tolerance_ms": round(_TOLERANCE_MS[stream], 2),
        "found": float(within.mean()),
        "covered_95": float((size <= 1.96 * sigmas_ms).mean()),
        "error_ms": {f"p{q}": round(float(np.quantile(size, q / 100)), 2) for q in (50, 95, 99, 100)},
        "mean_error_ms": round(float(errors_ms.mean()), 2),
        "sigma_ms": round(float(np.median(sigmas_ms)), 2),
        "found_by_class": {name: float(within[classes == name].mean()) for name in CLASS_LABELS if name in classes},
    }


def lines(result: dict[str, Any]) -> Iterator[str]:
    """The result for a human."""
    for stream, one in result["streams"].items():
        within = f"{100 * one['found']:.1f} % within {one['tolerance_ms']:.0f} ms"
        errors = ", ".join(f"{name} {ms}" for name, ms in one["error_ms"].items())
        yield f"{stream}: {within}; error ms {errors}; the stated 95 % interval holds {100 * one['covered_95']:.1f} %"
    if real := result.get("real_weld"):
        yield f"real weld: video {real['video_offset_ms']} ms late, 95 % interval {real['interval_95_ms']}"
    yield f"{result['welds']} welds in {result['seconds']} s"
