"""What an export did, what it had to leave out, and why a weld was skipped."""

from dataclasses import dataclass, field
from typing import TypedDict


class ExportError(Exception):
    """An export as a whole cannot be done; the message names the path, the cause and the next step."""


class SkippedWeld(TypedDict):
    """A weld that was not exported."""

    key: str
    reason: str


class ExportWarning(TypedDict):
    """Something that an exported weld does not hold as it was recorded."""

    key: str
    what: str


@dataclass(slots=True, kw_only=True)
class ExportReport:
    """What an export did.

    Attributes:
        exported: Keys of the welds written now.
        present: Keys of the welds that an earlier run had exported; they are as they were and are left alone.
        skipped: Welds that were not exported.
        warnings: What the exported welds hold less exactly than recorded.
        limits: What the format cannot hold at all, whatever the weld.
        lossy: A weld was skipped, or measured items of an exported one were left out or changed.
    """

    exported: list[str] = field(default_factory=list)
    present: list[str] = field(default_factory=list)
    skipped: list[SkippedWeld] = field(default_factory=list)
    warnings: list[ExportWarning] = field(default_factory=list)
    limits: list[str] = field(default_factory=list)
    lossy: bool = False

    def skip(self, key: str, reason: str) -> None:
        """Note a weld that was not exported."""
        self.skipped.append(SkippedWeld(key=key, reason=reason))
        self.lossy = True
