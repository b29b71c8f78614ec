"""Commands about many welds: list them, say what they are, delete what nobody needs."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from recordings.console import LOSSY, JsonOption, fail, print_result, say

commands = typer.Typer()

ByOption = Annotated[str, typer.Option("--by", help="Who says so; kept with the time.")]
WeldsArgument = Annotated[list[Path], typer.Argument(help="Weld folders, or ROOT/KEY.")]

_SHOWN = ("key", "started_utc", "part", "program", "label_name", "verdict", "p_value", "lost_s", "state")


@commands.command()
def welds(
    root: Annotated[Path, typer.Argument(help="A recordings root.")],
    labels: Annotated[list[str] | None, typer.Option("--label", help="Class, name or number; repeat for more.")] = None,
    unlabelled: Annotated[bool, typer.Option("--unlabelled", help="Nobody knows the class.")] = False,
    part: Annotated[str | None, typer.Option("--part")] = None,
    program: Annotated[str | None, typer.Option("--program")] = None,
    session: Annotated[str | None, typer.Option("--session")] = None,
    cell: Annotated[str | None, typer.Option("--cell", help="Name of the cell.")] = None,
    verdict: Annotated[Literal["GO", "NO-GO", "NO DATA"] | None, typer.Option("--verdict")] = None,
    since: Annotated[str | None, typer.Option("--since", help="Begun at or after this time (ISO 8601, UTC).")] = None,
    until: Annotated[str | None, typer.Option("--until", help="Begun before this time (ISO 8601, UTC).")] = None,
    lossy: Annotated[bool, typer.Option("--lossy", help="Something was lost.")] = False,
    unreadable: Annotated[bool, typer.Option("--unreadable", help="Something is wrong with it.")] = False,
    sort: Annotated[str, typer.Option("--sort", help="A column; -COLUMN for the largest first.")] = "path",
    refresh: Annotated[bool, typer.Option("--refresh", help="Read every weld anew.")] = False,
    out: Annotated[Path | None, typer.Option("--out", help="Write all columns to FILE.csv or FILE.parquet.")] = None,
    as_json: JsonOption = False,
) -> None:
    """List the welds under a root: what they are, their labels, verdicts and losses."""
    import polars as pl

    from recordings.catalogue import read_catalogue

    frame = read_catalogue(root, refresh=refresh)
    if sort.removeprefix("-") not in frame.columns:
        raise typer.BadParameter(f"--sort {sort}: no such column; use one of {', '.join(frame.columns)}")
    if labels:
        frame = frame.filter(pl.col("label").is_in([_class(label) for label in labels]))
    if unlabelled:
        frame = frame.filter(pl.col("label") == -1)
    equal = {"part": part, "program": program, "session": session, "cell": cell, "verdict": verdict}
    for column, value in equal.items():
        if value is not None:
            frame = frame.filter(pl.col(column) == value)
    if (since is not None or until is not None) and (unknown := frame["started_utc"].null_count()):
        say(f"{unknown} welds are left out: when they began is not known")
    if since is not None:
        frame = frame.filter(pl.col("started_utc") >= _time("--since", since))
    if until is not None:
        frame = frame.filter(pl.col("started_utc") < _time("--until", until))
    if lossy:
        frame = frame.filter(pl.col("lost_s") > 0)
    if unreadable:
        frame = frame.filter(pl.col("problem").is_not_null())
    frame = frame.sort(sort.removeprefix("-"), "path", descending=[sort.startswith("-"), False], nulls_last=True)
    if out is not None:
        _write_out(frame, out)
        say(f"{len(frame)} welds written to {out}")
    finite = pl.when(pl.col(pl.Float64).is_finite()).then(pl.col(pl.Float64))  # JSON knows no other number
    rows = frame.with_columns(pl.col(pl.Datetime).dt.to_string("iso:strict"), finite).to_dicts()
    print_result({"root": str(root), "welds": rows}, as_json, _table_lines)


@commands.command("label")
def label_(
    paths: WeldsArgument,
    label: Annotated[str, typer.Option("--label", help="Class, name or number; -1 for unknown again.")],
    by: ByOption,
    as_json: JsonOption = False,
) -> None:
    """Say of which class welds are; what was said before stays in their history."""
    from recordings.late_additions import add_label, check_entry
    from recordings.manifest import LabelEntry
    from recordings.utc import utc_now

    entry = LabelEntry(label=_class(label), by=by, utc=utc_now())
    check_entry(entry)
    _change(paths, lambda folder: add_label(folder, entry), as_json)


@commands.command()
def describe(
    words: Annotated[list[str], typer.Argument(metavar="WELD.. NAME=VALUE..", help="NAME= takes the name away.")],
    by: ByOption,
    as_json: JsonOption = False,
) -> None:
    """Say more about recorded welds (part=..., notes=..., ...); what was recorded stays beside it."""
    from recordings.late_additions import add_edit, check_entry
    from recordings.manifest import MetadataEntry
    from recordings.utc import utc_now
    from recordings.weld_folder import load_manifest

    # A path may hold a "=", too: what exists is a weld.
    paths = [Path(word) for word in words if "=" not in word or Path(word).exists()]
    given = dict(word.split("=", 1) for word in words if "=" in word and not Path(word).exists())
    if not given or not paths:
        raise typer.BadParameter("name at least one weld and one NAME=VALUE")
    now = utc_now()
    for name, text in given.items():
        check_entry(MetadataEntry(name=name, value=text, by=by, utc=now))

    def edit(folder: Path) -> None:
        before = load_manifest(folder).described
        for name, text in given.items():
            add_edit(folder, MetadataEntry(name=name, value=_typed(name, text, before.get(name)), by=by, utc=now))

    _change(paths, edit, as_json)


@commands.command()
def retain(
    root: Annotated[Path, typer.Argument(help="A recordings root.")],
    below_gb: Annotated[float, typer.Option("--below-gb", min=0.0, help="Free space that is to be had.")],
    cell: Annotated[str | None, typer.Option("--cell", help="Only welds of this cell.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Tell what would go; delete nothing.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Delete the oldest welds recorded here that nobody labelled or described, until enough space is free."""
    import shutil

    from recordings.retention import make_room

    lines = make_room(root, cell, below_gb * 1e9, dry_run=dry_run)
    free = shutil.disk_usage(root).free
    result = {"root": str(root), "dry_run": dry_run, "lines": lines, "free_bytes": free}
    print_result(result, as_json, lambda _: iter([*lines, f"{free / 1e9:.2f} GB are free"]))
    if not dry_run and free < below_gb * 1e9:
        raise typer.Exit(fail(f"{root}: nothing more may be deleted; label, move or delete welds yourself", LOSSY))


def _change(paths: Sequence[Path], change: Callable[[Path], None], as_json: bool) -> None:
    """Change weld after weld; one that cannot be changed is told, and the rest goes on."""
    from recordings.weld_folder import RecordingError, WeldError

    changed, failed = list[str](), list[dict[str, str]]()
    for path in paths:
        try:
            folder = _folder(path)
            change(folder)
        except (OSError, WeldError, RecordingError) as error:
            reason = f"{path}: {error.strerror}" if isinstance(error, OSError) and error.strerror else str(error)
            failed.append({"path": str(path), "reason": reason})
            say(reason)
        else:
            changed.append(str(folder))
    print_result({"changed": changed, "failed": failed}, as_json, lambda _: iter(f"{path}: done" for path in changed))
    if failed:
        raise typer.Exit(LOSSY if changed else 1)


def _folder(path: Path) -> Path:
    """Return the folder of a weld that is named by its folder or by ROOT/KEY.

    Raises:
        WeldError: There is none.
    """
    from recordings.catalogue import INDEX, find_weld
    from recordings.weld_folder import MANIFEST, WeldError

    if (path / MANIFEST).exists():
        return path
    root = next(parent for parent in path.parents if parent.is_dir())
    # A slip of the pen may name any folder of the disk: it is searched only where welds were listed before.
    found = find_weld(root, path.relative_to(root).as_posix(), search=(root / INDEX).is_file())
    if found is None:
        raise WeldError(f"{path}: is no weld; name its folder, or ROOT/KEY with a key that `welds ROOT` shows")
    return found


def _class(text: str) -> int:
    """Return the label of a class name or number.

    Raises:
        typer.BadParameter: There is no such class.
    """
    from recordings.verdict import CLASSES

    if text in CLASSES:
        return CLASSES.index(text)
    with suppress(ValueError):
        if -1 <= int(text) < len(CLASSES):
            return int(text)
    raise typer.BadParameter(f"--label {text}: use -1 to {len(CLASSES) - 1} or one of {', '.join(CLASSES)}")


def _typed(name: str, text: str, now: Any) -> str | float | int | None:
    """Keep a number a number; a part number 007 stays a text."""
    if not text:
        return None
    if name == "thickness_mm" or (isinstance(now, int | float) and not isinstance(now, bool)):
        with suppress(ValueError):
            return int(text) if isinstance(now, int) and "." not in text else float(text)
    return text


def _time(option: str, text: str) -> datetime:
    try:
        time = datetime.fromisoformat(text)
    except ValueError as error:
        raise typer.BadParameter(f"{option} {text}: give a date or time like 2026-01-31T06:00") from error
    return time.astimezone(UTC) if time.tzinfo is not None else time.replace(tzinfo=UTC)


def _write_out(frame: Any, out: Path) -> None:
    """Write the table beside its place and swap it in."""
    import polars as pl

    from recordings.weld_folder import PART, swap_in

    part = out.with_name(out.name + PART)
    try:
        part.unlink(missing_ok=True)
        if out.suffix == ".parquet":
            frame.write_parquet(part)
        elif out.suffix == ".csv":
            frame.with_columns(pl.col(pl.List(pl.String)).list.join(";")).write_csv(part)
        else:
            raise typer.BadParameter(f"--out {out}: name a .csv or a .parquet file")
        swap_in(part, out)
    except OSError as error:
        raise typer.Exit(fail(f"{out}: {error.strerror or error}; name another file")) from error


def _table_lines(result: dict[str, Any]) -> Iterator[str]:
    """Print the columns that most look for, and below each weld what is wrong with it."""
    rows = [[_cell(name, weld) for name in _SHOWN] for weld in result["welds"]]
    widths = [max(map(len, column)) for column in zip(_SHOWN, *rows, strict=True)]
    for weld, row in zip([None, *result["welds"]], [list(_SHOWN), *rows], strict=True):
        yield "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
        if weld is not None and weld["problem"]:
            where = "" if weld["problem"].startswith(weld["path"]) else f"{weld['path']}: "
            yield f"    {where}{weld['problem']}"
    problems = sum(weld["problem"] is not None for weld in result["welds"])
    yield f"{len(rows)} welds" + (f", {problems} with problems" if problems else "")


def _cell(name: str, weld: dict[str, Any]) -> str:
    value = weld[name]
    if value is None:
        return "-"
    if name == "started_utc":
        return str(value)[:19]
    text = f"{value:.3g}" if isinstance(value, float) else str(value)
    text = f"<= {text}" if name == "lost_s" and not weld["lost_exact"] else text
    return "".join(c if c.isprintable() else "?" for c in text)[:40]
