"""What the capture process knows of its cell, gathered for the status message and for the summary at the end."""

import logging
import shutil
import time
from collections import deque
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np

from acquisition.driver import Driver
from acquisition.packet import Event, Packet
from recordings.cell import Cell
from recordings.disk_rate import DiskRate
from recordings.ingest import Ingest
from recordings.recorder_thread import Recorder
from recordings.status import Alarm, CellStatus, DetectorStatus, Gap, StreamStatus, WeldPhase, WeldStatus
from recordings.utc import utc_now
from recordings.verdict import Score, Verdict
from sync.clock_fault import FaultKind

log = logging.getLogger(__name__)

_FAULT_WORDS: Final[dict[FaultKind, str]] = {
    "backwards": "ran backwards",
    "jumped": "jumped",
    "stuck": "stand still",
    "repeated": "repeat",
    "missing": "are missing",
}
_JUMP_S: Final = 0.1
"""A jump below this is a queue on the way that shrank rather than a clock that was set."""
_RATE_S: Final = 3.0
_DETECTOR_SILENT_S: Final = 3.0


@dataclass
class CellState:
    """Follows events, scores and verdicts; owned by the ingest thread.

    Attributes:
        cell: The cell file.
        started_ns: Cell time at which capturing began.
        welds: All welds since then, by key, oldest first.
        gaps: All located losses since then.
        scores: Newest score per weld and window.
        latencies_ms: Window-to-verdict times.
        alarms: Alarms not yet acknowledged.
        detector: What the detector last said of itself.
        metadata: For the next welds.
    """

    cell: Cell
    started_ns: int
    welds: dict[str, WeldStatus] = field(default_factory=dict)
    gaps: list[Gap] = field(default_factory=list)
    scores: dict[tuple[str, int], Score] = field(default_factory=dict)
    latencies_ms: list[float] = field(default_factory=list)
    alarms: list[Alarm] = field(default_factory=list)
    detector: DetectorStatus = field(default_factory=DetectorStatus)
    metadata: dict[str, Any] = field(default_factory=dict)
    _detector_seen_ns: int = 0
    _alarm_number: int = 0
    _counts: deque[tuple[int, dict[str, int]]] = field(default_factory=deque)
    _disk: DiskRate = field(default_factory=DiskRate)
    _first_offsets: dict[tuple[str, int], int] = field(default_factory=dict)
    _origins: dict[str, int] = field(default_factory=dict)
    _cut: set[str] = field(default_factory=set)
    _sync: dict[str, dict[str, float]] = field(default_factory=dict)

    def alarm(self, text: str, level: Literal["warning", "error"] = "warning") -> None:
        """Raise an alarm, in the log too, unless the same one stands already."""
        if all(alarm.text != text for alarm in self.alarms):
            log.log(logging.ERROR if level == "error" else logging.WARNING, "%s", text)
            self._alarm_number += 1
            self.alarms.append(Alarm(number=self._alarm_number, utc=utc_now(), level=level, text=text))

    def acknowledge(self, number: int) -> None:
        """Take away one alarm, or all (0)."""
        self.alarms = [alarm for alarm in self.alarms if number not in (0, alarm.number)]

    def event(self, packet: Packet, recorder: Recorder) -> None:
        """Follow an event packet."""
        event = packet.payload
        assert isinstance(event, Event)
        data = event.data
        if event.kind == "gap":
            gap = Gap(
                stream=data["stream"],
                t_ns=event.t_ns or packet.t_arrival_ns,
                missing=data["missing"],
                seconds=data["seconds"],
                reason=data["reason"],
            )
            self.gaps.append(gap)
        elif event.kind == "stream_lost":
            self.alarm(f"{data['stream']}: {data['reason']}; check its cable and power")
        elif event.kind == "clock_fault":
            if data["what"] != "jumped" or data["seconds"] > _JUMP_S:
                words = _FAULT_WORDS[data["what"]]
                self.alarm(f"{data['stream']}: its time stamps {words}; check the device's clock")
        elif event.kind == "sync":
            self._sync |= data["offsets"]
        if event.weld is None:
            return
        if event.kind == "weld_open":
            file = recorder.core.welds.get(event.weld)
            self._origins[event.weld] = int(data["origin_ns"])
            self.welds[event.weld] = WeldStatus(
                key=event.weld,
                path=str(file.folder) if file else "",
                phase="welding",
                started_utc=utc_now(),
                arc_on_ns=event.t_ns,
                arc_off_ns=None,
                verdict=None,
                label=-1,
                photos=0,
                photos_expected=data["photos_expected"],
                present=(),
                problem=None,
                trigger=str(data.get("trigger", "")),
            )
            return
        phases: dict[str, WeldPhase] = {"arc_off": "post-roll", "weld_close": "photos", "photos_done": "judged"}
        if event.kind in phases:
            self._change(event.weld, phase=phases[event.kind])
        if event.kind == "arc_off":
            self._change(event.weld, arc_off_ns=event.t_ns)
            if data["source"] == "shutdown":
                self._cut.add(event.weld)

    def photo(self, weld: str | None) -> None:
        """Count a photo of a weld."""
        if weld in self.welds:
            self._change(weld, photos=self.welds[weld].photos + 1)

    def score(self, score: Score) -> None:
        """Follow a score; only windows judged live count for the latency."""
        self.scores[score.weld, score.window] = score
        if score.latency_ms is not None:
            self.latencies_ms.append(score.latency_ms)

    def verdict(self, verdict: Verdict) -> None:
        """Follow a verdict."""
        self._change(verdict.weld, verdict=verdict, present=verdict.present)
        if verdict.final and verdict.word == "NO-GO":
            self.alarm(f"weld {verdict.weld} is NO-GO: {verdict.reason}", "error")

    def label(self, key: str, label: int) -> None:
        """Follow a label given by a person."""
        self._change(key, label=label)

    def detector_said(self, status: DetectorStatus, now_ns: int) -> None:
        """Follow the detector's heartbeat."""
        self.detector = status
        self._detector_seen_ns = now_ns

    @property
    def detector_alive(self) -> bool:
        """The detector was heard within the last seconds and is not failed."""
        fresh = time.monotonic_ns() - self._detector_seen_ns < _DETECTOR_SILENT_S * 1e9
        return fresh and self._detector_seen_ns > 0 and self.detector.state in ("ready", "starting")

    def _change(self, key: str | None, **changes: Any) -> None:
        if key is not None and key in self.welds:
            self.welds[key] = replace(self.welds[key], **changes)

    def status(self, ingest: Ingest, recorder: Recorder, drivers: dict[str, Driver]) -> CellStatus:
        """Everything, complete."""
        now_ns = time.monotonic_ns()
        for key, file in list(recorder.core.welds.items()):
            if key in self.welds and (self.welds[key].path != str(file.folder) or self.welds[key].problem is None):
                self._change(key, path=str(file.folder), problem=file.problem)
        weld = ingest.recording
        file_now = recorder.core.welds.get(weld.key) if weld else None
        writing = file_now is not None and file_now.writer is not None
        free, left_s = self._disk_left(recorder.core.root, writing)
        ring = recorder.core.ring
        if not self.detector_alive and self.detector.state not in ("absent", "failed"):
            self.detector = replace(self.detector, state="absent", problem="the detector is silent; it is restarted")
            self.alarm("the detector process is gone; welds are recorded and judged when it is back")
        return CellStatus(
            cell=self.cell.name,
            simulated=self.cell.simulation is not None,
            armed=ingest.armed,
            recording=writing,
            weld=weld.key if weld else None,
            path=str(file_now.folder) if writing and file_now else None,
            now_ns=now_ns,
            utc=utc_now(),
            write_buffer=recorder.buffered_bytes / Recorder.LIMIT_BYTES,
            write_buffer_bytes=recorder.buffered_bytes,
            disk_free_bytes=free,
            disk_left_s=left_s,
            pre_s=self.cell.record.pre_s,
            ring_s=ring.seconds,
            ring_bytes=ring.bytes,
            ring_limit_bytes=ring.limit_bytes,
            ignored_arcs=ingest.ignored_arcs,
            streams=self.stream_rows(ingest, drivers, now_ns),
            gaps=self.gaps[-50:],
            welds=list(reversed(self.welds.values()))[:20],
            detector=self.detector,
            alarms=list(self.alarms),
            metadata=self.cell.metadata | self.metadata,
            clocks=ingest.clocks.snapshot(),
        )

    def stream_rows(self, ingest: Ingest, drivers: dict[str, Driver], now_ns: int) -> list[StreamStatus]:
        """One health row per stream."""
        self._counts.append((now_ns, {name: tracker.received for name, tracker in ingest.losses.items()}))
        while now_ns - self._counts[0][0] > _RATE_S * 1e9 and len(self._counts) > 2:
            self._counts.popleft()
        then_ns, before = self._counts[0]
        span_s = max((now_ns - then_ns) / 1e9, 1e-3)
        required = {*self.cell.judge.required_process, *self.cell.judge.required_final}
        rows = []
        for stream in self.cell.streams:
            name = stream.name
            driver = drivers[name]
            health = driver.health()
            tracker = ingest.losses.get(name)
            received = tracker.received if tracker else health.delivered
            segment = ingest.segments.get(name, 0)
            model = ingest.clocks.model(name, segment)
            offset_ms = None
            if model is not None:
                reference = self._first_offsets.setdefault((name, segment), model.offset_ns)
                offset_ms = (model.offset_ns - reference) / 1e6
            silent = tracker.silent_loss(now_ns) if tracker and name in ingest.lost else None
            sync = self._sync.get(name, {})
            rows.append(
                StreamStatus(
                    name=name,
                    modality=stream.modality,
                    info=ingest.infos.get(name),
                    state="lost" if name in ingest.lost else health.state,
                    required=stream.modality in required,
                    rate_hz=(received - before.get(name, received)) / span_s,
                    received=received,
                    dropped=(tracker.dropped if tracker else 0) + (silent.missing if silent else 0),
                    age_s=health.age_s,
                    offset_ms=offset_ms,
                    drift_ppm=None if model is None else model.drift_ppb / 1e3,
                    sigma_ms=None if model is None else model.sigma_ns / 1e6,
                    problem=health.problem,
                    segment=segment,
                    clock_faults=ingest.clock_faults.get(name, 0),
                    sync_ms=sync.get("offset_ms"),
                    sync_sigma_ms=sync.get("sigma_ms"),
                )
            )
        return rows

    def _disk_left(self, root: Path, writing: bool) -> tuple[int, float | None]:
        """Free bytes, and seconds of recording until the reserve (None while unknown)."""
        while not root.exists():
            root = root.parent
        try:
            free = shutil.disk_usage(root).free
        except OSError:
            return 0, None
        self._disk.note(time.monotonic(), free, writing)
        return free, self._disk.left_s(free - self.cell.record.reserve_gb * 1e9)

    def summary(self, ingest: Ingest, drivers: dict[str, Driver], ended_ns: int) -> dict[str, Any]:
        """The `--json` result of `run`."""
        seconds = max((ended_ns - self.started_ns) / 1e9, 1e-9)
        streams = {}
        for row in self.stream_rows(ingest, drivers, ended_ns):
            gaps = [gap for gap in self.gaps if gap.stream == row.name]
            tracker = ingest.losses.get(row.name)
            silent = tracker.silent_loss(ended_ns) if tracker and row.name in ingest.lost else None
            if silent is not None:
                gap = Gap(
                    stream=row.name,
                    t_ns=silent.t_ns,
                    missing=silent.missing,
                    seconds=silent.missing / ingest.infos[row.name].rate_hz,
                    reason=silent.reason,
                )
                gaps.append(gap)
            clock = {
                "offset_ms": row.offset_ms,
                "drift_ppm": row.drift_ppm,
                "sigma_ms": row.sigma_ms,
                "faults": row.clock_faults,
            }
            streams[row.name] = {
                "kind": row.modality,
                "received": row.received,
                "dropped": row.dropped,
                "gaps": [
                    {"at_s": round((g.t_ns - self.started_ns) / 1e9, 4), "missing": g.missing, "reason": g.reason}
                    for g in gaps
                ],
                "rate_hz": round(row.received / seconds, 3),
                "clock": clock,
                "sync": {"offset_ms": row.sync_ms, "sigma_ms": row.sync_sigma_ms},
            }
        return {
            "streams": streams,
            "windows": len(self.scores),
            "latency_ms": {"window_to_verdict": percentiles(self.latencies_ms)},
            "speed_x_realtime": 1.0,
            "welds": [self._weld_row(weld) for weld in self.welds.values()],
        }

    def _weld_row(self, weld: WeldStatus) -> dict[str, Any]:
        verdict = weld.verdict
        origin_ns = self._origins.get(weld.key, weld.arc_on_ns or 0)
        return {
            "key": weld.key,
            "path": weld.path,
            "arc_on_s": None if weld.arc_on_ns is None else round((weld.arc_on_ns - origin_ns) / 1e9, 4),
            "arc_off_s": None if weld.arc_off_ns is None else round((weld.arc_off_ns - origin_ns) / 1e9, 4),
            "present": list(weld.present),
            "stage": verdict.stage if verdict else None,
            "verdict": verdict.word if verdict else "NO DATA",
            "reason": verdict.reason if verdict else "no detector judged this weld",
            "score": verdict.score if verdict else None,
            "p_value": verdict.p_value if verdict else None,
            "complete": weld.arc_off_ns is not None and weld.key not in self._cut,
            "problem": weld.problem,
        }


def percentiles(values: list[float]) -> dict[str, float | None]:
    """p50, p95 and p99 of `values`, None where there are none."""
    if not values:
        return {"p50": None, "p95": None, "p99": None}
    return {f"p{q}": round(float(np.percentile(values, q)), 3) for q in (50, 95, 99)}
