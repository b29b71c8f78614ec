"""The fold of one weld: scores, verdicts of every stage, and honesty about whatever is missing."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from acquisition.packet import Event, Packet, Photo, SampleBlock
from models.checkpoint import Checkpoint
from models.detector_contract import Encoded, Pattern
from models.judge import WeldJudge, judge_packets
from models.statistics import StatisticsDetector
from recordings.verdict import Score, Verdict
from tests.models.welds import CELL, INFOS, REQUIRED, photo_bytes, weld_packets


def judge_of(checkpoint: Checkpoint, event: Event, **changes: Any) -> WeldJudge:
    arguments: dict[str, Any] = {"required": REQUIRED, "cell": CELL, "alpha": 0.05} | changes
    return WeldJudge(checkpoint, event, INFOS, **arguments)


def judged(checkpoint: Checkpoint, packets: Sequence[Packet], **changes: Any) -> tuple[list[Score], list[Verdict]]:
    said = [s for s in judge_packets(packets, lambda event: judge_of(checkpoint, event, **changes)) if s is not None]
    return [s for s in said if isinstance(s, Score)], [v for v in said if isinstance(v, Verdict)]


def test_a_good_weld_goes_through_all_stages(checkpoint: Checkpoint) -> None:
    scores, verdicts = judged(checkpoint, weld_packets(7))
    assert [s.window for s in scores] == [0, 1, 2, 3, 4]
    assert all(s.present == ("video", "audio", "sensors") and s.missing == 0 for s in scores)
    assert all(b.weld_score >= a.weld_score for a, b in pairwise(scores))
    assert {v.word for v in verdicts} == {"GO"}
    closing, final = verdicts[-2:]
    assert (closing.stage, closing.final, closing.photos_pending) == ("process", False, True)
    assert closing.reason.endswith("process only, photos pending")
    assert closing.score == scores[-1].weld_score
    assert (final.stage, final.final, final.photos_pending) == ("consistency", True, False)
    assert final.present == ("video", "audio", "sensors", "post_images")
    assert final.calibration_welds == 24
    assert final.detector == "statistics-cafe0123"


def test_equal_packets_give_equal_words(checkpoint: Checkpoint) -> None:
    first = judged(checkpoint, weld_packets(7, fault=0.3))
    ticks = iter(range(10**13, 2 * 10**13, 10**9))
    live = judged(checkpoint, weld_packets(7, fault=0.3), now_ns=lambda: next(ticks))
    assert all(s.latency_ms is not None for s in live[0])
    assert ([replace(s, latency_ms=None) for s in live[0]], live[1]) == first


def test_a_bad_weld_alarms_while_it_is_welded(checkpoint: Checkpoint) -> None:
    scores, verdicts = judged(checkpoint, weld_packets(7, fault=1.0))
    assert verdicts[0].word == "NO-GO"
    assert verdicts[0].threshold is not None
    assert scores[0].weld_score > verdicts[0].threshold
    assert scores[0].p_value == verdicts[0].p_value == pytest.approx(1 / 25)
    assert {v.word for v in verdicts} == {"NO-GO"}
    assert verdicts[-1].contributions["video"] == max(verdicts[-1].contributions.values())
    assert verdicts[0].reason.startswith("the picture from 0 s least like 24 good welds")
    assert "the picture at 0-5 s least" in verdicts[-2].reason


def loud(packets: Sequence[Packet], from_s: float, to_s: float) -> list[Packet]:
    """Make the sound eight times as loud in a stretch, given in seconds after arc-on."""
    on_ns = next(p.payload.t_ns for p in packets if isinstance(p.payload, Event) and p.payload.kind == "arc_on") or 0
    out = []
    for packet in packets:
        if isinstance(packet.payload, SampleBlock) and from_s < (packet.t_arrival_ns - on_ns) / 1e9 <= to_s:
            packet = replace(packet, payload=replace(packet.payload, samples=packet.payload.samples * 8))
        out.append(packet)
    return out


def test_a_verdict_tells_when_in_the_weld_the_score_rose(checkpoint: Checkpoint) -> None:
    packets = loud(weld_packets(7, arc_s=12.0), 5.0, 7.0)
    on_ns = next(p.payload.t_ns for p in packets if isinstance(p.payload, Event) and p.payload.kind == "arc_on") or 0
    _, verdicts = judged(checkpoint, packets)
    before, alarm, final = verdicts[0], next(v for v in verdicts if v.word == "NO-GO"), verdicts[-1]
    assert (before.word, before.rose) == ("GO", ())
    assert alarm.reason.startswith("the sound from 5 s least")
    assert final.word == "NO-GO"
    ((t0_ns, t1_ns),) = final.rose
    assert 4.0 <= (t0_ns - on_ns) / 1e9 <= 5.0
    assert 7.0 <= (t1_ns - on_ns) / 1e9 <= 8.0
    assert final.reason.startswith("the sound at 5-8 s least like 24 good welds")
    assert judged(checkpoint, weld_packets(7, arc_s=12.0))[1][-1].rose == ()
    _, uncalibrated = judged(checkpoint, packets, cell="other")
    assert uncalibrated[-1].word == "NO DATA"
    assert uncalibrated[-1].rose, "windows far from those of any good weld are told without a calibration, too"


class Telling(StatisticsDetector):
    """The statistics, which know no relation of bead and process, with one by heart."""

    def disagreement(self, windows: Sequence[Encoded], photos: Encoded, pattern: Pattern) -> dict[str, float]:
        assert windows
        assert photos.present == ("post_images",)
        assert "post_images" in pattern
        return {"fine: texture mix": 2.5, "unknown": 1.5, "coarse: largest anywhere": 4.0}


def test_what_of_the_bead_disagrees_is_told_when_the_photos_are_in(checkpoint: Checkpoint) -> None:
    floor = checkpoint.detector
    assert isinstance(floor, StatisticsDetector)
    telling = replace(checkpoint, detector=Telling.from_state(floor.spec, floor.state()))
    _, verdicts = judged(telling, weld_packets(7))
    assert all(v.disagreements == {} for v in verdicts[:-1])
    assert list(verdicts[-1].disagreements.items()) == [("coarse: largest anywhere", 4.0), ("fine: texture mix", 2.5)]
    assert judged(telling, weld_packets(7, photos=0))[1][-1].disagreements == {}
    assert judged(checkpoint, weld_packets(7))[1][-1].disagreements == {}


def test_a_bad_bead_is_seen_when_the_photos_come(checkpoint: Checkpoint) -> None:
    _, verdicts = judged(checkpoint, weld_packets(7, photo_fault=60.0))
    assert [v.word for v in verdicts if not v.final] == ["GO"] * (len(verdicts) - 1)
    assert verdicts[-1].word == "NO-GO"
    assert "the bead" in verdicts[-1].reason


def test_an_optional_modality_missing_is_said(checkpoint: Checkpoint) -> None:
    scores, verdicts = judged(checkpoint, weld_packets(7, without=("mic",)))
    assert all(s.present == ("video", "sensors") for s in scores)
    assert {v.word for v in verdicts} == {"GO"}
    assert all(v.reason.startswith("without microphone: ") for v in verdicts)


def test_a_required_modality_lost_while_welding_is_no_data(checkpoint: Checkpoint) -> None:
    scores, verdicts = judged(checkpoint, weld_packets(7, lose={"plc": 3.0}))
    assert len(scores) == 5
    assert verdicts[0].word == "GO"
    assert [v.word for v in verdicts[-3:]] == ["NO DATA"] * 3
    assert all("sensors are missing, and required" in v.reason for v in verdicts[-3:])
    _, verdicts = judged(checkpoint, weld_packets(7, without=("plc",), fault=1.0))
    assert {v.word for v in verdicts} == {"NO DATA"}
    assert "what is there scores high" in verdicts[-1].reason


def test_required_photos_are_asked_for_at_the_end_only(checkpoint: Checkpoint) -> None:
    required = {"process": ("video",), "final": ("video", "post_images")}
    _, verdicts = judged(checkpoint, weld_packets(7, photos=0), required=required)
    assert verdicts[-2].word == "GO"
    assert (verdicts[-1].word, verdicts[-1].stage) == ("NO DATA", "process")
    assert "photos are missing" in verdicts[-1].reason


def test_no_photo_is_said_in_the_final_verdict(checkpoint: Checkpoint) -> None:
    _, verdicts = judged(checkpoint, weld_packets(7, photos=0))
    assert (verdicts[-1].final, verdicts[-1].stage, verdicts[-1].word) == (True, "process", "GO")
    assert verdicts[-1].reason.endswith("process only, no photos")


def test_an_alarm_does_not_go_away_with_the_modality_that_raised_it(checkpoint: Checkpoint) -> None:
    """The sound alarms, the microphone dies, and what is left looks good."""
    packets = weld_packets(7, lose={"mic": 3.0})
    _, verdicts = judged(checkpoint, loud(packets, -1.0, 3.0))
    assert verdicts[0].word == "NO-GO"
    closing = next(v for v in verdicts if "photos pending" in v.reason)
    assert closing.word == "NO-GO"
    assert "alarm at 0-3 s" in closing.reason
    assert "before microphone went missing" in closing.reason
    assert closing.rose == next(v for v in reversed(verdicts) if "microphone" not in v.reason).rose


def test_another_cell_is_not_calibrated(checkpoint: Checkpoint) -> None:
    scores, verdicts = judged(checkpoint, weld_packets(7), cell="other")
    assert len(scores) == 5
    assert all(s.p_value is None for s in scores)
    assert {v.word for v in verdicts} == {"NO DATA"}
    assert "not calibrated for cell other; run calibrate" in verdicts[-1].reason
    assert verdicts[-1].score is not None


def test_too_few_calibration_welds(checkpoint: Checkpoint) -> None:
    _, verdicts = judged(checkpoint, weld_packets(7, fault=1.0), alpha=0.02)
    assert {v.word for v in verdicts} == {"NO DATA"}
    assert "calibrating 24 of 49" in verdicts[-1].reason


def test_a_weld_without_an_arc_has_no_window(checkpoint: Checkpoint) -> None:
    arc = ("arc_on", "arc_off")
    packets = [p for p in weld_packets(7) if not isinstance(p.payload, Event) or p.payload.kind not in arc]
    scores, verdicts = judged(checkpoint, packets)
    assert not scores
    assert verdicts[0].word == "NO DATA"
    assert "no window was complete" in verdicts[0].reason


def test_packets_lost_in_transport_are_counted(checkpoint: Checkpoint) -> None:
    packets = weld_packets(7)
    event = next(p.payload for p in packets if isinstance(p.payload, Event) and p.payload.kind == "weld_open")
    judge = judge_of(checkpoint, event)
    lost = [p for p in packets if not (p.stream == "cam" and 60 <= p.seq < 64)]
    said = [s for p in lost for s in judge.push(p)]
    assert judge.missing > 0
    assert max(s.missing for s in said if isinstance(s, Score)) == 4


def test_late_photos_are_judged_again_and_strangers_ignored(checkpoint: Checkpoint) -> None:
    packets = weld_packets(7, photos=0)
    event = next(p.payload for p in packets if isinstance(p.payload, Event) and p.payload.kind == "weld_open")
    judge = judge_of(checkpoint, event)
    said = [s for p in packets for s in judge.push(p)]
    assert isinstance(said[-1], Verdict)
    assert said[-1].stage == "process"
    late = packets[-1].order + 1
    photo = Photo(name="late.png", data=photo_bytes(70, 0.0), weld_hint="another")
    packet = Packet(stream="bead", seq=9, t_arrival_ns=packets[-1].t_arrival_ns + 10**12, payload=photo, order=late)
    assert judge.push(packet) == []
    assert judge.push(replace(packets[0], order=late + 1)) == []
    mine = replace(packet, payload=replace(photo, weld_hint="w1"), order=3)  # after a restart of the capture process
    (again,) = judge.push(mine)
    assert isinstance(again, Verdict)
    assert (again.stage, again.final, again.word) == ("consistency", True, "GO")
    done = Event(kind="photos_done", weld="w1", data={"expected": 0, "received": 1})
    assert judge.push(replace(packet, payload=done, stream="events", order=4)) == []
