"""UTC beside the cell clock; it names and dates welds, and never times data."""

import time
from datetime import UTC, datetime

from recordings.manifest import UtcPair


def utc_now() -> str:
    """UTC now, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def utc_pair() -> UtcPair:
    """Read the cell clock and UTC together."""
    before = time.monotonic_ns()
    utc_ns = time.time_ns()
    after = time.monotonic_ns()
    return UtcPair(monotonic_ns=(before + after) // 2, utc_ns=utc_ns, uncertainty_ns=(after - before) // 2 + 1)
