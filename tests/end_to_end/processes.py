"""Whole processes for tests: `python app.py ...` in folders of its own, watched through what capture publishes."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from acquisition.packet import Event, Packet
from acquisition.transport import Subscriber
from recordings.runtime import Runtime
from recordings.status import STATUS_TOPIC, CellStatus

CHECKOUT: Final = Path(__file__).resolve().parents[2]

CELL: Final = """
name = "small"
[record]
video = "lossless"
pre_s = 0.5
post_s = 1.2
reserve_gb = 0.01
[judge]
alpha = 0.2
required_process = ["video", "audio", "sensors"]
required_final = ["video", "audio", "sensors"]
photos_expected = 2
photo_wait_s = 3.0
[simulation]
seed = 7
classes = ["good"]
idle_s = 1.2
arc_s = 2.5
tail_s = 2.4
gap_s = 0.3
photos = 2
photo_delay_s = 0.8
photo_height = 96
photo_width = 128
height = 96
width = 160
saturated_rows = 0.0
[[stream]]
name = "camera"
modality = "video"
driver = "simulated"
[[stream]]
name = "microphone"
modality = "audio"
driver = "simulated"
[[stream]]
name = "sensors"
modality = "sensors"
driver = "simulated"
[[stream]]
name = "photos"
modality = "post_images"
driver = "simulated"
"""
"""Short welds and small pictures: a weld every six seconds, at the rates of real devices."""


def write_cell(path: Path, *changes: tuple[str, str]) -> Path:
    """Write a cell file: `CELL` with some of its text replaced."""
    text = CELL
    for old, new in changes:
        assert old in text, old
        text = text.replace(old, new)
    path.write_text(text, encoding="utf-8")
    return path


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where one cell runs: nothing is shared with any other test."""

    cell: Path
    root: Path
    runtime: Runtime
    checkpoint: Path

    @classmethod
    def make(cls, folder: Path, checkpoint: Path, *changes: tuple[str, str]) -> Self:
        """Prepare `folder`; the runtime folder lies in the session's short one, as its sockets need."""
        folder.mkdir(parents=True, exist_ok=True)
        runtime = Runtime(Path(tempfile.mkdtemp(prefix="e", dir=os.environ["XDG_RUNTIME_DIR"])))
        cell = write_cell(folder / "cell.toml", *changes)
        return cls(cell=cell, root=folder / "welds", runtime=runtime, checkpoint=checkpoint)

    def run(self, *arguments: str) -> "App":
        """Start `app.py run` here, with full messages; a screen draws into memory (tests/conftest.py)."""
        options = ["--cell", self.cell, "--root", self.root, "--runtime", self.runtime.folder]
        options += ["--checkpoint", self.checkpoint]
        return App("--debug", "run", *map(str, options), *arguments)

    def pids(self) -> dict[str, int]:
        """Ids of the living capture and detector processes."""
        found = {role: self.runtime.holder(role) for role in ("capture", "detector")}
        return {role: pid for role, pid in found.items() if pid is not None and pid > 0}

    def end(self) -> None:
        """Kill what a failed test left here; these processes are nobody's children."""
        for pid in self.pids().values():
            os.kill(pid, signal.SIGKILL)


@dataclass(frozen=True, kw_only=True)
class Finished:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def result(self) -> dict[str, Any]:
        """What it printed with `--json`."""
        found = json.loads(self.out)
        assert isinstance(found, dict)
        return found


class App:
    """One `python app.py` process. Its output goes to files: processes that outlive it write on."""

    def __init__(
        self, *arguments: str, environment: Mapping[str, str] | None = None, before: Callable[[], None] | None = None
    ) -> None:
        """Start it; `before` runs in the child."""
        self._files = contextlib.ExitStack()
        self._out, self._err = (self._files.enter_context(tempfile.TemporaryFile()) for _ in range(2))  # noqa: SIM115  # closed by the stack
        self.process = subprocess.Popen(
            [sys.executable, str(CHECKOUT / "app.py"), *arguments],
            env={**os.environ, "PYTHONWARNINGS": "error", **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=self._out,
            stderr=self._err,
            preexec_fn=before,
        )

    def finish(self, timeout_s: float = 60.0) -> Finished:
        """Wait for its end."""
        try:
            code = self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.process.args!r} did not end within {timeout_s:g} s: {self._text()}") from None
        else:
            out, err = self._text()
        finally:
            self.kill()
        return Finished(code=code, out=out, err=err)

    def _text(self) -> tuple[str, str]:
        out, err = (os.pread(file.fileno(), 1 << 24, 0).decode() for file in (self._out, self._err))
        return out, err

    def kill(self) -> None:
        """Kill it as the kernel would when memory is short."""
        self.process.kill()
        self.process.wait()
        self._files.close()

    def __enter__(self) -> Self:
        """Use it in a `with` to have it killed at the end, whatever happens."""
        return self

    def __exit__(self, *_: object) -> None:
        """Kill it if it still runs."""
        self.kill()

    def said(self, text: str) -> bool:
        """True once it has written `text` to stderr."""
        return text in self._text()[1]


def app(*arguments: str) -> Finished:
    """Run one command to its end."""
    return App(*arguments).finish()


class Watch:
    """Follows what a capture process publishes.

    Attributes:
        status: The newest status, or None.
        events: All events so far.
    """

    def __init__(self, runtime: Runtime) -> None:
        """Connect; the capture process may come later."""
        self._subscriber = Subscriber(runtime.data, messages={STATUS_TOPIC: CellStatus})
        self.status: CellStatus | None = None
        self.events: list[Event] = []

    def until(self, condition: Callable[[], bool], what: str, timeout_s: float = 40.0) -> None:
        """Follow until `condition` holds; fail with `what` after `timeout_s`."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > deadline:
                raise AssertionError(f"waited {timeout_s:g} s in vain: {what}; last status: {self.status}")
            item = self._subscriber.receive(0.1)
            if isinstance(item, Packet):
                self.events += [item.payload] if isinstance(item.payload, Event) else []
            elif item is not None:
                self.status = item[1]

    def happened(self, kind: str, times: int = 1) -> bool:
        """True once so many events of a kind were seen."""
        return sum(event.kind == kind for event in self.events) >= times

    def __enter__(self) -> Self:
        """Use it in a `with`."""
        return self

    def __exit__(self, *_: object) -> None:
        """Release the socket."""
        self._subscriber.close()


def gone(pid: int) -> bool:
    """True when a process has ended (or only waits for its parent to notice)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True
