"""What the time axis shows: rings of sound, sensors and scores, arcs, events and gaps, all in cell time."""

from collections import deque
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from PySide6.QtCore import QT_TRANSLATE_NOOP

from acquisition.packet import ClockUpdate, Event, Packet, SampleBlock, SensorRows, StreamInfo
from gui.envelope import EnvelopeRing
from gui.spectrogram import SpectrogramRing
from recordings.status import CellStatus, Gap
from recordings.verdict import Score, Verdict
from sync.clock import ClockTable


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackSpec:
    """One track: key (a sensor channel, or `sound`, `spectrogram`, `score`), title, unit, share of the height."""

    key: str
    title: str
    unit: str
    share: float
    kind: Literal["sound", "spectrogram", "line", "score"]


TRACKS: Final[tuple[TrackSpec, ...]] = (
    TrackSpec(key="sound", title=str(QT_TRANSLATE_NOOP("Tracks", "Sound")), unit="", share=1.1, kind="sound"),
    TrackSpec(
        key="spectrogram", title=str(QT_TRANSLATE_NOOP("Tracks", "Tones")), unit="", share=1.4, kind="spectrogram"
    ),
    TrackSpec(key="current_a", title=str(QT_TRANSLATE_NOOP("Tracks", "Current")), unit="A", share=1.0, kind="line"),
    TrackSpec(key="voltage_v", title=str(QT_TRANSLATE_NOOP("Tracks", "Voltage")), unit="V", share=1.0, kind="line"),
    TrackSpec(
        key="co2_flow_l_min", title=str(QT_TRANSLATE_NOOP("Tracks", "Gas flow")), unit="l/min", share=1.0, kind="line"
    ),
    TrackSpec(
        key="pressure_bar", title=str(QT_TRANSLATE_NOOP("Tracks", "Pressure")), unit="bar", share=1.0, kind="line"
    ),
    TrackSpec(key="wire_mm", title=str(QT_TRANSLATE_NOOP("Tracks", "Wire")), unit="mm", share=1.0, kind="line"),
    TrackSpec(key="feed", title=str(QT_TRANSLATE_NOOP("Tracks", "Feed")), unit="", share=1.0, kind="line"),
    TrackSpec(key="score", title=str(QT_TRANSLATE_NOOP("Tracks", "Score")), unit="", share=1.2, kind="score"),
)

_TICKS: Final = {
    "weld_open": str(QT_TRANSLATE_NOOP("Tracks", "weld")),
    "mark": str(QT_TRANSLATE_NOOP("Tracks", "mark")),
    "photo": str(QT_TRANSLATE_NOOP("Tracks", "photo")),
    "label": str(QT_TRANSLATE_NOOP("Tracks", "label")),
    "stream_lost": str(QT_TRANSLATE_NOOP("Tracks", "lost")),
    "stream_back": str(QT_TRANSLATE_NOOP("Tracks", "back")),
}
_REWOUND_NS: Final = 3_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class ScorePoint:
    """A scored window: cell time of its end, its weld, its own score and the running score of the weld."""

    t_ns: int
    weld: str
    score: float
    weld_score: float


class Tracks:
    """Collects what arrives; the timeline paints it."""

    def __init__(self) -> None:
        """Start empty."""
        self.sound = EnvelopeRing()
        self.spectrogram = SpectrogramRing()
        self.channels: dict[str, EnvelopeRing] = {s.key: EnvelopeRing() for s in TRACKS if s.kind == "line"}
        self.scores: deque[ScorePoint] = deque(maxlen=200)
        self.thresholds: dict[str, float] = {}
        self.ticks: deque[tuple[int, str]] = deque(maxlen=100)
        self.arcs: dict[str, tuple[int, int | None]] = {}
        self.gaps: list[Gap] = []
        self.streams: dict[str, str] = {}
        self.periods_ns: dict[str, float] = {}
        self.newest_ns: int | None = None
        self._clocks = ClockTable()
        self._infos: dict[str, StreamInfo] = {}

    def take_status(self, status: CellStatus) -> None:
        """Take over stream descriptions, gaps and arcs, so that a screen that came late shows them too."""
        self._infos = {stream.name: stream.info for stream in status.streams if stream.info is not None}
        self.gaps = status.gaps
        for weld in status.welds:
            if weld.arc_on_ns is not None:
                self.arcs[weld.key] = (weld.arc_on_ns, weld.arc_off_ns)
            if weld.verdict is not None:
                self.take_verdict(weld.verdict)
        listed = {weld.key for weld in status.welds}
        self.arcs = {key: arc for key, arc in self.arcs.items() if key in listed or key == status.weld}
        self.thresholds = {key: value for key, value in self.thresholds.items() if key in listed or key == status.weld}

    def take_score(self, score: Score) -> None:
        """Add a scored window."""
        self.scores.append(
            ScorePoint(t_ns=score.t1_ns, weld=score.weld, score=score.score, weld_score=score.weld_score)
        )

    def take_verdict(self, verdict: Verdict) -> None:
        """Take over the threshold that a weld is held against."""
        if verdict.threshold is not None:
            self.thresholds[verdict.weld] = verdict.threshold

    def push(self, packet: Packet) -> None:
        """Add one packet of any stream; those without a place on the time axis are passed over."""
        payload = packet.payload
        info = self._infos.get(packet.stream)
        if info is not None and isinstance(payload, SampleBlock) and len(payload.samples):
            self._push_block(packet, payload, info)
        elif info is not None and isinstance(payload, SensorRows) and len(payload.values):
            self._push_rows(packet, payload, info)
        elif isinstance(payload, Event):
            self._push_event(packet, payload)
        elif isinstance(payload, ClockUpdate):
            self._clocks.apply(payload)

    def _push_block(self, packet: Packet, block: SampleBlock, info: StreamInfo) -> None:
        times_ns = self._clocks.cell_times_ns(info, packet)
        mono = block.samples[:, 0].astype(np.float64) / (np.iinfo(block.samples.dtype).max + 1)
        self._advance(int(times_ns[-1]))
        self.sound.push(times_ns, mono)
        self.spectrogram.push(int(times_ns[0]), mono, block.rate_hz)
        self.streams["sound"] = self.streams["spectrogram"] = packet.stream
        self.periods_ns["sound"] = 1e9 * len(mono) / block.rate_hz

    def _push_rows(self, packet: Packet, rows: SensorRows, info: StreamInfo) -> None:
        times_ns = self._clocks.cell_times_ns(info, packet)
        self._advance(int(times_ns[-1]))
        for column, channel in enumerate(info.channels):
            ring = self.channels.get(channel)
            if ring is not None:
                ring.push(times_ns, rows.values[:, column])
                self.streams[channel] = packet.stream
                self.periods_ns[channel] = 1e9 / info.rate_hz if info.rate_hz else 1e9

    def _push_event(self, packet: Packet, event: Event) -> None:
        t_ns = packet.t_arrival_ns if event.t_ns is None else event.t_ns
        if event.kind == "arc_on" and event.weld is not None:
            self.arcs[event.weld] = (t_ns, None)
        elif event.kind == "arc_off" and event.weld in self.arcs:
            self.arcs[event.weld] = (self.arcs[event.weld][0], t_ns)
        elif event.kind in _TICKS:
            what = event.data.get("note") or event.data.get("stream") or ""
            self.ticks.append((t_ns, f"{_TICKS[event.kind]} {what}".strip()))

    def _advance(self, t_ns: int) -> None:
        """Keep the newest time; a replay that was wound back starts the curves anew."""
        if self.newest_ns is not None and t_ns < self.newest_ns - _REWOUND_NS:
            for ring in (self.sound, *self.channels.values()):
                ring.clear()
            self.spectrogram.clear()
            self.scores.clear()
            self.ticks.clear()
            self.newest_ns = None
        self.newest_ns = max(t_ns, self.newest_ns or t_ns)
