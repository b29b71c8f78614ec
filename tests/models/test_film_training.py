"""A run of Causal-FiLM: settings, shares of sessions, resuming, and what makes it stop."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch

from models import weld_features
from models.bead_model import Bead, BeadModel, arc_seconds
from models.causal_film import CausalFilm
from models.checkpoint import ARRAYS, load_checkpoint
from models.collapse import collapse_report
from models.detector_contract import PHOTOS, PROCESS, PROCESS_PATTERNS, DetectorError
from models.evaluation import noise_window
from models.film_config import FilmRun, PhaseSettings, load_run
from models.film_data import cut_welds
from models.film_detector import FilmDetector
from models.film_inputs import SensorScale, process_batch
from models.film_run import CUTS, STATE, shared_out
from models.film_tokens import Arrays, WeldTokens
from models.film_training import Start, check_welds, collapse_of, train_film
from models.result_tokens import ResultTokensConfig
from models.statistics import PARTS, WIDTH
from models.training import train
from models.training_loop import Epoch, learning_rate
from models.weld_features import found_welds, windows_of
from tests.models.films import good_welds, in_this_process, open_gate, tiny_file, tiny_run
from tests.models.welds import SPEC, weld_packets, write_weld


class KilledError(Exception):
    """Stands for the end of the process."""


@dataclass(frozen=True, kw_only=True)
class Whole:
    """A run that was never interrupted."""

    folder: Path
    said: list[str]
    returned: dict[str, Any]


@pytest.fixture(scope="module", autouse=True)
def no_helpers() -> Iterator[None]:
    with in_this_process():
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return good_welds(tmp_path_factory.mktemp("good"))


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    folder = tmp_path_factory.mktemp("whole")
    said: list[str] = []
    with open_gate():
        found = train("causal-film", data, folder / "run", config=tiny_file(folder), progress=said.append)
    return Whole(folder=folder / "run", said=said, returned=found)


def with_cuts(whole: Whole, folder: Path) -> Path:
    """Begin a run with welds that are cut already."""
    shutil.copytree(whole.folder / CUTS, folder / CUTS)
    return folder


# -- settings ------------------------------------------------------------------------------------------------------


def test_settings_are_read_over_their_defaults(tmp_path: Path) -> None:
    run = tiny_run(tmp_path)
    assert run.sample == SPEC
    assert run.training.epochs == 3
    assert run.training.patience == FilmRun().training.patience
    assert run.pretraining.learning_rate == FilmRun().pretraining.learning_rate
    assert load_run(None) == FilmRun()


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        (
            "epochs = 3\nbatch = 16\n",
            "epoch = 3\n",
            "unknown setting 'epoch' in [pretraining]; did you mean 'epochs'?",
        ),
        ("[encoders]", "[encoder]", "unknown setting 'encoder' in the file; did you mean 'encoders'?"),
        ("seed = 3", 'seed = "three"', "'seed' is 'three'"),
        ("width = 32", "width = 31", "width is 31, which 2 heads do not divide"),
        ("validation = 0.25", "validation = 0.9", "leave 0.1 to fit"),
        ("[result]", "[result", "not valid TOML"),
    ],
)
def test_a_wrong_setting_is_named_with_its_line(tmp_path: Path, old: str, new: str, what: str) -> None:
    path = tiny_file(tmp_path, {old: new})
    line = path.read_text().splitlines().index(new.strip()) + 1
    with pytest.raises(DetectorError) as caught:
        load_run(path)
    message = str(caught.value)
    assert what in message
    assert "\n" not in message
    assert message.startswith(f"{path}:{line}:") or f"line {line}" in message


def test_the_learning_rate_warms_up_and_falls() -> None:
    settings = PhaseSettings(learning_rate=1.0, warm_up=0.1)
    rates = [learning_rate(settings, step, 100) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == rates[10] == 1.0
    assert all(a > b for a, b in pairwise(rates[10:]))
    assert rates[-1] < 0.02


# -- data ----------------------------------------------------------------------------------------------------------


def test_a_cut_weld_is_what_was_cut(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weld_features, "WORKERS", 2)  # helpers cut as this process would
    found = found_welds(data)[:3]
    _, windows, photos = windows_of(found[0].folder, SPEC)
    cut = cut_welds(found, SPEC, tmp_path, lambda _: None)[0].load()
    assert len(windows) > 1
    for a, b in zip([*windows, photos], [*cut.windows, cut.photos], strict=True):
        assert replace(b, orders=a.orders).digest() == a.digest()


def test_sessions_are_shared_out_whole(data: Path) -> None:
    welds = found_welds(data)
    shares = shared_out(welds, FilmRun(seed=1), lambda _: None)
    sessions = [{w.manifest.session for w in part} for part in (shares.fit, shares.validation, shares.calibration)]
    assert all(sessions)
    assert sum(len(s) for s in sessions) == len(set.union(*sessions)) == 8
    assert len(shares.fit) + len(shares.validation) + len(shares.calibration) == len(welds)
    lines: list[str] = []
    few = shared_out(welds[:8], FilmRun(seed=1), lines.append)
    assert "only 2 sessions" in lines[0]
    assert few.validation


def test_a_value_that_is_no_number_is_named() -> None:
    window = noise_window(SPEC)
    scale = SensorScale.fit([window])
    window.sensors[7, 3] = np.nan
    with pytest.raises(DetectorError, match="weld noise, window 10: current_a holds a value that is not a number"):
        process_batch([window], scale)
    window.sensors_mask[7, 3] = False
    assert process_batch([window], scale)["sensors"].isfinite().all()


# -- the run -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fatal", ["pretraining: epoch 2 of", "training: epoch 1 of", "training: epoch 2 of"])
def test_a_killed_run_goes_on_to_the_same_numbers(data: Path, whole: Whole, tmp_path: Path, fatal: str) -> None:
    config = tiny_file(tmp_path)
    folder = with_cuts(whole, tmp_path / "killed")

    def killer(line: str) -> None:
        if line.startswith(fatal):
            raise KilledError

    with pytest.raises(KilledError):
        train("causal-film", data, folder, config=config, progress=killer)
    assert not (folder / ARRAYS).exists()
    torch.manual_seed(99)  # whatever the generator was used for in between
    lines: list[str] = []
    with open_gate():
        train("causal-film", data, folder, config=config, progress=lines.append)
    assert any("epochs are done already" in line for line in lines)
    assert (folder / ARRAYS).read_bytes() == (whole.folder / ARRAYS).read_bytes()


def test_a_run_keeps_its_settings_and_says_what_it_did(data: Path, whole: Whole, tmp_path: Path) -> None:
    assert any("parameters" in line and "trained" in line for line in whole.said)
    assert any("encoders frozen" in line and ", 0 trained" in line for line in whole.said)
    assert any("left" in line for line in whole.said)
    total, trained = whole.returned["parameters"]["causal-film"]
    assert total == trained > 1000
    record = msgspec.json.decode((whole.folder / "run.json").read_bytes())
    assert {"cosine", "std", "rank"} <= set(record["training"][0]["figures"])
    checkpoint = load_checkpoint(whole.folder)
    calibration = checkpoint.calibrations["bench"]
    assert not set(checkpoint.training.sessions) & set(calibration.sessions)
    assert not {*checkpoint.training.welds, *checkpoint.training.validation} & set(calibration.welds)
    assert not list(whole.folder.rglob("*.pt")) + list(whole.folder.rglob("*.pkl"))
    again = tmp_path / "run"
    shutil.copytree(whole.folder, again)
    with pytest.raises(DetectorError, match="begun with other settings"):
        train("causal-film", data, again, config=tiny_file(tmp_path, {"seed = 3": "seed = 4"}))
    assert (again / STATE).is_dir()


def test_a_collapsed_run_fails(data: Path, whole: Whole, tmp_path: Path) -> None:
    folder = with_cuts(whole, tmp_path / "run")
    with pytest.raises(DetectorError, match="collapse"):
        train("causal-film", data, folder, config=tiny_file(tmp_path))
    assert not (folder / ARRAYS).exists()


def test_a_run_without_photos_judges_the_process(tmp_path: Path) -> None:
    data = good_welds(tmp_path / "data", per_session=3, photos=0)
    lines: list[str] = []
    train("causal-film", data, tmp_path / "run", config=tiny_file(tmp_path), progress=lines.append)
    assert "0 good training welds have photos; the photos will not be judged" in lines
    detector = load_checkpoint(tmp_path / "run").detector
    assert isinstance(detector, FilmDetector)
    assert detector.bead is None
    window = noise_window(SPEC)
    assert detector.encode_photos(window) is None
    assert np.isfinite(detector.consistency_score([window], window))
    assert np.isnan(detector.result_score(window))


def test_welds_that_cannot_train_are_refused(tmp_path: Path) -> None:
    config = tiny_file(tmp_path)
    for seed in range(6):
        packets = weld_packets(seed, key=f"b{seed}", arc_s=2.0)
        write_weld(tmp_path / "bad" / f"b{seed}", packets, session=f"s{seed}", label=2 if seed else 0)
    with pytest.raises(DetectorError, match=r"good welds are left to fit on; at least 10 are needed"):
        train("causal-film", tmp_path / "bad", tmp_path / "run", config=config)
    with pytest.raises(DetectorError, match="no model 'film'; there are: statistics, causal-film"):
        train("film", tmp_path / "bad", tmp_path / "run")


def silent_weld(number: int) -> WeldTokens:
    windows: Arrays = {"index": np.arange(3), "phases": np.array([[0, -1, 0]] * 3)}
    return WeldTokens(key=f"w{number}", session="s", label=0, windows=windows, result=None)


def test_a_modality_that_no_weld_has_is_refused() -> None:
    welds = [silent_weld(i) for i in range(12)]
    with pytest.raises(DetectorError, match="audio is absent in all 12 training welds"):
        check_welds(welds, welds)
    with pytest.raises(DetectorError, match="no good weld is left for validation"):
        check_welds(welds, [])


RESULT = ResultTokensConfig(widths=(8, 8), words=6, bands=2, width=8, directions=4)


def tiny_tokens(number: int) -> WeldTokens:
    rng = np.random.default_rng(number)
    windows: Arrays = {
        "index": np.arange(3),
        "phases": np.zeros((3, 3), dtype=np.int64),
        "statistics": rng.normal(size=(3, WIDTH)),
        "video": rng.normal(size=(3, 16, 16)).astype(np.float32),
        "audio": rng.normal(size=(3, 8, 16)).astype(np.float32),
        "sensors": rng.normal(size=(3, 40, 6)).astype(np.float32),
    }
    result = rng.normal(size=(RESULT.tokens, RESULT.width)).astype(np.float32)
    return WeldTokens(key=f"w{number}", session=f"s{number}", label=0, windows=windows, result=result)


def bead_of(welds: list[WeldTokens]) -> BeadModel:
    beads = [
        Bead(session=w.session, statistics=w.windows["statistics"], arc_s=4.0, result=w.result)
        for w in welds
        if w.result is not None
    ]
    return BeadModel.fit(beads, RESULT)


def tiny_film(folder: Path) -> CausalFilm:
    return CausalFilm(tiny_run(folder).network(RESULT.tokens, RESULT.width))


def start_of(bead: BeadModel | None = None) -> Start:
    return Start(bead=bead, spec=SPEC, shape=(RESULT.tokens, RESULT.width))


def trained(film: CausalFilm, start: Start, welds: list[WeldTokens], run: FilmRun, folder: Path) -> list[Epoch]:
    return train_film(
        film,
        start,
        welds,
        welds,
        run,
        digest="",
        file=folder / "s",
        best_file=folder / "b",
        progress=lambda _: None,
    )


# -- where the network starts from ---------------------------------------------------------------------------------


@pytest.mark.parametrize("used", PROCESS_PATTERNS)
def test_the_start_is_what_the_settings_predict(used: tuple[str, ...]) -> None:
    welds = [tiny_tokens(i) for i in range(12)]
    start = start_of(bead_of(welds))
    weld = welds[0]
    assert start.bead is not None
    statistics, arc_s = weld.windows["statistics"], arc_seconds(weld.windows["index"], SPEC)
    found = start.of(weld, used)
    assert found.any()
    np.testing.assert_array_equal(found, start.bead.predict(statistics, arc_s, used))
    # What a weld lacks is not looked at, whatever is asked for.
    lacking = {name: array.copy() for name, array in weld.windows.items()}
    for i, m in enumerate(PROCESS):
        if m not in used:
            lacking["phases"][:, i] = -1
            lacking["statistics"][:, PARTS[m]] = np.nan
    np.testing.assert_array_equal(start.of(replace(weld, windows=lacking), PROCESS), found)
    lacking["phases"][:] = -1
    for nothing in (start.of(replace(weld, windows=lacking), PROCESS), start.of(weld, ()), start_of().of(weld, used)):
        assert nothing.shape == found.shape
        assert not nothing.any()


def test_a_fresh_network_predicts_what_the_settings_do(tmp_path: Path) -> None:
    welds = [tiny_tokens(i) for i in range(12)]
    start = start_of(bead_of(welds))
    film = tiny_film(tmp_path)
    run = tiny_run(tmp_path)
    run = replace(run, modality_dropout=0.0, training=replace(run.training, epochs=1, learning_rate=1e-12))
    with open_gate():
        (epoch,) = trained(film, start, welds, run, tmp_path)
    begun = torch.from_numpy(np.stack([start.of(w, PROCESS) for w in welds]))
    wanted = torch.from_numpy(np.stack([w.result for w in welds if w.result is not None]))
    there = torch.ones(8, dtype=torch.bool)
    losses = [
        film.result_loss(x, x, y, there[: len(x)])[1] for x, y in zip(begun.split(8), wanted.split(8), strict=True)
    ]
    assert epoch.figures["result"] == pytest.approx(np.mean([part["result"] for part in losses]), abs=1e-4)
    report = collapse_report(begun)
    assert epoch.figures["cosine"] == pytest.approx(report.pairwise_cosine, abs=1e-4)
    assert epoch.figures["rank"] == pytest.approx(report.effective_rank, rel=1e-3)


def test_collapse_is_seen(tmp_path: Path) -> None:
    """A network that adds nothing to nothing gives the same for all welds."""
    film = tiny_film(tmp_path).eval().requires_grad_(False)
    film.get_parameter(f"outputs.{PHOTOS}.weight").zero_()
    welds = [tiny_tokens(i) for i in range(20)]
    problem = collapse_of(film, start_of(), welds).problem
    assert problem is not None
    assert "collapsed" in problem
    assert collapse_of(film, start_of(bead_of(welds)), welds).problem is None
    unseen = [replace(w, result=None) for w in welds]
    assert collapse_of(film, start_of(), unseen).samples == 0


# -- what makes it stop --------------------------------------------------------------------------------------------


def test_a_loss_that_is_no_number_names_the_welds(tmp_path: Path) -> None:
    welds = [tiny_tokens(i) for i in range(12)]
    start = start_of(bead_of(welds))
    assert welds[4].result is not None
    welds[4].result[:] = np.inf
    with pytest.raises(DetectorError, match=r"training: the loss is (nan|inf) in epoch 1, step \d+; .*w4"):
        trained(tiny_film(tmp_path), start, welds, tiny_run(tmp_path), tmp_path)


def test_out_of_memory_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    welds = [tiny_tokens(i) for i in range(12)]

    def full(*_: object) -> None:
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes.")

    monkeypatch.setattr(CausalFilm, "loss", full)
    with pytest.raises(DetectorError, match=r"training: out of memory with batch = 16; close other programs") as caught:
        trained(tiny_film(tmp_path), start_of(), welds, tiny_run(tmp_path), tmp_path)
    assert "\n" not in str(caught.value)
