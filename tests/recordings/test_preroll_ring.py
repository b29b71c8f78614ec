"""The ring: bounded in bytes, told when that cuts into the pre-roll, and what a weld then lacks is told to the item."""

from pathlib import Path

import pytest

from acquisition.packet import ClockUpdate, Event, SampleBlock, item_range
from recordings.preroll_ring import PrerollRing
from recordings.preroll_spool import PrerollSpool
from recordings.reader import WeldReader
from recordings.recorder import FinishWeld, recover_open_welds
from recordings.verify import verify
from recordings.weld_folder import load_manifest
from tests.recordings.handmade import INFOS, START_NS, Run, World, cell

STREAMS = ("camera", "microphone", "sensors")
LIMIT = 60_000


def fed(root: Path, limit_bytes: int | None, until_s: float = 8.0, *, pre_s: float = 2.0, spool: bool = False) -> Run:
    """A cell whose arc comes at 4 s, and a ring of so many bytes."""
    run = Run(cell(pre_s=pre_s), root)
    if limit_bytes is not None:
        run.core.ring.limit_bytes = limit_bytes
    if spool:
        run.core.spool = PrerollSpool(root, list(INFOS))
    packets = World(seconds=8.0, arcs=((4.0, 5.0),)).packets()
    return run.feed([packet for packet in packets if packet.t_arrival_ns < START_NS + until_s * 1e9])


def items(run: Run, folder: Path, stream: str) -> tuple[int, int]:
    """Items of a weld's stream: published, and kept."""
    manifest = load_manifest(folder)
    mine = [p for p in run.published if p.stream == stream and p.order >= manifest.first_order]
    last = manifest.last_order or 0
    kept = [p for p in WeldReader(folder).packets() if p.stream == stream]
    return sum(item_range(p)[1] for p in mine if p.order <= last), sum(item_range(p)[1] for p in kept)


def test_what_does_not_fit_is_lost_located_and_told_once(tmp_path: Path) -> None:
    run = fed(tmp_path, LIMIT)
    (problem,) = run.problems
    assert problem.startswith("the ring holds ")
    assert problem.endswith(" s of the 2 s pre-roll; raise ring_mb or lower pre_s")
    (key,) = run.core.welds
    run.core.handle(FinishWeld(key=key))
    folder = run.core.welds[key].folder
    assert verify(folder)[0].problems == []
    manifest = load_manifest(folder)
    for name in STREAMS:
        (loss,) = manifest.streams[name].losses
        published, kept = items(run, folder, name)
        assert (loss.reason, loss.exact, kept + loss.missing) == ("ring", True, published)
        assert loss.seconds == pytest.approx(loss.missing / INFOS[name].rate_hz)
        begun = next(p for p in run.published if p.stream == name and p.order >= manifest.first_order)
        after = next(p for p in WeldReader(folder).packets() if p.stream == name)
        assert (loss.first, loss.t_ns) == (item_range(begun)[0], begun.t_arrival_ns)
        assert loss.first + loss.missing == item_range(after)[0]
        assert 0.2 < loss.seconds < 2.5
    decided = [p.order for p in run.published if isinstance(p.payload, ClockUpdate | Event)]
    mine = [order for order in decided if manifest.first_order <= order <= (manifest.last_order or 0)]
    kept_orders = {p.order for p in WeldReader(folder).packets() if isinstance(p.payload, ClockUpdate | Event)}
    assert set(mine) <= kept_orders, "without its clocks a weld could not be timed"


def test_a_ring_that_is_large_enough_loses_nothing_and_says_so(tmp_path: Path) -> None:
    run = fed(tmp_path, None)
    assert not run.problems
    (key,) = run.core.welds
    run.core.handle(FinishWeld(key=key))
    for name in STREAMS:
        published, kept = items(run, run.core.welds[key].folder, name)
        assert published == kept
        assert not load_manifest(run.core.welds[key].folder).streams[name].losses


def test_the_ring_is_never_larger_than_its_limit_and_knows_how_far_it_reaches() -> None:
    run = Run(cell(pre_s=2.0))
    ring = PrerollRing(run.cell.record, run.cell.arc)
    ring.limit_bytes = 24_000
    reached = []
    for packet in Run(cell()).feed(World(seconds=6.0, arcs=()).packets()).published:
        if isinstance(packet.payload, SampleBlock | ClockUpdate):
            ring.add([packet])
            assert ring.bytes <= ring.limit_bytes
            reached.append(ring.seconds)
    # A block holds 100 samples of two bytes and some bytes of its own, twenty times a second.
    assert reached[-1] == pytest.approx(24_000 / 400 / 20, abs=0.1)
    assert ring.problem is None, "3 s are enough for the pre-roll of 2 s"
    ring.limit_bytes = 8_000
    ring.add([])
    assert ring.problem == "the ring holds 0.2 s of the 2 s pre-roll; raise ring_mb or lower pre_s"


def test_what_is_older_than_any_pre_roll_goes_without_a_word() -> None:
    run = Run(cell(pre_s=0.5, shortest_s=1.0))
    ring = PrerollRing(run.cell.record, run.cell.arc)
    for packet in Run(cell()).feed(World(seconds=20.0, arcs=()).packets()).published:
        if isinstance(packet.payload, SampleBlock):
            ring.add([packet])
    assert ring.seconds == pytest.approx(0.5 + 1.0 + 12.0, abs=0.1)
    assert ring.problem is None
    assert ring.since(0, INFOS)[1] == {}


def test_a_weld_rebuilt_from_less_than_its_pre_roll_says_so_as_a_bound(tmp_path: Path) -> None:
    """Killed while it opened, with a ring that was too small: the spool holds no more than the ring."""
    run = fed(tmp_path, 20_000, until_s=4.1, pre_s=3.0, spool=True)
    assert run.core.spool is not None
    later = Run(run.cell).feed(World(seconds=5.0, arcs=((4.0, 5.0),)).packets()).published
    opening = next(p for p in later if isinstance(p.payload, Event) and p.payload.kind == "weld_open")
    run.core.spool.decided(opening)
    run.core.spool._marks.close()
    (line,) = recover_open_welds(tmp_path)
    assert "recovered after a crash" in line
    (folder,) = (path.parent for path in tmp_path.glob("hand-made/*/*/weld.json"))
    assert verify(folder)[0].problems == []
    assert isinstance(opening.payload, Event)
    for name in STREAMS:
        losses = load_manifest(folder).streams[name].losses
        assert [(loss.reason, loss.exact) for loss in losses] == [("ring", False)]
        after = next(p for p in WeldReader(folder).packets() if p.stream == name)
        lost_s = (after.t_arrival_ns - opening.payload.data["origin_ns"]) / 1e9
        assert losses[0].seconds == pytest.approx(lost_s, abs=0.06)
