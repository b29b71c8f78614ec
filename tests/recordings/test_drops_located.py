"""Ten thousand items lost by devices that count: the ingest names every one of them, those at the very end included."""

import heapq
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import pytest

from acquisition.packet import SENSOR_CHANNELS, Event, Packet, SampleBlock, SensorRows, StreamInfo
from recordings.ingest import Ingest
from recordings.stream_pace import OVERDUE_NS
from tests.recordings.handmade import START_NS, Run, cell

SOUND_HZ, BLOCK = 8000, 40
MICROPHONE = StreamInfo(
    name="microphone",
    modality="audio",
    rate_hz=SOUND_HZ,
    channels=("mono",),
    units=("",),
    dtype="int16",
    has_counter=True,
    device_clock="samples",
)
FAST = StreamInfo(
    name="fast",
    modality="sensors",
    rate_hz=500.0,
    channels=SENSOR_CHANNELS,
    units=("",) * 6,
    dtype="float64",
    has_counter=True,
    device_clock="stamps",
)
SLOW = replace(FAST, name="slow", rate_hz=50.0)
INFOS = {info.name: info for info in (MICROPHONE, FAST, SLOW)}
LATENCY_NS = 4_000_000
Losses = set[tuple[str, int]]


def per_packet(info: StreamInfo) -> int:
    return BLOCK if info.modality == "audio" else 1


def first_ns(info: StreamInfo) -> int:
    """Rows come 1 ms after the blocks, so that one instant can lie after the last block and before the next row."""
    return 0 if info.modality == "audio" else 1_000_000


@dataclass
class Devices:
    """Devices with a jittered way to the host that lose items by themselves, one by one and in bursts of 3-30."""

    seconds: float
    share: float
    seed: int = 0
    arc: tuple[float, float] = (1e9, 1e9)
    tail: int = 0

    def __post_init__(self) -> None:
        self.lost = {info.name: self._draw(info) for info in INFOS.values()}

    def _draw(self, info: StreamInfo) -> np.ndarray:
        """Draw which packets are lost; the first never is, since no loss before it can be known."""
        n = round(self.seconds * info.rate_hz / per_packet(info))
        rng = np.random.default_rng([self.seed, len(info.name), n])
        lost = rng.random(n) < self.share / 2
        for at in np.flatnonzero(rng.random(n) < self.share / 2 / 16.5):
            lost[at : at + int(rng.integers(3, 31))] = True
        lost[:2] = lost[n - 20 :] = False
        lost[n - self.tail :] = True
        return lost

    def losses(self) -> Losses:
        """Give every lost item by stream and number (sample instants of sound, rows of sensors)."""
        return {
            (name, number)
            for name, lost in self.lost.items()
            for k in np.flatnonzero(lost)
            for number in range(int(k) * per_packet(INFOS[name]), (int(k) + 1) * per_packet(INFOS[name]))
        }

    def count(self) -> int:
        return sum(int(lost.sum()) for lost in self.lost.values())

    def packets(self) -> Iterator[Packet]:
        return heapq.merge(*(self._stream(info) for info in INFOS.values()), key=lambda p: p.t_arrival_ns)

    def _stream(self, info: StreamInfo) -> Iterator[Packet]:
        n, lost = per_packet(info), self.lost[info.name]
        rng = np.random.default_rng([self.seed, 7, len(info.name)])
        step_ns = round(n * 1e9 / info.rate_hz)
        late_ns = LATENCY_NS + rng.gamma(2.0, 0.25e6, len(lost)).astype(np.int64)
        for k in np.flatnonzero(~lost).tolist():
            t_ns = first_ns(info) + k * step_ns
            end_ns = t_ns + step_ns if info.modality == "audio" else t_ns
            arrival_ns = START_NS + end_ns + int(late_ns[k])
            payload: SampleBlock | SensorRows
            if info.modality == "audio":
                samples = np.zeros((n, 1), np.int16)
                payload = SampleBlock(first_sample=k * n, rate_hz=info.rate_hz, samples=samples)
            else:
                on, off = self.arc
                values = np.zeros((1, 6))
                values[0, [3, 5]] = (150.0, 22.0) if on <= t_ns / 1e9 < off else (0.0, 0.0)
                stamps = np.array([t_ns], np.int64)
                arrivals = np.array([arrival_ns], np.int64)
                payload = SensorRows(first_row=k, values=values, t_device_ns=stamps, t_arrival_ns=arrivals)
            device_ns = None if info.modality == "audio" else t_ns
            yield Packet(
                stream=info.name, seq=k, t_arrival_ns=arrival_ns, payload=payload, t_device_ns=device_ns, segment=0
            )


def run(devices: Devices) -> Run:
    made = Run(cell(), infos=INFOS)
    made.ingest = Ingest(made.cell, INFOS, lambda cell_ns: cell_ns)
    return made.feed(devices.packets())


def located(made: Run) -> list[tuple[str, int]]:
    """Give every item that a gap names."""
    gaps = [event.data for event in made.events("gap")]
    return [(gap["stream"], gap["first"] + i) for gap in gaps for i in range(gap["missing"])]


def test_ten_thousand_drops_are_all_located_and_nothing_else():
    devices = Devices(seconds=66.0, share=0.22)
    assert devices.count() >= 10_000
    made = run(devices)
    found = located(made)
    assert len(found) == len(set(found))
    assert set(found) == devices.losses()
    assert all(event.data["exact"] for event in made.events("gap"))
    dropped = {name: tracker.dropped for name, tracker in made.ingest.losses.items()}
    assert dropped == {name: int(lost.sum()) * per_packet(INFOS[name]) for name, lost in devices.lost.items()}


def test_gaps_begin_where_the_first_lost_item_would_have_been():
    devices = Devices(seconds=30.0, share=0.05, seed=1)
    made = run(devices)
    for event in made.events("gap"):
        assert event.t_ns is not None
        info = INFOS[event.data["stream"]]
        begin_ns = START_NS + first_ns(info) + round(event.data["first"] * 1e9 / info.rate_hz)
        # The clock cannot see the constant part of the way, and a sensor period is 2 ms at least.
        if begin_ns > START_NS + 10 * 10**9:
            assert event.t_ns - begin_ns == pytest.approx(LATENCY_NS, abs=1_500_000)


@pytest.mark.parametrize("tail", [1, 5, 12])
def test_losses_at_the_end_of_the_capture_are_located(tail):
    """Nothing comes after them: what should have arrived by the end, and did not, is lost."""
    devices = Devices(seconds=20.0, share=0.01, seed=2, tail=tail)
    made = run(devices)
    # The next row would come just after this; what is late by less than `OVERDUE_NS` may still be on its way.
    made.take(made.ingest.finish(START_NS + round(devices.seconds * 1e9) + 600_000 + LATENCY_NS + OVERDUE_NS))
    found = located(made)
    assert len(found) == len(set(found))
    assert set(found) == devices.losses()


def test_a_capture_that_ends_without_a_loss_reports_none():
    devices = Devices(seconds=20.0, share=0.0, seed=3)
    made = run(devices)
    made.take(made.ingest.finish(START_NS + round(devices.seconds * 1e9) + LATENCY_NS + OVERDUE_NS // 2))
    assert located(made) == []


@pytest.mark.parametrize("silent", list(INFOS))
def test_losses_before_a_weld_closes_are_located_before_its_close(silent):
    """A stream that dies in the post-roll has lost what should have come by the close; the weld itself is told so."""
    devices = Devices(seconds=8.0, share=0.02, seed=4, arc=(2.0, 4.0))
    lost = devices.lost[silent]
    died = round(4.2 / 8.0 * len(lost))
    lost[died:] = True
    lost[died - 1] = False
    made = run(devices)
    events = [(p, p.payload) for p in made.published if isinstance(p.payload, Event)]
    (close,) = [packet for packet, event in events if event.kind == "weld_close"]
    told = [event.data for packet, event in events if event.kind == "gap" and packet.order < close.order]
    within = [gap for gap in told if gap["stream"] == silent]
    named = {gap["first"] + i for gap in within for i in range(gap["missing"])}
    known_until_ns = close.t_arrival_ns - START_NS - LATENCY_NS
    n, rate_hz = per_packet(INFOS[silent]), INFOS[silent].rate_hz
    expected = {
        number for name, number in devices.losses() if name == silent and number < known_until_ns * rate_hz / 1e9
    }
    assert died * n in named
    assert len(named ^ expected) <= n  # the item that is due at that moment
