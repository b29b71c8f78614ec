"""A checkpoint comes back as it was, or is refused with one line that says what to do."""

from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
from safetensors.numpy import load, save

from models.checkpoint import ARRAYS, DESCRIPTION, Checkpoint, load_checkpoint, save_checkpoint
from models.detector_contract import DetectorError
from models.evaluation import noise_window
from tests.models.welds import CELL, SPEC


def test_round_trip_is_exact(checkpoint: Checkpoint, tmp_path: Path) -> None:
    save_checkpoint(tmp_path, checkpoint)
    found = load_checkpoint(tmp_path, SPEC)
    window = noise_window(SPEC)
    assert found.detector.process_score(window) == checkpoint.detector.process_score(window)
    assert found.detector.result_score(window) == checkpoint.detector.result_score(window)
    np.testing.assert_array_equal(found.calibrations[CELL].scores, checkpoint.calibrations[CELL].scores)
    assert found.calibrations[CELL].welds == checkpoint.calibrations[CELL].welds
    assert found.training == checkpoint.training
    assert found.title.startswith("statistics-")
    assert sorted(p.name for p in tmp_path.iterdir()) == [DESCRIPTION, ARRAYS]


def refusal(folder: Path) -> str:
    with pytest.raises(DetectorError) as caught:
        load_checkpoint(folder, SPEC)
    message = str(caught.value)
    assert "\n" not in message
    assert str(folder) in message
    return message


def test_another_spec_is_refused(checkpoint: Checkpoint, tmp_path: Path) -> None:
    save_checkpoint(tmp_path, checkpoint)
    with pytest.raises(DetectorError, match=r"window_s = 2\.0, asked for 4\.0"):
        load_checkpoint(tmp_path, replace(SPEC, window_s=4.0))


def test_bad_checkpoints_are_refused(checkpoint: Checkpoint, tmp_path: Path) -> None:
    assert "no checkpoint" in refusal(tmp_path / "nowhere")
    save_checkpoint(tmp_path, checkpoint)
    description, arrays = (tmp_path / DESCRIPTION).read_bytes(), (tmp_path / ARRAYS).read_bytes()

    (tmp_path / DESCRIPTION).write_bytes(description.replace(b'"version": 1', b'"version": 9', 1))
    assert "version 9" in refusal(tmp_path)
    (tmp_path / DESCRIPTION).write_bytes(description[:100])
    assert "train it again" in refusal(tmp_path)
    (tmp_path / DESCRIPTION).write_bytes(description.replace(b'"cell"', b'"zelle"', 1))
    assert "zelle" in refusal(tmp_path)

    (tmp_path / DESCRIPTION).write_bytes(description)
    (tmp_path / ARRAYS).write_bytes(arrays[:-8])
    assert "does not belong" in refusal(tmp_path)


def test_another_shape_is_refused(checkpoint: Checkpoint, tmp_path: Path) -> None:
    save_checkpoint(tmp_path, checkpoint)
    arrays = load((tmp_path / ARRAYS).read_bytes())
    arrays["process.mean"] = arrays["process.mean"][:-1]
    store(tmp_path, arrays)
    assert "'process.mean' has shape" in refusal(tmp_path)
    del arrays["process.mean"]
    store(tmp_path, arrays)
    assert "no array 'process.mean'" in refusal(tmp_path)


def store(folder: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write arrays with a description that matches them, as a program of another version would."""
    import xxhash

    data = save(arrays)
    (folder / ARRAYS).write_bytes(data)
    description = msgspec.json.decode((folder / DESCRIPTION).read_bytes())
    description["arrays_digest"] = xxhash.xxh3_128_hexdigest(data)
    (folder / DESCRIPTION).write_bytes(msgspec.json.encode(description))
