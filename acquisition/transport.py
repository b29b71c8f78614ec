"""Typed messages between processes over ZeroMQ: packets, status and commands (`acquisition.wire` says how they look).

A publisher numbers every topic. A reader sees a jump in the numbers, and through a periodic beacon of last numbers also
a loss at the tail, so that no loss in transport goes unnoticed. Off this host everything is encrypted, and only who is
admitted gets or commands anything (`acquisition.curve`).
"""

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import msgspec
import zmq

from acquisition.curve import Connection, Door, bound_endpoint, require_this_host
from acquisition.keys import ClientKeys
from acquisition.packet import Packet
from acquisition.wire import (
    MAX_MESSAGE_BYTES,
    MAX_REQUEST_BYTES,
    PROTOCOL,
    Unreadable,
    UnreadableError,
    message_frames,
    other_protocol,
    packet_frames,
    read_header,
    read_packet,
    topic_frame,
)
from acquisition.wire import TransportError as TransportError

log = logging.getLogger(__name__)

BEACON: Final = "@beacon"
PING: Final = "ping"
"""A request that every control server answers itself, at once, with its clock (`acquisition.clock_probe`)."""


def _make_socket(kind: int, queue: int, longest_bytes: int) -> "zmq.Socket[bytes]":
    socket: zmq.Socket[bytes] = zmq.Context.instance().socket(kind)
    socket.set_hwm(queue)
    socket.setsockopt(zmq.LINGER, 200)
    socket.setsockopt(zmq.MAXMSGSIZE, longest_bytes)
    socket.setsockopt(zmq.HEARTBEAT_IVL, 1000)
    socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, 5000)
    return socket


@contextlib.contextmanager
def _closed_on_failure(socket: "zmq.Socket[bytes]", endpoint: str, fix: str) -> Iterator[None]:
    try:
        yield
    except zmq.ZMQError as error:
        socket.close(0)
        raise TransportError(f"{endpoint}: {error.strerror}; {fix}") from error
    except TransportError:
        socket.close(0)
        raise


def _bind(socket: "zmq.Socket[bytes]", endpoint: str, door: Door | None) -> str:
    """Bind to an endpoint of this host and to a door for others; returns the former as the system has it."""
    with _closed_on_failure(socket, endpoint, "stop the capture process that holds it"):
        require_this_host(endpoint)
        socket.bind(endpoint)
        bound = bound_endpoint(socket)
        if door is not None:
            door.open(socket)
    return bound


def _connect(socket: "zmq.Socket[bytes]", endpoint: str, keys: ClientKeys | None) -> Connection | None:
    """Connect to an endpoint of this host or, with keys, of any host."""
    with _closed_on_failure(socket, endpoint, "correct it"):
        if keys is not None:
            return Connection(socket, endpoint, keys)
        require_this_host(endpoint)
        socket.connect(endpoint)
    return None


class Publisher:
    """The publishing end, owned by one thread. Topics are stream names, or `@name` for typed messages."""

    QUEUE: Final = 2000
    """Messages a slow reader may lag behind; beyond it its newest are dropped, which it can count."""

    def __init__(self, endpoint: str, door: Door | None = None) -> None:
        """Bind to `endpoint` (`ipc://...` or `tcp://127.0.0.1:*`), and to `door` for readers on other hosts.

        Raises:
            TransportError: One is taken, or others could reach `endpoint`.
        """
        # Not XPUB, which would keep every subscription that nobody takes note of.
        self._socket = _make_socket(zmq.PUB, self.QUEUE, MAX_REQUEST_BYTES)
        self._numbers: dict[str, int] = {}
        self._door = door
        self.endpoint = _bind(self._socket, endpoint, door)

    def publish(self, packet: Packet) -> None:
        """Send one packet on the topic of its stream; never blocks."""
        self._socket.send_multipart(packet_frames(packet, self._number(packet.stream)), copy=True)

    def announce(self, topic: str, message: object) -> None:
        """Send one typed message (msgspec struct or dataclass) on topic `@topic`; never blocks."""
        self._say(f"@{topic}", "message", msgspec.to_builtins(message))

    def beacon(self) -> None:
        """Tell readers the last number of every topic; call about twice a second."""
        self._say(BEACON, "beacon", dict(self._numbers))
        if self._door is not None:
            self._door.renew(self._socket)

    def _say(self, topic: str, kind: str, meta: dict[str, Any]) -> None:
        self._socket.send_multipart(message_frames(topic, kind, meta, self._number(topic)), copy=True)

    def _number(self, topic: str) -> int:
        number = self._numbers.get(topic, 0) + 1
        self._numbers[topic] = number
        return number

    def close(self) -> None:
        """Release the socket."""
        if self._door is not None:
            self._door.close(self._socket)
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
        keys: ClientKeys | None = None,
    ) -> None:
        """Connect to a publisher; nobody need be there yet.

        Args:
            endpoint: The publisher's endpoint, or its door.
            topics: Stream names and `@name` topics to read; `""` reads everything.
            messages: Types of the `@name` messages, by name without the `@`.
            queue: Messages that may wait here.
            keys: For a publisher on another host.

        Raises:
            TransportError: The endpoint is none, or lies off this host and no keys are given.
        """
        self._socket = _make_socket(zmq.SUB, queue, MAX_MESSAGE_BYTES)
        self._messages = dict(messages or {})
        self._last: dict[str, int] = {}
        self._unreadable = Unreadable(endpoint)
        self.lost: dict[str, int] = {}
        for topic in topics:
            self._socket.setsockopt(zmq.SUBSCRIBE, topic_frame(topic) if topic else b"")
        if "" not in topics:
            self._socket.setsockopt(zmq.SUBSCRIBE, topic_frame(BEACON))
        self._connection = _connect(self._socket, endpoint, keys)

    @property
    def fd(self) -> int:
        """Edge-triggered file descriptor for an event loop; after it fires, `receive(0)` until None."""
        return int(self._socket.getsockopt(zmq.FD))

    @property
    def unreadable(self) -> int:
        """Messages ignored so far because they could not be read."""
        return self._unreadable.count

    @property
    def problem(self) -> str | None:
        """Why nothing comes from another host, in one line; None while connected, and for a publisher of this host."""
        if self._connection is None:
            return None
        self._connection.follow()
        return self._connection.problem

    def receive(self, timeout_s: float) -> Packet | tuple[str, Any] | None:
        """Take the next packet, or `(name, message)` of an announced topic; None when nothing came in time.

        What cannot be read is counted and skipped.

        Raises:
            TransportError: The publisher is of another version: it speaks another protocol, or says something else
                under a known name.
        """
        while True:
            if self._connection is not None:
                self._connection.follow()
            if not self._socket.poll(round(timeout_s * 1000)):
                return None
            try:
                item = self._read(self._socket.recv_multipart(copy=True))
            except UnreadableError as error:
                self._unreadable.add(error)
            else:
                if item is not None:
                    return item

    def _read(self, frames: list[bytes]) -> Packet | tuple[str, Any] | None:
        """Read one message; None for a beacon, and for a message of a topic that is not followed."""
        topic, header = read_header(frames)
        if header.kind == "beacon":
            for name, number in header.meta.items():
                if name in self._last and isinstance(number, int):
                    self._count(name, number, upto=True)
            return None
        if header.kind != "message":
            packet = read_packet(header, frames[2:])
            self._count(topic, header.number)
            return packet
        self._count(topic, header.number)
        kind = self._messages.get(topic[1:])
        if kind is None:
            return None
        try:
            return topic[1:], msgspec.convert(header.meta, kind)
        except (ValueError, RecursionError) as error:
            raise TransportError(f"peer says '{topic}' otherwise ({error}); restart both from one version") from error

    def _count(self, topic: str, number: int, *, upto: bool = False) -> None:
        last = self._last.get(topic)
        if last is not None and number > last:
            missing = number - last if upto else number - last - 1
            if missing:
                self.lost[topic] = self.lost.get(topic, 0) + missing
        self._last[topic] = max(number, last or 0)

    def close(self) -> None:
        """Release the socket."""
        if self._connection is not None:
            self._connection.close()
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

    def __init__(self, endpoint: str, handler: Callable[[Request], Reply], door: Door | None = None) -> None:
        """Bind and start serving, at `door` for clients on other hosts, too.

        Raises:
            TransportError: An endpoint is taken, or others could reach `endpoint`.
        """
        self._socket = _make_socket(zmq.ROUTER, 10_000, MAX_REQUEST_BYTES)
        self._door = door
        self.endpoint = _bind(self._socket, endpoint, door)
        self._handler = handler
        self._unreadable = Unreadable(self.endpoint)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="control-server", daemon=True)
        self._thread.start()

    @property
    def unreadable(self) -> int:
        """Requests so far that could not be read."""
        return self._unreadable.count

    def _serve(self) -> None:
        while not self._stop.is_set():
            if self._door is not None:
                self._door.renew(self._socket)
            if not self._socket.poll(100):
                continue
            received_ns = time.monotonic_ns()
            peer, *frames = self._socket.recv_multipart()
            if len(frames) != 2:
                self._unreadable.add(f"{len(frames)} frames")
                continue
            reply = self._answer(frames[0], frames[1], received_ns)
            self._socket.send_multipart([peer, frames[0], msgspec.msgpack.encode(reply)])
        if self._door is not None:
            self._door.close(self._socket)
        self._socket.close()

    def _answer(self, tag: bytes, body: bytes, received_ns: int) -> Reply:
        protocol, slash, _ = tag.partition(b"/")
        if protocol != b"%d" % PROTOCOL or not slash:
            theirs = protocol.decode(errors="replace")[:20] if slash else "1"
            self._unreadable.add(f"protocol {theirs}")
            return Reply(ok=False, message=other_protocol(theirs))
        try:
            request = msgspec.msgpack.decode(body, type=Request)
        except (ValueError, RecursionError) as error:
            self._unreadable.add(error)
            return Reply(ok=False, message=f"unreadable command: {error}; restart both sides from one version")
        if request.kind == PING:
            return Reply(ok=True, data={"received_ns": received_ns, "sent_ns": time.monotonic_ns()})
        try:
            return self._handler(request)
        except Exception as error:
            log.exception("a command failed")
            return Reply(ok=False, message=f"{type(error).__name__}: {error}")

    def close(self) -> None:
        """Stop serving and release the socket."""
        self._stop.set()
        self._thread.join(2.0)


class ControlClient:
    """Sends requests; owned by one thread.

    Attributes:
        endpoint: The server's endpoint.
        dropped: Requests that could not even be queued.
    """

    def __init__(self, endpoint: str, keys: ClientKeys | None = None) -> None:
        """Connect to a `ControlServer`, or with keys to its door; succeeds even if nobody is there yet.

        Raises:
            TransportError: The endpoint is none, or lies off this host and no keys are given.
        """
        self.endpoint = endpoint
        self._socket = _make_socket(zmq.DEALER, 10_000, MAX_REQUEST_BYTES)
        self._connection = _connect(self._socket, endpoint, keys)
        self._number = 0
        self.dropped = 0

    def send(self, kind: str, data: object = None) -> int:
        """Send a request without waiting; returns its number. Old answers are discarded.

        While nobody is there requests queue up to a limit; what is beyond it is dropped, and counted in `dropped`.
        """
        if self._connection is not None:
            self._connection.follow()
        while self._socket.poll(0):
            self._socket.recv_multipart()
        self._number += 1
        request = Request(kind=kind, data=msgspec.to_builtins(data) if data is not None else {})
        try:
            self._socket.send_multipart([self._tag(self._number), msgspec.msgpack.encode(request)], zmq.NOBLOCK)
        except zmq.Again:
            self.dropped += 1
        return self._number

    def request(self, kind: str, data: object = None, timeout_s: float = 2.0) -> Reply:
        """Send a request and wait for its answer.

        Raises:
            TransportError: No answer within `timeout_s`, or the key is not admitted.
        """
        tag = self._tag(self.send(kind, data))
        deadline = time.monotonic() + timeout_s
        while self._socket.poll(max(0, round((deadline - time.monotonic()) * 1000))):
            frames = self._socket.recv_multipart()
            if len(frames) == 2 and frames[0] == tag:
                try:
                    return msgspec.msgpack.decode(frames[1], type=Reply)
                except (ValueError, RecursionError) as error:
                    raise TransportError(f"{self.endpoint}: unreadable answer to '{kind}' ({error})") from error
        if self._connection is not None:
            self._connection.follow()
            if self._connection.problem is not None:
                raise TransportError(f"no answer to '{kind}' within {timeout_s:g} s; {self._connection.problem}")
        raise TransportError(f"{self.endpoint}: no answer to '{kind}' within {timeout_s:g} s; is capture running?")

    @staticmethod
    def _tag(number: int) -> bytes:
        """Name the protocol and the request; the answer carries the same."""
        return b"%d/%d" % (PROTOCOL, number)

    def close(self) -> None:
        """Release the socket."""
        if self._connection is not None:
            self._connection.close()
        self._socket.close(0)
