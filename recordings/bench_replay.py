"""`bench replay`: how fast a weld is decoded and aligned, beside nothing but the decoding of its video by PyAV.

A simulated weld is recorded by the recorder itself, as H.264 and lossless; its pictures are also written as MPEG-4 in
an AVI and imported, as Weld-4M has them. All are read in turns, by one process: bare decoding on one thread and on all,
then reader and `WindowCutter` without a model. On a machine that does other things, processor time says more.
"""

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from statistics import median
from typing import Any, Final

import av
import av.logging

from acquisition.packet import VideoFrame
from recordings.bench_weld import FPS, BenchWeld, bench_weld, recorded
from recordings.importer import import_welds
from recordings.reader import WeldReader
from sync.sample import SampleSpec
from sync.windows import WindowCutter

GOAL_X: Final = 20.0
_ID: Final = "01-02-26-0001-00"
_CSV_HEAD: Final = "Pressure,CO2 Weld Flow,Feed,Primary Weld Current,Wire Consumed,Secondary Weld Voltage\r\n"
_ROWS_HZ: Final = 9.0


def bench_replay(
    arc_s: float = 16.0,
    rounds: int = 5,
    frame: tuple[int, int] = (600, 960),
    progress: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Measure replay at full speed with alignment and without a model.

    Args:
        arc_s: About how long the weld's arc burns.
        rounds: Times that everything is read, in turns.
        frame: Height and width of the video.
        progress: Takes lines for the user.

    Returns:
        `{"goal_x", "cores", "load", "welds": {"h264" | "lossless" | "mpeg4" | "real": {"seconds", "frames", "packets",
        "windows", "replay_x", "decode_1_x", "decode_all_x", "replay_per_cpu_x", "decode_per_cpu_x"}}}`: medians, times
        real time; the last two per second of processor time instead of time by the clock. `real` is the weld that
        `WELD4M_REAL_WELD` names, if it does.

    Raises:
        BenchError: The weld could not be recorded.
    """
    with tempfile.TemporaryDirectory(prefix="weld4m-bench-") as name:
        root = Path(name)
        progress("simulating and recording the weld")
        weld = bench_weld(arc_s, *frame)
        folders = {coding: recorded(weld, root / coding, coding) for coding in ("h264", "lossless")}
        folders["mpeg4"] = _imported(weld, root / "source", root / "imported")
        if real := os.environ.get("WELD4M_REAL_WELD"):
            import_welds(Path(real), root / "real")
            with_video = [path.parent for path in (root / "real").rglob("camera.avi")]
            folders |= {"real": with_video[0]} if with_video else {}
        del weld
        found: dict[str, list[dict[str, Any]]] = {kind: [] for kind in folders}
        for number in range(rounds):
            progress(f"round {number + 1} of {rounds}")
            for kind, folder in folders.items():
                found[kind].append(_round(folder))
    welds = {kind: {name: median(one[name] for one in ones) for name in ones[0]} for kind, ones in found.items()}
    return {"goal_x": GOAL_X, "cores": os.cpu_count(), "load": round(os.getloadavg()[0], 1), "welds": welds}


def _round(folder: Path) -> dict[str, Any]:
    reader = WeldReader(folder)
    record = next(one for one in reader.manifest.streams.values() if one.info.modality == "video")
    path = folder / record.files[0]
    single_s, single_cpu_s, frames = _timed(lambda: _decoded(path, 1))
    threads_s, _, _ = _timed(lambda: _decoded(path, 0))
    replay_s, replay_cpu_s, (packets, windows) = _timed(lambda: _aligned(reader))
    seconds = frames / record.info.rate_hz
    return {
        "seconds": round(seconds, 2),
        "frames": frames,
        "packets": packets,
        "windows": windows,
        "replay_x": round(seconds / replay_s, 1),
        "decode_1_x": round(seconds / single_s, 1),
        "decode_all_x": round(seconds / threads_s, 1),
        "replay_per_cpu_x": round(seconds / replay_cpu_s, 1),
        "decode_per_cpu_x": round(seconds / single_cpu_s, 1),
    }


def _timed(work: Callable[[], Any]) -> tuple[float, float, Any]:
    """Do some work; returns seconds by the clock, of processor time, and what came of it."""
    began, began_cpu = time.perf_counter(), time.process_time()
    result = work()
    return time.perf_counter() - began, time.process_time() - began_cpu, result


def _decoded(path: Path, threads: int) -> int:
    """Decode a file as plainly as PyAV can, on so many threads (0: as many as it likes); returns its frames."""
    with av.open(str(path)) as container:
        context = container.streams.video[0].codec_context
        context.thread_type, context.thread_count = ("AUTO", 0) if threads == 0 else ("NONE", threads)
        return sum(1 for _ in container.decode(video=0))


def _aligned(reader: WeldReader) -> tuple[int, int]:
    cutter = WindowCutter(reader.manifest.key, SampleSpec(), reader.infos)
    packets = windows = 0
    for packet in reader.packets():
        packets += 1
        windows += len(cutter.push(packet))
    return packets, windows


def _imported(weld: BenchWeld, source: Path, root: Path) -> Path:
    """Write the weld's pictures as Weld-4M has them, with a sensor file, and import them."""
    source.mkdir()
    frames = [item.packet.payload.pixels for item in weld.items if isinstance(item.packet.payload, VideoFrame)]
    with av.open(str(source / f"good_{_ID}.avi"), "w") as container:
        stream = container.add_stream("mpeg4", rate=Fraction(FPS))
        stream.height, stream.width = frames[0].shape
        stream.pix_fmt, stream.bit_rate = "yuv420p", 4_000_000
        for pixels in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="gray")))
        container.mux(stream.encode(None))
    seconds = len(frames) / FPS
    rows = []
    for number in range(round(seconds * _ROWS_HZ)):
        current_a, voltage_v = (150.0, 22.0) if 2.0 < number / _ROWS_HZ < seconds - 2.0 else (0.0, 0.0)
        rows.append(f"2.0,15.0,80.0,{current_a},{number},{voltage_v}\r\n")
    (source / f"good_{_ID}.csv").write_text(_CSV_HEAD + "".join(rows), newline="")
    import_welds(source, root)
    return next(path.parent for path in root.rglob("weld.json"))


def lines(result: dict[str, Any]) -> Iterator[str]:
    """Lay out the result for people."""
    yield f"Replay at full speed, aligned, no model; goal {result['goal_x']:g} x real time (load {result['load']})"
    yield f"  {'':10}{'by the clock':^39}{'per processor second':^26}"
    yield f"  {'weld':10}{'replay':>9}{'bare, 1 thread':>16}{'threads':>14}{'replay':>13}{'bare':>13}"
    for kind, row in result["welds"].items():
        yield (
            f"  {kind:10}{row['replay_x']:8.1f}x{row['decode_1_x']:15.1f}x{row['decode_all_x']:13.1f}x"
            f"{row['replay_per_cpu_x']:12.1f}x{row['decode_per_cpu_x']:12.1f}x"
            f"   ({row['seconds']:.1f} s, {row['packets']:.0f} packets, {row['windows']:.0f} windows)"
        )
