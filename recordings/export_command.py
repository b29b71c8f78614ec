"""`export`: recorded welds in the formats of others."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import typer

from recordings.console import LOSSY, JsonOption, print_result, progress

commands = typer.Typer()


@commands.command()
def export(
    welds: Annotated[list[Path], typer.Argument(metavar="WELD.. DEST", help="Welds or roots, then a folder to fill.")],
    format: Annotated[
        Literal["lerobot", "mcap", "bundle", "weld4m"], typer.Option("--format", help="What to export to.")
    ],
    as_json: JsonOption = False,
) -> None:
    """Export welds to LeRobot v3, MCAP (Foxglove), Parquet + MP4, or the Weld-4M layout; they are only read."""
    from recordings.exporter import export_welds

    if len(welds) < 2:
        raise typer.BadParameter("name at least one weld and, last, the destination")
    report = export_welds(welds[:-1], welds[-1], format, progress=progress("exported"))
    print_result(msgspec.to_builtins(report), as_json, _lines)
    raise typer.Exit(LOSSY if report.lossy else 0)


def _lines(result: dict[str, Any]) -> Iterator[str]:
    counts = {name: len(result[name]) for name in ("exported", "present", "skipped")}
    yield "{exported} exported, {present} there already, {skipped} skipped".format(**counts)
    for entry in result["skipped"]:
        yield f"skipped {entry['key']}: {entry['reason']}"
    for entry in result["warnings"]:
        yield f"{entry['key']}: {entry['what']}"
    for limit in result["limits"]:
        yield f"not held by this format: {limit}"
