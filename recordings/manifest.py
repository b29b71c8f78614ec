"""`weld.json`: what a weld folder holds, written first and replaced atomically ever after."""

from typing import Annotated, Any, Final, Literal

import msgspec

from acquisition.packet import StreamInfo

SCHEMA: Final = 2
"""Version of the weld folder; a reader refuses a larger one."""

LARGEST: Final = 2**62
"""Largest number in a weld's files: times of a century and counts of anything stay far below."""

Int64 = Annotated[int, msgspec.Meta(ge=-LARGEST, le=LARGEST)]
"""An integer that every reader of the weld can hold, and add another to; JSON knows larger ones."""

Count = Annotated[int, msgspec.Meta(ge=0, le=LARGEST)]

Label = Annotated[int, msgspec.Meta(ge=-1, le=11)]
"""A class of Weld-4M, or -1 for unknown (`recordings.verdict.CLASSES`)."""


class Loss(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Items of one stream that were never recorded, located.

    Attributes:
        t_ns: Cell time at which the gap begins, or None when it cannot be known.
        first: Item number of the first lost item.
        missing: Number of lost items.
        seconds: Their nominal duration.
        reason: Why (`device`, `overrun`, `unplugged`, `frozen`, `killed`, ...).
        exact: False when the count is a stated bound and not a fact.
    """

    t_ns: Int64 | None
    first: Int64
    missing: Count
    seconds: float
    reason: str
    exact: bool = True


class StreamRecord(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """One stream of a weld.

    Attributes:
        info: The stream's description.
        files: File names of the stream, data first, then its index.
        codec: How the data file is coded (`h264`, `h264-lossless`, `mpeg4`, `flac`, `parquet`, `arrow`, `files`).
        limited_range: Video luma is coded 16-235 and is expanded once on reading (imported video only).
        items: Frames, sample instants, rows or photos recorded.
        losses: What is missing.
    """

    info: StreamInfo
    files: list[str]
    codec: str
    limited_range: bool = False
    items: Count = 0
    losses: list[Loss] = msgspec.field(default_factory=list)


class UtcPair(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One moment on the cell clock and in UTC, read together.

    Attributes:
        monotonic_ns: Cell clock.
        utc_ns: UTC, nanoseconds since 1970.
        uncertainty_ns: Half the time that reading both took, or a larger figure where it was inferred.
    """

    monotonic_ns: Int64
    utc_ns: Int64
    uncertainty_ns: Int64


class LabelEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A class label given to the weld; the last one counts.

    Attributes:
        label: 0-11, or -1 for "unknown again".
        by: Who said so (an operator, `simulated`, `manifest`, `id`).
        utc: When, ISO 8601 in UTC.
    """

    label: Label
    by: str
    utc: str


class MetadataEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One thing said about the weld after it was recorded; the last entry of a name counts.

    Attributes:
        name: What it is about (`part`, `program`, `notes`, ...).
        value: What holds now; None takes the name away.
        by: Who said so.
        utc: When, ISO 8601 in UTC.
    """

    name: str
    value: str | float | Int64 | bool | None
    by: str
    utc: str


class Manifest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Everything about a weld that is not a stream.

    Attributes:
        schema: `SCHEMA`.
        key: Weld key, unique within a root (`<date>T<time>Z-<n>` for captured welds, `DIRECTORY/id` for imported ones).
        cell: Cell name from the cell file; calibration binds to it. Imported welds have the cell `imported`.
        session: Session name (production shift, simulated session, imported directory).
        state: `open` while recording, `finalised` when complete, `recovered` when finished by `recover`.
        streams: Device streams by name.
        files: XXH3-128 (hex) per finalised file, by name relative to the folder.
        utc: (monotonic, UTC) pairs at start and end.
        first_order: `order` of the first packet of the weld.
        last_order: `order` of the last process packet, or None while open.
        arc_on_ns: Cell time of arc-on, or None.
        arc_off_ns: Cell time of arc-off, or None.
        origin_ns: Cell time of the weld's first sample; seconds "into the weld" count from here.
        labels: Label history.
        metadata: part, material, thickness_mm, operator, program, notes and whatever an importer found, as recorded.
        edits: What was said about the weld later; `described` has both together.
        source: `live`, `simulated` or `imported`.
        inferred: What was inferred and not measured, in plain words.
        replacing: Digest of a file's new contents while they are swapped in, by name: a crash leaves the old file or
            the new one, and either is right.
    """

    schema: int = SCHEMA
    key: str
    cell: str
    session: str
    state: Literal["open", "finalised", "recovered"]
    streams: dict[str, StreamRecord]
    files: dict[str, str] = msgspec.field(default_factory=dict)
    utc: list[UtcPair] = msgspec.field(default_factory=list)
    first_order: Int64
    last_order: Int64 | None = None
    arc_on_ns: Int64 | None = None
    arc_off_ns: Int64 | None = None
    origin_ns: Int64
    labels: list[LabelEntry] = msgspec.field(default_factory=list)
    metadata: dict[str, Any] = msgspec.field(default_factory=dict)
    edits: list[MetadataEntry] = msgspec.field(default_factory=list)
    source: Literal["live", "simulated", "imported"] = "live"
    inferred: list[str] = msgspec.field(default_factory=list)
    replacing: dict[str, str] = msgspec.field(default_factory=dict)

    @property
    def label(self) -> int:
        """The label that counts now, -1 for unknown."""
        return self.labels[-1].label if self.labels else -1

    @property
    def described(self) -> dict[str, Any]:
        """The metadata that count now: as recorded, with every later edit."""
        now = dict(self.metadata)
        for entry in self.edits:
            now[entry.name] = entry.value
        return {name: value for name, value in now.items() if value is not None}
