"""Commands about devices and recorded data; each checks its arguments, calls its room, prints the result."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from recordings.console import (
    LOSSY,
    CellOption,
    FaultsOption,
    JsonOption,
    ResyncOption,
    disturbed,
    fail,
    latencies,
    print_result,
    progress,
    say,
)

commands = typer.Typer()


@commands.command()
def devices(
    check: Annotated[bool, typer.Option("--check", help="Open each device for 5 s: rate, jitter, losses.")] = False,
    cell: Annotated[Path | None, typer.Option("--cell", help="With --check: the streams of this cell file.")] = None,
    as_json: JsonOption = False,
) -> None:
    """List cameras, microphones, serial ports, GigE Vision cameras and LSL streams as lines for a cell file."""
    from acquisition.discovery import check_streams, list_devices
    from recordings.cell import build_drivers, load_cell

    if cell and not check:
        raise typer.BadParameter("--cell says whose streams to check; add --check")
    found = check_streams(build_drivers(load_cell(cell))[0]) if check and cell else list_devices(check=check)
    print_result(
        {"devices": found}, as_json, lambda result: (line for device in result["devices"] for line in device["lines"])
    )


@commands.command()
def verify(
    path: Annotated[Path, typer.Argument(help="A weld folder or a root.")],
    resync: ResyncOption = False,
    cell: CellOption = None,
    fast: Annotated[bool, typer.Option("--fast", help="Digests, counts and order only; nothing is decoded.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Check hashes, counts, times and decodability; measure sync between the streams."""
    from recordings.verify import verify as check

    _report_welds(check(path, deep=not fast, resync=resync, latencies_ns=latencies(cell)), as_json)


@commands.command()
def latency(
    welds: Annotated[list[Path], typer.Argument(help="Weld folders or roots, all of one cell.")],
    cell: CellOption = None,
    write: Annotated[bool, typer.Option("--write", help="Put what is constant into the cell file.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Measure from the arc edges how late each stream is against the sensors."""
    from recordings.latency import measure_latency

    if write and cell is None:
        raise typer.Exit(fail("--write needs a cell file to write into; name it with --cell", 2))
    report = measure_latency(welds)
    print_result(report.as_json(), as_json, lambda _: iter(report.lines()))
    for line in report.write(cell) if write and cell is not None else ():
        say(line)


@commands.command()
def recover(
    path: Annotated[Path, typer.Argument(help="A weld folder or a root.")], as_json: JsonOption = False
) -> None:
    """Finish welds that a crash left open; never alters sample data."""
    from recordings.recovery import recover as finish

    _report_welds(finish(path), as_json)


def _report_welds(reports: list[Any], as_json: bool) -> None:
    import msgspec

    welds = [msgspec.to_builtins(report, enc_hook=str) for report in reports]
    print_result({"welds": welds}, as_json, _weld_lines)
    if any(not weld["ok"] for weld in welds):
        raise typer.Exit(1)
    raise typer.Exit(LOSSY if any(loss["items"] for weld in welds for loss in weld["losses"].values()) else 0)


def _weld_lines(result: dict[str, Any]) -> Iterator[str]:
    for weld in result["welds"]:
        yield f"{weld['path']}: {weld['state']}, {'ok' if weld['ok'] else 'NOT OK'}"
        for stream, loss in weld["losses"].items():
            yield f"    {stream}: lost {loss['items']} items ({loss['seconds']:.3f} s)"
        for problem in weld["problems"]:
            yield f"    {problem}"
        for stream, sync in weld.get("sync", {}).items():
            yield f"    {stream}: {json.dumps(sync)}"


@commands.command()
def simulate(
    out: Annotated[Path, typer.Option("--out", help="Folder for the welds.")],
    n: Annotated[int, typer.Option("--n", help="Number of welds.")],
    classes: Annotated[list[str] | None, typer.Option("--class", help="Class; repeat for several in turn.")] = None,
    severity: Annotated[float | None, typer.Option("--severity", help="0-1; without it, drawn from 0.5-1.")] = None,
    seed: Annotated[int, typer.Option("--seed")] = 1,
    per_session: Annotated[int, typer.Option("--per-session", help="Welds per session.")] = 20,
    test_set: Annotated[
        Literal["", "swap", "silent_part", "process_only"], typer.Option("--set", help="A set for testing only.")
    ] = "",
    recipes: Annotated[
        Literal["all", "train", "test"], typer.Option("--recipes", help="Pool of recipes; train and test share none.")
    ] = "all",
    cell: CellOption = None,
    faults: FaultsOption = "none",
    workers: Annotated[int, typer.Option("--workers")] = 2,
    as_json: JsonOption = False,
) -> None:
    """Write simulated welds with truth, in the app's own format, faster than real time."""
    from recordings.cell import load_cell
    from recordings.simulate import plan
    from recordings.simulate import simulate as write

    span = (0.5, 1.0) if severity is None else (severity, severity)
    orders = plan(n, classes or [], span, seed, per_session, set=test_set, recipes=recipes)
    world = disturbed(load_cell(cell), faults)
    print_result(write(orders, world, out, workers=workers, progress=progress("simulated")), as_json)


@commands.command()
def keys(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="A new client's name, or the .pub file that a client sent.")
    ] = None,
    cell: CellOption = None,
    out: Annotated[Path | None, typer.Option("--out", help="Only make a pair here, on the client's own host.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Let a screen or detector on another host attach to this cell; without NAME, tell who may."""
    from acquisition.keys import give_keys, make_keys, read_clients
    from recordings.cell import load_cell
    from recordings.remote import keys_folder

    if out is not None:
        if name is None:
            raise typer.Exit(fail("--out makes a pair; name it", 2))
        make_keys(out, name)
        lines = [f"made {out}/{name}.pub and .secret; send the .pub to the cell's host, for `keys {name}.pub` there"]
        print_result({"folder": str(out), "lines": lines}, as_json, lambda result: iter(result["lines"]))
        return
    folder = keys_folder(load_cell(cell))
    lines = give_keys(folder, name) if name is not None else []
    clients, problems = read_clients(folder)
    if name is None:
        lines = [f"{client} may attach" for client in sorted(clients.values())] + problems
    result = {"folder": str(folder), "clients": sorted(clients.values()), "lines": lines or ["nobody may attach"]}
    print_result(result, as_json, lambda found: iter(found["lines"]))
