"""Export of recorded welds to the formats of others; the welds themselves are only read.

Nothing is altered silently: what a format cannot hold is in the report, per format and per weld.
"""

from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, Final, Protocol

from recordings.export_fault import UNUSABLE, reason
from recordings.export_place import Destination
from recordings.export_report import ExportError, ExportReport
from recordings.export_source import ExportSource
from recordings.weld_folder import WeldError, find_welds

FORMATS: Final = ("lerobot", "mcap", "bundle", "weld4m")


class WeldFormat(Protocol):
    """A format in which every weld is files of its own.

    Attributes:
        overall: Names of what stands over all welds.
        limits: What it cannot hold, whatever the weld.
    """

    overall: tuple[str, ...]
    limits: tuple[str, ...]

    def write(self, weld: ExportSource, place: Destination) -> tuple[list[str], dict[str, Any]]:
        """Write a weld below `place.staging`; returns the names to move, and its row (`LedgerEntry`)."""
        ...

    def finish(self, place: Destination) -> None:
        """Write what stands over all welds."""
        ...


def export_welds(
    welds: Sequence[Path],
    destination: Path,
    format: str,
    *,
    progress: Callable[[int, int], None] | None = None,
    csv_quirks: Collection[str] = (),
) -> ExportReport:
    """Export welds; one that cannot be exported is skipped with its reason, and the rest goes on.

    A second run goes on where a killed one stopped (LeRobot: starts anew). Nothing that exists is overwritten.

    Args:
        welds: Weld folders or recordings roots.
        destination: A folder, new or of an earlier export to the same format.
        format: One of `FORMATS`.
        progress: Called with (welds done, welds in all) after each weld.
        csv_quirks: Weld-4M only: spellings of the sensor files that its users have, `export_weld4m_csv.CSV_QUIRKS`.

    Raises:
        ExportError: The format is unknown, or the destination cannot be written (any further).
    """
    if format not in FORMATS:
        raise ExportError(f"format {format!r} is unknown; use one of {', '.join(FORMATS)}")
    report = ExportReport()
    folders = _folders(welds, report)
    inside = next((folder for folder in folders if destination.resolve().is_relative_to(folder.resolve())), None)
    if inside is not None:
        raise ExportError(f"{destination}: lies in the weld {inside}; name another destination")
    if format == "lerobot":
        from recordings.export_lerobot import export_lerobot

        export_lerobot(folders, destination, report, progress)
        return report
    writer = _writer(format, csv_quirks)
    report.limits += writer.limits
    place = Destination(destination, format)
    try:
        place.claim(writer.overall)
        for done, folder in enumerate(folders, start=1):
            _export_one(folder, writer, place, report)
            if progress is not None:
                progress(done, len(folders))
        writer.finish(place)
    except OSError as error:
        raise ExportError(f"{destination}: {error.strerror or error}; make room or name another destination") from error
    finally:
        place.close()
    return report


def _folders(welds: Sequence[Path], report: ExportReport) -> list[Path]:
    found: dict[Path, None] = {}
    for path in welds:
        try:
            found.update(dict.fromkeys(find_welds(path)))
        except WeldError as error:
            report.skip(str(path), str(error))
    return list(found)


def _writer(format: str, csv_quirks: Collection[str]) -> WeldFormat:
    if format == "mcap":
        from recordings.export_mcap import McapFormat

        return McapFormat()
    if format == "bundle":
        from recordings.export_bundle import BundleFormat

        return BundleFormat()
    from recordings.export_weld4m import Weld4MFormat

    return Weld4MFormat(frozenset(csv_quirks))


def _export_one(folder: Path, writer: WeldFormat, place: Destination, report: ExportReport) -> None:
    """Export one weld, or say why not.

    Raises:
        OSError: The destination cannot be written any further.
    """
    key = folder.name
    try:
        weld = ExportSource(folder)
        key = weld.manifest.key
        if place.is_done(key, weld.digest):
            report.present.append(key)
            return
        weld.check()
        names, row = writer.write(weld, place)
        place.put(key, weld.digest, names, row)
    except UNUSABLE as error:
        if place.gave_out(error):
            raise
        report.skip(key, reason(error))
    else:
        report.exported.append(key)
        weld.tell(report)
    finally:
        if place.staging.is_dir():
            place.clear()
