"""Recovery: finish what a killed recorder left open, and say exactly what is missing."""

import contextlib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypedDict

import av
import pyarrow as pa
import pyarrow.compute as pc

from acquisition.packet import CLOCKS_STREAM, EVENTS_STREAM
from recordings.audio_file import salvage_sound
from recordings.columns import BLOCKS
from recordings.finishing import finish, gap_losses, recorded_items, stream_table, sweep, sweep_parts, table_columns
from recordings.folder_lock import locked
from recordings.late_additions import settle
from recordings.loss import FOUND_BY_TIME
from recordings.manifest import Loss, Manifest, StreamRecord
from recordings.marks import Mark, MarksFile, being_written, read_marks
from recordings.preroll_rebuild import rebuild_openings
from recordings.table_writer import read_table
from recordings.video_encoder import CODEC, CODEC_LOSSLESS
from recordings.video_file import salvage_video
from recordings.weld_folder import (
    MARKS,
    PHOTOS,
    WeldError,
    data_file,
    find_welds,
    load_manifest,
    member,
    store_manifest,
)
from recordings.weld_writer import POWER_CUT_S


class StreamLoss(TypedDict):
    """What one stream lacks in all: items and their nominal duration."""

    seconds: float
    items: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RecoveryReport:
    """What became of one weld.

    Attributes:
        path: The weld folder.
        state: The weld's state now.
        ok: It can be read.
        losses: Per stream that lacks items, whatever the reason.
        problems: One line each.
    """

    path: Path
    state: str
    ok: bool
    losses: dict[str, StreamLoss] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


def recover(path: Path) -> list[RecoveryReport]:
    """Finish every open weld at or below `path`; running it again changes nothing.

    A weld that died while it was being opened is first written anew from the spool of its pre-roll. No sample is
    altered: media files are completed in a copy that is swapped in, tables keep the rows whose items exist. A weld that
    a living process records is left alone and reported.

    Raises:
        WeldError: There is no weld.
    """
    unbuilt = rebuild_openings(path)
    reports = [_recover_one(folder) for folder in find_welds(path)]
    return [*reports, *(RecoveryReport(path=path, state="unreadable", ok=False, problems=[line]) for line in unbuilt)]


def total_losses(manifest: Manifest) -> dict[str, StreamLoss]:
    """Sum up the losses of every stream that has any."""
    return {
        name: StreamLoss(
            seconds=sum(loss.seconds for loss in record.losses), items=sum(loss.missing for loss in record.losses)
        )
        for name, record in manifest.streams.items()
        if record.losses
    }


def _recover_one(folder: Path) -> RecoveryReport:
    try:
        with locked(folder):
            manifest = load_manifest(folder)
            if being_written(folder / MARKS):
                problem = f"{folder}: is being recorded or finalised by a living process; stop that first"
                return RecoveryReport(path=folder, state=manifest.state, ok=False, problems=[problem])
            said = _finish_open(folder, manifest) if manifest.state == "open" else _tidy(folder, manifest)
    except TimeoutError:
        problem = f"{folder}: is being changed by another program; wait for it and recover it again"
        return RecoveryReport(path=folder, state="unreadable", ok=False, problems=[problem])
    except (WeldError, OSError, av.FFmpegError, pa.ArrowException) as error:
        with contextlib.suppress(OSError):
            sweep_parts(folder)
        line = str(error).splitlines()[0]
        problem = line if isinstance(error, WeldError) else f"{folder}: {line}; make room and recover it again"
        return RecoveryReport(path=folder, state="unreadable", ok=False, problems=[problem])
    bounds = [
        f"{name}: the loss of {loss.seconds:.2f} s is a bound, not a count ({loss.reason})"
        for name, record in manifest.streams.items()
        for loss in record.losses
        if not loss.exact
    ]
    return RecoveryReport(
        path=folder, state=manifest.state, ok=True, losses=total_losses(manifest), problems=said + bounds
    )


def _tidy(folder: Path, manifest: Manifest) -> list[str]:
    """Bring what was added to a finished weld to an end, and remove what only its recording needed."""
    said = settle(folder, manifest)
    if said:
        store_manifest(folder, manifest)
    sweep(folder, manifest)
    return said


def _finish_open(folder: Path, manifest: Manifest) -> list[str]:
    """Trim the tables to what the media files hold, count the losses, and finish the weld; tells what is odd."""
    sweep_parts(folder)
    marks = read_marks(folder / MARKS)
    tables = {
        stem: read_table(member(folder, f"{stem}.arrow"), columns) for stem, columns in table_columns(manifest).items()
    }
    closed_ns = _closed_ns(tables[EVENTS_STREAM], manifest.key)
    found: dict[str, pa.Table] = {}
    for name, record in manifest.streams.items():
        stem = stream_table(record.info)[0]
        table = found[name] = tables[stem] = _trimmed(folder, record, tables[stem])
        if marks is not None and _is_behind(marks.marks.get(name), _received(record, table)):
            marks = replace(marks, same_boot=False)  # of the same boot, and yet lost: the disk itself failed
    losses: dict[str, list[Loss]] = {}
    for name, record in manifest.streams.items():
        gaps = gap_losses(tables[EVENTS_STREAM], manifest).get(name, [])
        loss = _loss(name, record, found[name], marks, gaps, closed_ns)
        losses[name] = [] if loss is None else [loss]
    tables[CLOCKS_STREAM] = tables[CLOCKS_STREAM].sort_by("order")
    finish(folder, manifest, tables, losses, "recovered")
    return [f"{path}: came just before the end and is in no table; it is kept" for path in _orphans(folder, manifest)]


def _orphans(folder: Path, manifest: Manifest) -> list[Path]:
    """List photos that were stored and whose row never reached the disk."""
    listed = {folder / name for record in manifest.streams.values() for name in record.files}
    return sorted(set(member(folder, PHOTOS).glob("*")) - listed)


def _trimmed(folder: Path, record: StreamRecord, table: pa.Table) -> pa.Table:
    """Salvage the stream's media file and keep the rows whose items it holds."""
    info = record.info
    if info.modality == "video" and record.codec in (CODEC, CODEC_LOSSLESS):
        times = salvage_video(data_file(folder, record))
        lost = pc.is_null(table["pts_us"])
        return table.filter(pc.or_(lost, pc.is_in(table["pts_us"], pa.array(sorted(times), pa.int64()))))
    if info.modality == "audio":
        left, rows = salvage_sound(data_file(folder, record), info), []
        for row in table.to_pylist():
            if left < row["n"]:
                rows += [{**row, "n": left}] if left else []
                break
            rows.append(row)
            left -= row["n"]
        return pa.Table.from_pylist(rows, BLOCKS)
    if info.modality == "post_images":
        present = [member(folder, str(name)).exists() for name in table["file"].to_pylist()]
        return table.filter(pa.array(present, pa.bool_()))
    return table


def _closed_ns(events: pa.Table, key: str) -> int | None:
    """When the weld closed, if an event on the disk tells."""
    rows = [row for row in events.to_pylist() if row["kind"] == "weld_close" and row["weld"] == key]
    return rows[-1]["t_arrival_ns"] if rows else None


def _loss(
    name: str, record: StreamRecord, table: pa.Table, marks: MarksFile | None, gaps: list[Loss], closed_ns: int | None
) -> Loss | None:
    """Compare what was received with what is on the disk.

    Within a segment items are numbered, so the loss is what lies between the last item on the disk and the last one
    received, less the gaps in between that an event on the disk already tells of. After a power cut it is a bound: what
    one may cost, and no more than fits between the last item and the closing of the weld.
    """
    info = record.info
    kept = _received(record, table)
    rows = kept.slice(max(0, kept.num_rows - 1)).to_pylist()
    row = rows[0] if rows else None
    mark = None if marks is None else marks.marks.get(name)
    if marks is not None and marks.same_boot and mark is None:
        return None
    first = 0 if row is None else _item_after(row)
    exact = mark is not None and marks is not None and marks.same_boot
    if mark is None:
        missing = 0
    elif info.modality == "post_images":  # numbered across welds
        missing = mark.items - kept.num_rows
    elif row is not None and row["segment"] == mark.segment:
        told = (gap for gap in gaps if gap.first >= first and gap.reason not in FOUND_BY_TIME)
        missing = mark.item - first - sum(gap.missing for gap in told)
    elif row is None:
        missing, first = mark.items, mark.item - mark.items
    else:
        missing = mark.items - recorded_items(info, kept.filter(pc.greater_equal(kept["order"], _order(mark))))
        exact = exact and mark.first_order <= row["order"]
    if not exact:
        open_s = POWER_CUT_S
        if row is not None and closed_ns is not None:
            open_s = min(open_s, (closed_ns - row["t_arrival_ns"]) / 1e9)
        missing = max(missing, int(open_s * info.rate_hz))
    if missing <= 0:
        return None
    return Loss(
        t_ns=None if row is None else row["t_arrival_ns"],
        first=first,
        missing=missing,
        seconds=missing / info.rate_hz if info.rate_hz else 0.0,
        reason="killed" if exact else "power cut",
        exact=exact,
    )


def _received(record: StreamRecord, table: pa.Table) -> pa.Table:
    """Leave out the rows that stand for gaps."""
    return table.filter(pc.is_valid(table["pts_us"])) if record.info.modality == "video" else table


def _is_behind(mark: Mark | None, table: pa.Table) -> bool:
    """Tell whether a mark is older than what is on the disk, which it never is after a kill."""
    newest = pc.max(table["order"]).as_py()
    return newest is not None and (mark is None or mark.last_order < newest)


def _order(mark: Mark) -> pa.Int64Scalar:
    return pa.scalar(mark.first_order, pa.int64())


def _item_after(row: dict[str, int]) -> int:
    """Return the number of the item after a table row."""
    if "first_sample" in row:
        return row["first_sample"] + row["n"]
    return row.get("row", row["seq"]) + 1
