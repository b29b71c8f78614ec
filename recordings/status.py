"""The state of the cell as the capture process announces it (topic `status`, four times a second, complete each time).

A reader that attaches late or comes back knows everything from one message; nothing is kept only in a screen.
"""

from dataclasses import dataclass, field
from typing import Any, Final, Literal

from acquisition.packet import ClockUpdate, StreamInfo
from recordings.verdict import Verdict

STATUS_TOPIC: Final = "status"
SCORE_TOPIC: Final = "score"
VERDICT_TOPIC: Final = "verdict"

WeldPhase = Literal["welding", "post-roll", "photos", "judged", "failed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamStatus:
    """One row of the health view.

    Attributes:
        info: The stream's description (None until its driver first opened).
        state: `streaming`, `lost`, `opening` or `closed`.
        required: The cell file requires it for a verdict.
        rate_hz: Measured items per second over the last seconds.
        received: Items received since start.
        dropped: Items known to be lost since start.
        age_s: Seconds since the newest packet, or None.
        offset_ms: Clock offset against the value at start, or None without a device clock.
        drift_ppm: Clock drift, or None.
        sigma_ms: Uncertainty of the offset, or None.
        problem: The last error in one line, or None.
        segment: Openings of the device so far, minus one.
        clock_faults: Unusable device stamps that were mended since start.
        sync_ms: How late this stream saw the arc of the last weld, against the sensors, or None.
        sync_sigma_ms: Uncertainty of that, or None.
    """

    name: str
    modality: str
    info: StreamInfo | None
    state: str
    required: bool
    rate_hz: float
    received: int
    dropped: int
    age_s: float | None
    offset_ms: float | None
    drift_ppm: float | None
    sigma_ms: float | None
    problem: str | None
    segment: int
    clock_faults: int = 0
    sync_ms: float | None = None
    sync_sigma_ms: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """A located loss: `missing` items of `stream` from cell time `t_ns` on, lasting `seconds`."""

    stream: str
    t_ns: int
    missing: int
    seconds: float
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class WeldStatus:
    """One row of the list of welds.

    Attributes:
        key: Weld key.
        path: Folder that it is recorded in.
        phase: Where it stands.
        started_utc: ISO 8601 start time.
        arc_on_ns: Cell time, or None.
        arc_off_ns: Cell time, or None.
        verdict: The newest verdict, or None.
        label: Class label 0-11, or -1.
        photos: Photos received.
        photos_expected: Photos waited for.
        present: Modalities recorded without being lost for most of the weld.
        problem: What went wrong in one line, or None.
        trigger: What began it: `current`, `light`, `sound`, `manual`, `external`..., or `""` where that is not known.
    """

    key: str
    path: str
    phase: WeldPhase
    started_utc: str
    arc_on_ns: int | None
    arc_off_ns: int | None
    verdict: Verdict | None
    label: int
    photos: int
    photos_expected: int
    present: tuple[str, ...]
    problem: str | None
    trigger: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectorStatus:
    """What the detector process says of itself, twice a second.

    Attributes:
        state: `absent` (never seen or gone), `starting`, `ready`, `failed`.
        name: Checkpoint name.
        alpha: False-alarm rate aimed at.
        calibration_welds: n good welds behind the p-values for this cell (0: not calibrated for it).
        calibration_needed: n below which every verdict is NO DATA.
        calibration_sessions: Sessions that those came from.
        latency_ms: Window to verdict, p50 and p95 of the last minutes, or None.
        problem: One line, or None.
    """

    state: Literal["absent", "starting", "ready", "failed"] = "absent"
    name: str = ""
    alpha: float = 0.05
    calibration_welds: int = 0
    calibration_needed: int = 19
    calibration_sessions: int = 0
    latency_ms: tuple[float, float] | None = None
    problem: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Alarm:
    """Something that a person must see; stays until acknowledged."""

    number: int
    utc: str
    level: Literal["warning", "error"]
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayStatus:
    """Where a replay stands.

    Attributes:
        position_s: Seconds into the weld.
        duration_s: Its length.
        speed: Times real time; 0 is as fast as every reader keeps up.
        playing: It moves.
        loop: At the end (or at B) it begins anew.
        a_s: Beginning of the range that is played, or None for the weld's.
        b_s: End of the range that is played, or None for the weld's.
        waiting: It waits for a reader that is behind; nothing is dropped.
        origin_ns: Cell time of position 0.
        gaps: Located losses of the whole weld (the first 50).
        ticks: Marks, photos, streams lost and back of the whole weld: cell time, kind of event, note or stream (the
            first 100).
    """

    position_s: float
    duration_s: float
    speed: float
    playing: bool
    loop: bool = False
    a_s: float | None = None
    b_s: float | None = None
    waiting: bool = False
    origin_ns: int = 0
    gaps: list[Gap] = field(default_factory=list)
    ticks: list[tuple[int, str, str]] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class CellStatus:
    """Everything the screen shows beside the raw streams.

    Attributes:
        cell: Cell name.
        simulated: The cell is the simulated one.
        armed: A trigger will start a weld.
        recording: A weld is being written now.
        weld: Key of the weld being written, or None.
        path: Folder being written, or None.
        now_ns: Cell clock when this was made.
        utc: ISO 8601 time when this was made.
        write_buffer: Fill of the fullest queue between ingest and disk, 0-1.
        write_buffer_bytes: Bytes waiting for the disk.
        disk_free_bytes: Free space where recordings go.
        disk_left_s: Recording time left at the rate of the last minutes (smoothed), or None.
        pre_s: Pre-roll that the cell file asks for.
        ring_s: How far back a weld could begin now.
        ring_bytes: Encoded bytes held for that.
        ring_limit_bytes: Most that may be held.
        ignored_arcs: Arcs too short to be a weld since start.
        streams: Health rows.
        gaps: The newest located losses (at most 50).
        welds: The newest welds, newest first (at most 20).
        detector: The detector.
        alarms: Alarms not yet acknowledged.
        metadata: part, program, operator, ... for the next welds.
        replay: Set when this is a replay.
        clocks: The online clocks in force, for readers that came too late for the changes.
    """

    cell: str
    simulated: bool
    armed: bool
    recording: bool
    weld: str | None
    path: str | None
    now_ns: int
    utc: str
    write_buffer: float
    write_buffer_bytes: int
    disk_free_bytes: int
    disk_left_s: float | None
    streams: list[StreamStatus]
    pre_s: float = 0.0
    ring_s: float = 0.0
    ring_bytes: int = 0
    ring_limit_bytes: int = 0
    ignored_arcs: int = 0
    gaps: list[Gap] = field(default_factory=list)
    welds: list[WeldStatus] = field(default_factory=list)
    detector: DetectorStatus = field(default_factory=DetectorStatus)
    alarms: list[Alarm] = field(default_factory=list)
    metadata: dict[str, Any] = field(default_factory=dict)
    replay: ReplayStatus | None = None
    clocks: list[ClockUpdate] = field(default_factory=list)


COMMANDS: Final[dict[str, str]] = {
    "arm": "data on: bool; a trigger starts a weld only while armed",
    "record": "start a weld by hand (manual trigger)",
    "stop": "end the weld being recorded by hand",
    "mark": "data note: a mark in the weld being recorded",
    "photo": "take photos now, by the cameras that do so on command",
    "label": "data weld, label, by: label a weld (any listed one)",
    "metadata": "data part, program, operator, notes...: for the next welds",
    "describe": "data weld, name, value, by: change what is said about a recorded weld (any listed one)",
    "trigger": "data on: bool, source: begin or end a weld on somebody else's word (robot controller, PLC)",
    "acknowledge": "data number: acknowledge an alarm (0 = all)",
    "inject": "data fault: disturb the simulated cell",
    "replay": "data playing: bool, speed, seek_s: float, step: int frames, loop: bool, range: [a_s, b_s] or null",
    "progress": "data reader, order, seek: how far a reader of a replay has come, so that it waits for the slowest",
    "shutdown": "finish what is open and end the capture process",
    "status": "answers with the cell's name and its recordings root",
    "detector": "data: a DetectorStatus (sent by the detector, twice a second)",
    "score": "data: a Score (sent by the detector)",
    "verdict": "data: a Verdict (sent by the detector)",
}
