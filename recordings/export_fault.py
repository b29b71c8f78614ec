"""What makes a single weld unexportable, and how that is said; everything else is a fault of the program."""

from typing import Final

import av
import msgspec
import pyarrow as pa

from recordings.export_report import ExportError
from recordings.weld_folder import RecordingError, WeldError
from sync.alignment import AlignmentError

_SAID: Final = (ExportError, WeldError, RecordingError, AlignmentError, FileExistsError)
"""Errors whose message is already what the user should read."""

UNUSABLE: Final = (
    *_SAID,
    OSError,
    av.FFmpegError,
    pa.ArrowException,
    msgspec.MsgspecError,
    ValueError,
    ArithmeticError,
    LookupError,
)
"""What a weld that lies about itself can make readers raise, beside their own errors."""


def reason(error: Exception) -> str:
    """Say in one line why a weld was skipped."""
    lines = str(error).strip().splitlines()
    line = lines[0] if lines else type(error).__name__
    return (
        line if isinstance(error, _SAID) else f"{type(error).__name__}: {line}; run verify, or restore it from a copy"
    )
