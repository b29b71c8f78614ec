"""Files that somebody else wrote: only ordinary ones are opened, never more of them than was agreed is read."""

import os
import re
import stat
from pathlib import Path
from typing import Final

_RESERVED: Final = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", re.IGNORECASE)
_LONGEST: Final = 120
"""Bytes of a name; ours add to it, and 255 is the end."""


class FileError(Exception):
    """A file cannot be read at all; the message names it and the cause."""


def read_bounded(path: Path, limit: int) -> bytes:
    """Read a whole ordinary file of at most `limit` bytes.

    Raises:
        FileError: It is no ordinary file, larger, or cannot be read.
    """
    data = read_head(path, limit + 1)
    if len(data) > limit:
        raise FileError(f"{shown(path.name)}: {path.stat().st_size} bytes, but at most {limit} are expected")
    return data


def read_head(path: Path, limit: int) -> bytes:
    """Read at most `limit` bytes of an ordinary file.

    Raises:
        FileError: It is no ordinary file, or cannot be read.
    """
    try:
        # A pipe would otherwise be waited for, here or in `read`.
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | getattr(os, "O_NONBLOCK", 0))) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise FileError(f"{shown(path.name)}: is no ordinary file")
            return file.read(limit)
    except OSError as error:
        raise FileError(f"{shown(path.name)}: {error.strerror}") from None


def placing_problem(path: Path, root: Path) -> str | None:
    """Say why a file of a source may not be opened: a link out of it, to nothing, or no ordinary file."""
    try:
        if path.is_symlink() or path.parent.is_symlink():
            real = path.resolve(strict=True)
            if not real.is_relative_to(root):
                return f"{shown(path.name)} is a link out of {root}; copy the file there instead"
        if not stat.S_ISREG(path.stat().st_mode):
            return f"{shown(path.name)} is no ordinary file; take it away"
    except (OSError, RuntimeError):  # a link to nothing, or to itself
        return f"{shown(path.name)} is a link to nothing, or cannot be reached; take it away"
    return None


def naming_problem(name: str) -> str | None:
    """Say why a name can be no folder's or file's name on every system."""
    if not name.isprintable() or any(c in name for c in '/\\:*?"<>|'):
        return f"the name {name!r} holds a character that no name may have everywhere; rename it"
    if name in ("", ".", "..") or name[-1] in " ." or _RESERVED.fullmatch(name):
        return f"the name {name!r} is reserved on some systems; rename it"
    if len(os.fsencode(name)) > _LONGEST:
        return f"the name {name[:40]!r}... is longer than {_LONGEST} bytes; rename it"
    return None


def shown(name: str) -> str:
    """A name as one line may show it."""
    return name if name.isprintable() else repr(name)
