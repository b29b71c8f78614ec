import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from acquisition.packet import Packet, SampleBlock, StreamInfo, VideoFrame
from recordings.loss import LossTracker

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
