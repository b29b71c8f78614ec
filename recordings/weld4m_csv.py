"""Sensor CSV files of Weld-4M: six named channels, with or without a time column, with every oddity that users have.

Two dialects exist: (a) LF, `Date` and `Time` columns in naive local time, ten header fields but nine per row;
(b) CRLF, the six numeric columns and no time at all. Other spellings of the same thing are read too: a BOM, `;` or tab
between fields with a decimal comma, other cases and aliases of the names, columns in another order, blank rows.
"""

import contextlib
import csv
import io
import re
from bisect import bisect_left
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from acquisition.packet import SENSOR_CHANNELS
from recordings.weld4m_files import FileError, read_bounded

_ALIASES: Final[dict[str, tuple[str, ...]]] = {
    "pressure_bar": ("pressure", "pressure bar", "gas pressure"),
    "co2_flow_l_min": ("co2 weld flow", "co2 flow", "co2 flow l min", "gas flow"),
    "feed": ("feed", "wire feed"),
    "current_a": ("primary weld current", "weld current", "current", "current a"),
    "wire_mm": ("wire consumed", "wire", "wire mm"),
    "voltage_v": ("secondary weld voltage", "weld voltage", "voltage", "voltage v"),
}
_VERBATIM: Final = dict(
    zip(
        SENSOR_CHANNELS,
        ("Pressure", "CO2 Weld Flow", "Feed", "Primary Weld Current", "Wire Consumed", "Secondary Weld Voltage"),
        strict=True,
    )
)
_CLOCK: Final = r" +(?P<hour>\d{1,2}):(?P<minute>\d{1,2}):(?P<second>\d{1,2})(?:\.(?P<fraction>\d{1,9}))?"
_STAMPS: Final = tuple(
    re.compile(date + _CLOCK, re.ASCII)
    for date in (
        r"(?P<month>\d{1,2})/(?P<day>\d{1,2})/(?P<year>\d{4})",
        r"(?P<year>\d{4})-(?P<month>\d{1,2})-(?P<day>\d{1,2})",
    )
)
_HALF_DAY_NS: Final = 12 * 3600 * 10**9
_MAX_BYTES: Final = 32 * 2**20
_MAX_LINE: Final = 2**16


class SensorFileError(Exception):
    """A sensor file cannot be used; the message names file, line, value and next step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SensorFile:
    """What a sensor CSV holds.

    Attributes:
        values: `(n, 6)` float64 in the order of `SENSOR_CHANNELS`; NaN where a field is empty. Negative and saturated
            values are kept as they are.
        t_ns: `(n,)` int64 strictly increasing time since the first row, or None where the file has no usable times.
        started_local: Naive local date and time of the first row as written, or None.
        part: The part number, where all rows agree on one.
        cut_off: The last row is incomplete and left out.
        warnings: What was odd, one line each.
    """

    values: npt.NDArray[np.float64]
    t_ns: npt.NDArray[np.int64] | None
    started_local: str | None
    part: str | None
    cut_off: bool
    warnings: tuple[str, ...]


def read_sensor_csv(path: Path) -> SensorFile:
    """Read one sensor CSV.

    Raises:
        SensorFileError: No header, a missing column, text in a number, a row cut short before the last one, no rows.
    """
    try:
        data = read_bounded(path, _MAX_BYTES)
    except FileError as error:
        raise SensorFileError(f"{error}; check the file") from None
    longest = max((len(line) for line in data.splitlines()), default=0)
    if longest > _MAX_LINE:
        raise SensorFileError(f"{path.name}: a line of {longest} bytes is no row of sensors; check the file")
    text = data.decode("utf-8-sig", errors="replace")
    lines = io.StringIO(text, newline="")
    delimiter = max(",;\t", key=text.partition("\n")[0].count)
    reader, quoted = csv.reader(lines, delimiter=delimiter, strict=False), '"' in text
    try:
        header = next(reader, [])
        columns = _columns(path, header)
        rows = []
        for row in reader:
            if quoted and any("\n" in field for field in row):
                raise csv.Error("a quote is not closed")
            rows.append((reader.line_num, [field.strip() for field in row]))
    except csv.Error as error:
        raise SensorFileError(f"{path.name}: line {reader.line_num}: {error}; export the file again") from None

    filled = [(line, row) for line, row in rows if any(row)]
    warnings = [f"{len(rows) - len(filled)} blank rows left out"] if len(filled) < len(rows) else []
    last_column = max(columns[name] for name in SENSOR_CHANNELS)
    cut_off = bool(filled) and len(filled[-1][1]) <= last_column
    if cut_off:
        warnings.append(f"line {filled[-1][0]} is cut off and left out")
        filled.pop()
    if not filled:
        raise SensorFileError(f"{path.name}: no data rows after the header; export the file again")

    for line, row in filled:
        if len(row) <= last_column or any(row[len(header) :]):
            raise SensorFileError(
                f"{path.name}: line {line}: {len(row)} fields where the header names {len(header)}; correct the line, "
                "or separate fields by ';' if numbers have a decimal comma"
            )
    values = _values(path, header, columns, filled, plain="_" not in text)  # Python reads 1_0 as ten
    empty = int(np.isnan(values).sum())
    if empty:
        warnings.append(f"{empty} empty fields are kept as not measured")

    t_ns, started, oddities = _times([row for _, row in filled], columns)
    place = columns.get("part no", len(header))
    parts = {row[place] for _, row in filled if len(row) > place}
    return SensorFile(
        values=values,
        t_ns=t_ns,
        started_local=started,
        part=parts.pop() or None if len(parts) == 1 else None,
        cut_off=cut_off,
        warnings=(*warnings, *oddities),
    )


def _columns(path: Path, header: list[str]) -> dict[str, int]:
    """Find the index of every channel, and of `date`, `time` and `part no` where present."""
    names = [re.sub(r"[^a-z0-9]+", " ", name.lower()).strip() for name in header]
    found: dict[str, int] = {name: names.index(name) for name in ("date", "time", "part no") if name in names}
    for channel, aliases in _ALIASES.items():
        places = [i for i, name in enumerate(names) if name in (*aliases, channel.replace("_", " "))]
        if not places:
            shown = ", ".join(repr(name.strip()[:40]) for name in header[:12]) or "nothing"
            raise SensorFileError(
                f"{path.name}: line 1: no column {_VERBATIM[channel]!r} (the header names {shown}); add or rename it"
            )
        if len(places) > 1:
            raise SensorFileError(
                f"{path.name}: line 1: {len(places)} columns for {_VERBATIM[channel]!r}; keep the one that is right"
            )
        found[channel] = places[0]
    return found


def _values(
    path: Path, header: list[str], columns: dict[str, int], rows: list[tuple[int, list[str]]], *, plain: bool
) -> npt.NDArray[np.float64]:
    """Turn the fields of the channels into numbers, `(n, 6)`: all at once where they are plain, else one by one."""
    places = [columns[name] for name in SENSOR_CHANNELS]
    if plain:
        with contextlib.suppress(ValueError):
            values = np.array([[float(row[place]) for place in places] for _, row in rows])
            if np.isfinite(values).all():
                return values
    return np.array(
        [[_number(path, line, header[place].strip(), row[place]) for place in places] for line, row in rows]
    )


def _number(path: Path, line: int, column: str, field: str) -> float:
    if not field:
        return float("nan")
    try:
        number = float(field.replace(",", ".") if "." not in field else field) if "_" not in field else float("inf")
    except ValueError:
        number = float("inf")
    if np.isinf(number):
        raise SensorFileError(
            f"{path.name}: line {line}: column {column!r} holds {field[:40]!r}, not a number; "
            "correct or empty the field"
        )
    return number


def _times(
    rows: list[list[str]], columns: dict[str, int]
) -> tuple[npt.NDArray[np.int64] | None, str | None, list[str]]:
    """Turn the stamps of all rows into strictly increasing ns since the first row, if the file has any."""
    if "time" not in columns:
        return None, None, []
    stamps = [_stamp(row, columns) for row in rows]
    usable = [stamp for stamp in stamps if stamp is not None]
    if 2 * len(usable) < len(rows) or len(usable) < 2:
        return None, None, [f"{len(rows) - len(usable)} of {len(rows)} stamps cannot be read; times are inferred"]
    origin = usable[0]
    raw, day = [], 0
    for before, stamp in zip([origin, *usable], usable, strict=False):
        since = round((stamp - origin).total_seconds() * 1e6) * 1000
        # A date that does not roll over with its time: the clock seems to fall back by most of a day.
        day += _HALF_DAY_NS < (before - stamp).total_seconds() * 1e9 <= 2 * _HALF_DAY_NS
        raw.append(since + day * 2 * _HALF_DAY_NS)
    # No weld takes half a day: what is further off than that is another day's, or a slip of the pen.
    middle = sorted(raw)[len(raw) // 2]
    near = [i for i, since in enumerate(raw) if abs(since - middle) <= _HALF_DAY_NS]
    indices = np.array([i for i, stamp in enumerate(stamps) if stamp is not None])[near]
    raw = [raw[i] - middle for i in near]
    kept = _longest_increasing(raw)
    known, t = indices[kept], np.array(raw)[kept]
    if len(kept) < 2:
        return None, None, ["no two stamps follow one another; times are inferred"]
    oddities = []
    if len(kept) < len(rows):
        oddities.append(
            f"{len(rows) - len(kept)} stamps repeat, run backwards or cannot be read; they were interpolated"
        )
    started = usable[near[kept[0]]].isoformat() if "date" in columns else None
    return _filled(len(rows), known, t), started, oddities


def _stamp(row: list[str], columns: dict[str, int]) -> datetime | None:
    if len(row) <= max(columns["time"], columns.get("date", 0)):
        return None
    date = row[columns["date"]] if "date" in columns else "1/1/2000"
    text = f"{date} {row[columns['time']].replace(',', '.')}"
    for form in _STAMPS:
        if (match := form.fullmatch(text)) is not None:
            year, month, day, hour, minute, second = map(
                int, match.group("year", "month", "day", "hour", "minute", "second")
            )
            micro = int((match["fraction"] or "0").ljust(6, "0")[:6])
            with contextlib.suppress(ValueError):
                return datetime(year, month, day, hour, minute, second, micro)  # naive: only differences are used
    return None


def _longest_increasing(values: list[int]) -> list[int]:
    """Give the indices of the longest strictly increasing subsequence: the stamps that agree with each other."""
    tails: list[int] = []
    ends: list[int] = []
    previous = [-1] * len(values)
    for i, value in enumerate(values):
        place = bisect_left(tails, value)
        if tails[place : place + 1] == [value]:
            continue  # of two equal stamps the second is the stale one
        previous[i] = ends[place - 1] if place else -1
        tails[place : place + 1] = [value]
        ends[place : place + 1] = [i]
    chain, i = [], ends[-1]
    while i >= 0:
        chain.append(i)
        i = previous[i]
    return chain[::-1]


def _filled(n: int, known: npt.NDArray[np.int64], t: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Give every one of `n` rows a time: interpolated between known rows, continued at the median step outside them."""
    step = max(1, int(np.median(np.diff(t) // np.diff(known))))
    index = np.arange(n)
    times = np.interp(index, known, t).round().astype(np.int64)
    times[known] = t  # exact, not through floating point
    times[: known[0]] = t[0] - (known[0] - index[: known[0]]) * step
    times[known[-1] + 1 :] = t[-1] + (index[known[-1] + 1 :] - known[-1]) * step
    times = np.maximum.accumulate(times - index) + index  # strictly, even where two known stamps nearly touch
    start: np.int64 = times[0]
    return times - start
