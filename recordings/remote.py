"""Several hosts: doors of a capture process for screens and detectors elsewhere, and how those find it.

Packets go out at the port that the cell file names (`[network] listen`), commands come in one port above.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import platformdirs

from acquisition.curve import Door, Gate
from acquisition.keys import ClientKeys, read_client
from acquisition.transport import ControlClient, TransportError
from recordings.cell import Cell, network_endpoints


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteCell:
    """A capture process on another host.

    Attributes:
        data: Endpoint on which it publishes.
        control: Endpoint on which it takes commands.
        keys: What it is attached to with.
    """

    data: str
    control: str
    keys: ClientKeys


class Judging(msgspec.Struct, frozen=True, kw_only=True):
    """What a detector must know of a cell: its name, the modalities required by stage, the false-alarm rate."""

    cell: str
    required: dict[str, tuple[str, ...]]
    alpha: float


def keys_folder(cell: Cell) -> Path:
    """Folder of a cell's keys: the one that its file names (relative to it), else one of the user's."""
    if cell.network.keys:
        return cell.path.parent / Path(cell.network.keys).expanduser()
    return Path(platformdirs.user_config_dir("weld-4m", appauthor=False)) / "keys" / cell.name


@contextmanager
def open_doors(cell: Cell, on_problem: Callable[[str], None]) -> Iterator[tuple[Door | None, Door | None]]:
    """Guard the doors for packets and for commands while the context lasts; (None, None) for a cell without network.

    The sockets that are bound there must be closed before the context ends.

    Args:
        cell: The cell file.
        on_problem: Called from a thread with a line for the user, about a stranger or a file that is no key.

    Raises:
        KeysError: The cell has no keys yet, or they are unsafe.
        TransportError: `listen` leaves no room for two ports.
    """
    if not cell.network.listen:
        yield None, None
        return
    data, control = _endpoints(cell.network.listen)
    gate = Gate(keys_folder(cell), on_problem)
    try:
        yield Door(gate, data), Door(gate, control)
    finally:
        gate.close()


def remote_cell(connect: str, key: Path) -> RemoteCell:
    """Say where and with what to attach to a cell on another host; connects nothing yet.

    Args:
        connect: `tcp://HOST:PORT`, the port that the cell listens on.
        key: `FOLDER/NAME` of this host's own keys; the cell's `cell.pub` lies beside them.

    Raises:
        KeysError: A key is missing, damaged or unsafe.
        TransportError: `connect` is no such address.
    """
    data, control = _endpoints(connect)
    return RemoteCell(data=data, control=control, keys=read_client(key.expanduser()))


def ask_judging(remote: RemoteCell, timeout_s: float = 5.0) -> Judging:
    """Ask a cell how it wants its welds judged.

    Raises:
        TransportError: It does not answer, does not admit this host, or is of another version.
    """
    client = ControlClient(remote.control, remote.keys)
    try:
        reply = client.request("status", timeout_s=timeout_s)
    finally:
        client.close()
    if not reply.ok:
        raise TransportError(f"{remote.control}: {reply.message}")
    try:
        return msgspec.convert(reply.data, Judging)
    except msgspec.ValidationError as error:
        raise TransportError(
            f"{remote.control}: is no capture process ({error}); connect to a cell that runs"
        ) from error


def status_data(cell: Cell, root: Path) -> dict[str, Any]:
    """What a capture process answers to `status`."""
    judging = Judging(cell=cell.name, required=cell.judge.required, alpha=cell.judge.alpha)
    return {"root": str(root), **msgspec.to_builtins(judging)}


def _endpoints(address: str) -> tuple[str, str]:
    found = network_endpoints(address)
    if found is None:
        raise TransportError(f"'{address}' is no address of a cell; write tcp://HOST:PORT with a port of 1-65534")
    return found
