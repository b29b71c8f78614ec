"""A watched folder of post-weld photos: each file is delivered once, as it came, when it is complete.

The folder is polled, because change notices do not cross network drives. A file is complete when it has not grown for
a while and decodes to its last line; one that never does is left out with one line in the log.
"""

import fnmatch
import io
import logging
import os
import re
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import PIL.Image

from acquisition.driver import DeviceError, ThreadedDriver
from acquisition.packet import Packet, Photo, StreamInfo

log = logging.getLogger(__name__)

PIXEL_LIMIT: Final = 100_000_000
BYTE_LIMIT: Final = 256 * 1024 * 1024
DEPTH_LIMIT: Final = 4
REMEMBERED: Final = 100_000
"""So many files are remembered before those that were removed are forgotten."""

GIVE_UP_S: Final = 5.0
"""A file that stays incomplete for this long without growing is said to be broken."""

IMAGE_FORMATS: Final = ("JPEG", "PNG", "BMP", "TIFF", "WEBP")
PLAIN_FOLDERS: Final = frozenset({"images", "photos", "pictures"})
"""Sub-folders that name no weld, as in `<weld>/images/x.jpg`."""

WELD_NAME: Final = re.compile(r"\d{4}-?\d{2}-?\d{2}T[\d-]{4,12}Z-\d+|\d{2}-\d{2}-\d{2}-\d{4}-\d{2}(?!\d)")
"""A captured weld's key (`<date>T<time>Z-<n>`) or a Weld-4M id (`MM-DD-YY-NNNN-CC`) at the start of a file name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PhotoFolderConfig:
    """Settings of a watched folder.

    Attributes:
        path: The folder; sub-folders are watched too.
        patterns: File names to take, upper and lower case alike.
        settle_s: A file is looked at once it has not changed for this long.
        poll_s: Pause between two looks.
    """

    path: str
    patterns: tuple[str, ...] = ("*.jpg", "*.jpeg", "*.png")
    settle_s: float = 0.3
    poll_s: float = 0.25

    def __post_init__(self) -> None:
        """Refuse what could never deliver."""
        if not self.path or not self.patterns:
            raise ValueError("path and patterns must not be empty; name a folder and files like '*.jpg'")
        if self.settle_s < 0 or self.poll_s <= 0:
            raise ValueError(f"settle_s ({self.settle_s}) must not be negative and poll_s ({self.poll_s}) positive")


@dataclass(slots=True)
class _File:
    """What is known of one file: its look (size and time) since when, and whether it is done with."""

    look: tuple[int, int]
    since_ns: int
    done: bool = False


class _Unfit(Exception):
    """A file is no complete picture, for a reason in plain words."""


class PhotoFolder(ThreadedDriver):
    """A folder as a stream of photos; files that lie in it when it is first opened are ignored.

    A share that was unmounted leaves an empty folder behind, and comes back with all its old files. So a share is
    `lost` while nothing is mounted, and files that vanished are remembered.
    """

    def __init__(self, name: str, config: PhotoFolderConfig) -> None:
        """Prepare the folder; looks at nothing."""
        super().__init__(name)
        self.config = config
        self._root = Path(config.path).expanduser()
        self._files: dict[str, _File] = {}
        self._refused: set[str] = set()
        self._mounted = False
        self._sent = 0

    def _error(self, what: str, fix: str) -> DeviceError:
        return DeviceError(f"photos {self.name}: {self._root} {what}; {fix}")

    def _connect(self) -> StreamInfo:
        if not self._root.is_dir():
            raise self._error("is no folder", "create or mount it, or correct path in the cell file")
        if self._state == "opening":  # after an interruption, what came meanwhile is new
            self._mounted = os.path.ismount(self._root)
            self._files = {
                path: _File(look=look, since_ns=0, done=True)
                for path, look in self._found(str(self._root), DEPTH_LIMIT)
            }
        self._check_mounted()
        self._sent = 0
        return StreamInfo(name=self.name, modality="post_images", rate_hz=0.0)

    def _check_mounted(self) -> None:
        if self._mounted and not os.path.ismount(self._root):
            raise self._error("is not mounted any more", "mount the share again")

    def _run(self) -> None:
        while not self._stop.wait(self.config.poll_s):
            self._check_mounted()
            found = dict(self._found(str(self._root), DEPTH_LIMIT))
            now_ns = time.monotonic_ns()
            for path, look in found.items():
                file = self._files.get(path)
                if file is None or file.look != look:
                    self._files[path] = _File(look=look, since_ns=now_ns)
                elif not file.done and now_ns - file.since_ns >= self.config.settle_s * 1e9:
                    self._take(path, file, now_ns)
            if len(self._files) > REMEMBERED:
                for path in self._files.keys() - found.keys():
                    del self._files[path]

    def _disconnect(self) -> None:
        """Nothing is held between two looks."""

    def _found(self, folder: str, depth: int) -> Iterator[tuple[str, tuple[int, int]]]:
        """Yield path and look of every file that fits, in the order of their names."""
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError as error:
            if folder == str(self._root):
                raise self._error(f"cannot be read ({error.strerror})", "check the folder and its drive") from error
            return  # a sub-folder that was removed meanwhile
        for entry in entries:
            try:
                if entry.is_symlink() and not self._is_inside(entry):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    if depth > 0:
                        yield from self._found(entry.path, depth - 1)
                elif self._fits(entry.name) and entry.is_file():
                    status = entry.stat()
                    yield entry.path, (status.st_size, status.st_mtime_ns)
            except OSError:
                continue  # it was removed or renamed meanwhile

    def _fits(self, name: str) -> bool:
        return any(fnmatch.fnmatchcase(name.casefold(), pattern.casefold()) for pattern in self.config.patterns)

    def _is_inside(self, link: os.DirEntry[str]) -> bool:
        """Whether a link stays in the folder; one that leads out is refused, and said once."""
        target = os.path.realpath(link.path)
        if Path(target).is_relative_to(os.path.realpath(self._root)):
            return True
        if link.path not in self._refused:
            self._refused.add(link.path)
            log.warning("%s", self._error(f"holds the link {link.name} to {target}, outside", "copy the file itself"))
        return False

    def _take(self, path: str, file: _File, now_ns: int) -> None:
        """Deliver a settled file, or wait on while it may still be copied."""
        arrival_ns = time.monotonic_ns()
        try:
            data = _read_complete(os.path.realpath(path), file.look[0])
        except (_Unfit, OSError) as error:
            if now_ns - file.since_ns > max(GIVE_UP_S, 10 * self.config.settle_s) * 1e9:
                file.done = True
                log.warning("%s", self._error(f"holds {Path(path).name}, which {error}", "copy it again"))
            return
        file.done = True
        self._put(
            Packet(
                stream=self.name,
                seq=self._sent,
                t_arrival_ns=arrival_ns,
                payload=Photo(name=Path(path).name, data=data, weld_hint=self._weld_hint(Path(path))),
            )
        )
        self._sent += 1

    def _weld_hint(self, path: Path) -> str | None:
        """The weld that the file's name begins with, or else its nearest sub-folder with a name of its own."""
        named = WELD_NAME.match(path.name)
        if named:
            return named[0]
        for folder in reversed(path.relative_to(self._root).parts[:-1]):
            if folder.casefold() not in PLAIN_FOLDERS:
                return folder
        return None


def _read_complete(path: str, size: int) -> bytes:
    """Read a file of `size` bytes and make sure that it is one whole picture within the limits.

    Raises:
        _Unfit: It is not.
    """
    if size > BYTE_LIMIT:
        raise _Unfit(f"has {size / 1e6:.0f} MB, over the limit of {BYTE_LIMIT / 1e6:.0f} MB")
    # O_NOFOLLOW: between the check of a link and this line the file may have been replaced by another link.
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0))
    with open(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise _Unfit("is no regular file")
        data = file.read(BYTE_LIMIT + 1)
    if len(data) != size:
        raise _Unfit("is still changing")
    try:
        with PIL.Image.open(io.BytesIO(data), formats=IMAGE_FORMATS) as image:
            if image.width * image.height > PIXEL_LIMIT:
                raise _Unfit(f"has {image.width}x{image.height} pixels, over the limit of {PIXEL_LIMIT}")
            image.load()
    except (OSError, ValueError, SyntaxError, EOFError, PIL.Image.DecompressionBombError) as error:
        raise _Unfit(f"is no complete picture ({error})") from error
    return data
