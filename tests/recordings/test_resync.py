"""Re-timing: a weld whose online clock was bad comes out right, and no byte of it changes."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from acquisition.packet import ClockUpdate, Event, Packet, SampleBlock, SensorRows, VideoFrame
from recordings.ingest import Ingest, clock_snapshot
from recordings.reader import WeldReader
from recordings.resync import ResyncedReader
from recordings.verify import verify
from recordings.weld_folder import digest
from sync.clock import ClockModel, ClockTable
from sync.sample import SampleSpec
from sync.windows import WindowCutter
from tests.recordings import cells
from tests.recordings.cells import Recorded, record_weld, small_cell
from tests.recordings.synthetic_weld import INFOS, Recording
from tests.recordings.synthetic_weld import Cell as Synthetic

LATE_NS = 35_000_000


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Recorded]:
    """A weld during which the first packets of microphone and sensors come late: a bad online clock."""
    with pytest.MonkeyPatch.context() as patch:
        plain = cells.ingested

        def busy(ingest: Ingest, packets: Iterator[Packet]) -> Iterator[list[Packet]]:
            yield from plain(ingest, _delayed(packets))

        patch.setattr(cells, "ingested", busy)
        yield record_weld(tmp_path_factory.mktemp("welds"), small_cell(idle_s=3.3))


def _delayed(packets: Iterator[Packet]) -> Iterator[Packet]:
    """Delay every packet of the first 5 s (arc-on included) by 35 ms, but for the camera's; none overtakes another."""
    held, newest_ns = [], dict[str, int]()
    for packet in packets:
        payload = packet.payload
        if isinstance(payload, SampleBlock | SensorRows):
            late_ns = LATE_NS if packet.t_arrival_ns < cells.START_NS + 5_000_000_000 else 0
            arrival_ns = max(packet.t_arrival_ns + late_ns, newest_ns.get(packet.stream, 0))
            newest_ns[packet.stream] = arrival_ns
            if isinstance(payload, SensorRows):
                payload = replace(payload, t_arrival_ns=np.full_like(payload.t_arrival_ns, arrival_ns))
            packet = replace(packet, t_arrival_ns=arrival_ns, payload=payload)
        held.append(packet)
    yield from sorted(held, key=lambda packet: packet.t_arrival_ns)


def worst_ms(recorded: Recorded, reader: WeldReader, stream: str) -> float:
    """Largest error of a stream's cell times against the truth, its shortest latency taken off."""
    device = recorded.weld.truth["devices"][stream]
    line, clocks, worst_ns = device["clocks"][-1], ClockTable(), 0.0
    truth = ClockModel(ref_ns=line["ref_ns"], offset_ns=line["offset_ns"], drift_ppb=line["drift_ppb"], sigma_ns=0)
    info = reader.infos[stream]
    for packet in reader.packets():
        if isinstance(packet.payload, ClockUpdate):
            clocks.apply(packet.payload)
        elif packet.stream == stream:
            payload = packet.payload
            if isinstance(payload, SampleBlock):
                device_ns = payload.first_sample * 10**9 // round(payload.rate_hz)
            elif isinstance(payload, SensorRows):
                assert payload.t_device_ns is not None
                device_ns = int(payload.t_device_ns[0])
            else:
                assert packet.t_device_ns is not None
                device_ns = packet.t_device_ns
            error_ns = clocks.cell_time_ns(info, packet) - truth.to_cell_ns(device_ns)
            worst_ns = max(worst_ns, abs(error_ns - device["latency_ms"]["shortest"] * 1e6))
    return worst_ns / 1e6


def digests(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): digest(path) for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_bad_online_clock_is_put_right_and_no_file_changes(recorded: Recorded) -> None:
    before = digests(recorded.folder)
    plain, again = WeldReader(recorded.folder), ResyncedReader(recorded.folder)
    for stream in ("sensors", "microphone"):
        assert worst_ms(recorded, plain, stream) > 15
        assert worst_ms(recorded, again, stream) < 4
    assert digests(recorded.folder) == before


def test_every_packet_is_still_there_in_its_place(recorded: Recorded) -> None:
    plain = list(WeldReader(recorded.folder).packets())
    again = list(ResyncedReader(recorded.folder).packets())
    assert [(p.stream, p.order, p.seq, p.t_arrival_ns, type(p.payload)) for p in plain] == [
        (p.stream, p.order, p.seq, p.t_arrival_ns, type(p.payload)) for p in again
    ]
    frames = [(a.payload, b.payload) for a, b in zip(plain, again, strict=True) if isinstance(a.payload, VideoFrame)]
    assert frames
    assert all(isinstance(b, VideoFrame) and np.array_equal(a.pixels, b.pixels) for a, b in frames)


def test_one_clock_per_segment_is_in_force_from_its_first_packet(recorded: Recorded) -> None:
    reader = ResyncedReader(recorded.folder)
    packets = list(reader.packets(video=False))
    updates = [packet.payload for packet in packets if isinstance(packet.payload, ClockUpdate)]
    fits = [(name, fit.model) for name, found in reader.fits.items() for fit in found]
    assert [name for name, _ in fits] == ["camera", "microphone", "sensors"]
    assert {(u.of_stream, ClockModel.from_update(u)) for u in updates} == set(fits)
    opened = next(p.payload for p in packets if isinstance(p.payload, Event) and p.payload.kind == "weld_open")
    snapshot = [packet.payload for packet in clock_snapshot(opened)]
    assert snapshot
    assert all(payload in updates for payload in snapshot)


def test_arc_edges_move_with_the_rows_that_showed_them(recorded: Recorded) -> None:
    def arc_on_ns(reader: WeldReader) -> int:
        events = (p.payload for p in reader.packets(video=False) if isinstance(p.payload, Event))
        return next(e.t_ns for e in events if e.kind == "arc_on" and e.t_ns is not None)

    plain_ns, again_ns = arc_on_ns(WeldReader(recorded.folder)), arc_on_ns(ResyncedReader(recorded.folder))
    assert -LATE_NS - 5_000_000 < again_ns - plain_ns < -15_000_000
    # Arc-on is the first row with an arc: up to a row period behind the arc, and behind by the sensors' latency.
    assert 0 <= again_ns - recorded.weld.truth["arc_on_ns"] < 200_000_000


def test_windows_are_cut_from_a_resynced_weld(recorded: Recorded) -> None:
    reader, spec = ResyncedReader(recorded.folder), SampleSpec(height=60, width=96, photo_height=60, photo_width=80)
    cutter = WindowCutter(reader.manifest.key, spec, reader.infos)
    samples = [sample for packet in reader.packets() for sample in cutter.push(packet)]
    assert len(samples) >= 3
    assert all(sample.missing == 0 for sample in samples)


def test_a_given_latency_is_taken_off(recorded: Recorded) -> None:
    reader = ResyncedReader(recorded.folder, {"camera": 9_000_000})
    assert reader.infos["camera"].latency_ns == 9_000_000
    assert reader.infos["microphone"].latency_ns == 0
    (plain,) = verify(recorded.folder, resync=True)
    (taken,) = verify(recorded.folder, resync=True, latencies_ns={"camera": 9_000_000})
    before, after = plain.sync["camera"]["offset_ms"], taken.sync["camera"]["offset_ms"]
    assert before is not None
    assert after is not None
    assert before - after == pytest.approx(9.0, abs=0.5)


def test_verify_measures_with_the_fitted_clocks(recorded: Recorded) -> None:
    (plain,), (again,) = verify(recorded.folder), verify(recorded.folder, resync=True)
    offset_ms = again.sync["camera"]["offset_ms"]
    sigma_ms = again.sync["camera"]["sigma_ms"]
    assert offset_ms is not None
    assert sigma_ms is not None
    assert abs(offset_ms) < 2.5 * sigma_ms + 9
    assert plain.sync["camera"]["offset_ms"] != offset_ms


def test_a_stepped_device_clock_goes_on_with_its_next_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, step_ns, at_ns = cells.ingested, 700_000_000, cells.START_NS + 6_000_000_000

    def stepped(packets: Iterator[Packet]) -> Iterator[Packet]:
        for packet in packets:
            if packet.stream == "camera" and packet.t_arrival_ns > at_ns and packet.t_device_ns is not None:
                packet = replace(packet, t_device_ns=packet.t_device_ns + step_ns)
            yield packet

    monkeypatch.setattr(cells, "ingested", lambda ingest, packets: plain(ingest, stepped(packets)))
    recorded = record_weld(tmp_path, small_cell(arc_s=4.0, idle_s=3.3))
    reader, clocks, late_ns = ResyncedReader(recorded.folder), ClockTable(), []
    assert len(reader.fits["camera"]) == 2
    for packet in reader.packets():
        if isinstance(packet.payload, ClockUpdate):
            clocks.apply(packet.payload)
        elif isinstance(packet.payload, VideoFrame):
            late_ns.append(packet.t_arrival_ns - clocks.cell_time_ns(reader.infos["camera"], packet))
    assert max(np.abs(late_ns[-60:])) < 30_000_000
    assert np.mean(np.abs(late_ns) < 30_000_000) > 0.9


def test_a_stream_without_device_time_is_left_as_it_is(tmp_path: Path) -> None:
    infos = INFOS | {"camera": replace(INFOS["camera"], device_clock="none")}
    recording = Recording(tmp_path / "w", infos)
    for packet in Synthetic(infos=infos).weld(photos=0):
        recording.take(packet)
    recording.writer.finalise()
    reader = ResyncedReader(tmp_path / "w")
    assert reader.fits["camera"] == []
    assert len(reader.fits["microphone"]) == 1
    unmoved = {name: bool((old == new).all()) for name, (old, new) in reader._times.items()}
    assert unmoved == {"camera": True, "microphone": False, "process": False}
