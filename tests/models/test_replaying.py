"""`replay --headless`: the whole weld, a part of it, and at a given speed."""

import time
from pathlib import Path

import pytest

from models.checkpoint import Checkpoint, save_checkpoint
from models.detector_contract import DetectorError
from models.replaying import replay_weld
from recordings.reader import WeldReader
from tests.models.welds import REQUIRED, weld_packets, write_weld


@pytest.fixture(scope="module")
def weld(tmp_path_factory: pytest.TempPathFactory) -> WeldReader:
    folder = tmp_path_factory.mktemp("welds") / "w1"
    write_weld(folder, weld_packets(7, fault=0.2))
    return WeldReader(folder)


@pytest.fixture
def saved(checkpoint: Checkpoint, tmp_path: Path) -> Path:
    save_checkpoint(tmp_path / "run", checkpoint)
    return tmp_path / "run"


def test_the_windows_of_a_part_are_those_of_the_whole(weld: WeldReader, saved: Path) -> None:
    whole = replay_weld(weld, saved, REQUIRED, 0.05)
    rows = {row["window"]: row for row in whole["scores"]}
    first, last = sorted(rows)[1], sorted(rows)[-2]
    a_s = rows[first]["t0_s"] - 0.001
    b_s = rows[last + 1]["t0_s"] + rows[first + 1]["t0_s"] - rows[first]["t0_s"]
    part = replay_weld(weld, saved, REQUIRED, 0.05, part_s=(a_s, b_s))
    found = {row["window"]: row for row in part["scores"]}
    assert 0 < len(found) < len(rows)
    assert min(found) == first
    for window, row in found.items():
        assert {**row, "weld_score": 0, "p_value": 0} == {**rows[window], "weld_score": 0, "p_value": 0}
    assert part["windows"] == len(found)
    (told,) = part["welds"]
    assert (told["verdict"], told["reason"]) == ("NO DATA", "only a part of the weld was replayed")
    aligned = replay_weld(weld, None, REQUIRED, 0.05, part_s=(1.0, None))
    assert aligned["windows"] == replay_weld(weld, None, REQUIRED, 0.05)["windows"] - 1
    assert replay_weld(weld, saved, REQUIRED, 0.05, part_s=(None, 10_000.0))["windows"] == whole["windows"]


def test_a_part_without_length_is_refused(weld: WeldReader) -> None:
    with pytest.raises(DetectorError, match="give an end behind the beginning"):
        replay_weld(weld, None, REQUIRED, 0.05, part_s=(3.0, 1.0))


def test_a_given_speed_is_kept(weld: WeldReader) -> None:
    began = time.monotonic()
    result = replay_weld(weld, None, REQUIRED, 0.05, speed=20.0)
    took_s = time.monotonic() - began
    arrivals = weld.table("plc")["t_arrival_ns"].to_list()
    length_s = (max(arrivals) - min(arrivals)) / 1e9
    assert took_s >= 0.95 * length_s / 20.0
    assert result["windows"] == replay_weld(weld, None, REQUIRED, 0.05)["windows"]
