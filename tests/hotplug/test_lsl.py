"""20 times the LSL sender is killed and started again."""

import uuid

import pytest

from acquisition.lsl import LslConfig, LslInlet
from tests.hotplug.pulls import leak_check, report
from tests.hotplug.server_counterpart import Server, pull_and_replug

RATE_HZ = 100.0


@pytest.fixture
def sender():
    server = Server("tests.hotplug.lsl_counterpart", f"pull-{uuid.uuid4()}", "rows", str(RATE_HZ), "0")
    yield server
    server.kill()


def test_a_sender_that_was_killed_comes_back_by_itself(sender):
    inlet = LslInlet("process", LslConfig(source_id=sender.arguments[0], columns=("wire_mm", "-")))
    sender.start()
    inlet.open()
    inlet.close()  # what liblsl keeps for the life of the process is there now
    with leak_check():
        inlet.open()
        back = pull_and_replug(inlet, sender.kill, sender.start)
        inlet.close()
        sender.kill()
    for pull in back:
        assert pull.after.t_device_ns is not None
        assert pull.before.t_device_ns is not None
        gap_s = (pull.after.t_device_ns[0] - pull.before.t_device_ns[-1]) / 1e9
        lost = pull.after.values[0, 0] - pull.before.values[-1, 0] - 1
        assert lost > 0
        assert abs(gap_s * RATE_HZ - 1 - lost) <= 1
    report("lsl", [pull.back for pull in back])
