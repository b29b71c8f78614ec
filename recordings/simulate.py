"""`simulate`: simulated welds with truth, in the app's own format, as fast as they render; through the live ingest."""

import json
import multiprocessing
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Final

from acquisition.packet import Photo
from acquisition.simulated.config import SimulationConfig
from acquisition.simulated.recipes import RecipePool
from acquisition.simulated.session import draw_recipe
from acquisition.simulated.sets import SET_CLASSES, TestSet
from acquisition.simulated.weld import simulated_weld
from recordings.cell import Cell
from recordings.ingest import Ingest
from recordings.manifest import LabelEntry, UtcPair
from recordings.recorder import FinishWeld, IngestedPacket, LabelWeld, RecorderCore
from recordings.utc import utc_now
from recordings.verdict import CLASSES

_EPOCH_NS: Final = int(datetime(2026, 1, 5, 6, 0, tzinfo=UTC).timestamp()) * 10**9
_SPACING_NS: Final = 60 * 10**9
_SESSION_NS: Final = 86_400 * 10**9


class SimulationError(Exception):
    """A simulated weld could not be made or written; the message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """One weld to simulate.

    Attributes:
        session: Session number; draws the nuisances.
        number: Weld number within the session.
        weld_class: Class name.
        severity: 0-1.
        seed: Seed of this weld.
        set: Test-only set that it belongs to, or empty.
        recipes: Half of the recipe space to draw from; None keeps the cell file's.
    """

    session: int
    number: int
    weld_class: str
    severity: float
    seed: int
    set: TestSet = ""
    recipes: RecipePool | None = None


def plan(
    count: int,
    classes: Sequence[str],
    severity: tuple[float, float],
    seed: int,
    welds_per_session: int,
    *,
    set: TestSet = "",
    recipes: RecipePool | None = None,
) -> list[Order]:
    """Lay out `count` welds over sessions, the classes taking turns; equal arguments give equal plans.

    Without `classes`, welds are good, and those of a set are of all classes that the set is made of.

    Raises:
        SimulationError: The set is unknown, or not made of one of the classes.
    """
    if set not in SET_CLASSES:
        raise SimulationError(f"set {set!r} is unknown: use one of " + ", ".join(filter(None, SET_CLASSES)))
    classes = classes or (SET_CLASSES[set] if set else ("good",))
    if wrong := [c for c in classes if c not in SET_CLASSES[set]]:
        of = f"set {set} is not made of" if set else "there is no"
        raise SimulationError(f"{of} class {wrong[0]!r}: use one of " + ", ".join(SET_CLASSES[set]))
    if recipes not in (None, "all", "train", "test"):
        raise SimulationError(f"recipes {recipes!r}: use all, train or test")
    orders = []
    for n in range(count):
        session, number = divmod(n, welds_per_session)
        draw = zlib.crc32(f"{seed}/{n}/severity".encode()) / 2**32
        orders.append(
            Order(
                session=seed * 1000 + session,
                number=number,
                weld_class=classes[n % len(classes)],
                severity=severity[0] + (severity[1] - severity[0]) * draw,
                seed=zlib.crc32(f"{seed}/{n}/weld".encode()),
                set=set,
                recipes=recipes,
            )
        )
    return orders


def with_faults(cell: Cell, faults: str) -> Cell:
    """Give the simulated cell the device faults of `--faults`: `none`, `all` or some of `DRAWN_FAULTS`.

    Raises:
        SimulationError: A fault is unknown, or the cell is a real one.
    """
    if cell.simulation is None:
        raise SimulationError(f"--faults {faults}: only the simulated cell has faults to order; leave it out")
    try:
        return replace(cell, simulation=replace(cell.simulation, faults=faults))
    except ValueError as error:
        raise SimulationError(f"--faults: {error}") from error


def write_weld(order: Order, cell: Cell, root: Path) -> Path:
    """Simulate one weld and record it as the live path would; returns its folder.

    Raises:
        SimulationError: No weld was found in it, or it could not be written.
    """
    start_ns = 10**12 + order.number * _SPACING_NS
    config = replace(cell.simulation or SimulationConfig(), session=order.session)
    try:
        config = config if order.recipes is None else replace(config, recipe_pool=order.recipes)
        weld = simulated_weld(
            config,
            weld_class=order.weld_class,
            severity=order.severity,
            seed=order.seed,
            start_ns=start_ns,
            set=order.set,
        )
    except ValueError as error:
        raise SimulationError(f"session {order.session} weld {order.number}: {error}") from error
    utc_offset_ns = _EPOCH_NS + order.session * _SESSION_NS - 10**12
    problems: list[str] = []
    ingest = Ingest(cell, weld.infos, lambda cell_ns: cell_ns + utc_offset_ns)
    now_ns = start_ns

    def pair() -> UtcPair:
        return UtcPair(monotonic_ns=now_ns, utc_ns=now_ns + utc_offset_ns, uncertainty_ns=1)

    core = RecorderCore(
        cell=cell,
        infos=ingest.infos,
        root=root,
        session=f"s{order.session}",
        source="simulated",
        utc=pair,
        metadata={"recipe": draw_recipe(config).name} | ({"set": order.set} if order.set else {}),
        on_problem=problems.append,
    )

    def take(packets: Sequence[Any]) -> None:
        for made in packets:
            core.handle(IngestedPacket(packet=made, keyframe=made.order == ingest.keyframe_order))

    ticked_ns = start_ns
    for packet in weld.packets():
        if isinstance(packet.payload, Photo) and not ingest.welds:
            break
        now_ns = packet.t_arrival_ns
        if now_ns - ticked_ns > 50_000_000:
            ticked_ns = now_ns
            take(ingest.tick(now_ns))
        take(ingest.push(packet))
    take(ingest.finish(now_ns))
    if not core.welds:
        raise SimulationError(
            f"session {order.session} weld {order.number} ({order.weld_class}): no arc was found in it"
        )
    label = CLASSES.index(order.weld_class)
    for key, file in core.welds.items():
        core.handle(LabelWeld(key=key, entry=LabelEntry(label=label, by="simulated", utc=utc_now())))
        core.handle(FinishWeld(key=key, truth=weld.truth))
        if not file.finalised:
            raise SimulationError(f"{file.folder}: {file.problem or '; '.join(problems) or 'not finalised'}")
    return next(iter(core.welds.values())).folder


def simulate(
    orders: Sequence[Order], cell: Cell, root: Path, *, workers: int, progress: Callable[[int, int], None]
) -> dict[str, Any]:
    """Write all `orders` under `root`; returns counts and the speed against real time."""
    began = time.monotonic()
    work = partial(write_weld, cell=cell, root=root)
    folders: list[Path] = []
    if workers > 1 and len(orders) > 1:
        with multiprocessing.get_context("spawn").Pool(workers) as pool:
            for folder in pool.imap_unordered(work, orders):
                folders.append(folder)
                progress(len(folders), len(orders))
    else:
        for order in orders:
            folders.append(work(order))
            progress(len(folders), len(orders))
    seconds = time.monotonic() - began
    arc_s = sum(_length_s(folder) for folder in folders)
    return {
        "welds": len(folders),
        "root": str(root),
        "seconds": round(seconds, 2),
        "simulated_s": round(arc_s, 2),
        "speed_x_realtime": round(arc_s / seconds, 2) if seconds else None,
    }


def _length_s(folder: Path) -> float:
    """Seconds recorded in a weld folder, from its (monotonic, UTC) pairs."""
    manifest = json.loads((folder / "weld.json").read_text(encoding="utf-8"))
    return float((manifest["utc"][-1]["monotonic_ns"] - manifest["origin_ns"]) / 1e9)
