"""Weld-4M on the command line: `python app.py COMMAND`; without one, the screen on the simulated cell.

Here stand the commands that join rooms (live, replay); the rooms bring their own (`recordings.commands`,
`models.commands`). Results go to stdout (`--json` for machines), messages to stderr. Exit codes: 0 done, 1 failed,
2 wrong use, 3 done with losses.
"""

import contextlib
import json
import logging
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from acquisition.simulated.faults import INJECT_HELP
from models import commands as model_commands
from models import split_command
from models.commands import SHIPPED
from recordings import catalogue_commands, export_command, import_command, tell_command
from recordings import commands as recording_commands
from recordings.bench_commands import bench
from recordings.console import (
    LOSSY,
    CellOption,
    FaultsOption,
    JsonOption,
    ResyncOption,
    RootOption,
    RuntimeOption,
    disturbed,
    fail,
    latencies,
    print_result,
    say,
)

if TYPE_CHECKING:
    from recordings.cell import Cell
    from recordings.remote import RemoteCell
    from recordings.supervisor import Supervisor

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

CheckpointOption = Annotated[Path | None, typer.Option("--checkpoint", help="Trained detector to judge with.")]
ConnectOption = Annotated[
    str | None, typer.Option("--connect", help="tcp://HOST:PORT of a cell on another host; needs --key.")
]
KeyOption = Annotated[Path | None, typer.Option("--key", help="FOLDER/NAME of this host's keys; see `keys`.")]

UsageError: Final[Any] = typer.BadParameter.__mro__[1]
"""Wrong use of the command line: click's error, which newer versions of typer carry under their own name."""

_ROOMS: Final = ("acquisition.", "sync.", "recordings.", "models.", "gui.")
"""An error of our own says in one line what a user needs."""

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
        raise typer.Exit(fail("no display: start this on a desktop, or use `run --headless`"))
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
        return fail("--connect shows a cell that runs elsewhere; leave out --headless", 2)
    remote = _remote(connect, key)
    if not _has_display():
        return fail("no display: start this on a desktop")
    from gui.launch import run_gui

    return run_gui(data_endpoint=remote.data, control_endpoint=remote.control, keys=remote.keys, report=report)


def _remote(connect: str, key: Path | None) -> "RemoteCell":
    from recordings.remote import remote_cell

    if key is None:
        raise typer.Exit(
            fail(f"--connect {connect} needs --key FOLDER/NAME; make keys with `keys` on the cell's host", 2)
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

    loaded = disturbed(load_cell(cell), faults)
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
        raise typer.Exit(fail(f"process {busy} already captures this cell; stop it, or give another --runtime"))
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
                say(message)
            told = message or told
        time.sleep(0.2)
    supervisor.shutdown()
    if capture.returncode != 0 or not supervisor.runtime.summary.exists():
        if capture.returncode not in (1, 2):
            say(f"the capture process ended with code {capture.returncode}; start again to recover what it recorded")
        raise typer.Exit(capture.returncode if capture.returncode in (1, 2) else 1)
    summary = json.loads(supervisor.runtime.summary.read_text(encoding="utf-8"))
    print_result(summary, as_json, _run_lines)
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

    loaded = disturbed(load_cell(cell), faults)
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
    speed: Annotated[
        float | None,
        typer.Option("--speed", min=0.0, help="Times real time, 0 is as fast as possible; 1, and 0 with --headless."),
    ] = None,
    headless: Annotated[bool, typer.Option("--headless", help="No window: judge it.")] = False,
    from_s: Annotated[
        float | None, typer.Option("--from", help="With --headless: only windows from this second of the weld on.")
    ] = None,
    to_s: Annotated[float | None, typer.Option("--to", help="With --headless: only windows up to this second.")] = None,
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
    reader = ResyncedReader(weld, latencies(cell)) if resync else WeldReader(weld)
    found = _checkpoint(loaded, checkpoint)
    if headless or as_json or not _has_display():
        from models.replaying import replay_weld

        result = replay_weld(
            reader,
            None if no_model else found,
            loaded.judge.required,
            loaded.judge.alpha,
            speed=speed or 0.0,
            part_s=(from_s, to_s),
        )
        print_result(result, as_json, _replay_lines)
        raise typer.Exit(0)
    if (from_s, to_s) != (None, None):
        raise typer.Exit(fail("--from and --to go with --headless; on the screen set A and B", 2))
    _replay_on_screen(weld, 1.0 if speed is None else speed, cell, found, resync)


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

    run_replay(weld, Runtime(runtime), speed, resync=resync, latencies_ns=latencies(cell))


# -- shared -------------------------------------------------------------------------------------------------------


def _checkpoint(cell: "Cell", given: Path | None) -> Path:
    """The detector to judge with: the one given, else the cell file's, else the shipped one."""
    named = cell.path.parent / cell.judge.checkpoint if cell.judge.checkpoint else SHIPPED
    found = (given or named).resolve()
    if not (found / "model.json").is_file():
        raise typer.Exit(fail(f"{found}: no checkpoint (it holds no model.json); name another, or train one first", 2))
    return found


def _has_display() -> bool:
    if sys.platform != "linux":
        return True
    known = ("DISPLAY", "WAYLAND_DISPLAY")
    return any(os.environ.get(name) for name in known) or os.environ.get("QT_QPA_PLATFORM") in ("offscreen", "vnc")


def entry() -> None:
    """Run the command line; known errors become one line and exit code 1 (2 for a wrong cell file)."""
    try:
        raise SystemExit(app(standalone_mode=False))
    except UsageError as error:
        command = error.ctx.command_path if error.ctx else "app.py"
        raise SystemExit(fail(f"{error.format_message().rstrip('.')}; see {command} --help", 2)) from None
    except (KeyboardInterrupt, typer.Abort):
        raise SystemExit(130) from None
    except Exception as error:
        if _debug:
            raise
        if type(error).__module__.startswith(_ROOMS):
            raise SystemExit(fail(str(error), 2 if type(error).__name__ == "CellError" else 1)) from None
        text = f"{type(error).__name__}: {error}; run again with --debug for details (app.py --debug COMMAND)"
        raise SystemExit(fail(text)) from None


app.add_typer(recording_commands.commands)
app.add_typer(import_command.commands)
app.add_typer(export_command.commands)
app.add_typer(catalogue_commands.commands)
app.add_typer(tell_command.commands)
app.add_typer(model_commands.commands)
app.add_typer(split_command.commands)
app.add_typer(bench, name="bench")

if __name__ == "__main__":
    entry()
