"""What the commands of all rooms share: options, and how results, progress and errors reach the user.

Results go to stdout (`--json` for machines), messages to stderr.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from acquisition.simulated.faults import FAULTS_HELP

if TYPE_CHECKING:
    from recordings.cell import Cell

LOSSY: Final = 3
"""Exit code of a command that is done, with losses."""

CellOption = Annotated[Path | None, typer.Option("--cell", help="Cell file; without it, the simulated cell.")]
RootOption = Annotated[Path | None, typer.Option("--root", help="Folder of all recordings.")]
RuntimeOption = Annotated[Path | None, typer.Option("--runtime", help="Folder in which the processes meet.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
ResyncOption = Annotated[
    bool, typer.Option("--resync", help="Time it anew: clocks fitted to the whole weld, latencies of --cell.")
]
FaultsOption = Annotated[str, typer.Option("--faults", help=FAULTS_HELP)]
DataOption = Annotated[Path, typer.Option("--data", help="Folder of recorded welds.")]


def print_result(
    result: dict[str, Any], as_json: bool, lines: Callable[[dict[str, Any]], Iterator[str]] | None = None
) -> None:
    """Print a result: as JSON, or line by line for a human."""
    if as_json or lines is None:
        typer.echo(json.dumps(result, indent=None if as_json else 2))
    else:
        for line in lines(result):
            typer.echo(line)


def progress(word: str) -> Callable[[int, int], None]:
    """A progress line with the time left on stderr (one a second; silent when it is no terminal and at the end)."""
    began = last = time.monotonic()

    def show(done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last > (1.0 if sys.stderr.isatty() else 15.0) and done:
            last = now
            left = (now - began) / done * (total - done)
            typer.echo(f"{word} {done} of {total}, {left:.0f} s left", err=True)

    return show


def say(line: str) -> None:
    """A line for the user on stderr."""
    typer.echo(line, err=True)


def fail(message: str, code: int = 1) -> int:
    """A line for the user on stderr; returns the exit code."""
    typer.echo(message, err=True)
    return code


def disturbed(cell: "Cell", faults: str) -> "Cell":
    """The simulated cell with its devices' faults; any cell as it is with `none`."""
    if faults == "none":
        return cell
    from recordings.simulate import with_faults

    return with_faults(cell, faults)


def latencies(cell: Path | None) -> dict[str, int] | None:
    """Calibrated latencies of a cell file by stream, ns; None without one: those of the recording count."""
    from recordings.cell import load_cell

    if cell is None:
        return None
    loaded = load_cell(cell)
    return {stream.name: loaded.latency_ns(stream.name) for stream in loaded.streams}
