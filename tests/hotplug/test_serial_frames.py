"""The reference sketch on a board of its own, its cable pulled and its power cut: every lost row is located."""

import random
import time

import pytest

from acquisition.serial_frames import SerialFrames, SerialFramesConfig
from tests.acquisition.arduino_board import CHANNELS, RATE_HZ, ArduinoBoard, row_numbers
from tests.acquisition.counterparts import wait_until
from tests.hotplug.pulls import PULLS, leak_check, report, returns, sensor_rows, stay_out


@pytest.fixture
def board(tmp_path):
    board = ArduinoBoard(tmp_path)
    board.plug()
    board.start()
    yield board
    board.stop()
    board.unplug()


@pytest.fixture
def frames(board):
    frames = SerialFrames("frames", SerialFramesConfig(port=str(board.port), channels=CHANNELS, rate_hz=RATE_HZ))
    yield frames
    frames.close()


def test_a_pulled_board_returns_twenty_times(board, frames):
    rng = random.Random(2)
    back = []
    with leak_check():
        frames.open()
        for segment in range(PULLS):
            last = frames.read(5.0)
            assert last is not None, frames.health()
            board.unplug()
            stay_out(frames, rng.uniform(0.1, 2.0))
            board.plug()
            back.append(returns(frames, segment, time.monotonic_ns()))
            before, after = sensor_rows(back[-1].before or last), sensor_rows(back[-1].after)
            assert before.t_device_ns is not None
            assert after.t_device_ns is not None
            missing = after.first_row - before.first_row - len(before.values)
            # The sketch counts its conversions in the values, modulo 1024: the rows between the two are the lost ones.
            told = row_numbers(after.values)[0] - row_numbers(before.values)[-1] - 1
            assert missing > 0
            assert (missing - told) % 1024 == 0
            seconds = (int(after.t_device_ns[0]) - int(before.t_device_ns[-1])) / 1e9
            # A busy machine takes the board's turns away; it takes fewer rows then, and says so in its numbers.
            assert missing <= seconds * RATE_HZ
        frames.close()
        board.unplug()
    report("serial frames", back)


ROWS_BEFORE = 50
"""Before that, a board that counts anew cannot be told from one that sent a row twice."""


def test_a_board_that_loses_power_returns_twenty_times(board, frames):
    back = []
    with leak_check():
        frames.open()
        for segment in range(PULLS):
            number = 0
            while number < ROWS_BEFORE:
                last = frames.read(5.0)
                assert last is not None, frames.health()
                number = row_numbers(sensor_rows(last).values)[-1]
            board.stop()
            wait_until(lambda: frames.read(0.0) is None, "what it sent has come")
            board.start()
            back.append(returns(frames, segment, time.monotonic_ns()))
            first = sensor_rows(back[-1].after)
            assert first.t_device_ns is not None
            assert (first.first_row, row_numbers(first.values)[0]) == (0, 0)  # it counts anew, from its first row
            assert int(first.t_device_ns[0]) < 1e9
        frames.close()
        board.stop()
    assert frames.health().problem is None
    report("serial frames, power", back)
