"""One weld as one LeRobot episode: every stream on the frame grid of the camera, masked where nothing was measured."""

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Final

import av
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet
from av.video.frame import PictureType
from av.video.reformatter import ColorRange

from acquisition.packet import SENSOR_CHANNELS, SampleBlock, StreamInfo, VideoFrame
from recordings.export_lerobot_stats import Moments
from recordings.export_source import ExportSource
from recordings.weld_folder import WeldError
from sync.alignment import CHANNEL_RULES
from sync.interpolation import Neighbours, fill_nearest, read_rule
from sync.sample import CHANNEL_INDEX
from sync.series import AudioSeries, Int64s, SensorSeries

CAMERA: Final = "observation.images.camera"
KEYFRAME_EVERY: Final = 8
"""Frames that a random access decodes at most."""

_MAX_GAP_PERIODS: Final = 3.0
_MOST_REPEATED: Final = 10
"""Grid points per frame; a weld with fewer frames is a hole."""
_QUALITY: Final = {"preset": "veryfast", "crf": "16", "forced-idr": "1"}
_BATCH: Final = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What all episodes of a data set share.

    Attributes:
        fps: Frames a second, whole.
        height: Of the frames, pixels.
        width: Of the frames, pixels.
        sound_hz: Sample rate, or 0 where no weld has sound.
    """

    fps: int
    height: int
    width: int
    sound_hz: int

    @property
    def samples(self) -> int:
        """Sound samples that a frame carries, up to the next frame's time: rounded up, so that none is left out."""
        return -(-self.sound_hz // self.fps)


@dataclass(slots=True, kw_only=True)
class Episode:
    """What was written of a weld.

    Attributes:
        length: Frames on the grid.
        moments: Statistics per feature.
    """

    length: int
    moments: dict[str, Moments]


def write_episode(weld: ExportSource, shape: Shape, video: Path, table: Path, constants: dict[str, int]) -> Episode:
    """Write the frames and the rows of a weld; says in `weld` what is repeated, dropped or left out.

    Args:
        weld: The weld; it has video.
        shape: Shape of the data set.
        video: MP4 to write.
        table: Parquet file to write, a row per grid point: `frame_index`, `timestamp` and the features.
        constants: Columns of one value (`annotation.label`, `task_index`).

    Raises:
        WeldError: The weld is damaged, or of another shape.
    """
    camera = weld.streams("video")[0]
    _check(weld, camera, shape)
    t_ns = np.maximum.accumulate(np.concatenate([item.t_ns for item in weld.heads(camera.name)]))
    grid_ns, index, valid = frame_grid(t_ns, shape.fps, camera.rate_hz)
    used = len(np.unique(index))
    repeated, dropped = len(index) - used, len(t_ns) - used
    error_ms = float(np.abs(t_ns[index] - grid_ns)[valid].max()) / 1e6
    weld.warnings.append(
        f"{camera.name}: {len(index)} grid points at {shape.fps} a second, {repeated} repeat a frame, "
        f"{int((~valid).sum())} of them in a gap; frames lie up to {error_ms:.3f} ms from their times"
    )
    if dropped:
        weld.left_out.append(f"{camera.name}: {dropped} frames have no grid point of their own and are dropped")
    moments = {CAMERA: _encode(weld, camera, index, shape, video)}
    state, state_valid = _sensors_on(weld, grid_ns)
    moments["observation.state"] = Moments.of(state, state_valid)
    schema, sound = _schema(shape), _sound_on(weld, grid_ns, shape)
    with pyarrow.parquet.ParquetWriter(table, schema) as writer:
        for start in range(0, len(index), _BATCH):
            part = slice(start, start + _BATCH)
            numbers = np.arange(start, min(start + _BATCH, len(index)), dtype=np.int64)
            columns: dict[str, Any] = {
                "frame_index": numbers,
                "timestamp": (numbers / shape.fps).astype(np.float32),
                "observation.camera_valid": valid[part],
                "observation.state": state[part].astype(np.float32),
                "observation.state_valid": state_valid[part],
                **{name: np.full(len(numbers), value, np.int64) for name, value in constants.items()},
            }
            if shape.sound_hz:
                heard = [next(sound) for _ in numbers]
                columns["observation.audio"] = np.stack([one for one, _ in heard])
                columns["observation.audio_valid"] = np.stack([mask for _, mask in heard])
            for name, values in columns.items():
                if name not in ("observation.state",):
                    mask = columns.get(f"{name}_valid") if name == "observation.audio" else None
                    moments[name] = moments.get(name, Moments()) + Moments.of(values, mask)
            arrays = [_array(columns[field.name], field) for field in schema]
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema))
    return Episode(length=len(index), moments=moments)


def _check(weld: ExportSource, camera: StreamInfo, shape: Shape) -> None:
    if (camera.height, camera.width) != (shape.height, shape.width):
        raise WeldError(
            f"{weld.folder}: frames of {camera.width} x {camera.height}, where the data set began with "
            f"{shape.width} x {shape.height}; export it to another one"
        )
    for info in weld.streams("audio")[:1]:
        if round(info.rate_hz) != shape.sound_hz:
            raise WeldError(
                f"{weld.folder}: sound of {info.rate_hz:g} Hz, where the data set began with {shape.sound_hz} Hz; "
                "export it to another one"
            )
        if len(info.channels) > 1:
            weld.left_out.append(f"{info.name}: of {len(info.channels)} channels only the first is exported")
        if info.dtype != "int16":
            weld.warnings.append(f"{info.name}: {info.dtype} samples are rounded to the 24 bits of a float32")
    for modality, kept in (("video", 1), ("audio", 1)):
        streams = weld.streams("video") if modality == "video" else weld.streams("audio")
        weld.left_out += [f"{info.name}: a further {modality} stream" for info in streams[kept:]]
    for info in weld.streams("sensors"):
        if strange := sorted(set(info.channels) - set(SENSOR_CHANNELS)):
            weld.left_out.append(f"{info.name}: no place for {', '.join(strange)}")


def frame_grid(t_ns: Int64s, fps: int, nominal_hz: float) -> tuple[Int64s, npt.NDArray[np.intp], npt.NDArray[np.bool_]]:
    """Place frames on `frame_index / fps` from the first one on.

    Args:
        t_ns: `(n,)` cell times of the frames, ascending, n > 0.
        fps: Grid points a second.
        nominal_hz: Nominal frame rate.

    Returns:
        `(m,)` cell time of every grid point, the frame that is nearest, and whether it may stand for that moment (not
        within a gap).

    Raises:
        WeldError: By far most of the grid would have to repeat a frame.
    """
    span_ns = int(t_ns[-1] - t_ns[0])
    count = (span_ns * fps + 5 * 10**8) // 10**9 + 1
    if count > _MOST_REPEATED * (len(t_ns) + fps):
        raise WeldError(f"{len(t_ns)} frames in {span_ns / 1e9:.0f} s are too few for an episode; export it otherwise")
    grid_ns = t_ns[0] + np.arange(count, dtype=np.int64) * 10**9 // fps
    period_ns = round(1e9 / (nominal_hz or fps))
    near = Neighbours.of(t_ns, grid_ns, _MAX_GAP_PERIODS * period_ns)
    index, valid = near.nearest(len(t_ns), period_ns)
    return grid_ns, index, valid


def _encode(weld: ExportSource, camera: StreamInfo, index: npt.NDArray[np.intp], shape: Shape, path: Path) -> Moments:
    """Encode the chosen frames, one every 1 / fps; returns the statistics of their gray values as 0 to 1."""
    histogram = np.zeros(256, np.int64)
    chosen = iter(index.tolist())
    wanted, place = next(chosen, None), 0
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=shape.fps, options=_QUALITY)
        stream.width, stream.height, stream.pix_fmt = shape.width, shape.height, "yuv420p"
        context = stream.codec_context
        context.time_base, context.gop_size, context.max_b_frames = Fraction(1, shape.fps), KEYFRAME_EVERY, 0
        context.color_range, context.thread_count = ColorRange.JPEG, 1
        chroma = np.full((shape.height // 2, shape.width), 128, np.uint8)
        for number, packet in enumerate(weld.reader.pictures(camera.name)):
            assert isinstance(packet.payload, VideoFrame)
            while wanted == number:
                pixels = packet.payload.pixels
                frame = av.VideoFrame.from_ndarray(np.concatenate([pixels, chroma]), format="yuv420p")
                frame.pts, frame.color_range = place, ColorRange.JPEG
                frame.pict_type = PictureType.I if place == 0 else PictureType.NONE
                container.mux(stream.encode(frame))
                histogram += np.bincount(pixels.reshape(-1), minlength=256)
                wanted, place = next(chosen, None), place + 1
        container.mux(stream.encode(None))
    return Moments.of_histogram(histogram, len(index))


def _sensors_on(weld: ExportSource, grid_ns: Int64s) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """Return the six channels at the grid points, `(m, 6)`, by the rules of `sync.alignment`, and where they hold."""
    out = np.zeros((len(grid_ns), len(SENSOR_CHANNELS)))
    mask = np.zeros(out.shape, np.bool_)
    for info in weld.streams("sensors"):
        series = SensorSeries(info)
        for item in weld.heads(info.name):
            series.append(item.packet, item.t_ns)
        period_ns = series.period_ns
        for position, name in enumerate(info.channels):
            if name not in CHANNEL_INDEX:
                continue
            rows = np.flatnonzero(np.isfinite(series.values[:, position]))
            if len(rows):
                near = Neighbours.of(series.t_ns[rows], grid_ns, _MAX_GAP_PERIODS * period_ns)
                values, filled = read_rule(series.values[rows, position], near, CHANNEL_RULES[name], period_ns)
                fresh = filled & ~mask[:, CHANNEL_INDEX[name]]
                out[fresh, CHANNEL_INDEX[name]] = values[fresh]
                mask[fresh, CHANNEL_INDEX[name]] = True
    return out, mask


def _sound_on(
    weld: ExportSource, grid_ns: Int64s, shape: Shape
) -> Iterator[tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]]:
    """Give the samples of every grid point, `(samples,)` as -1 to 1, and which of them were measured."""
    nothing = np.zeros(shape.samples, np.float32), np.zeros(shape.samples, np.bool_)
    streams = weld.streams("audio")[:1]
    if not streams:
        yield from itertools.repeat(nothing, len(grid_ns))
        return
    info, series = streams[0], AudioSeries(streams[0])
    scale = np.float32(1 / (np.iinfo(info.dtype).max + 1))
    offsets_ns = np.arange(shape.samples, dtype=np.int64) * 10**9 // shape.sound_hz
    blocks: Iterable[Any] = (item for item in weld.packets() if item.packet.stream == info.name)
    coming = iter(blocks)
    for t_ns in grid_ns.tolist():
        end_ns = t_ns + int(offsets_ns[-1]) + 2 * series.period_ns
        while series.end_ns < end_ns and (item := next(coming, None)) is not None:
            assert isinstance(item.packet.payload, SampleBlock)
            series.append(item.packet, item.t_ns)
        series.drop_before(t_ns - 10 * series.period_ns)
        out = np.zeros((1, shape.samples), info.dtype)
        mask = np.zeros(shape.samples, np.bool_)
        gap_ns, period_ns = _MAX_GAP_PERIODS * series.period_ns, series.period_ns
        fill_nearest(series.samples[:, :1], series.t_ns, t_ns + offsets_ns, gap_ns, period_ns, out, mask)
        yield out[0].astype(np.float32) * scale, mask


def _schema(shape: Shape) -> pa.Schema:
    """Return the columns of an episode's table."""
    channels = len(SENSOR_CHANNELS)
    fields: list[pa.Field[Any]] = [
        pa.field("frame_index", pa.int64()),
        pa.field("timestamp", pa.float32()),
        pa.field("observation.camera_valid", pa.bool_()),
        pa.field("observation.state", pa.list_(pa.float32(), channels)),
        pa.field("observation.state_valid", pa.list_(pa.bool_(), channels)),
        pa.field("annotation.label", pa.int64()),
        pa.field("task_index", pa.int64()),
    ]
    if shape.sound_hz:
        fields.append(pa.field("observation.audio", pa.list_(pa.float32(), shape.samples)))
        fields.append(pa.field("observation.audio_valid", pa.list_(pa.bool_(), shape.samples)))
    return pa.schema(fields)


def _array(values: npt.NDArray[Any], field: "pa.Field[Any]") -> "pa.Array[Any]":
    flat: pa.Array[Any] = pa.array(values.reshape(-1))
    return flat.cast(field.type) if values.ndim == 1 else pa.FixedSizeListArray.from_arrays(flat, values.shape[1])
