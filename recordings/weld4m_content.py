"""What a Weld-4M weld's files hold, on one time axis: read once, checked, and what had to be inferred said."""

import io
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from acquisition.packet import SENSOR_CHANNELS, Photo
from recordings.weld4m_csv import SensorFile, SensorFileError, read_sensor_csv
from recordings.weld4m_media import MediaError, SoundScan, VideoScan, scan_sound, scan_video
from recordings.weld4m_tree import FoundWeld
from sync.arc import arc_edges_current, arc_edges_light, arc_edges_sound, block_sound_levels

ORIGIN_NS: Final = 10**12
"""Cell time at which every imported weld begins; any positive number would do."""

NOMINAL_HZ: Final = 9.0
"""Row rate of sensor files that have neither times nor a video to be spread over."""

BLOCKS_PER_S: Final = 20


class UnreadableWeldError(Exception):
    """None of a weld's files can be used; the message names them, the cause and the next step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Arc:
    """The span of a weld's arc.

    Attributes:
        on_ns: Cell time of arc-on.
        off_ns: Cell time of arc-off.
        source: What it was seen in (`current`, `light`, `sound`).
    """

    on_ns: int
    off_ns: int
    source: str


@dataclass(slots=True, kw_only=True)
class WeldContent:
    """What a weld's files hold, on one time axis.

    Attributes:
        video: Frames, or None.
        sound: Samples, or None.
        sensors: Rows, or None.
        row_ns: Cell time of every sensor row.
        photos: Usable photos.
        arc: The arc, or None where no stream shows one.
        end_ns: Cell time at which the longest stream ends.
        inferred: What was inferred and not measured.
        unreadable: What the files should hold but do not give.
        warnings: What else the owner should know.
    """

    video: VideoScan | None = None
    sound: SoundScan | None = None
    sensors: SensorFile | None = None
    row_ns: npt.NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    photos: list[Photo] = field(default_factory=list)
    arc: Arc | None = None
    end_ns: int = ORIGIN_NS
    inferred: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def read_content(weld: FoundWeld) -> WeldContent:
    """Read and check all files of a weld.

    Raises:
        UnreadableWeldError: Neither video nor sound nor sensors can be used.
    """
    content = WeldContent()
    for kind, path in weld.files.items():
        try:
            if kind == "video":
                content.video = scan_video(path, "camera")
            elif kind == "audio":
                content.sound = scan_sound(path, "microphone")
            else:
                content.sensors = read_sensor_csv(path)
        except (MediaError, SensorFileError) as error:
            content.unreadable.append(f"{kind} left out: {error}")
        except OSError as error:
            content.unreadable.append(f"{kind} left out: {path.name}: {error.strerror}; check the file's permissions")
    if content.video is None and content.sound is None and content.sensors is None:
        raise UnreadableWeldError("; ".join(content.unreadable).replace(" left out", ""))
    for path in weld.photos:
        photo = _photo(path, weld.key, content.unreadable)
        content.photos += [photo] if photo is not None else []

    video, sound, sensors = content.video, content.sound, content.sensors
    if sensors is not None:
        about = content.unreadable if sensors.cut_off else content.warnings
        about += [f"{weld.files['sensors'].name}: {what}" for what in sensors.warnings]
        content.row_ns = _row_times(content, sensors)
    if video is not None:
        name, n = weld.files["video"].name, len(video.frames)
        if n < video.declared:
            content.unreadable.append(f"{name}: {n} of {video.declared} frames can be decoded")
    if sound is not None and len(sound.samples) < sound.declared:
        share = f"{len(sound.samples) / sound.info.rate_hz:.2f} of {sound.declared / sound.info.rate_hz:.2f} s"
        content.unreadable.append(f"{weld.files['audio'].name}: {share} of sound can be decoded")
    if sum(stream is not None for stream in (video, sound, sensors)) > 1:
        content.inferred.append("common start: the files do not say when each stream began; all begin together")
    if weld.label_by == "id":
        content.inferred.append("class: from the last two digits of the id")
    content.end_ns = max(_ends_ns(content))
    content.arc = _arc(content)
    if content.arc is None:
        content.warnings.append("no arc is visible in any stream; the weld has no arc edges and no windows")
    return content


def _row_times(content: WeldContent, sensors: SensorFile) -> npt.NDArray[np.int64]:
    """Cell times of the sensor rows: as measured, or spread over the video, or at the nominal rate."""
    n = len(sensors.values)
    if sensors.t_ns is not None:
        return ORIGIN_NS + sensors.t_ns
    if content.video is not None:
        span_s = content.video.declared / content.video.info.rate_hz
        content.inferred.append(f"sensor times: {n} rows spread evenly over the video's {span_s:.2f} s")
    else:
        span_s = n / NOMINAL_HZ
        content.inferred.append(f"sensor times: {n} rows at the nominal {NOMINAL_HZ} Hz")
    return ORIGIN_NS + np.arange(n, dtype=np.int64) * round(span_s * 1e9) // n


def _photo(path: Path, key: str, problems: list[str]) -> Photo | None:
    """Read a photo as it is, if it is one."""
    try:
        data = path.read_bytes()
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data), formats=("JPEG", "PNG")) as image:
                image.draft("L", (1, 1))  # decodes at an eighth of the size: enough to see whether it is whole
                image.load()
    except UnidentifiedImageError:
        cause = "is neither JPEG nor PNG"
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        cause = str(error).splitlines()[0]
    else:
        return Photo(name=path.name, data=data, weld_hint=key)
    problems.append(f"photo left out: {path.name}: {cause}; check or replace it")
    return None


def _ends_ns(content: WeldContent) -> Iterator[int]:
    if content.video is not None:
        yield ORIGIN_NS + round((int(content.video.frames[-1]) + 1) / content.video.info.rate_hz * 1e9)
    if content.sound is not None:
        yield ORIGIN_NS + round(len(content.sound.samples) / content.sound.info.rate_hz * 1e9)
    if content.sensors is not None:
        yield int(content.row_ns[-1])


def _arc(content: WeldContent) -> Arc | None:
    """The whole span of the arc, from the best stream that shows one: a file is one weld, interruptions included."""
    for source, arcs in _arcs(content):
        if arcs:
            return Arc(on_ns=arcs[0][0], off_ns=arcs[-1][1], source=source)
    return None


def _arcs(content: WeldContent) -> Iterator[tuple[str, list[tuple[int, int]]]]:
    if content.sensors is not None:
        values = content.sensors.values
        current, voltage = (values[:, SENSOR_CHANNELS.index(name)] for name in ("current_a", "voltage_v"))
        yield "current", arc_edges_current(content.row_ns, current, voltage)
    if content.video is not None:
        yield "light", arc_edges_light(ORIGIN_NS + content.video.frame_ns, content.video.light)
    if content.sound is not None:
        samples, rate_hz = content.sound.samples, content.sound.info.rate_hz
        block = round(rate_hz / BLOCKS_PER_S)
        levels = block_sound_levels(samples, rate_hz, block)
        ends = (np.arange(1, len(levels) + 1) * block / rate_hz * 1e9).round().astype(np.int64)
        yield "sound", arc_edges_sound(ORIGIN_NS + ends, levels)
