"""`tell`: one command to a running capture process, from a shell, a robot's script or a PLC gateway."""

import getpass
import json
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from recordings.console import CellOption, JsonOption, RuntimeOption, fail, print_result

commands = typer.Typer()

TOLD: Final = (
    "record",
    "stop",
    "trigger",
    "arm",
    "mark",
    "photo",
    "label",
    "describe",
    "metadata",
    "acknowledge",
    "shutdown",
    "status",
)
"""Commands of `recordings.status.COMMANDS` that somebody may give by hand."""

_SIGNED: Final = {"label": "by", "describe": "by", "trigger": "source"}
"""Commands that say who gives them, and under which name."""


@commands.command()
def tell(
    kind: Annotated[str, typer.Argument(metavar="COMMAND", help=", ".join(TOLD) + ".")],
    values: Annotated[
        list[str] | None, typer.Argument(metavar="[on|off] [NAME=VALUE ...]", help="Its data: on=true, weld=KEY, ...")
    ] = None,
    cell: CellOption = None,
    runtime: RuntimeOption = None,
    connect: Annotated[str | None, typer.Option("--connect", help="tcp://HOST:PORT of a cell on another host.")] = None,
    key: Annotated[Path | None, typer.Option("--key", help="With --connect: FOLDER/NAME of this host's keys.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Give a running cell a command: `tell record`, `tell trigger on`, `tell label weld=KEY label=3`."""
    from acquisition.transport import ControlClient
    from recordings.cell import load_cell
    from recordings.remote import remote_cell
    from recordings.runtime import Runtime, default_runtime

    if kind not in TOLD:
        raise typer.Exit(fail(f"'{kind}' is no command; use one of {', '.join(TOLD)}", 2))
    try:
        data = _data(values or [])
    except ValueError as error:
        raise typer.Exit(fail(str(error), 2)) from None
    if kind in _SIGNED:
        data.setdefault(_SIGNED[kind], getpass.getuser())
    if connect is not None and key is None:
        raise typer.Exit(fail(f"--connect {connect} needs --key FOLDER/NAME; make keys with `keys` on its host", 2))
    if connect is not None and key is not None:
        remote = remote_cell(connect, key)
        client = ControlClient(remote.control, remote.keys)
    else:
        client = ControlClient(Runtime(runtime or default_runtime(load_cell(cell).name)).control)
    try:
        reply = client.request(kind, data, timeout_s=5.0)
    finally:
        client.close()
    if not reply.ok:
        raise typer.Exit(fail(reply.message))
    print_result({"ok": reply.ok, "message": reply.message, **reply.data}, as_json)


def _data(values: list[str]) -> dict[str, Any]:
    """Read `NAME=VALUE` with JSON values, anything else being text; a bare `on` or `off` is `on=true` or `on=false`.

    Raises:
        ValueError: It is neither.
    """
    data: dict[str, Any] = {}
    for value in values:
        name, equals, text = value.partition("=")
        if not equals and value in ("on", "off"):
            data["on"] = value == "on"
        elif not equals or not name:
            raise ValueError(f"'{value}' is no NAME=VALUE; write note='{value}' or the like")
        else:
            try:
                data[name] = json.loads(text)
            except ValueError:
                data[name] = text
    return data
