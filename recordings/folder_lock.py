"""One writer at a time per folder, across processes; the system lets go of the lock when its holder dies."""

import contextlib
import errno
import logging
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import xxhash

try:
    import fcntl
except ImportError:  # Windows: a file is locked in the place of the folder
    fcntl = None  # type: ignore[assignment]

log = logging.getLogger(__name__)

WAIT_S: Final = 10.0
"""What is done under the lock takes milliseconds; whoever holds it longer hangs."""

_STEP_S: Final = 0.01
_UNKNOWN: Final = {errno.EBADF, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}
"""What a file system (NFS among them) answers that cannot lock a folder."""


@contextlib.contextmanager
def locked(folder: Path, *, wait_s: float = WAIT_S) -> Iterator[None]:
    """Hold the lock of a folder, which nothing in the folder shows.

    Every process that changes a finished weld holds it from reading the manifest until the new one is in place. Where
    the file system cannot lock folders, the log says so and nobody is kept out. Threads of one process keep each other
    out, too.

    Raises:
        TimeoutError: Another one held it for `wait_s`.
        OSError: The folder is gone.
    """
    descriptor = os.open(folder, os.O_RDONLY) if fcntl is not None else _open_stand_in(folder)
    try:
        _wait(descriptor, folder, time.monotonic() + wait_s)
        yield
    finally:
        os.close(descriptor)


def _wait(descriptor: int, folder: Path, deadline_s: float) -> None:
    while True:
        try:
            _try(descriptor)
        except OSError as error:
            if error.errno in _UNKNOWN and fcntl is not None:
                log.warning("%s: its file system cannot lock folders; change its welds from one program only", folder)
                return
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES, errno.EDEADLK):
                raise
        else:
            return
        if time.monotonic() >= deadline_s:
            raise TimeoutError(errno.ETIMEDOUT, "is being changed by another program; try again", str(folder))
        time.sleep(_STEP_S)


def _try(descriptor: int) -> None:
    if fcntl is not None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    else:
        import msvcrt

        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)


def _open_stand_in(folder: Path) -> int:
    """Open a file of the temporary folder that stands for `folder`, since Windows opens no folders."""
    folder.stat()
    name = xxhash.xxh3_128_hexdigest(os.fsencode(folder.resolve()))
    return os.open(Path(tempfile.gettempdir()) / f"weld-{name}.lock", os.O_RDWR | os.O_CREAT)
