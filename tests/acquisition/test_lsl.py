"""The LSL inlet against real senders: rows and sound found again, stamps as sent, clocks probed, deaths noticed."""

import math
import time
import uuid

import numpy as np
import pylsl
import pytest

from acquisition.driver import DeviceError
from acquisition.lsl import LslConfig, LslInlet
from tests.acquisition.counterparts import wait_until
from tests.hotplug.server_counterpart import Server, rows_of


@pytest.fixture
def started():
    """Start senders in processes of their own; gives their name."""
    senders = []

    def start(kind, rate_hz, ahead_s=0.0):
        sender = Server("tests.hotplug.lsl_counterpart", f"test-{uuid.uuid4()}", kind, str(rate_hz), str(ahead_s))
        senders.append(sender)
        sender.start()
        return sender

    yield start
    for sender in senders:
        sender.kill()


@pytest.fixture
def opened():
    """Open inlets that are closed again whatever happens."""
    inlets = []

    def open_inlet(name, **settings):
        inlet = LslInlet("process", LslConfig(stream=name, **settings))
        inlets.append(inlet)
        inlet.open()
        return inlet

    yield open_inlet
    for inlet in inlets:
        inlet.close()


@pytest.fixture
def outlet():
    """Make a sender in this process; the test pushes what it likes."""

    def make(form, rate_hz=pylsl.IRREGULAR_RATE, channels=2):
        return pylsl.StreamOutlet(pylsl.StreamInfo(f"test-{uuid.uuid4()}", "test", channels, rate_hz, form, "here"))

    return make


def name_of(outlet):
    return outlet.get_info().name()


def test_rows_and_their_stamps_are_found_again(started, opened):
    ahead_s = 3600.0
    sender = started("rows", 100, ahead_s)
    inlet = opened(sender.arguments[0], columns=("wire_mm", "Pressure"), scale={"pressure_bar": 4.0}, type="test")
    assert (inlet.info.channels, inlet.info.units) == (("pressure_bar", "wire_mm"), ("bar", "mm"))
    assert (inlet.info.rate_hz, inlet.info.device_clock, inlet.info.has_counter) == (100.0, "stamps", False)
    packets = rows_of(inlet, 50)
    values = np.concatenate([packet.payload.values for packet in packets])
    stamps = np.concatenate([packet.payload.t_device_ns for packet in packets])
    assert (values[:, 0] == 2.0).all()
    assert (np.diff(values[:, 1]) == 1).all()
    assert np.abs(stamps / 1e9 - values[:, 1] / 100 - ahead_s).max() < 1e-6
    assert [packet.payload.first_row for packet in packets] == [
        0,
        *np.cumsum([len(p.payload.values) for p in packets])[:-1],
    ]
    assert min(p.t_arrival_ns - p.payload.t_device_ns[-1] + ahead_s * 1e9 for p in packets) < 5e6


def test_the_clock_of_the_sender_is_probed_beside_the_data(started, opened):
    inlet = opened(started("rows", 100).arguments[0], columns=("wire_mm", "-"))
    rows_of(inlet, 5)
    wait_until(lambda: inlet.probe is not None, "the clock is probed")
    assert 0 < inlet.probe.bound_ns < 20_000_000
    assert abs(inlet.probe.offset_ns) <= inlet.probe.bound_ns + 100_000  # it is this host's own clock


@pytest.mark.parametrize(("kind", "dtype", "unit"), [("int16", "int16", 1.0), ("float32", "int32", 2.0**31 / 1000)])
def test_sound_is_found_again(started, opened, kind, dtype, unit):
    inlet = opened(started(kind, 8000).arguments[0])
    info = inlet.info
    assert (info.modality, info.channels, info.dtype, info.device_clock) == ("audio", ("mono",), dtype, "samples")
    blocks = [inlet.read(5.0).payload for _ in range(10)]
    assert [block.first_sample for block in blocks] == [0, *np.cumsum([len(block.samples) for block in blocks])[:-1]]
    samples = np.concatenate([block.samples for block in blocks])
    assert samples.dtype == np.dtype(dtype)
    numbers = np.rint(samples[:, 0] / unit).astype(int)
    assert (np.diff(numbers) % 1000 == 1).all()


def test_an_irregular_stream_keeps_its_stamps_and_needs_a_rate(outlet, opened):
    sender = outlet("float32")
    with pytest.raises(DeviceError, match="is irregular; set rate_hz"):
        opened(name_of(sender), columns=("feed", "-"))
    inlet = opened(name_of(sender), columns=("feed", "-"), rate_hz=10.0)
    assert inlet.info.rate_hz == 10.0
    stamps = [5.0, 5.001, 7.5, 7.5, 6.0]
    for stamp in stamps:
        sender.push_sample([stamp, 0.0], stamp)
    packets = rows_of(inlet, 5)
    assert np.concatenate([p.payload.t_device_ns for p in packets]).tolist() == [round(t * 1e9) for t in stamps]


def test_stamps_that_are_no_time_and_values_that_are_no_number(outlet, opened, caplog):
    sender = outlet("double64", 10.0)
    inlet = opened(name_of(sender), columns=("feed", "wire_mm"))
    for stamp in (1.0, math.nan, math.inf, -1e300, 2.0, 3.0):
        sender.push_sample([stamp, math.inf], stamp)
    rows: dict[int, int] = {}
    while len(rows) < 3:
        payload = inlet.read(5.0).payload
        assert np.isnan(payload.values[:, 1]).all()
        for i, t_ns in enumerate(payload.t_device_ns.tolist()):
            rows[payload.first_row + i] = t_ns
    assert rows == {0: 1_000_000_000, 4: 2_000_000_000, 5: 3_000_000_000}
    assert inlet.bad_stamps == 3
    told = [record.getMessage() for record in caplog.records if "stamped" in record.getMessage()]
    assert len(told) == 1
    assert "stamped nan; correct the sender" in told[0]


def test_a_sender_that_freezes_is_lost_and_comes_back(started, opened):
    sender = started("rows", 100)
    inlet = opened(sender.arguments[0], columns=("wire_mm", "-"), stale_s=0.3)
    rows_of(inlet, 5)
    sender.freeze()
    wait_until(lambda: inlet.health().state == "lost", "the stream is lost")
    assert "sent nothing for 0.3 s; check the sender" in inlet.health().problem
    sender.thaw()
    wait_until(lambda: inlet.peek(0.2) is not None and inlet.peek(0.2).segment > 0, "the stream is back")


def test_closing_is_quick_while_the_sender_is_away(started, opened):
    sender = started("rows", 100)
    inlet = opened(sender.arguments[0], columns=("wire_mm", "-"))
    rows_of(inlet, 5)
    sender.kill()
    wait_until(lambda: "is not on the network" in (inlet.health().problem or ""), "it is looked for in vain")
    begin = time.monotonic()
    inlet.close()
    assert time.monotonic() - begin < 2.0


def test_what_cannot_be_read_is_told_in_one_line(outlet, opened):
    with pytest.raises(DeviceError, match=r"^lsl process: the stream with name='nobody' is not on the network; start"):
        opened("nobody", columns=("feed",))
    sender = outlet("float32", 10.0)
    with pytest.raises(DeviceError, match="has 2 channels of float32; make columns 2 names"):
        opened(name_of(sender), columns=("feed",))
    text = outlet("string", 10.0)
    with pytest.raises(DeviceError, match="is of text, which is no sound"):
        opened(name_of(text))
    with pytest.raises(DeviceError, match="has 2 channels of text"):
        opened(name_of(text), columns=("feed", "-"))


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({}, "must name the LSL stream"),
        ({"stream": "it's"}, "must name the LSL stream"),
        ({"stream": "a", "columns": ("heat",)}, "unknown column 'heat'"),
        ({"stream": "a", "columns": ("feed", "Feed")}, "is there twice"),
        ({"stream": "a", "columns": ("-",)}, "columns name no channel"),
        ({"stream": "a", "columns": ("feed",), "scale": {"wire_mm": 2.0}}, "scale names 'wire_mm'"),
        ({"stream": "a", "rate_hz": -1.0}, "rate_hz"),
    ],
)
def test_impossible_settings_are_refused(settings, says):
    with pytest.raises(ValueError, match=says):
        LslConfig(**settings)
