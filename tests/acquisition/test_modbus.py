"""Modbus sensors against pymodbus devices: known registers, an absolute schedule, answers that are late or wrong."""

import itertools
import math
import os
import pty
import socket
import struct
import threading
import tty

import pytest
from hypothesis import given
from hypothesis import strategies as st

from acquisition.driver import DeviceError
from acquisition.modbus import FORMATS, MOST_REGISTERS, ModbusConfig, ModbusSensors, Register, _checksum, plan_requests
from tests.acquisition.counterparts import free_port, wait_until
from tests.hotplug.modbus_counterpart import UNIT, RtuDevice, TcpDevice
from tests.hotplug.server_counterpart import rows_of

CLOCK = {"wire_mm": Register(address=0, type="uint32")}


@pytest.fixture
def device():
    device = TcpDevice(free_port())
    device.plug()
    yield device
    device.pull()


@pytest.fixture
def opened():
    """Open sensors that are closed again whatever happens."""
    drivers = []

    def open_sensors(**settings):
        sensors = ModbusSensors("plc", ModbusConfig(**{"unit": UNIT, "rate_hz": 50.0, "registers": CLOCK, **settings}))
        drivers.append(sensors)
        sensors.open()
        return sensors

    yield open_sensors
    for sensors in drivers:
        sensors.close()


@pytest.mark.parametrize("line", ["tcp", "rtu"])
def test_known_registers_are_found_again(line, tmp_path, opened):
    device = TcpDevice(free_port()) if line == "tcp" else RtuDevice(tmp_path)
    try:
        device.plug()
        registers = {
            "Wire Consumed": Register(address=0, type="uint32"),
            "pressure_bar": Register(address=2, type="int16", scale=0.1),
            "co2_flow_l_min": Register(address=3, type="float32", table="input", word_order="little"),
            "feed": Register(address=5, type="float32"),
            "voltage_v": Register(address=100),
        }
        sensors = opened(address=device.address, baud=115_200, registers=registers)
        assert sensors.info.channels == ("pressure_bar", "co2_flow_l_min", "feed", "wire_mm", "voltage_v")
        assert sensors.info.units == ("bar", "l/min", "", "mm", "V")
        assert (sensors.info.has_counter, sensors.info.device_clock) == (True, "none")
        for packet in rows_of(sensors, 10):
            pressure, flow, feed, clock_ms, voltage = packet.payload.values[0]
            assert (pressure, flow, voltage) == (pytest.approx(-0.5), 1.5, 7.0)
            assert math.isnan(feed)
            # Measured before the answer came, after the poll before.
            age_ms = (packet.t_arrival_ns // 10**6 - int(clock_ms)) % 2**32
            assert age_ms < 1000 * sensors.config.timeout_s
        assert sensors.round_trip_ns > 0
    finally:
        sensors.close()
        device.pull()


def test_a_missed_poll_is_a_gap_and_shifts_nothing(device, opened, caplog):
    sensors = opened(address=device.address, timeout_s=0.05, stale_s=10.0)
    before = rows_of(sensors, 5)[-1]
    device.server.freeze()
    wait_until(lambda: sensors.missed > 5, "polls are missed")
    device.server.thaw()
    packets = [before, *rows_of(sensors, 20)]
    jumps = [b.payload.first_row - a.payload.first_row for a, b in itertools.pairwise(packets)]
    assert max(jumps) > 5
    assert {packet.segment for packet in packets} == {0}
    for packet in packets:  # every row lies in its own slot, however late, and was measured there
        slots = (packet.t_arrival_ns - before.t_arrival_ns) / 20e6
        assert abs(slots - (packet.payload.first_row - before.payload.first_row)) < 1 + 50 * sensors.config.timeout_s
        age_ms = (packet.t_arrival_ns // 10**6 - int(packet.payload.values[0, 0])) % 2**32
        assert age_ms <= 50  # no answer to an earlier request was taken for one to this
    assert len(caplog.records) == 1
    assert "does not answer (poll " in caplog.records[0].getMessage()


def test_a_frozen_device_is_lost_and_can_be_closed(device, opened):
    sensors = opened(address=device.address, stale_s=0.5)
    rows_of(sensors, 3)
    device.server.freeze()
    wait_until(lambda: sensors.health().state == "lost", "the device is lost")
    assert "does not answer for 0.5 s; check" in sensors.health().problem
    sensors.close()
    device.server.thaw()
    assert sensors.health().state == "closed"


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"registers": {"feed": Register(address=200)}}, "refuses registers 200 to 200 (illegal data address); check"),
        ({"unit": UNIT + 1}, f"unit {UNIT + 1} at "),
        ({"address": "tcp://127.0.0.1:1"}, "cannot be reached ("),
        ({"address": "/dev/no-such-port"}, "cannot be reached ("),
    ],
)
def test_what_cannot_be_read_is_told_in_one_line(device, opened, settings, says):
    with pytest.raises(DeviceError) as caught:
        opened(**{"address": device.address, **settings})
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("answer", "says"), [(b"HTTP/1.1 400 Bad Request\r\n\r\n", "it speaks no Modbus TCP"), (b"", "it closed")]
)
def test_a_peer_of_another_protocol_is_told(opened, answer, says):
    with socket.create_server(("127.0.0.1", 0)) as server:

        def reply():
            peer, _ = server.accept()
            with peer:
                peer.recv(100)
                peer.sendall(answer)

        thread = threading.Thread(target=reply)
        thread.start()
        with pytest.raises(DeviceError, match=says):
            opened(address=f"tcp://127.0.0.1:{server.getsockname()[1]}")
        thread.join(5.0)


def test_a_garbled_answer_is_a_missed_poll(opened):
    device, port = pty.openpty()
    tty.setraw(port)
    good = bytes((UNIT, 3, 4, 0, 0, 0, 42))
    frames = [good + _checksum(good), good + b"\0\0", b"\7" + good[1:] + _checksum(b"\7" + good[1:])]
    stop = threading.Event()

    def reply():
        for number in range(10**6):
            if os.read(device, 100) == b"end" or stop.is_set():
                return
            os.write(device, frames[number % 3])

    thread = threading.Thread(target=reply)
    thread.start()
    try:
        sensors = opened(address=os.ttyname(port))
        rows = rows_of(sensors, 5)
        assert [packet.payload.values[0, 0] for packet in rows] == [42.0] * 5
        assert sensors.missed >= 8
        assert rows[-1].payload.first_row - rows[0].payload.first_row >= 12
    finally:
        stop.set()
        sensors.close()
        os.write(port, b"end")
        thread.join(5.0)
        os.close(device)
        os.close(port)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"address": "tcp:192.168.1.9"}, "write tcp://HOST:PORT"),
        ({"registers": {}}, "registers are empty"),
        ({"registers": {"heat": Register(address=1)}}, "'heat'"),
        ({"registers": {"feed": Register(address=1), "Feed": Register(address=2)}}, "twice"),
        ({"unit": 300}, "unit is 300"),
        ({"rate_hz": 0.0}, "rate_hz"),
        ({"timeout_s": 2.0}, "timeout_s"),
    ],
)
def test_impossible_settings_are_refused(settings, says):
    with pytest.raises(ValueError, match=says):
        ModbusConfig(**{"address": "tcp://plc", "registers": CLOCK, **settings})
    with pytest.raises(ValueError, match="address 65535 is no register"):
        Register(address=65535, type="float32")


def test_the_checksum_is_that_of_the_standard():
    assert _checksum(b"123456789") == bytes.fromhex("374b")


@given(
    st.lists(
        st.builds(
            Register,
            address=st.integers(0, 400),
            type=st.sampled_from(list(FORMATS)),
            table=st.sampled_from(["holding", "input"]),
        ),
        min_size=1,
        max_size=6,
    )
)
def test_requests_read_what_was_named_and_nothing_else(registers):
    plan = plan_requests(registers)
    assert sorted(column for request in plan for column, _ in request.columns) == list(range(len(registers)))
    for request in plan:
        asked = set(range(request.first, request.first + request.words))
        named = {r.address + i for _, r in request.columns for i in range(r.words)}
        assert asked == named
        assert request.words <= MOST_REGISTERS


@given(st.sampled_from(list(FORMATS)), st.integers(-(2**15), 2**15 - 1), st.booleans())
def test_values_survive_either_word_order(kind, number, little):
    number = abs(number) if kind.startswith("u") else number
    data = struct.pack(FORMATS[kind], number)
    sent = data[2:] + data[:2] if little else data
    register = Register(address=0, type=kind, word_order="little" if little else "big", scale=2.0)
    assert register.value(sent) == 2.0 * number
