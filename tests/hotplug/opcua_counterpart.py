"""An OPC UA server by asyncua with four nodes that run on a schedule (`python -m tests.hotplug.opcua_counterpart ...`).

`ns=2;s=wire` holds the number of the sample, `ns=2;s=current` and `ns=2;s=voltage` two constants, all stamped with
number / rate in UTC (plus `ahead_s`), the voltage `apart_ms` later; `ns=2;s=text` holds a text.
"""

import asyncio
import importlib
import math
import os
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.acquisition.counterparts import PATIENCE_S, ROOT

NODES = {"wire_mm": "ns=2;s=wire", "current_a": "ns=2;s=current", "voltage_v": "ns=2;s=voltage"}
USER, PASSWORD = "welder", "se-cret"


class OpcUaDevice:
    """An OPC UA server on a port.

    Its address space takes seconds to build. A process does that once and then forks a server for every start, so that
    the server that is killed is a process of its own, and the next one is there at once.
    """

    def __init__(
        self, port: int, rate_hz: float, ahead_s: float = 0.0, apart_ms: float = 0.0, certificates: Path | None = None
    ) -> None:
        self.url = f"opc.tcp://127.0.0.1:{port}"
        self._pid = 0
        self._mother = subprocess.Popen(
            [
                sys.executable,
                "-m",
                __name__,
                self.url,
                str(certificates or ""),
                str(rate_hz),
                str(ahead_s),
                str(apart_ms),
            ],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def start(self) -> int:
        """Start a server (also again, after `kill`); gives the cell time from which it can answer."""
        assert self._mother.stdin is not None
        assert self._mother.stdout is not None
        print(file=self._mother.stdin, flush=True)
        said = self._mother.stdout.readline()
        ready_ns = time.monotonic_ns()
        assert said, "the server ended at once; run it by hand to see why"
        self._pid = int(said)
        return ready_ns

    def kill(self) -> None:
        """Kill the server, as a crash would; may be called twice."""
        self.signal(signal.SIGKILL)
        self._pid = 0

    def signal(self, number: int) -> None:
        """Send the server a signal, such as SIGSTOP to freeze it."""
        if self._pid:
            os.kill(self._pid, number)

    def close(self) -> None:
        """End everything."""
        self.kill()
        self._mother.communicate(timeout=PATIENCE_S)  # closes its input, upon which it ends


class _Users:
    """Let in anybody who names no user, and the one user by password."""

    def get_user(self, iserver, username=None, password=None, certificate=None):
        known = username is None or (username, password) == (USER, PASSWORD)
        users: Any = importlib.import_module("asyncua.crypto.permission_rules")
        return users.User(role=users.UserRole.User) if known else None


async def build(asyncua: Any, url: str, certificates: str) -> tuple[Any, list[Any]]:
    """Build the server and its nodes; with `server.der` and `server.pem` in a folder it signs and encrypts."""
    server = asyncua.Server(user_manager=_Users())
    await server.init()
    server.set_endpoint(url)
    if certificates:
        await server.load_certificate(Path(certificates) / "server.der")
        await server.load_private_key(Path(certificates) / "server.pem")
        server.set_security_policy([asyncua.ua.SecurityPolicyType.Basic256Sha256_SignAndEncrypt])
    else:
        server.set_security_policy([asyncua.ua.SecurityPolicyType.NoSecurity])
    await server.register_namespace("urn:weld")
    values = {"wire": 0.0, "current": 120.0, "voltage": 21.0, "text": "on"}
    objects = server.nodes.objects
    return server, [
        await objects.add_variable(asyncua.ua.NodeId(name, 2), name, value) for name, value in values.items()
    ]


async def serve(ua: Any, server: Any, nodes: list[Any], rate_hz: float, ahead_s: float, apart_ms: float) -> None:
    """Be the server until killed."""
    async with server:
        print(os.getpid(), flush=True)  # noqa: T201 - read by `OpcUaDevice.start`
        number = math.ceil(time.time() * rate_hz)
        while True:
            await asyncio.sleep(max(0.0, number / rate_hz - time.time()))
            for node, value, late_s in zip(
                nodes, (float(number), 120.0, 21.0, "on"), (0, 0, apart_ms / 1000, 0), strict=True
            ):
                stamp = datetime.fromtimestamp(number / rate_hz + ahead_s + late_s, UTC)
                await node.write_value(ua.DataValue(ua.Variant(value), SourceTimestamp=stamp, ServerTimestamp=stamp))
            number += 1


def main(url: str, certificates: str, *settings: str) -> None:
    """Fork a server for every line of the input."""
    asyncua: Any = importlib.import_module("asyncua")
    server, nodes = asyncio.run(build(asyncua, url, certificates))
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the servers that were killed
    for _ in sys.stdin:
        if os.fork() == 0:
            asyncio.run(serve(asyncua.ua, server, nodes, *map(float, settings)))


if __name__ == "__main__":
    main(*sys.argv[1:])
