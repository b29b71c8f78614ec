"""When each stream of a Weld-4M weld began: the files do not say, but all of them show the arc.

Streams share neither a start nor a length: sound leads the sensors by 0.5 to 1.7 s, differently for every weld. Each
stream's arc-on and arc-off are timed finer than its sampling (`sync.edges`) and compared with those of the sensors (or
of the best stream that shows the arc). The shift is applied to arrival times; values and device times stay as they are.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal, TypeAlias

import numpy as np

from acquisition.packet import Packet, StreamInfo
from sync.arc_watch import ArcWatch
from sync.clock import ClockTable
from sync.edges import Edge
from sync.latency import residual_of

Confidence: TypeAlias = Literal["given", "high", "medium", "low", "none"]

_CONTRADICTION: Final = 2.0
"""Standard deviations between what arc-on says and what arc-off says, as in `sync.latency`."""
_ANOTHER_ARC_MS: Final = 1000.0
"""Further apart, the two streams do not show one arc."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Offset:
    """How late a stream shows the arc if all streams begin together; the stream began that much earlier.

    Attributes:
        offset_ms: Negative where the stream leads; None where nothing is known.
        sigma_ms: Its standard deviation; at least half the difference where the edges contradict each other.
        confidence: `given` (the manifest says it), `high` (arc-on and arc-off agree), `medium` (they agree, but row
            times are inferred; or one of them is all there is), `low` (they contradict each other), `none`.
        on_ms: What arc-on alone says.
        off_ms: What arc-off alone says.
        against: The stream that it is compared with.
        applied: Whether the stream was shifted; it begins with the others otherwise.
    """

    offset_ms: float | None
    sigma_ms: float | None
    confidence: Confidence
    on_ms: float | None = None
    off_ms: float | None = None
    against: str | None = None
    applied: bool = False

    def as_json(self) -> dict[str, Any]:
        """Return it for `weld.json`, milliseconds to the microsecond."""
        return {name: round(v, 3) if isinstance(v, float) else v for name, v in asdict(self).items()}

    def line(self, stream: str) -> str:
        """Say it to a human."""
        if self.offset_ms is None or not self.applied:
            why = "shows no arc to compare"
            if self.on_ms is not None and self.off_ms is not None:
                why = (
                    f"arc-on says {self.on_ms / 1e3:+.2f} s and arc-off {self.off_ms / 1e3:+.2f} s, so it was not moved"
                )
            return f"common start: {stream} {why}; it begins with the others"
        if self.confidence == "given":
            return f"{stream} offset {self.offset_ms / 1e3:+.3f} s against {self.against}, as the manifest says"
        said = {"low": ", arc-on and arc-off contradict each other"}.get(self.confidence, "")
        sigma_s = (self.sigma_ms or 0.0) / 1e3
        return (
            f"{stream} offset {self.offset_ms / 1e3:+.3f} s +- {sigma_s:.3f} against {self.against} from arc edges "
            f"(confidence {self.confidence}{said})"
        )


class _Edges(ArcWatch):
    """The edges themselves, not only what follows from them."""

    def by_stream(self) -> dict[str, tuple[Edge | None, Edge | None]]:
        """Arc-on and arc-off per stream that shows the arc, the sensors' arc deciding which one is meant."""
        arcs = self.arcs()
        return {name: self._edges(self._traces[name], arc, None) for name, arc in arcs.items()}


def stream_offsets(infos: Mapping[str, StreamInfo], packets: list[tuple[Packet, float | None]]) -> dict[str, Offset]:
    """Estimate the offset of every stream but the one that the others are compared with.

    Args:
        infos: Streams by name, the best reference (sensors, then video) first.
        packets: Every stream's packets as if all streams began together; frames with their `frame_light`.
    """
    watch, clocks = _Edges(infos, everything=True), ClockTable()
    for packet, light in packets:
        watch.take(packet, clocks, light)
    edges = watch.by_stream()
    reference = next((name for name in infos if name in edges), None)
    unknown = Offset(offset_ms=None, sigma_ms=None, confidence="none")
    if reference is None:
        return dict.fromkeys(list(infos)[1:], unknown)
    inferred = infos[reference].inferred_time
    return {
        name: _compared(edges[name], edges[reference], reference, inferred) if name in edges else unknown
        for name in infos
        if name != reference
    }


def _compared(
    mine: tuple[Edge | None, Edge | None], theirs: tuple[Edge | None, Edge | None], against: str, inferred: bool
) -> Offset:
    residual = residual_of(mine, theirs)
    if residual is None:
        return Offset(offset_ms=None, sigma_ms=None, confidence="none", against=against)
    pairs = list(zip(mine, theirs, strict=True))
    late = [None if a is None or b is None else (a.t_ns - b.t_ns) / 1e6 for a, b in pairs]
    sigma = [0.0 if a is None or b is None else float(np.hypot(a.sigma_ns, b.sigma_ns)) / 1e6 for a, b in pairs]
    confidence: Confidence = "medium" if inferred or None in late else "high"
    on_ms, off_ms = late
    applied = True
    if on_ms is not None and off_ms is not None and abs(on_ms - off_ms) > _CONTRADICTION * np.hypot(sigma[0], sigma[1]):
        confidence = "low"
        # A shift that one of the edges calls the wrong way is none; so is one between two different arcs.
        applied = on_ms * off_ms > 0 and abs(on_ms - off_ms) <= _ANOTHER_ARC_MS
    return Offset(
        offset_ms=residual["offset_ms"],
        sigma_ms=residual["sigma_ms"],
        confidence=confidence if applied else "none",
        on_ms=on_ms,
        off_ms=off_ms,
        against=against,
        applied=applied,
    )
