"""Serial sensors over real pseudo-terminals: known rows, broken lines, a pulled cable."""

import math
import os
import time

import numpy as np
import pytest
import serial
from hypothesis import given
from hypothesis import strategies as st

from acquisition.driver import DeviceError
from acquisition.serial_port import LONGEST_READ
from acquisition.serial_sensors import LONGEST_LINE, Row, RowParser, SerialConfig, SerialSensors
from tests.acquisition.counterparts import Pty, SerialCable, wait_until

HEADER = ("seq", "device_ms", "Pressure", "CO2 Weld Flow", "Feed", "Primary Weld Current", "Wire Consumed")


def line(seq, *, current=120.5):
    return f"{seq},{1000 + 100 * seq},1.5,12.25,3,{current},{0.5 * seq}\r\n".encode()


def rows_of(sensors, n, timeout_s=5.0):
    """Read until `n` rows came; `(first_row, t_device_ns, values, segment)` per row."""
    rows: list[tuple[int, int | None, list[float], int]] = []
    while len(rows) < n:
        packet = sensors.read(timeout_s)
        assert packet is not None, f"only {len(rows)} of {n} rows came: {sensors.health()}"
        block = packet.payload
        stamps = [None] * len(block.values) if block.t_device_ns is None else block.t_device_ns.tolist()
        for i, values in enumerate(block.values):
            rows.append((block.first_row + i, stamps[i], values.tolist(), packet.segment))
    return rows


@pytest.fixture
def box():
    box = Pty()
    yield box
    box.unplug()


@pytest.fixture
def opened():
    """Open sensors that are closed again whatever happens."""
    drivers = []

    def open_sensors(**settings):
        sensors = SerialSensors("sensors", SerialConfig(**{"columns": HEADER, **settings}))
        drivers.append(sensors)
        sensors.open()
        return sensors

    yield open_sensors
    for sensors in drivers:
        sensors.close()


def test_known_rows_are_found_again(box, opened):
    sensors = opened(port=box.path, scale={"Wire Consumed": 10.0})
    assert sensors.info.channels == ("pressure_bar", "co2_flow_l_min", "feed", "current_a", "wire_mm")
    assert sensors.info.units == ("bar", "l/min", "", "A", "mm")
    assert (sensors.info.has_counter, sensors.info.device_clock) == (True, "stamps")
    begin_ns = time.monotonic_ns()
    box.write(b"9.9,1\r\n" + b"".join(line(seq) for seq in range(5, 105)))  # joined in the middle of a line
    rows = rows_of(sensors, 100)
    assert [row[0] for row in rows] == list(range(5, 105))
    assert [row[1] for row in rows] == [(1000 + 100 * seq) * 1_000_000 for seq in range(5, 105)]
    assert [row[2] for row in rows] == [[1.5, 12.25, 3.0, 120.5, 5.0 * seq] for seq in range(5, 105)]
    assert begin_ns < sensors.peek(60.0).t_arrival_ns < time.monotonic_ns()
    assert (sensors.parser.bad_fields, sensors.parser.bad_lines) == (0, 0)


def test_a_line_that_comes_in_pieces_is_one_row(box, opened):
    sensors = opened(port=box.path)
    box.write(b"\n" + line(1) + line(2)[:9])
    assert rows_of(sensors, 1)[0][0] == 1
    assert sensors.read(0.05) is None
    box.write(line(2)[9:-2])
    assert sensors.read(0.05) is None
    begin_ns = time.monotonic_ns()
    box.write(b"\r\n")
    packet = sensors.read(2.0)
    assert packet.payload.first_row == 2
    assert packet.t_arrival_ns >= begin_ns  # the stamp is that of the line's end


def test_bad_fields_are_nan_and_bad_lines_are_counted(box, opened, caplog):
    sensors = opened(port=box.path, columns=("-", "current_a", "voltage_v"))
    good = b"x,120,20\n"
    broken = [
        b"x,1e2x,21\n",
        b"x,120\n",
        b"x,1,2,3\n",
        b"\xff\xfe\x00\n",
        b"y" * 5000 + b"\n",
        b"x,,22\n",
        b"x,inf,1_0\n",
    ]
    box.write(b"\n" + good + b"".join(broken) + good)
    rows = rows_of(sensors, 5)
    expected = [[120.0, 20.0], [math.nan, 21.0], [math.nan, 22.0], [math.nan, math.nan], [120.0, 20.0]]
    np.testing.assert_array_equal([row[2] for row in rows], expected)
    assert [row[0] for row in rows] == [0, 1, 6, 7, 8]  # four lines left out are four rows lost
    assert (sensors.parser.bad_fields, sensors.parser.bad_lines) == (3, 4)  # an empty field is no error
    told = [record.getMessage() for record in caplog.records]
    assert told == [
        f"sensors sensors: {box.path} sent b'1e2x' is no number; check columns, baud and cable",
        f"sensors sensors: {box.path} sent 2 fields instead of 3 in b'x,120'; check columns, baud and cable",
    ]


STAMPED = ("seq", "device_ms", "current_a")


def test_a_line_cut_in_the_middle_costs_its_row_and_its_neighbour_at_most(box, opened, caplog):
    sensors = opened(port=box.path, columns=STAMPED)
    lines = [b"%d,%d,120\n" % (seq, 100 * seq) for seq in range(100, 120)]
    lines[5] = lines[5][:6]  # the rest of it and its end were lost: it runs into the next
    box.write(b"\n" + b"".join(lines))
    assert [row[0] for row in rows_of(sensors, 18)] == [*range(100, 105), *range(107, 120)]
    assert sensors.parser.bad_lines == 1
    assert len(caplog.records) == 1


def test_a_line_of_ten_megabytes_takes_bounded_memory_and_costs_one_row(box, opened, caplog):
    sensors = opened(port=box.path, columns=STAMPED, stale_s=0.0)
    box.write(b"\n1,100,120\n2,200,")
    begin = time.process_time()
    for _ in range(2560):
        box.write(b"9," * 2048)
        assert len(sensors.parser._rest) <= LONGEST_LINE + LONGEST_READ
    box.write(b"\n3,300,121\n")
    assert [row[0] for row in rows_of(sensors, 2)] == [1, 3]
    assert time.process_time() - begin < 5.0
    assert sensors.parser.bad_lines == 1
    told = [record.getMessage() for record in caplog.records]
    assert told == [
        f"sensors sensors: {box.path} sent a line of more than 4096 bytes; check columns, baud and cable",
    ]


@pytest.mark.parametrize("time_field", [b"nan", b"", b"12a4", b"-5", b"1e3", b"9" * 19, b"9" * 4000])
def test_a_device_time_that_is_none_costs_no_row(box, opened, caplog, time_field):
    sensors = opened(port=box.path, columns=STAMPED)
    box.write(b"\n1,100,120\n2,%s,121\n3,%s,122\n4,400,123\n" % (time_field, time_field))
    rows = rows_of(sensors, 4)
    assert [(row[0], row[2][0]) for row in rows] == [(1, 120.0), (2, 121.0), (3, 122.0), (4, 123.0)]
    assert [row[1] for row in rows] == [100_000_000, 100_000_000, 100_000_000, 400_000_000]  # the last one known
    assert (sensors.parser.bad_times, sensors.parser.bad_lines) == (2, 0)
    assert len(caplog.records) == 1
    assert "sent a device time that is no whole number" in caplog.text


@pytest.mark.parametrize("number", [b"nan", b"-1", b"1_0", b"9" * 19, b"9" * 4000, b"\xd9\xa1"])
def test_a_row_number_that_is_none_costs_its_row_only(box, opened, number):
    sensors = opened(port=box.path, columns=STAMPED)
    box.write(b"\n1,100,120\n%s,200,121\n3,300,122\n" % number)
    assert [row[0] for row in rows_of(sensors, 2)] == [1, 3]
    assert sensors.parser.bad_lines == 1
    assert sensors.health().state == "streaming"


def test_times_that_go_back_repeat_or_jump_cost_no_row_and_are_told_once(box, opened, caplog):
    sensors = opened(port=box.path, columns=STAMPED)
    stamps = [100, 110, 105, 130, 130, 150, 36_000_150, 170, 180]
    box.write(b"\n" + b"".join(b"%d,%d,120\n" % (7 + i, ms) for i, ms in enumerate(stamps)))
    rows = rows_of(sensors, len(stamps))
    assert [(row[0], row[3]) for row in rows] == [(7 + i, 0) for i in range(len(stamps))]
    assert [row[1] for row in rows] == [ms * 1_000_000 for ms in stamps]  # as they came: the clock judges them
    assert dict(sensors.faults) == {"a time stamp that does not fit": 2}
    wait_until(lambda: bool(caplog.records), "it is told")
    box.write(b"16,175,120\n17,195,120\n18,205,120\n")  # once more
    rows_of(sensors, 3)
    assert [record.getMessage() for record in caplog.records] == [
        f"sensors sensors: {box.path} sent a time stamp that does not fit; check the device, its settings and the cable"
    ]


def test_without_row_numbers_a_time_that_goes_back_once_costs_no_row(box, opened):
    sensors = opened(port=box.path, columns=("device_ms", "current_a"))
    stamps = [100, 110, 105, 130, 140]
    box.write(b"\n" + b"".join(b"%d,120\n" % ms for ms in stamps))
    assert [(row[0], row[3]) for row in rows_of(sensors, 5)] == [(i, 0) for i in range(5)]
    box.write(b"3,120\n13,120\n23,120\n")
    assert [(row[0], row[1], row[3]) for row in rows_of(sensors, 3)] == [
        (0, 3_000_000, 1),
        (1, 13_000_000, 1),
        (2, 23_000_000, 1),
    ]


def test_decimal_comma_and_semicolon(box, opened):
    sensors = opened(port=box.path, columns=("current_a", "voltage_v"), delimiter=";", decimal_comma=True)
    box.write(b"\n120,5; 21,25\n")
    assert rows_of(sensors, 1)[0][2] == [120.5, 21.25]
    assert sensors.info.device_clock == "none"


def test_a_lost_row_shows_in_the_count(box, opened):
    sensors = opened(port=box.path)
    box.write(b"\n" + line(1) + line(2) + line(5))
    assert [row[0] for row in rows_of(sensors, 3)] == [1, 2, 5]


def test_a_wrapped_counter_goes_on_and_a_restarted_one_begins_a_segment(box, opened):
    sensors = opened(port=box.path, columns=("seq", "current_a"))
    box.write(b"\n" + b"".join(b"%d,100\n" % (seq % 256) for seq in range(250, 260)))
    assert [(row[0], row[3]) for row in rows_of(sensors, 10)] == [(seq, 0) for seq in range(250, 260)]
    box.write(b"0,100\n1,100\n")
    assert [(row[0], row[3]) for row in rows_of(sensors, 2)] == [(0, 1), (1, 1)]


@given(st.binary(max_size=400), st.lists(st.integers(1, 50), max_size=20))
def test_the_parser_gives_the_same_rows_however_the_bytes_are_cut(data, cuts):
    config = SerialConfig(port="p", columns=("current_a", "voltage_v"))
    text = b"\n1,2\n" + data + b"\n3,4\n"
    whole = RowParser(config)
    rows = whole.push(text)
    pieces = RowParser(config)
    parts, at = [], 0
    for cut in cuts:
        parts += pieces.push(text[at : at + cut])
        at += cut
    parts += pieces.push(text[at:])
    assert repr(parts) == repr(rows)
    assert (pieces.bad_fields, pieces.bad_lines) == (whole.bad_fields, whole.bad_lines)
    assert rows[0] == Row(None, None, (1.0, 2.0))
    assert rows[-1] == Row(None, None, (3.0, 4.0))


def test_silence_is_lost_and_the_next_row_is_back(box, opened):
    sensors = opened(port=box.path, stale_s=0.2)
    box.write(b"\n" + line(1))
    rows_of(sensors, 1)
    wait_until(lambda: sensors.health().state == "lost", "the silence is seen", 2.0)
    assert "sent no row for 0.2 s" in sensors.health().problem
    box.write(line(2))
    assert rows_of(sensors, 1)[0][0] == 2
    wait_until(lambda: sensors.health().state == "streaming", "it is back", 1.0)
    assert sensors.health().problem is None


def test_an_unplugged_cable_returns_as_a_new_segment(tmp_path, opened):
    cable = SerialCable(tmp_path)
    cable.plug()
    try:
        sensors = opened(port=str(cable.port))
        cable.write(b"\n" + line(7))
        assert [(row[0], row[3]) for row in rows_of(sensors, 1)] == [(7, 0)]
        cable.unplug()
        wait_until(lambda: "does not exist; plug" in (sensors.health().problem or ""), "the loss is told", 3.0)
        assert sensors.health().state == "lost"
        cable.plug()
        wait_until(lambda: sensors.health().state == "streaming", "the port is open again", 4.0)
        cable.write(b"\n" + line(0) + line(1))
        assert [(row[0], row[3]) for row in rows_of(sensors, 2)] == [(0, 1), (1, 1)]
    finally:
        cable.unplug()


def test_a_pulled_device_is_told(box, opened):
    sensors = opened(port=box.path)
    box.write(b"\n" + line(1))
    rows_of(sensors, 1)
    box.unplug()
    wait_until(lambda: sensors.health().state == "lost", "the loss is seen", 2.0)
    assert str(sensors.health().problem).startswith(f"sensors sensors: {box.path} ")
    begin = time.monotonic()
    sensors.close()
    assert time.monotonic() - begin < 1.0


def test_an_absent_or_busy_port_says_what_to_do(tmp_path, box, opened):
    with pytest.raises(DeviceError) as absent:
        opened(port=str(tmp_path / "ttyUSB7"))
    assert str(absent.value) == (
        f"sensors sensors: {tmp_path / 'ttyUSB7'} does not exist; plug the device in or correct port in the cell file"
    )
    with serial.Serial(box.path, exclusive=True), pytest.raises(DeviceError, match="in use by another program; close"):
        opened(port=box.path)
    (tmp_path / "file").write_text("no port")
    with pytest.raises(DeviceError, match="correct port in the cell file"):
        opened(port=os.fspath(tmp_path / "file"))


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ({"columns": ("curent_a",)}, "unknown column 'curent_a'"),
        ({"columns": ("current_a", "Primary Weld Current ")}, "there twice"),
        ({"columns": ("seq", "-")}, "name no channel"),
        ({"columns": ("current_a", "device_ms", "device_us")}, "both device_ms and device_us"),
        ({"columns": ("current_a",), "scale": {"voltage_v": 2.0}}, "scale names 'voltage_v'"),
        ({"columns": ("current_a",), "decimal_comma": True}, "delimiter is ','"),
        ({"columns": ("current_a",), "rate_hz": 0.0}, "must be positive"),
    ],
)
def test_a_wrong_setting_is_refused(settings, what):
    with pytest.raises(ValueError, match=what):
        SerialConfig(port="/dev/null", **settings)
