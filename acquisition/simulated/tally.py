"""A tally of what the simulated devices handed over: a file that outlives the process, to hold recordings against."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

from acquisition.packet import Event, Packet, item_range

_HEARD: Final = ("weld_open", "weld_close")


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """One packet that the capture process took from a driver.

    Attributes:
        stream: Its stream.
        segment: Its segment.
        first: Number of its first item.
        end: Number of the item after its last one.
    """

    stream: str
    segment: int
    first: int
    end: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """What a driver was told of a weld: `kind` is `weld_open` or `weld_close`."""

    kind: str
    weld: str


Entry: TypeAlias = Taken | Heard


class Tally:
    """Notes every packet at the moment at which it is taken, and what was decided of welds, in the order of both.

    A line goes to the system at once, unbuffered, so it is there after a kill. One thread writes: the one that reads
    the drivers.
    """

    def __init__(self, path: Path) -> None:
        """Append to `path`."""
        self._file = path.open("ab", buffering=0)

    def taken(self, packet: Packet) -> None:
        """Note a packet that was handed over."""
        first, items = item_range(packet)
        self._file.write(f"{packet.stream} {packet.segment} {first} {first + items}\n".encode())

    def heard(self, event: Event) -> None:
        """Note the opening or the closing of a weld; several drivers may say the same."""
        if event.kind in _HEARD:
            self._file.write(f"{event.kind} {event.weld}\n".encode())

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()


def read_tally(path: Path) -> list[Entry]:
    """Give the whole lines of a tally, in the order in which they were written; no file is an empty tally."""
    entries: list[Entry] = []
    for line in path.read_text().split("\n")[:-1] if path.exists() else ():
        words = line.split(" ")
        if words[0] in _HEARD:
            entry: Entry = Heard(kind=words[0], weld=words[1])
            entries += [] if entry in entries else [entry]
        else:
            entries.append(Taken(stream=words[0], segment=int(words[1]), first=int(words[2]), end=int(words[3])))
    return entries
