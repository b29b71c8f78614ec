"""Recovery: finish what a killed recorder left open, and say exactly what is missing."""

import contextlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypedDict

import av
import pyarrow as pa
import pyarrow.compute as pc

from acquisition.packet import CLOCKS_STREAM, EVENTS_STREAM
from recordings.audio_file import salvage_sound
from recordings.columns import BLOCKS
from recordings.finishing import finish, gap_losses, recorded_items, stream_table, sweep, sweep_parts, table_columns
from recordings.loss import FOUND_BY_TIME
from recordings.manifest import Loss, Manifest, StreamRecord
from recordings.marks import Mark, MarksFile, being_written, read_marks
from recordings.table_writer import read_table
from recordings.video_encoder import CODEC, CODEC_LOSSLESS
from recordings.video_file import salvage_video
from recordings.weld_folder import MARKS, WeldError, find_welds, load_manifest, member
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

    No sample is altered: media files are completed in a copy that is swapped in, tables keep the rows whose items
    exist. A weld that a living process records is left alone and reported.

    Raises:
        WeldError: There is no weld.
    """
    return [_recover_one(folder) for folder in find_welds(path)]


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
        manifest = load_manifest(folder)
        if being_written(folder / MARKS):
            problem = f"{folder}: is being recorded or finalised by a living process; stop that first"
            return RecoveryReport(path=folder, state=manifest.state, ok=False, problems=[problem])
        if manifest.state == "open":
            _finish_open(folder, manifest)
        else:
            sweep(folder, manifest)
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
    return RecoveryReport(path=folder, state=manifest.state, ok=True, losses=total_losses(manifest), problems=bounds)


def _finish_open(folder: Path, manifest: Manifest) -> None:
    """Trim the tables to what the media files hold, count the losses, and finish the weld."""
    sweep_parts(folder)
    marks = read_marks(folder / MARKS)
    tables = {
        stem: read_table(member(folder, f"{stem}.arrow"), columns) for stem, columns in table_columns(manifest).items()
    }
    losses: dict[str, list[Loss]] = {}
    for name, record in manifest.streams.items():
        stem = stream_table(record.info)[0]
        tables[stem] = _trimmed(folder, record, tables[stem])
        gaps = gap_losses(tables[EVENTS_STREAM], manifest).get(name, [])
        loss = _loss(name, record, tables[stem], marks, gaps)
        losses[name] = [] if loss is None else [loss]
    tables[CLOCKS_STREAM] = tables[CLOCKS_STREAM].sort_by("order")
    finish(folder, manifest, tables, losses, "recovered")


def _trimmed(folder: Path, record: StreamRecord, table: pa.Table) -> pa.Table:
    """Salvage the stream's media file and keep the rows whose items it holds."""
    info = record.info
    if info.modality == "video" and record.codec in (CODEC, CODEC_LOSSLESS):
        times = salvage_video(member(folder, record.files[0]))
        lost = pc.is_null(table["pts_us"])
        return table.filter(pc.or_(lost, pc.is_in(table["pts_us"], pa.array(sorted(times), pa.int64()))))
    if info.modality == "audio":
        left, rows = salvage_sound(member(folder, record.files[0]), info), []
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


def _loss(name: str, record: StreamRecord, table: pa.Table, marks: MarksFile | None, gaps: list[Loss]) -> Loss | None:
    """Compare what was received with what is on the disk.

    Within a segment items are numbered, so the loss is what lies between the last item on the disk and the last one
    received, less the gaps in between that an event on the disk already tells of.
    """
    info = record.info
    kept = table.filter(pc.is_valid(table["pts_us"])) if info.modality == "video" else table
    rows = kept.slice(max(0, kept.num_rows - 1)).to_pylist()
    row = rows[0] if rows else None
    mark = None if marks is None else marks.marks.get(name)
    if marks is not None and mark is None:
        return None
    first = 0 if row is None else _item_after(row)
    exact = mark is not None and marks is not None and marks.same_boot
    if mark is None:
        missing = 0
    elif row is not None and row["segment"] == mark.segment:
        told = (gap for gap in gaps if gap.first >= first and gap.reason not in FOUND_BY_TIME)
        missing = mark.item - first - sum(gap.missing for gap in told)
    elif row is None:
        missing, first = mark.items, mark.item - mark.items
    else:
        missing = mark.items - recorded_items(info, kept.filter(pc.greater_equal(kept["order"], _order(mark))))
        exact = exact and mark.first_order <= row["order"]
    if not exact:
        missing = max(missing, round(POWER_CUT_S * info.rate_hz))
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


def _order(mark: Mark) -> pa.Int64Scalar:
    return pa.scalar(mark.first_order, pa.int64())


def _item_after(row: dict[str, int]) -> int:
    """Return the number of the item after a table row."""
    if "first_sample" in row:
        return row["first_sample"] + row["n"]
    return row.get("row", row["seq"]) + 1
