"""A part of a recorded weld, judged window by window without reading the rest; and playing in real time."""

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from acquisition.packet import Packet
from models.checkpoint import Checkpoint
from models.detector_contract import PROCESS, DetectorError
from recordings.reader import WeldReader
from recordings.replay_index import ReplayIndex
from recordings.verdict import Score
from sync.sample import SampleSpec, Weld4MSample
from sync.windows import WindowCutter

_BEFORE_NS: Final = 3_000_000_000
"""Read before a part begins: what the first window's interpolation, resampling filter and late items reach back for."""
_LONGEST_PAUSE_NS: Final = 5_000_000_000


def replay_part(
    reader: WeldReader,
    checkpoint: Checkpoint | None,
    part_s: tuple[float | None, float | None],
    through: Callable[[Iterable[Packet]], Iterable[Packet]],
) -> tuple[list[Score], int]:
    """Cut and score the windows of the weld that lie in a part of it; each is what it is in a replay of the whole.

    Args:
        reader: The weld.
        checkpoint: The detector; without it windows are only counted.
        part_s: Beginning and end, seconds into the weld; None is the weld's own.
        through: Every packet that is read goes through this.

    Returns:
        Scores (their `weld_score` is the window's own), and the number of windows.

    Raises:
        WeldError: The weld cannot be read.
        DetectorError: The part is none.
    """
    index = ReplayIndex(reader)
    a_ns, b_ns = (None if s is None else index.origin_ns + round(s * 1e9) for s in part_s)
    if a_ns is not None and b_ns is not None and a_ns >= b_ns:
        raise DetectorError(f"part from {part_s[0]} s to {part_s[1]} s: give an end behind the beginning")
    spec = SampleSpec() if checkpoint is None else checkpoint.detector.spec
    cutter = WindowCutter(reader.manifest.key, spec, reader.infos)
    begin = None if a_ns is None else index.begin_for(index.place_at(a_ns - _BEFORE_NS))
    until_ns = None if b_ns is None else b_ns + round(spec.max_lateness_s * 1e9) + 1_000_000_000
    scores: list[Score] = []
    windows = 0
    for packet in through(_read(reader, begin, until_ns)):
        for sample in cutter.push(packet):
            if (a_ns is None or sample.t0_ns >= a_ns) and (b_ns is None or sample.t0_ns + sample.duration_ns <= b_ns):
                windows += 1
                if checkpoint is not None and (score := _score(checkpoint, sample)) is not None:
                    scores.append(score)
    return scores, windows


def _read(reader: WeldReader, begin: int | None, until_ns: int | None) -> Iterator[Packet]:
    for _, packet in reader.placed(since=begin):
        if until_ns is not None and packet.t_arrival_ns > until_ns:
            return
        yield packet


def _score(checkpoint: Checkpoint, sample: Weld4MSample) -> Score | None:
    window = checkpoint.detector.encode_window(sample)
    if not window.present:
        return None
    value = checkpoint.detector.window_score(window, PROCESS)
    return Score(
        weld=sample.weld,
        window=sample.index,
        t0_ns=sample.t0_ns,
        t1_ns=sample.t0_ns + sample.duration_ns,
        score=value,
        weld_score=value,
        p_value=None,
        present=window.present,
        orders=dict(sample.orders),
        missing=sample.missing,
        sample_digest=sample.digest(),
        closed_by_order=sample.closed_by_order,
    )


def paced(packets: Iterable[Packet], speed: float) -> Iterator[Packet]:
    """Give packets at `speed` times real time by their arrival; 0 is at once. Pauses of more than 5 s are left out."""
    due_s, last_ns = time.monotonic(), None
    for packet in packets:
        if speed > 0 and last_ns is not None:
            step_ns = packet.t_arrival_ns - last_ns
            due_s += step_ns / 1e9 / speed if 0 < step_ns < _LONGEST_PAUSE_NS else 0.0
            time.sleep(max(0.0, due_s - time.monotonic()))
        last_ns = max(packet.t_arrival_ns, last_ns or packet.t_arrival_ns)
        yield packet
