import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from acquisition.packet import Packet, SampleBlock, SensorRows, StreamInfo, VideoFrame
from recordings.loss import ItemLoss, LossTracker
from sync.item_count import Missed

CAMERA = StreamInfo(name="camera", modality="video", rate_hz=50.0)
SOUND = StreamInfo(name="microphone", modality="audio", rate_hz=1000.0)
PERIOD_NS = 20_000_000


def frame(seq: int, segment: int = 0) -> Packet:
    payload = VideoFrame(pixels=np.zeros((1, 1), np.uint8))
    return Packet(stream="camera", seq=seq, segment=segment, t_arrival_ns=0, payload=payload)


@given(st.lists(st.booleans(), min_size=2, max_size=200))
def test_every_lost_frame_is_counted_and_located(kept):
    """Whatever pattern of frames is lost between the first and the last received one, the gaps name exactly it."""
    tracker = LossTracker(CAMERA)
    received = [n for n, keep in enumerate(kept) if keep]
    found: list[int] = []
    for n in received:
        loss = tracker.observe(frame(n), n * PERIOD_NS)
        if loss is not None:
            assert loss.exact
            assert loss.t_ns == loss.first * PERIOD_NS
            found += range(loss.first, loss.first + loss.missing)
    inside = range(received[0], received[-1] + 1) if received else range(0)
    assert found == [n for n in inside if not kept[n]]
    assert (tracker.received, tracker.dropped) == (len(received), len(found))


def test_sound_is_counted_in_samples():
    tracker = LossTracker(SOUND)

    def block(first: int) -> Packet:
        payload = SampleBlock(first_sample=first, rate_hz=1000.0, samples=np.zeros((100, 1), np.int16))
        return Packet(stream="microphone", seq=0, t_arrival_ns=0, payload=payload)

    assert tracker.observe(block(0), 100_000_000) is None
    loss = tracker.observe(block(130), 230_000_000)
    assert loss is not None
    assert (loss.first, loss.missing) == (100, 30)


def test_a_new_segment_after_a_silence_is_an_estimated_loss():
    tracker = LossTracker(CAMERA)
    tracker.observe(frame(7), 0)
    tracker.silence_reason = "unplugged"
    loss = tracker.observe(frame(0, segment=1), 50 * PERIOD_NS)
    assert loss is not None
    assert (loss.first, loss.missing, loss.reason, loss.exact) == (8, 49, "unplugged", False)


def test_a_silent_stream_is_counted_but_not_twice():
    tracker = LossTracker(CAMERA)
    tracker.observe(frame(0), 0)
    silent = tracker.silent_loss(10 * PERIOD_NS)
    assert silent is not None
    assert silent.missing == 9
    assert tracker.dropped == 0
    tracker.observe(frame(10), 10 * PERIOD_NS)
    assert tracker.dropped == 9


STAMPED = StreamInfo(name="camera", modality="video", rate_hz=50.0, device_clock="stamps")
LOGGER = StreamInfo(name="plc", modality="sensors", rate_hz=50.0, channels=("feed",), device_clock="stamps")


def stamped(number: int, stamp_ns: int) -> Packet:
    payload = VideoFrame(pixels=np.zeros((1, 1), np.uint8))
    return Packet(stream="camera", seq=number, t_device_ns=stamp_ns, t_arrival_ns=0, payload=payload)


def follow_stamps(stamps_ns: list[int]) -> tuple[LossTracker, list[ItemLoss]]:
    tracker = LossTracker(STAMPED)
    found = [tracker.observe(stamped(i, at), at) for i, at in enumerate(stamps_ns)]
    return tracker, [loss for loss in found if loss is not None]


def test_stamps_show_what_no_counter_counts():
    """The camera claims 50 fps and sends 52; the loss is named one frame later, where and how much it was."""
    period_ns = 10**9 // 52
    taken = [n for n in range(200) if n not in range(90, 97)]
    tracker, found = follow_stamps([n * period_ns + n % 3 * 100_000 for n in taken])
    assert [(loss.first, loss.missing, loss.reason, loss.exact) for loss in found] == [(90, 7, "stamps", False)]
    assert abs(found[0].t_ns - 90 * period_ns) < period_ns
    assert tracker.dropped == 7


def test_a_slower_camera_has_lost_nothing():
    stamps_ns = [n * PERIOD_NS for n in range(100)] + [100 * PERIOD_NS + n * 2 * PERIOD_NS for n in range(100)]
    assert follow_stamps(stamps_ns)[1] == []


def test_an_irregular_stream_is_left_alone():
    rng = np.random.default_rng(0)
    stamps_ns = np.cumsum(rng.exponential(PERIOD_NS, 500)).astype(int).tolist()
    assert follow_stamps(stamps_ns)[1] == []


def test_rows_inside_one_packet_are_located():
    tracker, found = LossTracker(LOGGER), []
    taken = np.array([n for n in range(100) if n not in (41, 42)])
    for first in range(0, 95, 5):
        stamps_ns = taken[first : first + 5] * PERIOD_NS
        rows = SensorRows(
            first_row=first, values=np.zeros((5, 1)), t_device_ns=stamps_ns, t_arrival_ns=stamps_ns.copy()
        )
        packet = Packet(stream="plc", seq=first // 5, t_arrival_ns=0, payload=rows)
        found.append(tracker.observe(packet, int(stamps_ns[-1])))
    assert [(loss.first, loss.missing, loss.t_ns) for loss in found if loss] == [(41, 2, 41 * PERIOD_NS)]


def test_a_loss_that_lateness_shows_is_placed_where_it_was():
    tracker = LossTracker(SOUND)
    for n in range(20):
        payload = SampleBlock(first_sample=n * 100, rate_hz=1000.0, samples=np.zeros((100, 1), np.int16))
        packet = Packet(stream="microphone", seq=n, t_arrival_ns=0, payload=payload)
        known = Missed(index=4, count=300) if n == 15 else None
        loss = tracker.observe(packet, (n + 1) * 100_000_000, known)
        assert (loss is not None) == (n == 15)
        if loss is not None:
            assert (loss.first, loss.missing, loss.reason, loss.exact) == (1100, 300, "late", False)
            assert loss.t_ns == 1_100_000_000
    assert tracker.dropped == 300
