"""Several hosts, played by processes that share nothing but TCP: a cell, a detector and a screen with their keys."""

import json
import signal
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from acquisition.keys import CELL, ClientKeys, make_keys, read_pair
from acquisition.transport import ControlClient, Subscriber
from recordings.reader import WeldReader
from recordings.remote import ask_judging, remote_cell
from recordings.status import STATUS_TOPIC, CellStatus
from tests.acquisition.guarded_cell import problem
from tests.end_to_end.processes import App, Place, Watch, app

pytestmark = pytest.mark.end_to_end


def free_port() -> int:
    """Find a port that is free, and the one above it, too."""
    while True:
        with socket.socket() as first, socket.socket() as second:
            first.bind(("127.0.0.1", 0))
            port = int(first.getsockname()[1])
            try:
                second.bind(("127.0.0.1", port + 1))
            except (OSError, OverflowError):
                continue
            return port


class RemoteWatch(Watch):
    """Follows a capture process on another host."""

    def __init__(self, endpoint: str, keys: ClientKeys) -> None:
        """Connect."""
        self._subscriber = Subscriber(endpoint, messages={STATUS_TOPIC: CellStatus}, keys=keys)
        self.status = None
        self.events = []


@pytest.fixture
def networked(make_place: Callable[..., Place]) -> tuple[Place, str]:
    """Give a cell that listens, and its address."""
    address = f"tcp://127.0.0.1:{free_port()}"
    network = f'[network]\nlisten = "{address}"\nkeys = "keys"\n[simulation]'
    return make_place("cell", ("[simulation]", network)), address


def make_client(place: Place, name: str) -> Path:
    """Let `keys` make what a client carries to its host; the name that `--key` takes."""
    made = app("keys", name, "--cell", str(place.cell), "--json")
    assert made.code == 0, made.err
    assert name in made.result["clients"]
    return place.cell.parent / "keys" / name / name


def test_a_weld_is_judged_and_shown_from_other_hosts(networked: tuple[Place, str], tmp_path: Path) -> None:
    place, address = networked
    screen_key, detector_key = make_client(place, "screen"), make_client(place, "judge")
    report = tmp_path / "screen.json"
    with place.run("--headless", "--judged-elsewhere", "--for", "60", "--welds", "2", "--json") as capture:
        remote = remote_cell(address, screen_key)
        with RemoteWatch(remote.data, remote.keys) as watch:
            watch.until(lambda: watch.status is not None, "the cell's status comes over TCP")
            judging = ask_judging(remote)
            assert (judging.cell, judging.alpha) == ("small", 0.2)
            options = ["--connect", address, "--key"]
            judge = App("detector", *options, str(detector_key), "--checkpoint", str(place.checkpoint))
            screen = App("run", *options, str(screen_key), "--report", str(report))
            with judge, screen:
                watch.until(
                    lambda: watch.status is not None and watch.status.detector.state == "ready", "the detector attached"
                )
                stranger = ClientKeys(
                    own=make_keys(tmp_path / "stranger", "his"), cell=read_pair(screen_key.parents[1], CELL).public
                )
                ear = Subscriber(remote.data, keys=stranger)
                problem(ear, "not admitted")
                assert ear.receive(0) is None
                ear.close()
                watch.until(
                    lambda: watch.status is not None and any("not let in" in a.text for a in watch.status.alarms),
                    "the screen is told of the stranger",
                )
                control = ControlClient(remote.control, remote.keys)
                assert control.request("mark", {"note": "from afar"}).ok
                control.close()
                ended = capture.finish(90)
                screen.process.send_signal(signal.SIGTERM)
                shown = screen.finish(20)
                judge.process.send_signal(signal.SIGTERM)
                assert judge.finish(20).code == 0
    assert ended.code == 0, ended.err
    last = ended.result["welds"][-1]
    assert last["verdict"] in ("GO", "NO-GO")
    assert last["stage"] == "consistency"
    assert 0 < ended.result["latency_ms"]["window_to_verdict"]["p95"] < 2000
    assert WeldReader(Path(last["path"])).verdicts()[-1].final
    assert shown.code == 0, shown.err
    figures = json.loads(report.read_text())
    assert figures["pictures"] > 20
    assert figures["messages_lost"] == 0
    assert 0 < figures["capture_to_screen"]["p95"] < 2000
    print(figures["capture_to_screen"], ended.result["latency_ms"])  # noqa: T201  # measurements, seen with -rP


def test_without_keys_a_cell_does_not_listen_and_nobody_connects(networked: tuple[Place, str]) -> None:
    place, address = networked
    started = place.run("--headless", "--for", "1").finish()
    assert started.code == 1
    assert f"{place.cell.parent}/keys/cell.pub: No such file or directory; make keys with `keys NAME`" in started.err
    for command in ("run", "detector"):
        asked = app(command, "--connect", address)
        assert (asked.code, asked.out) == (2, "")
        assert asked.err == f"--connect {address} needs --key FOLDER/NAME; make keys with `keys` on the cell's host\n"
    key = make_client(place, "screen")
    for wrong in ("127.0.0.1:5570", "tcp://host", "tcp://host:65535", "tcp://host:0"):
        asked = app("detector", "--connect", wrong, "--key", str(key))
        assert (asked.code, asked.err.count("\n")) == (1, 1)
        assert "is no address of a cell; write tcp://HOST:PORT" in asked.err
    asked = app("detector", "--connect", address, "--key", str(key))
    assert (asked.code, asked.err.count("\n")) == (1, 1)
    assert "no answer to 'status'" in asked.err
    assert "the cell does not answer yet" in asked.err
