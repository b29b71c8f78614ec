"""The files of a LeRobot v3 data set: episodes joined into Parquet and MP4, and the `meta` that tells them apart."""

from fractions import Fraction
from pathlib import Path
from typing import Any, Final

import av
import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet
from av.container import OutputContainer

from acquisition.packet import SENSOR_CHANNELS
from recordings.export_lerobot_episode import CAMERA, Episode, Shape, write_episode
from recordings.export_lerobot_stats import Moments
from recordings.export_source import ExportSource
from recordings.verdict import CLASSES

_DATA_MB: Final = 100
_VIDEO_MB: Final = 200
_CHUNK: Final = 1000
_BATCH: Final = 256
_FILE: Final = "chunk-{chunk_index:03d}/file-{file_index:03d}"
_TICKS: Final = 512
"""Time base of the MP4 per frame, so that every frame's time is exact."""


class DataSet:
    """Takes welds one after the other.

    Attributes:
        episodes: Rows of `meta/episodes` so far.
    """

    def __init__(self, root: Path, shape: Shape) -> None:
        """Begin a data set in the empty folder `root`."""
        self.episodes: list[dict[str, Any]] = []
        self._root = root
        self._shape = shape
        self._episode_video, self._episode_table = root / "episode.mp4", root / "episode.parquet"
        self._tasks: dict[str, int] = {}
        self._moments: dict[str, Moments] = {}
        self._frames = 0
        self._rows = _JoinedRows(root / "data")
        self._video = _JoinedVideo(root / "videos" / CAMERA, shape)

    def encode(self, weld: ExportSource) -> Episode:
        """Write a weld's episode on its own; one that fails leaves nothing behind.

        Raises:
            WeldError: It is damaged, or of another shape.
        """
        label, task = _task(weld)
        constants = {"annotation.label": label, "task_index": self._tasks.get(task, len(self._tasks))}
        return write_episode(weld, self._shape, self._episode_video, self._episode_table, constants)

    def join(self, weld: ExportSource, episode: Episode) -> None:
        """Append the episode that was encoded last.

        Raises:
            OSError: The disk is full or gone; the data set is of no use.
        """
        task, number = _task(weld)[1], len(self.episodes)
        self._tasks.setdefault(task, len(self._tasks))
        end = self._frames + episode.length
        columns = {"episode_index": np.full(episode.length, number), "index": np.arange(self._frames, end)}
        moments = episode.moments | {name: Moments.of(values) for name, values in columns.items()}
        data_file = self._rows.append(self._episode_table, columns)
        video_file, begin = self._video.append(self._episode_video, episode)
        self.episodes.append(
            {
                "episode_index": number,
                "tasks": [task],
                "length": episode.length,
                **_file_columns("data", data_file),
                "dataset_from_index": self._frames,
                "dataset_to_index": end,
                **_file_columns(f"videos/{CAMERA}", video_file),
                f"videos/{CAMERA}/from_timestamp": begin / self._shape.fps,
                f"videos/{CAMERA}/to_timestamp": (begin + episode.length) / self._shape.fps,
                **_file_columns("meta/episodes", 0),
                "weld/key": weld.manifest.key,
                "weld/cell": weld.manifest.cell,
                "weld/session": weld.manifest.session,
                **{f"stats/{name}/{what}": one for name, m in moments.items() for what, one in m.told().items()},
            }
        )
        self._frames = end
        for name, one in moments.items():
            self._moments[name] = self._moments.get(name, Moments()) + one

    def close(self) -> None:
        """Complete the files and write `meta`."""
        self._rows.close()
        self._video.close()
        meta = self._root / "meta"
        meta.mkdir()
        stats = {name: moments.told() for name, moments in self._moments.items()}
        _write_json(meta / "stats.json", stats)
        _write_json(meta / "info.json", self._info())
        _write_tasks(meta / "tasks.parquet", self._tasks)
        if self.episodes:
            path = meta / "episodes" / f"{_file(0)}.parquet"
            path.parent.mkdir(parents=True)
            pyarrow.parquet.write_table(pa.Table.from_pylist(self.episodes), path)

    def _info(self) -> dict[str, Any]:
        return {
            "codebase_version": "v3.0",
            "robot_type": "welding cell",
            "total_episodes": len(self.episodes),
            "total_frames": self._frames,
            "total_tasks": len(self._tasks),
            "chunks_size": _CHUNK,
            "data_files_size_in_mb": _DATA_MB,
            "video_files_size_in_mb": _VIDEO_MB,
            "fps": self._shape.fps,
            "splits": {"train": f"0:{len(self.episodes)}"},
            "data_path": f"data/{_FILE}.parquet",
            "video_path": f"videos/{{video_key}}/{_FILE}.mp4",
            "features": _features(self._shape),
        }


def _task(weld: ExportSource) -> tuple[int, str]:
    """Return label and task text of a weld."""
    label = weld.manifest.label
    if 0 <= label < len(CLASSES):
        return label, f"weld, class {CLASSES[label]}"
    return -1, "weld, class unknown"


def _features(shape: Shape) -> dict[str, Any]:
    """Return the description of every column and of the video."""
    single = {
        name: {"dtype": "int64", "shape": [1], "names": None} for name in ("frame_index", "episode_index", "index")
    }
    channels = list(SENSOR_CHANNELS)
    video = {
        "video.height": shape.height,
        "video.width": shape.width,
        "video.codec": "h264",
        "video.pix_fmt": "yuvj420p",
        "video.is_depth_map": False,
        "video.fps": shape.fps,
        "video.channels": 3,
        "has_audio": False,
    }
    features: dict[str, Any] = {
        CAMERA: {
            "dtype": "video",
            "shape": [shape.height, shape.width, 3],
            "names": ["height", "width", "channels"],
            "info": video,
        },
        "observation.camera_valid": {"dtype": "bool", "shape": [1], "names": None},
        "observation.state": {"dtype": "float32", "shape": [len(channels)], "names": channels},
        "observation.state_valid": {"dtype": "bool", "shape": [len(channels)], "names": channels},
        "annotation.label": {"dtype": "int64", "shape": [1], "names": None},
        "timestamp": {"dtype": "float32", "shape": [1], "names": None},
        **single,
        "task_index": {"dtype": "int64", "shape": [1], "names": None},
    }
    if shape.sound_hz:
        about = {"sample_rate_hz": shape.sound_hz}
        sound = {"shape": [shape.samples], "names": None}
        features["observation.audio"] = {"dtype": "float32", **sound, "info": about}
        features["observation.audio_valid"] = {"dtype": "bool", **sound}
    return features


class _JoinedRows:
    """Parquet files of about `_DATA_MB`, a row group or more per episode."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file = -1
        self._writer: pyarrow.parquet.ParquetWriter | None = None

    def append(self, table: Path, columns: dict[str, Any]) -> int:
        """Append an episode's rows with further int64 columns; returns the number of the file."""
        source, start = pyarrow.parquet.ParquetFile(table), 0
        path = self._folder / f"{_file(max(self._file, 0))}.parquet"
        if self._writer is None or path.stat().st_size > _DATA_MB * 2**20:
            self.close()
            self._file += 1
            path = self._folder / f"{_file(self._file)}.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            schema = source.schema_arrow
            for name in columns:
                schema = schema.append(pa.field(name, pa.int64()))
            self._writer = pyarrow.parquet.ParquetWriter(path, schema)
        with source:
            for batch in source.iter_batches(_BATCH):
                part = slice(start, start + len(batch))
                start += len(batch)
                rows = pa.Table.from_batches([batch])
                for name, values in columns.items():
                    rows = rows.append_column(name, pa.array(values[part], pa.int64()))
                self._writer.write_table(rows)
        return self._file

    def close(self) -> None:
        """Complete the current file."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None


class _JoinedVideo:
    """MP4 files of about `_VIDEO_MB`, one episode after the other, without encoding anew."""

    def __init__(self, folder: Path, shape: Shape) -> None:
        self._folder = folder
        self._shape = shape
        self._file = -1
        self._frames = 0
        self._bytes = 0
        self._container: OutputContainer | None = None

    def append(self, video: Path, episode: Episode) -> tuple[int, int]:
        """Append an episode's frames; returns the number of the file, and the frames in it before."""
        with av.open(str(video)) as source:
            template = source.streams.video[0]
            if self._container is None or self._bytes > _VIDEO_MB * 2**20:
                self._begin(template)
            assert self._container is not None
            stream, begin = self._container.streams.video[0], self._frames
            base = Fraction(1, self._shape.fps * _TICKS)
            for packet in source.demux(template):
                if not packet.size:
                    continue
                number = begin + round((packet.pts or 0) * packet.time_base * self._shape.fps)
                packet.stream = stream
                packet.time_base = base
                packet.pts = packet.dts = number * _TICKS
                packet.duration = _TICKS
                self._bytes += packet.size
                self._container.mux(packet)
        self._frames += episode.length
        return self._file, begin

    def _begin(self, template: av.VideoStream) -> None:
        self.close()
        self._file, self._frames, self._bytes = self._file + 1, 0, 0
        path = self._folder / f"{_file(self._file)}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        self._container = av.open(str(path), "w", format="mp4", options={"movflags": "faststart"})
        self._container.add_stream_from_template(template).time_base = Fraction(1, self._shape.fps * _TICKS)

    def close(self) -> None:
        """Complete the current file."""
        if self._container is not None:
            container, self._container = self._container, None
            container.close()


def _file(number: int) -> str:
    return _FILE.format(chunk_index=number // _CHUNK, file_index=number % _CHUNK)


def _file_columns(prefix: str, number: int) -> dict[str, int]:
    return {f"{prefix}/chunk_index": number // _CHUNK, f"{prefix}/file_index": number % _CHUNK}


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_bytes(msgspec.json.format(msgspec.json.encode(value), indent=4))


def _write_tasks(path: Path, tasks: dict[str, int]) -> None:
    """Write the tasks as LeRobot reads them: a pandas frame whose index is the task's text."""
    columns = [("task_index", "int64", "int64"), ("task", "unicode", "object")]
    about = {
        "index_columns": ["task"],
        "column_indexes": [],
        "columns": [
            {"name": name, "field_name": name, "pandas_type": kind, "numpy_type": numpy, "metadata": None}
            for name, kind, numpy in columns
        ],
        "creator": {"library": "pyarrow", "version": pa.__version__},
        "pandas_version": "2.2.0",
    }
    table = pa.table({"task_index": pa.array(tasks.values(), pa.int64()), "task": pa.array(tasks, pa.string())})
    pyarrow.parquet.write_table(table.replace_schema_metadata({"pandas": msgspec.json.encode(about)}), path)
