"""The windows of `bench windows` as a script would cut them: polars `join_asof`, `numpy.interp` and slices."""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import polars as pl

from acquisition.packet import SENSOR_CHANNELS, StreamInfo
from sync.alignment import CHANNEL_RULES
from sync.sample import SampleSpec
from sync.series import AudioSeries, SensorSeries, Series, VideoSeries

_SECOND: Final = 1_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Tables:
    """The finished weld as polars and numpy want it: two tables of times, and arrays beside them."""

    frame_times: pl.DataFrame
    frames: npt.NDArray[np.uint8]
    row_times: pl.DataFrame
    row_ns: npt.NDArray[np.int64]
    rows: npt.NDArray[np.float64]
    sound_ns: npt.NDArray[np.int64]
    sound: npt.NDArray[np.int16]

    @classmethod
    def of(cls, series: dict[str, Series]) -> "Tables":
        """Take over what the series hold."""
        camera, mic, plc = series["camera"], series["mic"], series["plc"]
        assert isinstance(camera, VideoSeries)
        assert isinstance(mic, AudioSeries)
        assert isinstance(plc, SensorSeries)
        columns = {name: plc.values[:, i] for i, name in enumerate(SENSOR_CHANNELS)}
        return cls(
            frame_times=pl.DataFrame({"t_ns": camera.t_ns, "frame": np.arange(len(camera.t_ns))}).set_sorted("t_ns"),
            frames=camera.frames,
            row_times=pl.DataFrame({"t_ns": plc.t_ns, "row_ns": plc.t_ns} | columns).set_sorted("t_ns"),
            row_ns=plc.t_ns,
            rows=plc.values,
            sound_ns=mic.t_ns,
            sound=mic.samples[:, 0].astype(np.int16, copy=False),
        )


def polars_window(tables: Tables, infos: dict[str, StreamInfo], t0_ns: int, spec: SampleSpec) -> dict[str, Any]:
    """Cut the arrays and masks of one window as a script would: `join_asof`, `interp` and a slice.

    Gaps are bridged up to the same limit, seen from each point. Sound is the samples from the window's start on: clock
    drift within the window and holes are not looked for.
    """
    window_ns = round(spec.window_s * _SECOND)
    tolerance = {name: int(spec.max_gap_periods * 1e9 / infos[name].rate_hz / 2) for name in ("camera", "plc")}
    grid = pl.DataFrame({"t_ns": _centres(t0_ns, window_ns, spec.frames)}).set_sorted("t_ns")
    joined = grid.join_asof(tables.frame_times, on="t_ns", strategy="nearest", tolerance=tolerance["camera"])
    video_mask = joined["frame"].is_not_null().to_numpy()
    video = np.zeros((spec.frames, 1, spec.height, spec.width), np.uint8)
    video[video_mask, 0] = tables.frames[joined["frame"].drop_nulls().to_numpy()]

    times_ns = _centres(t0_ns, window_ns, spec.sensor_rows)
    grid = pl.DataFrame({"t_ns": times_ns}).set_sorted("t_ns")
    near = grid.join_asof(tables.row_times, on="t_ns", strategy="nearest", tolerance=tolerance["plc"])
    held = grid.join_asof(
        tables.row_times.select("t_ns", "pressure_bar"), on="t_ns", strategy="backward", tolerance=2 * tolerance["plc"]
    )
    mask = near["row_ns"].is_not_null().to_numpy()
    sensors = np.zeros((spec.sensor_rows, len(SENSOR_CHANNELS)))
    for i, name in enumerate(SENSOR_CHANNELS):
        if CHANNEL_RULES[name] == "nearest":
            sensors[:, i] = near[name].fill_null(0.0).to_numpy()
        elif CHANNEL_RULES[name] == "hold":
            sensors[:, i] = held[name].fill_null(0.0).to_numpy()
        else:
            sensors[:, i] = np.where(mask, np.interp(times_ns, tables.row_ns, tables.rows[:, i]), 0.0)

    first = int(np.searchsorted(tables.sound_ns, t0_ns - _SECOND // spec.audio_rate_hz // 2))
    audio = np.zeros((spec.audio_channels, spec.audio_length), np.int16)
    audio_mask = np.zeros(spec.audio_length, np.bool_)
    part = tables.sound[first : first + spec.audio_length]
    audio[0, : len(part)] = part
    audio_mask[: len(part)] = True
    sensors_mask = np.repeat(mask[:, np.newaxis], len(SENSOR_CHANNELS), axis=1)
    return {
        "video": video,
        "video_mask": video_mask,
        "audio": audio,
        "audio_mask": audio_mask,
        "sensors": sensors,
        "sensors_mask": sensors_mask,
    }


def _centres(t0_ns: int, window_ns: int, points: int) -> npt.NDArray[np.int64]:
    return t0_ns + (2 * np.arange(points, dtype=np.int64) + 1) * window_ns // (2 * points)
