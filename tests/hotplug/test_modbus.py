"""20 times a Modbus device is killed and started again, over TCP and over a serial line that goes with it."""

import pytest

from acquisition.modbus import ModbusConfig, ModbusSensors, Register
from tests.acquisition.counterparts import free_port
from tests.hotplug.modbus_counterpart import UNIT, RtuDevice, TcpDevice
from tests.hotplug.pulls import leak_check, report
from tests.hotplug.server_counterpart import pull_and_replug

RATE_HZ = 10.0


@pytest.mark.parametrize("line", ["tcp", "rtu"])
def test_a_device_that_was_pulled_comes_back_by_itself(line, tmp_path):
    device = TcpDevice(free_port()) if line == "tcp" else RtuDevice(tmp_path)
    registers = {"wire_mm": Register(address=0, type="uint32"), "pressure_bar": Register(address=2, type="int16")}
    config = ModbusConfig(address=device.address, registers=registers, unit=UNIT, rate_hz=RATE_HZ, baud=115_200)
    sensors = ModbusSensors("plc", config)
    try:
        with leak_check():
            device.plug()
            sensors.open()
            back = pull_and_replug(sensors, device.pull, device.plug, rows=3)
            sensors.close()
            device.pull()
    finally:
        sensors.close()
        device.pull()
    for pull in back:
        gap_s = (pull.after.t_arrival_ns[0] - pull.before.t_arrival_ns[-1]) / 1e9
        device_gap_s = (pull.after.values[0, 1] - pull.before.values[-1, 1]) / 1e3
        assert pull.after.first_row == 0
        assert gap_s * RATE_HZ > 1
        assert abs(gap_s - device_gap_s) * RATE_HZ <= 1
    report(f"modbus {line}", [pull.back for pull in back])
