"""20 times the OPC UA server is killed and started again."""

from acquisition.opcua import OpcUaConfig, OpcUaSensors
from tests.acquisition.counterparts import free_port
from tests.hotplug.opcua_counterpart import NODES, OpcUaDevice
from tests.hotplug.pulls import leak_check, report
from tests.hotplug.server_counterpart import pull_and_replug

RATE_HZ = 20.0


def test_a_server_that_was_killed_comes_back_by_itself():
    device = OpcUaDevice(free_port(), RATE_HZ)
    sensors = OpcUaSensors("plc", OpcUaConfig(url=device.url, nodes=NODES, rate_hz=RATE_HZ))
    try:
        device.start()
        with leak_check():
            sensors.open()
            back = pull_and_replug(sensors, device.kill, device.start)
            sensors.close()
    finally:
        sensors.close()
        device.close()
    for pull in back:
        assert pull.after.t_device_ns is not None
        assert pull.before.t_device_ns is not None
        gap_s = (pull.after.t_device_ns[0] - pull.before.t_device_ns[-1]) / 1e9
        lost = pull.after.values[0, 1] - pull.before.values[-1, 1] - 1
        assert lost > 0
        assert abs(gap_s * RATE_HZ - 1 - lost) <= 1
    report("opcua", [pull.back for pull in back])
