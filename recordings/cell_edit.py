"""Writing measured latencies into a cell file: one line per stream, everything else of the file stays as it is."""

import copy
import re
import tomllib
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

from recordings.cell import LONGEST_MS, CellError
from recordings.weld_folder import replace_file


def write_latencies(path: Path, latencies_ms: Mapping[str, float]) -> bool:
    """Put `latency_ms` into the `[[stream]]` tables of a cell file, comments and all other lines untouched.

    The file is replaced atomically. Latencies are kept to a microsecond.

    Args:
        path: The cell file.
        latencies_ms: Latency by stream name.

    Returns:
        Whether the file had to change.

    Raises:
        CellError: The file cannot be read or written, lacks one of the streams, or cannot be edited line by line.
    """
    try:
        old = path.read_bytes().decode()
        tables = tomllib.loads(old)
    except (OSError, ValueError) as error:
        raise CellError(f"{path}: cannot be edited ({error}); name a cell file that loads") from error
    wanted, text = copy.deepcopy(tables), old
    for name, latency_ms in latencies_ms.items():
        if not abs(latency_ms) <= LONGEST_MS:
            raise CellError(f"{path}: a latency of {latency_ms:g} ms for '{name}' is no latency; look at the welds")
        stream = _stream(path, wanted, name)
        stream["latency_ms"] = round(latency_ms, 3)
        text = _with_latency(text, name, stream["latency_ms"])
    if wanted == tables:
        return False
    try:
        edited = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        edited = {}
    if edited != wanted:
        lines = ", ".join(f"'{name}' {latency_ms:.3f}" for name, latency_ms in latencies_ms.items())
        raise CellError(f"{path}: its streams are not written as [[stream]] tables; write latency_ms yourself: {lines}")
    try:
        replace_file(path.resolve(), text.encode())
    except OSError as error:
        raise CellError(f"{path}: cannot be written ({error.strerror}); make it writable") from error
    return True


def _stream(path: Path, tables: Mapping[str, Any], name: str) -> dict[str, Any]:
    streams: list[dict[str, Any]] = tables.get("stream", [])
    for stream in streams:
        if stream.get("name") == name:
            return stream
    known = ", ".join(str(stream.get("name")) for stream in streams) or "none"
    raise CellError(
        f"{path}: has no stream '{name}', only {known}; name the cell file that the welds were recorded with"
    )


def _with_latency(text: str, name: str, latency_ms: float) -> str:
    """Set the line of one stream, in its table or after its name."""
    lines = text.splitlines(keepends=True)
    headers = [n for n, line in enumerate(lines) if re.match(r"\s*\[", line)] + [len(lines)]
    this = re.compile(rf"\s*name\s*=\s*([\"']){re.escape(name)}\1\s*(#.*)?$")
    for begin, end in pairwise(headers):
        table = range(begin + 1, end)
        named = [n for n in table if this.match(lines[n].rstrip())]
        if not re.match(r"\s*\[\[\s*stream\s*\]\]", lines[begin]) or not named:
            continue
        for n in table:
            found = re.match(r"(\s*latency_ms\s*=\s*)([^\s#]+)(.*)", lines[n], re.DOTALL)
            if found:
                same = tomllib.loads(f"value = {found[2]}")["value"] == latency_ms
                lines[n] = lines[n] if same else f"{found[1]}{latency_ms}{found[3]}"
                return "".join(lines)
        ending = "\r\n" if lines[begin].endswith("\r\n") else "\n"
        after = lines[named[0]]
        lines[named[0]] = f"{after.rstrip()}{ending}latency_ms = {latency_ms}{ending}"
        return "".join(lines)
    return text
