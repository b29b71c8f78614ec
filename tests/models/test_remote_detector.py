"""The detector on another host than the cell's: with keys, its clock probed, and without the folders of welds."""

import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from acquisition.curve import Door, Gate
from acquisition.keys import ClientKeys, give_keys, read_client
from acquisition.transport import ControlServer, Publisher
from models.checkpoint import Checkpoint, save_checkpoint
from models.detector import run_detector
from recordings.verdict import Score, Verdict
from tests.models.test_detector import Capture, cell_status, final, ready, weld_status
from tests.models.test_judge import judged
from tests.models.welds import CELL, REQUIRED, weld_packets, write_weld


class GuardedCapture(Capture):
    """A capture process that other hosts may reach."""

    def __init__(self, folder: Path, keys: Path) -> None:
        self._gate = Gate(keys)
        doors = [Door(self._gate, "tcp://127.0.0.1:*") for _ in range(2)]
        self.publisher = Publisher(f"ipc://{folder}/data", doors[0])
        self.sent = queue.Queue()
        self.server = ControlServer(f"ipc://{folder}/control", self._take, doors[1])
        self.data, self.control = (door.endpoint for door in doors)

    def close(self) -> None:
        super().close()
        self._gate.close()


@contextmanager
def running(capture: Capture, checkpoint: Path, keys: ClientKeys) -> Iterator[None]:
    stop = threading.Event()

    def run() -> None:
        run_detector(
            data_endpoint=capture.data,
            control_endpoint=capture.control,
            checkpoint=checkpoint,
            cell=CELL,
            required=REQUIRED,
            alpha=0.05,
            keys=keys,
            stop=stop,
        )

    thread = threading.Thread(target=run, name="detector-under-test")
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(5.0)
        capture.close()


def test_what_was_not_seen_whole_is_no_data_and_no_folder_is_opened(
    checkpoint: Checkpoint, runtime_dir: Path, tmp_path: Path
) -> None:
    """Even where a folder of that name is there: it is another host's path, and may be another weld."""
    save_checkpoint(tmp_path / "run", checkpoint)
    give_keys(tmp_path / "keys", "judge")
    keys = read_client(tmp_path / "keys" / "judge" / "judge")
    first = weld_packets(7)
    second = weld_packets(8, key="w2", first_order=first[-1].order + 1, start_ns=2 * 10**12)
    folder = tmp_path / "w1"
    write_weld(folder, first)
    capture = GuardedCapture(runtime_dir, tmp_path / "keys")
    with running(capture, tmp_path / "run", keys):
        capture.until(ready, cell_status(weld_status(folder, "welding")))
        for packet in first[200:]:
            capture.publisher.publish(packet)
        said = capture.until(final, cell_status(weld_status(folder, "judged")))
        later: list[Any] = []
        for number, packet in enumerate(second):
            if number % 200 == 199:  # a door's queue is short; a real weld takes its time
                later += capture.until(lambda kind, m: kind == "detector")
            capture.publisher.publish(packet)
        later += capture.until(final, cell_status(weld_status(folder, "judged")))
    assert not [s for s in said if isinstance(s, Score)]
    (unseen,) = (v for v in said if isinstance(v, Verdict))
    assert (unseen.weld, unseen.word, unseen.score, unseen.present) == ("w1", "NO DATA", None, ())
    assert unseen.reason == "the detector, on another host, did not see the whole weld; replay it on the cell's host"
    assert {v.weld for v in later if isinstance(v, Verdict)} == {"w2"}
    expected = judged(checkpoint, second)[1][-1]
    assert (later[-1].word, later[-1].score) == (expected.word, expected.score)
