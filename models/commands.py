"""Commands about detectors: training, calibration, evaluation and their benches."""

from pathlib import Path
from typing import Annotated, Final

import typer

from recordings.bench_commands import bench
from recordings.console import CellOption, DataOption, JsonOption, print_result, say

commands = typer.Typer()

SplitOption = Annotated[Path | None, typer.Option("--split", help="File made by `split`.")]
AbsentOption = Annotated[bool, typer.Option("--absent-ok", help="Welds of the split may be absent.")]

SHIPPED: Final = Path(__file__).parent / "shipped" / "causal-film"
"""The detector that judges when neither cell file nor command names one; its card says how it was made."""
FLOOR: Final = SHIPPED.parent / "statistics"
"""What it is measured beside; `docs/statistics.md` says how it was made."""


@commands.command()
def train(
    model: Annotated[str, typer.Argument(help="statistics or causal-film")],
    data: DataOption,
    out: Annotated[Path, typer.Option("--out", help="Run folder; a run that was killed goes on.")],
    config: Annotated[Path | None, typer.Option("--config", help="Settings of the run, TOML.")] = None,
    weights: Annotated[
        Path | None, typer.Option("--weights", help="Folder of the pretrained backbones that the settings name.")
    ] = None,
    split: SplitOption = None,
    absent_ok: AbsentOption = False,
    as_json: JsonOption = False,
) -> None:
    """Fit a detector on good welds; with --split, on its train part."""
    from models.splits import load_split
    from models.training import train as fit

    made = None if split is None else load_split(split)
    result = fit(model, data, out, config=config, weights=weights, split=made, absent_ok=absent_ok, progress=say)
    print_result(result, as_json)


@commands.command()
def calibrate(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN", help="Run folder or checkpoint.")],
    data: DataOption,
    cell: CellOption = None,
    split: SplitOption = None,
    absent_ok: AbsentOption = False,
    as_json: JsonOption = False,
) -> None:
    """Set the thresholds from a cell's own good welds; with --split, from its val part."""
    from models.splits import load_split
    from models.training import calibrate as fit
    from recordings.cell import load_cell

    name, made = load_cell(cell).name if cell else None, None if split is None else load_split(split)
    print_result(fit(run_folder, data, cell=name, split=made, absent_ok=absent_ok, progress=say), as_json)


@commands.command()
def evaluate(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN", help="Run folder or checkpoint.")],
    data: DataOption,
    split: Annotated[
        str | None, typer.Option("--split", help="TRAIN, VAL or TEST in the welds' metadata, or a file of `split`.")
    ] = None,
    part: Annotated[str, typer.Option("--part", help="Part of the file.")] = "test",
    absent_ok: AbsentOption = False,
    floor: Annotated[Path | None, typer.Option("--floor", help="Statistics checkpoint to compare with.")] = None,
    report: Annotated[Path | None, typer.Option("--report", help="Folder for plots and one HTML page.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Judge welds with known labels and say honestly how well it went."""
    from models.evaluation import evaluate as judge
    from models.splits import split_or_name

    made = split_or_name(split)
    result = judge(
        run_folder, data, split=made, part=part, absent_ok=absent_ok, floor=floor, report=report, progress=say
    )
    print_result(result, as_json)


@commands.command()
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

    print_result(write_card(run_folder, evaluations or [], out), as_json)


@bench.command()
def judge(
    checkpoint: Annotated[Path, typer.Argument(metavar="CHECKPOINT", help="Run folder or checkpoint.")] = SHIPPED,
    weld: Annotated[Path | None, typer.Option("--weld", help="A recorded weld; without it, one is simulated.")] = None,
    n: Annotated[int, typer.Option("--n", help="Windows at least.")] = 200,
    as_json: JsonOption = False,
) -> None:
    """Tell how long each part takes from the window to its verdict, beside the statistics floor."""
    from models.bench_judge import bench_judge, lines

    print_result(bench_judge(checkpoint, FLOOR, weld=weld, windows=n, progress=say), as_json, lines)


@bench.command()
def backbones(
    tiny: Annotated[bool, typer.Option("--tiny", help="Tiny networks, without a graphics card too.")] = False,
    n: Annotated[int, typer.Option("--n", help="Runs of each.")] = 30,
    as_json: JsonOption = False,
) -> None:
    """Tell time and memory of large backbones with random weights on the graphics card."""
    from models.bench_backbones import bench_backbones, lines

    print_result(bench_backbones(tiny=tiny, runs=n, progress=say), as_json, lines)


@bench.command()
def dataset(
    data: Annotated[Path | None, typer.Option("--data", help="Recorded welds; without it, some are simulated.")] = None,
    welds: Annotated[int, typer.Option("--welds", help="Welds to simulate, of each size.")] = 6,
    n: Annotated[int, typer.Option("--n", help="Samples.")] = 48,
    as_json: JsonOption = False,
) -> None:
    """Tell how fast samples come in random order, beside a reader that decodes the whole weld for each."""
    from models.bench_dataset import bench_dataset, lines

    result = bench_dataset(data, welds=welds, samples=n, plain_samples=max(4, n // 4), progress=say)
    print_result(result, as_json, lines)
