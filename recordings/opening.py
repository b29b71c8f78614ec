"""A weld at its beginning: what is known before its first item, where it will lie, and the marker that names it."""

from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any, Final, Literal

import msgspec

from acquisition.packet import Event, Packet, StreamInfo
from recordings.manifest import Manifest, StreamRecord, UtcPair
from recordings.weld_folder import WeldError

OPEN_WELDS: Final = ".open"
"""Folder in a root that names the welds being written, so that a restart finds them without searching."""


class Coding(msgspec.Struct, frozen=True, kw_only=True):
    """How a video stream is encoded: all that the head of its file needs.

    Attributes:
        info: The stream, in the size that is encoded.
        codec: `StreamRecord.codec`.
        extradata: The parameter sets.
    """

    info: StreamInfo
    codec: str
    extradata: bytes


class WeldHead(msgspec.Struct, frozen=True, kw_only=True):
    """What every weld of a cell has at its beginning.

    Attributes:
        cell: Cell name.
        session: Session name.
        source: `live` or `simulated`.
        metadata: part, program, operator, ...
        infos: Streams by name.
        codings: Encoded video streams by name.
    """

    cell: str
    session: str
    source: Literal["live", "simulated"]
    metadata: dict[str, Any]
    infos: dict[str, StreamInfo]
    codings: dict[str, Coding]

    def manifest(self, weld_open: Packet, utc: UtcPair) -> Manifest:
        """The manifest of the weld that `weld_open` begins."""
        event = weld_open.payload
        assert isinstance(event, Event)
        assert event.weld is not None
        return Manifest(
            key=event.weld,
            cell=self.cell,
            session=self.session,
            state="open",
            streams={name: StreamRecord(info=info, files=[], codec="") for name, info in self.infos.items()},
            utc=[utc],
            first_order=int(event.data["first_order"]),
            origin_ns=int(event.data["origin_ns"]),
            arc_on_ns=event.t_ns,
            metadata=dict(self.metadata),
            source=self.source,
        )

    def folder(self, root: Path, weld_open: Packet, utc: UtcPair) -> Path:
        """Where the weld lies: `<root>/<cell>/<UTC date of its beginning>/<key>`.

        Raises:
            WeldError: Cell or key is no plain name.
        """
        event = weld_open.payload
        assert isinstance(event, Event)
        begun_ns = event.t_ns or weld_open.t_arrival_ns
        day = datetime.fromtimestamp((utc.utc_ns - utc.monotonic_ns + begun_ns) / 1e9, tz=UTC).strftime("%Y-%m-%d")
        return root / _plain(self.cell) / day / _plain(event.weld or "")


def _plain(name: str) -> str:
    if not name or PurePosixPath(name).name != name or "\\" in name or ":" in name or name == "..":
        raise WeldError(f"{name!r} cannot name a folder; use a plain name")
    return name


def write_marker(root: Path, key: str, folder: Path) -> None:
    """Say that a weld is being written.

    Raises:
        OSError: The disk is full or gone.
    """
    marker = root / OPEN_WELDS / key
    marker.parent.mkdir(parents=True, exist_ok=True)
    marker.write_text(str(folder.relative_to(root)), encoding="utf-8")


def remove_marker(root: Path, key: str) -> None:
    """Say that a weld is complete."""
    (root / OPEN_WELDS / key).unlink(missing_ok=True)


def markers(root: Path) -> list[tuple[Path, Path]]:
    """The markers under a root, and the folders that they name (the root itself for an empty one)."""
    files = sorted(path for path in (root / OPEN_WELDS).glob("*") if path.is_file())
    return [(path, root / path.read_text(encoding="utf-8").strip()) for path in files]
