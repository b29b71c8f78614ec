"""`replay --headless`: a recorded weld through clock, alignment and judge as fast as it decodes."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from acquisition.packet import MODALITIES, Event, Packet, Photo, item_range
from models.checkpoint import load_checkpoint
from models.judge import WeldJudge, judge_packets
from recordings.manifest import Manifest
from recordings.reader import WeldReader
from recordings.replay import weld_seconds
from recordings.verdict import Score, Verdict
from sync.sample import SampleSpec
from sync.windows import WindowCutter

_NO_LATENCY: Final = {"p50": None, "p95": None, "p99": None}


def replay_weld(
    reader: WeldReader, checkpoint: Path | None, required: Mapping[str, tuple[str, ...]], alpha: float
) -> dict[str, Any]:
    """Judge a recorded weld again; without a checkpoint, decode and align it only.

    Args:
        reader: The weld.
        checkpoint: Folder of the detector, or None.
        required: Modalities required for a verdict, for `process` and for `final`.
        alpha: False-alarm rate aimed at.

    Returns:
        The `--json` result of `replay`, with every window's score, and a comparison with the scores given live.

    Raises:
        WeldError: The weld cannot be read.
        DetectorError: The checkpoint cannot be used.
    """
    loaded = None if checkpoint is None else load_checkpoint(checkpoint)
    counts = {name: [0, 0] for name in reader.infos}
    gaps: dict[str, list[dict[str, Any]]] = {name: [] for name in reader.infos}
    manifest = reader.manifest
    began = time.monotonic()
    scores: list[Score] = []
    verdicts: list[Verdict] = []
    windows = 0

    def counted() -> Any:
        for packet in reader.packets():
            _count(packet, counts, gaps, manifest.origin_ns)
            yield packet

    if loaded is None:
        cutter = WindowCutter(manifest.key, SampleSpec(), reader.infos)
        windows = sum(len(cutter.push(packet)) for packet in counted())
    else:

        def judge_of(event: Event) -> WeldJudge:
            return WeldJudge(loaded, event, reader.infos, required=required, cell=manifest.cell, alpha=alpha)

        for item in judge_packets(counted(), judge_of):
            if isinstance(item, Score):
                scores.append(item)
            elif isinstance(item, Verdict):
                verdicts.append(item)
        windows = len(scores)
    seconds = time.monotonic() - began
    length_s = _length_s(reader, counts)
    return {
        "streams": {
            name: {
                "kind": info.modality,
                "received": counts[name][0],
                "dropped": counts[name][1],
                "gaps": gaps[name],
                "rate_hz": info.rate_hz,
                "clock": {"offset_ms": None, "drift_ppm": None},
            }
            for name, info in reader.infos.items()
        },
        "windows": windows,
        "latency_ms": {"window_to_verdict": _NO_LATENCY},
        "speed_x_realtime": round(length_s / seconds, 2) if seconds else None,
        "welds": [_weld_row(reader, verdicts[-1] if verdicts else None)],
        "scores": [
            {
                "window": score.window,
                "t0_s": round((score.t0_ns - manifest.origin_ns) / 1e9, 4),
                "score": score.score,
                "weld_score": score.weld_score,
                "p_value": score.p_value,
                "present": list(score.present),
            }
            for score in scores
        ],
        "against_live": _against_live(scores, reader.scores()),
    }


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


def _weld_row(reader: WeldReader, verdict: Verdict | None) -> dict[str, Any]:
    manifest: Manifest = reader.manifest

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
        "reason": verdict.reason if verdict else "no detector judged this weld",
        "score": verdict.score if verdict else None,
        "p_value": verdict.p_value if verdict else None,
    }


def _against_live(again: list[Score], live: list[Score]) -> dict[str, int] | None:
    """Compare with the scores given live: equal means the same window and the same score to the last bit."""
    judged_live = {score.window: score for score in live if score.latency_ms is not None and score.missing == 0}
    if not judged_live or not again:
        return None
    now = {score.window: score for score in again}
    both = judged_live.keys() & now.keys()
    equal = sum(
        (now[n].sample_digest, now[n].score, now[n].weld_score, now[n].p_value)
        == (judged_live[n].sample_digest, judged_live[n].score, judged_live[n].weld_score, judged_live[n].p_value)
        for n in both
    )
    return {"equal": equal, "different": len(both) - equal, "missing": len(judged_live.keys() ^ now.keys())}
