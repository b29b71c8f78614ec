"""CurveZMQ for sockets that other hosts may reach: whom the cell lets in, and what becomes of a client's connection.

The cell's sockets are bound twice: for this host as ever, and at a `Door` for others. libzmq takes the options that
were set before a bind for that bind, so that nobody on this host needs a key. Without a running `Gate`, libzmq would
let in every stranger who knows the cell's public key (ZAP, RFC 27 of ZeroMQ).
"""

import ipaddress
import logging
import queue
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import zmq
from zmq.utils import z85
from zmq.utils.monitor import recv_monitor_message

from acquisition.keys import CELL, CLIENTS, ClientKeys, KeysError, read_clients, read_pair
from acquisition.wire import TransportError

log = logging.getLogger(__name__)

_ZAP: Final = "inproc://zeromq.zap.01"
_DOMAIN: Final = b"weld-4m"
_HEARTBEAT_MS: Final = (200, 600)
"""A peer that froze, or a cable that was pulled, is noticed in 0.8 s."""
_QUEUE: Final = 500
"""Messages that a client on another host may lag behind; some hundred of them may be frames of a megabyte."""
_REREAD_S: Final = 0.5
_ADDRESSES: Final = 100
"""Strangers' addresses that are told of one by one."""
_RETRY_S: Final = (1.0, 2.0, 4.0, 8.0)
_FAILED: Final = zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL


def require_this_host(endpoint: str) -> None:
    """Refuse an endpoint that others could reach without a key.

    Raises:
        TransportError: It is TCP off loopback, or no endpoint.
    """
    if endpoint.startswith(("ipc://", "inproc://")):
        return
    if not endpoint.startswith("tcp://"):
        raise TransportError(f"{endpoint}: no endpoint; write tcp://HOST:PORT")
    host = urlsplit(endpoint).hostname or "*"
    try:
        private = ipaddress.ip_address(host).is_loopback
    except ValueError:
        private = host == "localhost"
    if not private:
        raise TransportError(f"{endpoint}: plain TCP stays on this host; make keys with `keys NAME`, and give them")


def bound_endpoint(socket: "zmq.Socket[bytes]") -> str:
    """Give the endpoint that a socket was bound to last, as the system has it."""
    return socket.get_string(zmq.LAST_ENDPOINT).rstrip("\0")


class Gate:
    """Lets in whose public key lies in the folder `clients` of the cell's keys, which is read again while running.

    One per process; its thread answers libzmq's questions (ZAP) and follows what fails at the doors.

    Attributes:
        keys: The cell's own pair.
        refused: Attempts that were turned away: no key, another cell's key, or a key that is not admitted.
        revocations: Counts the times that a key was taken away.
    """

    def __init__(self, folder: Path, on_problem: Callable[[str], None] | None = None) -> None:
        """Start letting in.

        Args:
            folder: The cell's keys.
            on_problem: Called from the thread with a line for the user: about a stranger, or a file that is no key.

        Raises:
            KeysError: The cell has no keys, or they are unsafe.
            TransportError: This process has a gate already.
        """
        self.keys = read_pair(folder, CELL)
        self.refused = 0
        self.revocations = 0
        self._folder = folder
        self._on_problem = on_problem or (lambda line: log.warning("%s", line))
        self._told: set[str] = set()
        self._admitted: dict[bytes, str] = {}
        self._reread()
        self._monitors: queue.SimpleQueue[zmq.Socket[bytes]] = queue.SimpleQueue()
        self._stop = threading.Event()
        self._zap: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.REP)
        self._zap.setsockopt(zmq.LINGER, 0)
        try:
            self._zap.bind(_ZAP)
        except zmq.ZMQError as error:
            self._zap.close(0)
            raise TransportError("this process guards another cell already; start one process per cell") from error
        self._thread = threading.Thread(target=self._serve, name="gate", daemon=True)
        self._thread.start()

    def watch(self, monitor: "zmq.Socket[bytes]") -> None:
        """Take over the monitor of a door's socket, whose failures count from now on."""
        self._monitors.put(monitor)

    def _serve(self) -> None:
        poller = zmq.Poller()
        poller.register(self._zap, zmq.POLLIN)
        monitors: set[zmq.Socket[bytes]] = set()
        read_s = time.monotonic()
        while not self._stop.is_set():
            ready = dict(poller.poll(round(_REREAD_S * 1000 / 2)))
            while not self._monitors.empty():
                monitor = self._monitors.get()
                monitors.add(monitor)
                poller.register(monitor, zmq.POLLIN)
            if time.monotonic() - read_s >= _REREAD_S:
                self._reread()
                read_s = time.monotonic()
            if self._zap in ready:
                self._answer(self._zap.recv_multipart())
            for monitor in monitors & ready.keys():
                if not self._follow(monitor):
                    poller.unregister(monitor)
                    monitors.discard(monitor)
                    monitor.close(0)
        for monitor in (*monitors, *(self._monitors.get() for _ in range(self._monitors.qsize()))):
            monitor.close(0)
        self._zap.unbind(_ZAP)  # at once, where closing would free the name a little later
        self._zap.close(0)

    def _answer(self, request: list[bytes]) -> None:
        """Answer one ZAP request: version, number, domain, address, identity, mechanism, public key."""
        number, domain, address, mechanism = request[1], request[2], request[3].decode(errors="replace"), request[5]
        key = z85.encode(request[6]) if mechanism == b"CURVE" and len(request) == 7 else b""
        name = self._admitted.get(key)
        if name is None and key:
            self._reread()  # somebody may just have been admitted
            name = self._admitted.get(key)
        if name is None or domain != _DOMAIN:
            shown = key.decode()[:8] or "no key"
            listed = self._folder / CLIENTS
            self._refuse(f"{address} was not let in: its key ({shown}...) is not in {listed}", address)
            status, text, user = b"400", b"not admitted", b""
        else:
            log.info("%s attached from %s", name, address)
            status, text, user = b"200", b"OK", name.encode()
        self._zap.send_multipart([b"1.0", number, status, text, user, b""])

    def _follow(self, monitor: "zmq.Socket[bytes]") -> bool:
        """Count what failed before a key was asked for; False when the door's socket is closed."""
        while monitor.poll(0):
            event = recv_monitor_message(monitor)
            if event["event"] == zmq.EVENT_MONITOR_STOPPED:
                return False
            door = event["endpoint"].decode(errors="replace")
            self._refuse(f"somebody came to {door} without this cell's key, and was not let in", door)
        return True

    def _refuse(self, line: str, who: str) -> None:
        self.refused += 1
        if len(self._told) < _ADDRESSES:
            self._tell(line, who)

    def _tell(self, line: str, about: str) -> None:
        """Say a line once."""
        if about not in self._told:
            self._told.add(about)
            self._on_problem(line)

    def _reread(self) -> None:
        try:
            admitted, problems = read_clients(self._folder)
        except KeysError as error:
            admitted, problems = {}, [f"{error}; until then nobody is let in"]
        for line in problems:
            self._tell(line, line)
        if self._admitted.keys() - admitted.keys():
            self.revocations += 1
        self._admitted = admitted

    def close(self) -> None:
        """Stop; nobody is let in any more. Close the doors first."""
        self._stop.set()
        self._thread.join(2.0)


class Door:
    """The second endpoint of a server's socket, for other hosts; owned by the socket's thread.

    Attributes:
        endpoint: Where it is; with the port chosen by the system once it is open, if `*` was asked for.
    """

    def __init__(self, gate: Gate, endpoint: str) -> None:
        """Prepare a door at `tcp://ADDRESS:PORT`."""
        self.endpoint = endpoint
        self._gate = gate
        self._revocations = gate.revocations
        self._bound = False

    def open(self, socket: "zmq.Socket[bytes]") -> None:
        """Bind `socket` here, too; what it is bound to already stays as it is.

        Raises:
            TransportError: The address is not this host's, or taken.
        """
        self._gate.watch(
            socket.get_monitor_socket(_FAILED & ~zmq.EVENT_HANDSHAKE_FAILED_AUTH | zmq.EVENT_MONITOR_STOPPED)
        )
        socket.setsockopt(zmq.CURVE_SERVER, 1)
        socket.setsockopt(zmq.CURVE_SECRETKEY, self._gate.keys.secret)
        socket.setsockopt(zmq.ZAP_DOMAIN, _DOMAIN)
        socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)
        _set_network_limits(socket, self.endpoint)
        try:
            socket.bind(self.endpoint)
        except zmq.ZMQError as error:
            raise TransportError(f"{self.endpoint}: {error.strerror}; correct 'listen' in [network]") from error
        self.endpoint = bound_endpoint(socket)
        self._bound = True

    def renew(self, socket: "zmq.Socket[bytes]") -> None:
        """Call now and then: after a key was taken away, everybody is cut off, and who is still admitted comes back."""
        if self._bound and self._revocations != self._gate.revocations:
            self._revocations = self._gate.revocations
            socket.unbind(self.endpoint)
            self._bound = False
        elif not self._bound:
            try:
                socket.bind(self.endpoint)
            except zmq.ZMQError as error:  # libzmq lets the port go a moment later
                log.debug("%s: %s", self.endpoint, error.strerror)
            else:
                self._bound = True

    def close(self, socket: "zmq.Socket[bytes]") -> None:
        """Stop watching `socket`, which is about to be closed."""
        socket.disable_monitor()


class Connection:
    """A client's connection to a door: encrypted, watched, and made again after it was refused; owned by one thread.

    libzmq itself comes back after a loss, but gives up for good where it was refused; whoever is admitted later would
    wait in vain.

    Attributes:
        problem: Why nothing comes, in one line for the user; None while connected.
    """

    def __init__(self, socket: "zmq.Socket[bytes]", endpoint: str, keys: ClientKeys) -> None:
        """Connect `socket` to a cell; nobody need be there yet.

        Raises:
            TransportError: The endpoint is none.
        """
        self.problem: str | None = f"{endpoint}: the cell does not answer yet; is it running, and reachable from here?"
        self._socket = socket
        self._endpoint = endpoint
        self._retry_s: float | None = None
        self._refused = 0
        socket.curve_publickey, socket.curve_secretkey = keys.own.public, keys.own.secret
        socket.curve_serverkey = keys.cell
        socket.setsockopt(zmq.RECONNECT_IVL_MAX, 1000)
        _set_network_limits(socket, endpoint)
        self._monitor = socket.get_monitor_socket(
            _FAILED | zmq.EVENT_HANDSHAKE_FAILED_AUTH | zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED
        )
        try:
            socket.connect(endpoint)
        except zmq.ZMQError as error:
            self.close()
            raise TransportError(f"{endpoint}: {error.strerror}; write tcp://HOST:PORT") from error

    def follow(self) -> None:
        """Take note of what happened to the connection; call now and then, it costs microseconds."""
        while self._monitor.poll(0):
            event = recv_monitor_message(self._monitor)
            match event["event"]:
                case zmq.EVENT_HANDSHAKE_SUCCEEDED:
                    self.problem, self._retry_s, self._refused = None, None, 0
                case zmq.EVENT_HANDSHAKE_FAILED_AUTH:
                    self._fail("this host's key is not admitted; on the cell's host give its .pub file to `keys`")
                case zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL:
                    self._fail("what answers there does not speak as a cell does; check address and port")
                case zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL:
                    self.problem = f"{self._endpoint}: the handshake broke off; copy cell.pub anew from the cell's host"
                case _ if self.problem is None:
                    self.problem = f"{self._endpoint}: the cell does not answer any more; waiting for it to come back"
        if self._retry_s is not None and time.monotonic() >= self._retry_s:
            self._retry_s = None
            self._socket.disconnect(self._endpoint)  # without it, connecting there again does nothing
            self._socket.connect(self._endpoint)

    def _fail(self, why: str) -> None:
        """Remember why this was refused, and try again a little later."""
        self.problem = f"{self._endpoint}: {why}"
        self._retry_s = time.monotonic() + _RETRY_S[min(self._refused, len(_RETRY_S) - 1)]
        self._refused += 1

    def close(self) -> None:
        """Stop watching; the socket's owner closes it afterwards."""
        self._socket.disable_monitor()
        self._monitor.close(0)


def _set_network_limits(socket: "zmq.Socket[bytes]", endpoint: str) -> None:
    socket.set_hwm(_QUEUE)
    socket.setsockopt(zmq.IPV6, int("[" in endpoint))
    socket.setsockopt(zmq.HEARTBEAT_IVL, _HEARTBEAT_MS[0])
    socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, _HEARTBEAT_MS[1])
