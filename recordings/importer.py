"""Import of recorded Weld-4M welds: what others stored becomes an ordinary weld folder, replayed and judged as such.

Nothing measured is changed: the video stays the file that it was, sound keeps every sample, sensors every value, photos
every byte unless their label is to be masked. What the files do not say (when each stream began, the times of sensor
rows, the class) is inferred, and `weld.json` says so. An import that was killed goes on where it stopped.
"""

import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypedDict

from recordings.folder_lock import locked
from recordings.import_one import STAGING, ImportOptions, Outcome
from recordings.import_workers import import_all
from recordings.weld4m_glance import NOT_CHECKED
from recordings.weld4m_packets import CELL
from recordings.weld4m_photos import Region
from recordings.weld4m_tree import find_welds
from recordings.weld_folder import RecordingError


class Skipped(TypedDict):
    """A weld that was not imported."""

    key: str
    reason: str


class Oddity(TypedDict):
    """Something about an imported weld that its owner should know."""

    key: str
    what: str


@dataclass(slots=True, kw_only=True)
class ImportReport:
    """What an import did.

    Attributes:
        imported: Keys of the imported welds.
        already: Keys of welds that an earlier import had brought, with the same content.
        skipped: Welds and folders that were not imported.
        warnings: What was odd or unreadable in imported welds.
        absent: Per imported weld, the modalities that the source does not hold; no loss.
        offsets: Per imported weld and stream, how it was placed in time.
        rows_without_weld: Keys in the manifest for which no file is there.
        notes: What holds for the source or the import as a whole.
        lossy: A weld was skipped, or something in an imported one cannot be read.
    """

    imported: list[str] = field(default_factory=list)
    already: list[str] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    warnings: list[Oddity] = field(default_factory=list)
    absent: dict[str, list[str]] = field(default_factory=dict)
    offsets: dict[str, dict[str, Any]] = field(default_factory=dict)
    rows_without_weld: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    lossy: bool = False


def import_welds(
    source: Path,
    destination: Path,
    *,
    dry_run: bool = False,
    check: bool = False,
    link: bool = False,
    mask: Sequence[Region] = (),
    workers: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> ImportReport:
    """Import every weld of a Weld-4M source into a recordings root.

    Args:
        source: A Weld-4M tree, a folder of files named by id, or one weld's file.
        destination: Recordings root; a weld goes to `imported/<date of the id>/<DIRECTORY>/<id>` below it.
        dry_run: Report only, from names, heads and sensor files; write nothing.
        check: With `dry_run`, decode everything too.
        link: Hard links instead of copies of video and photos, where both are on one file system.
        mask: Regions of every photo that are painted over.
        workers: Processes to import in; 0 works in this one, without a bound on how long a decoder may take.
        progress: Called with (welds done, welds in all) after each weld.

    Raises:
        SourceError: The source as a whole cannot be read.
        RecordingError: The destination cannot be written any further, or another import writes it; finished welds stay.
    """
    found = find_welds(source)
    report = ImportReport(rows_without_weld=list(found.rows_without_weld), notes=list(found.notes))
    report.skipped = [Skipped(key=key, reason=reason) for key, reason in found.refused]
    options = ImportOptions(dry_run=dry_run, check=check, link=link, mask=tuple(mask))
    outcomes = []
    with (
        nullcontext() if dry_run else _alone(destination),
        closing(import_all(found.welds, destination, options, workers=workers)) as work,
    ):
        for done, outcome in enumerate(work, start=1):
            if outcome.broken:
                raise RecordingError(str(outcome.reason))
            outcomes.append(outcome)
            if progress is not None:
                progress(done, len(found.welds))
    _tell(report, sorted(outcomes, key=lambda outcome: outcome.key))
    if dry_run and not check:
        report.notes.append(NOT_CHECKED)
    return report


def _tell(report: ImportReport, outcomes: Iterable[Outcome]) -> None:
    copied: dict[str, int] = {}
    for one in outcomes:
        if one.reason is not None:
            report.skipped.append(Skipped(key=one.key, reason=one.reason))
            continue
        (report.already if one.already else report.imported).append(one.key)
        report.warnings += [Oddity(key=one.key, what=what) for what in (*one.unreadable, *one.warnings)]
        report.lossy |= bool(one.unreadable)
        if one.absent:
            report.absent[one.key] = one.absent
        if one.offsets:
            report.offsets[one.key] = one.offsets
        if one.copied is not None:
            copied[one.copied] = copied.get(one.copied, 0) + 1
    report.lossy |= bool(report.skipped)
    report.notes += [f"files of {n} welds were copied, not linked: {why}" for why, n in copied.items()]


@contextmanager
def _alone(destination: Path) -> Iterator[None]:
    """Keep other imports out of a destination, and sweep what a killed one has left there."""
    folder = destination / CELL
    with ExitStack() as stack:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            stack.enter_context(locked(folder, wait_s=0.0))
        except TimeoutError:
            raise RecordingError(f"{folder}: another import writes there; wait for it") from None
        except OSError as error:
            raise RecordingError(f"{folder}: {error.strerror}; make room or name another root") from error
        for left in folder.glob(f"*/*/.*{STAGING}"):
            shutil.rmtree(left, ignore_errors=True)
        yield
