"""Binary frames: the reference sketch on a real serial line, and a reader that no bytes can mislead."""

import binascii
import math
import struct
import time

import numpy as np
import pytest
from cobs import cobs
from hypothesis import given
from hypothesis import strategies as st

from acquisition.serial_frames import LONGEST_FRAME, Frame, FrameReader, SerialFrames, SerialFramesConfig
from tests.acquisition.arduino_board import CHANNELS, RATE_HZ, ArduinoBoard, row_numbers
from tests.acquisition.counterparts import Pty, wait_until

FRAMES = st.builds(
    Frame, st.integers(0, 255), st.integers(0, 2**32 - 1), st.integers(0, 2**50), st.binary(max_size=300)
)


def encoded(frame):
    """A frame as it is on the line, by an implementation of its own (`cobs`, `binascii`)."""
    body = struct.pack("<BIQ", frame.kind, frame.seq, frame.device_us) + frame.payload
    return cobs.encode(body + struct.pack("<H", binascii.crc_hqx(body, 0xFFFF))) + b"\0"


def sample(seq, *values, device_us=None):
    us = 1_000_000 + 1000 * seq if device_us is None else device_us
    return encoded(Frame(1, seq % 2**32, us, struct.pack(f"<{len(values)}f", *values)))


def beacon(second, seq=0):
    return encoded(Frame(2, seq, 1_000_000 * second, struct.pack("<I", second)))


def description(names, version=1, letter=b"f", rate_hz=1000.0):
    return encoded(Frame(0, 0, 0, struct.pack("<Bcf", version, letter, rate_hz) + names))


@pytest.fixture
def box():
    box = Pty()
    yield box
    box.unplug()


@pytest.fixture
def opened():
    """Open drivers that are closed again whatever happens."""
    drivers = []

    def open_frames(**settings):
        frames = SerialFrames("frames", SerialFramesConfig(**{"channels": CHANNELS, **settings}))
        drivers.append(frames)
        frames.open()
        return frames

    yield open_frames
    for frames in drivers:
        frames.close()


def rows_of(frames, n):
    """Read until `n` rows came; `(first_row, t_device_us, values, segment)` per row."""
    rows: list[tuple[int, int, list[float], int]] = []
    while len(rows) < n:
        packet = frames.read(5.0)
        assert packet is not None, f"only {len(rows)} of {n} rows came: {frames.health()}"
        block = packet.payload
        for i, values in enumerate(block.values.tolist()):
            rows.append((block.first_row + i, int(block.t_device_ns[i]) // 1000, values, packet.segment))
    return rows


# -- the reader ----------------------------------------------------------------------------------------------------


def test_the_crc_is_ccitt_false():
    assert binascii.crc_hqx(b"123456789", 0xFFFF) == 0x29B1


@given(st.lists(FRAMES, max_size=8), st.lists(st.integers(1, 80), max_size=30))
def test_frames_are_found_however_the_bytes_are_cut(frames, cuts):
    data = b"".join(encoded(frame) for frame in frames)
    reader, found, at = FrameReader(), [], 0
    for cut in cuts:
        found += reader.push(data[at : at + cut])
        at += cut
    assert found + reader.push(data[at:]) == frames
    assert not reader.faults


@given(st.lists(FRAMES, min_size=1, max_size=6, unique=True), st.data())
def test_a_flipped_bit_or_lost_byte_costs_its_frame_and_the_next_is_found(frames, data):
    line = [bytearray(encoded(frame)) for frame in frames]
    hit = data.draw(st.integers(0, len(frames) - 1))
    at = data.draw(st.integers(0, len(line[hit]) - 1))
    if data.draw(st.booleans()):
        line[hit][at] ^= 1 << data.draw(st.integers(0, 7))
    else:
        del line[hit][at]
    found = FrameReader().push(b"\0" + b"".join(line))
    # A delimiter that is hit merges two frames, or cuts one in two: at most these two are lost.
    kept = [*frames[:hit], *frames[hit + 2 :]]
    assert [frame for frame in found if frame in kept] == [frame for frame in frames if frame in kept]
    assert all(frame in frames for frame in found)


@given(st.binary(max_size=4000), FRAMES)
def test_random_bytes_give_nothing_and_the_next_frame_is_found(noise, frame):
    reader = FrameReader()
    found = reader.push(noise + b"\0" + encoded(frame))
    assert found[-1] == frame
    for wrong in found[:-1]:  # chance may make a frame, but only one whose CRC is right
        assert encoded(wrong)[:-1] in noise


def test_an_endless_frame_takes_bounded_memory_and_linear_time():
    reader, block = FrameReader(), b"\x55" * 65_536
    begin = time.process_time()
    for _ in range(160):  # 10 MB
        assert reader.push(block) == []
        assert len(reader._rest) <= LONGEST_FRAME
    assert time.process_time() - begin < 2.0
    frame = Frame(1, 7, 8, b"x")
    assert reader.push(b"\0" + encoded(frame)) == [frame]
    assert sum(reader.faults.values()) == 1


# -- the driver ----------------------------------------------------------------------------------------------------


def test_the_reference_sketch_is_understood(tmp_path, opened):
    board = ArduinoBoard(tmp_path)
    board.plug()
    try:
        frames = opened(port=str(board.port), rate_hz=RATE_HZ)
        begin_us = 2**32 - 500_000
        board.start(begin_us)  # micros() wraps after half a second
        rows = rows_of(frames, 300)
    finally:
        board.stop()
        board.unplug()
    numbers = [row[0] for row in rows]
    stamps_us = np.array([row[1] for row in rows])
    assert (frames.info.channels, frames.info.units) == (CHANNELS, ("A", "V"))
    assert (frames.info.has_counter, frames.info.device_clock) == (True, "stamps")
    assert numbers == list(range(numbers[0], numbers[0] + len(rows)))
    np.testing.assert_array_equal(row_numbers(np.array([row[2] for row in rows])), np.array(numbers) % 1024)
    assert stamps_us[0] < 2**32 < stamps_us[-1]
    assert np.median(np.diff(stamps_us)) == pytest.approx(1e6 / RATE_HZ, rel=0.1)
    assert {row[3] for row in rows} == {0}
    assert not frames.faults


def test_int16_is_scaled_and_its_least_number_is_not_measured(box, opened):
    frames = opened(
        port=box.path, channels=("-", "voltage_v", "Primary Weld Current"), format="int16", scale={"voltage_v": 0.01}
    )
    assert frames.info.channels == ("current_a", "voltage_v")
    box.write(encoded(Frame(1, 5, 9, struct.pack("<3h", 1, 2450, 177))))
    box.write(encoded(Frame(1, 6, 10, struct.pack("<3h", 1, 2451, -32768))))
    first, second = rows_of(frames, 2)
    assert first[2] == [177.0, 24.5]
    assert math.isnan(second[2][0])
    assert second[2][1] == pytest.approx(24.51)


@given(st.lists(st.binary(min_size=8, max_size=8), min_size=1, max_size=20))
def test_any_values_are_numbers_or_not_measured(payloads):
    frames = SerialFrames("frames", SerialFramesConfig(port="p", channels=CHANNELS))
    values = frames._values(payloads)
    assert values.shape == (len(payloads), 2)
    assert not np.isinf(values).any()
    expected = np.array([struct.unpack("<2f", payload) for payload in payloads])
    np.testing.assert_array_equal(values, np.where(np.isinf(expected), np.nan, expected))


def test_a_signalling_nan_is_not_measured():
    frames = SerialFrames("frames", SerialFramesConfig(port="p", channels=CHANNELS))
    assert np.isnan(frames._values([bytes.fromhex("0100807f0100807f")])).all()


def test_what_is_no_row_is_counted_and_told_once_each(box, opened, caplog):
    frames = opened(port=box.path)
    broken = bytearray(sample(3, 3.0, 4.0))
    broken[-4] ^= 0x10
    box.write(b"\0" + sample(1, 1.0, 2.0) + broken + broken + sample(5, math.inf, 4.0) + sample(6, 1.0))
    box.write(
        b"\x05\x01\0" + b"\x03\x01\x02\0" + encoded(Frame(9, 1, 1, b"")) + sample(7, 1.0, 2.0) + sample(7, 1.0, 2.0)
    )
    box.write(beacon(1) + beacon(4) + sample(8, 8.0, 8.0))
    rows = rows_of(frames, 4)
    assert [row[0] for row in rows] == [1, 5, 7, 8]
    np.testing.assert_array_equal(rows[1][2], [math.nan, 4.0])
    assert dict(frames.faults) == {
        "a frame with a wrong CRC": 2,
        "a frame of a wrong length": 1,
        "a frame that is cut or no COBS": 1,
        "a frame that is too short": 1,
        "a frame of an unknown type": 1,
        "a row twice": 1,
        "a second counter with a gap": 1,
    }
    wait_until(lambda: len(caplog.records) == 7, "every kind is told")
    assert len({record.getMessage() for record in caplog.records}) == 7
    assert all(record.getMessage().startswith(f"sensors frames: {box.path} sent a ") for record in caplog.records)


def test_a_wrapped_number_goes_on_and_a_restart_is_a_new_segment(box, opened):
    frames = opened(port=box.path)
    numbers = range(2**32 - 2, 2**32 + 2)
    box.write(b"".join(sample(number, 1.0, 2.0) for number in numbers))
    assert [(row[0], row[3]) for row in rows_of(frames, 4)] == [(number, 0) for number in numbers]
    box.write(b"\0" + b"".join(sample(number, 1.0, 2.0, device_us=500 + number) for number in range(3)))
    assert [(row[0], row[1], row[3]) for row in rows_of(frames, 3)] == [(0, 500, 1), (1, 501, 1), (2, 502, 1)]


@pytest.mark.parametrize(
    ("said", "problem"),
    [
        (description(b"current_a,voltage_v", version=2), "speaks version 2 of the frames, and this app version 1"),
        (description(b"voltage_v,current_a"), "sends 'voltage_v, current_a'; correct channels"),
        (description(b"current_a"), "sends 'current_a'; correct channels"),
        (description(b"current_a,voltage_v", letter=b"h"), "does not send float32; correct format"),
    ],
)
def test_a_device_that_contradicts_the_cell_file_gives_no_rows(box, opened, caplog, said, problem):
    frames = opened(port=box.path)
    box.write(said + sample(1, 1.0, 2.0) + said)
    wait_until(lambda: frames.health().state == "lost", "it is told", 2.0)
    assert problem in str(frames.health().problem)
    assert frames.read(0.1) is None
    assert len(caplog.records) == 1
    box.write(description(b"current_a,voltage_v") + sample(2, 1.0, 2.0))  # a new program was put on the board
    assert rows_of(frames, 1)[0][0] == 2
    wait_until(lambda: frames.health().state == "streaming", "it is back", 1.0)


def test_silence_says_whether_the_device_lives(box, opened):
    frames = opened(port=box.path, stale_s=0.3)
    box.write(sample(1, 1.0, 2.0) + beacon(1))
    rows_of(frames, 1)
    wait_until(lambda: frames.health().state == "lost", "the silence is seen", 2.0)
    assert "lives, but sent no values for 0.3 s; check what feeds the device" in str(frames.health().problem)
    box.write(sample(2, 1.0, 2.0))
    rows_of(frames, 1)
    frames._beacon_ns = 0
    wait_until(lambda: "sent no frame for 0.3 s" in str(frames.health().problem), "the silence is seen", 2.0)


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ({"channels": ("curent_a",)}, "channels: unknown 'curent_a'"),
        ({"channels": ("current_a", "Primary Weld Current ")}, "there twice"),
        ({"channels": ("-",)}, "channels name none"),
        ({"scale": {"feed": 2.0}}, "scale names 'feed'"),
        ({"rate_hz": 0.0}, "must be positive"),
    ],
)
def test_a_wrong_setting_is_refused(settings, what):
    with pytest.raises(ValueError, match=what):
        SerialFramesConfig(**{"port": "/dev/null", "channels": CHANNELS, **settings})
