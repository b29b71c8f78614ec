"""How far a replay may be ahead of its readers, and who is waited for; with a clock of the test's own."""

from dataclasses import dataclass, field

import numpy as np

from acquisition.packet import Event, Packet, VideoFrame
from recordings.replay_progress import EVERY_PACKETS, SEEK, Progress
from recordings.replay_readers import AHEAD_BYTES, AHEAD_PACKETS, SILENT_S, ReplayReaders, Reported
from recordings.status import CellStatus, ReplayStatus


def packet(order: int) -> Packet:
    return Packet(stream="events", seq=0, t_arrival_ns=order, order=order, payload=Event(kind="mark"))


@dataclass
class Hall:
    """A replay with its readers, at a time of the test's choice."""

    now_s: float = 0.0
    silent: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.readers = ReplayReaders(self.silent.append, lambda: self.now_s)

    def send(self, first: int, number: int, seek: int = 0) -> None:
        for order in range(first, first + number):
            self.readers.sent(seek, packet(order))

    def report(self, reader: str, order: int, seek: int = 0) -> None:
        self.readers.report(Reported(reader=reader, order=order, seek=seek))


def test_the_slowest_reader_is_waited_for():
    hall = Hall()
    hall.send(1, 10)
    hall.report("quick", 10)
    hall.report("slow", 10)
    hall.send(11, AHEAD_PACKETS - 1)
    assert not hall.readers.full()
    hall.send(10 + AHEAD_PACKETS, 1)
    assert hall.readers.full()
    hall.report("quick", 10 + AHEAD_PACKETS)
    assert hall.readers.full()
    hall.report("slow", 11)
    assert not hall.readers.full()


def test_large_packets_count_by_their_bytes():
    hall = Hall()
    hall.report("screen", 0)
    frame = VideoFrame(pixels=np.zeros((1024, 1024), np.uint8))
    for order in range(AHEAD_BYTES // 2**20):
        assert not hall.readers.full()
        hall.readers.sent(0, Packet(stream="camera", seq=0, t_arrival_ns=0, order=order, payload=frame))
    assert hall.readers.full()


def test_nobody_is_waited_for_before_a_first_report():
    hall = Hall()
    hall.send(1, 5000)
    assert not hall.readers.full()
    hall.report("late", 0)  # it saw nothing of it
    assert not hall.readers.full()


def test_a_report_from_before_a_seek_counts_for_what_it_names():
    hall = Hall()
    hall.report("screen", 0)
    hall.send(1, 600)
    hall.send(1, 600, seek=1)
    assert hall.readers.full()
    hall.report("screen", 200)  # of the first stretch: still 1000 behind
    assert hall.readers.full()
    hall.report("screen", 200, seek=1)
    assert not hall.readers.full()


def test_who_is_silent_is_left_out_until_heard_again():
    hall = Hall()
    hall.report("dead", 0)
    hall.send(1, AHEAD_PACKETS)
    hall.now_s = SILENT_S - 0.1
    assert hall.readers.full()
    hall.now_s = SILENT_S + 0.1
    assert not hall.readers.full()
    assert hall.silent == ["dead"]
    hall.send(AHEAD_PACKETS + 1, 50)
    hall.report("dead", AHEAD_PACKETS + 50)
    hall.send(AHEAD_PACKETS + 51, AHEAD_PACKETS)
    assert hall.readers.full()
    assert hall.silent == ["dead"]


def test_who_reports_but_stands_still_is_left_out_too():
    """Its messages were lost while it was away: it would wait for the replay, and the replay for it."""
    hall = Hall()
    hall.report("stuck", 0)
    hall.send(1, AHEAD_PACKETS)
    for tenth in range(30):
        hall.now_s = tenth / 10
        hall.report("stuck", 0)
        if not hall.readers.full():
            break
    assert SILENT_S < hall.now_s < SILENT_S + 0.5
    assert hall.silent == ["stuck"]


def test_a_pause_makes_nobody_silent():
    hall = Hall()
    hall.send(1, 5)
    hall.report("screen", 5)
    hall.now_s = 60.0
    hall.report("screen", 5)
    hall.send(6, AHEAD_PACKETS)
    hall.now_s = 60.2
    assert hall.readers.full()
    assert hall.silent == []


def status(replay: ReplayStatus | None) -> CellStatus:
    return CellStatus(
        cell="test",
        simulated=False,
        armed=False,
        recording=False,
        weld=None,
        path=None,
        now_ns=0,
        utc="",
        write_buffer=0.0,
        write_buffer_bytes=0,
        disk_free_bytes=0,
        disk_left_s=None,
        streams=[],
        replay=replay,
    )


def test_a_reader_reports_in_time_and_only_of_a_replay():
    now_s = [0.0]
    progress = Progress("screen", lambda: now_s[0])
    progress.handled(packet(7))
    assert progress.due() is None
    progress.follow(status(None))
    assert progress.due() is None
    progress.follow(status(ReplayStatus(position_s=0.0, duration_s=1.0, speed=0.0, playing=True)))
    assert progress.due() == {"reader": "screen", "order": 7, "seek": 0}
    assert progress.due() is None
    for order in range(EVERY_PACKETS):
        assert progress.due() is None
        progress.handled(packet(order))
    assert progress.due() == {"reader": "screen", "order": EVERY_PACKETS - 1, "seek": 0}
    marker = Event(kind=SEEK, data={"position_s": 1.0})
    progress.handled(Packet(stream="events", seq=3, t_arrival_ns=0, order=0, payload=marker))
    assert progress.due() is None
    now_s[0] = 0.11
    assert progress.due() == {"reader": "screen", "order": 0, "seek": 3}
    now_s[0] = 0.22
    assert progress.due() is not None, "that it is alive is news, too"
