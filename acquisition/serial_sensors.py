"""Serial sensors: lines of separated values from a serial port, as rows of named channels.

A field that is no number becomes NaN, a device time that is none gets the one before, a line that does not fit is left
out, and all are counted; the first line after opening is left out too, because it may be the tail of one whose cut-off
number still looks like a number.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from acquisition.channels import CHANNEL_UNITS, CHANNELS, channel_of, scale_by_channel
from acquisition.device_count import DeviceSequence, PlacedItem
from acquisition.packet import StreamInfo
from acquisition.serial_port import SerialRows

LONGEST_LINE: Final = 4096
LARGEST_COUNT: Final = 1 << 62
"""No device counts so many rows, or nanoseconds."""

DEVICE_TIMES: Final[dict[str, int]] = {"device_ms": 1_000_000, "device_us": 1_000}
"""Columns of device time, in nanoseconds per unit."""


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
        known = (*CHANNELS, "seq", *DEVICE_TIMES, "-")
        meanings = [meaning for meaning in self.meanings if meaning != "-"]
        for column, meaning in zip(self.columns, self.meanings, strict=True):
            if meaning not in known:
                raise ValueError(f"unknown column '{column}'; use one of {', '.join(known)}")
            if meaning != "-" and meanings.count(meaning) > 1:
                raise ValueError(f"column '{column}' is there twice; mark the one to ignore with '-'")
        if sum(meaning in DEVICE_TIMES for meaning in meanings) > 1:
            raise ValueError("both device_ms and device_us are columns; mark one with '-'")
        if not self.channels:
            raise ValueError(f"columns name no channel; use one of {', '.join(CHANNELS)}")
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
        """The channels that are measured, in the order of `CHANNELS`."""
        return tuple(channel for channel in CHANNELS if channel in self.meanings)


class Row(NamedTuple):
    """One parsed line; `seq` and `device` are raw device counts (None where the line has none)."""

    seq: int | None
    device: int | None
    values: tuple[float, ...]


class RowParser:
    """Turns bytes into rows, and counts what could not be read.

    Attributes:
        bad_fields: Fields that were no number (delivered as NaN).
        bad_times: Device times that were no whole number (the row is delivered without).
        bad_lines: Lines left out: a wrong number of fields, a broken counter, or too long.
        problems: The first bad field, time and line since the port was opened, each in one line.
    """

    def __init__(self, config: SerialConfig) -> None:
        """Begin in the middle of a line: the first one is not trusted."""
        meanings = config.meanings
        factors = scale_by_channel(config.scale, config.channels)
        self._fields = len(meanings)
        self._columns = [(meanings.index(name), factor) for name, factor in zip(config.channels, factors, strict=True)]
        self._seq = meanings.index("seq") if "seq" in meanings else None
        self._device = next((i for i, name in enumerate(meanings) if name in DEVICE_TIMES), None)
        self._latest = 0 if self._device is None else LARGEST_COUNT // DEVICE_TIMES[meanings[self._device]]
        self._delimiter = config.delimiter.encode()
        self._decimal_comma = config.decimal_comma
        self.bad_fields = self.bad_times = self.bad_lines = 0
        self.problems: dict[str, str] = {}
        self.restart()

    def restart(self) -> None:
        """Begin in the middle of a line again; what was counted stays counted."""
        self._rest = b""
        self._skipping = True
        self.problems.clear()

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
        if len(line) > LONGEST_LINE:
            self._count_bad_line(f"a line of more than {LONGEST_LINE} bytes")
            return None
        fields = line.strip().split(self._delimiter)
        if len(fields) != self._fields:
            self._count_bad_line(f"{len(fields)} fields instead of {self._fields} in {line[:80]!r}")
            return None
        seq = None if self._seq is None else _count(fields[self._seq], LARGEST_COUNT)
        if seq is None and self._seq is not None:
            self._count_bad_line(f"a row number that is no whole number in {line[:80]!r}")
            return None
        device = None if self._device is None else _count(fields[self._device], self._latest)
        if device is None and self._device is not None:
            self.bad_times += 1
            self.problems.setdefault("time", f"a device time that is no whole number in {line[:80]!r}")
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
        self.problems.setdefault("field", f"{text[:40]!r} is no number")
        return math.nan

    def _count_bad_line(self, what: str) -> None:
        self.bad_lines += 1
        self.problems.setdefault("line", what)


def _count(text: bytes, largest: int) -> int | None:
    """The whole number that a text is, or None if it is none or larger than any device counts."""
    text = text.strip()
    if not text.isdigit() or len(text) > 20:  # a longer one would be costly to convert
        return None
    return count if (count := int(text)) <= largest else None


class SerialSensors(SerialRows[tuple[float, ...]]):
    """Lines of text from a serial port as a stream of sensor rows."""

    def __init__(self, name: str, config: SerialConfig) -> None:
        """Prepare the sensors; touches no device."""
        self._tick_ns = next((DEVICE_TIMES[name] for name in config.meanings if name in DEVICE_TIMES), 0)
        sequence: DeviceSequence[tuple[float, ...]] = DeviceSequence(config.rate_hz, self._tick_ns)
        super().__init__(name, config.port, config.baud, config.stale_s, sequence)
        self.config = config
        self.parser = RowParser(config)

    def _begin(self) -> StreamInfo:
        config = self.config
        self.parser.restart()
        return StreamInfo(
            name=self.name,
            modality="sensors",
            rate_hz=config.rate_hz,
            channels=config.channels,
            units=tuple(CHANNEL_UNITS[channel] for channel in config.channels),
            dtype="float64",
            has_counter="seq" in config.meanings,
            device_clock="stamps" if self._tick_ns else "none",
        )

    def _receive(self, data: bytes, arrival_ns: int) -> bool:
        placed: list[PlacedItem[tuple[float, ...]]] = []
        rows = self.parser.push(data)
        for row in rows:
            if row is None:
                self._sequence.skip()  # a line left out is a lost row
            else:
                placed += self._place(row.values, row.seq, row.device, arrival_ns)
        for kind, problem in self.parser.problems.items():
            self._say(kind, f"sent {problem}", "check columns, baud and cable")
        self._deliver(placed, self._tick_ns)
        return any(rows)

    def _values(self, rows: Sequence[tuple[float, ...]]) -> npt.NDArray[np.float64]:
        return np.array(rows, np.float64)
