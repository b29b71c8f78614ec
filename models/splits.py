"""Splits of recorded welds into parts that share nothing which would make a test too easy.

A split follows from keys, labels, sessions, recipes and contents alone, never from paths or the order of files; the
same seed gives the same split. Whole groups (sessions, recipes, copies of one weld) go to one part, so that classes can
only be shared out as far as groups allow: `Split.deviation` says how far. `models.split_audit` names what leaks.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

import msgspec
import xxhash

from models.detector_contract import DetectorError
from models.split_groups import PARTS, Stratum, joined_groups, share_out
from models.weld_features import FoundWeld
from recordings.manifest import Manifest
from recordings.verdict import CLASSES
from recordings.weld_folder import replace_file

Kind: TypeAlias = Literal["supplied", "session-disjoint", "recipe-disjoint", "supervised"]
KINDS: Final[tuple[Kind, ...]] = ("supplied", "session-disjoint", "recipe-disjoint", "supervised")
PRETRAIN: Final = "pretrain"
"""The part of unlabelled welds: only for learning without labels."""
SCHEMA: Final = 1
GOOD: Final = 0
FRACTIONS: Final = (0.6, 0.2, 0.2)
_RECIPE: Final = (
    *("weld_type", "thickness_mm", "steel_type", "material", "current_a", "voltage_v", "robot_speed_cpm"),
    *("part", "program"),
)
"""What makes a recipe where the metadata do not name one."""


class LeftOut(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A weld that is in no part, and why."""

    key: str
    reason: str


class Split(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Keys of welds by part.

    Attributes:
        kind: How the parts were made.
        seed: Of the draw.
        fractions: Wanted for train, val and test.
        parts: Sorted keys of `train`, `val`, `test` and `pretrain`.
        left_out: Welds in no part.
        deviation: Largest difference between the share of a class that a part has and the one wanted for it.
        notes: What else a reader should know.
        welds: Digest of keys and contents of all welds that it was made from.
        schema: `SCHEMA`.
    """

    kind: Kind
    seed: int
    fractions: tuple[float, float, float]
    parts: dict[str, list[str]]
    left_out: list[LeftOut]
    deviation: float
    notes: list[str]
    welds: str
    schema: int = SCHEMA

    def part_of(self) -> dict[str, str]:
        """Give the part of every key."""
        return {key: part for part, keys in self.parts.items() for key in keys}


def make_split(
    welds: Sequence[FoundWeld], kind: Kind, *, seed: int = 0, fractions: tuple[float, float, float] = FRACTIONS
) -> Split:
    """Share out welds.

    Args:
        welds: Complete welds.
        kind: `supplied`: the part that their metadata name (`split`); `session-disjoint` and `recipe-disjoint`: whole
            sessions or recipes, only good welds in train; `supervised`: whole sessions, all classes in train.
        seed: Of the draw.
        fractions: Of train, val and test. Where train holds good welds only, all others go to val and test.

    Returns:
        The split. Test sets (`set` in the metadata) are never in train or val; unlabelled welds only in `pretrain`.

    Raises:
        DetectorError: The kind is unknown, fractions do not add up, or the welds do not allow such a split.
    """
    if kind not in KINDS:
        raise DetectorError(f"split '{kind}' is unknown; use one of {', '.join(KINDS)}")
    if min(fractions) < 0 or abs(sum(fractions) - 1) > 1e-6 or fractions[0] == 0:
        raise DetectorError(f"fractions {fractions} must be at least 0, train above 0, and add up to 1")
    by_key = {w.manifest.key: w.manifest for w in sorted(welds, key=lambda w: (w.manifest.key, w.digest), reverse=True)}
    manifests = dict(sorted(by_key.items()))
    notes: list[str] = []
    if kind == "supplied":
        placed, deviation = {k: _supplied(m) for k, m in manifests.items()}, 0.0
        if not any(placed.values()):
            raise DetectorError("no weld's metadata name a split (TRAIN, VAL, TEST); make another kind of split")
        reasons = {k: "its metadata name no split (TRAIN, VAL, TEST)" for k, part in placed.items() if not part}
    else:
        reasons = {k: "no recipe in its metadata" for k, m in manifests.items() if not recipe_of(m)}
        reasons = reasons if kind == "recipe-disjoint" else {}
        kept = {k: m for k, m in manifests.items() if k not in reasons}
        placed, deviation = _drawn(kept, kind, seed, fractions, notes)
    parts: dict[str, list[str]] = {part: [] for part in (*PARTS, PRETRAIN)}
    for key, part in placed.items():
        if not part:
            continue
        allowed = _stratum(manifests[key], kind, fractions).allowed
        if manifests[key].label < 0 and part in ("train", PRETRAIN) and not manifests[key].described.get("set"):
            parts[PRETRAIN].append(key)
        elif part in allowed:
            parts[part].append(key)
        else:
            reasons[key] = f"{_what(manifests[key])}, in {'a group of ' if kind != 'supplied' else ''}{part}"
    if not parts["train"]:
        raise DetectorError(f"no weld is left for train in a {kind} split of {len(manifests)} welds; label good welds")
    return Split(
        kind=kind,
        seed=seed,
        fractions=fractions,
        parts=parts,
        left_out=[LeftOut(key=key, reason=reason) for key, reason in sorted(reasons.items())],
        deviation=round(deviation, 6),
        notes=notes,
        welds=digest_of(welds),
    )


def _supplied(manifest: Manifest) -> str:
    name = str(manifest.described.get("split", "")).strip().lower()
    return name if name in PARTS else ""


def _drawn(
    manifests: Mapping[str, Manifest], kind: Kind, seed: int, fractions: tuple[float, float, float], notes: list[str]
) -> tuple[dict[str, str], float]:
    """Draw a part for every group of welds that must stay together."""
    copies = [(("copy", d), key) for key, m in manifests.items() for d in media_digests(m).values()]
    sessions = [(("session", m.session), key) for key, m in manifests.items()]
    recipes = [(("recipe", recipe_of(m) or ""), key) for key, m in manifests.items()]
    bonds = [*copies, *(recipes if kind == "recipe-disjoint" else sessions)]
    groups = joined_groups(manifests, bonds)
    if kind == "recipe-disjoint":
        stricter = joined_groups(manifests, [*bonds, *sessions])
        if len(stricter) >= len(PARTS):
            groups = stricter
        else:
            notes.append("sessions hold several recipes and cannot be kept whole too: some lie in more than one part")
    if len(groups) < 2:
        raise DetectorError(
            f"all {len(manifests)} welds hang together in one group (session, recipe or copies): a {kind} split needs "
            "several; record more sessions"
        )
    strata = {key: _stratum(m, kind, fractions) for key, m in manifests.items()}
    placed, deviation = share_out(groups, strata, seed)
    where = {key: placed[i] for i, group in enumerate(groups) for key in group}
    for i, group in enumerate(groups):
        if all(manifests[key].label < 0 and not manifests[key].described.get("set") for key in group):
            where |= dict.fromkeys(groups[i], PRETRAIN)
    absent = sorted(
        {s.name for s in strata.values() if "train" in s.allowed and s.fractions[0]}
        - {strata[key].name for key, part in where.items() if part == "train"}
    )
    if absent:
        notes.append(f"not in train, for want of groups: {', '.join(absent)}")
    missing = [c for i, c in enumerate(CLASSES) if all(m.label != i for m in manifests.values())]
    if kind == "supervised" and missing:
        notes.append(f"no weld at all of {len(missing)} of {len(CLASSES)} classes: {', '.join(missing)}")
    return where, deviation


def _stratum(manifest: Manifest, kind: Kind, fractions: tuple[float, float, float]) -> Stratum:
    """Tell where a weld may go, and which share of its like each part should have."""
    if manifest.described.get("set"):
        return Stratum(name=f"set {manifest.described['set']}", fractions=(0.0, 0.0, 1.0), allowed=("test",))
    if manifest.label < 0:
        return Stratum(name="unlabelled", fractions=(1.0, 0.0, 0.0), allowed=())
    name = CLASSES[manifest.label]
    if manifest.label == GOOD or kind == "supervised":
        return Stratum(name=name, fractions=fractions, allowed=PARTS)
    _, val, test = fractions
    rest = val + test
    return Stratum(
        name=name, fractions=(0.0, val / rest if rest else 0.0, test / rest if rest else 1.0), allowed=PARTS[1:]
    )


def _what(manifest: Manifest) -> str:
    if manifest.described.get("set"):
        return f"of the test set '{manifest.described['set']}'"
    return "unlabelled" if manifest.label < 0 else f"{CLASSES[manifest.label]}, and train takes good welds only"


def recipe_of(manifest: Manifest) -> str | None:
    """Name the recipe of a weld: as its metadata do, else by its settings; None where nothing is known."""
    now = manifest.described
    if now.get("recipe"):
        return str(now["recipe"])
    known = [f"{name}={_plain(now[name])}" for name in _RECIPE if now.get(name) not in (None, "")]
    return ", ".join(known) or None


def _plain(value: Any) -> str:
    try:
        return f"{float(value):g}"
    except (TypeError, ValueError):
        return str(value).strip().lower()


def media_digests(manifest: Manifest) -> dict[str, str]:
    """Give the digest of each recorded process stream's data, by stream."""
    return {
        name: manifest.files[record.files[0]]
        for name, record in manifest.streams.items()
        if record.info.modality != "post_images" and record.items and record.files and record.files[0] in manifest.files
    }


def digest_of(welds: Iterable[FoundWeld]) -> str:
    """Hash keys and contents of welds (XXH3-128, hex); labels and notes do not count, which may change."""
    lines = sorted({repr((w.manifest.key, sorted(media_digests(w.manifest).items()))) for w in welds})
    return xxhash.xxh3_128_hexdigest("\n".join(lines).encode())


def select(split: Split, welds: Sequence[FoundWeld], part: str, *, absent_ok: bool = False) -> list[FoundWeld]:
    """Give the welds of a part, by key.

    Raises:
        DetectorError: The split has no such part, or names welds that are not there (unless `absent_ok`).
    """
    if part not in split.parts:
        raise DetectorError(f"the split has no part '{part}'; use one of {', '.join(split.parts)}")
    keys = set(split.parts[part])
    absent = sorted(keys - {w.manifest.key for w in welds})
    if absent and not absent_ok:
        shown = ", ".join(absent[:10]) + (", ..." if len(absent) > 10 else "")
        raise DetectorError(
            f"{len(absent)} of {len(keys)} welds of '{part}' are not there: {shown}; name the folder that holds them, "
            "or allow absent ones"
        )
    return sorted((w for w in welds if w.manifest.key in keys), key=lambda w: (w.manifest.session, w.manifest.key))


def save_split(split: Split, path: Path) -> None:
    """Write a split as JSON, atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, msgspec.json.format(msgspec.json.encode(split), indent=1))


def load_split(path: Path) -> Split:
    """Read a split.

    Raises:
        DetectorError: The file is absent, malformed or of a newer schema, or names a weld twice.
    """
    try:
        data = path.read_bytes()
        schema = msgspec.json.decode(data, type=dict[str, Any]).get("schema")
        if isinstance(schema, int) and schema > SCHEMA:
            raise DetectorError(f"{path}: schema {schema} is newer than {SCHEMA}; use a newer version of the app")
        return msgspec.json.decode(data, type=Split)
    except OSError as error:
        raise DetectorError(f"{path}: {error.strerror}; make one with the command split") from error
    except msgspec.MsgspecError as error:
        raise DetectorError(f"{path}: is no split ({error}); make one with the command split") from error


def split_or_name(text: str | None) -> "Split | str | None":
    """Give what `--split` means: a split, where the text names a file, else a part that metadata name.

    Raises:
        DetectorError: The file is no split.
    """
    if text is None or (text.strip().lower() in PARTS and not Path(text).is_file()):
        return text
    return load_split(Path(text))


def chosen(
    welds: Sequence[FoundWeld], split: Split | str | None, parts: Sequence[str], *, absent_ok: bool = False
) -> list[FoundWeld]:
    """Give the welds of some parts of a split, of the part that their metadata name, or all; see `select`."""
    if isinstance(split, Split):
        return [weld for part in parts for weld in select(split, welds, part, absent_ok=absent_ok)]
    return [w for w in welds if split is None or _supplied(w.manifest) == split.strip().lower()]
