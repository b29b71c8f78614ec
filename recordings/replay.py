"""A recorded weld as if it were live: the same packets, orders, clocks and arc events, on the same sockets.

The detector and the screen cannot tell it from the capture process, whose place it takes; nothing is recorded.
"""

import logging
import queue
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec

from acquisition.packet import EVENTS_STREAM, ClockUpdate, Event, Packet, Photo, item_range
from acquisition.transport import ControlServer, Publisher, Reply, Request
from recordings.reader import WeldReader
from recordings.recorder import utc_now
from recordings.resync import ResyncedReader
from recordings.runtime import Runtime
from recordings.status import (
    SCORE_TOPIC,
    STATUS_TOPIC,
    VERDICT_TOPIC,
    CellStatus,
    DetectorStatus,
    Gap,
    ReplayStatus,
    StreamStatus,
    WeldStatus,
)
from recordings.verdict import Score, Verdict
from sync.clock import ClockTable

log = logging.getLogger(__name__)

_STATUS_S: Final = 0.25
_AHEAD_PACKETS: Final = 400
"""At most this many packets are sent without a pause, so that commands are heard even at full speed."""


@dataclass(slots=True)
class _Counts:
    """What one stream has shown so far."""

    received: int = 0
    dropped: int = 0
    last_ns: int | None = None


@dataclass
class Replay:
    """Publishes one weld at `speed` times real time (0: as fast as readers keep up), from `start` on command.

    Attributes:
        reader: The weld.
        speed: Speed at the start.
        stop: Ends `run`.
    """

    reader: WeldReader
    speed: float = 1.0
    stop: threading.Event = field(default_factory=threading.Event)

    def run(self, runtime: Runtime, *, keep_open: bool) -> None:
        """Serve `runtime` until told to shut down (or, without `keep_open`, until the weld has been played).

        Raises:
            AlreadyRunningError: Another process serves this runtime folder.
            WeldError: The weld cannot be read.
        """
        self._requests: queue.SimpleQueue[Request] = queue.SimpleQueue()
        self._detector = DetectorStatus()
        self._playing = True
        with runtime.hold("capture"):
            publisher = Publisher(runtime.data)
            control = ControlServer(runtime.control, self._serve)
            try:
                self._publisher = publisher
                self._describe()
                self._rewind()
                self._wait_for_detector()
                while not self.stop.is_set():
                    self._turn()
                    if not keep_open and self._next is None:
                        break
            finally:
                control.close()
                publisher.close()

    def _serve(self, request: Request) -> Reply:
        self._requests.put(request)
        return Reply(ok=True)

    def _describe(self) -> None:
        """Find out once when the weld began and how long it is, photos included."""
        manifest = self.reader.manifest
        self._started_utc = ""
        if manifest.utc:
            self._started_utc = datetime.fromtimestamp(manifest.utc[0].utc_ns / 1e9, tz=UTC).isoformat()
        arrivals = self.reader.table(EVENTS_STREAM)["t_arrival_ns"].to_list()
        self._end_ns = max([manifest.origin_ns, *arrivals])

    def _rewind(self, seek_ns: int | None = None) -> None:
        """Start again from the first packet; up to `seek_ns` without pausing."""
        manifest = self.reader.manifest
        self._packets: Iterator[Packet] = self.reader.packets()
        self._next: Packet | None = next(self._packets, None)
        self._counts = {name: _Counts() for name in self.reader.infos}
        self._gaps: list[Gap] = []
        self._sync: dict[str, dict[str, float]] = {}
        self._clocks = ClockTable()
        first_ns = self._next.t_arrival_ns if self._next else 0
        # The clock snapshot in front of the weld is older than the weld; time starts at its first process packet.
        self._position_ns = self._origin_ns = max(first_ns, manifest.origin_ns)
        self._hurry_until_ns = seek_ns or 0
        self._paced_at = time.monotonic()
        self._status_at = 0.0
        self._weld = WeldStatus(
            key=manifest.key,
            path=str(self.reader.folder),
            phase="welding",
            started_utc=self._started_utc,
            arc_on_ns=manifest.arc_on_ns,
            arc_off_ns=manifest.arc_off_ns,
            verdict=None,
            label=manifest.label,
            photos=0,
            photos_expected=sum(
                record.items for record in manifest.streams.values() if record.info.modality == "post_images"
            ),
            present=(),
            problem=None,
        )

    def _wait_for_detector(self, patience_s: float = 15.0) -> None:
        """Give the detector time to attach, so that it sees the first packet; go on without it after a while."""
        deadline = time.monotonic() + patience_s
        while self._detector.state != "ready" and time.monotonic() < deadline and not self.stop.is_set():
            self._obey_all()
            self._announce()
            self._publisher.beacon()
            self.stop.wait(0.05)

    def _turn(self) -> None:
        self._obey_all()
        now = time.monotonic()
        if self._next is not None and (self._playing or self._hurrying(self._next)):
            self._advance(now)
        else:
            self._paced_at = now
            self.stop.wait(0.02)
        if now - self._status_at > _STATUS_S:
            self._status_at = now
            self._announce()
            self._publisher.beacon()

    def _hurrying(self, packet: Packet) -> bool:
        """Whether a packet lies before the point that was sought; it is sent at once, also while paused."""
        return packet.t_arrival_ns <= self._hurry_until_ns

    def _advance(self, now: float) -> None:
        """Send what is due."""
        if self._playing and self.speed > 0:
            self._position_ns += round((now - self._paced_at) * self.speed * 1e9)
        self._paced_at = now
        sent = 0
        while self._next is not None and sent < _AHEAD_PACKETS:
            due_ns = self._next.t_arrival_ns
            if self._hurrying(self._next):
                pass
            elif not self._playing:
                return
            elif self.speed > 0 and due_ns > self._position_ns:
                self.stop.wait(min(0.02, (due_ns - self._position_ns) / 1e9 / self.speed))
                return
            self._position_ns = max(self._position_ns, due_ns)
            self._send(self._next)
            self._next = next(self._packets, None)
            sent += 1

    def _send(self, packet: Packet) -> None:
        self._publisher.publish(packet)
        payload = packet.payload
        if isinstance(payload, Event):
            if payload.kind == "gap":
                data = payload.data
                gap = Gap(
                    stream=data["stream"],
                    t_ns=payload.t_ns or packet.t_arrival_ns,
                    missing=data["missing"],
                    seconds=data["seconds"],
                    reason=data["reason"],
                )
                self._gaps.append(gap)
                if gap.stream in self._counts:
                    self._counts[gap.stream].dropped += gap.missing
            elif payload.kind == "sync":
                self._sync = payload.data["offsets"]
            elif payload.kind == "weld_close":
                self._weld = replace(self._weld, phase="photos")
            elif payload.kind == "photos_done":
                self._weld = replace(self._weld, phase="judged")
        elif isinstance(payload, ClockUpdate):
            self._clocks.apply(payload)
        elif packet.stream in self._counts:
            counts = self._counts[packet.stream]
            counts.received += 1 if isinstance(payload, Photo) else item_range(packet)[1]
            counts.last_ns = packet.t_arrival_ns
            if isinstance(payload, Photo):
                self._weld = replace(self._weld, photos=self._weld.photos + 1)

    def _obey_all(self) -> None:
        while True:
            try:
                request = self._requests.get_nowait()
            except queue.Empty:
                return
            try:
                self._obey(request)
            except (KeyError, TypeError, ValueError, msgspec.ValidationError) as error:
                log.warning("command '%s' ignored: %s", request.kind, error)

    def _obey(self, request: Request) -> None:
        data = request.data
        match request.kind:
            case "replay":
                self._playing = bool(data.get("playing", self._playing))
                self.speed = float(data.get("speed", self.speed))
                if "seek_s" in data:
                    self._rewind(self._origin_ns + round(float(data["seek_s"]) * 1e9))
            case "score":
                self._publisher.announce(SCORE_TOPIC, msgspec.convert(data, Score))
            case "verdict":
                verdict = msgspec.convert(data, Verdict)
                self._weld = replace(self._weld, verdict=verdict, present=verdict.present)
                self._publisher.announce(VERDICT_TOPIC, verdict)
            case "detector":
                self._detector = msgspec.convert(data, DetectorStatus)
            case "shutdown":
                self.stop.set()
            case _:
                log.info("command '%s' has no meaning in a replay", request.kind)

    def _announce(self) -> None:
        manifest = self.reader.manifest
        now_ns = time.monotonic_ns()
        welding = self._weld.phase == "welding"
        status = CellStatus(
            cell=manifest.cell,
            simulated=manifest.source == "simulated",
            armed=False,
            recording=False,
            weld=manifest.key if welding else None,
            path=None,
            now_ns=now_ns,
            utc=utc_now(),
            write_buffer=0.0,
            write_buffer_bytes=0,
            disk_free_bytes=0,
            disk_left_s=None,
            streams=[self._row(name, counts) for name, counts in self._counts.items()],
            gaps=self._gaps[-50:],
            welds=[self._weld],
            detector=self._detector,
            metadata=manifest.metadata,
            replay=ReplayStatus(
                position_s=(min(self._position_ns, self._end_ns) - self._origin_ns) / 1e9,
                duration_s=(self._end_ns - self._origin_ns) / 1e9,
                speed=self.speed,
                playing=self._playing and self._next is not None,
            ),
            clocks=self._clocks.snapshot(),
        )
        self._publisher.announce(STATUS_TOPIC, status)

    def _row(self, name: str, counts: _Counts) -> StreamStatus:
        info = self.reader.infos[name]
        age_s = None if counts.last_ns is None else max(0.0, (self._position_ns - counts.last_ns) / 1e9)
        return StreamStatus(
            name=name,
            modality=info.modality,
            info=info,
            state="streaming" if age_s is not None else "closed",
            required=False,
            rate_hz=info.rate_hz * self.speed if self._playing else 0.0,
            received=counts.received,
            dropped=counts.dropped,
            age_s=age_s,
            offset_ms=None,
            drift_ppm=None,
            sigma_ms=None,
            problem=None,
            segment=0,
            sync_ms=self._sync.get(name, {}).get("offset_ms"),
            sync_sigma_ms=self._sync.get(name, {}).get("sigma_ms"),
        )


def run_replay(
    folder: Path,
    runtime: Runtime,
    speed: float,
    *,
    resync: bool = False,
    latencies_ns: Mapping[str, int] | None = None,
) -> None:
    """Serve a weld to screen and detector until told to stop.

    Args:
        folder: The weld.
        runtime: Where screen and detector look for it.
        speed: Times real time; 0 as fast as readers keep up.
        resync: Time it by clocks fitted to the whole weld, not by those recorded.
        latencies_ns: With `resync`, calibrated latency by stream name in the place of the recorded one.

    Raises:
        WeldError: The folder holds no readable weld.
    """
    reader = ResyncedReader(folder, latencies_ns) if resync else WeldReader(folder)
    replay = Replay(reader, speed)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: replay.stop.set())
    replay.run(runtime, keep_open=True)


def weld_seconds(reader: WeldReader) -> float:
    """Length of a weld from its first sample to its close, for speeds against real time."""
    manifest = reader.manifest
    end_ns = manifest.utc[-1].monotonic_ns if manifest.utc else manifest.arc_off_ns or manifest.origin_ns
    return max(0.0, (end_ns - manifest.origin_ns) / 1e9)
