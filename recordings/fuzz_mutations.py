"""Ways in which files are damaged, by accident or by design; every one is drawn from a seed and can be made again."""

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from recordings.weld_folder import MANIFEST, digest

_HUGE: Final = (0xFF, 0x7F, 0x80, 0x00, 0x01, 0xFE)
_STRANGE_VALUES: Final[tuple[Any, ...]] = (
    None,
    True,
    -1,
    0,
    10**11,
    2**63 - 1,
    -(2**63),
    2**70,
    1e308,
    -0.5,
    "",
    "x" * 5000,
    "..",
    "../outside/new",
    "line\nbreak",
    "nul\u0000byte",
    "\ud800",
    [],
    {},
    [[[]]],
    "CON",
    "a:b",
    "/etc/passwd",
)
_STRANGE_FIELDS: Final = (
    "",
    "nan",
    "inf",
    "-inf",
    "1e999",
    "819.03",
    "1,5",
    "0x10",
    "1_000",
    "½",
    "\u0000",
    '"',
    '"unclosed',
    "9" * 400,
    "99/99/9999",
    "24:61:61.999999",
    "00:00:00.000",
    "8/17/2022",
    "=1+1",
    "\ufeff",
)
_IMPOSTORS: Final = (
    b"ffconcat version 1.0\nfile '{outside}/secret.avi'\n",
    b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{outside}/secret.avi\n#EXT-X-ENDLIST\n",
    b"v=0\no=- 0 0 IN IP4 127.0.0.1\nc=IN IP4 127.0.0.1\nm=video 5004 RTP/AVP 96\n",
    b"file,{outside}/secret.avi",
    b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00\x01\x86\xa0\x00\x01\x86\xa0\x08\x02\x00\x00\x00\xb6\x1d\xbe\x2f",
    b"PAR1",
    b"",
)
"""What is named like one thing and is another: playlists, a stream description, a picture of ten billion pixels."""


def truncate(draw: random.Random, data: bytes) -> bytes:
    """Cut a file off anywhere."""
    return data[: draw.randrange(len(data) + 1)]


def flip(draw: random.Random, data: bytes) -> bytes:
    """Change one to sixteen bytes anywhere, half of the time in the first kilobyte, where headers are."""
    changed = bytearray(data)
    for _ in range(draw.choice((1, 1, 2, 4, 16)) if data else 0):
        at = draw.randrange(min(len(data), 1024) if draw.random() < 0.5 else len(data))
        changed[at] = draw.choice((draw.randrange(256), draw.choice(_HUGE), changed[at] ^ (1 << draw.randrange(8))))
    return bytes(changed)


def claim(draw: random.Random, data: bytes) -> bytes:
    """Overwrite two to eight bytes in a row by all ones or zeros: sizes and counts that claim very much or nothing."""
    changed, n = bytearray(data), draw.choice((2, 4, 4, 8))
    at = draw.randrange(max(1, min(len(data), draw.choice((256, 4096, len(data) or 1)))))
    changed[at : at + n] = bytes([draw.choice((0xFF, 0x7F, 0x00))]) * n
    return bytes(changed)


def shuffle(draw: random.Random, data: bytes) -> bytes:
    """Repeat, drop or move a stretch."""
    a, b = sorted(draw.randrange(len(data) + 1) for _ in range(2))
    at = draw.randrange(len(data) + 1)
    return draw.choice((data[:b] + data[a:], data[:a] + data[b:], data[:at] + data[a:b] + data[at:]))


def impostor(draw: random.Random, _data: bytes) -> bytes:
    """Put something else under the name."""
    return draw.choice(_IMPOSTORS)


BYTES: Final[tuple[Callable[[random.Random, bytes], bytes], ...]] = (truncate, flip, flip, claim, shuffle, impostor)


def damage_bytes(draw: random.Random, path: Path, outside: Path) -> str:
    """Damage the bytes of a file; returns how."""
    how = draw.choice(BYTES)
    data = how(draw, path.read_bytes()).replace(b"{outside}", str(outside).encode())
    path.unlink()  # it may be linked to the original
    path.write_bytes(data)
    return how.__name__


def damage_csv(draw: random.Random, path: Path) -> str:
    """Damage a table of text by its fields and lines; returns how."""
    lines = path.read_bytes().decode("utf-8", "replace").splitlines()
    for _ in range(draw.choice((1, 1, 2, 5))):
        at = draw.randrange(len(lines))
        fields = lines[at].split(",")
        kind = draw.randrange(6)
        if kind < 3:
            fields[draw.randrange(len(fields))] = draw.choice(_STRANGE_FIELDS)
            lines[at] = ",".join(fields)
        elif kind == 3:
            lines[at] = ",".join(draw.sample(fields, len(fields)))
        elif kind == 4:
            lines.insert(draw.randrange(len(lines) + 1), lines[at])
        else:
            del lines[at]
            lines = lines or [""]
    path.unlink()
    path.write_bytes(draw.choice(("\n", "\r\n", "\r")).join(lines).encode("utf-8", "replace"))
    return "fields"


def damage_manifest(draw: random.Random, folder: Path) -> str:
    """Change one to three values anywhere in `weld.json`, or its names; returns how."""
    path = folder / MANIFEST
    tree = json.loads(path.read_bytes())
    for _ in range(draw.choice((1, 1, 2, 3))):
        parent, key = draw.choice(_places(tree))
        kind = draw.randrange(4)
        if kind == 0 and isinstance(parent, dict):
            parent[draw.choice(("..", "../outside", "new\nline", "x" * 300, "events", ""))] = parent.pop(key)
        elif kind == 1:
            del parent[key]
        elif kind == 2 and isinstance(parent[key], int | float):
            parent[key] = parent[key] * draw.choice((-1, 10**6, 0)) + draw.choice((0, 1, -1))
        else:
            parent[key] = draw.choice(_STRANGE_VALUES)
    path.unlink()
    path.write_bytes(json.dumps(tree).encode("utf-8", "surrogatepass"))
    return "manifest"


def _places(tree: Any) -> list[tuple[Any, Any]]:
    """List every (container, key) of a JSON value."""
    found: list[tuple[Any, Any]] = []
    keys = list(tree) if isinstance(tree, dict) else range(len(tree)) if isinstance(tree, list) else ()
    for key in keys:
        found.append((tree, key))
        found += _places(tree[key])
    return found


def swap(draw: random.Random, path: Path, other: Path) -> str:
    """Put another weld's file in the place of this one; returns how."""
    twins = [file for file in sorted(other.rglob("*")) if file.suffix == path.suffix and file.is_file()]
    path.unlink()
    shutil.copyfile(draw.choice(twins), path)
    return "swap"


def link_out(path: Path, outside: Path) -> str:
    """Put a link that leads out of the folder in the place of a file; returns how."""
    path.unlink()
    os.symlink(outside / "secret.avi", path)
    return "link"


def rehash(folder: Path) -> None:
    """Make the digests in `weld.json` those of the files as they are now, so that damage passes the first check."""
    path = folder / MANIFEST
    try:
        tree = json.loads(path.read_bytes())
        files = tree["files"]
        for name in files:
            if (folder / name).is_file():
                files[name] = digest(folder / name)
        path.write_bytes(json.dumps(tree).encode("utf-8", "surrogatepass"))
    except (ValueError, KeyError, TypeError, OSError):
        return  # the manifest itself is what is damaged
