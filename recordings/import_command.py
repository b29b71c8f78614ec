"""The command `import`: Weld-4M folders become welds of our own."""

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from recordings.console import LOSSY, JsonOption, fail, print_result, progress

commands = typer.Typer()


@commands.command("import")
def import_(
    source: Annotated[Path, typer.Argument(help="A Weld-4M tree, a flat folder, or one weld's files.")],
    destination: Annotated[Path, typer.Argument(help="Folder for the imported welds.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Report only; nothing is decoded nor written.")] = False,
    check: Annotated[bool, typer.Option("--check", help="With --dry-run: decode everything too.")] = False,
    link: Annotated[bool, typer.Option("--link", help="Hard links instead of copies of video and photos.")] = False,
    workers: Annotated[int, typer.Option("--workers", min=0, help="Processes; 0 works in this one.")] = 2,
    mask_label: Annotated[
        list[str] | None,
        typer.Option(
            "--mask-label",
            metavar="X,Y,W,H",
            help="Part of every photo to paint over, as shares of the picture; repeat for several.",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Turn Weld-4M folders into welds that can be replayed, judged and trained on; a second run goes on."""
    from recordings.importer import import_welds
    from recordings.weld4m_photos import PhotoError, parse_region

    if check and not dry_run:
        raise typer.BadParameter("--check says what a dry run decodes; add --dry-run")
    try:
        mask = [parse_region(text) for text in mask_label or ()]
    except PhotoError as error:
        raise typer.Exit(fail(f"--mask-label: {error}", 2)) from None
    report = import_welds(
        source,
        destination,
        dry_run=dry_run,
        check=check,
        link=link,
        mask=mask,
        workers=0 if dry_run and not check else workers,
        progress=progress("looked at" if dry_run else "imported"),
    )
    result = asdict(report)
    lossy = result.pop("lossy")
    print_result(result, as_json, _lines)
    raise typer.Exit(LOSSY if lossy else 0)


def _lines(result: dict[str, Any]) -> Iterator[str]:
    counts = {name: len(result[name]) for name in ("imported", "already", "skipped", "warnings")}
    said = "{imported} imported, {already} were there already, {skipped} skipped, {warnings} warnings"
    yield said.format(**counts)
    for entry in result["skipped"]:
        yield f"skipped {_shown(entry['key'])}: {entry['reason']}"
    for entry in result["warnings"]:
        yield f"{_shown(entry['key'])}: {entry['what']}"
    absent: dict[str, int] = {}
    for names in result["absent"].values():
        for name in names:
            absent[name] = absent.get(name, 0) + 1
    yield from (f"{n} welds have no {name}" for name, n in absent.items())
    confidences: dict[tuple[str, str], int] = {}
    for streams in result["offsets"].values():
        for stream, offset in streams.items():
            kind = (stream, offset["confidence"])
            confidences[kind] = confidences.get(kind, 0) + 1
    yield from (f"{n} welds: offset of {stream} with confidence {kind}" for (stream, kind), n in confidences.items())
    yield from result["notes"]


def _shown(key: str) -> str:
    return key if key.isprintable() else repr(key)
