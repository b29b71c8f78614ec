"""A card says what the files say: change a number in a file, and it changes on the card."""

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from app import app
from models.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from models.detector_contract import DetectorError
from models.evaluation import evaluate
from models.model_card import CARD, RECORD, write_card
from tests.models.welds import CELL, fitted, weld_packets, write_weld

RUN = {
    "settings": {"seed": 17, "sample": {"window_s": 2.5}, "training": {"batch": 24}},
    "digest": "0",
    "welds": {"fit": 31, "validation": 8},
    "parameters": {"encoders": [1234567, 1234567], "causal-film": [2345, 2344]},
    "pretraining": [{"epoch": 1, "loss": 9.0, "validation": 8.25, "figures": {}}],
    "training": [
        {"epoch": 1, "loss": 5.0, "validation": 4.125, "figures": {"cosine": 0.212, "std": 0.5, "rank": 23.5}},
        {"epoch": 2, "loss": 4.0, "validation": 4.5, "figures": {"cosine": 0.3, "std": 0.5, "rank": 20.0}},
    ],
    "seconds": {"training": 216.5},
}


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A checkpoint, and what `evaluate` really prints of it."""
    folder = tmp_path_factory.mktemp("card")
    save_checkpoint(folder / "run", fitted(12, 12))
    save_checkpoint(folder / "floor", fitted(14, 12))
    for seed in range(8):
        bad = seed % 2 == 1
        packets = weld_packets(600 + seed, key=f"t{seed}", arc_s=3.0, fault=3.0 * bad, photo_fault=60.0 * bad)
        write_weld(folder / "test" / f"t{seed}", packets, session=f"x{seed // 4}", label=9 if bad else 0)
    result = evaluate(folder / "run", folder / "test", floor=folder / "floor")
    return folder / "run", json.loads(json.dumps(result))


def card(run: Path, folder: Path, **evaluations: object) -> str:
    paths = []
    for name, result in evaluations.items():
        paths.append(folder / f"{name}.json")
        paths[-1].write_text(json.dumps(result))
    found = write_card(run, paths, folder / "card.md")
    assert found["evaluations"] == sorted(evaluations)
    return (folder / "card.md").read_text(encoding="utf-8")


def refusal(run: Path, *paths: Path) -> str:
    with pytest.raises(DetectorError) as caught:
        write_card(run, paths)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_the_card_says_what_the_files_say(evaluated: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    run, result = evaluated
    checkpoint = load_checkpoint(run)
    text = card(run, tmp_path, first=result)
    assert text.startswith(f"# {checkpoint.title}\n")
    assert f"| {CELL} | 12 | {len(set(checkpoint.calibrations[CELL].sessions))} |" in text
    assert "| welds of the fit | 12 |" in text
    assert f"{checkpoint.detector.parameters():,} parameters" in text
    assert "window_s 2.0" in text
    assert "8 welds of 2 sessions" in text
    head, floor = result["rows"][0], result["rows"][len(result["rows"]) // 2]
    low, high = head["auroc_ci"]
    assert f"| everything | {head['auroc']:.3f} ({low:.3f} to {high:.3f}) | {floor['auroc']:.3f} (" in text
    assert "No record of the run" in text


def test_a_changed_number_changes_the_card(evaluated: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    run, honest = evaluated
    result = deepcopy(honest)
    head, floor = result["rows"][0], result["rows"][len(result["rows"]) // 2]
    name = next(iter(head["per_class"]))
    head |= {"auroc": 0.6123, "auroc_ci": [0.4432, 0.7234], "ap": 0.3217, "f1_max": 0.2719, "fpr95": 0.8181}
    head |= {"per_class": {name: 0.5678}, "per_class_ci": {name: [0.4567, 0.6789]}, "per_class_welds": {name: 43}}
    head["false_alarms"] |= {"alpha": 0.07, "n": 97, "no_go": 13, "rate_ci": [0.0713, 0.2187]}
    head["false_alarms"] |= {"expected_if_good_90": [2, 9], "rate": 13 / 97}
    head["detections"] |= {"n": 89, "no_go": 53}
    head["latency_ms"] = {"p50": 12.25, "p95": 19.75}
    floor["auroc"] = 0.9191
    result["protocol"] |= {"welds": 186, "sessions": 23, "seeds": [41], "session_disjoint": False}
    text = card(run, tmp_path, honest=honest, other=result)
    new = text.split("### other")[1]
    for said in (
        *("0.612 (0.443 to 0.723)", "0.322", "0.272", "81.8 %", "0.919"),
        *(f"| {name} | 43 | 0.568 (0.457 to 0.679)", "12.25 ms (p50), 19.75 ms (p95)"),
        *("| 0.07 | 13 of 97 | 13.4 % (7.1 % to 21.9 %) | 2 to 9 | 53 of 89: 60 %", "186 welds of 23 sessions"),
        *("bootstrap seed 41", "some seen in training", "the numbers flatter", "13 false alarms of 97 are more than"),
        *("0.443 to 0.723 is not told from guessing", "0.612 is below the floor's 0.919", f"good welds: {name}."),
    ):
        assert said in new, said
        assert said not in card(run, tmp_path, honest=honest), said


def test_the_record_of_the_run_is_told(evaluated: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "run", load_checkpoint(evaluated[0]))
    (tmp_path / "run" / RECORD).write_text(json.dumps(RUN))
    assert write_card(tmp_path / "run", [])["card"] == str(tmp_path / "run" / CARD)
    text = (tmp_path / "run" / CARD).read_text(encoding="utf-8")
    for said in (
        *(
            "| `seed` | 17 |",
            "| `sample.window_s` | 2.5 |",
            "| `training.batch` | 24 |",
            "| causal-film | 2,345 | 2,344 |",
        ),
        *("Training: 2 epochs, best validation loss 4.125 in epoch 1", "cosine 0.212", "effective rank 23.5"),
        *("Pretraining: 1 epochs, best validation loss 8.25 in epoch 1.", "| training | 216.5 |", "Not evaluated."),
        "Not measured.",
    ):
        assert said in text, said


def test_a_card_without_calibration_says_so(checkpoint: Checkpoint, tmp_path: Path) -> None:
    save_checkpoint(tmp_path, Checkpoint(detector=checkpoint.detector, training=checkpoint.training))
    write_card(tmp_path, [])
    assert "Calibrated for no cell" in (tmp_path / CARD).read_text(encoding="utf-8")


def test_what_does_not_belong_on_it_is_refused(evaluated: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    run, result = evaluated
    path = tmp_path / "e.json"
    assert "No such file" in refusal(run, path)
    for content, said in (
        (json.dumps(result | {"protocol": result["protocol"] | {"checkpoint": "film-1"}}), "evaluation of film-1, not"),
        (json.dumps(result | {"rows": []}), "without a row"),
        (json.dumps({"rows": result["rows"]}), "protocol"),
        ("{", "make it again"),
        ("\xff", "make it again"),
    ):
        path.write_text(content, encoding="latin-1")
        assert said in refusal(run, path)
    path.write_text(json.dumps(result))
    assert "a second evaluation" in refusal(run, path, path)
    with pytest.raises(DetectorError, match="name a file that can be written"):
        write_card(run, [path], tmp_path / "nowhere" / "card.md")
    assert not (run / CARD).exists()


def test_the_commands_print_json(evaluated: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    run, result = evaluated
    (tmp_path / "e.json").write_text(json.dumps(result))
    write_weld(tmp_path / "w", weld_packets(903))
    commands = (
        ["card", str(run), "--evaluation", str(tmp_path / "e.json"), "--out", str(tmp_path / CARD)],
        ["bench", "judge", str(run), "--weld", str(tmp_path / "w"), "--n", "1"],
    )
    for command in commands:
        done = CliRunner().invoke(app, [*command, "--json"])
        assert done.exit_code == 0, done.output
        assert json.loads(done.stdout)["checkpoint"] == load_checkpoint(run).title
    assert (tmp_path / CARD).read_text(encoding="utf-8").startswith("# statistics-")
