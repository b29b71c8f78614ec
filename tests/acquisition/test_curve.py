"""Two processes over TCP: who has a key that is admitted gets and commands everything, everybody else nothing.

That a stranger gets nothing is shown by libzmq's own word that his handshake failed, not by waiting a while.
"""

import contextlib
import os
import random
import socket as plain_socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
import pytest
import zmq
from zmq.utils.monitor import recv_monitor_message

from acquisition.curve import Door, Gate
from acquisition.keys import CELL, CLIENTS, ClientKeys, KeyPair, KeysError, admit, make_keys, read_pair
from acquisition.transport import ControlClient, Publisher, Reply, Subscriber, TransportError
from acquisition.wire import PROTOCOL
from tests.acquisition.guarded_cell import GuardedCell, guarded_cell, problem, received

SHUTDOWN = (b"%d/1" % PROTOCOL, b"\x82\xa4kind\xa8shutdown\xa4data\x80")


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    """Give the cell's folder of keys."""
    folder = tmp_path / "keys"
    make_keys(folder, CELL)
    return folder


def client(keys: Path, name: str, *, admitted: bool = True) -> ClientKeys:
    own = make_keys(keys.parent / "elsewhere", name)
    if admitted:
        admit(keys, name, own.public)
    return ClientKeys(own=own, cell=read_pair(keys, CELL).public)


@pytest.fixture
def cell(keys: Path) -> Iterator[GuardedCell]:
    with guarded_cell(keys) as running:
        yield running


@contextlib.contextmanager
def stranger(kind: int, endpoint: str, own: KeyPair | None, server: bytes) -> "Iterator[zmq.Socket[bytes]]":
    """Attach by libzmq alone, as somebody who does not care for our rules would."""
    socket: zmq.Socket[bytes] = zmq.Context.instance().socket(kind)
    socket.setsockopt(zmq.LINGER, 0)
    if kind == zmq.SUB:
        socket.setsockopt(zmq.SUBSCRIBE, b"")
    if own is not None:
        socket.curve_publickey, socket.curve_secretkey, socket.curve_serverkey = own.public, own.secret, server
    try:
        yield socket
    finally:
        socket.close(0)


def handshake(socket: "zmq.Socket[bytes]", endpoint: str, *message: bytes) -> int:
    """Connect, send a message that waits for the handshake, and give the event by which that ended."""
    ends = zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_HANDSHAKE_FAILED_AUTH
    ends |= zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    monitor = socket.get_monitor_socket(ends)
    socket.connect(endpoint)
    if message:
        socket.send_multipart(message, zmq.NOBLOCK)
    assert monitor.poll(10_000), "the handshake did not end within 10 s"
    event = int(recv_monitor_message(monitor)["event"])
    socket.disable_monitor()
    monitor.close(0)
    return event


def test_who_is_admitted_gets_and_commands_everything(keys: Path, cell: GuardedCell) -> None:
    own = client(keys, "screen")
    subscriber = Subscriber(cell.data, keys=own)
    first = received(subscriber)
    following = [received(subscriber) for _ in range(50)]
    assert [packet.seq for packet in following] == list(range(first.seq + 1, first.seq + 51))
    assert subscriber.lost == {}
    assert subscriber.problem is None
    subscriber.close()
    assert cell.counts(own) == {"refused": 0, "unreadable": 0, "lines": [], "told": ["counts"]}


@pytest.mark.parametrize("who", ["own keys", "no keys", "wrong cell"])
def test_a_stranger_gets_and_commands_nothing(keys: Path, cell: GuardedCell, tmp_path: Path, who: str) -> None:
    """He knows the cell's public key, which is no secret; his own key is not admitted."""
    public = read_pair(keys, CELL).public
    own = None if who == "no keys" else make_keys(tmp_path / "strangers", "his")
    # In the third case the key would be admitted, but he takes another cell for this one.
    if who == "wrong cell":
        assert own is not None
        admit(keys, "his", own.public)
        public = make_keys(tmp_path / "other", CELL).public
    failed = {
        "own keys": {zmq.EVENT_HANDSHAKE_FAILED_AUTH},
        "no keys": {zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL, zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL},
        "wrong cell": {zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL},
    }[who]
    with stranger(zmq.SUB, cell.data, own, public) as ear:
        assert handshake(ear, cell.data) in failed
        assert not ear.poll(0)
    with stranger(zmq.DEALER, cell.control, own, public) as mouth:
        assert handshake(mouth, cell.control, *SHUTDOWN) in failed
        assert not mouth.poll(0)
    screen = client(keys, "screen")
    deadline = time.monotonic() + 10
    while (counts := cell.counts(screen))["refused"] < 2:
        assert time.monotonic() < deadline, counts
    assert "shutdown" not in counts["told"]
    assert len(counts["lines"]) in (1, 2)  # once per address, or once per door
    assert "let in" in counts["lines"][0]


def test_the_same_raw_request_with_a_key_is_obeyed(keys: Path, cell: GuardedCell) -> None:
    """Or the test above would show nothing."""
    own = client(keys, "screen")
    with stranger(zmq.DEALER, cell.control, own.own, own.cell) as mouth:
        assert handshake(mouth, cell.control, *SHUTDOWN) == zmq.EVENT_HANDSHAKE_SUCCEEDED
        assert mouth.poll(10_000)
    assert "shutdown" in cell.counts(own)["told"]


def test_one_who_is_admitted_later_gets_in_by_himself(keys: Path, cell: GuardedCell) -> None:
    own = client(keys, "screen", admitted=False)
    subscriber, control = Subscriber(cell.data, keys=own), ControlClient(cell.control, own)
    problem(subscriber, "this host's key is not admitted")
    with pytest.raises(TransportError, match=r"no answer to 'mark' within 0\.5 s; .*not admitted"):
        control.request("mark", timeout_s=0.5)
    admit(keys, "screen", own.own.public)
    received(subscriber)
    assert subscriber.problem is None
    deadline = time.monotonic() + 20
    answers: list[Reply] = []
    while not answers and time.monotonic() < deadline:
        with contextlib.suppress(TransportError):
            answers.append(control.request("mark", timeout_s=0.5))
    # Once it is in, no request may get lost in what is left of the refused connection.
    assert all(control.request("mark", timeout_s=5.0).ok for _ in range(10))
    subscriber.close()
    control.close()


def test_one_whose_key_is_taken_away_is_cut_off_and_the_others_stay(keys: Path, cell: GuardedCell) -> None:
    kept, gone = client(keys, "kept"), client(keys, "gone")
    staying, leaving = Subscriber(cell.data, keys=kept), Subscriber(cell.data, keys=gone)
    received(staying)
    received(leaving)
    (keys / CLIENTS / "gone.pub").unlink()
    assert problem(leaving, "not admitted") < 5
    while leaving.receive(0) is not None:
        pass
    before = received(staying).seq
    assert received(staying).seq > before
    assert leaving.receive(0) is None
    leaving.close()
    staying.close()


def test_a_frozen_cell_is_noticed_within_a_second_and_found_again(keys: Path, cell: GuardedCell) -> None:
    subscriber = Subscriber(cell.data, keys=client(keys, "screen"))
    received(subscriber)
    cell.freeze()
    try:
        noticed_s = problem(subscriber, "does not answer any more")
    finally:
        cell.thaw()
    while subscriber.problem is not None:
        last = received(subscriber).seq  # what had come before it froze, or since it is back
    assert received(subscriber).seq > last
    subscriber.close()
    print(f"frozen cell noticed after {noticed_s:.2f} s")  # noqa: T201  # a measurement, seen with -rP
    assert noticed_s < 1.0


def test_a_flood_of_rubbish_disturbs_nobody(keys: Path, cell: GuardedCell) -> None:
    """From strangers over plain TCP, and from somebody with a key whose program is broken."""
    own = client(keys, "screen")
    subscriber, done = Subscriber(cell.data, keys=own), threading.Event()
    received(subscriber)
    dice = random.Random(4)
    claims = (b"", b"\xff" + b"\0" * 8 + b"\1\x7f\3\0CURVE", b"\1\0", b"GET / HTTP/1.1\r\n\r\n")

    def flood() -> None:
        for number in range(150):
            address = urlsplit((cell.data, cell.control)[number % 2])
            where = (address.hostname, address.port)
            with plain_socket.create_connection(where, 10) as line, contextlib.suppress(OSError):
                line.sendall(claims[number % len(claims)] + dice.randbytes(dice.randrange(2000)))
        with stranger(zmq.DEALER, cell.control, own.own, own.cell) as mouth:
            assert handshake(mouth, cell.control) == zmq.EVENT_HANDSHAKE_SUCCEEDED
            for number in range(300):
                mouth.send_multipart([dice.randbytes(dice.randrange(40)) for _ in range(1 + number % 4)])
            mouth.send_multipart([b"%d/1" % PROTOCOL, b"\x91" * 100_000])
            mouth.send_multipart([b"%d/last" % PROTOCOL, b"\xdf\xff\xff\xff\xff"])
            while mouth.recv_multipart()[0] != b"%d/last" % PROTOCOL:
                pass
        done.set()

    thread = threading.Thread(target=flood, name="flood")
    thread.start()
    seen = 0
    while not done.is_set():
        assert received(subscriber) is not None
        seen += 1
    thread.join(10)
    assert seen > 0
    assert subscriber.lost == {}
    assert subscriber.unreadable == 0
    subscriber.close()
    assert cell.counts(own)["unreadable"] == 302


def test_a_peer_of_another_protocol_is_told_both_numbers(keys: Path, cell: GuardedCell) -> None:
    own = client(keys, "screen")
    with stranger(zmq.DEALER, cell.control, own.own, own.cell) as mouth:
        handshake(mouth, cell.control)
        for tag, theirs in ((b"7/1", "7"), (b"1", "1")):
            mouth.send_multipart([tag, b"whatever version 7 says"])
            assert mouth.poll(10_000)
            number, body = mouth.recv_multipart()
            assert number == tag
            told = f"peer speaks protocol {theirs}, this program {PROTOCOL}; restart both from one version"
            assert msgspec.msgpack.decode(body, type=Reply) == Reply(ok=False, message=told)


def test_this_host_needs_no_key_while_the_door_is_guarded(keys: Path, runtime_dir: Path) -> None:
    """The options that are set for the door must not hold for the endpoint that was bound before."""
    own = client(keys, "screen")
    gate = Gate(keys, print)
    door = Door(gate, "tcp://127.0.0.1:*")
    publisher = Publisher(f"ipc://{runtime_dir}/d", door)
    here, there = Subscriber(publisher.endpoint), Subscriber(door.endpoint, keys=own)
    heard: set[str] = set()
    deadline = time.monotonic() + 10
    while heard != {"here", "there"}:
        assert time.monotonic() < deadline, heard
        publisher.announce("x", {})
        publisher.beacon()
        for name, subscriber in (("here", here), ("there", there)):
            subscriber.receive(0.01)
            if subscriber._last:
                heard.add(name)
    for one in (here, there, publisher):
        one.close()
    with pytest.raises(TransportError, match="this process guards another cell already"):
        Gate(keys)
    gate.close()
    Gate(keys).close()


def test_a_door_that_cannot_open_is_one_clear_line(keys: Path, runtime_dir: Path) -> None:
    gate = Gate(keys, print)
    with plain_socket.create_server(("127.0.0.1", 0)) as other:
        taken = f"tcp://127.0.0.1:{other.getsockname()[1]}"
        for endpoint in (taken, "tcp://192.0.2.1:5570"):
            with pytest.raises(TransportError, match=f"^{endpoint}: .*; correct 'listen' in \\[network\\]$"):
                Publisher(f"ipc://{runtime_dir}/d", Door(gate, endpoint))
    gate.close()


def test_a_gate_without_keys_or_with_unsafe_ones_does_not_open(keys: Path, tmp_path: Path) -> None:
    with pytest.raises(KeysError, match="make keys with `keys NAME`"):
        Gate(tmp_path / "nowhere")
    client(keys, "screen")
    (keys / CLIENTS).chmod(0o777)
    lines: list[str] = []
    gate = Gate(keys, lines.append)
    assert gate.revocations == 0
    gate.close()
    clients = keys / CLIENTS
    assert lines == [f"{clients} may be changed by others; chmod 700 {clients}; until then nobody is let in"]
    os.chmod(keys / "cell.secret", 0o640)
    with pytest.raises(KeysError, match=r"may be read by others \(mode 0640\); chmod 600"):
        Gate(keys)
