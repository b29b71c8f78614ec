"""The reader-thread base class, by a small device that the test holds in its hand."""

import queue
import threading
import time

import numpy as np
import pytest

from acquisition.driver import DeviceError, ThreadedDriver
from acquisition.packet import Packet, StreamInfo, VideoFrame
from tests.acquisition.counterparts import wait_until


class HandheldDriver(ThreadedDriver):
    """Delivers what the test feeds: a number as a packet of that `seq`, an exception as the device's death."""

    REOPEN_S = (0.01, 0.01, 0.01)  # type: ignore[misc]

    def __init__(self, name: str = "device") -> None:
        super().__init__(name)
        self.feed: queue.SimpleQueue[int | Exception] = queue.SimpleQueue()
        self.absent = False
        self.connected = 0
        self.disconnected = 0

    def _connect(self) -> StreamInfo:
        if self.absent:
            raise DeviceError("device device: port 7 is absent; plug it in")
        self.connected += 1
        return StreamInfo(name=self.name, modality="video", rate_hz=30.0)

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                item = self.feed.get(timeout=0.01)
            except queue.Empty:
                continue
            if isinstance(item, Exception):
                raise item
            pixels = np.full((2, 2), item % 256, np.uint8)
            self._put(
                Packet(stream=self.name, seq=item, t_arrival_ns=time.monotonic_ns(), payload=VideoFrame(pixels=pixels))
            )

    def _disconnect(self) -> None:
        self.disconnected += 1


@pytest.fixture
def driver():
    driver = HandheldDriver()
    yield driver
    driver.close()


def seqs(driver, n):
    packets = [driver.read(2.0) for _ in range(n)]
    assert None not in packets
    return [packet.seq for packet in packets]


def test_read_takes_the_oldest_and_wakes_the_reader(driver):
    woken = threading.Semaphore(0)
    driver.open(wakeup=woken.release)
    for seq in range(3):
        driver.feed.put(seq)
    assert all(woken.acquire(timeout=2.0) for _ in range(3))
    assert seqs(driver, 3) == [0, 1, 2]
    assert driver.read(0.0) is None
    assert driver.info.name == "device"


def test_newest_discards_older_packets(driver):
    driver.open()
    for seq in range(5):
        driver.feed.put(seq)
    wait_until(lambda: driver.health().delivered == 5, "all five packets")
    assert driver.newest(0.0).seq == 4
    assert driver.newest(0.0) is None


def test_peek_takes_nothing_and_knows_age(driver):
    driver.open()
    assert driver.peek(10.0) is None
    driver.feed.put(7)
    wait_until(lambda: driver.health().delivered == 1, "the packet")
    assert driver.peek(10.0).seq == 7
    assert driver.peek(0.0) is None
    assert driver.read(0.0).seq == 7
    assert driver.peek(10.0).seq == 7


def test_overrun_drops_the_oldest_and_counts_them(driver):
    driver.open()
    for seq in range(driver.QUEUE_PACKETS + 10):
        driver.feed.put(seq)
    wait_until(lambda: driver.health().delivered == driver.QUEUE_PACKETS + 10, "all packets")
    assert driver.health().overrun == 10
    assert driver.read(0.0).seq == 10


@pytest.mark.parametrize("death", [DeviceError("device device: broke off; check the cable"), ZeroDivisionError("bug")])
def test_a_dead_device_is_reopened_as_a_new_segment(driver, death):
    driver.open()
    driver.feed.put(0)
    assert driver.read(2.0).segment == 0
    driver.absent = True
    driver.feed.put(death)
    wait_until(lambda: "port 7 is absent" in (driver.health().problem or ""), "the failed reopening is told")
    assert driver.health().state == "lost"
    driver.absent = False
    driver.feed.put(0)
    packet = driver.read(2.0)
    assert (packet.segment, packet.seq) == (1, 0)
    assert driver.health().state == "streaming"
    assert driver.health().problem is None
    assert (driver.connected, driver.disconnected) == (2, 1)


def test_an_absent_device_is_told_by_open(driver):
    driver.absent = True
    with pytest.raises(DeviceError, match="port 7 is absent; plug it in"):
        driver.open()
    assert driver.health().state == "closed"
    driver.absent = False
    driver.open()
    driver.feed.put(3)
    assert seqs(driver, 1) == [3]


def test_close_releases_device_thread_and_reader(driver):
    driver.open()
    answer: queue.SimpleQueue[Packet | None] = queue.SimpleQueue()
    reader = threading.Thread(target=lambda: answer.put(driver.read(30.0)))
    reader.start()
    begin = time.monotonic()
    driver.close()
    driver.close()
    assert answer.get(timeout=2.0) is None
    reader.join()
    assert time.monotonic() - begin < 2.0
    assert driver.disconnected == 1
    assert driver.health().state == "closed"
    assert not any(thread.name == "driver-device" for thread in threading.enumerate())


def test_close_while_the_device_is_away(driver):
    driver.open()
    driver.absent = True
    driver.feed.put(DeviceError("device device: gone; plug it in"))
    wait_until(lambda: driver.health().state == "lost", "the loss")
    driver.close()
    assert (driver.connected, driver.disconnected) == (1, 1)
