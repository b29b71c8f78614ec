"""What may be said on the screen about the current weld: anything unknown, stale or foreign is NO DATA, never GO."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from PySide6.QtCore import QCoreApplication

from gui.shapes import Shape
from recordings.status import CellStatus, WeldStatus
from recordings.verdict import Verdict, VerdictWord

translate = QCoreApplication.translate

STALE_S: Final = 1.5
"""A status older than this (it comes four times a second) means that the capture process is gone."""

_LEAST_SHOWN: Final = 0.05

SHAPES: Final[dict[VerdictWord, Shape]] = {"GO": Shape.GO, "NO-GO": Shape.NO_GO, "NO DATA": Shape.NO_DATA}


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """What the verdict tile shows.

    Attributes:
        word: The word.
        shape: The shape beside it; `PENDING` as long as the verdict may still change.
        reason: One line below.
        weld: The current weld, or None.
        verdict: The verdict behind the word, or None where the screen has none that it may trust.
    """

    word: VerdictWord
    shape: Shape
    reason: str
    weld: WeldStatus | None = None
    verdict: Verdict | None = None

    @property
    def provisional(self) -> bool:
        """The word may still change."""
        return self.shape is Shape.PENDING


def current_weld(status: CellStatus) -> WeldStatus | None:
    """Give the weld that the screen speaks of: the one being recorded, else the newest."""
    if status.recording:
        return next((weld for weld in status.welds if weld.key == status.weld), None)
    return status.welds[0] if status.welds else None


def closed(status: CellStatus, weld: WeldStatus) -> bool:
    """Whether nothing more is expected of a weld: it is over, or recorded long ago, wherever a replay of it stands."""
    return weld.phase != "welding" or status.replay is not None


def judge_screen(status: CellStatus | None, age_s: float, verdicts: Mapping[str, Verdict]) -> Shown:
    """Decide what the verdict tile says.

    Args:
        status: The newest status, or None before the first.
        age_s: Seconds since it came (since the start, before the first).
        verdicts: The newest verdict per weld key.
    """
    if status is None:
        return _no_data(translate("Judgement", "connecting to the cell ({0:.0f} s)").format(age_s))
    if age_s > STALE_S:
        return _no_data(translate("Judgement", "capture process is gone: no word from it for {0:.0f} s").format(age_s))
    weld = current_weld(status)
    if weld is None:
        if status.recording:
            return _no_data(translate("Judgement", "a weld begins"), pending=True)
        return _no_data(
            translate("Judgement", "no weld yet; armed")
            if status.armed
            else translate("Judgement", "no weld yet; not armed")
        )
    if weld.phase == "failed":
        return _no_data(weld.problem or translate("Judgement", "the recording failed"), weld)
    if (problem := _detector_problem(status)) is not None:
        return _no_data(problem, weld)
    if weld.phase == "welding" and (lost := _lost_streams(status)):
        return _no_data(translate("Judgement", "lost while welding: {0}").format(", ".join(lost)), weld)
    verdict = verdicts.get(weld.key)
    if verdict is None:
        if weld.phase == "judged":
            return _no_data(translate("Judgement", "no verdict was given for this weld"), weld)
        return _no_data(translate("Judgement", "judging; no verdict yet"), weld, pending=True)
    if verdict.final and closed(status, weld):
        reason = f"{_photos(weld)}; {verdict.reason}" if verdict.photos_pending else verdict.reason
        return Shown(word=verdict.word, shape=SHAPES[verdict.word], reason=reason, weld=weld, verdict=verdict)
    so_far = translate("Judgement", "still welding") if weld.phase == "welding" else translate("Judgement", "not final")
    if weld.phase != "welding" and verdict.photos_pending:
        so_far = _photos(weld)
    return Shown(
        word=verdict.word, shape=Shape.PENDING, reason=f"{so_far}; {verdict.reason}", weld=weld, verdict=verdict
    )


def _photos(weld: WeldStatus) -> str:
    return translate("Judgement", "{0} of {1} photos are here").format(weld.photos, weld.photos_expected)


def contribution_words(verdict: Verdict) -> list[str]:
    """Say which modalities raised the score, and by how much, the largest first."""
    raised = sorted(verdict.contributions.items(), key=lambda item: -item[1])
    return [f"{modality_words(modality)} +{by:.1f}" for modality, by in raised if by >= _LEAST_SHOWN]


def modality_words(modality: str) -> str:
    """Call a modality by what stands in the cell."""
    words = {
        "video": translate("Judgement", "video"),
        "audio": translate("Judgement", "sound"),
        "sensors": translate("Judgement", "sensors"),
        "post_images": translate("Judgement", "photos"),
    }
    return words[modality]


def _no_data(reason: str, weld: WeldStatus | None = None, *, pending: bool = False) -> Shown:
    return Shown(word="NO DATA", shape=Shape.PENDING if pending else Shape.NO_DATA, reason=reason, weld=weld)


def _detector_problem(status: CellStatus) -> str | None:
    detector = status.detector
    if detector.state == "ready":
        return None
    words = {
        "absent": translate("Judgement", "the detector is not running"),
        "starting": translate("Judgement", "the detector is starting"),
        "failed": translate("Judgement", "the detector failed"),
    }
    return f"{words[detector.state]}: {detector.problem}" if detector.problem else words[detector.state]


def _lost_streams(status: CellStatus) -> list[str]:
    """Name the required streams of the process that do not flow."""
    return [
        stream.name
        for stream in status.streams
        if stream.required and stream.modality != "post_images" and stream.state != "streaming"
    ]
