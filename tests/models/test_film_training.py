"""A run of Causal-FiLM: settings, shares of sessions, resuming, and what makes it stop."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

import models.collapse as collapse
from models.causal_film import CausalFilm
from models.checkpoint import ARRAYS, load_checkpoint
from models.detector_contract import PHOTOS, DetectorError
from models.evaluation import noise_window
from models.film_config import FilmRun, PhaseSettings, load_run
from models.film_inputs import SensorScale, process_batch
from models.film_run import STATE, shared_out
from models.film_tokens import Arrays, WeldTokens
from models.film_training import check_welds, collapse_of, train_film
from models.training import train
from models.training_loop import learning_rate
from models.weld_features import found_welds, windows_of
from tests.models.films import cut_files, good_welds, tiny_file, tiny_run
from tests.models.welds import SPEC, weld_packets, write_weld


class KilledError(Exception):
    """Stands for the end of the process."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return good_welds(tmp_path_factory.mktemp("good"))


@pytest.fixture
def open_gate(monkeypatch: pytest.MonkeyPatch) -> None:
    """A dozen tiny welds do not differ enough for the gate of real runs."""
    monkeypatch.setattr(collapse, "MIN_RANK", 0.0)
    monkeypatch.setattr(collapse, "MAX_COSINE", 1.1)
    monkeypatch.setattr(collapse, "MIN_SAMPLES", 2)


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


def test_a_cut_weld_is_what_was_cut(data: Path, tmp_path: Path) -> None:
    found = found_welds(data)[0]
    _, windows, photos = windows_of(found.folder, SPEC)
    cut = cut_files(data, tmp_path, tiny_run(tmp_path))[0].load()
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


@pytest.mark.usefixtures("open_gate")
@pytest.mark.parametrize("fatal", ["pretraining: epoch 2 of", "training: epoch 1 of", "training: epoch 2 of"])
def test_a_killed_run_goes_on_to_the_same_numbers(data: Path, tmp_path: Path, fatal: str) -> None:
    config = tiny_file(tmp_path)

    def killer(line: str) -> None:
        if line.startswith(fatal):
            raise KilledError

    train("causal-film", data, tmp_path / "whole", config=config)
    with pytest.raises(KilledError):
        train("causal-film", data, tmp_path / "killed", config=config, progress=killer)
    assert not (tmp_path / "killed" / ARRAYS).exists()
    torch.manual_seed(99)  # whatever the generator was used for in between
    lines: list[str] = []
    train("causal-film", data, tmp_path / "killed", config=config, progress=lines.append)
    assert any("epochs are done already" in line for line in lines)
    assert (tmp_path / "killed" / ARRAYS).read_bytes() == (tmp_path / "whole" / ARRAYS).read_bytes()


@pytest.mark.usefixtures("open_gate")
def test_a_run_keeps_its_settings_and_says_what_it_did(data: Path, tmp_path: Path) -> None:
    lines: list[str] = []
    found = train("causal-film", data, tmp_path / "run", config=tiny_file(tmp_path), progress=lines.append)
    assert any("parameters" in line and "trained" in line for line in lines)
    assert any("encoders frozen" in line and ", 0 trained" in line for line in lines)
    assert any("left" in line for line in lines)
    total, trained = found["parameters"]["causal-film"]
    assert total == trained > 1000
    record = msgspec.json.decode((tmp_path / "run" / "run.json").read_bytes())
    assert {"cosine", "std", "rank"} <= set(record["training"][0]["figures"])
    checkpoint = load_checkpoint(tmp_path / "run")
    calibration = checkpoint.calibrations["bench"]
    assert not set(checkpoint.training.sessions) & set(calibration.sessions)
    assert not {*checkpoint.training.welds, *checkpoint.training.validation} & set(calibration.welds)
    assert not list((tmp_path / "run").rglob("*.pt")) + list((tmp_path / "run").rglob("*.pkl"))
    other = tiny_file(tmp_path, {"seed = 3": "seed = 4"})
    with pytest.raises(DetectorError, match="begun with other settings"):
        train("causal-film", data, tmp_path / "run", config=other)
    assert (tmp_path / "run" / STATE).is_dir()


def test_a_collapsed_run_fails(data: Path, tmp_path: Path) -> None:
    with pytest.raises(DetectorError, match="collapse"):
        train("causal-film", data, tmp_path / "run", config=tiny_file(tmp_path))
    assert not (tmp_path / "run" / ARRAYS).exists()


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


def tiny_tokens(number: int) -> WeldTokens:
    rng = np.random.default_rng(number)
    windows: Arrays = {
        "index": np.arange(3),
        "phases": np.zeros((3, 3), dtype=np.int64),
        "video": rng.normal(size=(3, 16, 16)).astype(np.float32),
        "audio": rng.normal(size=(3, 8, 16)).astype(np.float32),
        "sensors": rng.normal(size=(3, 40, 6)).astype(np.float32),
    }
    result = rng.normal(size=(24, 8)).astype(np.float32)
    return WeldTokens(key=f"w{number}", session=f"s{number}", label=0, windows=windows, result=result)


def test_a_loss_that_is_no_number_names_the_welds(tmp_path: Path) -> None:
    run = tiny_run(tmp_path)
    film = CausalFilm(run.network(24, 8))
    welds = [tiny_tokens(i) for i in range(12)]
    assert welds[4].result is not None
    welds[4].result[:] = np.inf
    with pytest.raises(DetectorError, match=r"training: the loss is (nan|inf) in epoch 1, step \d+; .*w4"):
        train_film(
            film, welds, welds, run, digest="", file=tmp_path / "s", best_file=tmp_path / "b", progress=lambda _: None
        )


def test_out_of_memory_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tiny_run(tmp_path)
    film = CausalFilm(run.network(24, 8))
    welds = [tiny_tokens(i) for i in range(12)]

    def full(*_: object) -> None:
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes.")

    monkeypatch.setattr(CausalFilm, "loss", full)
    with pytest.raises(DetectorError, match=r"training: out of memory with batch = 16; close other programs") as caught:
        train_film(
            film, welds, welds, run, digest="", file=tmp_path / "s", best_file=tmp_path / "b", progress=lambda _: None
        )
    assert "\n" not in str(caught.value)


def test_collapse_is_seen(tmp_path: Path) -> None:
    film = CausalFilm(tiny_run(tmp_path).network(24, 8)).eval()
    film.outputs[PHOTOS].requires_grad_(False)
    film.get_parameter(f"outputs.{PHOTOS}.weight").zero_()
    problem = collapse_of(film, [tiny_tokens(i) for i in range(20)]).problem
    assert problem is not None
    assert "collapsed" in problem
