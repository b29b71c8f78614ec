"""A checkpoint comes back as it was, or is refused with one line that says what to do."""

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import xxhash
from safetensors.numpy import load, save

from models.checkpoint import (
    ARRAYS,
    DESCRIPTION,
    VERSION,
    Checkpoint,
    description_digest,
    load_checkpoint,
    save_checkpoint,
)
from models.detector_contract import DetectorError
from models.evaluation import noise_window
from models.statistics import StatisticsDetector
from tests.models.welds import CELL, SPEC

SHIPPED = Path(__file__).parents[2] / "models" / "shipped"


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

    (tmp_path / DESCRIPTION).write_bytes(description.replace(f'"version": {VERSION}'.encode(), b'"version": 9', 1))
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


def test_another_width_is_refused(checkpoint: Checkpoint, tmp_path: Path) -> None:
    """A network of another version: everything belongs together, but the program makes it of another size."""
    save_checkpoint(tmp_path, checkpoint)
    arrays = load((tmp_path / ARRAYS).read_bytes())
    width = len(arrays["process.mean"])
    store(tmp_path, arrays | {"process.covariance": np.eye(width + 1)})
    assert f"this version wants ({width}, {width})" in refusal(tmp_path)


@pytest.mark.parametrize(
    "shipped", sorted(p.parent for p in SHIPPED.glob(f"*/{DESCRIPTION}")), ids=lambda folder: folder.name
)
def test_what_is_shipped_loads(shipped: Path) -> None:
    assert load_checkpoint(shipped).calibrations


class Configured(StatisticsDetector):
    """A detector with a configuration, as networks have one."""

    def configuration(self) -> dict[str, Any]:
        return {"film": {"width": 64, "heads": 4, "noise": 0.2, "on": True}, "result": None, "bands": (1, 2)}


def test_every_changed_field_is_refused(checkpoint: Checkpoint, tmp_path: Path) -> None:
    detector = Configured.from_state(SPEC, checkpoint.detector.state())
    save_checkpoint(tmp_path, replace(checkpoint, detector=detector))
    honest = msgspec.json.decode((tmp_path / DESCRIPTION).read_bytes())
    write(tmp_path, honest)
    assert load_checkpoint(tmp_path, SPEC).training == checkpoint.training
    changed = list(changes(honest))
    assert {path[0] for path, _ in changed} == set(honest)
    assert ("configuration", "film", "width") in {path for path, _ in changed}
    for path, description in changed:
        write(tmp_path, description)
        message = refusal(tmp_path)
        assert path[0] in ("version", "detector") or "changed after it was written" in message, (path, message)


def test_a_field_more_or_less_is_refused(checkpoint: Checkpoint, tmp_path: Path) -> None:
    save_checkpoint(tmp_path, checkpoint)
    honest = msgspec.json.decode((tmp_path / DESCRIPTION).read_bytes())
    for name in honest:
        write(tmp_path, {n: v for n, v in honest.items() if n != name})
        refusal(tmp_path)
    write(tmp_path, honest | {"note": "mine"})
    assert "note" in refusal(tmp_path)
    write(tmp_path, honest | {"configuration": {"width": 64}})
    assert "changed after it was written" in refusal(tmp_path)


def test_bytes_that_are_no_text_are_refused(checkpoint: Checkpoint, tmp_path: Path) -> None:
    save_checkpoint(tmp_path, checkpoint)
    data = (tmp_path / DESCRIPTION).read_bytes()
    for damaged in (data.replace(b"bench", b"ben\xff\xfe", 1), b"", b"[]", b"\x00" * 40):
        (tmp_path / DESCRIPTION).write_bytes(damaged)
        assert "copy the checkpoint again" in refusal(tmp_path)


def changes(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    """Give the value with one leaf changed, for every leaf of it, as another of the same kind where there is one."""
    if isinstance(value, dict | list) and value:
        for key in value if isinstance(value, dict) else range(len(value)):
            for where, inner in changes(value[key], (*path, key)):
                copy = deepcopy(value)
                copy[key] = inner
                yield where, copy
    elif isinstance(value, bool):
        yield path, not value
    elif isinstance(value, int | float):
        yield path, value + 1
    elif isinstance(value, str):
        yield path, value[:-1] + ("0" if value[-1:] != "0" else "1")
    else:
        yield path, ["x"] if isinstance(value, list) else {"x": 1} if isinstance(value, dict) else 0.5


def write(folder: Path, description: dict[str, Any]) -> None:
    (folder / DESCRIPTION).write_bytes(msgspec.json.encode(description))


def store(folder: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write arrays with a description that belongs to them, as a program of another version would."""
    data = save(arrays)
    (folder / ARRAYS).write_bytes(data)
    description = msgspec.json.decode((folder / DESCRIPTION).read_bytes())
    description["arrays_digest"] = xxhash.xxh3_128_hexdigest(data)
    write(folder, description | {"digest": description_digest(description)})
