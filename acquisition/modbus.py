"""Modbus sensors, RTU over a serial port or TCP: registers polled on an absolute schedule, as rows of channels.

A device neither stamps nor counts. Rows are numbered by poll slot, so that a missed poll shows as a jump and shifts
nothing, and stamped when the last answer is complete: on average half a round trip after the device has measured.
After MODBUS Application Protocol 1.1b3 and MODBUS over Serial Line 1.02; every wait is on the monotonic clock, which
client libraries do not keep to.
"""

import logging
import math
import re
import socket
import struct
import time
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple, Protocol

import numpy as np
import serial

from acquisition.channels import CHANNEL_UNITS, by_channel, require_channels
from acquisition.driver import DeviceError, ThreadedDriver
from acquisition.packet import Packet, SensorRows, StreamInfo
from acquisition.serial_port import PORT_ERRORS

log = logging.getLogger(__name__)

CONNECT_S: Final = 1.0
MOST_REGISTERS: Final = 125
"""Of one request (application protocol, 6.3)."""

FORMATS: Final[dict[str, str]] = {"int16": ">h", "uint16": ">H", "int32": ">i", "uint32": ">I", "float32": ">f"}
FUNCTIONS: Final[dict[str, int]] = {"holding": 3, "input": 4}
REFUSALS: Final[dict[int, str]] = {
    1: "illegal function",
    2: "illegal data address",
    3: "illegal data value",
    4: "device failure",
    6: "device busy",
    10: "gateway path unavailable",
    11: "no device behind the gateway",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Register:
    """Where one channel is found.

    Attributes:
        address: First register, counted from 0 (manuals that begin at 40001 or 30001 count from 1).
        type: What the register, or the two from `address` on, hold.
        table: Holding or input registers.
        word_order: Which word of a 32-bit value comes first, the high one (`big`) or the low one (`little`).
        scale: Factor from the device's number to the channel's unit.
    """

    address: int
    type: Literal["int16", "uint16", "int32", "uint32", "float32"] = "uint16"
    table: Literal["holding", "input"] = "holding"
    word_order: Literal["big", "little"] = "big"
    scale: float = 1.0

    def __post_init__(self) -> None:
        """Refuse an address that no request can hold."""
        if not 0 <= self.address <= 65_536 - self.words:
            raise ValueError(f"address {self.address} is no register; use 0 to {65_536 - self.words}")

    @property
    def words(self) -> int:
        """Registers that the value takes."""
        return struct.calcsize(FORMATS[self.type]) // 2

    def value(self, data: bytes) -> float:
        """The value in the channel's unit of `2 * words` bytes as sent; NaN for what is no number."""
        if self.word_order == "little":
            data = data[2:] + data[:2]
        value = float(struct.unpack(FORMATS[self.type], data)[0]) * self.scale
        return value if math.isfinite(value) else math.nan


@dataclass(frozen=True, slots=True, kw_only=True)
class ModbusConfig:
    """Settings of a Modbus device.

    Attributes:
        address: `tcp://HOST` or `tcp://HOST:PORT` (port 502), or a serial port (`/dev/ttyUSB0`, `COM3`) for RTU.
        registers: Where each channel is found, by channel.
        unit: Device id on the line, or behind the gateway.
        rate_hz: Polls per second.
        baud: Baud rate (RTU).
        parity: `N`, `E` or `O` (RTU).
        timeout_s: A poll without an answer for this long is missed.
        stale_s: The device is lost, and opened again, after this long without an answer.
    """

    address: str
    registers: dict[str, Register]
    unit: int = 1
    rate_hz: float = 10.0
    baud: int = 19_200
    parity: Literal["N", "E", "O"] = "N"
    timeout_s: float = 0.2
    stale_s: float = 1.0

    def __post_init__(self) -> None:
        """Refuse settings that no device could satisfy."""
        if self.address.startswith("tcp:") and _tcp_address(self.address) is None:
            raise ValueError(f"address is '{self.address}'; write tcp://HOST:PORT")
        require_channels("registers", self.registers)
        if not 0 <= self.unit <= 255:
            raise ValueError(f"unit is {self.unit}; use 0 to 255")
        if not 0 < self.rate_hz <= 1000 or not 0 < self.timeout_s <= 0.5 or self.stale_s < self.timeout_s:
            raise ValueError(
                f"rate_hz ({self.rate_hz}) must lie in 0 to 1000, timeout_s ({self.timeout_s}) in 0 to 0.5, "
                f"and stale_s ({self.stale_s}) not below it"
            )


def _tcp_address(address: str) -> tuple[str, int] | None:
    """Host and port of a `tcp://` address, or None."""
    found = re.fullmatch(r"tcp://(\[[0-9a-fA-F:]+\]|[\w.-]+)(?::(\d{1,5}))?", address)
    return None if found is None else (found[1].strip("[]"), int(found[2] or 502))


class _Missed(Exception):
    """One poll came to nothing; the message says why, after the device's name."""


class _Link(Protocol):
    """A way to the device; both methods raise OSError (on a serial port any of `PORT_ERRORS`) when it is cut."""

    def ask(self, unit: int, request: bytes) -> bytes:
        """Send a request and give the answer to it, function code first; raises `_Missed`."""
        ...

    def close(self) -> None: ...


class _Rtu:
    """Modbus RTU: frames with a checksum, parted by silence."""

    def __init__(self, config: ModbusConfig) -> None:
        self._port = serial.Serial(
            config.address,
            config.baud,
            parity=config.parity,
            timeout=config.timeout_s,
            write_timeout=config.timeout_s,
            exclusive=True,
        )
        self._silence_s = max(3.5 * 11 / config.baud, 0.00175)  # serial line, 2.5.1.1
        self._quiet_since = time.monotonic()

    def ask(self, unit: int, request: bytes) -> bytes:
        time.sleep(max(0.0, self._quiet_since + self._silence_s - time.monotonic()))
        frame = bytes((unit,)) + request
        self._port.reset_input_buffer()  # a late answer to an earlier request looks just like one to this
        self._port.write(frame + _checksum(frame))
        answer = self._read(3)
        answer += self._read(2 if answer[1] & 0x80 else answer[2] + 2)
        self._quiet_since = time.monotonic()
        if _checksum(answer[:-2]) != answer[-2:] or answer[0] != unit or answer[1] & 0x7F != request[0]:
            raise _Missed("sent a garbled answer")
        return answer[1:-2]

    def _read(self, n: int) -> bytes:
        data: bytes = self._port.read(n)
        if len(data) < n:
            raise _Missed("does not answer")
        return data

    def close(self) -> None:
        self._port.close()


def _checksum(data: bytes) -> bytes:
    """CRC-16/MODBUS, low byte first (serial line, 6.2.2); that of `123456789` is 4b37 hexadecimal."""
    crc = 0xFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0xA001 if crc & 1 else 0)
    return crc.to_bytes(2, "little")


class _Tcp:
    """Modbus TCP: frames with a transaction number and a length."""

    def __init__(self, address: tuple[str, int], timeout_s: float) -> None:
        self._socket = socket.create_connection(address, timeout=CONNECT_S)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._timeout_s = timeout_s
        self._number = 0
        self._rest = b""

    def ask(self, unit: int, request: bytes) -> bytes:
        self._number = (self._number + 1) & 0xFFFF
        self._socket.settimeout(self._timeout_s)
        self._socket.sendall(struct.pack(">HHHB", self._number, 0, len(request) + 1, unit) + request)
        deadline = time.monotonic() + self._timeout_s
        while True:  # until the answer to this very request; late ones to earlier requests are left out
            self._fill(7, deadline)
            number, protocol, length, answerer = struct.unpack(">HHHB", self._rest[:7])
            if protocol != 0 or not 3 <= length <= 254:
                raise ConnectionError("it speaks no Modbus TCP")
            self._fill(6 + length, deadline)
            answer, self._rest = self._rest[7 : 6 + length], self._rest[6 + length :]
            if number == self._number:
                if answerer != unit or answer[0] & 0x7F != request[0]:
                    raise _Missed("sent a garbled answer")
                return answer

    def _fill(self, n: int, deadline: float) -> None:
        """Read until `n` bytes are there; what came of a late frame is kept for the next request."""
        while len(self._rest) < n:
            self._socket.settimeout(max(deadline - time.monotonic(), 0.001))
            try:
                data = self._socket.recv(4096)
            except TimeoutError:
                raise _Missed("does not answer") from None
            if not data:
                raise ConnectionError("it closed the connection")
            self._rest += data

    def close(self) -> None:
        self._socket.close()


class _Request(NamedTuple):
    """One request for neighbouring registers, and which column each of them fills."""

    function: int
    first: int
    words: int
    columns: tuple[tuple[int, Register], ...]

    @property
    def data(self) -> bytes:
        return struct.pack(">BHH", self.function, self.first, self.words)


def plan_requests(registers: list[Register]) -> list[_Request]:
    """Fewest requests that read the registers, none of which asks for a register that nobody named."""
    plan: list[_Request] = []
    for column, register in sorted(enumerate(registers), key=lambda item: (item[1].table, item[1].address)):
        function, first, end = FUNCTIONS[register.table], register.address, register.address + register.words
        last = plan[-1] if plan else _Request(0, 0, 0, ())
        together = max(end - last.first, last.words)
        if last.function == function and first <= last.first + last.words and together <= MOST_REGISTERS:
            plan[-1] = last._replace(words=together, columns=(*last.columns, (column, register)))
        else:
            plan.append(_Request(function, first, end - first, ((column, register),)))
    return plan


class ModbusSensors(ThreadedDriver):
    """A Modbus device as a stream of sensor rows.

    Attributes:
        missed: Polls without a usable answer, over all openings; each is a jump of `first_row`.
        round_trip_ns: From the newest row's first request to its last answer.
    """

    def __init__(self, name: str, config: ModbusConfig) -> None:
        """Prepare the sensors; touches no device."""
        super().__init__(name)
        self.config = config
        self.missed = 0
        self.round_trip_ns = 0
        self._registers = by_channel(config.registers)
        self._plan = plan_requests(list(self._registers.values()))
        self._link: _Link | None = None

    def _error(self, what: str, fix: str) -> DeviceError:
        return DeviceError(f"sensors {self.name}: unit {self.config.unit} at {self.config.address} {what}; {fix}")

    def _connect(self) -> StreamInfo:
        """Open the way to the device and poll once, which alone proves that it is there and has these registers."""
        config = self.config
        try:
            tcp = _tcp_address(config.address)
            self._link = _Rtu(config) if tcp is None else _Tcp(tcp, config.timeout_s)
            self._poll()
        except _Missed as error:
            self._disconnect()
            raise self._error(str(error), "check unit, registers, baud and parity in the cell file") from None
        except PORT_ERRORS as error:
            self._disconnect()
            raise self._error(
                f"cannot be reached ({error})", "check the cable, and address in the cell file"
            ) from error
        except ValueError as error:
            raise self._error(f"was refused ({error})", "correct baud in the cell file") from error
        channels = tuple(self._registers)
        return StreamInfo(
            name=self.name,
            modality="sensors",
            rate_hz=config.rate_hz,
            channels=channels,
            units=tuple(CHANNEL_UNITS[channel] for channel in channels),
            dtype="float64",
            has_counter=True,
        )

    def _poll(self) -> list[float]:
        """Read all registers once."""
        assert self._link is not None
        values = [math.nan] * len(self._registers)
        for request in self._plan:
            answer = self._link.ask(self.config.unit, request.data)
            span = f"registers {request.first} to {request.first + request.words - 1}"
            if answer[0] & 0x80:
                raise _Missed(f"refuses {span} ({REFUSALS.get(answer[1], f'exception {answer[1]}')})")
            if answer[1] != 2 * request.words or len(answer) != 2 + 2 * request.words:
                raise _Missed(f"sent too few or too many values for {span}")
            for column, register in request.columns:
                at = 2 + 2 * (register.address - request.first)
                values[column] = register.value(answer[at : at + 2 * register.words])
        return values

    def _run(self) -> None:
        config = self.config
        period_ns = 1e9 / config.rate_hz
        begin_ns = answered_ns = time.monotonic_ns()
        slot = sent = missed = 0
        while True:
            due_ns = begin_ns + round(slot * period_ns)
            if self._stop.wait(max(0.0, (due_ns - time.monotonic_ns()) / 1e9)):
                return
            asked_ns = time.monotonic_ns()
            now_slot = max(slot, int((asked_ns - begin_ns) / period_ns))
            self.missed += now_slot - slot  # slots that went by while a poll took long
            slot = now_slot
            try:
                values = self._poll()
            except _Missed as error:
                self.missed += 1
                missed += 1
                if missed == 1:
                    log.warning("%s", self._error(f"{error} (poll {slot})", "a gap; more of them are only counted"))
                if time.monotonic_ns() - answered_ns > config.stale_s * 1e9:
                    raise self._error(f"{error} for {config.stale_s:g} s", "check the device and the cable") from None
            except PORT_ERRORS as error:
                raise self._error(f"broke off ({error})", "check the device and the cable") from error
            else:
                answered_ns = time.monotonic_ns()
                self.round_trip_ns = answered_ns - asked_ns
                self._put_row(sent, slot, values, answered_ns)
                sent += 1
            slot += 1

    def _put_row(self, sent: int, slot: int, values: list[float], arrival_ns: int) -> None:
        rows = SensorRows(
            first_row=slot,
            values=np.array([values], np.float64),
            t_device_ns=None,
            t_arrival_ns=np.array([arrival_ns], np.int64),
        )
        self._put(Packet(stream=self.name, seq=sent, t_arrival_ns=arrival_ns, payload=rows))

    def _disconnect(self) -> None:
        link, self._link = self._link, None
        if link is not None:
            try:
                link.close()
            except PORT_ERRORS as error:
                log.warning("%s: closing: %s", self.name, error)
