"""Commands about splits: make one, and say what leaks."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import typer

from recordings.console import LOSSY, DataOption, JsonOption, print_result, say

if TYPE_CHECKING:
    from models.split_audit import Leak
    from models.splits import Split
    from models.weld_features import FoundWeld

commands = typer.Typer()

_NAMED: Final = 5
"""Names shown of a leak; all of them with --json."""


@commands.command()
def split(
    data: Annotated[Path, typer.Argument(help="Folder of recorded welds.")],
    kind: Annotated[
        Literal["supplied", "session-disjoint", "recipe-disjoint", "supervised"],
        typer.Option("--kind", help="What the parts must not share."),
    ],
    out: Annotated[Path, typer.Option("--out", help="File of the split, JSON.")],
    seed: Annotated[int, typer.Option("--seed", help="Of the draw.")] = 0,
    fractions: Annotated[tuple[float, float, float], typer.Option("--fractions", help="Of train, val and test.")] = (
        0.6,
        0.2,
        0.2,
    ),
    as_json: JsonOption = False,
) -> None:
    """Share out welds into train, val and test, and say what leaks."""
    from models.splits import make_split, save_split

    welds, unreadable = _welds(data)
    made = make_split(welds, kind, seed=seed, fractions=fractions)
    save_split(made, out)
    _report(made, out, welds, unreadable, (), as_json)


@commands.command("audit")
def audit_(
    file: Annotated[Path, typer.Argument(help="File of a split.")],
    data: DataOption,
    runs: Annotated[
        list[Path] | None, typer.Option("--run", help="A checkpoint that will be tested; repeat for several.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Name every leak of a split."""
    from models.splits import load_split

    loaded = load_split(file)
    welds, unreadable = _welds(data)
    _report(loaded, file, welds, unreadable, runs or (), as_json)


def _welds(data: Path) -> "tuple[list[FoundWeld], list[dict[str, str]]]":
    from models.weld_features import found_welds

    unreadable: list[dict[str, str]] = []
    welds = found_welds(data, lambda folder, why: unreadable.append({"path": str(folder), "reason": why}))
    for weld in unreadable:
        say(f"left out: {weld['reason']}")
    return welds, unreadable


def _report(
    split: "Split",
    file: Path,
    welds: "Sequence[FoundWeld]",
    unreadable: list[dict[str, str]],
    runs: Sequence[Path],
    as_json: bool,
) -> None:
    """Print counts and leaks; ends with exit code 3 when there is a leak or a weld could not be read."""
    import msgspec

    from models.split_audit import audit, counts

    fitted, calibrated = _known_to(runs)
    leaks: list[Leak] = audit(split, welds, fitted=fitted, calibrated=calibrated)
    result = {
        "file": str(file),
        "kind": split.kind,
        "seed": split.seed,
        "parts": {part: len(keys) for part, keys in split.parts.items()},
        "deviation": split.deviation,
        "notes": split.notes,
        "left_out": msgspec.to_builtins(split.left_out),
        "unreadable": unreadable,
        **counts(split, welds),
        "leaks": msgspec.to_builtins(leaks),
    }
    print_result(result, as_json, _lines)
    raise typer.Exit(LOSSY if unreadable or any(leak.grave for leak in leaks) else 0)


def _known_to(runs: Sequence[Path]) -> tuple[set[str], set[str]]:
    """Give the keys that checkpoints were fitted on, and those that calibrated them."""
    from models.checkpoint import load_checkpoint

    fitted: set[str] = set()
    calibrated: set[str] = set()
    for run in runs:
        checkpoint = load_checkpoint(run)
        fitted |= {*checkpoint.training.welds, *checkpoint.training.validation}
        calibrated |= {key for made in checkpoint.calibrations.values() for key in made.welds}
    return fitted, calibrated


def _lines(result: dict[str, Any]) -> Iterator[str]:
    yield f"{result['file']}: {result['kind']}, seed {result['seed']}"
    columns = [part for part, n in result["parts"].items() if n]
    yield f"{'class':34}" + "".join(f"{part:>18}" for part in columns)
    for name, parts in result["classes"].items():
        cells = [f"{parts[c]['welds']} in {parts[c]['sessions']}" if c in parts else "-" for c in columns]
        yield f"{name:34}" + "".join(f"{cell:>18}" for cell in cells)
    yield f"{'all (welds in sessions above)':34}" + "".join(f"{result['parts'][c]:>18}" for c in columns)
    yield f"shares are off by {100 * result['deviation']:.1f} % of a class at most, as far as whole groups allow"
    yield from result["notes"]
    reasons: dict[str, list[str]] = {}
    for left in result["left_out"]:
        reasons.setdefault(left["reason"], []).append(left["key"])
    for reason, keys in reasons.items():
        yield f"left out, {reason}: {_some(keys)}"
    for leak in result["leaks"]:
        names = f" ({_some(leak['names'])})" if leak["names"] else ""
        yield f"{'LEAK' if leak['grave'] else 'caution'} {leak['kind']}: {leak['what']}{names}"
    if not any(leak["grave"] for leak in result["leaks"]):
        yield "no leak found"


def _some(names: list[str]) -> str:
    return f"{len(names)}: {', '.join(names[:_NAMED])}{', ...' if len(names) > _NAMED else ''}"
