"""Serial sensors: lines of separated values from a serial port, as rows of named channels.

Bytes are stamped when they arrive, before they are parsed. A field that is no number becomes NaN, a line that does not
fit is left out, and both are counted; the first line after opening is left out too, because it may be the tail of one
whose cut-off number still looks like a number.
"""

import errno
import logging
import math
import sys
import time
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import numpy as np
import serial

from acquisition.driver import DeviceError, ThreadedDriver
from acquisition.packet import SENSOR_CHANNELS, Packet, SensorRows, StreamInfo

if sys.platform == "win32":
    PORT_ERRORS: Final = (OSError,)
else:
    import termios

    PORT_ERRORS: Final = (OSError, termios.error)  # a pulled port raises either, and they are not related

log = logging.getLogger(__name__)

LONGEST_LINE: Final = 4096
FIRST_ROW_S: Final = 5.0
"""Many boards restart when their port is opened and say nothing for seconds."""

CHANNEL_UNITS: Final[dict[str, str]] = {
    "pressure_bar": "bar",
    "co2_flow_l_min": "l/min",
    "feed": "",
    "current_a": "A",
    "wire_mm": "mm",
    "voltage_v": "V",
}
CHANNEL_ALIASES: Final[dict[str, str]] = {
    **{channel: channel for channel in SENSOR_CHANNELS},
    "pressure": "pressure_bar",
    "co2 weld flow": "co2_flow_l_min",
    "primary weld current": "current_a",
    "wire consumed": "wire_mm",
    "secondary weld voltage": "voltage_v",
}
"""Channel by the names that cell files and Weld-4M headers use, in lower case and without spaces around them."""

DEVICE_TIMES: Final[dict[str, int]] = {"device_ms": 1_000_000, "device_us": 1_000}
"""Columns of device time, in nanoseconds per unit."""


def channel_of(column: str) -> str | None:
    """The channel that a column name or Weld-4M header means, or None."""
    return CHANNEL_ALIASES.get(column.strip().casefold())


@dataclass(frozen=True, slots=True, kw_only=True)
class SerialConfig:
    """Settings of a serial sensor box.

    Attributes:
        port: Serial port (`/dev/ttyUSB0`, `COM3`).
        columns: What each field of a line is: a channel or its Weld-4M header, `seq`, `device_ms`, `device_us`, or `-`.
        baud: Baud rate.
        scale: Factor from the device's number to the channel's unit, by channel.
        rate_hz: Nominal rows per second.
        delimiter: Between two fields.
        decimal_comma: Numbers are written 1,5.
        stale_s: The stream is lost after this long without a row; 0 for never.
    """

    port: str
    columns: tuple[str, ...]
    baud: int = 115_200
    scale: dict[str, float] = field(default_factory=dict)
    rate_hz: float = 9.0
    delimiter: str = ","
    decimal_comma: bool = False
    stale_s: float = 1.0

    def __post_init__(self) -> None:
        """Refuse settings that contradict each other."""
        known = (*SENSOR_CHANNELS, "seq", *DEVICE_TIMES, "-")
        meanings = [meaning for meaning in self.meanings if meaning != "-"]
        for column, meaning in zip(self.columns, self.meanings, strict=True):
            if meaning not in known:
                raise ValueError(f"unknown column '{column}'; use one of {', '.join(known)}")
            if meaning != "-" and meanings.count(meaning) > 1:
                raise ValueError(f"column '{column}' is there twice; mark the one to ignore with '-'")
        if sum(meaning in DEVICE_TIMES for meaning in meanings) > 1:
            raise ValueError("both device_ms and device_us are columns; mark one with '-'")
        if not self.channels:
            raise ValueError(f"columns name no channel; use one of {', '.join(SENSOR_CHANNELS)}")
        for name in self.scale:
            if channel_of(name) not in self.channels:
                raise ValueError(f"scale names '{name}', which is no column; correct or remove it")
        if len(self.delimiter) != 1 or (self.decimal_comma and self.delimiter == ","):
            raise ValueError(f"delimiter is '{self.delimiter}'; use one character, and not ',' beside decimal_comma")
        if self.rate_hz <= 0 or self.stale_s < 0:
            raise ValueError(f"rate_hz ({self.rate_hz}) must be positive and stale_s ({self.stale_s}) not negative")

    @property
    def meanings(self) -> tuple[str, ...]:
        """What each column is, aliases resolved."""
        return tuple(channel_of(column) or column for column in self.columns)

    @property
    def channels(self) -> tuple[str, ...]:
        """The channels that are measured, in the order of `SENSOR_CHANNELS`."""
        return tuple(channel for channel in SENSOR_CHANNELS if channel in self.meanings)


class Row(NamedTuple):
    """One parsed line; `seq` and `device` are raw device counts (None where the line has none)."""

    seq: int | None
    device: int | None
    values: tuple[float, ...]


class RowParser:
    """Turns bytes into rows, and counts what could not be read.

    Attributes:
        bad_fields: Fields that were no number (delivered as NaN).
        bad_lines: Lines left out: a wrong number of fields, a broken counter, or too long.
        problem: The first bad field or line, in one line, or None.
    """

    def __init__(self, config: SerialConfig) -> None:
        """Begin in the middle of a line: the first one is not trusted."""
        meanings = config.meanings
        scale = {channel_of(name): factor for name, factor in config.scale.items()}
        self._fields = len(meanings)
        self._columns = [(meanings.index(name), scale.get(name, 1.0)) for name in config.channels]
        self._seq = meanings.index("seq") if "seq" in meanings else None
        self._device = next((i for i, name in enumerate(meanings) if name in DEVICE_TIMES), None)
        self._delimiter = config.delimiter.encode()
        self._decimal_comma = config.decimal_comma
        self._rest = b""
        self._skipping = True
        self.bad_fields = 0
        self.bad_lines = 0
        self.problem: str | None = None

    def push(self, data: bytes) -> list[Row | None]:
        """Take bytes; give the rows that they complete, and None for every line left out."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        rows: list[Row | None] = []
        if self._skipping and lines:
            lines = lines[1:]
            self._skipping = False
        rows.extend(self._row(line) for line in lines if line.strip())
        if len(self._rest) > LONGEST_LINE and not self._skipping:
            self._count_bad_line(f"a line of more than {LONGEST_LINE} bytes")
            rows.append(None)
            self._skipping = True
        if self._skipping:
            self._rest = b""
        return rows

    def _row(self, line: bytes) -> Row | None:
        fields = line.strip().split(self._delimiter)
        if len(fields) != self._fields or len(line) > LONGEST_LINE:
            self._count_bad_line(f"{len(fields)} fields instead of {self._fields} in {line[:80]!r}")
            return None
        try:
            seq = None if self._seq is None else int(fields[self._seq])
            device = None if self._device is None else int(fields[self._device])
        except ValueError:
            self._count_bad_line(f"seq or device time is no whole number in {line[:80]!r}")
            return None
        return Row(seq, device, tuple(self._number(fields[i]) * factor for i, factor in self._columns))

    def _number(self, text: bytes) -> float:
        text = text.strip()
        if text.lower() in (b"", b"nan"):
            return math.nan  # the device says itself that it did not measure
        plain = text.replace(b",", b".") if self._decimal_comma else text
        try:
            value = float(plain)
        except ValueError:
            value = math.inf
        if math.isfinite(value) and b"_" not in text:
            return value
        self.bad_fields += 1
        self.problem = self.problem or f"{text[:40]!r} is no number"
        return math.nan

    def _count_bad_line(self, what: str) -> None:
        self.bad_lines += 1
        self.problem = self.problem or what


class DeviceCounter:
    """A device's counter made monotone over its wrap at 2^8, 2^16 or 2^32."""

    def __init__(self) -> None:
        self._last: int | None = None
        self._largest = 0
        self._base = 0

    def follow(self, raw: int, plausible: float) -> int | None:
        """The count without wraps, or None if the device began anew.

        Args:
            raw: The device's number.
            plausible: The largest step that a wrap may make; a longer one is a restart.
        """
        if self._last is not None and raw < self._last:
            turns = (1 << bits for bits in (8, 16, 32) if self._largest < 1 << bits)
            turn = next((turn for turn in turns if raw + turn - self._last <= plausible), None)
            if turn is None:
                return None
            self._base += turn
        self._last = raw
        self._largest = max(self._largest, raw)
        return self._base + raw


class _NumberedRow(NamedTuple):
    """A row with its monotone number and device time (0 where the device sends none)."""

    number: int
    t_device_ns: int
    values: tuple[float, ...]


class SerialSensors(ThreadedDriver):
    """A serial port as a stream of sensor rows.

    A board that restarts begins a new segment without the port being opened again; one that falls silent is `lost`
    until its next row (opening the port again would restart many boards once more).
    """

    def __init__(self, name: str, config: SerialConfig) -> None:
        """Prepare the sensors; touches no device."""
        super().__init__(name)
        self.config = config
        self.parser = RowParser(config)
        self._port: serial.Serial | None = None
        self._problem_said = False
        self._unit_ns = next((DEVICE_TIMES[name] for name in config.meanings if name in DEVICE_TIMES), 0)
        self._begin_segment()

    def _begin_segment(self) -> None:
        self._sent = 0
        self._rows = 0
        self._row_counter = DeviceCounter()
        self._time_counter = DeviceCounter()
        self._before_ns: int | None = None

    def _error(self, what: str, fix: str) -> DeviceError:
        return DeviceError(f"sensors {self.name}: {self.config.port} {what}; {fix}")

    def _connect(self) -> StreamInfo:
        config = self.config
        try:
            self._port = serial.Serial(config.port, config.baud, timeout=0.1, exclusive=True)
        except PORT_ERRORS as error:
            raise self._explained(error) from error
        except ValueError as error:
            raise self._error(f"was refused ({error})", "correct baud in the cell file") from error
        bad_fields, bad_lines = self.parser.bad_fields, self.parser.bad_lines
        self.parser = RowParser(config)
        self.parser.bad_fields, self.parser.bad_lines = bad_fields, bad_lines
        self._problem_said = False
        self._begin_segment()
        return StreamInfo(
            name=self.name,
            modality="sensors",
            rate_hz=config.rate_hz,
            channels=config.channels,
            units=tuple(CHANNEL_UNITS[channel] for channel in config.channels),
            dtype="float64",
            has_counter="seq" in config.meanings,
            device_clock="stamps" if self._unit_ns else "none",
        )

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
        port, stale_s = self._port, self.config.stale_s
        assert port is not None
        row_ns, patience_s = time.monotonic_ns(), max(FIRST_ROW_S, stale_s)
        while not self._stop.is_set():
            try:
                data = port.read(1)
                arrival_ns = time.monotonic_ns()
                if data:
                    data += port.read(port.in_waiting)
            except PORT_ERRORS as error:
                raise self._error(f"broke off ({error})", "check the plug and the cable") from error
            rows = self.parser.push(data)
            if rows:
                self._say_problem()
                self._deliver(rows, arrival_ns)
            if any(rows):
                row_ns, patience_s = arrival_ns, stale_s
                self._state = "streaming"
            elif stale_s and self._state == "streaming" and arrival_ns - row_ns > patience_s * 1e9:
                self._state = "lost"
                self._problem = str(
                    self._error(f"sent no row for {patience_s:g} s", "check the device, baud and columns")
                )
                log.warning("%s", self._problem)

    def _say_problem(self) -> None:
        """Log the first bad line or field of this opening; the rest are only counted."""
        if self.parser.problem is not None and not self._problem_said:
            self._problem_said = True
            log.warning("%s", self._error(f"sent {self.parser.problem}", "check columns, baud and cable"))

    def _deliver(self, rows: list[Row | None], arrival_ns: int) -> None:
        """Number the rows that arrived together and put them: one packet, unless there is a hole between them."""
        run: list[_NumberedRow] = []
        for row in rows:
            if row is None:
                self._rows += 1  # a line left out is a lost row
                continue
            numbered = self._numbered(row, arrival_ns)
            if numbered is None:
                self._put_run(run, arrival_ns)
                run = []
                log.warning("%s", self._error("began to count anew", "it restarted; a new segment begins"))
                self._segment += 1
                self._begin_segment()
                numbered = self._numbered(row, arrival_ns)
                assert numbered is not None
            if run and numbered.number != run[-1].number + 1:
                self._put_run(run, arrival_ns)
                run = []
            run.append(numbered)
        self._put_run(run, arrival_ns)

    def _numbered(self, row: Row, arrival_ns: int) -> _NumberedRow | None:
        """Give a row its monotone number and device time; None if the device began anew."""
        elapsed_s = 0.0 if self._before_ns is None else (arrival_ns - self._before_ns) / 1e9
        number = self._rows
        if row.seq is not None:
            followed = self._row_counter.follow(row.seq, plausible=16 + 4 * elapsed_s * self.config.rate_hz)
            if followed is None:
                return None
            number = followed
        t_device_ns = 0
        if row.device is not None:
            ticks = self._time_counter.follow(row.device, plausible=(2 + 2 * elapsed_s) * 1e9 / self._unit_ns)
            if ticks is None:
                return None
            t_device_ns = ticks * self._unit_ns
        self._rows = number + 1
        self._before_ns = arrival_ns
        return _NumberedRow(number, t_device_ns, row.values)

    def _put_run(self, run: list[_NumberedRow], arrival_ns: int) -> None:
        if not run:
            return
        stamped = self._unit_ns > 0
        self._put(
            Packet(
                stream=self.name,
                seq=self._sent,
                t_device_ns=run[0].t_device_ns if stamped else None,
                t_arrival_ns=arrival_ns,
                payload=SensorRows(
                    first_row=run[0].number,
                    values=np.array([row.values for row in run], np.float64),
                    t_device_ns=np.array([row.t_device_ns for row in run], np.int64) if stamped else None,
                    t_arrival_ns=np.full(len(run), arrival_ns, np.int64),
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
