"""Import of recorded Weld-4M welds: what others stored becomes an ordinary weld folder, replayed and judged as such.

Nothing measured is changed: the video stays the file that it was, sound keeps every sample, sensors every value, photos
every byte. What the files do not say (a common start, the times of sensor rows, the class) is inferred, and `weld.json`
says so.
"""

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypedDict

from recordings.weld4m_content import UnreadableWeldError, WeldContent, read_content
from recordings.weld4m_packets import CELL, VIDEO_FILE, weld_manifest, weld_packets
from recordings.weld4m_tree import FoundWeld, find_welds
from recordings.weld_folder import RecordingError
from recordings.weld_writer import WeldWriter


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
        skipped: Welds that were not imported.
        warnings: What was odd or unreadable in imported welds.
        lossy: A weld was skipped, or something in an imported one cannot be read.
    """

    imported: list[str] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    warnings: list[Oddity] = field(default_factory=list)
    lossy: bool = False


def import_welds(
    source: Path,
    destination: Path,
    *,
    dry_run: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> ImportReport:
    """Import every weld of a Weld-4M source into a recordings root.

    Args:
        source: A Weld-4M tree, a folder of files named by id, or one weld's file.
        destination: Recordings root; a weld goes to `imported/<date of the id>/<DIRECTORY>/<id>` below it.
        dry_run: Read and check everything, write nothing.
        progress: Called with (welds done, welds in all) after each weld.

    Raises:
        SourceError: The source as a whole cannot be read.
        RecordingError: The destination cannot be written any further; finished welds stay.
    """
    found = list(find_welds(source))
    report = ImportReport()
    for done, weld in enumerate(found, start=1):
        folder = destination / CELL / weld.date / weld.key
        try:
            if weld.problems:
                raise UnreadableWeldError("; ".join(weld.problems))
            if folder.exists():
                raise UnreadableWeldError(f"is already in {folder}; remove that folder to import it again")
            content = read_content(weld)
            report.warnings += [Oddity(key=weld.key, what=what) for what in (*content.unreadable, *content.warnings)]
            report.lossy |= bool(content.unreadable)
            if not dry_run:
                _write(weld, content, folder)
            report.imported.append(weld.key)
        except UnreadableWeldError as error:
            report.skipped.append(Skipped(key=weld.key, reason=str(error)))
            report.lossy = True
        if progress is not None:
            progress(done, len(found))
    return report


def _write(weld: FoundWeld, content: WeldContent, folder: Path) -> None:
    """Write the weld beside its place and move it there when it is whole."""
    staging = folder.with_name(f".{folder.name}.importing")
    shutil.rmtree(staging, ignore_errors=True)
    writer = WeldWriter(staging, weld_manifest(weld, content), {})
    try:
        if content.video is not None:
            shutil.copyfile(weld.files["video"], staging / VIDEO_FILE)
        for item in weld_packets(weld, content):
            writer.write(item)
        writer.finalise()
        staging.rename(folder)
    except BaseException as error:
        writer.abandon()
        shutil.rmtree(staging, ignore_errors=True)
        if isinstance(error, OSError):
            raise RecordingError(f"{folder}: {error.strerror}; make room or name another root") from error
        raise
