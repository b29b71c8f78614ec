import numpy as np
import pytest

from acquisition.packet import ClockUpdate, Event, Packet, Photo, SampleBlock, SensorRows, VideoFrame
from acquisition.transport import ControlClient, ControlServer, Publisher, Reply, Request, Subscriber, TransportError
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
