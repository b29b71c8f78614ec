"""Welds for the tests of export, and cell times worked out from the tables alone, as docs/format.md says."""

import io
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import polars as pl
from PIL import Image

from acquisition.packet import ClockUpdate, Packet, Photo, StreamInfo
from recordings.importer import import_welds
from recordings.manifest import LabelEntry, UtcPair
from tests.recordings.synthetic_weld import INFOS, ORIGIN_NS, Cell, Recording

UTC_NS = 1_767_323_045_123_456_789  # 2026-01-02 03:04:05.123 UTC
OFFSET_NS = UTC_NS - ORIGIN_NS
LOST_FRAMES = range(90, 93)
SILENT_TICKS = range(150, 158)
SOUND = 48_000


def jpeg(seed: int = 0) -> bytes:
    data = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (24, 32, 3), dtype=np.uint8)).save(data, "JPEG")
    return data.getvalue()


def packets(cell: Cell) -> Iterator[Packet]:
    """A weld with lost frames, a silence, a clock that is corrected on the way, a JPEG and a photo that is none."""
    for packet in cell.weld():
        if packet.stream == "camera" and packet.seq in LOST_FRAMES:
            continue
        if packet.stream == "microphone" and packet.seq in SILENT_TICKS:
            continue
        if isinstance(packet.payload, ClockUpdate):
            drift = {"process": 40_000, "microphone": -30_000, "camera": 0}[packet.payload.of_stream]
            packet = replace(packet, payload=replace(packet.payload, drift_ppb=drift, offset_ns=ORIGIN_NS + 123_457))
        if isinstance(packet.payload, Photo) and packet.seq == 0:
            packet = replace(packet, payload=replace(packet.payload, data=jpeg()))
        yield packet
        if packet.stream == "camera" and packet.seq == 60:
            change = cell.clock("camera", 2.0)
            assert isinstance(change.payload, ClockUpdate)
            yield replace(change, payload=replace(change.payload, offset_ns=ORIGIN_NS + 1_000_001))


def make_weld(
    folder: Path,
    *,
    seed: int = 1,
    label: int = 3,
    key: str = "2026-01-02T030405Z-1",
    utc: bool = True,
    infos: dict[str, StreamInfo] | None = None,
) -> Path:
    recording = Recording(folder, infos or INFOS)
    manifest = recording.writer.manifest
    manifest.key, manifest.session = key, "shift 1"
    manifest.metadata = {"part": "P-7", "thickness_mm": 3.0, "notes": 'a "quoted", text', "material": "S235"}
    manifest.labels = [] if label < 0 else [LabelEntry(label=label, by="test", utc="2026-01-02T03:05:00.000+00:00")]
    if utc:
        manifest.utc = [UtcPair(monotonic_ns=ORIGIN_NS, utc_ns=UTC_NS, uncertainty_ns=1)]
    taken: list[Packet] = []
    recording.take_all(packets(Cell(seed=seed, infos=dict(infos or INFOS))), taken)
    recording.writer.finalise()
    return folder


def imported_weld(root: Path) -> Path:
    """An imported weld whose video is MPEG-4, as Weld-4M has it."""
    source = root / "source" / "run" / "03-22-23-0041-06" / "03-22-23-0041-06.avi"
    source.parent.mkdir(parents=True)
    with av.open(str(source), "w", format="avi") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 10)
        for i in range(20):
            pixels = np.full((96, 96), 128, np.uint8)
            pixels[:64] = np.random.default_rng(i).integers(16, 60, (64, 96))
            frame = av.VideoFrame.from_ndarray(pixels, format="yuv420p")
            frame.pts = i
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    assert import_welds(root / "source", root / "welds").imported == ["run/03-22-23-0041-06"]
    return next((root / "welds").rglob("weld.json")).parent


def cell_times(folder: Path, stream: str) -> np.ndarray:
    """Cell time of every row of a stream's index (of a block: of its first sample), in exact integers."""
    index = {"camera": "camera.frames", "microphone": "microphone.blocks", "process": "process"}[stream]
    rows = pl.read_parquet(folder / f"{index}.parquet")
    if stream == "camera":
        rows = rows.filter(pl.col("pts_us").is_not_null())
    clocks = pl.read_parquet(folder / "clocks.parquet").filter(pl.col("of_stream") == stream).sort("order")
    times = []
    for row in rows.iter_rows(named=True):
        clock = clocks.filter(pl.col("order") < row["order"]).row(-1, named=True)
        x = row["first_sample"] * 10**9 // SOUND if stream == "microphone" else row["t_device_ns"]
        times.append(x + clock["offset_ns"] + (x - clock["ref_ns"]) * clock["drift_ppb"] // 10**9)
    return np.array(times, np.int64)


def luma(path: Path) -> list[np.ndarray]:
    """The gray planes of a video's frames, by PyAV alone."""
    with av.open(str(path)) as container:
        return [plane(frame) for frame in container.decode(video=0)]


def plane(frame: av.VideoFrame) -> np.ndarray:
    data = frame.planes[0]
    return np.frombuffer(memoryview(data), np.uint8).reshape(-1, data.line_size)[:, : frame.width].copy()


def sound(path: Path) -> np.ndarray:
    """The samples of a sound file, `(n,)`, by PyAV alone."""
    with av.open(str(path)) as container:
        return np.concatenate([frame.to_ndarray().reshape(-1) for frame in container.decode(audio=0)])
