"""`replay --headless`: a recorded weld through clock, alignment and judge as fast as it decodes."""

import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from acquisition.packet import MODALITIES, Event, Packet, Photo, item_range
from models.checkpoint import load_checkpoint
from models.judge import WeldJudge, judge_packets
from models.replaying_part import paced, replay_part
from recordings.manifest import Manifest
from recordings.reader import WeldReader
from recordings.replay import weld_seconds
from recordings.verdict import Score, Verdict
from sync.sample import SampleSpec
from sync.windows import WindowCutter

_NO_LATENCY: Final = {"p50": None, "p95": None, "p99": None}


def replay_weld(
    reader: WeldReader,
    checkpoint: Path | None,
    required: Mapping[str, tuple[str, ...]],
    alpha: float,
    *,
    speed: float = 0.0,
    part_s: tuple[float | None, float | None] = (None, None),
) -> dict[str, Any]:
    """Judge a recorded weld again; without a checkpoint, decode and align it only.

    Args:
        reader: The weld.
        checkpoint: Folder of the detector, or None.
        required: Modalities required for a verdict, for `process` and for `final`.
        alpha: False-alarm rate aimed at.
        speed: Times real time; 0 is as fast as it decodes.
        part_s: Judge only the windows that lie in this part, seconds into the weld; either end may be None. They are
            those of the whole weld, and a part gets no verdict.

    Returns:
        The `--json` result of `replay`, with every window's score, and a comparison with the scores given live.

    Raises:
        WeldError: The weld cannot be read.
        DetectorError: The checkpoint cannot be used.
    """
    loaded = None if checkpoint is None else load_checkpoint(checkpoint)
    manifest = reader.manifest
    tally = _Tally(reader)
    began = time.monotonic()
    scores: list[Score] = []
    verdicts: list[Verdict] = []
    whole = part_s == (None, None)
    if not whole:
        scores, windows = replay_part(reader, loaded, part_s, lambda packets: paced(tally.count(packets), speed))
    elif loaded is None:
        cutter = WindowCutter(manifest.key, SampleSpec(), reader.infos)
        windows = sum(len(cutter.push(packet)) for packet in paced(tally.count(reader.packets()), speed))
    else:

        def judge_of(event: Event) -> WeldJudge:
            return WeldJudge(loaded, event, reader.infos, required=required, cell=manifest.cell, alpha=alpha)

        for item in judge_packets(paced(tally.count(reader.packets()), speed), judge_of):
            if isinstance(item, Score):
                scores.append(item)
            elif isinstance(item, Verdict):
                verdicts.append(item)
        windows = len(scores)
    seconds = time.monotonic() - began
    length_s = _length_s(reader, tally.counts) if whole else tally.length_s
    return {
        "streams": {
            name: {
                "kind": info.modality,
                "received": tally.counts[name][0],
                "dropped": tally.counts[name][1],
                "gaps": tally.gaps[name],
                "rate_hz": info.rate_hz,
                "clock": {"offset_ms": None, "drift_ppm": None},
            }
            for name, info in reader.infos.items()
        },
        "windows": windows,
        "latency_ms": {"window_to_verdict": _NO_LATENCY},
        "speed_x_realtime": round(length_s / seconds, 2) if seconds else None,
        "welds": [_weld_row(reader, verdicts[-1] if verdicts else None, part_s)],
        "scores": [
            {
                "window": score.window,
                "t0_s": round((score.t0_ns - manifest.origin_ns) / 1e9, 4),
                "score": score.score,
                "weld_score": score.weld_score if whole else None,
                "p_value": score.p_value,
                "present": list(score.present),
            }
            for score in scores
        ],
        "against_live": _against_live(scores, reader.scores(), whole=whole),
    }


class _Tally:
    """What was received and lost of every stream, and how much time that was."""

    def __init__(self, reader: WeldReader) -> None:
        self.counts = {name: [0, 0] for name in reader.infos}
        self.gaps: dict[str, list[dict[str, Any]]] = {name: [] for name in reader.infos}
        self._origin_ns = reader.manifest.origin_ns
        self._first_ns = self._last_ns = 0

    @property
    def length_s(self) -> float:
        """Time between the first and the last delivery of the devices."""
        return (self._last_ns - self._first_ns) / 1e9

    def count(self, packets: Iterable[Packet]) -> Iterator[Packet]:
        """Pass packets on."""
        for packet in packets:
            _count(packet, self.counts, self.gaps, self._origin_ns)
            if packet.stream in self.counts and not isinstance(packet.payload, Photo):
                self._last_ns = packet.t_arrival_ns
                self._first_ns = self._first_ns or self._last_ns
            yield packet


def _count(packet: Packet, counts: dict[str, list[int]], gaps: dict[str, list[dict[str, Any]]], origin_ns: int) -> None:
    payload = packet.payload
    if packet.stream in counts:
        counts[packet.stream][0] += 1 if isinstance(payload, Photo) else item_range(packet)[1]
    elif isinstance(payload, Event) and payload.kind == "gap" and payload.data["stream"] in counts:
        name, missing = payload.data["stream"], payload.data["missing"]
        counts[name][1] += missing
        at_s = round(((payload.t_ns or packet.t_arrival_ns) - origin_ns) / 1e9, 4)
        gaps[name].append({"at_s": at_s, "missing": missing, "reason": payload.data["reason"]})


def _length_s(reader: WeldReader, counts: Mapping[str, list[int]]) -> float:
    """Length of the weld: from its manifest, or of its longest stream where that has no end."""
    nominal = [counts[name][0] / info.rate_hz for name, info in reader.infos.items() if info.rate_hz]
    return weld_seconds(reader) if reader.manifest.utc else max(nominal, default=0.0)


def _weld_row(reader: WeldReader, verdict: Verdict | None, part_s: tuple[float | None, float | None]) -> dict[str, Any]:
    manifest: Manifest = reader.manifest
    unjudged = "no detector judged this weld" if part_s == (None, None) else "only a part of the weld was replayed"

    def into_s(t_ns: int | None) -> float | None:
        return None if t_ns is None else round((t_ns - manifest.origin_ns) / 1e9, 4)

    recorded = {record.info.modality for record in manifest.streams.values() if record.items}
    return {
        "key": manifest.key,
        "path": str(reader.folder),
        "arc_on_s": into_s(manifest.arc_on_ns),
        "arc_off_s": into_s(manifest.arc_off_ns),
        "present": [name for name in MODALITIES if name in recorded],
        "absent": [name for name in MODALITIES if name not in recorded],
        "inferred": manifest.inferred,
        "stage": verdict.stage if verdict else None,
        "verdict": verdict.word if verdict else "NO DATA",
        "reason": verdict.reason if verdict else unjudged,
        "score": verdict.score if verdict else None,
        "p_value": verdict.p_value if verdict else None,
    }


def _against_live(again: list[Score], live: list[Score], *, whole: bool) -> dict[str, int] | None:
    """Compare with the scores given live: equal means the same window and the same score to the last bit.

    In a part of a weld, which lacks what came before, its own windows and their own scores are compared.
    """

    def compared(score: Score) -> tuple[object, ...]:
        return (score.sample_digest, score.score, *((score.weld_score, score.p_value) if whole else ()))

    now = {score.window: score for score in again}
    judged_live = {score.window: score for score in live if score.latency_ms is not None and score.missing == 0}
    if not whole:
        judged_live = {window: score for window, score in judged_live.items() if window in now}
    if not judged_live or not again:
        return None
    both = judged_live.keys() & now.keys()
    equal = sum(compared(now[n]) == compared(judged_live[n]) for n in both)
    return {"equal": equal, "different": len(both) - equal, "missing": len(judged_live.keys() ^ now.keys())}
