"""`Score` and `Verdict`: what a detector says of a weld, window by window, stage by stage; never overwritten."""

from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias

VerdictWord: TypeAlias = Literal["GO", "NO-GO", "NO DATA"]
Stage: TypeAlias = Literal["process", "result", "consistency"]

CLASSES: Final[tuple[str, ...]] = (
    "good",
    "excessive_penetration",
    "burnthrough",
    "porosity",
    "porosity_w_excessive_penetration",
    "undercut",
    "overlap",
    "lack_of_fusion",
    "excessive_convexity",
    "spatter",
    "warping",
    "crater_cracks",
)
"""Weld-4M classes; the index is the label, -1 is unknown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """One row of a weld's `scores` table: a window scored while welding.

    Attributes:
        weld: Weld key.
        window: Window index.
        t0_ns: Cell time of the window's start.
        t1_ns: Cell time of the window's end.
        score: `process_score` of this window; larger is more abnormal.
        weld_score: Running maximum of the 3-window mean up to and including this window.
        p_value: Conformal p-value of `weld_score`, or None where nothing is calibrated.
        present: Modalities that the score used.
        orders: First and last `order` used per stream.
        missing: Packets missing in transport; live equals replay only for rows with none.
        sample_digest: `Weld4MSample.digest()` of the window.
        closed_by_order: `order` of the packet that completed the window.
        latency_ms: From the recorded arrival of that packet to this score (wall time; not part of live = replay).
    """

    weld: str
    window: int
    t0_ns: int
    t1_ns: int
    score: float
    weld_score: float
    p_value: float | None
    present: tuple[str, ...]
    orders: dict[str, tuple[int, int]]
    missing: int
    sample_digest: str
    closed_by_order: int
    latency_ms: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What is said of a weld at one moment.

    Attributes:
        weld: Weld key.
        stage: `process` while welding and after it, `consistency` (with photos) at the end.
        final: No later verdict is expected (until late photos arrive).
        word: GO, NO-GO or NO DATA; anything unknown, stale or uncalibrated is NO DATA.
        reason: One line a welder understands.
        score: The weld score that was compared, or None.
        threshold: Score above which the weld is NO-GO at `alpha`, or None.
        p_value: Conformal p-value, or None.
        alpha: False-alarm rate aimed at.
        calibration_welds: n good welds behind the p-value.
        calibration_sessions: Sessions that those came from.
        present: Modalities that were used.
        photos_pending: Photos are still expected.
        detector: Name and digest of the checkpoint.
        contributions: By how much each modality raised the score: the score with it minus the one without.
        disagreements: What of the bead fits the process least: at most 3 names the detector gives, with z-scores above
            2, the largest first; empty before the photos. In some thirty names one or two are above 2 in good welds,
            too: they explain a NO-GO, they are none.
        rose: Where in the weld the process scores rose above what is usual: at most 3 stretches of cell time
            (t0_ns, t1_ns), the worst first. While the weld runs, the end of the newest one may still move.
    """

    weld: str
    stage: Stage
    final: bool
    word: VerdictWord
    reason: str
    score: float | None
    threshold: float | None
    p_value: float | None
    alpha: float
    calibration_welds: int
    calibration_sessions: int
    present: tuple[str, ...]
    photos_pending: bool
    detector: str
    contributions: dict[str, float] = field(default_factory=dict)
    disagreements: dict[str, float] = field(default_factory=dict)
    rose: tuple[tuple[int, int], ...] = ()
