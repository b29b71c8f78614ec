"""`tell`: commands from a shell reach a control server as they were meant, and nothing else does."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from acquisition.transport import ControlServer, Reply, Request
from recordings.runtime import Runtime
from recordings.status import COMMANDS
from recordings.tell_command import TOLD, commands


class Cell:
    """A control server that keeps what it is told."""

    def __init__(self, folder: Path) -> None:
        self.runtime = Runtime(folder)
        self.told: list[Request] = []
        self.server = ControlServer(self.runtime.control, self.take)

    def take(self, request: Request) -> Reply:
        self.told.append(request)
        if request.kind == "describe":
            return Reply(ok=False, message="no such weld")
        return Reply(ok=True, data={"root": "/welds"} if request.kind == "status" else {})

    def tell(self, *arguments: str) -> tuple[int, str, str]:
        done = CliRunner().invoke(commands, [*arguments, "--runtime", str(self.runtime.folder)])
        return done.exit_code, done.stdout, done.stderr


@pytest.fixture
def cell(tmp_path: Path) -> Iterator[Cell]:
    made = Cell(tmp_path / "r")
    yield made
    made.server.close()


def test_what_may_be_told_is_a_command() -> None:
    assert set(TOLD) <= set(COMMANDS)


@pytest.mark.parametrize(
    ("words", "data"),
    [
        (["record"], {}),
        (["trigger", "on", "source=robot 3"], {"on": True, "source": "robot 3"}),
        (["trigger", "on=false", "source=plc"], {"on": False, "source": "plc"}),
        (["arm", "off"], {"on": False}),
        (["mark", "note=look here = now"], {"note": "look here = now"}),
        (["label", "weld=K", "label=3", "by=me"], {"weld": "K", "label": 3, "by": "me"}),
        (["metadata", "part=007", "thickness_mm=2.5"], {"part": "007", "thickness_mm": 2.5}),
    ],
)
def test_words_become_data(cell: Cell, words: list[str], data: dict[str, object]) -> None:
    code, _, error = cell.tell(*words)
    assert (code, error) == (0, "")
    assert [(one.kind, one.data) for one in cell.told] == [(words[0], data)]


def test_who_says_it_is_told(cell: Cell) -> None:
    assert cell.tell("trigger", "on")[0] == 0
    assert cell.told[0].data["source"]


def test_an_answer_is_printed_and_a_refusal_fails(cell: Cell) -> None:
    code, out, _ = cell.tell("status", "--json")
    assert (code, json.loads(out)) == (0, {"ok": True, "message": "", "root": "/welds"})
    code, out, error = cell.tell("describe", "weld=K", "name=part", "value=x")
    assert (code, out, error) == (1, "", "no such weld\n")


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["inject", "fault=kill:camera@1"], "'inject' is no command; use one of record, stop"),
        (["mark", "look"], "'look' is no NAME=VALUE"),
        (["mark", "=x"], "'=x' is no NAME=VALUE"),
        (["stop", "--connect", "tcp://h:1"], "needs --key"),
    ],
)
def test_wrong_words_are_told_and_send_nothing(cell: Cell, words: list[str], problem: str) -> None:
    code, _, error = cell.tell(*words)
    assert code == 2
    assert problem in error
    assert not cell.told
