"""The microphone through a real sound server: known sound found again, a server that dies, hangs and comes back."""

import time
import tomllib

import numpy as np
import pytest
import scipy.signal

from acquisition.discovery import list_devices
from acquisition.driver import DeviceError
from acquisition.microphone import Microphone, MicrophoneConfig
from tests.acquisition.counterparts import SoundServer, wait_until


@pytest.fixture
def server(runtime_dir, monkeypatch):
    server = SoundServer(runtime_dir)
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    server.start()
    yield server
    server.kill()


@pytest.fixture
def microphone(server):
    microphone = Microphone("microphone", MicrophoneConfig(device="pulse"))
    yield microphone
    microphone.close()


def blocks_for(microphone, seconds):
    """All packets of the next `seconds` of sound."""
    packets, heard = [], 0
    while heard < seconds * 48_000:
        packet = microphone.read(3.0)
        assert packet is not None, f"the sound broke off: {microphone.health()}"
        packets.append(packet)
        heard += len(packet.payload.samples)
    return packets


def test_known_sound_is_found_again_sample_by_sample(server, microphone):
    rng = np.random.default_rng(1)
    sound = np.zeros(72_000, np.int16)
    clicks = np.arange(2_000, 70_000, 4_800)
    for click in clicks:
        sound[click : click + 400] = rng.integers(-12_000, 12_000, 400)
    microphone.open()
    assert (microphone.info.rate_hz, microphone.info.channels) == (48_000.0, ("mono",))
    assert (microphone.info.dtype, microphone.info.device_clock) == ("int16", "samples")
    player = server.play(sound)
    packets = blocks_for(microphone, 2.5)
    assert player.wait(5) == 0

    blocks = [packet.payload for packet in packets]
    assert [packet.seq for packet in packets] == list(range(len(packets)))
    assert [block.first_sample for block in blocks] == [480 * i for i in range(len(blocks))]
    assert all(block.samples.shape == (480, 1) and block.samples.dtype == np.int16 for block in blocks)

    heard = np.concatenate([block.samples[:, 0] for block in blocks]).astype(float)
    found = scipy.signal.correlate(heard, sound.astype(float), "valid", method="fft")
    begin = int(np.argmax(found))
    assert np.abs(heard[begin : begin + len(sound)] - sound).max() <= 1  # nothing lost, added or resampled

    # The stamps follow the sample count: a block is delivered 10 ms after the one before.
    arrival_s = np.array([packet.t_arrival_ns for packet in packets[50:]]) / 1e9
    assert np.polyfit(np.arange(len(arrival_s)), arrival_s, 1)[0] == pytest.approx(0.01, rel=0.03)


def test_a_killed_server_is_lost_and_a_restarted_one_returns(server, microphone):
    microphone.open()
    assert blocks_for(microphone, 0.1)[-1].segment == 0
    server.kill()
    killed = time.monotonic()
    wait_until(lambda: microphone.health().state == "lost", "the loss is seen", 3.0)
    assert time.monotonic() - killed < 1.0
    wait_until(lambda: "no sound input at all" in (microphone.health().problem or ""), "it says why", 3.0)
    while microphone.read(0.0):
        pass
    server.start()
    packet = microphone.read(6.0)
    assert packet is not None, microphone.health()
    assert (packet.segment, packet.seq, packet.payload.first_sample) == (1, 0, 0)
    assert microphone.health().state == "streaming"


def test_a_frozen_server_is_lost_and_closing_does_not_hang(server, microphone):
    microphone.open()
    blocks_for(microphone, 0.1)
    server.process.freeze()
    try:
        wait_until(lambda: microphone.health().state == "lost", "the loss is seen", 3.0)
        begin = time.monotonic()
        microphone.close()
        assert time.monotonic() - begin < 1.9
        assert microphone.health().state == "closed"
        again = Microphone("microphone", MicrophoneConfig(device="pulse"))
        with pytest.raises(DeviceError, match="does not answer; the sound server hangs; restart it"):
            again.open()
    finally:
        server.kill()  # now PortAudio comes back, and the abandoned calls end
    server.start()
    again.open()
    assert len(blocks_for(again, 0.05)) == 5
    again.close()


def test_a_short_stall_of_the_server_loses_nothing(server, microphone):
    microphone.open()
    before = blocks_for(microphone, 0.2)[-1]
    server.process.freeze()
    wait_until(lambda: microphone.health().age_s > 0.25, "the stall")
    server.process.thaw()
    after = blocks_for(microphone, 1.0)[-1]
    assert after.segment == 0
    counted_s = (after.payload.first_sample - before.payload.first_sample) / 48_000
    assert counted_s == pytest.approx((after.t_arrival_ns - before.t_arrival_ns) / 1e9, abs=0.05)


def test_two_microphones_do_not_end_each_other(server, microphone):
    microphone.open()
    blocks_for(microphone, 0.1)
    second = Microphone("second", MicrophoneConfig(device="PULSE", dtype="int32", channels=2, block=960))
    second.open()
    samples = blocks_for(second, 0.02)[0].payload.samples
    assert samples.shape == (960, 2)
    assert samples.dtype == np.int32
    second.close()
    blocks_for(microphone, 0.1)
    assert microphone.health().state == "streaming"
    assert microphone.peek(1.0).segment == 0


def test_an_absent_input_says_what_to_do(server):
    with pytest.raises(DeviceError) as caught:
        Microphone("microphone", MicrophoneConfig(device="XLR 7")).open()
    assert str(caught.value) == (
        "microphone microphone: XLR 7 cannot be used (no input has that name; there are: pulse, default); "
        "check device and rate_hz in the cell file"
    )


def test_inputs_are_listed_as_lines_that_open_them(server):
    found = {device["name"]: device for device in list_devices(True, 1.0) if device["kind"] == "microphone"}
    assert found["pulse"]["problem"] is None
    assert found["pulse"]["lines"][0].startswith("# opens; 1 x int16 (mono), ")
    assert found["pulse"]["items"] > 10_000
    stream = tomllib.loads("\n".join(found["pulse"]["lines"]))["stream"][0]
    assert [stream.pop(key) for key in ("name", "modality", "driver")] == ["microphone", "audio", "microphone"]
    assert MicrophoneConfig(**stream) == MicrophoneConfig(device="pulse", rate_hz=44_100)


def test_without_any_server_there_is_one_clear_error(server):
    server.kill()
    with pytest.raises(
        DeviceError, match=r"the default input cannot be used \(there is no sound input at all\); check"
    ):
        Microphone("microphone", MicrophoneConfig()).open()


@pytest.mark.parametrize("settings", [{"rate_hz": 0}, {"channels": 0}, {"block": 0}])
def test_a_wrong_setting_is_refused(settings):
    with pytest.raises(ValueError, match=r"(rate_hz|channels|block) is 0; it must be at least 1"):
        MicrophoneConfig(**settings)
