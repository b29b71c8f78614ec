import json
from dataclasses import replace

import polars as pl
import pytest

from acquisition.simulated.config import SimulationConfig
from recordings.cell import load_cell
from recordings.reader import WeldReader
from recordings.simulate import Order, SimulationError, plan, simulate, write_weld
from recordings.verify import verify

SMALL = SimulationConfig(
    idle_s=2.5,
    arc_s=3.0,
    tail_s=2.5,
    photos=1,
    photo_height=64,
    photo_width=64,
    fps=12.0,
    height=64,
    width=64,
    audio_rate_hz=8000,
)
TABLES = ("camera.frames", "microphone.blocks", "sensors", "events", "clocks", "photos.photos")


def small_cell():
    cell = load_cell(None)
    return replace(cell, judge=replace(cell.judge, photos_expected=1, photo_wait_s=5.0), simulation=SMALL)


def order(**changes: object) -> Order:
    base = {"session": 7, "number": 2, "weld_class": "porosity", "severity": 0.8, "seed": 11}
    return Order(**(base | changes))  # type: ignore[arg-type]


def test_a_plan_is_seeded_and_stable():
    made = plan(7, ("good", "porosity", "spatter"), (0.5, 1.0), seed=3, welds_per_session=4)
    assert made == plan(7, ("good", "porosity", "spatter"), (0.5, 1.0), seed=3, welds_per_session=4)
    assert [(o.session, o.number) for o in made] == [(3000, n) for n in range(4)] + [(3001, n) for n in range(3)]
    assert [o.weld_class for o in made[:4]] == ["good", "porosity", "spatter", "good"]
    assert all(0.5 <= o.severity <= 1.0 for o in made)
    assert len({o.seed for o in made}) == 7
    # A longer plan begins as the shorter one, and a plan made today is the one of any other day.
    assert plan(9, ("good", "porosity", "spatter"), (0.5, 1.0), seed=3, welds_per_session=4)[:7] == made
    assert (made[1].seed, round(made[1].severity, 6)) == (3762404955, 0.633285)
    other = plan(7, ("good", "porosity", "spatter"), (0.5, 1.0), seed=4, welds_per_session=4)
    assert not {o.seed for o in other} & {o.seed for o in made}


def test_truth_and_label_are_written(tmp_path):
    folder = write_weld(order(), small_cell(), tmp_path)
    reader = WeldReader(folder)
    truth = json.loads((folder / "truth.json").read_text())
    assert (truth["class"], truth["label"], truth["severity"]) == ("porosity", 3, 0.8)
    assert truth["causes"]
    assert [(entry.label, entry.by) for entry in reader.manifest.labels] == [(3, "simulated")]
    assert (reader.manifest.source, reader.manifest.session) == ("simulated", "s7")
    assert len(reader.photos()) == 1
    assert reader.manifest.arc_on_ns == pytest.approx(truth["arc_on_ns"], abs=0.3e9)
    assert reader.manifest.arc_off_ns == pytest.approx(truth["arc_off_ns"], abs=0.3e9)
    (report,) = verify(folder)
    assert (report.ok, report.problems, report.losses) == (True, [], {})


def test_a_weld_made_twice_is_equal(tmp_path):
    one, two = (write_weld(order(), small_cell(), tmp_path / name) for name in ("a", "b"))
    assert one.relative_to(tmp_path / "a") == two.relative_to(tmp_path / "b")
    for table in TABLES:
        first, second = (pl.read_parquet(folder / f"{table}.parquet") for folder in (one, two))
        assert first.height > 0
        assert first.equals(second), table
    for name in ("camera.mp4", "microphone.flac", "truth.json"):
        assert (one / name).read_bytes() == (two / name).read_bytes(), name
    other = write_weld(order(seed=12), small_cell(), tmp_path / "c")
    assert not pl.read_parquet(one / "sensors.parquet").equals(pl.read_parquet(other / "sensors.parquet"))


def test_simulate_writes_the_plan_and_counts(tmp_path):
    orders = plan(2, ("good",), (0.5, 1.0), seed=5, welds_per_session=10)
    said: list[tuple[int, int]] = []
    result = simulate(orders, small_cell(), tmp_path, workers=1, progress=lambda n, of: said.append((n, of)))
    assert said == [(1, 2), (2, 2)]
    assert (result["welds"], result["root"]) == (2, str(tmp_path))
    assert result["simulated_s"] > 10
    assert len(verify(tmp_path, deep=False)) == 2


def test_the_same_weld_twice_in_one_root_is_refused_and_the_first_unharmed(tmp_path):
    folder = write_weld(order(), small_cell(), tmp_path)
    with pytest.raises(SimulationError, match="already holds a weld"):
        write_weld(order(), small_cell(), tmp_path)
    assert verify(folder)[0].ok


def test_no_arc_is_said_so(tmp_path):
    cell = small_cell()
    deaf = replace(cell, arc=replace(cell.arc, current_on_a=790.0, light_contrast=1e9, sound_contrast_db=1e9))
    with pytest.raises(SimulationError, match="session 7 weld 2 \\(porosity\\): no arc was found"):
        write_weld(order(), deaf, tmp_path)
