"""The capture process: runs the drivers, ingests, records, publishes; no Qt, no torch, nothing that waits for a reader.

It goes on recording whatever happens to the detector or the screen; both find everything they need in its messages.
"""

import contextlib
import json
import logging
import queue
import signal
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec

from acquisition.driver import DeviceError
from acquisition.packet import Event, Packet, Photo, StreamInfo
from acquisition.simulated.cell import SimulatedCell
from acquisition.transport import ControlServer, Publisher, Reply, Request
from recordings.cell import Cell, CellError, build_drivers
from recordings.cell_state import CellState
from recordings.ingest import Ingest
from recordings.late_additions import check_entry
from recordings.manifest import LabelEntry, MetadataEntry
from recordings.preroll_spool import PrerollSpool
from recordings.recorder import DescribeWeld, FinishWeld, IngestedPacket, LabelWeld, RecorderCore, recover_open_welds
from recordings.recorder_thread import Recorder
from recordings.remote import open_doors, status_data
from recordings.runtime import Runtime
from recordings.status import SCORE_TOPIC, STATUS_TOPIC, VERDICT_TOPIC, DetectorStatus
from recordings.utc import utc_now, utc_pair
from recordings.verdict import Score, Verdict
from recordings.weld_folder import WeldError

log = logging.getLogger(__name__)

_STATUS_S: Final = 0.25
_BEACON_S: Final = 0.5
_RETRY_S: Final = 2.0
_VERDICT_WAIT_S: Final = 10.0
"""How long a weld stays open for the last word of a detector that has judged it so far."""
_NO_VERDICT_WAIT_S: Final = 2.0
"""The same where no detector has said a word of it: that one judges it from its folder, which must be complete."""
_SOMEBODY: Final = "the operator"
"""Who says something through a command that names nobody."""
_FROM_FOLDER_WAIT_S: Final = 20.0
"""How long the end waits for a weld to be judged from its folder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptureOptions:
    """How long and how strictly to capture.

    Attributes:
        for_s: Stop after this many seconds, or None.
        welds: Stop after this many complete welds, or None.
        faults: `--inject` specifications for the simulated cell.
        strict: An absent device ends the process (headless); otherwise it is retried and shown.
        session: Session name; empty for the UTC date.
        judged: Wait for verdicts before a weld is finalised (False for `record`).
    """

    for_s: float | None = None
    welds: int | None = None
    faults: Sequence[str] = ()
    strict: bool = False
    session: str = ""
    judged: bool = True


@dataclass(slots=True)
class _Pending:
    """A weld that waits for its final verdict: open, then (`finished`) for one that is given from its folder."""

    since_ns: int
    arc_ns: tuple[int, int] | None
    finished: bool = False


@dataclass
class Capture:
    """One run of the capture process; `run` blocks until it ends."""

    cell: Cell
    runtime: Runtime
    root: Path
    options: CaptureOptions
    stop: threading.Event = field(default_factory=threading.Event)

    def run(self) -> dict[str, Any]:
        """Capture until stopped; returns the summary (also written to the runtime folder).

        Raises:
            DeviceError: A device is absent (strict).
            AlreadyRunningError: Another capture process serves this cell.
            TransportError: An endpoint is taken.
            KeysError: Other hosts may attach, but the cell has no keys or unsafe ones.
        """
        with contextlib.ExitStack() as stack:
            stack.enter_context(self.runtime.hold("capture"))
            self.runtime.summary.unlink(missing_ok=True)
            self._requests: queue.SimpleQueue[Request] = queue.SimpleQueue()
            self._wakeup = threading.Event()
            self._drivers, self._world = build_drivers(self.cell)
            inject_faults(self._world, self.options.faults)
            self._ingest = Ingest(self.cell, {}, _utc_of)
            self._state = CellState(cell=self.cell, started_ns=time.monotonic_ns())
            self._problems: queue.SimpleQueue[str] = queue.SimpleQueue()
            core = RecorderCore(
                cell=self.cell,
                infos=self._ingest.infos,
                root=self.root,
                session=self.options.session or utc_now()[:10],
                source="simulated" if self._world else "live",
                on_problem=self._problems.put,
            )
            for line in recover_open_welds(self.root):
                self._state.alarm(line)
            core.spool = self._spool()
            data_door, control_door = stack.enter_context(open_doors(self.cell, self._problems.put))
            self._publisher = Publisher(self.runtime.data, data_door)
            stack.callback(self._publisher.close)
            self._recorder = Recorder(core)
            control = ControlServer(self.runtime.control, self._serve, control_door)
            stack.callback(control.close)
            stack.callback(self._close_drivers)
            self._late: queue.SimpleQueue[str] = queue.SimpleQueue()
            self._waiting: dict[str, _Pending] = {}
            self._finished: set[str] = set()
            self._announced: dict[str, StreamInfo] = {}
            self._next_status_ns = self._next_beacon_ns = 0
            self._open_drivers()
            self._state.started_ns = time.monotonic_ns()
            self._loop()
            summary = self._wind_down()
            self.runtime.summary.write_text(json.dumps(summary), encoding="utf-8")
            return summary

    def _spool(self) -> PrerollSpool | None:
        try:
            return PrerollSpool(self.root, [stream.name for stream in self.cell.streams])
        except OSError as error:
            what = f"{self.root}: {error.strerror}; a weld that is cut off while it begins may lose its pre-roll"
            self._state.alarm(what, "error")
            return None

    # -- devices ---------------------------------------------------------------------------------------------------

    def _open_drivers(self) -> None:
        for name, driver in self._drivers.items():
            try:
                driver.open(self._wakeup.set)
            except DeviceError as error:
                if self.options.strict:
                    raise
                self._state.alarm(str(error), "error")
                threading.Thread(target=self._open_later, args=(name,), name=f"open-{name}", daemon=True).start()
            else:
                self._announce_stream(name)

    def _open_later(self, name: str) -> None:
        """Retry an absent device on a thread of its own, since opening may block."""
        while not self.stop.wait(_RETRY_S):
            try:
                self._drivers[name].open(self._wakeup.set)
            except DeviceError as error:
                log.info("%s", error)
            else:
                self._late.put(name)
                return

    def _announce_stream(self, name: str) -> None:
        """Take over what a driver says its stream is, after each opening."""
        self._announced[name] = self._drivers[name].info
        problem = self._ingest.add_stream(self._announced[name])
        if problem is not None:
            self._state.alarm(problem, "error")

    def _close_drivers(self) -> None:
        for driver in self._drivers.values():
            driver.close()

    # -- the loop --------------------------------------------------------------------------------------------------

    def _loop(self) -> None:
        end_ns = None if self.options.for_s is None else time.monotonic_ns() + round(self.options.for_s * 1e9)
        while not self.stop.is_set():
            self._wakeup.wait(0.02)
            self._wakeup.clear()
            self._turn()
            if end_ns is not None and time.monotonic_ns() >= end_ns:
                return
            if self.options.welds is not None and len(self._finished) >= self.options.welds:
                return

    def _turn(self) -> None:
        """One round: packets, commands, watchdogs, status."""
        while (name := _take(self._late)) is not None:
            self._announce_stream(name)
        self._take_packets()
        self._watch_devices()
        now_ns = time.monotonic_ns()
        self._emit(self._ingest.tick(now_ns))
        self._serve_loop(now_ns)

    def _take_packets(self) -> None:
        for name, driver in self._drivers.items():
            while name in self._ingest.infos and (packet := driver.read(0)) is not None:
                if not isinstance(packet.payload, Photo) and driver.info is not self._announced.get(name):
                    self._announce_stream(name)
                self._emit(self._ingest.push(packet))

    def _watch_devices(self) -> None:
        """Tell which devices died, and which cameras for photos are back: their next photo may be far away."""
        now_ns, out = time.monotonic_ns(), list[Packet]()
        for name, driver in self._drivers.items():
            info, health = self._ingest.infos.get(name), driver.health()
            if info is not None and health.state == "lost":
                self._ingest.stream_lost(name, health.problem or "unplugged", now_ns, out)
            elif info is not None and info.modality == "post_images" and health.state == "streaming":
                self._ingest.stream_back(name, 0, now_ns, out)
        self._emit(out)

    def _serve_loop(self, now_ns: int) -> None:
        """The part of a round that goes on when the devices are closed: commands, problems, verdicts, status."""
        while (request := _take(self._requests)) is not None:
            self._obey(request, now_ns)
        while (problem := _take(self._problems)) is not None:
            self._state.alarm(problem, "error")
        self._finish_judged(now_ns)
        if now_ns >= self._next_beacon_ns:
            self._next_beacon_ns = now_ns + round(_BEACON_S * 1e9)
            self._publisher.beacon()
        if now_ns >= self._next_status_ns:
            self._next_status_ns = now_ns + round(_STATUS_S * 1e9)
            self._announce_status()

    def _announce_status(self) -> None:
        self._publisher.announce(STATUS_TOPIC, self._state.status(self._ingest, self._recorder, self._drivers))

    def _emit(self, packets: list[Packet]) -> None:
        for packet in packets:
            # Noted first: whatever anybody has seen counts as received, should the process be killed.
            keyframe = packet.order == self._ingest.keyframe_order
            self._recorder.put(IngestedPacket(packet=packet, keyframe=keyframe))
            self._publisher.publish(packet)
            if isinstance(packet.payload, Photo):
                self._state.photo(packet.payload.weld_hint)
            elif isinstance(packet.payload, Event):
                self._follow(packet, packet.payload)

    def _follow(self, packet: Packet, event: Event) -> None:
        self._state.event(packet, self._recorder)
        self._notify(event)
        if event.kind == "photos_done" and event.weld is not None:
            weld = self._state.welds[event.weld]
            arc = None if weld.arc_on_ns is None or weld.arc_off_ns is None else (weld.arc_on_ns, weld.arc_off_ns)
            self._waiting[event.weld] = _Pending(packet.t_arrival_ns, arc)
        if event.kind in ("weld_open", "weld_close", "photos_done"):
            self._next_status_ns = 0

    def _notify(self, event: Event) -> None:
        """Tell the devices that act on events."""
        for driver in self._drivers.values():
            driver.notify(event)

    def _finish_judged(self, now_ns: int) -> None:
        """Finalise welds whose last word has been said, or whose judge does not answer; count those that are done."""
        for key, pending in list(self._waiting.items()):
            verdict = self._state.welds[key].verdict
            done = (verdict is not None and verdict.final) or not self.options.judged
            waited_s = (now_ns - pending.since_ns) / 1e9
            if not pending.finished and (done or waited_s > self._patience_s(verdict)):
                self._finish(key, pending)
                pending.finished, pending.since_ns = True, now_ns
            elif pending.finished and (waited_s > _FROM_FOLDER_WAIT_S or self._state.detector.state == "failed"):
                done = True
            if done:
                del self._waiting[key]
                self._finished.add(key)

    def _patience_s(self, verdict: Verdict | None) -> float:
        """How long a weld that waits for its final verdict is kept open, by the last one."""
        return _NO_VERDICT_WAIT_S if verdict is None or not self._state.detector_alive else _VERDICT_WAIT_S

    def _finish(self, key: str, pending: _Pending) -> None:
        truth = None
        if self._world is not None and pending.arc_ns is not None:
            truth = self._world.truth_between(*pending.arc_ns)
        self._recorder.put(FinishWeld(key=key, truth=truth))

    # -- commands --------------------------------------------------------------------------------------------------

    def _serve(self, request: Request) -> Reply:
        """Control thread: check a command and hand it to the loop."""
        if request.kind in ("label", "describe"):
            problem = _unsaid(request)
            if problem is not None:
                return Reply(ok=False, message=problem)
        elif request.kind == "trigger" and not isinstance(request.data.get("on"), bool):
            return Reply(
                ok=False, message=f"trigger on={request.data.get('on')!r}: is neither true nor false; give one"
            )
        elif request.kind == "inject" and self._world is None:
            return Reply(ok=False, message="only the simulated cell can be disturbed")
        elif request.kind == "status":
            return Reply(ok=True, data=status_data(self.cell, self.root))
        self._requests.put(request)
        self._wakeup.set()
        return Reply(ok=True)

    def _obey(self, request: Request, now_ns: int) -> None:
        """Loop thread: carry a command out; a bad one is logged and changes nothing."""
        data = request.data
        try:
            match request.kind:
                case "score":
                    self._scored(msgspec.convert(data, Score))
                case "verdict":
                    self._judged(msgspec.convert(data, Verdict))
                case "detector":
                    self._state.detector_said(msgspec.convert(data, DetectorStatus), now_ns)
                case "arm":
                    self._ingest.armed = bool(data["on"])
                case "record":
                    self._emit(self._ingest.start_weld(now_ns))
                case "stop":
                    self._emit(self._ingest.stop_weld(now_ns))
                case "photo":
                    weld = self._ingest.recording
                    self._notify(Event(kind="take_photos", weld=weld.key if weld else None, t_ns=now_ns))
                case "trigger":
                    self._emit(self._ingest.trigger(now_ns, bool(data["on"]), str(data.get("source", ""))))
                case "mark":
                    self._emit(self._ingest.mark(now_ns, str(data.get("note", ""))))
                case "label":
                    self._label(str(data["weld"]), _label_entry(data))
                case "describe":
                    self._recorder.put(DescribeWeld(key=str(data["weld"]), entry=_described(data)))
                case "metadata":
                    self._state.metadata.update(data)
                    self._recorder.core.metadata.update(data)
                case "acknowledge":
                    self._state.acknowledge(int(data.get("number", 0)))
                case "inject" if self._world is not None:
                    self._world.inject(str(data["fault"]))
                case "shutdown":
                    self.stop.set()
                case _:
                    log.warning("unknown command '%s' ignored", request.kind)
        except (KeyError, ValueError, msgspec.ValidationError) as error:
            log.warning("command '%s' ignored: %s", request.kind, error)
            self._state.alarm(f"command '{request.kind}' was not understood: {error}")
        self._next_status_ns = min(self._next_status_ns, now_ns + 50_000_000)

    def _scored(self, score: Score) -> None:
        self._state.score(score)
        self._publisher.announce(SCORE_TOPIC, score)
        self._recorder.put(score)

    def _judged(self, verdict: Verdict) -> None:
        self._state.verdict(verdict)
        self._publisher.announce(VERDICT_TOPIC, verdict)
        self._recorder.put(verdict)

    def _label(self, key: str, entry: LabelEntry) -> None:
        self._state.label(key, entry.label)
        self._recorder.put(LabelWeld(key=key, entry=entry))

    # -- the end ---------------------------------------------------------------------------------------------------

    def _wind_down(self) -> dict[str, Any]:
        """End open welds, wait briefly for their verdicts, close everything; returns the summary."""
        ended_ns = time.monotonic_ns()
        self._take_packets()
        self._emit(self._ingest.finish(ended_ns))
        summary = self._state.summary(self._ingest, self._drivers, ended_ns)
        self._close_drivers()
        deadline_ns = ended_ns + round(_FROM_FOLDER_WAIT_S * 1e9)
        while self._waiting and time.monotonic_ns() < deadline_ns:
            self._wakeup.wait(0.02)
            self._wakeup.clear()
            self._serve_loop(time.monotonic_ns())
        for key, pending in self._waiting.items():
            if not pending.finished:
                self._finish(key, pending)
        if not self._recorder.close():
            log.error("the disk did not take everything within 30 s; run `recover` on %s", self.root)
        streams = summary["streams"]
        for name, count in self._recorder.overrun.items():
            streams[name]["dropped"] += count
        final = self._state.summary(self._ingest, self._drivers, ended_ns)
        return final | {"streams": streams}


def inject_faults(world: SimulatedCell | None, faults: Sequence[str]) -> None:
    """Disturb the simulated cell as told by `--inject`.

    Raises:
        CellError: A fault is not understood, or the cell is a real one.
    """
    for fault in faults:
        if world is None:
            raise CellError(f"--inject {fault}: only the simulated cell can be disturbed; leave it out")
        try:
            world.inject(fault)
        except ValueError as error:
            raise CellError(f"--inject: {error}") from error


def _label_entry(data: dict[str, Any]) -> LabelEntry:
    return LabelEntry(label=data["label"], by=str(data.get("by") or _SOMEBODY), utc=utc_now())


def _described(data: dict[str, Any]) -> MetadataEntry:
    return msgspec.convert(
        {"name": data["name"], "value": data.get("value"), "by": data.get("by") or _SOMEBODY, "utc": utc_now()},
        MetadataEntry,
    )


def _unsaid(request: Request) -> str | None:
    """Say why a label or a description cannot be kept, or None."""
    data = request.data
    if not isinstance(data.get("weld"), str):
        return f"{request.kind} of weld {data.get('weld')!r}: name the weld by its key"
    if request.kind == "label" and (isinstance(data.get("label"), bool) or not isinstance(data.get("label"), int)):
        return f"label {data.get('label')!r} is no number; choose a listed class"
    try:
        check_entry(_label_entry(data) if request.kind == "label" else _described(data))
    except (WeldError, KeyError, msgspec.ValidationError) as error:
        return f"{request.kind} of weld {data['weld']}: {error}"
    return None


def _take(source: "queue.SimpleQueue[Any]") -> Any:
    try:
        return source.get_nowait()
    except queue.Empty:
        return None


def _utc_of(cell_ns: int) -> int:
    pair = utc_pair()
    return pair.utc_ns - pair.monotonic_ns + cell_ns


def run_capture(cell: Cell, runtime: Runtime, root: Path, options: CaptureOptions) -> dict[str, Any]:
    """Run the capture process until it is told to stop (command, SIGTERM, SIGINT, `for_s`, `welds`)."""
    capture = Capture(cell, runtime, root, options)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: capture.stop.set())
    return capture.run()
