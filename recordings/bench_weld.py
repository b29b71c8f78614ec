"""The weld that recording and replay are measured on: 960 x 600 at 30 Hz, sound at 48 kHz, six sensors at 1 kHz."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from acquisition.packet import StreamInfo
from acquisition.simulated.config import SimulationConfig
from acquisition.simulated.weld import simulated_weld
from recordings.cell import Cell, load_cell
from recordings.ingest import Ingest
from recordings.manifest import UtcPair
from recordings.recorder import FinishWeld, IngestedPacket, RecorderCore

START_NS = 10**12
FPS = 30.0
_FLUSH_NS = 250_000_000
_TICK_NS = 20_000_000

Coding = Literal["h264", "lossless"]


class BenchError(Exception):
    """A bench could not be run; the message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchWeld:
    """A simulated weld as it comes out of ingest, in memory.

    Attributes:
        cell: The cell that it was welded in.
        infos: Its streams.
        items: Everything that the recorder gets, in order.
    """

    cell: Cell
    infos: dict[str, StreamInfo]
    items: list[IngestedPacket]

    def record(self, root: Path, coding: Coding) -> Iterator[None]:
        """Record it under `root`; a step per item, so that the caller may count between them.

        Raises:
            BenchError: It could not be recorded.
        """
        pair = UtcPair(monotonic_ns=START_NS, utc_ns=time.time_ns(), uncertainty_ns=1)
        problems: list[str] = []
        core = RecorderCore(
            cell=replace(self.cell, record=replace(self.cell.record, video=coding)),
            infos=self.infos,
            root=root,
            session="bench",
            utc=lambda: pair,
            on_problem=problems.append,
        )
        flushed_ns = 0
        for item in self.items:
            core.handle(item)
            if item.packet.t_arrival_ns - flushed_ns > _FLUSH_NS:
                flushed_ns = item.packet.t_arrival_ns
                core.flush()
            yield
        for key in list(core.welds):
            core.handle(FinishWeld(key=key))
        if problems or not core.welds:
            raise BenchError("; ".join(problems) or "the simulated weld was not recorded")


def bench_weld(arc_s: float, height: int, width: int) -> BenchWeld:
    """Simulate the weld with about `arc_s` seconds of arc, in a picture of this size."""
    config = SimulationConfig(
        fps=FPS,
        height=height,
        width=width,
        audio_rate_hz=48_000,
        sensor_rate_hz=1000.0,
        idle_s=2.0,
        arc_s=arc_s,
        tail_s=2.0,
        photos=2,
    )
    simulation = simulated_weld(config, weld_class="good", seed=5, start_ns=START_NS)
    cell = replace(load_cell(None), simulation=config)
    ingest = Ingest(cell, simulation.infos, lambda cell_ns: cell_ns)
    items: list[IngestedPacket] = []
    now_ns = START_NS
    for packet in simulation.packets():
        ticked = []
        if packet.t_arrival_ns - now_ns > _TICK_NS:
            now_ns = packet.t_arrival_ns
            ticked = ingest.tick(now_ns)
        for one in (*ticked, *ingest.push(packet)):
            items.append(IngestedPacket(packet=one, keyframe=one.order == ingest.keyframe_order))
    items += [IngestedPacket(packet=one, keyframe=False) for one in ingest.finish(items[-1].packet.t_arrival_ns)]
    return BenchWeld(cell=cell, infos=dict(ingest.infos), items=items)


def recorded(weld: BenchWeld, root: Path, coding: Coding) -> Path:
    """Record a weld and return its folder.

    Raises:
        BenchError: It could not be recorded.
    """
    for _ in weld.record(root, coding):
        pass
    return next(path.parent for path in root.rglob("weld.json"))
