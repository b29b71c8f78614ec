"""`WeldJudge`: the fold that judges one weld, packet by packet; the same for live, replay and evaluation.

It knows no wall clock: the same packets give the same scores and verdicts, byte for byte (but for `latency_ms`).
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt

from acquisition.packet import MODALITIES, Event, Packet, Photo, StreamInfo
from models.checkpoint import Checkpoint
from models.conformal import p_value, threshold, welds_needed
from models.detector_contract import PHOTOS, PROCESS, Encoded, Pattern, leave_one_out, pattern_of, running_maximum
from models.explanation import UNUSUAL_Z, Explanation, Span, at_words, rises, told
from recordings.verdict import Score, Verdict, VerdictWord
from sync.sample import Weld4MSample
from sync.windows import WindowCutter

COVERED: Final = 0.9
"""A modality counts for the weld when it covers this share of its windows so far, and is there in the newest."""

_DEVICES: Final = {"video": "camera", "audio": "microphone", "sensors": "sensors", "post_images": "photos"}
_SIGHTS: Final = {"video": "the picture", "audio": "the sound", "sensors": "the sensors", "post_images": "the bead"}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Alarm:
    """A NO-GO as it was given, kept in case a modality that gave it is lost afterwards."""

    pattern: Pattern
    score: float
    threshold: float | None
    p_value: float
    rose: tuple[Span, ...]


class WeldJudge:
    """Judges one weld; owned by one thread.

    Attributes:
        key: Weld key.
        closed: The last process packet has been taken.
        done: A final verdict was given (late photos give another).
        missing: Packets of its windows that were lost in transport.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        weld_open: Event,
        infos: Mapping[str, StreamInfo],
        *,
        required: Mapping[str, tuple[str, ...]],
        cell: str,
        alpha: float,
        now_ns: Callable[[], int] | None = None,
        note: str = "",
    ) -> None:
        """Begin with the weld's first packet yet to come.

        Args:
            checkpoint: The detector with its calibrations.
            weld_open: The event that opened the weld.
            infos: Streams of the cell by name.
            required: Modalities without which there is no verdict, for `process` and for `final`.
            cell: Cell name, for which the detector must have been calibrated.
            alpha: False-alarm rate aimed at.
            now_ns: Cell clock for `latency_ms`, or None when the weld is not being welded now.
            note: Added to every reason.
        """
        self.key = weld_open.weld or ""
        self.closed = False
        self.done = False
        self.missing = 0
        self._order = 0
        self._checkpoint = checkpoint
        self._detector = checkpoint.detector
        self._cutter = WindowCutter(self.key, self._detector.spec, infos)
        self._calibration = checkpoint.calibrations.get(cell)
        self._required = required
        self._cell = cell
        self._alpha = alpha
        self._now_ns = now_ns
        self._note = note
        self._photos_pending = any(info.modality == PHOTOS for info in infos.values())
        self._windows: list[Encoded] = []
        self._spans: list[Span] = []
        self._covered = dict.fromkeys(PROCESS, 0.0)
        self._scores: dict[Pattern, list[float]] = {}
        self._photos: Encoded | None = None
        self._alarm: _Alarm | None = None
        self._last: Verdict | None = None

    def push(self, packet: Packet) -> list[Score | Verdict]:
        """Take the next packet in `order`; after `weld_close` only this weld's own events and photos count."""
        payload = packet.payload
        event = payload if isinstance(payload, Event) and payload.weld == self.key else None
        photo = isinstance(payload, Photo) and payload.weld_hint == self.key
        if self.closed:
            if event is None and not isinstance(payload, Photo):
                return []
            # What comes after the process may come after a restart, too, whose orders begin anew.
            packet = replace(packet, order=max(packet.order, self._order + 1))
        self._order = max(packet.order, self._order)
        out: list[Score | Verdict] = []
        for sample in self._cutter.push(packet):
            self._window(sample, out)
        if event is not None and event.kind == "weld_close" and not self.closed:
            self.closed = True
            self._say(self._verdict(final=False), out)
        elif (event is not None and event.kind == "photos_done") or (photo and self.done):
            self._photos_pending = False
            self.done = True
            self._photos = self._detector.encode_photos(self._cutter.photo_window())
            self._say(self._verdict(final=True), out)
        return out

    def _window(self, sample: Weld4MSample, out: list[Score | Verdict]) -> None:
        window = self._detector.encode_window(sample)
        self._windows.append(window)
        self._spans.append((sample.t0_ns, sample.t0_ns + sample.duration_ns))
        self.missing += sample.missing
        for m in PROCESS:
            mask = getattr(sample, f"{m}_mask")
            share = float((mask.any(axis=1) if mask.ndim == 2 else mask).mean())
            self._covered[m] += 1.0 if m in window.present else share
        if window.present:
            pattern = self._pattern() or window.present
            weld_score = running_maximum(self._window_scores(pattern))
            good = self._good(pattern)
            now_ns = self._now_ns() if self._now_ns else None
            score = Score(
                weld=self.key,
                window=sample.index,
                t0_ns=sample.t0_ns,
                t1_ns=sample.t0_ns + sample.duration_ns,
                score=self._detector.window_score(window, PROCESS),
                weld_score=weld_score,
                p_value=p_value(good, weld_score) if good.size else None,
                present=window.present,
                orders=dict(sample.orders),
                missing=sample.missing,
                sample_digest=sample.digest(),
                closed_by_order=sample.closed_by_order,
                latency_ms=None if now_ns is None else (now_ns - sample.closed_by_arrival_ns) / 1e6,
            )
            out.append(score)
        verdict = self._verdict(final=False)
        last = self._last
        if last is None or _news(last) != _news(verdict):
            self._say(verdict, out)

    def _say(self, verdict: Verdict, out: list[Score | Verdict]) -> None:
        if verdict != self._last:
            self._last = verdict
            out.append(verdict)

    def _pattern(self) -> Pattern:
        """Process modalities that count for the weld as it stands."""
        if not self._windows:
            return ()
        enough = COVERED * len(self._windows)
        return tuple(m for m in self._windows[-1].present if self._covered[m] >= enough)

    def _window_scores(self, pattern: Pattern) -> list[float]:
        """Scores of all windows so far under `pattern`, each computed once."""
        known = self._scores.setdefault(pattern, [])
        known += [self._detector.window_score(w, pattern) for w in self._windows[len(known) :]]
        return known

    def _weld_score(self, pattern: Pattern) -> float:
        if PHOTOS in pattern:
            return self._detector.weld_score(self._windows, self._photos, pattern)
        return running_maximum(self._window_scores(pattern))

    def _good(self, pattern: Pattern) -> npt.NDArray[np.float64]:
        """Calibration scores under `pattern`; empty where nothing is calibrated."""
        return self._calibration.of(pattern) if self._calibration and pattern else np.empty(0)

    def _rose(self, pattern: Pattern) -> tuple[Span, ...]:
        """Stretches in which the process scores under `pattern` rose above those of good welds."""
        process = tuple(m for m in pattern if m != PHOTOS)
        if not process:
            return ()
        limit = threshold(self._good(process), self._alpha)
        off_ns = self._cutter.arc_off_ns
        spans = [(t0_ns, t1_ns if off_ns is None else min(t1_ns, off_ns)) for t0_ns, t1_ns in self._spans]
        return rises(spans, self._window_scores(process), UNUSUAL_Z if limit is None else limit)

    def _at(self, rose: tuple[Span, ...]) -> str:
        return at_words(rose, self._cutter.arc_on_ns, finished=self._cutter.finished)

    def _disagreements(self, pattern: Pattern) -> dict[str, float]:
        """What of the bead fits the process least, as far as the detector can tell."""
        if self._photos is None or PHOTOS not in pattern:
            return {}
        return told(self._detector.disagreement(self._windows, self._photos, pattern))

    def _verdict(self, *, final: bool) -> Verdict:
        photos = final and self._photos is not None
        pattern = pattern_of((*self._pattern(), *((PHOTOS,) if photos else ())))
        score = self._weld_score(pattern) if pattern else float("nan")
        good = self._good(pattern)
        known = bool(np.isfinite(score))
        p = p_value(good, score) if known and good.size else None
        limit = threshold(good, self._alpha)
        contributions = leave_one_out(pattern, self._weld_score) if known else {}
        found = Explanation(contributions, self._disagreements(pattern), self._rose(pattern))
        word, text = self._word(pattern, p, good.size, known, final, found)
        if word == "NO-GO" and p is not None and p <= self._alpha:
            self._alarm = _Alarm(pattern=pattern, score=score, threshold=limit, p_value=p, rose=found.rose)
        elif word == "NO-GO" and self._alarm is not None:
            score, limit, p = self._alarm.score, self._alarm.threshold, self._alarm.p_value
            found = replace(found, rose=self._alarm.rose)
        return Verdict(
            weld=self.key,
            stage="consistency" if photos else "process",
            final=final,
            word=word,
            reason=self._reason(word, text, pattern, final),
            score=score if known else None,
            threshold=limit,
            p_value=p,
            alpha=self._alpha,
            calibration_welds=int(good.size),
            calibration_sessions=len(set(self._calibration.sessions)) if self._calibration else 0,
            present=pattern,
            photos_pending=self._photos_pending,
            detector=self._checkpoint.title,
            contributions=found.contributions,
            disagreements=found.disagreements,
            rose=found.rose,
        )

    def _word(
        self, pattern: Pattern, p: float | None, n: int, known: bool, final: bool, found: Explanation
    ) -> tuple[VerdictWord, str]:
        """Decide the word and say why; every doubt is NO DATA."""
        if not self._windows and not known:
            return "NO DATA", "no window was complete"
        needed = self._required["final" if final else "process"]
        missing = [m for m in needed if m not in pattern and (final or m != PHOTOS)]
        if self._calibration is None:
            also = f"; {_list(missing)} missing" if missing else ""
            return "NO DATA", f"not calibrated for cell {self._cell}; run calibrate{also}"
        if missing:
            high = f"; what is there scores high (p {p:.3f})" if p is not None and p <= self._alpha else ""
            before = f"; before that it was NO-GO (p {self._alarm.p_value:.3f})" if self._alarm and not high else ""
            verb = "is" if missing == ["audio"] or missing == ["video"] else "are"
            return "NO DATA", f"{_list(missing)} {verb} missing, and required{high}{before}"
        if not known:
            return "NO DATA", "nothing that is present can be judged"
        if n < welds_needed(self._alpha):
            return "NO DATA", f"calibrating {n} of {welds_needed(self._alpha)}"
        if p is not None and p <= self._alpha:
            stands_out = max(found.contributions, key=lambda m: found.contributions[m])
            at = "" if stands_out == PHOTOS else self._at(found.rose)
            return "NO-GO", f"{_SIGHTS[stands_out]}{at} least like {n} good welds (p {p:.3f})"
        if self._alarm is not None and set(self._alarm.pattern) - set(pattern):
            lost = [m for m in self._alarm.pattern if m not in pattern]
            at = self._at(self._alarm.rose)
            return "NO-GO", f"alarm{at} (p {self._alarm.p_value:.3f}) before {_list(lost)} went missing"
        return "GO", f"like {n} good welds (p {p:.2f})"

    def _reason(self, word: VerdictWord, text: str, pattern: Pattern, final: bool) -> str:
        absent = [m for m in (MODALITIES if final else PROCESS) if m not in pattern]
        without = f"without {_list(absent)}: " if absent and self._windows and word != "NO DATA" else ""
        tail = ""
        if final and PHOTOS not in pattern:
            tail = "; process only, no photos"
        elif self.closed and self._photos_pending:
            tail = "; process only, photos pending"
        note = f"; {self._note}" if self._note else ""
        return f"{without}{text}{tail}{note}"


def _news(verdict: Verdict) -> tuple[object, ...]:
    """What of a verdict while welding is worth a new one."""
    return verdict.word, verdict.score, verdict.present, verdict.rose


def _list(modalities: Iterable[str]) -> str:
    return " and ".join(_DEVICES[m] for m in modalities)


def judge_packets(
    packets: Iterable[Packet], judge_of: Callable[[Event], WeldJudge]
) -> Iterator[Score | Verdict | None]:
    """Fold one weld's recorded packets, which begin before the event that opens it.

    Args:
        packets: In `order`, as a reader gives them.
        judge_of: Makes the judge from the opening event.

    Yields:
        What the judge says, and None after each packet, so that the caller may do something else in between.
    """
    before: list[Packet] = []
    judge: WeldJudge | None = None
    for packet in packets:
        if judge is not None:
            yield from judge.push(packet)
        else:
            before.append(packet)
            if isinstance(packet.payload, Event) and packet.payload.kind == "weld_open":
                judge = judge_of(packet.payload)
                for early in before:
                    yield from judge.push(early)
        yield None
