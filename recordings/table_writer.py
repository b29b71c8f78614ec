"""A table that grows while it is recorded: an Arrow IPC stream, unbuffered, readable up to its last whole batch."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.ipc
import pyarrow.parquet

from recordings.manifest import LARGEST


class TableWriter:
    """Collects rows and writes them as one record batch at least every `flush_s` of packet arrival time.

    Attributes:
        path: The Arrow file, created with the first row.
        buffered_rows: Rows not yet written.
    """

    def __init__(self, path: Path, schema: pa.Schema, *, flush_s: float) -> None:
        self.path = path
        self.buffered_rows = 0
        self._schema = schema
        self._flush_ns = round(flush_s * 1e9)
        self._columns: dict[str, list[Any]] = {name: [] for name in schema.names}
        self._failed = False
        self._oldest_ns: int | None = None
        self._sink: pa.OSFile | None = None
        self._stream: pa.ipc.RecordBatchStreamWriter | None = None

    @property
    def buffered_bytes(self) -> int:
        """Estimate of the memory that the unwritten rows hold: eight bytes a value."""
        return self.buffered_rows * len(self._columns) * 8

    def append(self, *rows: Mapping[str, Any], now_ns: int) -> None:
        """Add the rows of one packet (absent columns are null) that arrived at `now_ns`; writes what is old enough.

        The rows of one packet always go into one batch, so a packet is on the disk as a whole or not at all.

        Raises:
            OSError: The file cannot be written.
        """
        for row in rows:
            for name, column in self._columns.items():
                column.append(row.get(name))
        self._added(len(rows), now_ns)

    def extend(self, columns: Mapping[str, Sequence[Any]], *, now_ns: int) -> None:
        """Add the rows of one packet as `append` does, given by column; every column is there, all of one length.

        Raises:
            OSError: The file cannot be written.
        """
        rows = 0
        for name, column in self._columns.items():
            column.extend(columns[name])
            rows = len(columns[name])
        self._added(rows, now_ns)

    def _added(self, rows: int, now_ns: int) -> None:
        self.buffered_rows += rows
        if self._oldest_ns is None:
            self._oldest_ns = now_ns
        if self._stream is None or now_ns - self._oldest_ns >= self._flush_ns:
            self.flush()

    def flush(self) -> None:
        """Write the rows collected so far as one record batch."""
        if not self.buffered_rows or self._failed:
            return
        if self._stream is None:
            self._sink = pa.OSFile(str(self.path), "wb")
            self._stream = pa.ipc.new_stream(self._sink, self._schema)
        arrays = [pa.array(self._columns[field.name], field.type) for field in self._schema]
        self._failed = True  # until it is whole: half a batch must not be followed by another
        self._stream.write_batch(pa.RecordBatch.from_arrays(arrays, schema=self._schema))
        self._failed = False
        for column in self._columns.values():
            column.clear()
        self.buffered_rows = 0
        self._oldest_ns = None

    def close(self) -> None:
        """Write the rest and the end-of-stream mark."""
        try:
            self.flush()
            if self._stream is not None and not self._failed:
                self._stream.close()
        finally:
            if self._sink is not None:
                self._sink.close()
            self._stream = self._sink = None


def read_table(path: Path, schema: pa.Schema) -> pa.Table:
    """Read every whole batch of an Arrow stream, however it ends, or a Parquet file; no file means no rows.

    Nullable columns that an earlier version did not write yet come back empty.

    Raises:
        OSError: The Parquet file is damaged.
        pyarrow.ArrowException: It is no table of this kind, or holds what none can hold.
    """
    if path.suffix == ".parquet":
        return _believable(_completed(pa.parquet.read_table(path, partitioning=None), schema).cast(schema))
    batches: list[pa.RecordBatch] = []
    try:
        with pa.OSFile(str(path), "rb") as source, pa.ipc.open_stream(source) as stream:
            while True:
                batches.append(stream.read_next_batch())
    except (StopIteration, OSError, pa.ArrowException):
        # A killed recorder leaves a stream without an end, or with half a batch: what came before it is whole.
        pass
    return _up_to_damage(batches, schema)


def _up_to_damage(batches: list[pa.RecordBatch], schema: pa.Schema) -> pa.Table:
    """Put batches together: all of them, or where one cannot be believed those before it."""
    if not batches:
        return schema.empty_table()
    try:
        table = _believable(_completed(pa.Table.from_batches(batches), schema))
    except pa.ArrowException:
        sound = next((n for n, batch in enumerate(batches) if not _sound(batch)), len(batches) - 1)
        return _up_to_damage(batches[:sound], schema)
    return table if table.schema.equals(schema) else schema.empty_table()


def _sound(batch: pa.RecordBatch) -> bool:
    try:
        _believable(pa.Table.from_batches([batch]))
    except pa.ArrowException:
        return False
    return True


def _believable(table: pa.Table) -> pa.Table:
    """Refuse text that is none, and numbers so large that adding two of them overflows: bytes that were changed."""
    table.validate(full=True)
    for field in table.schema:
        if pa.types.is_int64(field.type) and table.num_rows:
            least, most = pc.min(table[field.name]).as_py(), pc.max(table[field.name]).as_py()
            if least is not None and not -LARGEST <= least <= most <= LARGEST:
                raise pa.ArrowInvalid(f"column {field.name} holds {least} to {most}")
    return table


def _completed(table: pa.Table, schema: pa.Schema) -> pa.Table:
    for field in schema:
        if field.nullable and field.name not in table.column_names:
            table = table.append_column(field, pa.nulls(table.num_rows, field.type))
    return table
