"""What all sensors at a serial port share: opening, reading, noticing death and silence, numbering the rows.

Bytes are stamped when they arrive, before they are parsed.
"""

import errno
import logging
import sys
import time
from abc import abstractmethod
from collections import Counter
from collections.abc import Sequence
from typing import Final, Generic, TypeVar

import numpy as np
import numpy.typing as npt
import serial

from acquisition.device_count import DeviceItem, DeviceSequence, PlacedItem
from acquisition.driver import DeviceError, ThreadedDriver
from acquisition.packet import Packet, SensorRows, StreamInfo

if sys.platform == "win32":
    PORT_ERRORS: Final = (OSError,)
else:
    import termios

    PORT_ERRORS: Final = (OSError, termios.error)  # a pulled port raises either, and they are not related

log = logging.getLogger(__name__)

FIRST_ROW_S: Final = 5.0
"""Many boards restart when their port is opened and say nothing for seconds."""

LONGEST_READ: Final = 65_536

Row = TypeVar("Row")


class SerialRows(ThreadedDriver, Generic[Row]):
    """A serial port as a stream of sensor rows, whatever they look like on the line.

    A board that restarts begins a new segment without the port being opened again; one that falls silent is `lost`
    until its next row (opening the port again would restart many boards once more).

    Attributes:
        faults: How often something was wrong with what came, by what it was; each kind is logged once per opening.
    """

    def __init__(self, name: str, port: str, baud: int, stale_s: float, sequence: DeviceSequence[Row]) -> None:
        """Prepare the sensors; touches no device.

        Args:
            name: Stream name.
            port: Serial port.
            baud: Baud rate.
            stale_s: The stream is lost after this long without a row; 0 for never.
            sequence: Numbers the rows.
        """
        super().__init__(name)
        self._path, self._baud, self._stale_s = port, baud, stale_s
        self._port: serial.Serial | None = None
        self._sequence = sequence
        self._sent = 0
        self._said: set[str] = set()
        self.faults: Counter[str] = sequence.faults

    @abstractmethod
    def _begin(self) -> StreamInfo:
        """Prepare for the bytes of a newly opened port; describe the stream."""

    @abstractmethod
    def _receive(self, data: bytes, arrival_ns: int) -> bool:
        """Take bytes (none when the port was quiet); whether they held a row."""

    @abstractmethod
    def _values(self, rows: Sequence[Row]) -> npt.NDArray[np.float64]:
        """The rows' values, `(n, channels)`."""

    def _silence(self) -> tuple[str, str]:
        """What to say, and what to do, when no row has come for long."""
        return "sent no row", "check the device, baud and columns"

    def _error(self, what: str, fix: str) -> DeviceError:
        return DeviceError(f"sensors {self.name}: {self._path} {what}; {fix}")

    def _say(self, kind: str, what: str, fix: str) -> None:
        """Log the first fault of a kind since the port was opened; the rest are only counted."""
        if kind not in self._said:
            self._said.add(kind)
            log.warning("%s", self._error(what, fix))

    def _lose(self, error: DeviceError) -> None:
        """Count the stream as lost until its next row."""
        if self._problem != str(error):
            log.warning("%s", error)
        self._state, self._problem = "lost", str(error)

    def _connect(self) -> StreamInfo:
        try:
            self._port = serial.Serial(self._path, self._baud, timeout=0.1, exclusive=True)
        except PORT_ERRORS as error:
            raise self._explained(error) from error
        except ValueError as error:
            raise self._error(f"was refused ({error})", "correct baud in the cell file") from error
        self._said.clear()
        self._sequence.restart()
        self._sent = 0
        return self._begin()

    def _explained(self, error: Exception) -> DeviceError:
        code = getattr(error, "errno", None)
        if code == errno.ENOENT:
            return self._error("does not exist", "plug the device in or correct port in the cell file")
        if code in (errno.EACCES, errno.EPERM):
            return self._error("may not be opened by this user", "give the user the right (on Linux: group 'dialout')")
        if code in (errno.EAGAIN, errno.EBUSY):
            return self._error("is in use by another program", "close that program")
        return self._error(f"cannot be opened ({error})", "correct port in the cell file")

    def _run(self) -> None:
        port = self._port
        assert port is not None
        row_ns, patience_s = time.monotonic_ns(), max(FIRST_ROW_S, self._stale_s)
        while not self._stop.is_set():
            try:
                data = port.read(1)
                arrival_ns = time.monotonic_ns()
                if data:
                    data += port.read(min(port.in_waiting, LONGEST_READ))
            except PORT_ERRORS as error:
                raise self._error(f"broke off ({error})", "check the plug and the cable") from error
            received = self._receive(data, arrival_ns)
            for kind in self.faults.keys() - self._said:
                self._say(kind, f"sent {kind}", "check the device, its settings and the cable")
            if received:
                row_ns, patience_s = arrival_ns, self._stale_s
                self._state = "streaming"
            elif self._stale_s and self._state == "streaming" and arrival_ns - row_ns > patience_s * 1e9:
                what, fix = self._silence()
                self._lose(self._error(f"{what} for {patience_s:g} s", fix))

    def _place(self, row: Row, seq: int | None, ticks: int | None, arrival_ns: int) -> list[PlacedItem[Row]]:
        """Give a row its number and time; see `DeviceSequence.push`."""
        return self._sequence.push(DeviceItem(row, seq, ticks, arrival_ns))

    def _deliver(self, rows: list[PlacedItem[Row]], tick_ns: int) -> None:
        """Put rows that arrived together: one packet, unless there is a hole between them or a restart.

        Args:
            rows: The rows in their order.
            tick_ns: Nanoseconds per unit of the device's time; 0 where it sends none.
        """
        begin = 0
        for at in range(1, len(rows) + 1):
            if at == len(rows) or rows[at].anew or rows[at].number != rows[at - 1].number + 1:
                self._put_run(rows[begin:at], tick_ns)
                begin = at

    def _put_run(self, run: list[PlacedItem[Row]], tick_ns: int) -> None:
        if run[0].anew:
            log.warning("%s", self._error("began to count anew", "it restarted; a new segment begins"))
            self._segment += 1
            self._sent = 0
        stamps_ns = np.array([row.ticks * tick_ns for row in run], np.int64) if tick_ns else None
        self._put(
            Packet(
                stream=self.name,
                seq=self._sent,
                t_device_ns=None if stamps_ns is None else int(stamps_ns[0]),
                t_arrival_ns=run[-1].arrival_ns,
                payload=SensorRows(
                    first_row=run[0].number,
                    values=self._values([row.content for row in run]),
                    t_device_ns=stamps_ns,
                    t_arrival_ns=np.array([row.arrival_ns for row in run], np.int64),
                ),
            )
        )
        self._sent += 1

    def _disconnect(self) -> None:
        port, self._port = self._port, None
        if port is not None:
            try:
                port.close()
            except PORT_ERRORS as error:
                log.warning("%s: closing: %s", self.name, error)
