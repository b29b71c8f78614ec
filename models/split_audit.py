"""What leaks from one part of a split into another, and what a reader of its results should know besides.

A *leak* breaks what a split of its kind promises; a *caution* does not, but may make a test easier than the cell will
be. Both are named with the welds or groups that they are about.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec

from models.split_groups import PARTS
from models.splits import GOOD, PRETRAIN, Split, digest_of, media_digests, recipe_of
from models.weld_features import FoundWeld
from recordings.manifest import Manifest
from recordings.verdict import CLASSES

_TOLD: Final = ("train", "val", "test", PRETRAIN)
_NEVER_INPUT: Final = frozenset({"split", "set", "imported_from"})
"""Metadata that no model is given, whatever they say."""


class Leak(msgspec.Struct, frozen=True, kw_only=True):
    """One way in which a part knows what another holds.

    Attributes:
        kind: `session`, `recipe`, `copy`, ...
        what: In one sentence.
        names: The sessions, recipes or keys that it is about, sorted.
        grave: It breaks what the split promises; otherwise a caution.
    """

    kind: str
    what: str
    names: list[str]
    grave: bool = True


def audit(
    split: Split, welds: Sequence[FoundWeld], *, fitted: Collection[str] = (), calibrated: Collection[str] = ()
) -> list[Leak]:
    """Name every leak of a split, leaks before cautions.

    Args:
        split: The split.
        welds: The welds that it was made from, as they are now.
        fitted: Keys of welds that a model was fitted on or stopped by.
        calibrated: Keys of welds that a model was calibrated on.
    """
    part_of = split.part_of()
    placed = {w.manifest.key: w.manifest for w in welds if w.manifest.key in part_of}
    # What is learned without labels may be of a session, recipe or day that is learned with them.
    side_of = {key: "train" if part == PRETRAIN else part for key, part in part_of.items()}
    leaks = [
        *_names(split, welds),
        *_crossing(split, placed, side_of),
        *_misplaced(split, placed, part_of),
        *_seen(part_of, fitted, calibrated),
        *_told_by(placed),
    ]
    return sorted(leaks, key=lambda leak: not leak.grave)


def _names(split: Split, welds: Sequence[FoundWeld]) -> Iterable[Leak]:
    """Tell whether the split and the folder speak of the same welds."""
    there = Counter(w.manifest.key for w in welds)
    times = Counter(key for keys in split.parts.values() for key in keys)
    if twice := sorted(key for key, n in times.items() if n > 1):
        yield Leak(kind="key", what=f"{len(twice)} keys are listed more than once", names=twice)
    if absent := sorted(times.keys() - there.keys()):
        yield Leak(kind="absent", what=f"{len(absent)} welds of the split are not there", names=absent)
    if shared := sorted(key for key, n in there.items() if n > 1):
        what = f"{len(shared)} keys are used by several folders; a part holds all of them"
        yield Leak(kind="key", what=what, names=shared, grave=False)
    known = times.keys() | {left.key for left in split.left_out}
    if fresh := sorted(there.keys() - known):
        yield Leak(kind="new", what=f"{len(fresh)} welds are not in the split", names=fresh, grave=False)
    if not absent and not fresh and digest_of(welds) != split.welds:
        yield Leak(kind="changed", what="recorded data of some weld are not what the split was made from", names=[])


def _crossing(split: Split, placed: Mapping[str, Manifest], part_of: Mapping[str, str]) -> Iterable[Leak]:
    """Tell what lies in more than one part."""
    sessions = {key: [m.session] for key, m in placed.items()}
    if found := _in_several(sessions, part_of):
        what = f"{len(found)} of {len({m.session for m in placed.values()})} sessions lie in more than one part"
        yield Leak(kind="session", what=what, names=found)
    recipes = {key: [recipe] for key, m in placed.items() if (recipe := recipe_of(m))}
    if found := _in_several(recipes, part_of):
        what = f"{len(found)} of {len({r for (r,) in recipes.values()})} recipes lie in more than one part"
        yield Leak(kind="recipe", what=what, names=found, grave=split.kind == "recipe-disjoint")
    copies = {key: list(media_digests(m).values()) for key, m in placed.items()}
    if found := _in_several(copies, part_of):
        both = sorted(key for key, digests in copies.items() if set(digests) & set(found))
        what = f"{len(both)} welds have the video, sound or sensors of a weld in another part"
        yield Leak(kind="copy", what=what, names=both)
    photos = {key: _photo_digests(m) for key, m in placed.items()}
    if found := _in_several(photos, part_of):
        both = sorted(key for key, digests in photos.items() if set(digests) & set(found))
        yield Leak(kind="photo", what=f"{len(both)} welds have a photo of a weld in another part", names=both)
    days = {key: [day] for key, m in placed.items() if (day := _day(m))}
    if found := _in_several(days, part_of):
        what = f"{len(found)} clusters of one day, part and operator lie in more than one part"
        yield Leak(kind="day", what=what, names=found, grave=False)


def _misplaced(split: Split, placed: Mapping[str, Manifest], part_of: Mapping[str, str]) -> Iterable[Leak]:
    """Tell which welds are in a part that must not hold such."""
    parts: dict[str, list[tuple[str, Manifest]]] = defaultdict(list)
    for key, m in sorted(placed.items()):
        parts[part_of[key]].append((key, m))
    if split.kind != "supervised" and (bad := [k for k, m in parts["train"] if m.label > GOOD]):
        yield Leak(kind="defective", what=f"{len(bad)} defective welds in train, which is for good ones", names=bad)
    for part in PARTS:
        if unknown := [k for k, m in parts[part] if m.label < 0]:
            yield Leak(kind="unlabelled", what=f"{len(unknown)} unlabelled welds in {part}", names=unknown)
    for part in ("train", "val", PRETRAIN):
        if test_only := [k for k, m in parts[part] if m.described.get("set")]:
            yield Leak(kind="test set", what=f"{len(test_only)} welds of test sets in {part}", names=test_only)
    if empty := [part for part in PARTS if not parts[part]]:
        yield Leak(kind="empty", what=f"nothing in {', '.join(empty)}", names=empty, grave=False)


def _seen(part_of: Mapping[str, str], fitted: Collection[str], calibrated: Collection[str]) -> Iterable[Leak]:
    """Tell which welds a model knows that it is to be tested on."""
    for kind, keys, parts in (("calibration", calibrated, ("test",)), ("fitted", fitted, ("val", "test"))):
        for part in parts:
            if seen := sorted(key for key in keys if part_of.get(key) == part):
                how = "calibrated" if kind == "calibration" else "fitted"
                yield Leak(kind=kind, what=f"{len(seen)} welds of {part}: a model was {how} on them", names=seen)


def _told_by(placed: Mapping[str, Manifest]) -> Iterable[Leak]:
    """Tell what gives the class away without a look at the weld."""
    labelled = {key: m for key, m in placed.items() if m.label >= 0}
    if len({m.label for m in labelled.values()}) < 2:
        return
    classes: dict[str, set[int]] = defaultdict(set)
    for m in labelled.values():
        classes[m.session].add(m.label)
    single = sorted(s for s, found in classes.items() if len(found) == 1)
    if share := len(single) / len(classes):
        what = f"{share:.0%} of {len(classes)} sessions hold one class only: label and set-up are constant in a session"
        yield Leak(kind="label", what=f"{what}, so that a sample-level split leaks", names=single, grave=False)
    for name in sorted({name for m in labelled.values() for name in m.described} - _NEVER_INPUT):
        values: dict[str, list[int]] = defaultdict(list)
        for m in labelled.values():
            values[repr(m.described.get(name))].append(m.label)
        tells = all(len(set(found)) == 1 for found in values.values())
        if tells and 1 < len(values) < len(labelled):
            what = f"the metadata '{name}' tell the class of every weld; a model that is given them has the answer"
            yield Leak(kind="metadata", what=what, names=[name], grave=False)
    if all(key[-2:] == f"{m.label:02d}" for key, m in labelled.items()):
        what = "the last two digits of every key are the class; no model may be given keys"
        yield Leak(kind="metadata", what=what, names=["key"], grave=False)


def _in_several(values: Mapping[str, Sequence[Hashable]], part_of: Mapping[str, str]) -> list[str]:
    """Give the values that welds of more than one part have, sorted."""
    parts: dict[Hashable, set[str]] = defaultdict(set)
    for key, held in values.items():
        for value in held:
            parts[value].add(part_of[key])
    return sorted(str(value) for value, found in parts.items() if len(found) > 1)


def _photo_digests(manifest: Manifest) -> list[str]:
    files = [f for r in manifest.streams.values() if r.info.modality == "post_images" for f in r.files]
    return [manifest.files[f] for f in files if f in manifest.files and not f.endswith(".parquet")]


def _day(manifest: Manifest) -> str | None:
    """Name day, part and operator; None without a part."""
    now = manifest.described
    if not now.get("part"):
        return None
    day = manifest.utc[0].utc_ns // (86_400 * 10**9) if manifest.utc else manifest.session
    return f"day {day}, part {now['part']}, operator {now.get('operator', '-')}"


def counts(split: Split, welds: Sequence[FoundWeld]) -> dict[str, Any]:
    """Count welds and sessions.

    Returns:
        `classes`: by class and part, `{"welds", "sessions"}`; `sessions`: by session, its classes with their counts and
        the parts that it lies in.
    """
    part_of = split.part_of()
    classes: dict[str, dict[str, dict[str, int]]] = {}
    sessions: dict[str, dict[str, Any]] = {}
    cells: dict[tuple[str, str], list[str]] = defaultdict(list)
    for m in sorted((w.manifest for w in welds), key=lambda m: m.key):
        name = class_name(m)
        if m.key in part_of:
            cells[name, part_of[m.key]].append(m.session)
        session = sessions.setdefault(m.session, {"classes": Counter(), "parts": Counter()})
        session["classes"][name] += 1
        session["parts"][part_of.get(m.key, "left out")] += 1
    for name in sorted({name for name, _ in cells}, key=_rank):
        classes[name] = {
            part: {"welds": len(cells[name, part]), "sessions": len(set(cells[name, part]))}
            for part in _TOLD
            if (name, part) in cells
        }
    plain = {s: {what: dict(found) for what, found in held.items()} for s, held in sorted(sessions.items())}
    return {"classes": classes, "sessions": plain}


def class_name(manifest: Manifest) -> str:
    """Name what a weld is: its class, its test set, or `unlabelled`."""
    if manifest.described.get("set"):
        return f"set {manifest.described['set']}"
    return CLASSES[manifest.label] if manifest.label >= 0 else "unlabelled"


def _rank(name: str) -> tuple[int, str]:
    return (CLASSES.index(name) if name in CLASSES else len(CLASSES)), name
