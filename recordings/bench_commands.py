"""`bench`: the project's own measurements; every room that has some adds its own."""

from pathlib import Path
from typing import Annotated

import typer

from recordings.console import JsonOption, print_result, say

bench = typer.Typer(help="The project's own measurements.")


@bench.command()
def survive(
    out: Annotated[Path | None, typer.Option("--out", help="Where to work; a temporary folder without it.")] = None,
    n: Annotated[int, typer.Option("--n", help="Repetitions.")] = 30,
    as_json: JsonOption = False,
) -> None:
    """Kill the capture process again and again, and tell what each time was lost."""
    from recordings.bench import BENCHES

    print_result(BENCHES["survive"](out, n), as_json)


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
