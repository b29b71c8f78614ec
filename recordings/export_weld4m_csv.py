"""Sensor CSV of Weld-4M: dialect (a) with times, (b) without; and, for tests of readers, the oddities of real files."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Final

import numpy as np
import numpy.typing as npt

from sync.series import Int64s

_NAMES: Final = (
    "Pressure",
    "CO2 Weld Flow",
    "Feed",
    "Primary Weld Current",
    "Wire Consumed",
    "Secondary Weld Voltage",
)
"""In the order of `SENSOR_CHANNELS`."""

CSV_QUIRKS: Final[dict[str, str]] = {
    "no-times": "dialect (b): CRLF, the six numeric columns only",
    "rollover": "midnight falls into the weld, and the date does not roll over with the time",
    "duplicate-stamps": "every tenth row repeats the stamp before it",
    "backward-stamps": "every tenth row steps back by 40 ms",
    "blank-row": "a blank row after every twentieth",
    "cut-last-line": "the last line ends in the middle",
    "bom": "a byte order mark before the header",
    "decimal-comma": "';' between fields, ',' in numbers",
    "crlf": "CRLF at the end of every line",
}
"""What `simulate` leaves to the export: how the files of users differ from the common dialect."""

_EPOCH: Final = datetime(1970, 1, 1)  # naive on purpose: the files hold naive local times
_SEVERAL: Final = 10


def csv_lines(
    values: npt.NDArray[np.float64],
    t_ns: Int64s | None,
    part: str,
    quirks: frozenset[str] = frozenset(),
) -> Iterator[bytes]:
    """Give the file line by line.

    Dialect (a) has ten header fields, the last of which ends in a space, and nine per row. Times have milliseconds;
    where two rows would share one, microseconds.

    Args:
        values: `(n, 6)` in the order of `SENSOR_CHANNELS`; NaN becomes an empty field, numbers are written so that
            they read back as the same float64.
        t_ns: `(n,)` time of every row since 1970, naive; None: dialect (b).
        part: Part number of every row.
        quirks: Names out of `CSV_QUIRKS`.
    """
    if "no-times" in quirks:
        t_ns = None
    comma = "decimal-comma" in quirks
    separator = ";" if comma else ","
    ending = "\r\n" if t_ns is None or "crlf" in quirks else "\n"
    header = [*_NAMES] if t_ns is None else ["Date", "Time", "Part No", *_NAMES, "Remarks "]
    yield (b"\xef\xbb\xbf" if "bom" in quirks else b"") + (separator.join(header) + ending).encode()
    stamps = None if t_ns is None else _stamps(t_ns, quirks)
    for i, row in enumerate(values.tolist()):
        numbers = [_text(value).replace(".", ",") if comma else _text(value) for value in row]
        fields = [] if stamps is None else [*stamps[i], _field(part, separator)]
        line = separator.join([*fields, *numbers])
        if "cut-last-line" in quirks and i == len(values) - 1:
            yield line[: line.rindex(separator) - 1].encode()
            return
        yield (line + ending).encode()
        if "blank-row" in quirks and i % 20 == 19:
            yield ending.encode()


def _text(value: float) -> str:
    """Return the shortest text that reads back as this number; whole numbers without a point, as the files have."""
    if value != value:
        return ""
    return (
        str(int(value)) if value.is_integer() and abs(value) < 1e15 and (value or str(value) == "0.0") else repr(value)
    )


def _field(text: str, separator: str) -> str:
    return "".join(" " if c in f'"{separator}' or not c.isprintable() else c for c in text)


def _stamps(t_ns: Int64s, quirks: frozenset[str]) -> list[tuple[str, str]]:
    """Return date and time of every row as text."""
    fine = bool(np.any(np.diff((t_ns + 500_000) // 1_000_000) <= 0))
    unit_ns, digits = (1_000, 6) if fine else (1_000_000, 3)
    moments = [_EPOCH + timedelta(microseconds=int(t) * unit_ns // 1000) for t in (t_ns + unit_ns // 2) // unit_ns]
    if "rollover" in quirks:
        middle = moments[len(moments) // 2]
        moments = [moment - middle + middle.replace(hour=0, minute=0, second=0, microsecond=0) for moment in moments]
    dates = [moments[0] if "rollover" in quirks else moment for moment in moments]
    for i in range(_SEVERAL, len(moments), _SEVERAL):
        if "duplicate-stamps" in quirks:
            moments[i] = moments[i - 1]
        elif "backward-stamps" in quirks:
            moments[i] = moments[i - 1] - timedelta(milliseconds=40)
    return [
        (f"{date.month}/{date.day}/{date.year}", f"{moment:%H:%M:%S}.{f'{moment.microsecond:06}'[:digits]}")
        for date, moment in zip(dates, moments, strict=True)
    ]
