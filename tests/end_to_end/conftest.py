"""What the end-to-end tests share: one fitted detector, and runs of the cell that several of them look at."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from models.training import train_statistics
from recordings.cell import load_cell
from recordings.simulate import plan, simulate
from sync.sample import SampleSpec
from tests.end_to_end.processes import Finished, Place, write_cell

SPEC = SampleSpec(
    window_s=2.0, frames=8, height=48, width=80, sensor_rows=32, photos=2, photo_height=48, photo_width=64
)
OPTIONAL_SOUND = ('["video", "audio", "sensors"]', '["video", "sensors"]')


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory) -> Path:
    """A detector fitted and calibrated on good welds of the small cell."""
    folder = tmp_path_factory.mktemp("fit")
    cell = load_cell(write_cell(folder / "cell.toml"))
    orders = plan(16, ["good"], (0.5, 1.0), 1, 2)
    simulate(orders, cell, folder / "welds", workers=1, progress=lambda *_: None)
    made = train_statistics(folder / "welds", folder / "run", spec=SPEC, hold_out=0.35)
    assert made["calibrated"][0]["welds"] == 6
    return Path(folder / "run")


@pytest.fixture
def make_place(tmp_path, checkpoint) -> Iterator[Callable[..., Place]]:
    """Makes places (name, then changes of the cell file); what still runs in them at the end is killed."""
    made: list[Place] = []

    def make(name: str, *changes: tuple[str, str]) -> Place:
        made.append(Place.make(tmp_path / name, checkpoint, *changes))
        return made[-1]

    yield make
    for place in made:
        place.end()


@dataclass(frozen=True, kw_only=True)
class Run:
    """A headless run that has ended, and where."""

    place: Place
    finished: Finished

    @property
    def weld(self) -> Path:
        """Folder of its last weld."""
        return Path(self.finished.result["welds"][-1]["path"])


@pytest.fixture(scope="session")
def runs(tmp_path_factory, checkpoint) -> Iterator[dict[str, Run]]:
    """Headless runs, side by side: undisturbed, and with faults in a required and in an optional stream."""
    folder = tmp_path_factory.mktemp("runs")
    places = {
        name: Place.make(folder / name, checkpoint, *([OPTIONAL_SOUND] if name == "optional" else []))
        for name in ("plain", "required", "optional", "losses")
    }
    arguments = {
        "plain": ["--welds", "2"],
        "required": ["--welds", "1", "--inject", "kill:camera@2.9"],
        "optional": ["--welds", "1", "--inject", "kill:microphone@2.9"],
        "losses": ["--welds", "1", "--inject", "freeze:microphone@2.2:0.4", "--inject", "drop:camera@3:5"],
    }
    started = {name: place.run("--headless", "--json", *arguments[name]) for name, place in places.items()}
    try:
        yield {name: Run(place=places[name], finished=started[name].finish(90)) for name in places}
    finally:
        for name, place in places.items():
            started[name].kill()
            place.end()
