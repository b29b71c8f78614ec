"""Processes that import one weld at a time: a decoder that hangs or crashes costs its weld, not the import."""

import itertools
import multiprocessing
import os
import threading
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Final

from recordings.import_one import ImportOptions, Outcome, import_one, sweep_staging
from recordings.weld4m_tree import FoundWeld

PATIENCE_S: Final = 120.0
"""A weld gets this long and a second more per megabyte; a whole one takes about two seconds."""

_END_S: Final = 5.0


def _serve(door: Connection, destination: Path, options: ImportOptions) -> None:
    """Import what is sent until nothing more comes, or whoever started this has gone."""
    threading.Thread(target=_follow, name="parent-watch", daemon=True).start()
    try:
        while (weld := door.recv()) is not None:
            door.send(import_one(weld, destination, options))
    except (EOFError, OSError, KeyboardInterrupt):
        return


def _follow() -> None:
    """End with the parent, at once: the next import must find nobody at work. It sweeps what this one leaves."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)


@dataclass(slots=True)
class _Worker:
    """One process and what it works on."""

    destination: Path
    options: ImportOptions
    door: Connection = field(init=False)
    process: multiprocessing.process.BaseProcess = field(init=False)
    weld: FoundWeld | None = None
    until_s: float = 0.0

    def __post_init__(self) -> None:
        self.start()

    def start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.door, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, self.destination, self.options), daemon=True)
        self.process.start()
        theirs.close()

    def give(self, weld: FoundWeld, patience_s: float) -> None:
        size = sum(path.stat().st_size for path in (*weld.files.values(), *weld.photos) if path.exists())
        self.weld, self.until_s = weld, time.monotonic() + patience_s + size / 1e6
        self.door.send(weld)

    def replace(self, reason: str) -> Outcome:
        """End the process, start another, and tell what became of the weld."""
        assert self.weld is not None
        outcome = Outcome(key=self.weld.key, reason=reason)
        self.end(0.0)
        sweep_staging(self.weld, self.destination)
        self.weld = None
        self.start()
        return outcome

    def end(self, patience_s: float) -> None:
        if patience_s and self.process.is_alive():
            self.door.send(None)
            self.process.join(patience_s)
        self.door.close()
        self.process.kill()
        self.process.join(_END_S)


def import_all(
    welds: Sequence[FoundWeld],
    destination: Path,
    options: ImportOptions,
    *,
    workers: int,
    patience_s: float = PATIENCE_S,
) -> Generator[Outcome, None, None]:
    """Import welds, in any order; at most one per worker is in memory.

    Args:
        welds: The welds.
        destination: Recordings root.
        options: How.
        workers: Number of processes; 0 works in this one, which a hanging decoder would stop.
        patience_s: What a weld gets beside a second per megabyte.
    """
    if not workers:
        yield from (import_one(weld, destination, options) for weld in welds)
        return
    waiting = iter(welds)
    crew: list[_Worker] = []
    try:
        for weld in itertools.islice(waiting, workers):
            crew.append(_Worker(destination, options))
            crew[-1].give(weld, patience_s)
        while busy := [worker for worker in crew if worker.weld is not None]:
            first_s = min(worker.until_s for worker in busy)
            ready = wait([worker.door for worker in busy], max(0.0, first_s - time.monotonic()))
            for worker in busy:
                if worker.door in ready:
                    yield _received(worker)
                elif time.monotonic() >= worker.until_s:
                    yield worker.replace("took too long: a decoder hangs on one of its files; check them")
                if worker.weld is None and (following := next(waiting, None)) is not None:
                    worker.give(following, patience_s)
    finally:
        for worker in crew:
            worker.end(_END_S if worker.weld is None else 0.0)


def _received(worker: _Worker) -> Outcome:
    try:
        outcome = worker.door.recv()
    except (EOFError, ConnectionError):
        return worker.replace("ended the process that read it: a decoder crashed on one of its files; check them")
    assert isinstance(outcome, Outcome)
    worker.weld = None
    return outcome
