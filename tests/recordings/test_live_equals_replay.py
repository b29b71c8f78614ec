"""The promise of the whole design: a weld replayed from a lossless recording gives byte-equal windows."""

from dataclasses import replace

import numpy as np
import pytest

from acquisition.packet import ClockUpdate, Event, Packet, VideoFrame
from recordings.reader import WeldReader
from sync.sample import SampleSpec
from sync.windows import WindowCutter
from tests.recordings.cells import Recorded, record_weld, small_cell

SPEC = SampleSpec(height=60, width=96, photo_height=60, photo_width=80)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory) -> Recorded:
    return record_weld(tmp_path_factory.mktemp("welds"), small_cell(drop_rate=0.01))


def live_packets(recorded: Recorded) -> list[Packet]:
    """What a detector that was there before the weld holds for it: the clock snapshot, then all later orders."""
    events = [p.payload for p in recorded.published if isinstance(p.payload, Event)]
    opened = next(event for event in events if event.kind == "weld_open")
    first = opened.data["first_order"]
    clocks = [p for p in recorded.published if isinstance(p.payload, ClockUpdate) and p.order < first]
    newest = {p.payload.of_stream: p for p in clocks if isinstance(p.payload, ClockUpdate)}
    return [*sorted(newest.values(), key=lambda p: p.order), *(p for p in recorded.published if p.order >= first)]


def windows(packets, infos, key):
    cutter = WindowCutter(key, SPEC, infos)
    return [sample for packet in packets for sample in cutter.push(packet)]


def test_windows_are_byte_equal(recorded):
    reader = WeldReader(recorded.folder)
    key = reader.manifest.key
    live = windows(live_packets(recorded), recorded.ingest.infos, key)
    again = windows(reader.packets(), reader.infos, key)
    assert len(live) >= 3
    assert [sample.digest() for sample in live] == [sample.digest() for sample in again]
    assert [(s.closed_by_order, s.closed_by_arrival_ns, s.missing) for s in live] == [
        (s.closed_by_order, s.closed_by_arrival_ns, s.missing) for s in again
    ]
    assert all(sample.missing == 0 for sample in live)


def same(one: Packet, other: Packet) -> bool:
    """Equal to the last byte, payload arrays included."""
    for name in type(one.payload).__dataclass_fields__:
        a, b = getattr(one.payload, name), getattr(other.payload, name)
        if isinstance(a, np.ndarray):
            if a.dtype != b.dtype or a.shape != b.shape or a.tobytes() != b.tobytes():
                return False
        elif a != b:
            return False
    return replace(one, payload=other.payload) == other


def test_the_recording_holds_every_packet_of_the_weld_unchanged(recorded):
    reader = WeldReader(recorded.folder)
    last = reader.manifest.last_order or 0
    live = [packet for packet in live_packets(recorded) if packet.order <= last]
    again = [packet for packet in reader.packets() if packet.order <= last]
    assert [p.order for p in live] == [p.order for p in again]
    assert all(same(a, b) for a, b in zip(live, again, strict=True))


def test_a_changed_pixel_would_be_noticed(recorded):
    """The guard itself: other bytes in one used frame change the digest."""
    reader = WeldReader(recorded.folder)
    packets = list(reader.packets())
    honest = windows(packets, reader.infos, reader.manifest.key)
    used = honest[0].orders["camera"][0]
    forged = [
        replace(p, payload=VideoFrame(pixels=255 - p.payload.pixels))
        if p.order == used and isinstance(p.payload, VideoFrame)
        else p
        for p in packets
    ]
    changed = windows(forged, reader.infos, reader.manifest.key)
    assert changed[0].digest() != honest[0].digest()


def test_a_photo_that_came_before_the_weld_closed_keeps_its_place(tmp_path):
    """A quick photo station delivers while the post-roll is still recorded: its order lies inside the weld."""
    cell = small_cell()
    slow = replace(cell, record=replace(cell.record, post_s=9.0))
    recorded = record_weld(tmp_path, slow)
    reader = WeldReader(recorded.folder)
    last = reader.manifest.last_order or 0
    photos = [p.order for p in recorded.published if p.stream == "photos"]
    assert min(photos) < last
    assert [p.order for p in reader.packets() if p.stream == "photos"] == photos
    live = [packet.order for packet in live_packets(recorded)]
    again = [packet.order for packet in reader.packets()]
    assert [order for order in again if order <= last] == [order for order in live if order <= last]
