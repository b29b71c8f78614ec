"""Alignment: one window of all streams on the cell clock, with a mask for everything that was not measured.

A grid point is filled only between two measured neighbours that are at most `max_gap_periods` nominal periods apart,
or, where values are taken as they are and not interpolated, within half a period of one. Nothing is extrapolated, and
whatever is masked is zero. This is the only place where windows are made: live, in replay and for training.
"""

import warnings
from collections.abc import Iterable, Sequence
from functools import lru_cache
from io import BytesIO
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from PIL import Image

from acquisition.packet import SENSOR_CHANNELS, Photo
from sync.interpolation import Bools, Indices, Neighbours, Rule, fill_nearest, read_rule
from sync.resampling import resampled_runs
from sync.sample import CHANNEL_INDEX, SampleSpec, Weld4MSample
from sync.series import AudioSeries, Int64s, SensorSeries, Series, VideoSeries

CHANNEL_RULES: Final[dict[str, Rule]] = {
    "pressure_bar": "hold",
    "co2_flow_l_min": "linear",
    "feed": "linear",
    "current_a": "nearest",
    "wire_mm": "cumulative",
    "voltage_v": "nearest",
}
"""How each channel is read between its rows. Linear would shrink the ripple of current and voltage, the class
signal."""

PRESENT_SHARE: Final = 0.9
"""A modality is present in a window when its mask covers at least this much."""


class AlignmentError(ValueError):
    """A stream cannot be cut to the spec; the message names both and the next step."""


def cut(
    series: Iterable[Series],
    t0_ns: int,
    t1_ns: int,
    spec: SampleSpec,
    *,
    weld: str,
    index: int,
    label: int = -1,
    missing: int = 0,
    closed_by_order: int = 0,
    closed_by_arrival_ns: int = 0,
) -> Weld4MSample:
    """Cut one window.

    Of several cameras or microphones the first is taken; sensor streams are joined by channel.

    Args:
        series: Series of the weld's streams, in the order of the cell file.
        t0_ns: Start of the window, cell time.
        t1_ns: End of the window, cell time.
        spec: What the window must look like.
        weld: Weld key.
        index: Window index within the weld.
        label: Class of the weld, -1 for unknown.
        missing: Packets of the window lost in transport.
        closed_by_order: `order` of the packet that completed the window.
        closed_by_arrival_ns: Its recorded arrival.

    Returns:
        The window; photos are masked (`photo_sample` adds them later).

    Raises:
        AlignmentError: The sound has fewer channels than the spec wants.
    """
    parts: dict[str, Any] = {
        "video": np.zeros((spec.frames, 1, spec.height, spec.width), np.uint8),
        "video_mask": np.zeros(spec.frames, np.bool_),
        "audio": np.zeros((spec.audio_channels, spec.audio_length), np.int16),
        "audio_mask": np.zeros(spec.audio_length, np.bool_),
        "sensors": np.zeros((spec.sensor_rows, len(SENSOR_CHANNELS)), np.float64),
        "sensors_mask": np.zeros((spec.sensor_rows, len(SENSOR_CHANNELS)), np.bool_),
        "post_images": np.zeros((spec.photos, 3, spec.photo_height, spec.photo_width), np.uint8),
        "post_images_mask": np.zeros(spec.photos, np.bool_),
    }
    orders: dict[str, tuple[int, int]] = {}
    coverage: dict[str, float] = {}
    channels: set[int] = set()
    for one in series:
        used: Indices
        if isinstance(one, VideoSeries) and "video" not in coverage:
            parts["video"], parts["video_mask"], used = _cut_video(one, t0_ns, t1_ns, spec)
            coverage["video"] = float(parts["video_mask"].mean())
        elif isinstance(one, AudioSeries) and "audio" not in coverage:
            parts["audio"], parts["audio_mask"], used = _cut_audio(one, t0_ns, spec)
            coverage["audio"] = np.count_nonzero(parts["audio_mask"]) / spec.audio_length
        elif isinstance(one, SensorSeries):
            used = _cut_sensors(one, t0_ns, t1_ns, spec, parts["sensors"], parts["sensors_mask"])
            channels |= {CHANNEL_INDEX[name] for name in one.info.channels if name in CHANNEL_INDEX}
            coverage["sensors"] = float(parts["sensors_mask"][:, sorted(channels)].mean()) if channels else 0.0
        else:
            continue
        if len(used):
            orders[one.info.name] = (int(one.orders[used.min()]), int(one.orders[used.max()]))
    return Weld4MSample(
        weld=weld,
        index=index,
        t0_ns=t0_ns,
        duration_ns=t1_ns - t0_ns,
        spec=spec,
        label=label,
        present=tuple(name for name in ("video", "audio", "sensors") if coverage.get(name, 0.0) >= PRESENT_SHARE),
        orders=orders,
        missing=missing,
        closed_by_order=closed_by_order,
        closed_by_arrival_ns=closed_by_arrival_ns,
        **parts,
    )


def _centred_grid(t0_ns: int, t1_ns: int, points: int) -> Int64s:
    """Points in the middle of equal parts of the window."""
    return t0_ns + (2 * np.arange(points, dtype=np.int64) + 1) * (t1_ns - t0_ns) // (2 * points)


def _cut_video(
    video: VideoSeries, t0_ns: int, t1_ns: int, spec: SampleSpec
) -> tuple[npt.NDArray[np.uint8], Bools, Indices]:
    frames = np.zeros((spec.frames, 1, spec.height, spec.width), np.uint8)
    index, mask = _nearest(video, _centred_grid(t0_ns, t1_ns, spec.frames), video.period_ns, spec)
    frames[mask, 0] = video.frames[index[mask]]
    return frames, mask, index[mask]


def _nearest(series: Series, grid_ns: Int64s, period_ns: int, spec: SampleSpec) -> tuple[Indices, Bools]:
    t_ns = series.t_ns
    if not len(t_ns):
        return np.zeros(len(grid_ns), np.intp), np.zeros(len(grid_ns), np.bool_)
    return Neighbours.of(t_ns, grid_ns, spec.max_gap_periods * period_ns).nearest(len(t_ns), period_ns)


@lru_cache(maxsize=4)
def _sound_grid(length: int, rate_hz: int) -> Int64s:
    """Times of the samples of a window since its start."""
    return np.arange(length, dtype=np.int64) * 10**9 // rate_hz


def _cut_audio(
    audio: AudioSeries, t0_ns: int, spec: SampleSpec
) -> tuple[npt.NDArray[np.int16] | npt.NDArray[np.int32], Bools, Indices]:
    """Sound on the sample grid of the spec, `(C, L)`: samples as recorded, or resampled run by run."""
    have = audio.samples.shape[1]
    if have < spec.audio_channels:
        raise AlignmentError(
            f"stream '{audio.info.name}' has {have} sound channel(s) and the spec wants {spec.audio_channels}; "
            "use a detector fitted to this microphone"
        )
    grid_ns = t0_ns + _sound_grid(spec.audio_length, spec.audio_rate_hz)
    out = np.zeros((spec.audio_channels, spec.audio_length), audio.samples.dtype)
    mask = np.zeros(spec.audio_length, np.bool_)
    used: list[int] = []
    if audio.info.rate_hz == spec.audio_rate_hz:
        samples, max_gap_ns = audio.samples[:, : spec.audio_channels], spec.max_gap_periods * audio.period_ns
        used += fill_nearest(samples, audio.t_ns, grid_ns, max_gap_ns, audio.period_ns, out, mask)
    else:
        period_ns = round(1e9 / spec.audio_rate_hz)
        runs = resampled_runs(audio, spec.audio_rate_hz, int(grid_ns[0]), int(grid_ns[-1]), spec.audio_channels)
        for t_ns, made, ends in runs:
            fill_nearest(made, t_ns, grid_ns, spec.max_gap_periods * period_ns, period_ns, out, mask)
            used += ends
    return out, mask, np.array(used, np.intp)


def _cut_sensors(
    sensors: SensorSeries,
    t0_ns: int,
    t1_ns: int,
    spec: SampleSpec,
    out: npt.NDArray[np.float64],
    mask: Bools,
) -> Indices:
    """Fill the columns of the channels that this stream carries; a NaN row does not exist for its channel."""
    period_ns = sensors.period_ns
    max_gap_ns = spec.max_gap_periods * period_ns
    grid_ns = _centred_grid(t0_ns, t1_ns, spec.sensor_rows)
    a, b = np.searchsorted(sensors.t_ns, (t0_ns - max_gap_ns, t1_ns + max_gap_ns))
    times_ns, table = sensors.t_ns[a:b], sensors.values[a:b]
    measured = np.isfinite(table)
    shared: Neighbours | None = None
    used: list[int] = []
    for position, name in enumerate(sensors.info.channels):
        if name not in CHANNEL_INDEX:
            continue
        column = table[:, position]
        rows = np.flatnonzero(measured[:, position])
        if not len(rows):
            continue
        if len(rows) == len(column):
            near = shared = shared or Neighbours.of(times_ns, grid_ns, max_gap_ns)
        else:
            near, column = Neighbours.of(times_ns[rows], grid_ns, max_gap_ns), column[rows]
        values, filled = read_rule(column, near, CHANNEL_RULES[name], period_ns)
        fresh = filled & ~mask[:, CHANNEL_INDEX[name]]
        out[fresh, CHANNEL_INDEX[name]] = values[fresh]
        mask[fresh, CHANNEL_INDEX[name]] = True
        if fresh.any():
            at = np.clip(near.before[fresh][[0, -1]] + (0, 1), 0, len(rows) - 1)
            used += (a + rows[at]).tolist()
    return np.array(used, np.intp)


def photo_sample(photos: Sequence[Photo], spec: SampleSpec) -> tuple[npt.NDArray[np.uint8], Bools]:
    """Decode post-weld photos to `(N, 3, h, w)` uint8 RGB and a `(N,)` mask.

    By name, so that the order of arrival does not count; the EXIF orientation is ignored, and a photo that cannot be
    decoded or has too many pixels is masked.
    """
    images = np.zeros((spec.photos, 3, spec.photo_height, spec.photo_width), np.uint8)
    mask = np.zeros(spec.photos, np.bool_)
    for position, photo in enumerate(sorted(photos, key=lambda photo: photo.name)[: spec.photos]):
        image = _decode(photo.data, spec.photo_width, spec.photo_height)
        if image is not None:
            images[position], mask[position] = image, True
    return images, mask


def _decode(data: bytes, width: int, height: int) -> npt.NDArray[np.uint8] | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(BytesIO(data), formats=("JPEG", "PNG", "BMP", "TIFF"))
        with image:
            # JPEG decodes straight to the nearest larger eighth, which is most of the work saved.
            image.draft("RGB", (width, height))
            small = image.convert("RGB").resize((width, height), Image.Resampling.BOX)
            return np.ascontiguousarray(np.asarray(small).transpose(2, 0, 1))
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError, Image.DecompressionBombWarning):
        return None
