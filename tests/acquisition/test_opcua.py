"""OPC UA sensors against a real server: samples found again, rows joined by their stamps, wrong settings told."""

import asyncio
import math
import signal
import socket
import threading
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from acquisition.driver import DeviceError
from acquisition.opcua import APPLICATION_URI, OpcUaConfig, OpcUaSensors, _Value, join_values
from tests.acquisition.counterparts import free_port, wait_until
from tests.hotplug.opcua_counterpart import NODES, PASSWORD, USER, OpcUaDevice
from tests.hotplug.server_counterpart import rows_of


@pytest.fixture
def started():
    """Start servers in processes of their own."""
    devices = []

    def start(rate_hz=50.0, **settings):
        device = OpcUaDevice(free_port(), rate_hz, **settings)
        devices.append(device)
        device.start()
        return device

    yield start
    for device in devices:
        device.close()


@pytest.fixture
def opened():
    """Open sensors that are closed again whatever happens."""
    drivers = []

    def open_sensors(url, **settings):
        sensors = OpcUaSensors("plc", OpcUaConfig(url=url, **{"nodes": NODES, "rate_hz": 50.0, **settings}))
        drivers.append(sensors)
        sensors.open()
        return sensors

    yield open_sensors
    for sensors in drivers:
        sensors.close()


def table_of(packets):
    """All stamps (s) and values of the packets."""
    stamps = np.concatenate([packet.payload.t_device_ns for packet in packets]) / 1e9
    return stamps, np.concatenate([packet.payload.values for packet in packets])


def test_every_sample_is_found_again_with_its_stamp(started, opened):
    """Also at two publishings a second, for which the server must queue 25 samples; constants are samples too."""
    ahead_s = 3600.0
    device = started(ahead_s=ahead_s)
    sensors = opened(device.url, publish_ms=500.0, scale={"Wire Consumed": 0.5})
    assert sensors.info.channels == ("current_a", "wire_mm", "voltage_v")
    assert sensors.info.units == ("A", "mm", "V")
    assert (sensors.info.device_clock, sensors.info.has_counter) == ("stamps", False)
    packets = rows_of(sensors, 100)
    stamps, values = table_of(packets)
    numbers = values[:, 1] * 2
    assert (np.diff(numbers) == 1).all()
    assert np.abs(stamps - numbers / 50 - ahead_s).max() < 1e-5
    assert (values[:, 0] == 120.0).all()
    assert (values[:, 2] == 21.0).all()
    assert [p.payload.first_row for p in packets] == [0, *np.cumsum([len(p.payload.values) for p in packets])[:-1]]
    assert sensors.overflows == sensors.bad_values == 0


def test_values_stamped_apart_make_one_row_or_two(started, opened):
    device = started(apart_ms=4.0)
    _, joined = table_of(rows_of(opened(device.url, join_ms=5.0), 10))
    assert np.isfinite(joined[1:-1]).all()
    _, apart = table_of(rows_of(opened(device.url, join_ms=1.0), 20))
    assert (np.isfinite(apart[1:-1]).sum(axis=1) % 3 != 0).all()
    assert (np.isnan(apart[1:-1, 2]) == np.isfinite(apart[1:-1, 0])).all()


def test_a_node_of_text_is_not_measured_and_counted(started, opened, caplog):
    device = started()
    sensors = opened(device.url, nodes={**NODES, "feed": "ns=2;s=text"})
    _, values = table_of(rows_of(sensors, 5))
    assert np.isnan(values[:, 0]).all()
    assert sensors.bad_values >= 4
    told = [record.getMessage() for record in caplog.records if record.name.startswith("acquisition")]
    assert told == [f"sensors plc: {device.url} sends 'on' as node 'ns=2;s=text', which is no number; correct nodes"]


def test_a_frozen_server_is_lost_and_comes_back(started, opened):
    device = started()
    sensors = opened(device.url, stale_s=0.6)
    rows_of(sensors, 5)
    device.signal(signal.SIGSTOP)
    wait_until(lambda: sensors.health().state == "lost", "the server is lost")
    assert "gave no sign of life for 0.6 s" in sensors.health().problem or "broke off" in sensors.health().problem
    device.signal(signal.SIGCONT)
    wait_until(lambda: sensors.peek(0.2) is not None and sensors.peek(0.2).segment > 0, "the stream is back")


def test_closing_is_quick_while_the_server_is_frozen(started, opened):
    device = started()
    sensors = opened(device.url, stale_s=0.6)
    rows_of(sensors, 5)
    device.signal(signal.SIGSTOP)
    wait_until(lambda: sensors.health().state == "lost", "the server is lost")
    begin = time.monotonic()
    sensors.close()
    assert time.monotonic() - begin < 2.0
    device.signal(signal.SIGCONT)


def test_credentials_are_used_and_never_told(started, opened, caplog):
    caplog.set_level("DEBUG")
    device = started()
    rows_of(opened(device.url, username=USER, password=PASSWORD), 3)
    with pytest.raises(DeviceError, match=r"refuses us .*; check username, password and security") as caught:
        opened(device.url, username=USER, password="wr-ong")
    said = str(caught.value) + caplog.text + repr(OpcUaConfig(url=device.url, nodes=NODES, password=PASSWORD))
    assert PASSWORD not in said
    assert "wr-ong" not in said


def test_a_signed_and_encrypted_session(started, opened, tmp_path):
    from asyncua.crypto.cert_gen import setup_self_signed_certificate

    for who, uri in (("server", "urn:freeopcua:python:server"), ("client", APPLICATION_URI)):
        key, certificate = tmp_path / f"{who}.pem", tmp_path / f"{who}.der"
        asyncio.run(setup_self_signed_certificate(key, certificate, uri, socket.gethostname(), [], {}))
    device = started(certificates=tmp_path)
    files = f"{tmp_path / 'client.der'},{tmp_path / 'client.pem'},{tmp_path / 'server.der'}"
    rows_of(opened(device.url, security=f"Basic256Sha256,SignAndEncrypt,{files}"), 3)
    with pytest.raises(DeviceError, match="refuses us"):
        opened(device.url)
    with pytest.raises(DeviceError, match=r"there is no .*absent.der; correct security"):
        opened(
            device.url,
            security=f"Basic256Sha256,Sign,{tmp_path}/absent.der,{tmp_path}/client.pem::se-cret,{tmp_path}/server.der",
        )


def test_what_cannot_be_read_is_told_in_one_line(started, opened):
    device = started()
    for node, says in (
        ("ns=2;s=nothing", r"no usable node 'ns=2;s=nothing' \(Bad"),
        ("wire", "cannot have a node 'wire'"),
    ):
        with pytest.raises(DeviceError, match=says) as caught:
            opened(device.url, nodes={"feed": node})
        assert "\n" not in str(caught.value)
    with pytest.raises(DeviceError, match=r"opc.tcp://127.0.0.1:1 cannot be reached \("):
        opened("opc.tcp://127.0.0.1:1")


def test_a_peer_of_another_protocol_is_told(opened):
    with socket.create_server(("127.0.0.1", 0)) as server:

        def reply():
            peer, _ = server.accept()
            with peer:
                peer.recv(100)
                peer.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        thread = threading.Thread(target=reply)
        thread.start()
        with pytest.raises(DeviceError):
            opened(f"opc.tcp://127.0.0.1:{server.getsockname()[1]}")
        thread.join(5.0)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"url": "http://plc"}, "url must be opc.tcp"),
        ({"url": "opc.tcp://me:se-cret@plc"}, "without a user"),
        ({"nodes": {}}, "nodes are empty"),
        ({"nodes": {"heat": "i=1"}}, "no channel, 'heat'"),
        ({"nodes": {"feed": "i=1", "Feed": "i=2"}}, "twice a channel"),
        ({"scale": {"feed": 2.0}}, "scale names 'feed'"),
        ({"join_ms": 200.0}, "join_ms"),
        ({"stale_s": 0.1}, "stale_s"),
        ({"security": "Basic128,Sign,a,b::se-cret"}, "security must be"),
    ],
)
def test_impossible_settings_are_refused(settings, says):
    with pytest.raises(ValueError, match=says) as caught:
        OpcUaConfig(**{"url": "opc.tcp://plc:4840", "nodes": NODES, **settings})
    assert "se-cret" not in str(caught.value)


@given(
    st.lists(st.builds(_Value, st.integers(0, 50), st.integers(0, 3), st.floats(0, 1)), max_size=30), st.integers(0, 9)
)
def test_joining_loses_nothing_and_moves_nothing_far(values, join_ns):
    rows = join_values(values, join_ns)
    times = [t_ns for t_ns, _ in rows]
    assert times == sorted(times)
    assert sum(len(numbers) for _, numbers in rows) == len(values)
    left = list(values)
    for t_ns, numbers in rows:
        for column, number in numbers.items():
            left.remove(min(v for v in left if v[1:] == (column, number) and 0 <= v.t_ns - t_ns <= join_ns))
    assert not left
    assert not any(math.isnan(number) for _, numbers in rows for number in numbers.values())
