"""Arc edges: when the arc begins and ends, from current and voltage, or from light and sound where those are missing.

Online (`ArcDetector`) while capturing, offline (`arc_edges_*`) per modality over a whole recording, both on the same
gate. An edge is back-dated: arc-on to the first sample with an arc, arc-off to the last.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

Source: TypeAlias = Literal["current", "light", "sound"]
SOURCES: Final[tuple[Source, ...]] = ("current", "light", "sound")
"""What may show the arc, best first."""
EdgeKind: TypeAlias = Literal["arc_on", "arc_off"]
Int64s: TypeAlias = npt.NDArray[np.int64]
Floats: TypeAlias = npt.NDArray[np.float64]

SATURATED_V: Final = 81.9
"""Voltage at which the sensors of Weld-4M stand at their stop; their current stop is 819.03 A."""

_SILENT_NS: Final = 1_000_000_000
"""A source that has not been seen for this long leaves the decision to the next one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ArcConfig:
    """When the arc counts as burning.

    Attributes:
        current_on_a: Smallest arc current.
        current_max_a: A larger current is a saturated reading and says nothing.
        voltage_on_v: Smallest arc voltage.
        on_rows: Samples needed for arc-on.
        on_s: Time they must span.
        off_s: Time without an arc that means arc-off.
        light_contrast: Smallest rise of `frame_light` that can be an arc.
        sound_contrast_db: Smallest rise of `block_sound_level` that can be an arc.
    """

    current_on_a: float = 5.0
    current_max_a: float = 800.0
    voltage_on_v: float = 5.0
    on_rows: int = 3
    on_s: float = 0.2
    off_s: float = 0.5
    light_contrast: float = 0.15
    sound_contrast_db: float = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ArcEdge:
    """One edge of the arc.

    Attributes:
        kind: Beginning or end.
        t_ns: Cell time, back-dated.
        source: What it was seen in.
    """

    kind: EdgeKind
    t_ns: int
    source: Source


@dataclass(slots=True)
class _Gate:
    """Turns yes / no samples into a debounced state; `dip_ns` is how long a no may interrupt the yes before arc-on."""

    config: ArcConfig
    dip_ns: int = 0
    burning: bool = False
    changed_ns: int = 0
    _first_yes_ns: int | None = None
    _last_yes_ns: int = 0
    _count: int = 0
    _first_no_ns: int | None = None

    def restart(self, burning: bool) -> None:
        """Forget a run in progress and take over a state decided elsewhere."""
        self.burning = burning
        self._first_yes_ns = self._first_no_ns = None

    def push(self, t_ns: int, arc: bool) -> bool:
        """Take one sample; True when the state has changed, with `changed_ns` back-dated."""
        if arc:
            if self._first_yes_ns is None:
                self._first_yes_ns, self._count = t_ns, 0
            self._first_no_ns = None
            self._last_yes_ns = t_ns
            self._count += 1
            long_enough = t_ns - self._first_yes_ns >= self.config.on_s * 1e9
            if not self.burning and long_enough and self._count >= self.config.on_rows:
                self.burning, self.changed_ns = True, self._first_yes_ns
                return True
            return False
        if self._first_no_ns is None:
            self._first_no_ns = t_ns
        if not self.burning and t_ns - self._last_yes_ns > self.dip_ns:
            self._first_yes_ns = None
        if self.burning and t_ns - self._first_no_ns >= self.config.off_s * 1e9:
            # After a restart no arc sample of this source is known: its first sample without one is the best bound.
            self.changed_ns = self._first_no_ns if self._first_yes_ns is None else self._last_yes_ns
            self.burning, self._first_yes_ns = False, None
            return True
        return False


@dataclass(slots=True)
class _Level:
    """Idle and arc level of one source, learned as they come; the threshold lies in between."""

    contrast: float
    share: float
    idle: float | None = None
    arc: float = 0.0
    _seen_ns: int = 0

    def above(self, t_ns: int, level: float, burning: bool) -> bool:
        """Judge one level and learn from it."""
        if self.idle is None:
            self.idle = self.arc = level
        threshold = self.idle + max(self.contrast, self.share * (self.arc - self.idle))
        passed = min(1.0, max(0.0, (t_ns - self._seen_ns) / 1e9))
        self._seen_ns = t_ns
        if level > threshold:
            self.arc = max(level, self.arc - 0.02 * passed * (self.arc - level))
        elif level < self.idle or not burning:
            self.idle += 0.5 * passed * (level - self.idle)
        return level > threshold


@dataclass(slots=True)
class _Watch:
    """One source: its gate, its levels, and when it was last seen."""

    source: Source
    gate: _Gate
    level: _Level | None = None
    seen_ns: int | None = None


class ArcDetector:
    """Decides arc-on and arc-off while capturing; current first, light and then sound where nothing better is seen.

    Light and sound are always listened to, so that their levels are known, but decide only after every better source
    has been silent for a second of stream time. Owned by the ingest thread.

    Attributes:
        sources: What may show the arc, best first; whatever else is pushed says nothing.
        burning: The state decided last.
        seen_ns: Cell time of the last sample with an arc, of the source that decided last.
    """

    def __init__(self, config: ArcConfig, sources: Collection[Source] = SOURCES) -> None:
        self.config = config
        self.sources = tuple(source for source in SOURCES if source in sources)
        self.burning = False
        self.seen_ns = 0
        self._edge_ns = 0
        self._begun_ns: int | None = None
        watches = {
            "current": _Watch("current", _Gate(config)),
            "light": _Watch("light", _Gate(config, dip_ns=100_000_000), _Level(config.light_contrast, 0.1)),
            "sound": _Watch("sound", _Gate(config, dip_ns=100_000_000), _Level(config.sound_contrast_db, 0.5)),
        }
        self._watches = {source: watches[source] for source in self.sources}

    def sensors(self, t_ns: Int64s, current_a: Floats, voltage_v: Floats | None) -> list[ArcEdge]:
        """Take sensor rows, `(n,)` each; rows with saturated values neither start nor end an arc.

        A row without a reading (NaN) says nothing, not even that the source is there.
        """
        read = np.isfinite(current_a) if voltage_v is None else np.isfinite(current_a) & np.isfinite(voltage_v)
        t_ns, current_a = t_ns[read], current_a[read]
        voltage_v = None if voltage_v is None else voltage_v[read]
        usable, arc = arc_rows(current_a, voltage_v, self.config)
        edges: list[ArcEdge] = []
        for t, ok, burns in zip(t_ns.tolist(), usable.tolist(), arc.tolist(), strict=True):
            edges += self._decide("current", t, burns if ok else None)
        return edges

    def light(self, t_ns: int, level: float) -> list[ArcEdge]:
        """Take the `frame_light` of one frame."""
        return self._hear("light", t_ns, level)

    def sound(self, t_ns: int, level_db: float) -> list[ArcEdge]:
        """Take the `block_sound_level` of one block, at its end."""
        return self._hear("sound", t_ns, level_db)

    def _hear(self, source: Source, t_ns: int, value: float) -> list[ArcEdge]:
        watch = self._watches.get(source)
        if watch is None or watch.level is None:
            return []
        return self._decide(source, t_ns, watch.level.above(t_ns, value, watch.gate.burning or self.burning))

    def _decide(self, source: Source, t_ns: int, arc: bool | None) -> list[ArcEdge]:
        watch = self._watches.get(source)
        if watch is None:
            return []
        if self._begun_ns is None:
            self._begun_ns = t_ns
        if watch.seen_ns is not None and t_ns - watch.seen_ns > _SILENT_NS:
            watch.gate.restart(self.burning)
        watch.seen_ns = t_ns
        if arc is not None:
            watch.gate.push(t_ns, arc)
        rank = self.sources.index(source)
        better = (self._watches[one].seen_ns for one in self.sources[:rank])
        if any(t_ns - (self._begun_ns if seen_ns is None else seen_ns) < _SILENT_NS for seen_ns in better):
            return []
        if arc:
            self.seen_ns = t_ns
        if watch.gate.burning == self.burning:
            return []
        self.burning = watch.gate.burning
        self._edge_ns = max(watch.gate.changed_ns, self._edge_ns)
        return [ArcEdge(kind="arc_on" if self.burning else "arc_off", t_ns=self._edge_ns, source=watch.source)]


def arc_rows(
    current_a: Floats, voltage_v: Floats | None, config: ArcConfig
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Which rows say anything, and which of them say that an arc burns."""
    usable = np.isfinite(current_a) & (current_a < config.current_max_a)
    arc = usable & (current_a > config.current_on_a)
    if voltage_v is not None:
        usable &= np.isfinite(voltage_v) & (voltage_v < SATURATED_V)
        arc &= usable & (voltage_v > config.voltage_on_v)
    return usable, arc


def frame_light(pixels: npt.NDArray[np.uint8]) -> float:
    """Arc luminance of a frame: mean excess over mid gray on every eighth pixel of both axes.

    Dark scenes and the fading pool (below mid gray) give 0, the arc's blown-out core several units.
    """
    strided = pixels[::8, ::8]
    return float(np.maximum(strided, 128).mean()) - 128.0


def block_sound_level(samples: npt.NDArray[np.integer], rate_hz: float) -> float:
    """Level of a block above 2 kHz (a quarter of the rate at most) in dB of full scale; -150 for digital silence.

    Args:
        samples: `(n, channels)` int16 or int32.
        rate_hz: Sample rate.
    """
    if not len(samples):
        return -150.0
    mono = samples.mean(axis=1) / -float(np.iinfo(samples.dtype).min)
    spectrum = np.abs(np.fft.rfft(mono * np.hanning(len(mono)))) ** 2
    low = int(np.ceil(min(2000.0, rate_hz / 4) * len(mono) / rate_hz))
    power = 2.0 * float(spectrum[low:].sum()) / len(mono) ** 2 / 0.375
    return 10.0 * float(np.log10(power + 1e-15))


def block_sound_levels(samples: npt.NDArray[np.integer], rate_hz: float, block: int) -> Floats:
    """`block_sound_level` of every whole block of a recording: `(len(samples) // block,)` dB."""
    return np.array(
        [block_sound_level(samples[i : i + block], rate_hz) for i in range(0, len(samples) - block + 1, block)]
    )


def arc_edges_current(
    t_ns: Int64s, current_a: Floats, voltage_v: Floats | None, config: ArcConfig = ArcConfig()
) -> list[tuple[int, int]]:
    """Arcs of a whole recording by current and voltage: (first, last) row time with an arc, ns."""
    usable, arc = arc_rows(current_a, voltage_v, config)
    return _arcs(_Gate(config), t_ns[usable], arc[usable])


def arc_edges_light(t_ns: Int64s, light: Floats, config: ArcConfig = ArcConfig()) -> list[tuple[int, int]]:
    """Arcs of a whole recording by `frame_light`; the threshold is a tenth of the way from idle to arc.

    The arc's core flickers tenfold with the short circuits, so the middle would cut it to pieces.
    """
    return _arcs_by_level(t_ns, light, config.light_contrast, 0.1, config)


def arc_edges_sound(t_ns: Int64s, level_db: Floats, config: ArcConfig = ArcConfig()) -> list[tuple[int, int]]:
    """Arcs of a whole recording by `block_sound_level`; the threshold is half-way from idle to arc in dB."""
    return _arcs_by_level(t_ns, level_db, config.sound_contrast_db, 0.5, config)


def _arcs_by_level(
    t_ns: Int64s, level: Floats, contrast: float, share: float, config: ArcConfig
) -> list[tuple[int, int]]:
    if not len(level):
        return []
    # The arc may fill almost all or almost none of a recording: low and high quantiles, not the median.
    idle, arc = np.quantile(level, (0.02, 0.9))
    if arc - idle < contrast:
        arc = np.quantile(level, 0.99)
    if arc - idle < contrast:
        return []
    return _arcs(_Gate(config, dip_ns=100_000_000), t_ns, level > idle + max(contrast, share * (arc - idle)))


def _arcs(gate: _Gate, t_ns: Int64s, arc: npt.NDArray[np.bool_]) -> list[tuple[int, int]]:
    arcs: list[tuple[int, int]] = []
    on_ns, last_yes_ns = 0, 0
    for t, burns in zip(t_ns.tolist(), arc.tolist(), strict=True):
        if burns:
            last_yes_ns = t
        if gate.push(t, burns):
            if gate.burning:
                on_ns = gate.changed_ns
            else:
                arcs.append((on_ns, gate.changed_ns))
    if gate.burning:
        arcs.append((on_ns, last_yes_ns))
    return arcs
