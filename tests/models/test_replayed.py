"""A real detector behind a real replay: live from its start, from the recording after a seek, and nothing lost."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from models.checkpoint import Checkpoint, save_checkpoint
from models.detector import run_detector
from recordings.reader import WeldReader
from recordings.replay import Replay
from recordings.runtime import Runtime
from recordings.verdict import Score, Verdict
from tests.models.test_judge import judged
from tests.models.welds import CELL, REQUIRED, weld_packets, write_weld
from tests.recordings.test_replay_server import DEADLINE_S, Watcher, over, position


@contextmanager
def replayed(folder: Path, runtime_dir: Path, checkpoint: Path) -> Iterator[Watcher]:
    """Run replay server and detector on threads, at full speed; gives a screen."""
    runtime = Runtime(runtime_dir)
    replay, stop = Replay(WeldReader(folder), 0.0), threading.Event()
    arguments = {
        "data_endpoint": runtime.data,
        "control_endpoint": runtime.control,
        "checkpoint": checkpoint,
        "cell": CELL,
        "required": REQUIRED,
        "alpha": 0.05,
        "stop": stop,
    }
    threads = [
        threading.Thread(target=replay.run, args=(runtime,), kwargs={"keep_open": True}, name="replay-under-test"),
        threading.Thread(target=run_detector, kwargs=arguments, name="detector-under-test"),
    ]
    watcher = Watcher(runtime)
    threads[0].start()
    try:
        watcher.status(lambda status: True)  # the screen is there before the detector, which the replay waits for
        threads[1].start()
        yield watcher
    finally:
        stop.set()
        replay.stop.set()
        for thread in threads:
            if thread.ident is not None:
                thread.join(DEADLINE_S)
        watcher.close()


def final(watcher: Watcher) -> Verdict | None:
    verdicts = [item for item in watcher.said if isinstance(item, Verdict) and item.final]
    return verdicts[-1] if verdicts else None


def windows(watcher: Watcher) -> list[Score]:
    return [item for item in watcher.said if isinstance(item, Score)]


def test_a_seek_is_never_judged_by_halves(checkpoint: Checkpoint, runtime_dir: Path, tmp_path: Path) -> None:
    folder = tmp_path / "w1"
    packets = weld_packets(7, fault=0.2)
    write_weld(folder, packets)
    scores, verdicts = judged(checkpoint, list(WeldReader(folder).packets()))
    save_checkpoint(tmp_path / "run", checkpoint)
    with replayed(folder, runtime_dir, tmp_path / "run") as watcher:
        # From its start, at full speed: judged as live, to the last bit, once.
        watcher.status(lambda status: final(watcher) and over(status))
        assert windows(watcher) == scores
        live = final(watcher)
        assert live is not None
        assert live.score == verdicts[-1].score
        assert "from the recording" not in live.reason
        # Elsewhere: what was said stands, is said again, and nothing else is.
        watcher.said.clear()
        status = watcher.seek(playing=True, speed=20.0, seek_s=3.0)
        watcher.status(over)
        assert windows(watcher) == scores
        assert final(watcher) is None
        assert status.welds[0].verdict == live
        # From the beginning, judged anew; cut short by a seek, judged whole from the folder.
        watcher.said.clear()
        watcher.seek(playing=False, seek_s=0.0)
        watcher.seek(seek_s=2.5)
        status = watcher.status(lambda status: final(watcher))
        assert position(status) == 2.5
        assert windows(watcher)[-len(scores) :] == scores
        again = final(watcher)
        assert again is not None
        assert (again.word, again.score) == (live.word, live.score)
        assert again.reason.endswith("judged from the recording")
        assert watcher.subscriber.lost == {}
        assert not status.alarms
