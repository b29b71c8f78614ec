"""`bench`: the project's own measurements; every room that has some adds its own."""

from pathlib import Path
from typing import Annotated

import typer

from recordings.console import JsonOption, print_result, progress, say

bench = typer.Typer(help="The project's own measurements.")


@bench.command()
def survive(
    out: Annotated[Path | None, typer.Option("--out", help="Where to work; a temporary folder without it.")] = None,
    n: Annotated[int, typer.Option("--n", help="Kills.")] = 1000,
    jobs: Annotated[int, typer.Option("--jobs", help="Capture processes at a time.")] = 6,
    as_json: JsonOption = False,
) -> None:
    """Kill recording capture processes; hold what is left, and what is said to be lost, against the truth."""
    from recordings.bench_survive import lines
    from recordings.bench_survive import survive as kill

    print_result(kill(out, n, jobs, progress=progress("killed")), as_json, lines)


@bench.command("capture")
def bench_capture_(
    seconds: Annotated[float, typer.Option("--for", help="Seconds.")] = 120.0,
    cameras: Annotated[int, typer.Option("--cameras", help="Network cameras, 960 x 600 at 30 per second.")] = 4,
    sound_hz: Annotated[int, typer.Option("--sound-hz", help="Sample rate of the microphone.")] = 192_000,
    boxes: Annotated[int, typer.Option("--boxes", help="Serial sensor boxes.")] = 6,
    rows_hz: Annotated[float, typer.Option("--rows-hz", help="Rows per second of each box.")] = 1000.0,
    screen: Annotated[bool, typer.Option("--screen/--no-screen", help="Draw it too.")] = True,
    as_json: JsonOption = False,
) -> None:
    """Record a whole cell of real drivers: what is lost, what it costs, how late the screen is."""
    from recordings.bench_capture import Load, bench_capture, lines

    load = Load(cameras=cameras, sound_hz=sound_hz, boxes=boxes, rows_hz=rows_hz, seconds=seconds)
    print_result(bench_capture(load, screen=screen), as_json, lines)


@bench.command()
def sync(
    n: Annotated[int, typer.Option("--n", help="Scenarios.")] = 216,
    seconds: Annotated[float, typer.Option("--for", help="Seconds of each.")] = 120.0,
    seed: Annotated[int, typer.Option("--seed")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Tell how far the clocks are off on devices of known truth, beside what others do."""
    from sync.bench import bench_sync, lines

    print_result(bench_sync(n, seconds, seed, progress=say), as_json, lines)


@bench.command("latency-calibration")
def latency_calibration(
    n: Annotated[int, typer.Option("--n", help="Simulated welds.")] = 200,
    seed: Annotated[int, typer.Option("--seed")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Tell how well offsets between the modalities are found from arc edges."""
    from recordings.bench_latency import bench_latency, lines

    print_result(bench_latency(n, seed), as_json, lines)


@bench.command()
def windows(
    seconds: Annotated[float, typer.Option("--for", help="Seconds of packets.")] = 600.0,
    as_json: JsonOption = False,
) -> None:
    """Tell how fast windows are cut, beside the same by polars and numpy."""
    from sync.bench_windows import bench_windows, lines

    print_result(bench_windows(seconds), as_json, lines)


@bench.command()
def catalogue(
    n: Annotated[int, typer.Option("--n", help="Welds.")] = 10_000,
    as_json: JsonOption = False,
) -> None:
    """Tell how fast many welds are listed, beside a plain loop over their JSON files."""
    from recordings.bench_catalogue import bench_catalogue, lines

    print_result(bench_catalogue(n), as_json, lambda result: iter(lines(result)))


@bench.command()
def fuzz(
    n: Annotated[int, typer.Option("--n", help="Damaged inputs.")] = 10_000,
    seed: Annotated[int, typer.Option("--seed", help="Of the first input; a finding names its own.")] = 1,
    workers: Annotated[int, typer.Option("--workers")] = 2,
    as_json: JsonOption = False,
) -> None:
    """Damage welds and Weld-4M sources; tell what crashed, hung or wrote outside its place."""
    from recordings.bench_fuzz import bench_fuzz

    report = bench_fuzz(n, seed, workers, progress=say)
    print_result(report.as_json(), as_json)
    raise typer.Exit(1 if report.findings else 0)


@bench.command("import")
def import_(
    n: Annotated[int, typer.Option("--n", min=1, help="Welds in the tree.")] = 4040, as_json: JsonOption = False
) -> None:
    """Tell how long a dry run takes over a tree of the size and the oddities of Weld-4M, beside a bare walk."""
    from recordings.bench_import import bench_import, lines

    print_result(bench_import(n), as_json, lines)


@bench.command("replay")
def replay_(
    n: Annotated[int, typer.Option("--n", help="Rounds.")] = 5,
    as_json: JsonOption = False,
) -> None:
    """Tell how fast a weld is decoded and aligned, beside bare decoding of its video."""
    from recordings.bench_replay import bench_replay, lines

    print_result(bench_replay(rounds=n, progress=say), as_json, lines)


@bench.command("record")
def record_(
    n: Annotated[int, typer.Option("--n", help="Rounds.")] = 5,
    as_json: JsonOption = False,
) -> None:
    """Tell what recording costs the processor, beside bare encoding of the same frames."""
    from recordings.bench_record import bench_record, lines

    print_result(bench_record(rounds=n, progress=say), as_json, lines)
