"""`bench record`: processor time of recording a whole weld, beside nothing but the encoding of its video by PyAV.

The same frames, in memory, go through `RecorderCore` (encoder, writer, indexes, marks, and all other streams: sound,
sensors, events, photos, finalising, digests) and through the same encoder settings into an MP4 by PyAV alone, in turns.
"""

import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from statistics import median
from typing import Any, Final

import av
import numpy as np
import numpy.typing as npt
from av.codec.context import Flags
from av.video.reformatter import ColorRange

from acquisition.packet import VideoFrame
from recordings.bench_weld import FPS, BenchWeld, Coding, bench_weld
from recordings.video_encoder import KEYFRAME_EVERY

GOAL: Final = 1.2
_CODINGS: Final[tuple[Coding, ...]] = ("h264", "lossless")


def bench_record(
    arc_s: float = 16.0,
    rounds: int = 5,
    frame: tuple[int, int] = (600, 960),
    progress: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Measure the processor time of the recording path against a bare encoder.

    Args:
        arc_s: About how long the weld's arc burns.
        rounds: Times that everything is recorded, in turns.
        frame: Height and width of the video.
        progress: Takes lines for the user.

    Returns:
        `{"goal", "frames", "seconds", "load", "codings": {"h264" | "lossless": {"bare_s", "video_s", "record_s",
        "video_ratio", "ratio"}}}`: medians of processor seconds. `video_s` and `video_ratio` are of a recording of the
        video alone, `record_s` and `ratio` of the whole weld.

    Raises:
        BenchError: The weld could not be recorded.
    """
    progress("simulating the weld")
    weld = bench_weld(arc_s, *frame)
    pictures = BenchWeld(
        cell=weld.cell,
        infos={name: info for name, info in weld.infos.items() if info.modality == "video"},
        items=[item for item in weld.items if item.packet.stream in ("camera", "events", "clocks")],
    )
    frames = [item.packet.payload.pixels for item in weld.items if isinstance(item.packet.payload, VideoFrame)]
    found: dict[Coding, list[dict[str, float]]] = {coding: [] for coding in _CODINGS}
    for number in range(rounds):
        progress(f"round {number + 1} of {rounds}")
        for coding in _CODINGS:
            found[coding].append(_round(weld, pictures, frames, coding))
    codings = {coding: {n: round(median(one[n] for one in all_), 3) for n in all_[0]} for coding, all_ in found.items()}
    return {
        "goal": GOAL,
        "frames": len(frames),
        "seconds": round(len(frames) / FPS, 2),
        "load": round(os.getloadavg()[0], 1),
        "codings": codings,
    }


def _round(
    weld: BenchWeld, pictures: BenchWeld, frames: Sequence[npt.NDArray[np.uint8]], coding: Coding
) -> dict[str, float]:
    with tempfile.TemporaryDirectory(prefix="weld4m-bench-") as name:
        folder = Path(name)
        bare_s = _spent(lambda: _bare(frames, folder / "bare.mp4", coding))
        video_s = _spent(lambda: _run(pictures.record(folder / "video", coding)))
        record_s = _spent(lambda: _run(weld.record(folder / "weld", coding)))
    ratios = {"video_ratio": video_s / bare_s, "ratio": record_s / bare_s}
    return {"bare_s": bare_s, "video_s": video_s, "record_s": record_s, **ratios}


def _spent(work: Callable[[], object]) -> float:
    """Processor seconds of all threads of this process."""
    began = time.process_time()
    work()
    return time.process_time() - began


def _run(steps: Iterator[None]) -> None:
    for _ in steps:
        pass


def _bare(frames: Sequence[npt.NDArray[np.uint8]], path: Path, coding: Coding) -> None:
    """Encode frames as plainly as PyAV can, with the settings of `VideoEncoder`."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(FPS))
        context = stream.codec_context
        context.height, context.width = frames[0].shape
        context.pix_fmt, context.color_range = "gray", ColorRange.JPEG
        context.gop_size, context.max_b_frames, context.thread_count = KEYFRAME_EVERY, 0, 1
        context.flags |= Flags.global_header
        quality = {"qp": "0"} if coding == "lossless" else {"crf": "23"}
        context.options = {"preset": "ultrafast", "tune": "zerolatency", "forced-idr": "1", **quality}
        for number, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels, format="gray")
            frame.pts, frame.time_base, frame.color_range = number, 1 / Fraction(FPS), ColorRange.JPEG
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def lines(result: dict[str, Any]) -> Iterator[str]:
    """Lay out the result for people."""
    yield f"Recording {result['frames']} frames, {result['seconds']:g} s; processor seconds (load {result['load']})"
    yield f"  {'':10}{'bare encoder':>13}{'video recorded':>16}{'whole weld':>12}{'ratios':>16}"
    for coding, row in result["codings"].items():
        yield (
            f"  {coding:10}{row['bare_s']:13.2f}{row['video_s']:16.2f}{row['record_s']:12.2f}"
            f"{row['video_ratio']:10.2f}{row['ratio']:6.2f}"
        )
    yield f"  goal: {result['goal']:g}; the whole weld has sound, sensors, photos, indexes, marks and digests besides"
