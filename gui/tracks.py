"""What the time axis shows: rings of sound, sensors and scores, arcs, events and gaps, all in cell time."""

from collections import deque
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from PySide6.QtCore import QT_TRANSLATE_NOOP, QCoreApplication

from acquisition.packet import ClockUpdate, Event, Packet, SampleBlock, SensorRows, StreamInfo
from gui.envelope import COLUMN_NS, COLUMNS, EnvelopeRing
from gui.spectrogram import HOP_NS, SpectrogramRing
from recordings.status import CellStatus, Gap
from recordings.verdict import Score, Verdict
from sync.arc import SATURATED_V, ArcConfig
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
    TrackSpec(key="sound", title=str(QT_TRANSLATE_NOOP("Tracks", "Sound")), unit="dB", share=1.7, kind="sound"),
    TrackSpec(
        key="spectrogram", title=str(QT_TRANSLATE_NOOP("Tracks", "Tones")), unit="", share=2.0, kind="spectrogram"
    ),
    TrackSpec(key="current_a", title=str(QT_TRANSLATE_NOOP("Tracks", "Current")), unit="A", share=1.5, kind="line"),
    TrackSpec(key="voltage_v", title=str(QT_TRANSLATE_NOOP("Tracks", "Voltage")), unit="V", share=1.5, kind="line"),
    TrackSpec(
        key="co2_flow_l_min", title=str(QT_TRANSLATE_NOOP("Tracks", "Gas flow")), unit="l/min", share=1.0, kind="line"
    ),
    TrackSpec(
        key="pressure_bar", title=str(QT_TRANSLATE_NOOP("Tracks", "Pressure")), unit="bar", share=1.0, kind="line"
    ),
    TrackSpec(key="wire_mm", title=str(QT_TRANSLATE_NOOP("Tracks", "Wire")), unit="mm", share=1.0, kind="line"),
    TrackSpec(key="feed", title=str(QT_TRANSLATE_NOOP("Tracks", "Feed")), unit="", share=1.0, kind="line"),
    TrackSpec(key="score", title=str(QT_TRANSLATE_NOOP("Tracks", "Score")), unit="", share=1.4, kind="score"),
)

TICKS: Final = {
    "weld_open": str(QT_TRANSLATE_NOOP("Tracks", "weld")),
    "mark": str(QT_TRANSLATE_NOOP("Tracks", "mark")),
    "photo": str(QT_TRANSLATE_NOOP("Tracks", "photo")),
    "label": str(QT_TRANSLATE_NOOP("Tracks", "label")),
    "stream_lost": str(QT_TRANSLATE_NOOP("Tracks", "lost")),
    "stream_back": str(QT_TRANSLATE_NOOP("Tracks", "back")),
}
"""Events that stand on the time axis, in a word."""
_SCORES: Final = 700
_MARGIN_S: Final = 5.0
"""A replay's curves have room for this much more than the weld: stamps may lie a little outside of it."""
STOPS: Final = {"current_a": ArcConfig().current_max_a, "voltage_v": SATURATED_V}
"""From here on a sensor stands at its stop: such a reading is marked as clipped, it is no value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScorePoint:
    """A scored window: cell times of its beginning and end, its weld, its own score and the weld's running score."""

    t0_ns: int
    t_ns: int
    weld: str
    score: float
    weld_score: float


class Tracks:
    """Collects what arrives; the timeline paints it."""

    def __init__(self) -> None:
        """Start empty."""
        self.scores: list[ScorePoint] = []
        self.thresholds: dict[str, float] = {}
        self.rises: dict[str, Verdict] = {}
        self.triggers: dict[str, str] = {}
        self.ticks: deque[tuple[int, str]] = deque(maxlen=100)
        self.arcs: dict[str, tuple[int, int | None]] = {}
        self.gaps: list[Gap] = []
        self.streams: dict[str, str] = {}
        self.periods_ns: dict[str, float] = {}
        self.origin_ns: int | None = None
        self._infos: dict[str, StreamInfo] = {}
        self._replayed: tuple[str, float] | None = None
        self._begin(COLUMNS * COLUMN_NS)

    def _begin(self, span_ns: int) -> None:
        """Start empty, with room for the curves of `span_ns`."""
        columns = span_ns // COLUMN_NS
        self.sound = EnvelopeRing(columns)
        self.spectrogram = SpectrogramRing(span_ns // HOP_NS)
        self.channels: dict[str, EnvelopeRing] = {s.key: EnvelopeRing(columns) for s in TRACKS if s.kind == "line"}
        self.clipped: dict[str, deque[int]] = {channel: deque(maxlen=400) for channel in STOPS}
        for kept in (self.scores, self.thresholds, self.rises, self.triggers, self.ticks, self.arcs):
            kept.clear()
        self.gaps = []
        self.newest_ns: int | None = None
        self.origin_ns = None
        self._clocks = ClockTable()

    def take_status(self, status: CellStatus) -> None:
        """Take over stream descriptions, clocks, gaps and arcs, so that a screen that came late shows them too.

        The curves of another replay are forgotten; docs/replay.md says what a seek publishes.
        """
        replay = status.replay
        replayed = (status.welds[0].path, replay.duration_s) if replay and status.welds else None
        if replayed != self._replayed:
            self._replayed = replayed
            self._begin(COLUMNS * COLUMN_NS if replayed is None else round((replayed[1] + _MARGIN_S) * 1e9))
        self.gaps = status.gaps
        if replay is not None:
            self.origin_ns = replay.origin_ns
            self.gaps = list({(gap.stream, gap.t_ns): gap for gap in (*replay.gaps, *status.gaps)}.values())
            for t_ns, kind, what in replay.ticks:
                self._tick(t_ns, kind, what)
        for clock in status.clocks:
            self._clocks.apply(clock)
        self._infos = {stream.name: stream.info for stream in status.streams if stream.info is not None}
        for weld in status.welds:
            if weld.trigger:
                self.triggers[weld.key] = weld.trigger
            if weld.arc_on_ns is not None:
                self.arcs[weld.key] = (weld.arc_on_ns, weld.arc_off_ns)
            if weld.verdict is not None:
                self.take_verdict(weld.verdict)
        listed = {weld.key for weld in status.welds} | {status.weld}
        for kept in (self.arcs, self.thresholds, self.rises, self.triggers):
            for key in kept.keys() - listed:
                del kept[key]

    def take_score(self, score: Score) -> None:
        """Add a scored window; one that was scored once more (from the recording) takes the place of the first."""
        point = ScorePoint(
            t0_ns=score.t0_ns, t_ns=score.t1_ns, weld=score.weld, score=score.score, weld_score=score.weld_score
        )
        others = [p for p in self.scores if (p.t_ns, p.weld) != (point.t_ns, point.weld)]
        self.scores = sorted([*others, point], key=lambda p: p.t_ns)[-_SCORES:]

    def take_verdict(self, verdict: Verdict) -> None:
        """Take over where the score rose, and the threshold that windows are held against: that of the process."""
        self.rises[verdict.weld] = verdict
        if verdict.threshold is not None and verdict.stage == "process":
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
        self.newest_ns = max(int(times_ns[-1]), self.newest_ns or 0)
        self.sound.push(times_ns, mono)
        self.spectrogram.push(int(times_ns[0]), mono, block.rate_hz)
        self.streams["sound"] = self.streams["spectrogram"] = packet.stream
        self.periods_ns["sound"] = 1e9 * len(mono) / block.rate_hz

    def _push_rows(self, packet: Packet, rows: SensorRows, info: StreamInfo) -> None:
        times_ns = self._clocks.cell_times_ns(info, packet)
        self.newest_ns = max(int(times_ns[-1]), self.newest_ns or 0)
        for column, channel in enumerate(info.channels):
            ring = self.channels.get(channel)
            if ring is not None:
                values = rows.values[:, column]
                if channel in STOPS and (stopped := values >= STOPS[channel]).any():
                    self.clipped[channel].extend(times_ns[stopped].tolist())
                    values = np.where(stopped, np.nan, values)
                ring.push(times_ns, values)
                self.streams[channel] = packet.stream
                self.periods_ns[channel] = 1e9 / info.rate_hz if info.rate_hz else 1e9

    def _push_event(self, packet: Packet, event: Event) -> None:
        t_ns = packet.t_arrival_ns if event.t_ns is None else event.t_ns
        if event.kind == "arc_on" and event.weld is not None:
            self.arcs[event.weld] = (t_ns, None)
        elif event.kind == "arc_off" and event.weld in self.arcs:
            self.arcs[event.weld] = (self.arcs[event.weld][0], t_ns)
        elif event.kind == "replay_seek":
            self._forget_judgement()
            self.newest_ns = None
        elif event.kind in TICKS:
            if event.kind == "weld_open" and event.weld is not None:
                self.triggers[event.weld] = str(event.data.get("trigger", ""))
            self._tick(t_ns, event.kind, str(event.data.get("note") or event.data.get("stream") or ""))

    def _tick(self, t_ns: int, kind: str, what: str) -> None:
        """Remember an event for the time axis, once; one of a kind that has no word there is passed over."""
        if kind not in TICKS:
            return
        words = QCoreApplication.translate("Tracks", TICKS[kind])
        tick = (t_ns, words if kind == "photo" else f"{words} {what}".strip())
        if tick not in self.ticks:
            self.ticks.append(tick)

    def running_score(self, weld: str, at_ns: int | None = None) -> float | None:
        """Give the newest running score of a weld (the newest at a moment), or None."""
        points = (p for p in reversed(self.scores) if p.weld == weld and (at_ns is None or p.t_ns <= at_ns))
        return next((point.weld_score for point in points), None)

    def _forget_judgement(self) -> None:
        """A replay was sent elsewhere: scores come anew. Curves stay, for what comes again is the same recording."""
        self.spectrogram.begin_anew()
        self.scores.clear()
        self.rises.clear()
