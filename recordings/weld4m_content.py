"""What a Weld-4M weld's files hold, on one time axis: read once, checked, and what had to be inferred said."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt

from acquisition.packet import SENSOR_CHANNELS, Packet, SampleBlock, SensorRows, StreamInfo, VideoFrame
from recordings.weld4m_csv import SensorFile, SensorFileError, read_sensor_csv
from recordings.weld4m_flags import feed_rows_per_s
from recordings.weld4m_headers import MediaError
from recordings.weld4m_media import SoundScan, VideoScan, scan_sound, scan_video
from recordings.weld4m_offsets import Offset, stream_offsets
from recordings.weld4m_photos import FoundPhoto, PhotoError, Region, in_order, read_photo
from recordings.weld4m_tree import FoundWeld
from sync.arc import arc_edges_current, arc_edges_light, arc_edges_sound, block_sound_levels

ORIGIN_NS: Final = 10**12
"""Cell time at which every imported weld begins; any positive number would do."""

NOMINAL_HZ: Final = 9.0
"""Row rate of sensor files that have neither times nor a video to be spread over."""

BLOCKS_PER_S: Final = 20
CAMERA: Final = "camera"
MICROPHONE: Final = "microphone"
SENSORS: Final = "sensors"

_UNITS: Final = ("bar", "L/min", "", "A", "mm", "V")
_NO_PIXELS: Final = VideoFrame(pixels=np.zeros((0, 0), np.uint8))


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
        since_ns: Time of every sensor row since the first one.
        feed_rows_per_s: Row rate by the counter behind Feed, None where Feed is a channel of its own.
        photos: Usable photos, in the order of their times.
        offsets: Per stream but the one that the others are compared with, how late it shows the arc.
        start_ns: Cell time at which each stream begins; the first one begins at `ORIGIN_NS`.
        arc: The arc, or None where no stream shows one.
        end_ns: Cell time at which the longest stream ends.
        inferred: What was inferred and not measured.
        unreadable: What the files should hold but do not give.
        warnings: What else the owner should know.
    """

    video: VideoScan | None = None
    sound: SoundScan | None = None
    sensors: SensorFile | None = None
    since_ns: npt.NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    feed_rows_per_s: float | None = None
    photos: list[FoundPhoto] = field(default_factory=list)
    offsets: dict[str, Offset] = field(default_factory=dict)
    start_ns: dict[str, int] = field(default_factory=dict)
    arc: Arc | None = None
    end_ns: int = ORIGIN_NS
    inferred: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def row_ns(self) -> npt.NDArray[np.int64]:
        """Cell time of every sensor row."""
        return self.since_ns + self.start_ns.get(SENSORS, ORIGIN_NS)

    @property
    def infos(self) -> dict[str, StreamInfo]:
        """The streams by name, sensors first, photos left out."""
        found = [self.video.info] if self.video is not None else []
        found += [self.sound.info] if self.sound is not None else []
        if self.sensors is not None:
            steps = np.diff(self.since_ns)
            info = StreamInfo(
                name=SENSORS,
                modality="sensors",
                rate_hz=round(float(1e9 / steps.mean()), 6) if len(steps) else NOMINAL_HZ,
                channels=SENSOR_CHANNELS,
                units=_UNITS,
                dtype="float64",
                inferred_time=self.sensors.t_ns is None,
            )
            found.insert(0, info)
        return {info.name: info for info in found}


def absent_modalities(weld: FoundWeld) -> list[str]:
    """Name what the source does not hold of the weld, which is no loss."""
    absent = [kind for kind in ("video", "audio", "sensors") if kind not in weld.files]
    return absent + ([] if weld.photos else ["post_images"])


def read_content(weld: FoundWeld, mask: tuple[Region, ...] = ()) -> WeldContent:
    """Read and check all files of a weld.

    Args:
        weld: The weld.
        mask: Regions of its photos that are painted over.

    Raises:
        UnreadableWeldError: Neither video nor sound nor sensors can be used.
    """
    content = WeldContent()
    content.unreadable += weld.left_out
    content.warnings += weld.oddities
    _read_streams(weld, content)
    for path in in_order(weld.photos):
        try:
            content.photos.append(read_photo(path, weld.key, mask))
        except PhotoError as error:
            content.unreadable.append(f"photo left out: {error}")
    if mask and content.photos:
        said = ", ".join(f"{x:g},{y:g},{width:g},{height:g}" for x, y, width, height in mask)
        content.inferred.append(
            f"photos: the regions {said} (left, top, width, height as shares of the picture) were painted gray; a JPEG "
            "was coded again with its own tables, without thumbnail and comments"
        )
    if content.sensors is not None:
        content.since_ns = _row_times(content, content.sensors)
        content.feed_rows_per_s = feed_rows_per_s(content.sensors.values)
    _place(weld, content)
    if weld.label_by == "id":
        content.inferred.append("class: from the last two digits of the id")
    content.end_ns = max(_ends_ns(content))
    content.arc = _arc(content)
    if content.arc is None:
        content.warnings.append("no arc is visible in any stream; the weld has no arc edges and no windows")
    return content


def _read_streams(weld: FoundWeld, content: WeldContent) -> None:
    for kind, path in weld.files.items():
        try:
            if kind == "video":
                content.video = scan_video(path, CAMERA)
            elif kind == "audio":
                content.sound = scan_sound(path, MICROPHONE)
            else:
                content.sensors = read_sensor_csv(path)
        except (MediaError, SensorFileError) as error:
            content.unreadable.append(f"{kind} left out: {error}")
        except OSError as error:
            content.unreadable.append(f"{kind} left out: {path.name}: {error.strerror}; check the file's permissions")
    video, sound, sensors = content.video, content.sound, content.sensors
    if video is None and sound is None and sensors is None:
        raise UnreadableWeldError("; ".join(content.unreadable).replace(" left out", ""))
    if sensors is not None:
        about = content.unreadable if sensors.cut_off else content.warnings
        about += [f"{weld.files['sensors'].name}: {what}" for what in sensors.warnings]
    if video is not None:
        content.unreadable += video.notes
        if len(video.frames) < video.declared:
            n, of = len(video.frames), video.declared
            content.unreadable.append(f"{weld.files['video'].name}: {n} of {of} frames can be decoded")
    if sound is not None:
        content.unreadable += sound.notes
    if sound is not None and len(sound.samples) < sound.declared:
        share = f"{len(sound.samples) / sound.info.rate_hz:.2f} of {sound.declared / sound.info.rate_hz:.2f} s"
        content.unreadable.append(f"{weld.files['audio'].name}: {share} of sound can be decoded")


def _row_times(content: WeldContent, sensors: SensorFile) -> npt.NDArray[np.int64]:
    """Times of the sensor rows since the first: as measured, or spread over the video, or at the nominal rate."""
    n = len(sensors.values)
    if sensors.t_ns is not None:
        return sensors.t_ns
    if content.video is not None:
        span_s = content.video.declared / content.video.info.rate_hz
        content.inferred.append(f"sensor times: {n} rows spread evenly over the video's {span_s:.2f} s")
    else:
        span_s = n / NOMINAL_HZ
        content.inferred.append(f"sensor times: {n} rows at the nominal {NOMINAL_HZ} Hz")
    return np.arange(n, dtype=np.int64) * round(span_s * 1e9) // n


def _place(weld: FoundWeld, content: WeldContent) -> None:
    """Find out when each stream began: by the manifest, by the arc, or with the others."""
    infos = content.infos
    if len(infos) > 1:
        content.offsets = stream_offsets(infos, list(_levels(content)))
    for name, modality in ((CAMERA, "video"), (MICROPHONE, "audio")):
        start_s = weld.starts_s.get(modality)
        if start_s is not None and name in infos and SENSORS in infos:
            content.offsets.pop(SENSORS, None)  # where everything is counted from
            content.offsets[name] = Offset(
                offset_ms=-1e3 * start_s, sigma_ms=0.0, confidence="given", against=SENSORS, applied=True
            )
    content.inferred += [offset.line(name) for name, offset in content.offsets.items()]
    shifts = dict.fromkeys(infos, 0)
    for name, offset in content.offsets.items():
        if offset.applied and offset.offset_ms is not None:
            shifts[name] = -round(offset.offset_ms * 1e6)
    first = min(shifts.values())
    content.start_ns = {name: ORIGIN_NS + shift - first for name, shift in shifts.items()}


def _levels(content: WeldContent) -> Iterator[tuple[Packet, float | None]]:
    """Everything in which the arc may show, as if all streams began together; frames without their pixels."""
    if content.sensors is not None:
        rows = SensorRows(
            first_row=0, values=content.sensors.values, t_device_ns=None, t_arrival_ns=ORIGIN_NS + content.since_ns
        )
        yield Packet(stream=SENSORS, seq=0, t_arrival_ns=ORIGIN_NS, payload=rows), None
    if content.video is not None:
        times = (ORIGIN_NS + content.video.frame_ns).tolist()
        for t_ns, light in zip(times, content.video.light.tolist(), strict=True):
            yield Packet(stream=CAMERA, seq=0, t_arrival_ns=t_ns, payload=_NO_PIXELS), light
    if content.sound is not None:
        block = SampleBlock(first_sample=0, rate_hz=content.sound.info.rate_hz, samples=content.sound.samples)
        yield Packet(stream=MICROPHONE, seq=0, t_arrival_ns=ORIGIN_NS, payload=block), None


def _ends_ns(content: WeldContent) -> Iterator[int]:
    if (video := content.video) is not None:
        yield content.start_ns[CAMERA] + round((int(video.frames[-1]) + 1) / video.info.rate_hz * 1e9)
    if (sound := content.sound) is not None:
        yield content.start_ns[MICROPHONE] + round(len(sound.samples) / sound.info.rate_hz * 1e9)
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
        yield "light", arc_edges_light(content.start_ns[CAMERA] + content.video.frame_ns, content.video.light)
    if content.sound is not None:
        samples, rate_hz = content.sound.samples, content.sound.info.rate_hz
        block = round(rate_hz / BLOCKS_PER_S)
        levels = block_sound_levels(samples, rate_hz, block)
        ends = (np.arange(1, len(levels) + 1) * block / rate_hz * 1e9).round().astype(np.int64)
        yield "sound", arc_edges_sound(content.start_ns[MICROPHONE] + ends, levels)
