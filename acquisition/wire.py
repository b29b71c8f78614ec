"""What goes between processes, as bytes: a msgpack header, then the raw arrays; no pickle, and nothing taken on trust.

A peer may be of another version, be no Weld-4M at all, or mean harm: whatever does not fit the packet types, and an
array of another type, shape or length than its header claims, is an `UnreadableError` before anything is made of it.
"""

import logging
import typing
from collections.abc import Sequence
from typing import Annotated, Any, Final, TypeAlias

import msgspec
import numpy as np

from acquisition.packet import ClockUpdate, Event, Packet, Payload, Photo, SampleBlock, SensorRows, VideoFrame

log = logging.getLogger(__name__)

PROTOCOL: Final = 2
"""Raised whenever a peer of the former version would misread something."""

MAX_MESSAGE_BYTES: Final = 256 * 2**20
"""Longest message of a publisher: a photo, or a frame of a very large camera."""

MAX_REQUEST_BYTES: Final = 2**20
"""Longest message to a publisher or control server, which must not set memory aside for what a stranger claims."""

Array: TypeAlias = np.ndarray[Any, Any]
_Int64 = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]

_ARRAYS: Final[dict[type[Payload], dict[str, tuple[tuple[str, ...], int, bool]]]] = {
    VideoFrame: {"pixels": (("|u1",), 2, True)},
    SampleBlock: {"samples": (("<i2", "<i4"), 2, True)},
    SensorRows: {
        "values": (("<f8",), 2, True),
        "t_device_ns": (("<i8",), 1, False),
        "t_arrival_ns": (("<i8",), 1, True),
    },
}
"""Arrays of a payload, by name: dtypes, dimensions, whether it must be there."""


def _scalars(kind: type[Payload]) -> type[msgspec.Struct]:
    """Make the type of a payload without its arrays."""
    hints = typing.get_type_hints(kind)
    fields = [(name, hints[name]) for name in kind.__dataclass_fields__ if name not in _ARRAYS.get(kind, ())]
    return msgspec.defstruct(f"{kind.__name__}Scalars", [(name, _Int64 if of is int else of) for name, of in fields])


_SCALARS: Final[dict[str, tuple[type[Payload], type[msgspec.Struct]]]] = {
    kind.__name__: (kind, _scalars(kind)) for kind in (VideoFrame, SampleBlock, SensorRows, Photo, ClockUpdate, Event)
}


class TransportError(Exception):
    """A peer is absent, silent or speaks another protocol; the message names endpoint and next step."""


class UnreadableError(ValueError):
    """A message is none of ours; says in a few words why."""


class Header(msgspec.Struct, array_like=True):
    """Message header: protocol, number on its topic, and what the frames behind it are (name, dtype, shape)."""

    protocol: int
    number: _Int64
    kind: str
    meta: dict[str, Any]
    arrays: list[tuple[str, str, list[int]]] = []


class _Meta(msgspec.Struct):
    """Everything of a packet but its payload's arrays."""

    stream: str
    seq: _Int64
    t_arrival_ns: _Int64
    order: _Int64
    segment: _Int64
    t_device_ns: _Int64 | None
    payload: dict[str, Any]


class Unreadable:
    """Counts messages that could not be read, and says so once in a while; owned by one thread.

    Attributes:
        count: Such messages so far.
    """

    def __init__(self, who: str) -> None:
        """Count for `who`, which the log line names."""
        self._who = who
        self.count = 0

    def add(self, why: object) -> None:
        """Count one; the 1st, 10th, 100th ... is logged."""
        self.count += 1
        if str(self.count).strip("0") == "1":
            log.warning("%s: message %d that cannot be read (%s); ignored", self._who, self.count, why)


def other_protocol(theirs: object) -> str:
    """Say in one line that a peer is of another version."""
    return f"peer speaks protocol {theirs}, this program {PROTOCOL}; restart both from one version"


def packet_frames(packet: Packet, number: int) -> list[Any]:
    """Give the frames that carry one packet as the `number`-th message of its stream's topic."""
    payload = packet.payload
    names = _ARRAYS.get(type(payload), {})
    arrays = [(name, getattr(payload, name)) for name in names]
    kept: list[tuple[str, Array]] = [(name, np.ascontiguousarray(array)) for name, array in arrays if array is not None]
    meta = {
        "stream": packet.stream,
        "seq": packet.seq,
        "t_arrival_ns": packet.t_arrival_ns,
        "order": packet.order,
        "segment": packet.segment,
        "t_device_ns": packet.t_device_ns,
        "payload": {name: getattr(payload, name) for name in payload.__dataclass_fields__ if name not in names},
    }
    shapes = [(name, array.dtype.str, list(array.shape)) for name, array in kept]
    header = Header(PROTOCOL, number, type(payload).__name__, meta, shapes)
    data = [array.data.cast("B") if array.size else b"" for _, array in kept]
    return [topic_frame(packet.stream), msgspec.msgpack.encode(header), *data]


def message_frames(topic: str, kind: str, meta: dict[str, Any], number: int) -> list[Any]:
    """Give the frames of a message without arrays."""
    return [topic_frame(topic), msgspec.msgpack.encode(Header(PROTOCOL, number, kind, meta))]


def topic_frame(topic: str) -> bytes:
    """Give a topic as subscribed to and sent: ended by a zero, so that none is the beginning of another."""
    return topic.encode() + b"\0"


def read_header(frames: Sequence[bytes]) -> tuple[str, Header]:
    """Read topic and header of a message.

    Raises:
        TransportError: It is of another protocol version.
        UnreadableError: It is no message of ours.
    """
    if len(frames) < 2 or not frames[0].endswith(b"\0"):
        raise UnreadableError(f"{len(frames)} frames without a topic and a header")
    try:
        header = msgspec.msgpack.decode(frames[1], type=Header)
        topic = frames[0][:-1].decode()
    except (ValueError, RecursionError) as error:
        theirs = _protocol_of(frames[1])
        if theirs not in (None, PROTOCOL):
            raise TransportError(other_protocol(theirs)) from error
        raise UnreadableError(str(error)) from error
    if header.protocol != PROTOCOL:
        raise TransportError(other_protocol(header.protocol))
    return topic, header


def _protocol_of(head: bytes) -> int | None:
    """Protocol of a header whose further layout is unknown."""
    try:
        first = msgspec.msgpack.decode(head, type=list[msgspec.Raw])[:1]
        return msgspec.msgpack.decode(first[0], type=int) if first else None
    except (ValueError, RecursionError):
        return None


def read_packet(header: Header, frames: Sequence[bytes]) -> Packet:
    """Make the packet of a header and the frames behind it.

    Raises:
        UnreadableError: They do not fit the packet types or each other.
    """
    if header.kind not in _SCALARS:
        raise UnreadableError(f"unknown payload '{header.kind[:40]}'")
    kind, scalars = _SCALARS[header.kind]
    try:
        meta = msgspec.convert(header.meta, _Meta)
        fields = msgspec.structs.asdict(msgspec.convert(meta.payload, scalars))
    except (ValueError, RecursionError) as error:
        raise UnreadableError(str(error)) from error
    payload = _payload(kind, fields | _read_arrays(kind, header, frames))
    if isinstance(payload, SensorRows):
        lengths = {len(a) for a in (payload.values, payload.t_device_ns, payload.t_arrival_ns) if a is not None}
        if len(lengths) != 1:
            raise UnreadableError(f"rows and their times differ in number: {sorted(lengths)}")
    return Packet(
        stream=meta.stream,
        seq=meta.seq,
        t_arrival_ns=meta.t_arrival_ns,
        payload=payload,
        order=meta.order,
        segment=meta.segment,
        t_device_ns=meta.t_device_ns,
    )


def _payload(kind: type[Payload], fields: dict[str, Any]) -> Payload:
    return kind(**fields)


def _read_arrays(kind: type[Payload], header: Header, frames: Sequence[bytes]) -> dict[str, Array | None]:
    """Look at the frames as the arrays that the header claims, if `kind` has such ones and the frames hold them."""
    if len(header.arrays) != len(frames):
        raise UnreadableError(f"{len(frames)} arrays where the header claims {len(header.arrays)}")
    given = {name: (dtype, shape, frame) for (name, dtype, shape), frame in zip(header.arrays, frames, strict=True)}
    found: dict[str, Array | None] = {}
    for name, (dtypes, dimensions, needed) in _ARRAYS.get(kind, {}).items():
        if name not in given:
            if needed:
                raise UnreadableError(f"{kind.__name__} without {name}")
            found[name] = None
            continue
        dtype, shape, frame = given.pop(name)
        if dtype not in dtypes or len(shape) != dimensions or min(shape) < (kind is VideoFrame):
            raise UnreadableError(f"{name} is {dtype[:20]} {shape[:8]}, not {' or '.join(dtypes)} of {dimensions} axes")
        items = 1
        for length in shape:
            items *= length
        if items * np.dtype(dtype).itemsize != len(frame):
            raise UnreadableError(f"{name} claims {dtype} {shape} and brings {len(frame)} bytes")
        found[name] = np.frombuffer(frame, dtype=dtype).reshape(shape)
    if given:
        raise UnreadableError(f"{kind.__name__} with an array '{next(iter(given))[:40]}'")
    return found
