"""The detector process against a real publisher and control server; its loop runs in a thread of the test."""

import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from acquisition.packet import Event, StreamInfo
from acquisition.transport import ControlServer, Publisher, Reply, Request
from models.checkpoint import Checkpoint, save_checkpoint
from models.detector import run_detector
from recordings.status import STATUS_TOPIC, CellStatus, DetectorStatus, StreamStatus, WeldPhase, WeldStatus
from recordings.verdict import Score, Verdict
from tests.models.test_judge import judged
from tests.models.welds import CELL, INFOS, REQUIRED, weld_packets, write_weld


def row(info: StreamInfo) -> StreamStatus:
    return StreamStatus(
        name=info.name,
        modality=info.modality,
        info=info,
        state="streaming",
        required=False,
        rate_hz=info.rate_hz,
        received=0,
        dropped=0,
        age_s=0.0,
        offset_ms=None,
        drift_ppm=None,
        sigma_ms=None,
        problem=None,
        segment=0,
    )


def cell_status(*welds: WeldStatus) -> CellStatus:
    return CellStatus(
        cell=CELL,
        simulated=False,
        armed=True,
        recording=False,
        weld=None,
        path=None,
        now_ns=0,
        utc="",
        write_buffer=0.0,
        write_buffer_bytes=0,
        disk_free_bytes=0,
        disk_left_s=None,
        streams=[row(info) for info in INFOS.values()],
        welds=list(welds),
    )


class Capture:
    """A capture process as the detector sees it: publishes from the test's thread, collects what is sent back."""

    def __init__(self, folder: Path) -> None:
        self.data, self.control = f"ipc://{folder}/data", f"ipc://{folder}/control"
        self.publisher = Publisher(self.data)
        self.sent: queue.Queue[tuple[str, Any]] = queue.Queue()
        self.server = ControlServer(self.control, self._take)

    def _take(self, request: Request) -> Reply:
        kinds = {"score": Score, "verdict": Verdict, "detector": DetectorStatus}
        self.sent.put((request.kind, msgspec.convert(request.data, kinds[request.kind])))
        return Reply(ok=True)

    def until(self, wanted: Callable[[str, Any], bool], status: CellStatus | None = None) -> list[Any]:
        """Collect messages until `wanted`, announcing `status` meanwhile."""
        found = []
        for _ in range(200):
            if status is not None:
                self.publisher.announce(STATUS_TOPIC, status)
            try:
                kind, message = self.sent.get(timeout=0.05)
            except queue.Empty:
                continue
            found.append(message)
            if wanted(kind, message):
                return found
        raise AssertionError(f"the detector never said it; it said {found}")

    def close(self) -> None:
        self.server.close()
        self.publisher.close()


def ready(kind: str, message: Any) -> bool:
    return kind == "detector" and message.state == "ready"


def final(kind: str, message: Any) -> bool:
    return kind == "verdict" and message.final


@contextmanager
def running(capture: Capture, checkpoint: Path) -> Iterator[None]:
    stop = threading.Event()
    codes: list[int] = []

    def run() -> None:
        code = run_detector(
            data_endpoint=capture.data,
            control_endpoint=capture.control,
            checkpoint=checkpoint,
            cell=CELL,
            required=REQUIRED,
            alpha=0.05,
            stop=stop,
        )
        codes.append(code)

    thread = threading.Thread(target=run, name="detector-under-test")
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(5.0)
        capture.close()
    assert codes == [0]


@pytest.fixture
def saved(checkpoint: Checkpoint, tmp_path: Path) -> Path:
    save_checkpoint(tmp_path / "run", checkpoint)
    return tmp_path / "run"


def test_a_live_weld_is_judged_as_in_replay(checkpoint: Checkpoint, saved: Path, runtime_dir: Path) -> None:
    capture = Capture(runtime_dir)
    packets = weld_packets(7, fault=0.2)
    with running(capture, saved):
        capture.until(ready, cell_status())
        for packet in packets:
            capture.publisher.publish(packet)
        said = capture.until(final)
        later = capture.until(lambda kind, m: kind == "detector" and m.latency_ms is not None, cell_status())
    scores, verdicts = judged(checkpoint, packets)
    assert [replace(s, latency_ms=None) for s in said if isinstance(s, Score)] == scores
    told = [replace(v, detector=checkpoint.title) for v in said if isinstance(v, Verdict)]
    assert told == verdicts
    assert later[-1].calibration_welds == 24
    assert later[-1].calibration_needed == 19


def test_overlapping_welds_fold_on_their_own(checkpoint: Checkpoint, saved: Path, runtime_dir: Path) -> None:
    """While the first weld waits for its photos, the second one runs; photos of the first come in between."""
    first = weld_packets(7)
    close = next(p for p in first if isinstance(p.payload, Event) and p.payload.kind == "weld_close")
    second = weld_packets(9, key="w2", start_ns=close.t_arrival_ns + 10**8, first_order=close.order + 1)
    mixed = sorted([*first, *second], key=lambda p: p.t_arrival_ns)
    capture = Capture(runtime_dir)
    with running(capture, saved):
        capture.until(ready, cell_status())
        for order, packet in enumerate(mixed, 1):
            capture.publisher.publish(replace(packet, order=order))
        said = capture.until(lambda kind, m: final(kind, m) and m.weld == "w2")
    assert mixed.index(second[-1]) - mixed.index(second[0]) >= len(second)
    for key, packets in (("w1", first), ("w2", second)):
        expected = judged(checkpoint, packets)[1][-1]
        found = [v for v in said if isinstance(v, Verdict) and v.weld == key][-1]
        assert (found.word, found.score, found.final) == (expected.word, expected.score, True)


def test_a_restarted_capture_is_judged_again(checkpoint: Checkpoint, saved: Path, runtime_dir: Path) -> None:
    capture = Capture(runtime_dir)
    with running(capture, saved):
        capture.until(ready, cell_status())
        for key in ("w1", "w2"):
            for packet in weld_packets(7, key=key):
                capture.publisher.publish(packet)
            said = capture.until(final, cell_status())
            assert {m.weld for m in said if isinstance(m, Verdict)} == {key}


def test_a_missing_checkpoint_is_told_to_the_screen(tmp_path: Path, runtime_dir: Path) -> None:
    capture = Capture(runtime_dir)
    try:
        code = run_detector(
            data_endpoint=capture.data,
            control_endpoint=capture.control,
            checkpoint=tmp_path / "nowhere",
            cell=CELL,
            required=REQUIRED,
            alpha=0.05,
            stop=threading.Event(),
        )
        assert code == 1
        (status,) = capture.until(lambda kind, m: kind == "detector")
        assert status.state == "failed"
        assert "no checkpoint" in status.problem
    finally:
        capture.close()


def weld_status(folder: Path, phase: WeldPhase, verdict: Verdict | None = None) -> WeldStatus:
    return WeldStatus(
        key="w1",
        path=str(folder),
        phase=phase,
        started_utc="",
        arc_on_ns=None,
        arc_off_ns=None,
        verdict=verdict,
        label=-1,
        photos=0,
        photos_expected=0,
        present=(),
        problem=None,
    )


def test_a_weld_that_began_before_is_judged_from_its_folder(
    checkpoint: Checkpoint, saved: Path, runtime_dir: Path, tmp_path: Path
) -> None:
    packets = weld_packets(7, fault=0.2)
    folder = tmp_path / "w1"
    capture = Capture(runtime_dir)
    with running(capture, saved):
        capture.until(ready, cell_status(weld_status(folder, "welding")))
        for packet in packets[200:]:
            capture.publisher.publish(packet)
        write_weld(folder, packets)
        said = capture.until(final, cell_status(weld_status(folder, "judged")))
    scores, verdicts = judged(checkpoint, packets)
    assert [s for s in said if isinstance(s, Score)] == scores
    assert said[-1].reason == verdicts[-1].reason + "; judged from the recording"
    assert said[-1].score == verdicts[-1].score


def test_packets_lost_on_the_way_are_made_good_from_the_folder(
    checkpoint: Checkpoint, saved: Path, runtime_dir: Path, tmp_path: Path
) -> None:
    packets = weld_packets(7)
    folder = tmp_path / "w1"
    write_weld(folder, packets)
    capture = Capture(runtime_dir)
    with running(capture, saved):
        capture.until(ready, cell_status())
        for packet in packets[:150] + packets[170:]:
            capture.publisher.publish(packet)
        live = capture.until(final)
        again = capture.until(final, cell_status(weld_status(folder, "judged", live[-1])))
    assert max(s.missing for s in live if isinstance(s, Score)) == 20
    assert [s for s in again if isinstance(s, Score)] == judged(checkpoint, packets)[0]
    assert again[-1].reason.endswith("judged from the recording")


def test_an_unreadable_folder_is_told_and_others_go_on(saved: Path, runtime_dir: Path, tmp_path: Path) -> None:
    folder = tmp_path / "w1"
    write_weld(folder, weld_packets(7))
    (folder / "plc.parquet").write_bytes(b"not a table")
    capture = Capture(runtime_dir)
    with running(capture, saved):
        said = capture.until(
            lambda kind, m: kind == "detector" and m.problem is not None, cell_status(weld_status(folder, "judged"))
        )
        assert "weld w1 was not judged" in said[-1].problem
        for packet in weld_packets(8, key="w2"):
            capture.publisher.publish(packet)
        assert capture.until(final)[-1].weld == "w2"


def test_a_weld_listed_before_it_begins_is_judged_once(saved: Path, runtime_dir: Path, tmp_path: Path) -> None:
    """A replay lists its weld from the start."""
    folder = tmp_path / "w1"
    packets = weld_packets(7)
    write_weld(folder, packets)
    capture = Capture(runtime_dir)
    with running(capture, saved):
        capture.until(ready, cell_status(weld_status(folder, "welding")))
        for packet in packets:
            capture.publisher.publish(packet)
        said = capture.until(final)
        for packet in weld_packets(8, key="w2", first_order=packets[-1].order + 1, start_ns=2 * 10**12):
            capture.publisher.publish(packet)
        later = capture.until(final, cell_status(weld_status(folder, "judged")))
    assert not any("from the recording" in m.reason for m in (*said, *later) if isinstance(m, Verdict))
