"""A sensor box that sends lines, its cable pulled twenty times: every lost row is found by its number."""

import random
import time

from acquisition.serial_sensors import SerialConfig, SerialSensors
from tests.hotplug.pulls import PULLS, leak_check, report, returns, sensor_rows, stay_out
from tests.hotplug.text_board import COLUMNS, RATE_HZ, TextBoard


def test_a_pulled_serial_cable_returns_twenty_times(tmp_path):
    rng = random.Random(1)
    board = TextBoard(tmp_path)
    board.start()
    board.plug()
    sensors = SerialSensors("sensors", SerialConfig(port=board.port, columns=COLUMNS, rate_hz=RATE_HZ))
    back = []
    try:
        with leak_check():
            sensors.open()
            for segment in range(PULLS):
                last = sensors.read(5.0)
                assert last is not None, sensors.health()
                board.unplug()
                stay_out(sensors, rng.uniform(0.1, 2.0))
                board.plug()
                back.append(returns(sensors, segment, time.monotonic_ns()))
                before, after = sensor_rows(back[-1].before or last), sensor_rows(back[-1].after)
                assert back[-1].after.segment == segment + 1
                assert before.t_device_ns is not None
                assert after.t_device_ns is not None
                missing = after.first_row - before.first_row - len(before.values)
                # The box writes the true number into every row: what lies between the two is what was lost.
                assert after.values[0, 0] - before.values[-1, 0] - 1 == missing > 0
                seconds = (int(after.t_device_ns[0]) - int(before.t_device_ns[-1])) / 1e9
                assert abs(seconds * RATE_HZ - 1 - missing) <= 1.0
            sensors.close()
            board.unplug()
    finally:
        sensors.close()
        board.unplug()
        board.stop()
    report("serial lines", back)
