"""Serial sensors that send binary frames: COBS, CRC, item number and device time, with a beacon once a second.

What a frame holds, and a sketch for microcontrollers that sends it: docs/serial_frames.md. A frame with a wrong CRC is
never delivered; after any disturbance reading goes on at the next zero byte.
"""

import binascii
import struct
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from cobs import cobs

from acquisition.channels import CHANNEL_UNITS, CHANNELS, channel_of, scale_by_channel
from acquisition.device_count import DeviceSequence, PlacedItem
from acquisition.driver import DeviceError
from acquisition.packet import StreamInfo
from acquisition.serial_port import SerialRows

PROTOCOL_VERSION: Final = 1
DESCRIPTION: Final = 0
SAMPLES: Final = 1
BEACON: Final = 2

LONGEST_FRAME: Final = 1024
OVERLONG: Final = f"more than {LONGEST_FRAME} bytes without a zero"
LATEST_US: Final = (1 << 62) // 1000
BEACON_PATIENCE_NS: Final = 2_500_000_000
_HEADER: Final = struct.Struct("<BIQ")
_CRC: Final = struct.Struct("<H")
_BEACON: Final = struct.Struct("<I")
_DESCRIPTION: Final = struct.Struct("<Bcf")

_FORMATS: Final[dict[str, tuple[bytes, str]]] = {"float32": (b"f", "<f4"), "int16": (b"h", "<i2")}
_NOT_MEASURED: Final = -32768
"""The `int16` that says what a float32 says by NaN."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SerialFramesConfig:
    """Settings of a sensor box that sends frames.

    Attributes:
        port: Serial port (`/dev/ttyACM0`, `COM3`).
        channels: What each value of a frame is: a channel or its Weld-4M header, or `-` to ignore it.
        baud: Baud rate.
        format: How a value is sent.
        scale: Factor from the device's number to the channel's unit, by channel.
        rate_hz: Nominal rows per second.
        stale_s: The stream is lost after this long without a row; 0 for never.
    """

    port: str
    channels: tuple[str, ...]
    baud: int = 115_200
    format: Literal["float32", "int16"] = "float32"
    scale: dict[str, float] = field(default_factory=dict)
    rate_hz: float = 1000.0
    stale_s: float = 1.0

    def __post_init__(self) -> None:
        """Refuse settings that contradict each other."""
        meanings = [meaning for meaning in self.meanings if meaning != "-"]
        for channel, meaning in zip(self.channels, self.meanings, strict=True):
            if meaning not in (*CHANNELS, "-"):
                raise ValueError(f"channels: unknown '{channel}'; use one of {', '.join(CHANNELS)}, -")
            if meaning != "-" and meanings.count(meaning) > 1:
                raise ValueError(f"channels: '{channel}' is there twice; mark the one to ignore with '-'")
        if not meanings:
            raise ValueError(f"channels name none; use one of {', '.join(CHANNELS)}")
        for name in self.scale:
            if channel_of(name) not in meanings:
                raise ValueError(f"scale names '{name}', which is no channel; correct or remove it")
        if self.rate_hz <= 0 or self.stale_s < 0:
            raise ValueError(f"rate_hz ({self.rate_hz}) must be positive and stale_s ({self.stale_s}) not negative")

    @property
    def meanings(self) -> tuple[str, ...]:
        """What each value is, aliases resolved."""
        return tuple(channel_of(channel) or channel for channel in self.channels)


class Frame(NamedTuple):
    """A frame whose CRC is right."""

    kind: int
    seq: int
    device_us: int
    payload: bytes


class FrameReader:
    """Turns bytes into frames; memory is bounded whatever comes.

    Attributes:
        faults: How often something was no frame, by what it was instead.
    """

    def __init__(self, faults: Counter[str] | None = None) -> None:
        """Begin anywhere in a frame; count into `faults` if given."""
        self.faults: Counter[str] = Counter() if faults is None else faults
        self.restart()

    def restart(self) -> None:
        """Begin anywhere in a frame again: the rest of one that was cut by the opening is no fault."""
        self._rest = b""
        self._skipping = False
        self._first = True

    def push(self, data: bytes) -> list[Frame]:
        """Take bytes; give the frames that they complete."""
        *pieces, self._rest = (self._rest + data).split(b"\0")
        frames = []
        for piece in pieces:
            if piece and not self._skipping:
                frame = _parse(piece)
                if isinstance(frame, Frame):
                    frames.append(frame)
                elif not self._first:
                    self.faults[frame] += 1
            self._skipping = self._first = False
        if len(self._rest) > LONGEST_FRAME:
            if not self._skipping:
                self.faults[OVERLONG] += 1
            self._skipping = True
            self._rest = b""
        return frames


def _parse(piece: bytes) -> Frame | str:
    """The frame that stood between two zeros, or what it is instead."""
    if len(piece) > LONGEST_FRAME:
        return OVERLONG
    try:
        data = cobs.decode(piece)
    except cobs.DecodeError:
        return "a frame that is cut or no COBS"
    body = data[: -_CRC.size]
    if len(body) < _HEADER.size:
        return "a frame that is too short"
    if binascii.crc_hqx(body, 0xFFFF) != _CRC.unpack_from(data, len(body))[0]:
        return "a frame with a wrong CRC"
    kind, seq, device_us = _HEADER.unpack_from(body)
    if device_us > LATEST_US:
        return "a time that no clock shows"
    return Frame(kind, seq, device_us, body[_HEADER.size :])


class SerialFrames(SerialRows[bytes]):
    """Binary frames from a serial port as a stream of sensor rows."""

    def __init__(self, name: str, config: SerialFramesConfig) -> None:
        """Prepare the sensors; touches no device."""
        sequence: DeviceSequence[bytes] = DeviceSequence(config.rate_hz, 1000, seq_bits=(32,), tick_bits=())
        super().__init__(name, config.port, config.baud, config.stale_s, sequence)
        self.config = config
        self._letter, self._dtype = _FORMATS[config.format]
        self._row_bytes = np.dtype(self._dtype).itemsize * len(config.channels)
        self._channels = tuple(channel for channel in CHANNELS if channel in config.meanings)
        self._columns = [config.meanings.index(channel) for channel in self._channels]
        self._factors = np.array(scale_by_channel(config.scale, self._channels))
        self._reader = FrameReader(self.faults)
        self._beacon: int | None = None
        self._beacon_ns = 0
        self._refused = False

    def _begin(self) -> StreamInfo:
        self._reader.restart()
        self._beacon = None
        self._refused = False
        return StreamInfo(
            name=self.name,
            modality="sensors",
            rate_hz=self.config.rate_hz,
            channels=self._channels,
            units=tuple(CHANNEL_UNITS[channel] for channel in self._channels),
            dtype="float64",
            has_counter=True,
            device_clock="stamps",
        )

    def _receive(self, data: bytes, arrival_ns: int) -> bool:
        placed: list[PlacedItem[bytes]] = []
        for kind, seq, device_us, payload in self._reader.push(data):
            if kind == SAMPLES and len(payload) == self._row_bytes:
                if not self._refused:
                    placed += self._place(payload, seq, device_us, arrival_ns)
            elif kind == BEACON and len(payload) == _BEACON.size:
                self._take_beacon(_BEACON.unpack(payload)[0], arrival_ns)
            elif kind == DESCRIPTION and payload:
                self._take_description(payload)
            elif kind in (SAMPLES, BEACON, DESCRIPTION):
                self.faults["a frame of a wrong length"] += 1
            else:
                self.faults["a frame of an unknown type"] += 1
        self._deliver(placed, 1000)
        return bool(placed)

    def _values(self, rows: Sequence[bytes]) -> npt.NDArray[np.float64]:
        raw = np.frombuffer(b"".join(rows), self._dtype).reshape(len(rows), -1)[:, self._columns]
        with np.errstate(invalid="ignore"):  # a NaN may be a signalling one
            values = raw.astype(np.float64)
        values[raw == _NOT_MEASURED if raw.dtype.kind == "i" else np.isinf(raw)] = np.nan
        values *= self._factors
        return values

    def _take_beacon(self, second: int, arrival_ns: int) -> None:
        """Note that the device lives; a jump of its second counter is a lost beacon, a step back a restart."""
        if self._beacon is not None and second > self._beacon + 1:
            self.faults["a second counter with a gap"] += 1
        self._beacon, self._beacon_ns = second, arrival_ns

    def _silence(self) -> tuple[str, str]:
        if time.monotonic_ns() - self._beacon_ns < BEACON_PATIENCE_NS:
            return "lives, but sent no values", "check what feeds the device"
        return "sent no frame", "check the device and baud"

    def _take_description(self, payload: bytes) -> None:
        """Compare what the device says of itself with the cell file; while they contradict nothing is delivered."""
        error = self._contradiction(payload)
        self._refused = error is not None
        if error is not None:
            self._lose(error)

    def _contradiction(self, payload: bytes) -> DeviceError | None:
        config = self.config
        if payload[0] != PROTOCOL_VERSION:
            versions = f"version {payload[0]} of the frames, and this app version {PROTOCOL_VERSION}"
            return self._error(f"speaks {versions}", "update the older of the two")
        if len(payload) < _DESCRIPTION.size:
            self.faults["a frame of a wrong length"] += 1
            return None
        _, letter, rate_hz = _DESCRIPTION.unpack_from(payload)
        names = payload[_DESCRIPTION.size :].decode("ascii", "replace").split(",")
        if letter != self._letter:
            return self._error(f"does not send {config.format}", "correct format in the cell file")
        told = [channel_of(name) or name for name in names]
        if len(told) != len(config.meanings) or any(
            mine not in ("-", its) for mine, its in zip(config.meanings, told, strict=True)
        ):
            return self._error(f"sends {', '.join(names)[:200]!r}", "correct channels in the cell file")
        if not 0.8 < rate_hz / config.rate_hz < 1.25:
            self._say("rate", f"says that it sends {rate_hz:g} rows/s", "correct rate_hz in the cell file")
        return None
