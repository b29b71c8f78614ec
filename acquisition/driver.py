"""The contract of every device driver, and the reader-thread base class that most of them use.

A driver owns one device and delivers packets of one stream. It stamps on arrival, before decoding, never blocks the
capture loop, survives its device being pulled (a new `segment` follows by itself), and counts every item it dropped.
"""

import logging
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final, Literal

from acquisition.packet import Event, Packet, StreamInfo

log = logging.getLogger(__name__)

DeviceState = Literal["closed", "opening", "streaming", "lost"]


class DeviceError(Exception):
    """A device is absent, refuses a setting or broke off; the message names device, value and next step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DriverHealth:
    """How a driver is doing, for the health view.

    Attributes:
        state: Life-cycle state of the device.
        delivered: Packets put into the driver's queue since `open`.
        overrun: Packets dropped because nobody read them in time (each also shows as a jump in `seq`).
        age_s: Seconds since the newest packet arrived, or None before the first.
        problem: The last error in one line, or None.
    """

    state: DeviceState
    delivered: int
    overrun: int
    age_s: float | None
    problem: str | None


class Driver(ABC):
    """One device, one stream. All methods but `close` are called from one thread; `close` from any.

    Attributes:
        info: The stream's description; valid after `open`.
    """

    info: StreamInfo

    @abstractmethod
    def open(self, wakeup: Callable[[], None] | None = None) -> None:
        """Open the device and start delivering; on any failure everything opened so far is rolled back.

        Args:
            wakeup: Called (from the driver's thread) after each packet that becomes readable.

        Raises:
            DeviceError: The device is absent or refused a setting.
        """

    @abstractmethod
    def read(self, timeout_s: float) -> Packet | None:
        """Take the oldest undelivered packet, waiting up to `timeout_s`; None if none came."""

    @abstractmethod
    def newest(self, timeout_s: float) -> Packet | None:
        """Take the newest undelivered packet and discard the older ones, waiting up to `timeout_s` for one."""

    @abstractmethod
    def peek(self, max_age_s: float) -> Packet | None:
        """Look at the newest packet without taking it; None if it is older than `max_age_s` or none ever came."""

    @abstractmethod
    def health(self) -> DriverHealth:
        """Report state and counters; never blocks."""

    def notify(self, event: Event) -> None:  # noqa: B027 - most devices act on nothing
        """Hear of an event of the cell (`arc_off`, `take_photos`, ...), for devices that act on one; never blocks."""

    @abstractmethod
    def close(self) -> None:
        """Stop and release the device within 2 s, whatever state it is in; may be called twice."""


class ThreadedDriver(Driver):
    """A driver whose device is read by one named thread that reopens it, with back-off, when it dies.

    Subclasses implement `_connect`, `_run` and `_disconnect`; all three run in the reader thread, except the first
    `_connect`, which runs inside `open` so that an absent device is reported at once.
    """

    QUEUE_PACKETS: Final = 512
    REOPEN_S: Final = (0.2, 0.5, 1.0)

    def __init__(self, name: str) -> None:
        """Prepare the driver of stream `name`; touches no device."""
        self.name = name
        self._packets: deque[Packet] = deque()
        self._latest: Packet | None = None
        self._arrived = threading.Condition()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._wakeup: Callable[[], None] | None = None
        self._segment = 0
        self._state: DeviceState = "closed"
        self._problem: str | None = None
        self._delivered = 0
        self._overrun = 0

    @abstractmethod
    def _connect(self) -> StreamInfo:
        """Open the device; roll back and raise `DeviceError` on failure."""

    @abstractmethod
    def _run(self) -> None:
        """Deliver packets by `self._put` until `self._stop` is set; raise `DeviceError` when the device dies."""

    @abstractmethod
    def _disconnect(self) -> None:
        """Release the device; never raises, never blocks for more than a second."""

    def open(self, wakeup: Callable[[], None] | None = None) -> None:
        """See `Driver.open`."""
        if self._thread is not None:
            return
        self._state = "opening"
        try:
            self.info = self._connect()
        except BaseException:
            self._state = "closed"
            raise
        if self._latest is not None:
            self._segment += 1
        self._packets.clear()
        self._wakeup = wakeup
        self._stop.clear()
        self._thread = threading.Thread(target=self._read_forever, name=f"driver-{self.name}", daemon=True)
        self._thread.start()

    def _read_forever(self) -> None:
        attempt = 0
        connected = True
        while not self._stop.is_set():
            if not connected:
                if self._stop.wait(self.REOPEN_S[min(attempt, len(self.REOPEN_S) - 1)]):
                    break
                attempt += 1
                try:
                    self.info = self._connect()
                except DeviceError as error:
                    self._problem = str(error)
                    continue
                self._segment += 1
                connected = True
            before = self._delivered
            self._state = "streaming"
            try:
                self._run()
            except DeviceError as error:
                self._problem = str(error)
                log.warning("%s: %s", self.name, error)
            except Exception as error:
                self._problem = f"{self.name}: {type(error).__name__}: {error}; reopening the device"
                log.exception("%s: the reader thread failed; reopening the device", self.name)
            if self._delivered > before:
                attempt = 0
            connected = False
            if not self._stop.is_set():
                self._state = "lost"
            self._disconnect()
        if connected:
            self._disconnect()

    def _is_closing(self) -> bool:
        """Whether the driver is being closed; what waits in `_connect` or `_run` then gives up."""
        return self._stop.is_set() and self._state != "opening"

    def _put(self, packet: Packet) -> None:
        """Queue one packet (any thread of the driver); the oldest is dropped and counted when nobody reads."""
        packet = replace(packet, segment=self._segment) if packet.segment != self._segment else packet
        with self._arrived:
            if len(self._packets) >= self.QUEUE_PACKETS:
                self._packets.popleft()
                self._overrun += 1
            self._packets.append(packet)
            self._latest = packet
            self._delivered += 1
            self._problem = None
            self._arrived.notify()
        if self._wakeup is not None:
            self._wakeup()

    def read(self, timeout_s: float) -> Packet | None:
        """See `Driver.read`."""
        with self._arrived:
            if not self._packets and timeout_s > 0:
                self._arrived.wait_for(lambda: bool(self._packets) or self._stop.is_set(), timeout_s)
            return self._packets.popleft() if self._packets else None

    def newest(self, timeout_s: float) -> Packet | None:
        """See `Driver.newest`."""
        with self._arrived:
            if not self._packets and timeout_s > 0:
                self._arrived.wait_for(lambda: bool(self._packets) or self._stop.is_set(), timeout_s)
            packet = self._packets[-1] if self._packets else None
            self._packets.clear()
            return packet

    def peek(self, max_age_s: float) -> Packet | None:
        """See `Driver.peek`."""
        latest = self._latest
        if latest is None or time.monotonic_ns() - latest.t_arrival_ns > max_age_s * 1e9:
            return None
        return latest

    def health(self) -> DriverHealth:
        """See `Driver.health`."""
        latest = self._latest
        age_s = None if latest is None else (time.monotonic_ns() - latest.t_arrival_ns) / 1e9
        return DriverHealth(
            state=self._state,
            delivered=self._delivered,
            overrun=self._overrun,
            age_s=age_s,
            problem=self._problem,
        )

    def close(self) -> None:
        """See `Driver.close`; a thread stuck inside its device is abandoned after 2 s and said so."""
        self._stop.set()
        with self._arrived:
            self._arrived.notify_all()
        thread, self._thread = self._thread, None
        if thread is not None and thread is not threading.current_thread():
            thread.join(2.0)
            if thread.is_alive():
                log.error("%s: the device did not let go within 2 s; its thread is abandoned", self.name)
        self._state = "closed"
