"""A recorded weld as if it were live: the same packets, orders, clocks and arc events, on the same sockets.

The detector and the screen cannot tell it from the capture process, whose place it takes; nothing is recorded.
`docs/replay.md` says what it is told and what it publishes.
"""

import contextlib
import logging
import queue
import signal
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec

from acquisition.packet import EVENTS_STREAM, Event, Packet
from acquisition.transport import ControlServer, Publisher, Reply, Request
from recordings.reader import WeldReader
from recordings.replay_command import ReplayCommand, ReplayCommandError, replay_command
from recordings.replay_index import ReplayIndex
from recordings.replay_progress import SEEK
from recordings.replay_readers import ReplayReaders, Reported
from recordings.replay_tally import ReplayTally
from recordings.resync import ResyncedReader
from recordings.runtime import Runtime
from recordings.status import (
    SCORE_TOPIC,
    STATUS_TOPIC,
    VERDICT_TOPIC,
    Alarm,
    CellStatus,
    DetectorStatus,
    ReplayStatus,
)
from recordings.utc import utc_now
from recordings.verdict import Score, Verdict

log = logging.getLogger(__name__)

_STATUS_S: Final = 0.25
_AT_ONCE: Final = 400
"""At most this many packets are sent without a pause, so that commands are heard even at full speed."""
_NAP_S: Final = 0.02
_LONGEST_PAUSE_NS: Final = 5 * 10**9
"""What comes later than this after everything else (a photo, hours later) is not waited for."""
_NOTHING: Final = -1


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
        self._heard: deque[Request] = deque()
        self._detector = DetectorStatus()
        self._playing, self._loop = True, False
        self._a_ns: int | None = None
        self._b_ns: int | None = None
        self._alarms: dict[str, Alarm] = {}
        self._alarm_count = self._seeks = 0
        self._status_at = self._waited_s = 0.0
        self._news = False
        with runtime.hold("capture"):
            publisher = Publisher(runtime.data)
            control = ControlServer(runtime.control, self._serve)
            try:
                self._publisher = publisher
                self._readers = ReplayReaders(self._left_out)
                self._index = ReplayIndex(self.reader)
                self._tally = ReplayTally(self.reader, self._index)
                self._begin(None, _NOTHING)
                self._wait_for_detector()
                while not self.stop.is_set():
                    self._turn()
                    if not keep_open and not self._playing and self._next is None and self._goal is None:
                        break
            finally:
                control.close()
                publisher.close()

    # -- where it stands -------------------------------------------------------------------------------------------

    def _begin(self, begin: int | None, at_once: int) -> None:
        """Go on from a place (None: the first packet), and up to the place `at_once` without pausing."""
        self._packets: Iterator[tuple[int, Packet]] = self.reader.placed(since=begin)
        self._next: tuple[int, Packet] | None = next(self._packets, None)
        self._done = _NOTHING
        self._at_once = at_once
        self._goal: tuple[int, int] | None = None
        self._position_ns = self._index.origin_ns
        self._paced_at = time.monotonic()

    def _seek(self, t_ns: int) -> None:
        """Want to stand at a time; what had arrived by then is published."""
        t_ns = min(max(t_ns, self._index.origin_ns), self._index.end_ns)
        self._goal = self._index.place_at(t_ns), t_ns

    def _go(self, place: int, t_ns: int) -> None:
        """Go where was wanted: say so, and begin anew there."""
        begin = self._index.begin_for(place)
        self._tally.begin(begin)
        self._begin(begin, place)
        self._position_ns = t_ns
        self._seeks += 1
        data = {
            "position_s": (t_ns - self._index.origin_ns) / 1e9,
            "from_order": begin if begin is not None else self._index.first_place,
            "whole": begin is None,
        }
        marker = Event(kind=SEEK, weld=self._tally.weld.key, t_ns=t_ns, data=data)
        self._publish(Packet(stream=EVENTS_STREAM, seq=self._seeks, t_arrival_ns=t_ns, payload=marker))
        for score in self._tally.scores.values():
            self._publisher.announce(SCORE_TOPIC, score)

    @property
    def _start_ns(self) -> int:
        return self._index.origin_ns if self._a_ns is None else self._a_ns

    @property
    def _hurrying(self) -> bool:
        """Whether the next packet lies before the point that was sought; it is sent at once, also while paused."""
        return self._next is not None and self._next[0] <= self._at_once

    def _wait_for_detector(self, patience_s: float = 15.0) -> None:
        """Give the detector time to attach, so that it sees the first packet; go on without it after a while."""
        deadline = time.monotonic() + patience_s
        while self._detector.state != "ready" and time.monotonic() < deadline and not self.stop.is_set():
            self._obey_all()
            self._announce()
            self._listen(0.05)

    # -- playing ---------------------------------------------------------------------------------------------------

    def _turn(self) -> None:
        self._obey_all()
        if self._goal is not None and not self._readers.full():
            self._go(*self._goal)
        now = time.monotonic()
        if self._next is not None and (self._playing or self._hurrying):
            self._advance(now)
        else:
            self._paced_at = now
            if self._playing:
                self._at_end()
            self._listen(_NAP_S / 4 if self._goal or self._news else _NAP_S)
        if now - self._status_at > _STATUS_S or (self._news and not self._hurrying and self._goal is None):
            self._announce()

    def _advance(self, now: float) -> None:
        """Send what is due, as far as every reader has come."""
        elapsed_s = now - self._paced_at
        self._paced_at = now
        if self._readers.full():
            self._waited_s += self._listen(_NAP_S / 4)
            return
        if self._playing and self.speed > 0 and not self._hurrying:
            self._position_ns += round(elapsed_s * self.speed * 1e9)
        for _ in range(_AT_ONCE):
            if self._next is None:
                return
            place, packet = self._next
            due_ns = packet.t_arrival_ns
            if not self._hurrying:
                if not self._playing:
                    return
                if (
                    self._b_ns is not None
                    and due_ns > self._b_ns
                    and (not self.speed or self._position_ns >= self._b_ns)
                ):
                    self._at_end()
                    return
                if self.speed > 0 and self._position_ns < due_ns < self._position_ns + _LONGEST_PAUSE_NS:
                    self._listen(min(_NAP_S, (due_ns - self._position_ns) / 1e9 / self.speed))
                    return
                self._position_ns = max(self._position_ns, due_ns)
            self._publish(packet)
            self._tally.take(packet)
            self._done = place
            self._next = next(self._packets, None)
            if self._readers.full():
                return

    def _at_end(self) -> None:
        """At the end of what is played: begin anew in a loop, else stand there."""
        if self._b_ns is not None and self._next is not None:
            self._position_ns = self._b_ns
        if self._loop:
            self._seek(self._start_ns)
        else:
            self._playing, self._news = False, True

    def _publish(self, packet: Packet) -> None:
        self._publisher.publish(packet)
        self._readers.sent(self._seeks, packet)

    # -- commands --------------------------------------------------------------------------------------------------

    def _serve(self, request: Request) -> Reply:
        """Refuse at once what makes no sense; on the control server's thread."""
        try:
            match request.kind:
                case "replay":
                    replay_command(request.data)
                case "progress":
                    msgspec.convert(request.data, Reported)
                case "score":
                    msgspec.convert(request.data, Score)
                case "verdict":
                    msgspec.convert(request.data, Verdict)
                case "detector":
                    msgspec.convert(request.data, DetectorStatus)
                case "shutdown" | "acknowledge":
                    pass
                case _:
                    return Reply(ok=False, message=f"'{request.kind}' has no meaning in a replay")
        except ReplayCommandError as error:
            return Reply(ok=False, message=str(error))
        except msgspec.ValidationError as error:
            return Reply(ok=False, message=f"{request.kind}: {error}; nothing was changed")
        self._requests.put(request)
        return Reply(ok=True)

    def _listen(self, seconds: float) -> float:
        """Wait for a command, no longer than this; returns how long it took."""
        began = time.monotonic()
        if not self._heard and not self.stop.is_set():
            with contextlib.suppress(queue.Empty):
                self._heard.append(self._requests.get(timeout=seconds))
        return time.monotonic() - began

    def _obey_all(self) -> None:
        while True:
            try:
                self._heard.append(self._requests.get_nowait())
            except queue.Empty:
                break
        while self._heard:
            self._obey(self._heard.popleft())

    def _obey(self, request: Request) -> None:
        data = request.data
        match request.kind:
            case "progress":
                self._readers.report(msgspec.convert(data, Reported))
            case "replay":
                self._steer(replay_command(data))
                self._news = True
            case "score":
                score = msgspec.convert(data, Score)
                self._tally.judged(score)
                self._publisher.announce(SCORE_TOPIC, score)
            case "verdict":
                verdict = msgspec.convert(data, Verdict)
                self._tally.judged(verdict)
                self._publisher.announce(VERDICT_TOPIC, verdict)
            case "detector":
                self._detector = msgspec.convert(data, DetectorStatus)
            case "acknowledge":
                number = data.get("number", 0)
                self._alarms = {name: alarm for name, alarm in self._alarms.items() if number not in (0, alarm.number)}
                self._news = True
            case "shutdown":
                self.stop.set()

    def _steer(self, command: ReplayCommand) -> None:
        if command.loop is not None:
            self._loop = command.loop
        if not isinstance(command.range, msgspec.UnsetType):
            a_s, b_s = command.range or (None, None)
            self._a_ns, self._b_ns = (None if s is None else self._index.origin_ns + round(s * 1e9) for s in (a_s, b_s))
        if command.speed is not None:
            self.speed = command.speed
        if command.playing is not None:
            self._playing = command.playing
        if command.seek_s is not None:
            self._seek(self._index.origin_ns + round(command.seek_s * 1e9))
        elif self._playing and (command.playing or command.range) and self._outside():
            self._seek(self._start_ns)
        if command.step is not None:
            self._step(command.step)

    def _outside(self) -> bool:
        """Whether there is nothing to play from here on."""
        if self._goal is not None:
            return False
        past_b = self._b_ns is not None and self._position_ns >= self._b_ns
        return self._next is None or past_b or self._position_ns < self._start_ns

    def _step(self, frames: int) -> None:
        """Go on by whole frames without leaving anything out, or back by a seek."""
        self._playing = False
        now = max(self._done, self._at_once) if self._goal is None else self._goal[0]
        place = self._index.step(now, frames)
        if place is None or (self._done > _NOTHING and place == self._index.step(now, 0)):
            return
        if place > now and self._goal is None:
            self._at_once = place
            self._position_ns = max(self._position_ns, self._index.time_at(place))
        else:
            self._goal = place, self._index.time_at(place)

    # -- what it says of itself ------------------------------------------------------------------------------------

    def _left_out(self, reader: str) -> None:
        self._alarm_count += 1
        text = f"reader '{reader}' of the replay is silent; the replay goes on without it"
        log.warning("%s", text)
        self._alarms[reader] = Alarm(number=self._alarm_count, utc=utc_now(), level="warning", text=text)

    def _announce(self) -> None:
        now = time.monotonic()
        waiting = self._waited_s > (now - self._status_at) / 2
        self._status_at, self._waited_s, self._news = now, 0.0, False
        manifest, tally, index = self.reader.manifest, self._tally, self._index
        moves = self._playing and (self._next is not None or self._goal is not None)
        position_ns = min(self._position_ns if self._goal is None else self._goal[1], index.end_ns)
        status = CellStatus(
            cell=manifest.cell,
            simulated=manifest.source == "simulated",
            armed=False,
            recording=False,
            weld=manifest.key if tally.weld.phase == "welding" else None,
            path=None,
            now_ns=time.monotonic_ns(),
            utc=utc_now(),
            write_buffer=0.0,
            write_buffer_bytes=0,
            disk_free_bytes=0,
            disk_left_s=None,
            streams=tally.rows(position_ns, self.speed if moves else 0.0),
            gaps=tally.gaps[-50:],
            welds=[tally.weld],
            detector=self._detector,
            alarms=list(self._alarms.values()),
            metadata=manifest.metadata,
            replay=ReplayStatus(
                position_s=(position_ns - index.origin_ns) / 1e9,
                duration_s=(index.end_ns - index.origin_ns) / 1e9,
                speed=self.speed,
                playing=moves,
                loop=self._loop,
                a_s=self._into_s(self._a_ns),
                b_s=self._into_s(self._b_ns),
                waiting=waiting,
                origin_ns=index.origin_ns,
                gaps=index.gaps,
                ticks=index.ticks,
            ),
            clocks=tally.clocks.snapshot(),
        )
        self._publisher.announce(STATUS_TOPIC, status)
        self._publisher.beacon()

    def _into_s(self, t_ns: int | None) -> float | None:
        return None if t_ns is None else (t_ns - self._index.origin_ns) / 1e9


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
