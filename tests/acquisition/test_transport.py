import logging

import msgspec
import numpy as np
import pytest
import zmq

from acquisition.packet import ClockUpdate, Event, Packet, Photo, SampleBlock, SensorRows, VideoFrame
from acquisition.transport import ControlClient, ControlServer, Publisher, Reply, Request, Subscriber, TransportError
from acquisition.wire import MAX_REQUEST_BYTES, PROTOCOL, packet_frames
from recordings.status import DetectorStatus


@pytest.fixture
def endpoint(tmp_path_factory):
    return f"ipc://{tmp_path_factory.mktemp('s')}/e"


def until_subscribed(publisher, subscriber):
    """Publish probes until one arrives: a subscription takes a moment to reach the publisher."""
    for number in range(200):
        publisher.publish(Packet(stream="probe", seq=number, t_arrival_ns=number, payload=Event(kind="mark")))
        if subscriber.receive(0.05) is not None:
            break
    while subscriber.receive(0.05) is not None:
        pass


def packets():
    times = np.array([5, 6], np.int64)
    yield VideoFrame(pixels=np.arange(12, dtype=np.uint8).reshape(3, 4))
    yield SampleBlock(first_sample=7, rate_hz=16e3, samples=np.array([[1], [-2]], np.int16), t_adc_ns=3, overflow=True)
    yield SensorRows(first_row=2, values=np.array([[1.5, np.nan]]), t_device_ns=None, t_arrival_ns=times[:1])
    yield SensorRows(first_row=2, values=np.ones((2, 2)), t_device_ns=times, t_arrival_ns=times)
    yield Photo(name="a.jpg", data=b"\xff\xd8", weld_hint="w", view=2)
    yield ClockUpdate(of_stream="camera", segment=1, ref_ns=2, offset_ns=3, drift_ppb=-4, sigma_ns=5)
    yield Event(kind="gap", weld=None, t_ns=9, data={"missing": 3})


@pytest.mark.parametrize("payload", list(packets()), ids=lambda p: type(p).__name__)
def test_every_payload_arrives_unchanged(endpoint, payload):
    publisher, subscriber = Publisher(endpoint), Subscriber(endpoint)
    until_subscribed(publisher, subscriber)
    sent = Packet(stream="s", seq=3, t_arrival_ns=11, order=4, segment=2, t_device_ns=-1, payload=payload)
    publisher.publish(sent)
    got = subscriber.receive(2.0)
    assert isinstance(got, Packet)
    assert (got.stream, got.seq, got.t_arrival_ns, got.order, got.segment, got.t_device_ns) == ("s", 3, 11, 4, 2, -1)
    for name in type(payload).__dataclass_fields__:
        np.testing.assert_array_equal(getattr(got.payload, name), getattr(payload, name))
        assert type(getattr(got.payload, name)) is type(getattr(payload, name))
    publisher.close()
    subscriber.close()


def test_messages_are_typed_and_unknown_topics_are_skipped(endpoint):
    publisher, subscriber = Publisher(endpoint), Subscriber(endpoint, messages={"status": DetectorStatus})
    until_subscribed(publisher, subscriber)
    publisher.announce("other", DetectorStatus())
    publisher.announce("status", DetectorStatus(state="ready", latency_ms=(1.0, 2.0)))
    assert subscriber.receive(2.0) == ("status", DetectorStatus(state="ready", latency_ms=(1.0, 2.0)))
    publisher.close()
    subscriber.close()


def test_losses_in_the_middle_and_at_the_tail_are_counted(endpoint):
    """A reader with room for few messages loses some; numbers and the beacon must tell exactly how many."""
    publisher, subscriber = Publisher(endpoint), Subscriber(endpoint, queue=4)
    until_subscribed(publisher, subscriber)
    total = 6000
    frame = VideoFrame(pixels=np.zeros((64, 64), np.uint8))
    for number in range(total):
        publisher.publish(Packet(stream="camera", seq=number, t_arrival_ns=number, payload=frame))
    received = 0
    while subscriber.receive(0.5) is not None:
        received += 1
    publisher.beacon()
    assert subscriber.receive(0.5) is None
    assert 0 < received < total
    assert subscriber.lost["camera"] == total - received
    publisher.close()
    subscriber.close()


def test_a_command_is_answered_and_a_failing_handler_says_so(endpoint):
    def handle(request: Request) -> Reply:
        if request.kind == "bad":
            raise ValueError("no such weld")
        return Reply(ok=True, data=request.data)

    server, client = ControlServer(endpoint, handle), ControlClient(endpoint)
    assert client.request("label", {"label": 3}) == Reply(ok=True, data={"label": 3})
    client.send("ignored")
    assert client.request("bad") == Reply(ok=False, message="ValueError: no such weld")
    client.close()
    server.close()


def test_a_missing_server_is_one_clear_line(endpoint):
    client = ControlClient(endpoint)
    with pytest.raises(TransportError, match=r"no answer to 'arm' within 0\.05 s; is capture running"):
        client.request("arm", timeout_s=0.05)
    client.close()


def test_a_request_that_nobody_takes_is_dropped_and_counted():
    """Whoever sends must never be held up, by nobody being there least of all."""
    client = ControlClient("ipc:///nobody/there")
    while not client.dropped:
        client.send("detector")
    assert client.dropped == 1
    client.close()


@pytest.mark.parametrize("endpoint", ["tcp://0.0.0.0:*", "tcp://*:5570", "tcp://10.1.2.3:5570", "tcp://cell:5570"])
def test_plain_tcp_off_this_host_is_refused(endpoint):
    for make in (Publisher, lambda at: ControlServer(at, lambda request: Reply(ok=True)), Subscriber, ControlClient):
        with pytest.raises(TransportError, match="plain TCP stays on this host; make keys"):
            make(endpoint)


@pytest.mark.parametrize("endpoint", ["tcp://127.0.0.1:*", "tcp://localhost:*", "tcp://127.3.2.1:*"])
def test_plain_tcp_on_this_host_is_fine(endpoint):
    publisher = Publisher(endpoint)
    subscriber = Subscriber(publisher.endpoint)
    until_subscribed(publisher, subscriber)
    assert subscriber.problem is None
    publisher.close()
    subscriber.close()


@pytest.mark.parametrize("endpoint", ["udp://127.0.0.1:7", "5570", "tcp://127.0.0.1:none"])
def test_what_is_no_endpoint_is_said_so(endpoint):
    with pytest.raises(TransportError, match=endpoint):
        Publisher(endpoint)
    with pytest.raises(TransportError, match=endpoint):
        Subscriber(endpoint)


class RawPublisher:
    """Sends any frames, as a broken or foreign program would."""

    def __init__(self, endpoint):
        self.socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.XPUB)
        self.socket.bind(endpoint)

    def __enter__(self):
        return self

    def send(self, *frames):
        self.socket.send_multipart(frames)

    def __exit__(self, *_):
        self.socket.close(0)


FRAME = VideoFrame(pixels=np.ones((3, 4), np.uint8))
ROWS = SensorRows(first_row=0, values=np.ones((2, 1)), t_device_ns=None, t_arrival_ns=np.ones(2, np.int64))


def changed(payload, change):
    """Frames of a packet after `change(header, arrays)`, which returns both."""
    topic, head, *arrays = packet_frames(Packet(stream="s", seq=1, t_arrival_ns=1, payload=payload), 1)
    header, arrays = change(msgspec.msgpack.decode(head), [bytes(array) for array in arrays])
    return [topic, msgspec.msgpack.encode(header), *arrays]


def claim(dtype, shape, data=bytes(12)):
    return changed(FRAME, lambda header, arrays: ([*header[:4], [["pixels", dtype, shape]]], [data]))


def meta(of=FRAME, **fields):
    return changed(of, lambda header, arrays: ([*header[:3], {**header[3], **fields}, *header[4:]], arrays))


RUBBISH = {
    "one frame": [b"s\0"],
    "no topic": [b"s", b"\x90"],
    "topic of no text": [b"\xff\0", msgspec.msgpack.encode([PROTOCOL, 1, "beacon", {}, []])],
    "no msgpack": [b"s\0", b"\xc1\xc1"],
    "cut msgpack": [b"s\0", b"\xdd\xff\xff\xff\xff"],
    "deep msgpack": [b"s\0", b"\x91" * 100_000],
    "text of no UTF-8": [b"s\0", b"\xa2\xff\xfe"],
    "empty header": [b"s\0", b"\x90"],
    "unknown payload": changed(FRAME, lambda h, a: ([h[0], h[1], "os.system", *h[3:]], a)),
    "number too large": changed(FRAME, lambda h, a: ([h[0], 2**63, *h[2:]], a)),
    "array missing": changed(FRAME, lambda h, a: ([*h[:4], []], [])),
    "frame missing": changed(FRAME, lambda h, a: (h, [])),
    "frame too many": changed(FRAME, lambda h, a: (h, [*a, b""])),
    "array too many": changed(FRAME, lambda h, a: ([*h[:4], [*h[4], ["more", "|u1", [0]]]], [*a, b""])),
    "objects": claim("|O", [3, 4], bytes(96)),
    "structured": claim("|u1, |O", [3, 4]),
    "no dtype": claim("nonsense", [3, 4]),
    "another dtype": claim("<i4", [1, 3]),
    "another shape": claim("|u1", [12]),
    "shape too large": claim("|u1", [2**40, 2**40]),
    "shape that overflows to the right size": claim("|u1", [2**62, 8]),
    "negative shape": claim("|u1", [-3, -4]),
    "no pixels": claim("|u1", [0, 4], b""),
    "too few bytes": claim("|u1", [3, 4], bytes(11)),
    "text for a number": meta(seq="1"),
    "number beyond 64 bits": meta(t_arrival_ns=2**63),
    "fraction for a number": meta(order=1.5),
    "no payload": meta(payload=None),
    "payload of another kind": meta(ROWS, payload={}),
    "rows without times": changed(ROWS, lambda h, a: ([*h[:4], h[4][:1]], a[:1])),
    "more rows than times": changed(
        ROWS, lambda h, a: ([*h[:4], [h[4][0], ["t_arrival_ns", "<i8", [1]]]], [a[0], a[1][:8]])
    ),
}


@pytest.mark.parametrize("frames", RUBBISH.values(), ids=RUBBISH.keys())
def test_rubbish_is_counted_and_what_follows_is_read(endpoint, caplog, frames):
    caplog.set_level(logging.WARNING)
    good = Packet(stream="s", seq=1, t_arrival_ns=1, payload=FRAME)
    with RawPublisher(endpoint) as publisher:
        subscriber = Subscriber(endpoint)
        assert publisher.socket.poll(5000)  # it is subscribed
        publisher.send(*frames)
        publisher.send(*frames)
        publisher.send(*packet_frames(good, 3))
        got = subscriber.receive(5.0)
        assert isinstance(got, Packet)
        assert isinstance(got.payload, VideoFrame)
        np.testing.assert_array_equal(got.payload.pixels, FRAME.pixels)
        assert subscriber.unreadable == 2
        assert [r.getMessage().partition(" (")[0] for r in caplog.records] == [
            f"{endpoint}: message 1 that cannot be read"
        ]
        subscriber.close()


@pytest.mark.parametrize("head", [[7, 1, "beacon", {}, []], [7, "of", "another", "layout"], [7]])
def test_a_publisher_of_another_protocol_is_one_clear_line(endpoint, head):
    with RawPublisher(endpoint) as publisher:
        subscriber = Subscriber(endpoint)
        assert publisher.socket.poll(5000)
        publisher.send(b"s\0", msgspec.msgpack.encode(head))
        with pytest.raises(TransportError, match=f"^peer speaks protocol 7, this program {PROTOCOL}; restart both"):
            subscriber.receive(5.0)
        subscriber.close()


def test_a_message_that_says_something_else_is_one_clear_line(endpoint):
    with RawPublisher(endpoint) as publisher:
        subscriber = Subscriber(endpoint, messages={"status": DetectorStatus})
        assert publisher.socket.poll(5000)
        head = msgspec.msgpack.encode([PROTOCOL, 1, "message", {"state": 3}, []])
        publisher.send(b"@status\0", head)
        with pytest.raises(TransportError, match=r"^peer says '@status' otherwise \(.*; restart both from one version"):
            subscriber.receive(5.0)
        subscriber.close()


def test_a_request_longer_than_any_of_ours_does_not_arrive(endpoint):
    """The server sets no memory aside for it: libzmq drops the connection, which then comes back."""
    server = ControlServer(endpoint, lambda request: Reply(ok=True, data=request.data))
    client = ControlClient(endpoint)
    client.send("note", {"note": "x" * (MAX_REQUEST_BYTES + 1)})
    client.close()
    client = ControlClient(endpoint)
    assert client.request("note", {"note": "short"}).data == {"note": "short"}
    assert server.unreadable == 0
    client.close()
    server.close()
