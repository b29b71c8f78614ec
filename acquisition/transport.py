"""Typed messages between processes over ZeroMQ: packets, status and commands; msgpack headers, raw arrays, no pickle.

A publisher numbers every topic. A reader sees a jump in the numbers, and through a periodic beacon of last numbers also
a loss at the tail, so that no loss in transport goes unnoticed.
"""

import logging
import threading
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec
import numpy as np
import zmq

from acquisition.packet import ClockUpdate, Event, Packet, Payload, Photo, SampleBlock, SensorRows, VideoFrame

log = logging.getLogger(__name__)

PROTOCOL: Final = 1
BEACON: Final = "@beacon"
_PAYLOADS: Final[dict[str, type[Payload]]] = {
    kind.__name__: kind for kind in (VideoFrame, SampleBlock, SensorRows, Photo, ClockUpdate, Event)
}
_ARRAYS: Final[dict[str, tuple[str, ...]]] = {
    "VideoFrame": ("pixels",),
    "SampleBlock": ("samples",),
    "SensorRows": ("values", "t_device_ns", "t_arrival_ns"),
}
MAX_MESSAGE_BYTES: Final = 256 * 2**20


class TransportError(Exception):
    """A peer is absent, silent or speaks another protocol; the message names endpoint and next step."""


class _Header(msgspec.Struct, array_like=True):
    """Message header: protocol, number on its topic, and what the frames behind it are."""

    protocol: int
    number: int
    kind: str
    meta: dict[str, Any]
    arrays: list[tuple[str, str, list[int]]] = []


def _encode_packet(packet: Packet) -> tuple[str, dict[str, Any], list[tuple[str, np.ndarray[Any, Any]]]]:
    payload = packet.payload
    kind = type(payload).__name__
    arrays = [(name, getattr(payload, name)) for name in _ARRAYS.get(kind, ())]
    kept = [(name, np.ascontiguousarray(array)) for name, array in arrays if array is not None]
    fields = {
        name: getattr(payload, name) for name in type(payload).__dataclass_fields__ if name not in _ARRAYS.get(kind, ())
    }
    meta = {
        "stream": packet.stream,
        "seq": packet.seq,
        "t_arrival_ns": packet.t_arrival_ns,
        "order": packet.order,
        "segment": packet.segment,
        "t_device_ns": packet.t_device_ns,
        "payload": fields,
    }
    return kind, meta, kept


def _decode_packet(kind: str, meta: dict[str, Any], arrays: dict[str, np.ndarray[Any, Any]]) -> Packet:
    fields = meta.pop("payload")
    for name in _ARRAYS.get(kind, ()):
        fields[name] = arrays.get(name)
    return Packet(payload=_PAYLOADS[kind](**fields), **meta)


def _set_limits(socket: zmq.Socket[bytes], queue: int) -> None:
    socket.set_hwm(queue)
    socket.setsockopt(zmq.LINGER, 200)
    socket.setsockopt(zmq.MAXMSGSIZE, MAX_MESSAGE_BYTES)
    socket.setsockopt(zmq.HEARTBEAT_IVL, 1000)
    socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, 5000)


class Publisher:
    """The publishing end, owned by one thread. Topics are stream names, or `@name` for typed messages."""

    QUEUE: Final = 2000
    """Messages a slow reader may lag behind; beyond it its newest are dropped, which it can count."""

    def __init__(self, endpoint: str) -> None:
        """Bind to `endpoint` (`ipc://...` or `tcp://127.0.0.1:*`); raises `TransportError` when it is taken."""
        self._socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.XPUB)
        _set_limits(self._socket, self.QUEUE)
        self._numbers: dict[str, int] = {}
        try:
            self._socket.bind(endpoint)
        except zmq.ZMQError as error:
            self._socket.close(0)
            raise TransportError(f"{endpoint}: {error.strerror}; stop the capture process that holds it") from error
        self.endpoint: str = self._socket.getsockopt(zmq.LAST_ENDPOINT).rstrip(b"\0").decode()

    def publish(self, packet: Packet) -> None:
        """Send one packet on the topic of its stream; never blocks."""
        kind, meta, arrays = _encode_packet(packet)
        self._send(packet.stream, kind, meta, arrays)

    def announce(self, topic: str, message: object) -> None:
        """Send one typed message (msgspec struct or dataclass) on topic `@topic`; never blocks."""
        self._send(f"@{topic}", "message", msgspec.to_builtins(message), [])

    def beacon(self) -> None:
        """Tell readers the last number of every topic; call about twice a second."""
        self._send(BEACON, "beacon", dict(self._numbers), [])

    def _send(
        self, topic: str, kind: str, meta: dict[str, Any], arrays: list[tuple[str, np.ndarray[Any, Any]]]
    ) -> None:
        number = self._numbers.get(topic, 0) + 1
        self._numbers[topic] = number
        shapes = [(name, array.dtype.str, list(array.shape)) for name, array in arrays]
        header = _Header(PROTOCOL, number, kind, meta, shapes)
        frames = [
            topic.encode() + b"\0",
            msgspec.msgpack.encode(header),
            *(a.data.cast("B") if a.size else b"" for _, a in arrays),
        ]
        self._socket.send_multipart(frames, copy=True)

    def close(self) -> None:
        """Release the socket."""
        self._socket.close()


class Subscriber:
    """The reading end, owned by one thread.

    Attributes:
        lost: Messages lost in transport so far, per topic (all subscribed topics).
    """

    def __init__(
        self,
        endpoint: str,
        topics: tuple[str, ...] = ("",),
        messages: Mapping[str, type[Any]] | None = None,
        queue: int = 2000,
    ) -> None:
        """Connect to a publisher.

        Args:
            endpoint: The publisher's endpoint.
            topics: Stream names and `@name` topics to read; `""` reads everything.
            messages: Types of the `@name` messages, by name without the `@`.
            queue: Messages that may wait here.
        """
        self._socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.SUB)
        _set_limits(self._socket, queue)
        self._messages = dict(messages or {})
        self._last: dict[str, int] = {}
        self.lost: dict[str, int] = {}
        for topic in topics:
            self._socket.setsockopt(zmq.SUBSCRIBE, topic.encode() + b"\0" if topic else b"")
        if "" not in topics:
            self._socket.setsockopt(zmq.SUBSCRIBE, BEACON.encode() + b"\0")
        self._socket.connect(endpoint)

    @property
    def fd(self) -> int:
        """Edge-triggered file descriptor for an event loop; after it fires, `receive(0)` until None."""
        return int(self._socket.getsockopt(zmq.FD))

    def receive(self, timeout_s: float) -> Packet | tuple[str, Any] | None:
        """Take the next packet, or `(name, message)` of an announced topic; None when nothing came in time.

        Raises:
            TransportError: The publisher speaks another protocol version.
        """
        while True:
            if not self._socket.poll(round(timeout_s * 1000)):
                return None
            topic_frame, head, *frames = self._socket.recv_multipart(copy=True)
            header = msgspec.msgpack.decode(head, type=_Header)
            if header.protocol != PROTOCOL:
                raise TransportError(
                    f"peer speaks protocol {header.protocol}, this program {PROTOCOL}; restart both from one version"
                )
            topic = topic_frame[:-1].decode()
            if header.kind == "beacon":
                for name, number in header.meta.items():
                    if name in self._last:
                        self._count(name, number, upto=True)
                continue
            self._count(topic, header.number)
            if header.kind == "message":
                kind = self._messages.get(topic[1:])
                if kind is None:
                    continue
                return topic[1:], msgspec.convert(header.meta, kind)
            arrays = {
                name: np.frombuffer(frame, dtype=np.dtype(dtype)).reshape(shape)
                for (name, dtype, shape), frame in zip(header.arrays, frames, strict=True)
            }
            return _decode_packet(header.kind, header.meta, arrays)

    def _count(self, topic: str, number: int, *, upto: bool = False) -> None:
        last = self._last.get(topic)
        if last is not None and number > last:
            missing = number - last if upto else number - last - 1
            if missing:
                self.lost[topic] = self.lost.get(topic, 0) + missing
        self._last[topic] = max(number, last or 0)

    def close(self) -> None:
        """Release the socket."""
        self._socket.close(0)


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """A command to the capture process: `kind` names it, `data` are its arguments."""

    kind: str
    data: dict[str, Any] = {}


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to a `Request`: `ok`, a line for the user, and data."""

    ok: bool
    message: str = ""
    data: dict[str, Any] = {}


class ControlServer:
    """Serves requests on a named thread; the handler must be quick or hand over to another thread."""

    def __init__(self, endpoint: str, handler: Callable[[Request], Reply]) -> None:
        """Bind and start serving; raises `TransportError` when the endpoint is taken."""
        self._socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.ROUTER)
        _set_limits(self._socket, 10_000)
        try:
            self._socket.bind(endpoint)
        except zmq.ZMQError as error:
            self._socket.close(0)
            raise TransportError(f"{endpoint}: {error.strerror}; stop the capture process that holds it") from error
        self.endpoint: str = self._socket.getsockopt(zmq.LAST_ENDPOINT).rstrip(b"\0").decode()
        self._handler = handler
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="control-server", daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while not self._stop.is_set():
            if not self._socket.poll(100):
                continue
            peer, number, body = self._socket.recv_multipart()
            try:
                reply = self._handler(msgspec.msgpack.decode(body, type=Request))
            except msgspec.MsgspecError as error:
                reply = Reply(ok=False, message=f"unreadable command: {error}; restart both sides from one version")
            except Exception as error:
                log.exception("a command failed")
                reply = Reply(ok=False, message=f"{type(error).__name__}: {error}")
            self._socket.send_multipart([peer, number, msgspec.msgpack.encode(reply)])
        self._socket.close()

    def close(self) -> None:
        """Stop serving and release the socket."""
        self._stop.set()
        self._thread.join(2.0)


class ControlClient:
    """Sends requests; owned by one thread."""

    def __init__(self, endpoint: str) -> None:
        """Connect to a `ControlServer`; succeeds even if nobody is there yet."""
        self.endpoint = endpoint
        self._socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.DEALER)
        _set_limits(self._socket, 10_000)
        self._socket.connect(endpoint)
        self._number = 0

    def send(self, kind: str, data: object = None) -> int:
        """Send a request without waiting; returns its number. Old answers are discarded."""
        while self._socket.poll(0):
            self._socket.recv_multipart()
        self._number += 1
        request = Request(kind=kind, data=msgspec.to_builtins(data) if data is not None else {})
        self._socket.send_multipart([str(self._number).encode(), msgspec.msgpack.encode(request)])
        return self._number

    def request(self, kind: str, data: object = None, timeout_s: float = 2.0) -> Reply:
        """Send a request and wait for its answer.

        Raises:
            TransportError: No answer within `timeout_s`.
        """
        number = self.send(kind, data)
        while self._socket.poll(round(timeout_s * 1000)):
            answered, body = self._socket.recv_multipart()
            if int(answered) == number:
                return msgspec.msgpack.decode(body, type=Reply)
        raise TransportError(f"{self.endpoint}: no answer to '{kind}' within {timeout_s:g} s; is capture running?")

    def close(self) -> None:
        """Release the socket."""
        self._socket.close(0)
