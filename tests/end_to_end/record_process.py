"""`app.py record` as a process of its own, and what it leaves on disk."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from acquisition.packet import ClockUpdate, Event, Packet, Photo, SampleBlock, VideoFrame
from acquisition.transport import ControlClient
from recordings.reader import WeldReader
from recordings.runtime import Runtime
from sync.clock import ClockTable
from tests.acquisition.counterparts import wait_until
from tests.end_to_end.processes import App, Finished, Watch
from tests.end_to_end.simulated_devices import SOUND_HZ


class Recording:
    """A recording process for one weld, watched over its own messages."""

    def __init__(self, cell: Path, out: Path, runtime: Runtime, environment: Mapping[str, str]) -> None:
        """Start it; it ends by itself after a minute, whatever happens to the test."""
        self._runtime = runtime
        options = ["--cell", cell, "--out", out, "--runtime", runtime.folder, "--for", 60]
        self._app = App("record", *map(str, options), "--json", environment=environment)
        self._watch = Watch(runtime)

    def until(self, condition: Callable[[], bool], what: str, timeout_s: float = 20.0) -> None:
        """Follow the messages until `condition` holds."""

        def holds() -> bool:
            assert self._app.process.poll() is None, f"it ended before {what}: {self._app.finish()}"
            return condition()

        self._watch.until(holds, what, timeout_s)

    def events(self, kind: str) -> list[Event]:
        """All events of a kind so far."""
        return [event for event in self._watch.events if event.kind == kind]

    def received(self) -> dict[str, int]:
        """Items received so far per stream; empty until all devices are open."""
        status = self._watch.status
        return {} if status is None else {row.name: row.received for row in status.streams}

    def weld(self) -> Path:
        """Wait until the weld is over, photos and all; its finalised folder."""
        self.until(lambda: bool(self.events("photos_done")), "the weld is over", 30.0)
        self.until(lambda: self._watch.status is not None and bool(self._watch.status.welds), "it is listed")
        assert self._watch.status is not None
        (weld,) = self._watch.status.welds
        wait_until(lambda: WeldReader(Path(weld.path)).manifest.state == "finalised", "the weld is finalised")
        return Path(weld.path)

    def finish(self) -> Finished:
        """End it by command."""
        client = ControlClient(self._runtime.control)
        assert client.request("shutdown", timeout_s=5.0).ok
        client.close()
        return self._app.finish(20.0)

    def close(self) -> None:
        """Release everything, also after a failure."""
        self._watch.__exit__()
        if self._app.process.poll() is None:
            self._app.process.terminate()
            self._app.finish(30.0)


@dataclass
class Contents:
    """A recorded weld: its items with their cell times (of a frame, of a block's first sample)."""

    reader: WeldReader
    frames: list[tuple[int, Packet]]
    sound: npt.NDArray[np.int16]
    sound_ns: int
    gaps: list[Event]
    photos: list[Photo]


def contents(folder: Path) -> Contents:
    reader, clocks = WeldReader(folder), ClockTable()
    found = Contents(reader, [], np.zeros(0, np.int16), 0, [], [])
    sounds = []
    for packet in reader.packets():
        payload = packet.payload
        if isinstance(payload, ClockUpdate):
            clocks.apply(payload)
        elif isinstance(payload, VideoFrame):
            found.frames.append((clocks.cell_time_ns(reader.infos[packet.stream], packet), packet))
        elif isinstance(payload, SampleBlock):
            first_ns = clocks.cell_time_ns(reader.infos[packet.stream], packet)
            sounds.append((payload.samples[:, 0], first_ns))
        elif isinstance(payload, Photo):
            found.photos.append(payload)
        elif isinstance(payload, Event) and payload.kind == "gap":
            found.gaps.append(payload)
    found.sound = np.concatenate([samples for samples, _ in sounds]).astype(np.int16)
    found.sound_ns = (
        sounds[len(sounds) // 2][1] - sum(len(s) for s, _ in sounds[: len(sounds) // 2]) * 10**9 // SOUND_HZ
    )
    return found
