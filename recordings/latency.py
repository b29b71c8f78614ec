"""`latency`: how late each stream of a cell is, measured from the arc edges of its recorded welds."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from acquisition.packet import ClockUpdate
from recordings.cell_edit import write_latencies
from recordings.reader import WeldReader
from recordings.weld_folder import WeldError, find_welds
from sync.arc_watch import ArcWatch
from sync.clock import ClockTable
from sync.latency import Latency, Residual, calibrate_latency


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyReport:
    """What the welds say about a cell's latencies, against the sensors.

    Attributes:
        cell: Name of the cell.
        streams: Latency by stream; the sensors that the others are compared with are not among them.
        welds: Per weld folder the total latency of each stream, what was applied when it was recorded included.
        problems: One line per weld that says nothing, with the reason.
    """

    cell: str
    streams: dict[str, Latency]
    welds: dict[Path, dict[str, Residual]]
    problems: list[str]

    def lines(self) -> list[str]:
        """Say it to a human; a stream without a constant latency gets a line per weld."""
        lines = []
        for name, one in self.streams.items():
            of = f"{one.welds} weld{'s' * (one.welds != 1)}" + (f", {one.rejected} left out" if one.rejected else "")
            spread = "" if one.spread_ms is None else f", welds differ by {one.spread_ms:.1f} ms"
            if one.constant:
                lines.append(f"{name}: {one.latency_ms:+.1f} ms +- {1.96 * one.sigma_ms:.1f} (95 %; {of}{spread})")
                continue
            differ = f"no constant latency; welds differ by {one.spread_ms:.0f} ms ({of})"
            lines.append(f"{name}: {differ}: correct each weld on its own")
            lines += [
                f"  {folder}: {name} {weld[name]['offset_ms']:+.1f} ms +- {1.96 * weld[name]['sigma_ms']:.1f}"
                for folder, weld in self.welds.items()
                if name in weld
            ]
        return [*lines, *self.problems]

    def as_json(self) -> dict[str, Any]:
        """Return it for programs; milliseconds, standard deviations."""
        return {
            "cell": self.cell,
            "streams": {name: asdict(one) for name, one in self.streams.items()},
            "welds": [{"path": str(folder), "offsets": dict(weld)} for folder, weld in self.welds.items()],
            "problems": self.problems,
        }

    def write(self, cell_file: Path) -> list[str]:
        """Put the constant latencies into a cell file; returns a line that says what was done.

        Raises:
            CellError: The file lacks a stream or cannot be edited.
        """
        constant = {name: one.latency_ms for name, one in self.streams.items() if one.constant}
        if not constant:
            return [f"{cell_file}: not changed, no stream has a constant latency"]
        changed = write_latencies(cell_file, constant)
        said = ", ".join(f"{name} {latency_ms:.3f} ms" for name, latency_ms in constant.items())
        return [f"{cell_file}: {'latency_ms of' if changed else 'holds already'} {said}"]


def measure_latency(paths: Sequence[Path]) -> LatencyReport:
    """Measure the latencies of a cell from any number of its welds; nothing is changed.

    Args:
        paths: Weld folders or recordings roots.

    Raises:
        WeldError: There is no weld, the welds are of several cells, or none says anything.
    """
    folders = list(dict.fromkeys(folder for path in paths for folder in find_welds(path)))
    cells: dict[str, Path] = {}
    welds: dict[Path, dict[str, Residual]] = {}
    problems: list[str] = []
    for folder in folders:
        try:
            reader = WeldReader(folder)
            cells.setdefault(reader.manifest.cell, folder)
            residuals = _totals(reader)
        except WeldError as error:
            problems.append(str(error))
            continue
        if residuals:
            welds[folder] = residuals
        else:
            problems.append(f"{folder}: no stream shows the arc beside the sensors; it was left out")
    if len(cells) > 1:
        raise WeldError(f"the welds are of several cells ({', '.join(sorted(cells))}); name those of one cell")
    names = sorted({name for weld in welds.values() for name in weld})
    if not names:
        raise WeldError(f"none of {len(folders)} welds says anything: {problems[0]}")
    streams = {name: calibrate_latency([weld[name] for weld in welds.values() if name in weld]) for name in names}
    return LatencyReport(cell=next(iter(cells)), streams=streams, welds=welds, problems=problems)


def _totals(reader: WeldReader) -> dict[str, Residual]:
    """Return the latency of each stream of a weld: its residual, and what had been taken off already."""
    clocks, watch = ClockTable(), ArcWatch(reader.infos, everything=True)
    for packet in reader.packets():
        if isinstance(packet.payload, ClockUpdate):
            clocks.apply(packet.payload)
        elif packet.stream in reader.infos:
            watch.take(packet, clocks)
    return {
        name: Residual(
            offset_ms=residual["offset_ms"] + reader.infos[name].latency_ns / 1e6, sigma_ms=residual["sigma_ms"]
        )
        for name, residual in watch.residuals().items()
        if residual["sigma_ms"] > 0
    }
