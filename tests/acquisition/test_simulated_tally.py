import threading
from pathlib import Path

from acquisition.packet import Event, item_range
from acquisition.simulated.cell import SimulatedCell
from acquisition.simulated.config import SimulationConfig
from acquisition.simulated.tally import Heard, Taken, read_tally


def test_the_tally_holds_what_was_taken_and_nothing_else(tmp_path: Path) -> None:
    """Delivered is not taken: what waits in a driver's queue is in no tally."""
    path = tmp_path / "tally"
    world = SimulatedCell(SimulationConfig(height=64, width=64, tally=str(path)))
    microphone, sensors = world.driver("sound", "audio"), world.driver("plc", "sensors")
    came = threading.Semaphore(0)
    for driver in (microphone, sensors):
        driver.open(came.release)
    try:
        for _ in range(12):
            assert came.acquire(timeout=10)
        block = microphone.read(10)
        opened = Event(kind="weld_open", weld="w", data={})
        for driver in (microphone, sensors):
            driver.notify(opened)
            driver.notify(Event(kind="arc_on", weld="w"))
        row = sensors.read(10)
    finally:
        microphone.close()
        sensors.close()
    assert block is not None
    assert row is not None
    (first, samples), (number, rows) = item_range(block), item_range(row)
    assert (samples, rows) == (320, 1)
    assert read_tally(path) == [
        Taken(stream="sound", segment=0, first=first, end=first + samples),
        Heard(kind="weld_open", weld="w"),
        Taken(stream="plc", segment=0, first=number, end=number + rows),
    ]


def test_half_a_line_is_no_entry(tmp_path: Path) -> None:
    (tmp_path / "tally").write_text("camera 0 7 8\nmicrophone 0 32")
    assert read_tally(tmp_path / "tally") == [Taken(stream="camera", segment=0, first=7, end=8)]
    assert read_tally(tmp_path / "absent") == []
