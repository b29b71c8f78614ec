"""The screen's only way to the cell: packets and messages in, commands out; nothing here ever blocks the screen."""

import logging
import os
import queue
import threading
import time
from typing import Any, Final

import msgspec
from PySide6.QtCore import QObject, QSocketNotifier, QTimer, Signal

from acquisition.clock_probe import ClockProbe
from acquisition.keys import ClientKeys
from acquisition.packet import Packet, VideoFrame
from acquisition.transport import ControlClient, Reply, Subscriber, TransportError
from recordings.replay_progress import Progress
from recordings.status import SCORE_TOPIC, STATUS_TOPIC, VERDICT_TOPIC, CellStatus
from recordings.verdict import Score, Verdict

log = logging.getLogger(__name__)

_SLICE_S: Final = 0.008
"""Longest stretch of reading before the event loop gets its turn again."""
_ANSWER_S: Final = 2.0


class CellLink(QObject):
    """Reads what the capture process publishes and sends it commands.

    Signals:
        frame: A video packet; of several that wait, only the newest of each stream.
        packet: Any other packet, in order.
        message: A typed message: topic, message.
        answered: A command was answered or given up: kind, `Reply`.
        failed: Nothing can be read any more; one line.
    """

    frame = Signal(object)
    packet = Signal(object)
    message = Signal(str, object)
    answered = Signal(str, object)
    failed = Signal(str)

    def __init__(
        self,
        data_endpoint: str,
        control_endpoint: str,
        keys: ClientKeys | None = None,
        parent: QObject | None = None,
    ) -> None:
        """Connect; the endpoints need not exist yet. A cell on another host is attached to with `keys`."""
        super().__init__(parent)
        self._keys = keys
        self._subscriber: Subscriber | None = Subscriber(
            data_endpoint, messages={STATUS_TOPIC: CellStatus, SCORE_TOPIC: Score, VERDICT_TOPIC: Verdict}, keys=keys
        )
        self._probe = ClockProbe(control_endpoint, keys) if keys is not None else None
        self._progress = Progress(f"screen {os.getpid()}")
        self._notifier = QSocketNotifier(self._subscriber.fd, QSocketNotifier.Type.Read, self)
        self._notifier.activated.connect(self.drain)
        self._commands: queue.SimpleQueue[tuple[str, object] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(
            target=self._send_forever, args=(control_endpoint,), name="gui-commands", daemon=True
        )
        self._thread.start()

    @property
    def lost(self) -> int:
        """Messages lost on the way to the screen."""
        return sum(self._subscriber.lost.values()) if self._subscriber else 0

    @property
    def problem(self) -> str | None:
        """Why nothing comes from another host, in one line, or None."""
        return self._subscriber.problem if self._subscriber else None

    def cell_now_ns(self) -> int | None:
        """Give the cell clock now; None while a cell on another host has not answered the probe yet."""
        return self._probe.now_ns() if self._probe is not None else time.monotonic_ns()

    @property
    def remote(self) -> bool:
        """The cell is on another host, and goes on without this screen."""
        return self._probe is not None

    def lateness_s(self, t_ns: int) -> float:
        """How long ago a cell time was on another host's clock; 0 for this host, and while that clock is unknown."""
        now_ns = self._probe.now_ns() if self._probe is not None else None
        return 0.0 if now_ns is None else max(0.0, (now_ns - t_ns) / 1e9)

    def drain(self) -> None:
        """Read whatever waits; the descriptor reports only once, so this goes on until nothing is left."""
        subscriber = self._subscriber
        if subscriber is None:
            return
        frames: dict[str, Packet] = {}
        deadline = time.monotonic() + _SLICE_S
        try:
            while (item := subscriber.receive(0)) is not None:
                if isinstance(item, Packet):
                    self._progress.handled(item)
                elif isinstance(item[1], CellStatus):
                    self._progress.follow(item[1])
                self._report()
                if not isinstance(item, Packet):
                    self.message.emit(*item)
                elif isinstance(item.payload, VideoFrame):
                    frames[item.stream] = item
                else:
                    self.packet.emit(item)
                if time.monotonic() > deadline:
                    QTimer.singleShot(0, self.drain)
                    break
        except TransportError as error:
            self._stop_reading()
            self.failed.emit(str(error))
        for packet in frames.values():
            self.frame.emit(packet)

    def _report(self) -> None:
        """Tell a replay how far this screen has come, so that it waits rather than drops."""
        if (progress := self._progress.due()) is not None:
            self._commands.put(("progress", progress))

    def send(self, kind: str, data: dict[str, Any] | None = None) -> None:
        """Send a command; `answered` tells how it went."""
        self._commands.put((kind, data))

    def _send_forever(self, endpoint: str) -> None:
        client = ControlClient(endpoint, self._keys)
        while (command := self._commands.get()) is not None:
            kind, data = command
            if kind == "progress":
                client.send(kind, data)  # nobody waits for its answer
                continue
            try:
                reply = client.request(kind, data, _ANSWER_S)
            except TransportError as error:
                # A queued command must not reach a capture process that starts minutes later, so its socket goes.
                client.close()
                client = ControlClient(endpoint, self._keys)
                reply = Reply(ok=False, message=str(error))
            except (TypeError, msgspec.MsgspecError) as error:
                log.exception("command %s", kind)
                reply = Reply(ok=False, message=f"{kind}: {error}")
            self.answered.emit(kind, reply)
        client.close()

    def _stop_reading(self) -> None:
        if self._subscriber is not None:
            self._notifier.setEnabled(False)
            self._subscriber.close()
            self._subscriber = None

    def close(self) -> None:
        """Stop reading and sending; waits at most for the answer to the last command."""
        self._stop_reading()
        self._commands.put(None)
        self._thread.join(_ANSWER_S + 0.5)
        if self._probe is not None:
            self._probe.close()
