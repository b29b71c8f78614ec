"""Small simulated cells for tests, and welds pushed through the real ingest and recorder as fast as they render."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from acquisition.packet import Packet
from acquisition.simulated.config import SimulationConfig
from acquisition.simulated.weld import SimulatedWeld, simulated_weld
from recordings.cell import Cell, load_cell
from recordings.ingest import Ingest
from recordings.manifest import UtcPair
from recordings.recorder import FinishWeld, IngestedPacket, RecorderCore

SMALL = SimulationConfig(
    seed=3, idle_s=3.0, arc_s=6.0, tail_s=4.0, photos=2, photo_height=120, photo_width=160, height=120, width=192
)
START_NS = 10**12


def small_cell(*, video: Literal["h264", "lossless"] = "lossless", **simulation: Any) -> Cell:
    cell = load_cell(None)
    return replace(
        cell,
        record=replace(cell.record, video=video),
        judge=replace(cell.judge, photos_expected=2, photo_wait_s=10.0),
        simulation=replace(SMALL, **simulation),
    )


@dataclass
class Recorded:
    """A weld pushed through ingest: what was published, and where it was recorded."""

    published: list[Packet]
    ingest: Ingest
    core: RecorderCore
    folder: Path
    weld: SimulatedWeld


def ingested(ingest: Ingest, packets: Iterator[Packet]) -> Iterator[list[Packet]]:
    """Push packets in arrival order, with the ticks that the capture loop would give."""
    ticked_ns = 0
    for packet in packets:
        if packet.t_arrival_ns - ticked_ns > 20_000_000:
            ticked_ns = packet.t_arrival_ns
            yield ingest.tick(ticked_ns)
        yield ingest.push(packet)


def record_weld(root: Path, cell: Cell, *, weld_class: str = "good", seed: int = 5) -> Recorded:
    assert cell.simulation is not None
    weld = simulated_weld(cell.simulation, weld_class=weld_class, severity=0.8, seed=seed, start_ns=START_NS)
    ingest = Ingest(cell, weld.infos, lambda cell_ns: cell_ns)
    pair = UtcPair(monotonic_ns=START_NS, utc_ns=START_NS, uncertainty_ns=1)
    problems: list[str] = []
    core = RecorderCore(
        cell=cell, infos=ingest.infos, root=root, session="test", utc=lambda: pair, on_problem=problems.append
    )
    published: list[Packet] = []
    for made in ingested(ingest, weld.packets()):
        for packet in made:
            published.append(packet)
            core.handle(IngestedPacket(packet=packet, keyframe=packet.order == ingest.keyframe_order))
    for packet in ingest.finish(published[-1].t_arrival_ns):
        published.append(packet)
        core.handle(IngestedPacket(packet=packet, keyframe=False))
    assert not problems, problems
    (key,) = core.welds
    core.handle(FinishWeld(key=key))
    assert core.welds[key].finalised, core.welds[key].problem
    return Recorded(published=published, ingest=ingest, core=core, folder=core.welds[key].folder, weld=weld)
