"""What a kill left of a recording, held against the tally of the simulated cell: phase, true loss, stated loss."""

import contextlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal, TypeAlias

from acquisition.packet import EVENTS_STREAM, Photo, item_range
from acquisition.simulated.tally import Entry, Heard, Taken
from recordings.columns import EVENTS
from recordings.finishing import weld_table
from recordings.manifest import Manifest
from recordings.opening import markers
from recordings.reader import WeldReader
from recordings.recovery import recover
from recordings.verify import verify
from recordings.weld_folder import MANIFEST, PART, TRUTH, WeldError, find_welds, load_manifest

Phase: TypeAlias = Literal[
    "start", "opening", "arc", "post-roll", "photos", "finalising", "replacing weld.json", "between"
]

CRITICAL: Final[tuple[Phase, ...]] = ("start", "opening", "finalising", "replacing weld.json")
"""Phases in which a kill has something to tear."""


def phase_of(root: Path) -> Phase:
    """Judge from what is on the disk what a killed capture process was doing.

    `start` is before the first weld, `opening` until the pre-roll is written, `replacing weld.json` while a new one
    lies beside it, `between` after a weld and before the next.
    """
    if any(root.rglob(MANIFEST + PART)):
        return "replacing weld.json"
    found = {_phase_of_weld(root, folder) for _, folder in markers(root)}
    order: tuple[Phase, ...] = ("opening", "finalising", "arc", "post-roll", "photos")
    for phase in order:
        if phase in found:
            return phase
    return "between" if any(root.rglob(MANIFEST)) else "start"


def _phase_of_weld(root: Path, folder: Path) -> Phase:
    if folder == root or not (folder / MANIFEST).exists():
        return "opening"
    manifest = load_manifest(folder)
    if manifest.state != "open" or (folder / TRUTH).exists() or any(folder.glob("*.parquet*")):
        return "finalising"
    kinds = {row["kind"] for row in weld_table(folder, EVENTS_STREAM, EVENTS, manifest).to_pylist()}
    if "weld_open" not in kinds:
        return "opening"
    if manifest.last_order is not None:
        return "photos"
    return "arc" if manifest.arc_off_ns is None else "post-roll"


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamSurvival:
    """One stream of one weld.

    Attributes:
        true: Items that were handed over, belong to the weld and are not on the disk.
        stated: Items that the weld's manifest says are lost; not what it only estimates, from late arrivals say.
        in_hand: The items of the last packet that was taken; the process may have died with it in its hands.
        seconds: Duration of the true loss.
    """

    true: int
    stated: int
    in_hand: int
    seconds: float

    @property
    def exact(self) -> bool:
        """The stated loss is the true one."""
        return self.stated == self.true

    @property
    def died_in_hand(self) -> bool:
        """They differ by the packet that was taken and not yet marked as received."""
        return not self.exact and self.in_hand > 0 and self.stated == self.true - self.in_hand


@dataclass(slots=True, kw_only=True)
class WeldSurvival:
    """One weld: if it was open, its streams by name, photos found and stated as lost, what contradicts the tally."""

    key: str
    was_open: bool
    streams: dict[str, StreamSurvival] = field(default_factory=dict)
    photos: int = 0
    photos_stated: int = 0
    problems: list[str] = field(default_factory=list)


@dataclass(slots=True, kw_only=True)
class Remains:
    """What one kill left under a root, recovered.

    Attributes:
        phase: What the process was doing.
        welds: The welds that were open, by key; those finished before lost nothing, or it is a problem.
        unreadable: Welds that cannot be read, one line each.
        unkept: Welds whose opening was announced and of which nothing is there.
        problems: What contradicts the tally, or the weld itself.
        in_hand: Somewhere the last packet taken is what differs.
    """

    phase: Phase
    welds: dict[str, WeldSurvival] = field(default_factory=dict)
    unreadable: list[str] = field(default_factory=list)
    unkept: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    in_hand: bool = False


def remains(root: Path, tally: list[Entry]) -> Remains:
    """Recover what a killed capture process left under `root`, and hold it against the tally."""
    found = Remains(phase=phase_of(root))
    folders: list[Path] = []
    with contextlib.suppress(WeldError):  # there is none
        found.problems += [line for report in recover(root) if not report.ok for line in report.problems]
        found.problems += [line for report in verify(root, deep=False) for line in report.problems]
        folders = find_welds(root)
    kept = stated = 0
    for folder in folders:
        try:
            weld = survived(folder, tally)
        except (WeldError, OSError) as error:
            found.unreadable.append(f"{folder.name}: {error}")
            continue
        found.problems += weld.problems
        kept, stated = kept + weld.photos, stated + weld.photos_stated
        for name, stream in weld.streams.items():
            found.in_hand |= stream.died_in_hand
            if not (stream.exact or stream.died_in_hand) or (stream.true and not weld.was_open):
                found.problems.append(f"{weld.key} {name}: lost {stream.true}, stated {stream.stated}")
        if weld.was_open:
            found.welds[weld.key] = weld
    kept += sum(1 for _ in root.glob("*/unassigned/*"))
    photos = sum(isinstance(e, Taken) and e.stream == "photos" for e in tally) - kept - stated
    in_hand = bool(tally) and isinstance(tally[-1], Taken) and tally[-1].stream == "photos"
    if photos == 1 and in_hand:
        found.in_hand = True
    elif photos:
        found.problems.append(f"{photos} photos more were lost than stated ({stated})")
    there = {folder.name for folder in folders}
    found.unkept = [e.weld for e in tally if isinstance(e, Heard) and e.kind == "weld_open" and e.weld not in there]
    return found


def survived(folder: Path, tally: list[Entry]) -> WeldSurvival:
    """Hold a recovered weld against the tally, item by item; everything in it is decoded.

    The weld begins with the packet of its `first_order` (where that is lost, with the first loss that it states) and
    ends with the last packet that was taken before its closing was announced.

    Raises:
        WeldError: The weld cannot be read.
    """
    reader = WeldReader(folder)
    manifest = reader.manifest
    found = WeldSurvival(key=manifest.key, was_open=manifest.state == "recovered")
    places = {(e.stream, e.segment, e.first): i for i, e in enumerate(tally) if isinstance(e, Taken)}
    kept: dict[str, int] = {}
    held: list[tuple[int, int]] = []
    for packet in reader.packets():
        found.photos += isinstance(packet.payload, Photo)
        if packet.stream not in manifest.streams or isinstance(packet.payload, Photo):
            continue
        first, items = item_range(packet)
        place = places.get((packet.stream, packet.segment, first))
        if place is None:
            found.problems.append(f"{manifest.key}: {packet.stream} {first} was never handed over")
            continue
        kept[packet.stream] = kept.get(packet.stream, 0) + items
        held.append((packet.order, place))
    closed = Heard(kind="weld_close", weld=manifest.key)
    end = tally.index(closed) if closed in tally else len(tally)
    begin = _begin(manifest, held, places, end)
    found.problems += [
        f"{manifest.key}: holds order {order}, which is not its own"
        for order, place in held
        if not begin <= place < end
    ]
    handed = dict.fromkeys(manifest.streams, 0)
    for entry in tally[begin:end]:
        if isinstance(entry, Taken):
            handed[entry.stream] = handed.get(entry.stream, 0) + entry.end - entry.first
    last = tally[-1] if tally else None
    for name, record in manifest.streams.items():
        if record.info.modality == "post_images":
            found.photos_stated += sum(loss.missing for loss in record.losses)
            continue
        true = handed[name] - kept.get(name, 0)
        found.streams[name] = StreamSurvival(
            true=true,
            stated=sum(loss.missing for loss in record.losses if loss.exact),
            in_hand=last.end - last.first if isinstance(last, Taken) and last.stream == name else 0,
            seconds=true / record.info.rate_hz,
        )
    return found


def _begin(manifest: Manifest, held: list[tuple[int, int]], places: dict[tuple[str, int, int], int], end: int) -> int:
    """Return where in the tally the weld begins."""
    for order, place in held:
        if order == manifest.first_order:
            return place
    lost = [
        place
        for name, record in manifest.streams.items()
        for loss in record.losses
        for (stream, _, first), place in places.items()
        if stream == name and first == loss.first
    ]
    return min([*lost, *(place for _, place in held)], default=end)
