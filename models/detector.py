"""The detector process: reads what the capture process publishes, judges every weld, sends scores and verdicts back.

A weld that began before this process saw the cell, or that lost a packet on the way here, is judged again from its
folder once that is complete. Everything runs in one thread; work on folders fills the pauses between live packets.
On another host than the cell's there are no folders to judge from: such a weld is NO DATA, and said to be so.
"""

import logging
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from acquisition.clock_probe import ClockProbe
from acquisition.keys import ClientKeys
from acquisition.packet import Event, Packet, StreamInfo
from acquisition.transport import ControlClient, Subscriber, TransportError
from models.checkpoint import Checkpoint, load_checkpoint
from models.conformal import welds_needed
from models.detector_contract import PATTERNS, PROCESS, DetectorError
from models.judge import WeldJudge, judge_packets
from recordings.ingest import clock_snapshot
from recordings.manifest import Manifest
from recordings.reader import WeldReader
from recordings.replay_progress import SEEK, Progress
from recordings.status import STATUS_TOPIC, CellStatus, DetectorStatus, WeldStatus
from recordings.verdict import Score, Verdict

log = logging.getLogger(__name__)

RING_S: Final = 12.0
"""Packets kept for welds yet to be opened: their pre-roll, and the time that it takes to notice an arc."""
REPORT_S: Final = 0.5
SILENT_S: Final = 3.0
KEPT_JUDGES: Final = 5
"""Finished welds kept for late photos; older ones are judged from their folders."""
_POLL_S: Final = 0.1


def run_detector(
    *,
    data_endpoint: str,
    control_endpoint: str,
    checkpoint: Path,
    cell: str,
    required: Mapping[str, tuple[str, ...]],
    alpha: float,
    keys: ClientKeys | None = None,
    stop: threading.Event | None = None,
) -> int:
    """Run until `stop` is set or SIGTERM comes.

    Args:
        data_endpoint: Where the capture process publishes.
        control_endpoint: Where it takes commands.
        checkpoint: Folder of the fitted detector.
        cell: Cell name.
        required: Modalities required for a verdict, for `process` and `final`.
        alpha: False-alarm rate aimed at.
        keys: To attach with, for a capture process on another host.
        stop: Set it to end; by default only SIGTERM does.

    Returns:
        0 when it was told to end, 1 when it cannot work (the capture process has then been told why).

    Raises:
        TransportError: An endpoint is none, or lies off this host and no keys are given.
    """
    stop = stop or threading.Event()
    control = ControlClient(control_endpoint, keys)
    probe = ClockProbe(control_endpoint, keys) if keys is not None else None
    previous = None
    if threading.current_thread() is threading.main_thread():
        previous = signal.signal(signal.SIGTERM, lambda *_: stop.set())
    try:
        with threadpool_limits(limits=1):
            loaded = load_checkpoint(checkpoint)
            _Process(loaded, data_endpoint, control, cell, required, alpha, keys, probe).run(stop)
    except (DetectorError, TransportError) as error:
        log.error("%s", error)
        _tell_failure(control, str(error), alpha)
        return 1
    finally:
        if probe is not None:
            probe.close()
        control.close()
        if previous is not None:
            signal.signal(signal.SIGTERM, previous)
    return 0


def _tell_failure(control: ControlClient, problem: str, alpha: float) -> None:
    status = DetectorStatus(state="failed", alpha=alpha, calibration_needed=welds_needed(alpha), problem=problem)
    try:
        control.request("detector", status)
    except TransportError as silence:
        log.error("%s", silence)


class _Process:
    """The state of `run_detector`, owned by its thread."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        data_endpoint: str,
        control: ControlClient,
        cell: str,
        required: Mapping[str, tuple[str, ...]],
        alpha: float,
        keys: ClientKeys | None,
        probe: ClockProbe | None,
    ) -> None:
        self._keys = keys
        self._probe = probe
        self._checkpoint = checkpoint
        self._endpoint = data_endpoint
        self._control = control
        self._cell = cell
        self._required = required
        self._alpha = alpha
        self._latencies: deque[float] = deque(maxlen=600)
        self._problem: str | None = None
        self._reported_s = -REPORT_S
        self._progress = Progress("detector")
        self._backlog: deque[tuple[str, Iterator[Score | Verdict | None]]] = deque()
        self._forget()

    def _forget(self) -> None:
        """Begin anew: nothing is known of the capture process (yet, or any more)."""
        self._infos: dict[str, StreamInfo] = {}
        self._ring: deque[Packet] = deque()
        self._judges: dict[str, WeldJudge] = {}
        self._late: set[str] = set()
        self._torn: str | None = None
        self._backlog.clear()
        self._handled: set[str] = set()
        self._last_order: int | None = None
        self._live = True
        self._heard_s = time.monotonic()

    def run(self, stop: threading.Event) -> None:
        subscriber = self._subscribe()
        try:
            while not stop.is_set():
                item = subscriber.receive(0.0 if self._backlog else _POLL_S)
                if item is not None:
                    self._heard_s = time.monotonic()
                if isinstance(item, Packet):
                    self._packet(item)
                    self._progress.handled(item)
                elif item is not None and isinstance(item[1], CellStatus):
                    self._status(item[1])
                elif item is None and self._backlog:
                    self._work_on_backlog()
                if time.monotonic() - self._heard_s > SILENT_S:
                    if self._infos:
                        log.warning("nothing from %s for %g s; waiting for capture", self._endpoint, SILENT_S)
                    if subscriber.problem is not None:
                        log.warning("%s", subscriber.problem)
                    subscriber.close()
                    subscriber = self._subscribe()
                    self._forget()
                self._report(sum(subscriber.lost.values()))
                if (progress := self._progress.due()) is not None:
                    self._control.send("progress", progress)
        finally:
            subscriber.close()

    def _subscribe(self) -> Subscriber:
        return Subscriber(self._endpoint, messages={STATUS_TOPIC: CellStatus}, keys=self._keys)

    # -- live ------------------------------------------------------------------------------------------------------

    def _packet(self, packet: Packet) -> None:
        event = packet.payload
        if isinstance(event, Event) and event.kind == SEEK:
            self._sought(event)
            return
        if self._last_order is not None and packet.order <= self._last_order:
            log.info("orders begin anew at %d: capture was restarted, or a replay", packet.order)
            self._begin_anew()
        if self._last_order is not None and packet.order > self._last_order + 1:
            # A recorded weld lacks what came between its close and its photos: that is no loss.
            self._late |= {
                k for k, judge in self._judges.items() if not judge.done and (self._live or not judge.closed)
            }
        self._last_order = packet.order
        self._ring.append(packet)
        while packet.t_arrival_ns - self._ring[0].t_arrival_ns > RING_S * 1e9:
            self._ring.popleft()
        for judge in list(self._judges.values()):
            self._push(judge, packet)
        if isinstance(event, Event) and event.weld is not None:
            if event.kind == "weld_open":
                self._open(event, event.weld)
            elif event.kind == "photos_done" and event.weld not in self._judges and event.weld != self._torn:
                self._late.add(event.weld)

    def _begin_anew(self) -> None:
        """Forget the packets and everything that was judged by them, not the streams."""
        infos, live = self._infos, self._live
        self._forget()
        self._infos, self._live = infos, live

    def _sought(self, event: Event) -> None:
        """A replay goes on elsewhere. A torn history is judged by nobody: the weld is judged from its folder, once."""
        backlog = list(self._backlog)
        self._begin_anew()
        if not event.data.get("whole"):
            self._torn = event.weld
            self._backlog.extend(backlog)

    def _open(self, event: Event, key: str) -> None:
        """Start a judge with everything since the weld's first packet; too late for that, wait for its folder."""
        if key == self._torn:
            return
        first_order = int(event.data["first_order"])
        self._handled.add(key)
        if not self._infos or self._ring[0].order > first_order:
            self._late.add(key)
            return
        finished = [k for k, judge in self._judges.items() if judge.done]
        for old in finished[: max(0, len(finished) - KEPT_JUDGES)]:
            del self._judges[old]
        self._late.discard(key)  # a replay lists its weld before it begins
        judge = self._judges[key] = self._judge(event, note="")
        held = [p for p in self._ring if p.order >= first_order]
        if any(b.order != a.order + 1 for a, b in pairwise(held)):
            self._late.add(key)
        for packet in (*clock_snapshot(event), *held):
            self._push(judge, packet)

    def _judge(self, event: Event, note: str, infos: Mapping[str, StreamInfo] | None = None) -> WeldJudge:
        return WeldJudge(
            self._checkpoint,
            event,
            self._infos if infos is None else infos,
            required=self._required,
            cell=self._cell,
            alpha=self._alpha,
            now_ns=self._clock() if self._live and not note else None,
            note=note,
        )

    def _clock(self) -> Callable[[], int] | None:
        """The cell clock; of a cell on another host, as probed, or None while it has not answered."""
        if self._probe is None:
            return time.monotonic_ns
        offset_ns = self._probe.offset_ns
        return None if offset_ns is None else lambda: time.monotonic_ns() + offset_ns

    def _push(self, judge: WeldJudge, packet: Packet) -> None:
        try:
            self._send(judge.push(packet))
        except Exception as error:
            self._fail(judge.key, error)
            self._judges.pop(judge.key, None)

    def _fail(self, key: str, error: Exception) -> None:
        """Say that a weld could not be judged; the others go on."""
        log.exception("weld %s could not be judged", key)
        self._problem = f"weld {key} was not judged: {type(error).__name__}: {error}; see the detector's log"

    def _send(self, said: list[Score | Verdict]) -> None:
        for item in said:
            if isinstance(item, Score):
                self._control.send("score", item)
                if item.latency_ms is not None:
                    self._latencies.append(item.latency_ms)
            else:
                self._control.send("verdict", item)

    # -- from folders ----------------------------------------------------------------------------------------------

    def _status(self, status: CellStatus) -> None:
        self._infos = {row.name: row.info for row in status.streams if row.info is not None}
        self._live = status.replay is None
        self._progress.follow(status)
        # A replayed weld may come from another cell than the one at hand; what counts is where it was welded.
        self._cell = status.cell
        for weld in status.welds:
            unknown = weld.key not in self._handled and weld.key not in {key for key, _ in self._backlog}
            self._handled.add(weld.key)
            if unknown and weld.key not in self._judges and (weld.verdict is None or not weld.verdict.final):
                self._late.add(weld.key)
            if weld.phase == "failed":
                self._late.discard(weld.key)
            elif self._keys is not None and weld.key in self._late and weld.phase == "judged":
                self._late.discard(weld.key)
                self._send(self._unseen(weld.key))
            elif weld.key in self._late and self._whole(weld):
                self._late.discard(weld.key)
                self._backlog.append((weld.key, self._from_folder(Path(weld.path))))

    def _whole(self, weld: WeldStatus) -> bool:
        """Whether the folder of a weld holds all that there will be: it is over, or it is but replayed."""
        over = weld.phase == "judged" or weld.key == self._torn
        return over and bool(weld.path) and _complete(Path(weld.path))

    def _unseen(self, key: str) -> list[Score | Verdict]:
        """Say that a weld was not seen whole, on a host that has no folder of it; unless it was judged all the same."""
        judge = self._judges.pop(key, None)
        if judge is not None and judge.done:
            self._judges[key] = judge
            return []
        verdict = Verdict(
            weld=key,
            stage="process",
            final=True,
            word="NO DATA",
            reason="the detector, on another host, did not see the whole weld; replay it on the cell's host",
            score=None,
            threshold=None,
            p_value=None,
            alpha=self._alpha,
            calibration_welds=0,
            calibration_sessions=0,
            present=(),
            photos_pending=False,
            detector=self._checkpoint.title,
        )
        return [verdict]

    def _from_folder(self, folder: Path) -> Iterator[Score | Verdict | None]:
        reader = WeldReader(folder)
        note = "judged from the recording"
        yield from judge_packets(reader.packets(), lambda event: self._judge(event, note, reader.infos))

    def _work_on_backlog(self) -> None:
        """Take one step with the oldest folder."""
        key, steps = self._backlog[0]
        try:
            said = next(steps)
        except StopIteration:
            self._backlog.popleft()
        except Exception as error:
            self._fail(key, error)
            self._backlog.popleft()
        else:
            self._send([] if said is None else [said])

    # -- itself ----------------------------------------------------------------------------------------------------

    def _report(self, lost: int) -> None:
        """Tell the capture process twice a second how this one is doing."""
        now_s = time.monotonic()
        if now_s - self._reported_s < REPORT_S:
            return
        self._reported_s = now_s
        calibration = self._checkpoint.calibrations.get(self._cell)
        counts = [] if calibration is None else [calibration.of(p).size for p in PATTERNS if set(p) <= set(PROCESS)]
        latency = np.percentile(self._latencies, [50, 95]) if self._latencies else None
        status = DetectorStatus(
            state="ready" if self._infos else "starting",
            name=self._checkpoint.title,
            alpha=self._alpha,
            calibration_welds=max(counts, default=0),
            calibration_needed=welds_needed(self._alpha),
            calibration_sessions=len(set(calibration.sessions)) if calibration else 0,
            latency_ms=None if latency is None else (float(latency[0]), float(latency[1])),
            problem=self._problem or (f"{lost} messages were lost on the way from capture" if lost else None),
        )
        self._control.send("detector", status)


def _complete(folder: Path) -> bool:
    """True when nothing more will be written to a weld folder."""
    try:
        return msgspec.json.decode((folder / "weld.json").read_bytes(), type=Manifest).state != "open"
    except (OSError, msgspec.MsgspecError):
        return False
