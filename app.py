"""Weld-4M on the command line: `python app.py COMMAND`; without one, the screen on the simulated cell.

Thin: every command checks its arguments, calls one room, prints a result. Results go to stdout (`--json` for machines),
messages to stderr. Exit codes: 0 done, 1 failed, 2 wrong use, 3 done with losses.
"""

import contextlib
import json
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import typer

from acquisition.simulated.faults import FAULTS_HELP, INJECT_HELP

if TYPE_CHECKING:
    from recordings.cell import Cell
    from recordings.remote import RemoteCell
    from recordings.supervisor import Supervisor

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

LOSSY: Final = 3
SHIPPED: Final = Path(__file__).parent / "models" / "shipped" / "causal-film"
"""The detector that judges when neither cell file nor command names one; its card says how it was made."""
FLOOR: Final = SHIPPED.parent / "statistics"
"""What it is measured beside; `docs/statistics.md` says how it was made."""

CellOption = Annotated[Path | None, typer.Option("--cell", help="Cell file; without it, the simulated cell.")]
RootOption = Annotated[Path | None, typer.Option("--root", help="Folder of all recordings.")]
RuntimeOption = Annotated[Path | None, typer.Option("--runtime", help="Folder in which the processes meet.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
ResyncOption = Annotated[
    bool, typer.Option("--resync", help="Time it anew: clocks fitted to the whole weld, latencies of --cell.")
]
FaultsOption = Annotated[str, typer.Option("--faults", help=FAULTS_HELP)]
CheckpointOption = Annotated[Path | None, typer.Option("--checkpoint", help="Trained detector to judge with.")]
ConnectOption = Annotated[
    str | None, typer.Option("--connect", help="tcp://HOST:PORT of a cell on another host; needs --key.")
]
KeyOption = Annotated[Path | None, typer.Option("--key", help="FOLDER/NAME of this host's keys; see `keys`.")]
DataOption = Annotated[Path, typer.Option("--data", help="Folder of recorded welds.")]

UsageError: Final[Any] = typer.BadParameter.__mro__[1]
"""Wrong use of the command line: click's error, which newer versions of typer carry under their own name."""

_debug = False


@app.callback(invoke_without_command=True)
def main(
    context: typer.Context,
    debug: Annotated[bool, typer.Option("--debug", help="Full messages and tracebacks.")] = False,
) -> None:
    """See, hear and judge a robotic weld while it happens, and keep every weld as training data."""
    global _debug
    _debug = debug
    logging.basicConfig(
        level=logging.DEBUG if debug else logging.WARNING,
        format="%(asctime)s %(levelname)s %(threadName)s %(name)s: %(message)s",
        stream=sys.stderr,
    )
    if context.invoked_subcommand is None:
        context.invoke(run)


# -- live ----------------------------------------------------------------------------------------------------------


@app.command()
def run(
    cell: CellOption = None,
    root: RootOption = None,
    runtime: RuntimeOption = None,
    checkpoint: CheckpointOption = None,
    headless: Annotated[bool, typer.Option("--headless", help="No window: capture, judge and record.")] = False,
    seconds: Annotated[float | None, typer.Option("--for", help="Stop after this many seconds (headless).")] = None,
    welds: Annotated[int | None, typer.Option("--welds", help="Stop after this many welds (headless).")] = None,
    inject: Annotated[list[str] | None, typer.Option("--inject", help=INJECT_HELP)] = None,
    faults: FaultsOption = "none",
    report: Annotated[Path | None, typer.Option("--report", help="Write the screen's own timings here.")] = None,
    connect: ConnectOption = None,
    key: KeyOption = None,
    judged_elsewhere: Annotated[
        bool, typer.Option("--judged-elsewhere", help="The detector runs on another host: `detector --connect`.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Capture, show, judge and record; attaches to a capture process that already runs for this cell."""
    if connect is not None:
        raise typer.Exit(_run_elsewhere(connect, key, report, headless))
    supervisor = _live(cell, root, runtime, checkpoint, seconds, welds, inject or [], headless, faults=faults)
    if judged_elsewhere:
        supervisor.commands = {"capture": supervisor.commands["capture"]}
    if headless:
        _run_headless(supervisor, as_json)
        return
    if not _has_display():
        raise typer.Exit(_fail("no display: start this on a desktop, or use `run --headless`"))
    from gui.launch import run_gui

    supervisor.ensure()
    code = run_gui(
        data_endpoint=supervisor.runtime.data,
        control_endpoint=supervisor.runtime.control,
        supervise=supervisor.ensure,
        report=report,
    )
    supervisor.shutdown()
    raise typer.Exit(code)


def _run_elsewhere(connect: str, key: Path | None, report: Path | None, headless: bool) -> int:
    """Show a cell on another host, which goes on whatever happens to this screen."""
    if headless:
        return _fail("--connect shows a cell that runs elsewhere; leave out --headless", 2)
    remote = _remote(connect, key)
    if not _has_display():
        return _fail("no display: start this on a desktop")
    from gui.launch import run_gui

    return run_gui(data_endpoint=remote.data, control_endpoint=remote.control, keys=remote.keys, report=report)


def _remote(connect: str, key: Path | None) -> "RemoteCell":
    from recordings.remote import remote_cell

    if key is None:
        raise typer.Exit(
            _fail(f"--connect {connect} needs --key FOLDER/NAME; make keys with `keys` on the cell's host", 2)
        )
    return remote_cell(connect, key)


@app.command()
def record(
    cell: Annotated[Path, typer.Option("--cell", help="Cell file.")],
    out: Annotated[Path, typer.Option("--out", help="Folder to record into.")],
    seconds: Annotated[float | None, typer.Option("--for", help="Stop after this many seconds.")] = None,
    runtime: RuntimeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Capture to disk without judging."""
    supervisor = _live(cell, out, runtime, None, seconds, None, [], True, judged=False)
    _run_headless(supervisor, as_json)


def _live(
    cell: Path | None,
    root: Path | None,
    runtime: Path | None,
    checkpoint: Path | None,
    seconds: float | None,
    welds: int | None,
    inject: list[str],
    headless: bool,
    judged: bool = True,
    faults: str = "none",
) -> "Supervisor":
    """Check the cell file and prepare the processes that serve it."""
    from recordings.cell import build_drivers, load_cell
    from recordings.runtime import Runtime, default_runtime
    from recordings.supervisor import Supervisor

    loaded = _disturbed(load_cell(cell), faults)
    if inject:
        from recordings.capture import inject_faults

        inject_faults(build_drivers(loaded)[1], inject)
    place = Runtime(runtime or default_runtime(loaded.name))
    shared = ["--runtime", str(place.folder), *(["--cell", str(cell.resolve())] if cell else [])]
    capture = [*shared, *(["--root", str(root.resolve())] if root else [])]
    capture += ["--for", str(seconds)] if seconds is not None else []
    capture += ["--welds", str(welds)] if welds is not None else []
    capture += [part for fault in inject for part in ("--inject", fault)]
    capture += ["--faults", faults] if faults != "none" else []
    capture += ["--strict"] if headless else []
    capture += [] if judged else ["--no-judge"]
    commands = {"capture": capture}
    if judged:
        found = _checkpoint(loaded, checkpoint)
        commands["detector"] = [*shared, "--checkpoint", str(found)]
    once = frozenset({"capture"}) if headless else frozenset()
    return Supervisor(place, commands, once)


def _run_headless(supervisor: "Supervisor", as_json: bool) -> None:
    """Run capture and detector to the end, and print the summary."""
    busy = supervisor.runtime.holder("capture")
    if busy is not None:
        raise typer.Exit(_fail(f"process {busy} already captures this cell; stop it, or give another --runtime"))
    stopping: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda received, _: stopping.append(received))
    supervisor.runtime.summary.unlink(missing_ok=True)
    supervisor.ensure()
    capture = supervisor.child("capture")
    assert capture is not None
    told = None
    while capture.poll() is None:
        if stopping:
            stopping.clear()
            capture.terminate()
        with contextlib.suppress(ValueError):
            message = supervisor.ensure()
            if message and message != told:
                _say(message)
            told = message or told
        time.sleep(0.2)
    supervisor.shutdown()
    if capture.returncode != 0 or not supervisor.runtime.summary.exists():
        if capture.returncode not in (1, 2):
            _say(f"the capture process ended with code {capture.returncode}; start again to recover what it recorded")
        raise typer.Exit(capture.returncode if capture.returncode in (1, 2) else 1)
    summary = json.loads(supervisor.runtime.summary.read_text(encoding="utf-8"))
    _print(summary, as_json, _run_lines)
    lossy = any(stream["dropped"] for stream in summary["streams"].values())
    raise typer.Exit(LOSSY if lossy or any(weld["problem"] for weld in summary["welds"]) else 0)


def _run_lines(summary: dict[str, Any]) -> Iterator[str]:
    for weld in summary["welds"]:
        yield f"{weld['key']}  {weld['verdict']:7}  {weld['reason']}"
        note = weld["problem"] or ("" if weld["complete"] else "cut short: capture was stopped while it burnt")
        yield f"    recorded in {weld['path']}" + (f"  ({note})" if note else "")
    for name, stream in summary["streams"].items():
        yield f"{name}: {stream['received']} received, {stream['dropped']} dropped, {stream['rate_hz']:g} per second"
    latency = summary["latency_ms"]["window_to_verdict"]
    yield f"{summary['windows']} windows judged; window to verdict p95 {latency['p95']} ms"


@app.command(hidden=True)
def capture(
    runtime: Annotated[Path, typer.Option("--runtime")],
    cell: CellOption = None,
    root: RootOption = None,
    seconds: Annotated[float | None, typer.Option("--for")] = None,
    welds: Annotated[int | None, typer.Option("--welds")] = None,
    inject: Annotated[list[str] | None, typer.Option("--inject")] = None,
    faults: FaultsOption = "none",
    strict: Annotated[bool, typer.Option("--strict")] = False,
    no_judge: Annotated[bool, typer.Option("--no-judge")] = False,
) -> None:
    """The capture process (started by `run` and `record`)."""
    from recordings.capture import CaptureOptions, run_capture
    from recordings.cell import load_cell
    from recordings.runtime import Runtime

    loaded = _disturbed(load_cell(cell), faults)
    options = CaptureOptions(for_s=seconds, welds=welds, faults=inject or (), strict=strict, judged=not no_judge)
    run_capture(loaded, Runtime(runtime), root or loaded.root, options)


@app.command(hidden=True)
def screen(
    runtime: Annotated[Path, typer.Option("--runtime")],
    seconds: Annotated[float | None, typer.Option("--for")] = None,
    report: Annotated[Path | None, typer.Option("--report")] = None,
) -> None:
    """A screen that only looks: it starts and restarts nothing."""
    from gui.launch import run_gui
    from recordings.runtime import Runtime

    place = Runtime(runtime)
    raise typer.Exit(run_gui(data_endpoint=place.data, control_endpoint=place.control, for_s=seconds, report=report))


@app.command()
def detector(
    runtime: RuntimeOption = None,
    checkpoint: CheckpointOption = None,
    cell: CellOption = None,
    connect: ConnectOption = None,
    key: KeyOption = None,
) -> None:
    """The detector process: started by `run` and `replay`, or by hand with --connect for a cell on another host."""
    from models.detector import run_detector
    from recordings.cell import load_cell
    from recordings.remote import ask_judging
    from recordings.runtime import Runtime, default_runtime

    if connect is not None:
        remote = _remote(connect, key)
        judging = ask_judging(remote)
        code = run_detector(
            data_endpoint=remote.data,
            control_endpoint=remote.control,
            checkpoint=(checkpoint or SHIPPED).resolve(),
            cell=judging.cell,
            required=judging.required,
            alpha=judging.alpha,
            keys=remote.keys,
        )
        raise typer.Exit(code)
    loaded = load_cell(cell)
    checkpoint = _checkpoint(loaded, checkpoint)
    place = Runtime(runtime or default_runtime(loaded.name))
    with place.hold("detector"):
        code = run_detector(
            data_endpoint=place.data,
            control_endpoint=place.control,
            checkpoint=checkpoint,
            cell=loaded.name,
            required=loaded.judge.required,
            alpha=loaded.judge.alpha,
        )
    raise typer.Exit(code)


# -- replay --------------------------------------------------------------------------------------------------------


@app.command()
def replay(
    weld: Annotated[Path, typer.Argument(help="Folder of a recorded or imported weld.")],
    speed: Annotated[float, typer.Option("--speed", help="Times real time; 0 is as fast as possible.")] = 1.0,
    headless: Annotated[bool, typer.Option("--headless", help="No window: judge it as fast as possible.")] = False,
    cell: CellOption = None,
    checkpoint: CheckpointOption = None,
    no_model: Annotated[bool, typer.Option("--no-model", help="Decode and align only.")] = False,
    resync: ResyncOption = False,
    as_json: JsonOption = False,
) -> None:
    """Play a recorded weld through the same path as a live one."""
    from recordings.cell import load_cell
    from recordings.reader import WeldReader
    from recordings.resync import ResyncedReader

    loaded = load_cell(cell)
    reader = ResyncedReader(weld, _latencies(cell)) if resync else WeldReader(weld)
    found = _checkpoint(loaded, checkpoint)
    if headless or as_json or not _has_display():
        from models.replaying import replay_weld

        result = replay_weld(reader, None if no_model else found, loaded.judge.required, loaded.judge.alpha)
        _print(result, as_json, _replay_lines)
        raise typer.Exit(0)
    _replay_on_screen(weld, speed, cell, found, resync)


def _replay_lines(result: dict[str, Any]) -> Iterator[str]:
    for weld in result["welds"]:
        yield f"{weld['key']}: arc from {weld['arc_on_s']} s to {weld['arc_off_s']} s; present: {weld['present']}"
        yield f"{weld['verdict']}: {weld['reason']}"
    yield f"{result['windows']} windows at {result['speed_x_realtime']} x real time"
    if result["against_live"] is not None:
        yield "against the scores given live: {equal} equal, {different} different, {missing} missing".format(
            **result["against_live"]
        )


def _replay_on_screen(weld: Path, speed: float, cell: Path | None, checkpoint: Path, resync: bool) -> None:
    from gui.launch import run_gui
    from recordings.runtime import Runtime, default_runtime
    from recordings.supervisor import Supervisor

    place = Runtime(default_runtime(f"replay-{os.getpid()}"))
    shared = ["--runtime", str(place.folder)]
    named = ["--cell", str(cell.resolve())] if cell else []
    again = ["--resync", *named] if resync else []
    commands = {
        "replay-server": [*shared, "--speed", str(speed), *again, str(weld.resolve())],
        "detector": [*shared, "--checkpoint", str(checkpoint), *named],
    }
    supervisor = Supervisor(place, commands)
    supervisor.ensure()
    code = run_gui(data_endpoint=place.data, control_endpoint=place.control, supervise=supervisor.ensure)
    supervisor.shutdown()
    raise typer.Exit(code)


@app.command("replay-server", hidden=True)
def replay_server(
    weld: Annotated[Path, typer.Argument()],
    runtime: Annotated[Path, typer.Option("--runtime")],
    speed: Annotated[float, typer.Option("--speed")] = 1.0,
    resync: ResyncOption = False,
    cell: CellOption = None,
) -> None:
    """Publishes a recorded weld in place of the capture process (started by `replay`)."""
    from recordings.replay import run_replay
    from recordings.runtime import Runtime

    run_replay(weld, Runtime(runtime), speed, resync=resync, latencies_ns=_latencies(cell))


@app.command()
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
            raise typer.Exit(_fail("--out makes a pair; name it", 2))
        make_keys(out, name)
        lines = [f"made {out}/{name}.pub and .secret; send the .pub to the cell's host, for `keys {name}.pub` there"]
        _print({"folder": str(out), "lines": lines}, as_json, lambda result: iter(result["lines"]))
        return
    folder = keys_folder(load_cell(cell))
    lines = give_keys(folder, name) if name is not None else []
    clients, problems = read_clients(folder)
    if name is None:
        lines = [f"{client} may attach" for client in sorted(clients.values())] + problems
    result = {"folder": str(folder), "clients": sorted(clients.values()), "lines": lines or ["nobody may attach"]}
    _print(result, as_json, lambda found: iter(found["lines"]))


# -- data ----------------------------------------------------------------------------------------------------------


@app.command()
def devices(
    check: Annotated[bool, typer.Option("--check", help="Open each device briefly.")] = False,
    as_json: JsonOption = False,
) -> None:
    """List cameras, microphones and serial ports as lines for a cell file."""
    from acquisition.discovery import list_devices

    found = list_devices(check=check)
    _print(
        {"devices": found}, as_json, lambda result: (line for device in result["devices"] for line in device["lines"])
    )


@app.command("import")
def import_(
    source: Annotated[Path, typer.Argument(help="A Weld-4M tree, a flat folder, or one weld's files.")],
    destination: Annotated[Path, typer.Argument(help="Folder for the imported welds.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Report only.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Turn Weld-4M folders into welds that can be replayed, judged and trained on."""
    from recordings.importer import import_welds

    report = import_welds(source, destination, dry_run=dry_run, progress=_progress("imported"))
    result = {"imported": report.imported, "skipped": report.skipped, "warnings": report.warnings}
    _print(result, as_json, _import_lines)
    raise typer.Exit(LOSSY if report.lossy else 0)


def _import_lines(result: dict[str, Any]) -> Iterator[str]:
    yield f"{len(result['imported'])} imported, {len(result['skipped'])} skipped, {len(result['warnings'])} warnings"
    for entry in result["skipped"]:
        yield f"skipped {entry['key']}: {entry['reason']}"
    for entry in result["warnings"]:
        yield f"{entry['key']}: {entry['what']}"


@app.command()
def verify(
    path: Annotated[Path, typer.Argument(help="A weld folder or a root.")],
    resync: ResyncOption = False,
    cell: CellOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check hashes, counts, times and decodability; measure sync between the streams."""
    from recordings.verify import verify as check

    _report_welds(check(path, resync=resync, latencies_ns=_latencies(cell)), as_json)


@app.command()
def latency(
    welds: Annotated[list[Path], typer.Argument(help="Weld folders or roots, all of one cell.")],
    cell: CellOption = None,
    write: Annotated[bool, typer.Option("--write", help="Put what is constant into the cell file.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Measure from the arc edges how late each stream is against the sensors."""
    from recordings.latency import measure_latency

    if write and cell is None:
        raise typer.Exit(_fail("--write needs a cell file to write into; name it with --cell", 2))
    report = measure_latency(welds)
    _print(report.as_json(), as_json, lambda _: iter(report.lines()))
    for line in report.write(cell) if write and cell is not None else ():
        _say(line)


@app.command()
def recover(
    path: Annotated[Path, typer.Argument(help="A weld folder or a root.")], as_json: JsonOption = False
) -> None:
    """Finish welds that a crash left open; never alters sample data."""
    from recordings.recovery import recover as finish

    _report_welds(finish(path), as_json)


def _report_welds(reports: list[Any], as_json: bool) -> None:
    import msgspec

    welds = [msgspec.to_builtins(report, enc_hook=str) for report in reports]
    _print({"welds": welds}, as_json, _weld_lines)
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


@app.command()
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
    disturbed = _disturbed(load_cell(cell), faults)
    _print(write(orders, disturbed, out, workers=workers, progress=_progress("simulated")), as_json)


# -- models --------------------------------------------------------------------------------------------------------


@app.command()
def train(
    model: Annotated[str, typer.Argument(help="statistics or causal-film")],
    data: DataOption,
    out: Annotated[Path, typer.Option("--out", help="Run folder; a run that was killed goes on.")],
    config: Annotated[Path | None, typer.Option("--config", help="Settings of the run, TOML.")] = None,
    weights: Annotated[
        Path | None, typer.Option("--weights", help="Folder of the pretrained backbones that the settings name.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Fit a detector on good welds."""
    from models.training import train as fit

    _print(fit(model, data, out, config=config, weights=weights, progress=_say), as_json)


@app.command()
def calibrate(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN", help="Run folder or checkpoint.")],
    data: DataOption,
    cell: CellOption = None,
    as_json: JsonOption = False,
) -> None:
    """Set the thresholds from a cell's own good welds."""
    from models.training import calibrate as fit
    from recordings.cell import load_cell

    _print(fit(run_folder, data, cell=load_cell(cell).name if cell else None, progress=_say), as_json)


@app.command()
def evaluate(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN", help="Run folder or checkpoint.")],
    data: DataOption,
    split: Annotated[str | None, typer.Option("--split", help="Only welds of this split (TRAIN, VAL, TEST).")] = None,
    floor: Annotated[Path | None, typer.Option("--floor", help="Statistics checkpoint to compare with.")] = None,
    report: Annotated[Path | None, typer.Option("--report", help="Folder for plots and one HTML page.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Judge welds with known labels and say honestly how well it went."""
    from models.evaluation import evaluate as judge

    _print(judge(run_folder, data, split=split, floor=floor, report=report, progress=_say), as_json)


@app.command()
def card(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN", help="Run folder or checkpoint.")],
    evaluations: Annotated[
        list[Path] | None, typer.Option("--evaluation", help="What `evaluate --json` printed; repeat for several.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Markdown file; CARD.md in RUN without it.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Write the model card of a checkpoint from what its files and evaluations say."""
    from models.model_card import write_card

    _print(write_card(run_folder, evaluations or [], out), as_json)


bench = typer.Typer(help="The project's own measurements.")
app.add_typer(bench, name="bench")


@bench.command()
def survive(
    out: Annotated[Path | None, typer.Option("--out", help="Where to work; a temporary folder without it.")] = None,
    n: Annotated[int, typer.Option("--n", help="Repetitions.")] = 30,
    as_json: JsonOption = False,
) -> None:
    """Kill the capture process again and again, and tell what each time was lost."""
    from recordings.bench import BENCHES

    _print(BENCHES["survive"](out, n), as_json)


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
    _print(bench_capture(load, screen=screen), as_json, lines)


@bench.command()
def sync(
    n: Annotated[int, typer.Option("--n", help="Scenarios.")] = 216,
    seconds: Annotated[float, typer.Option("--for", help="Seconds of each.")] = 120.0,
    seed: Annotated[int, typer.Option("--seed")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Tell how far the clocks are off on devices of known truth, beside what others do."""
    from sync.bench import bench_sync, lines

    _print(bench_sync(n, seconds, seed, progress=_say), as_json, lines)


@bench.command("latency-calibration")
def latency_calibration(
    n: Annotated[int, typer.Option("--n", help="Simulated welds.")] = 200,
    seed: Annotated[int, typer.Option("--seed")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Tell how well offsets between the modalities are found from arc edges."""
    from recordings.bench_latency import bench_latency, lines

    _print(bench_latency(n, seed), as_json, lines)


@bench.command()
def windows(
    seconds: Annotated[float, typer.Option("--for", help="Seconds of packets.")] = 600.0,
    as_json: JsonOption = False,
) -> None:
    """Tell how fast windows are cut, beside the same by polars and numpy."""
    from sync.bench_windows import bench_windows, lines

    _print(bench_windows(seconds), as_json, lines)


@bench.command()
def judge(
    checkpoint: Annotated[Path, typer.Argument(metavar="CHECKPOINT", help="Run folder or checkpoint.")] = SHIPPED,
    weld: Annotated[Path | None, typer.Option("--weld", help="A recorded weld; without it, one is simulated.")] = None,
    n: Annotated[int, typer.Option("--n", help="Windows at least.")] = 200,
    as_json: JsonOption = False,
) -> None:
    """Tell how long each part takes from the window to its verdict, beside the statistics floor."""
    from models.bench_judge import bench_judge, lines

    _print(bench_judge(checkpoint, FLOOR, weld=weld, windows=n, progress=_say), as_json, lines)


@bench.command()
def backbones(
    tiny: Annotated[bool, typer.Option("--tiny", help="Tiny networks, without a graphics card too.")] = False,
    n: Annotated[int, typer.Option("--n", help="Runs of each.")] = 30,
    as_json: JsonOption = False,
) -> None:
    """Tell time and memory of large backbones with random weights on the graphics card."""
    from models.bench_backbones import bench_backbones, lines

    _print(bench_backbones(tiny=tiny, runs=n, progress=_say), as_json, lines)


# -- shared --------------------------------------------------------------------------------------------------------


def _checkpoint(cell: "Cell", given: Path | None) -> Path:
    """The detector to judge with: the one given, else the cell file's, else the shipped one."""
    named = cell.path.parent / cell.judge.checkpoint if cell.judge.checkpoint else SHIPPED
    found = (given or named).resolve()
    if not (found / "model.json").is_file():
        raise typer.Exit(_fail(f"{found}: no checkpoint (it holds no model.json); name another, or train one first", 2))
    return found


def _disturbed(cell: "Cell", faults: str) -> "Cell":
    """The simulated cell with its devices' faults; any cell as it is with `none`."""
    if faults == "none":
        return cell
    from recordings.simulate import with_faults

    return with_faults(cell, faults)


def _latencies(cell: Path | None) -> dict[str, int] | None:
    """Calibrated latencies of a cell file by stream, ns; None without one: those of the recording count."""
    from recordings.cell import load_cell

    if cell is None:
        return None
    loaded = load_cell(cell)
    return {stream.name: loaded.latency_ns(stream.name) for stream in loaded.streams}


def _has_display() -> bool:
    if sys.platform != "linux":
        return True
    known = ("DISPLAY", "WAYLAND_DISPLAY")
    return any(os.environ.get(name) for name in known) or os.environ.get("QT_QPA_PLATFORM") in ("offscreen", "vnc")


def _print(
    result: dict[str, Any], as_json: bool, lines: Callable[[dict[str, Any]], Iterator[str]] | None = None
) -> None:
    if as_json or lines is None:
        typer.echo(json.dumps(result, indent=None if as_json else 2))
    else:
        for line in lines(result):
            typer.echo(line)


def _progress(word: str) -> Callable[[int, int], None]:
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


def _say(line: str) -> None:
    """A line for the user on stderr."""
    typer.echo(line, err=True)


def _fail(message: str, code: int = 1) -> int:
    typer.echo(message, err=True)
    return code


def _known_errors() -> tuple[type[Exception], ...]:
    """Errors whose message is already the one line that a user needs."""
    from acquisition.driver import DeviceError
    from acquisition.keys import KeysError
    from acquisition.transport import TransportError
    from recordings.cell import CellError
    from recordings.runtime import AlreadyRunningError
    from recordings.simulate import SimulationError
    from recordings.weld_folder import RecordingError, WeldError

    return (
        DeviceError,
        KeysError,
        TransportError,
        CellError,
        AlreadyRunningError,
        SimulationError,
        RecordingError,
        WeldError,
    )


def entry() -> None:
    """Run the command line; known errors become one line and exit code 1 (2 for a wrong cell file)."""
    try:
        raise SystemExit(app(standalone_mode=False))
    except UsageError as error:
        command = error.ctx.command_path if error.ctx else "app.py"
        raise SystemExit(_fail(f"{error.format_message().rstrip('.')}; see {command} --help", 2)) from None
    except (KeyboardInterrupt, typer.Abort):
        raise SystemExit(130) from None
    except Exception as error:
        if _debug:
            raise
        if isinstance(error, _known_errors()) or type(error).__module__.startswith(("acquisition.", "models.", "recordings.", "sync.")):
            raise SystemExit(_fail(str(error), 2 if type(error).__name__ == "CellError" else 1)) from None
        text = f"{type(error).__name__}: {error}; run again with --debug for details (app.py --debug COMMAND)"
        raise SystemExit(_fail(text)) from None


if __name__ == "__main__":
    entry()
