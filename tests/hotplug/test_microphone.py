"""A sound server that is killed and started again twenty times, and one that is frozen while the microphone closes."""

import random
import statistics
import time
from typing import Final

import pytest

from acquisition.microphone import Microphone, MicrophoneConfig
from recordings.loss import LossTracker
from tests.acquisition.counterparts import SoundServer, wait_until
from tests.hotplug.pulls import PULLS, leak_check, report, returns, stay_out

BLOCK_S: Final = 0.01
RENDERED_S: Final = 0.05
"""The server hands sound on in pieces of this length when it is busy."""


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
    microphone.open()  # PortAudio and its plugins keep files for the life of the process
    microphone.close()
    yield microphone
    microphone.close()


def test_a_killed_sound_server_returns_twenty_times(server, microphone):
    rng = random.Random(3)
    back, off_s = [], []
    with leak_check():
        microphone.open()
        for _ in range(PULLS):
            last = microphone.read(5.0)
            while last is not None and last.seq < 20:
                last = microphone.read(5.0)
            assert last is not None, microphone.health()
            killed_ns = time.monotonic_ns()
            server.kill()
            stay_out(microphone, rng.uniform(0.1, 2.0))
            server.start()
            back.append(returns(microphone, last.segment, time.monotonic_ns()))
            last, first = back[-1].before or last, back[-1].after
            assert (first.segment, first.seq) == (last.segment + 1, 0)
            losses = LossTracker(microphone.info)
            losses.observe(last, last.t_arrival_ns)
            loss = losses.observe(first, first.t_arrival_ns)
            assert loss is not None
            # Lost is what the server would have heard from its end to the first block of the new one.
            lost_s = (first.t_arrival_ns - killed_ns) / 1e9 - BLOCK_S
            off_s.append(abs(loss.missing / microphone.info.rate_hz - lost_s))
        microphone.close()
        server.kill()
    report("microphone", back)
    assert statistics.median(off_s) <= BLOCK_S
    assert max(off_s) <= RENDERED_S + BLOCK_S


def test_closing_does_not_wait_for_a_frozen_server_and_leaves_nothing(server, microphone):
    with leak_check():
        microphone.open()
        assert microphone.read(5.0) is not None
        server.process.freeze()
        begin = time.monotonic()
        microphone.close()
        assert time.monotonic() - begin < 2.0
        server.kill()  # a hanging call into PortAudio ends with the server


def test_a_thawed_server_returns_by_itself(server, microphone):
    with leak_check():
        microphone.open()
        packet = microphone.read(5.0)
        assert packet is not None
        server.process.freeze()
        wait_until(lambda: microphone.health().state == "lost", "the loss is seen", 3.0)
        server.process.thaw()
        back = returns(microphone, packet.segment, time.monotonic_ns())
        assert back.seconds <= 3.0
        microphone.close()
        server.kill()
