"""A small part of `bench fuzz`: damaged welds and sources are answered, never by a crash, a hang or a stray file."""

import random
from pathlib import Path

import pytest

from recordings.bench_fuzz import bench_fuzz, fuzz_one, make_bases
from recordings.fuzz_mutations import BYTES


@pytest.mark.timeout(240)
def test_damaged_inputs_are_answered() -> None:
    report = bench_fuzz(100, seed=1, workers=2)
    assert sum(report.inputs.values()) == 100
    assert set(report.inputs) == {"reader", "recovery", "importer", "csv"}
    assert report.matching >= 50, "half of the inputs pass the first check"
    assert report.refused >= 25, "damage is noticed"
    assert report.findings == []


def test_a_seed_makes_the_same_input_again(tmp_path: Path) -> None:
    bases = make_bases(tmp_path / "bases")
    once = [fuzz_one(seed, bases, tmp_path / "work") for seed in range(7, 15)]
    assert once == [fuzz_one(seed, bases, tmp_path / "work") for seed in range(7, 15)]


def test_what_once_crashed_is_answered(tmp_path: Path) -> None:
    bases = make_bases(tmp_path / "bases")
    for seed in (100834, 104260, 104429, 108786, 203802, 210278, 304061):
        *_, found = fuzz_one(seed, bases, tmp_path / "work")
        assert found is None, seed


@pytest.mark.parametrize("how", BYTES, ids=lambda how: how.__name__)
def test_every_way_of_damaging_bytes_takes_any_file(how) -> None:
    for seed in range(50):
        assert isinstance(how(random.Random(seed), bytes(seed)), bytes)
