"""Where exported welds go: names made of untrusted keys, files swapped in whole, and the record of what is done."""

import errno
import re
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import msgspec
import xxhash

from recordings.export_report import ExportError
from recordings.weld_folder import force_to_disk

LEDGER: Final = "export.jsonl"
_STAGING: Final = ".exporting-"
_LONGEST: Final = 100
_GONE: Final = frozenset({errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.ENOENT, errno.EIO})
_PROBE: Final = 1 << 18
_RESERVED: Final = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?$", re.IGNORECASE)


def safe_name(text: str) -> str:
    """Return a file name that stands for `text` on every system; what had to change is replaced by its digest.

    Equal texts give equal names, different ones different names.
    """
    name = re.sub(r"[^A-Za-z0-9._+()&,=@ -]", "_", text)
    if text == name == name.strip(". ") and 0 < len(name) <= _LONGEST and not _RESERVED.match(name):
        return name
    mark = xxhash.xxh3_64(text.encode("utf-8", "replace")).hexdigest()[:8]
    return f"{name.strip('._ ')[: _LONGEST - 9] or 'weld'}-{mark}"


def safe_path(key: str) -> str:
    """Return a relative path that stands for a weld key (`<date>T<time>Z-<n>` or `DIRECTORY/id`)."""
    return "/".join(safe_name(part) for part in key.split("/"))


class LedgerEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One exported weld, a line of `export.jsonl`.

    Attributes:
        format: Format it was exported to.
        key: Its key.
        digest: Digest of its `weld.json`: another one is another weld, or this one with a later label.
        files: What was written, relative to the destination; folders included.
        row: What the format says about the weld elsewhere (the manifest row of Weld-4M).
    """

    format: str
    key: str
    digest: str
    files: list[str]
    row: dict[str, Any] = {}


class Destination:
    """A folder that welds are exported to; nothing is written outside it, nothing in it is overwritten.

    Attributes:
        folder: The folder, links resolved.
        staging: A folder in it for what is not whole yet.
        entries: What earlier runs and this one exported, by key.
    """

    def __init__(self, folder: Path, format: str) -> None:
        """Make the folder, sweep what a killed run left, and read what is done.

        Raises:
            ExportError: It cannot be made, or holds an export of another format.
        """
        self._format = format
        self.entries: dict[str, LedgerEntry] = {}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self.folder = folder.resolve()
            self._ledger = self.folder / LEDGER
            if self._ledger.is_symlink():
                raise ExportError(f"{self._ledger}: is a link; export to another folder")
            self._read()
            for left in self.folder.glob(f"{_STAGING}*"):
                if left.is_dir() and not left.is_symlink():
                    shutil.rmtree(left)
            self.staging = Path(tempfile.mkdtemp(prefix=_STAGING, dir=self.folder))
        except OSError as error:
            raise ExportError(f"{folder}: {error.strerror}; name another destination") from error

    def _read(self) -> None:
        if not self._ledger.exists():
            return
        whole, _, torn = self._ledger.read_bytes().rpartition(b"\n")
        try:
            entries = [msgspec.json.decode(line, type=LedgerEntry) for line in whole.splitlines()]
        except msgspec.MsgspecError as error:
            raise ExportError(f"{self._ledger}: {error}; export to another folder") from error
        for entry in entries:
            if entry.format != self._format:
                raise ExportError(
                    f"{self.folder}: holds an export to {entry.format}; export to {self._format} into another folder"
                )
            self.entries[entry.key] = entry
        if torn:
            with self._ledger.open("rb+") as file:
                file.truncate(len(whole) + 1 if whole else 0)

    def path(self, name: str) -> Path:
        """Return the place of a file, refusing every way out of the destination.

        Raises:
            ExportError: A folder on the way is a link to somewhere else.
        """
        path = self.folder / name
        if ".." in Path(name).parts or not path.resolve().is_relative_to(self.folder):
            raise ExportError(f"{path}: leads out of {self.folder}; export to another folder")
        return path

    def claim(self, names: Iterable[str]) -> None:
        """Refuse a destination that already has what an export writes over all welds, and no export made it.

        Raises:
            ExportError: It has.
        """
        for name in names:
            if self.path(name).exists() and not self.entries:
                raise ExportError(f"{self.folder / name} is not of an export; export to another folder")

    def is_done(self, key: str, digest: str) -> bool:
        """Tell whether a weld was exported before, as it is now, and everything of it is there.

        Raises:
            FileExistsError: Its key was exported with other contents.
        """
        entry = self.entries.get(key)
        if entry is None or not all(self.path(name).exists() for name in entry.files):
            return False
        if entry.digest != digest:
            raise FileExistsError(
                f"{entry.files[0]} holds it with other contents (an earlier label, or another weld of this key) "
                "and is left as it is; export to another folder"
            )
        return True

    def put(self, key: str, digest: str, files: Iterable[str], row: dict[str, Any]) -> None:
        """Move what is whole in the staging folder to its place: first said, then done, so that a crash is seen.

        Args:
            key: The weld.
            digest: Digest of its `weld.json`.
            files: Names of files or folders below the staging folder, each of which goes to the same name below the
                destination.
            row: See `LedgerEntry`.

        Raises:
            FileExistsError: Something is there that this export did not write.
        """
        entry = LedgerEntry(format=self._format, key=key, digest=digest, files=list(files), row=row)
        ours = set(self.entries[key].files) if key in self.entries else set()
        for name in entry.files:
            place = self.path(name)
            if place.exists() and name not in ours:
                raise FileExistsError(f"{place} exists and is not of this weld; move it away or export elsewhere")
        for name in entry.files:
            for path in sorted((self.staging / name).rglob("*")) or [self.staging / name]:
                force_to_disk(path)
        with self._ledger.open("ab") as ledger:
            ledger.write(msgspec.json.encode(entry) + b"\n")
            ledger.flush()
            force_to_disk(self._ledger)
        self.entries[key] = entry
        for name in entry.files:
            place = self.path(name)
            place.parent.mkdir(parents=True, exist_ok=True)
            if place.is_dir():
                shutil.rmtree(place)
            (self.staging / name).replace(place)
            force_to_disk(place.parent)

    def gave_out(self, error: Exception) -> bool:
        """Tell whether an error comes from the destination, full or gone, and not from the weld."""
        if not isinstance(error, OSError) or error.errno not in _GONE:
            return False
        try:
            probe = self.staging / "probe"
            probe.write_bytes(bytes(_PROBE))
            probe.unlink()
        except OSError:
            return True
        return False

    def clear(self) -> None:
        """Empty the staging folder."""
        for path in self.staging.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    def close(self) -> None:
        """Remove the staging folder."""
        shutil.rmtree(self.staging, ignore_errors=True)
