"""Key files: who the cell is, and who may attach to it from another host (CurveZMQ, RFC 26 of ZeroMQ).

A folder of keys holds pairs `NAME.pub` and `NAME.secret`; the cell's own is called `cell`. On the cell's host its
folder `clients` holds the public key of everybody who is let in; taking a file out of it locks its owner out. A client
needs its own pair and `cell.pub`, by which it knows that it speaks to the cell.
"""

import os
import re
import stat
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import zmq
from zmq.utils import z85

CELL: Final = "cell"
CLIENTS: Final = "clients"
_KEY_LENGTH: Final = 40
_LONGEST_FILE: Final = 1000


class KeysError(Exception):
    """A key is missing, unreadable, unsafe or would be overwritten; the message names the file and the fix."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyPair:
    """A key pair, each 40 characters of Z85."""

    public: bytes
    secret: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientKeys:
    """What a client needs to attach: its own pair, and the public key of the cell."""

    own: KeyPair
    cell: bytes


def make_keys(folder: Path, name: str) -> KeyPair:
    """Make the pair `name` in `folder` (made, 0700, if it is not there): `NAME.secret` (0600) and `NAME.pub`.

    Raises:
        KeysError: The name is none, a file of that name is there already, or the folder cannot be written.
    """
    if not re.fullmatch(r"[A-Za-z0-9][\w-]{0,39}", name) or name == CLIENTS:
        raise KeysError(f"'{name}' cannot name a key; use up to 40 letters, digits, _ and -, and not '{CLIENTS}'")
    _private_folder(folder)
    public, secret = zmq.curve_keypair()
    for suffix in (".pub", ".secret"):
        if (folder / (name + suffix)).exists():
            raise KeysError(f"{folder / (name + suffix)} is there already; choose another name, or remove it first")
    _write(folder / f"{name}.secret", secret, 0o600)
    _write(folder / f"{name}.pub", public, 0o644)
    return KeyPair(public=public, secret=secret)


def read_pair(folder: Path, name: str) -> KeyPair:
    """Read a pair.

    Raises:
        KeysError: It is not there, damaged, or others than the owner may read its secret or change the folder.
    """
    path = folder / f"{name}.secret"
    public = read_public(folder / f"{name}.pub")
    _check_safe(folder)
    if os.name == "posix":
        found = _stat(path)
        if found.st_mode & 0o077:
            raise KeysError(f"{path} may be read by others (mode {found.st_mode & 0o777:04o}); chmod 600 {path}")
    secret = _read(path)
    try:
        belongs = zmq.curve_public(secret) == public
    except zmq.ZMQError:
        belongs = False
    if not belongs:
        raise KeysError(f"{path} does not belong to {name}.pub; copy both anew, or remove both and make new ones")
    return KeyPair(public=public, secret=secret)


def read_public(path: Path) -> bytes:
    """Read a public key.

    Raises:
        KeysError: It is not there, or no key.
    """
    return _read(path)


def read_client(path: Path) -> ClientKeys:
    """Read the keys that a client attaches with; `path` is `FOLDER/NAME`, without or with `.pub` or `.secret`.

    Raises:
        KeysError: One of them is missing, damaged or unsafe.
    """
    name = path.name.removesuffix(".secret").removesuffix(".pub")
    own = read_pair(path.parent, name)
    server = path.parent / f"{CELL}.pub"
    if not server.exists():
        raise KeysError(f"{server}: not there; copy it from the keys of the cell's host")
    return ClientKeys(own=own, cell=read_public(server))


def read_clients(folder: Path) -> tuple[dict[bytes, str], list[str]]:
    """Read who is let in: names by public key, and a line for every file that holds none.

    Raises:
        KeysError: Others than the owner may change the list.
    """
    clients = folder / CLIENTS
    if not clients.is_dir():
        return {}, []
    _check_safe(folder)
    _check_safe(clients)
    admitted: dict[bytes, str] = {}
    problems = []
    for path in sorted(clients.glob("*.pub")):
        try:
            admitted[read_public(path)] = path.stem
        except KeysError as error:
            problems.append(str(error))
    return admitted, problems


def admit(folder: Path, name: str, public: bytes) -> Path:
    """Let the owner of a public key in, from now on, also into a cell that runs; returns the file.

    Raises:
        KeysError: Another key goes by that name, or the folder cannot be written.
    """
    path = folder / CLIENTS / f"{name}.pub"
    _private_folder(folder)
    _private_folder(path.parent)
    if path.exists():
        if read_public(path) == public:
            return path
        raise KeysError(f"{path} holds another key; choose another name, or remove the file to lock that one out")
    _write(path, public, 0o644)
    return path


def give_keys(folder: Path, client: str) -> list[str]:
    """Do what the command `keys` does on the cell's host; returns what was done, as lines for the user.

    Args:
        folder: The cell's folder of keys; its own pair is made there the first time.
        client: Name of a new client, whose pair is made in a folder of its own, to be carried to its host; or a `.pub`
            file that a client made (by `make_keys`) and sent, whose secret then never left its host.

    Raises:
        KeysError: See `make_keys`, `admit`.
    """
    lines = []
    if (folder / f"{CELL}.secret").exists():
        server = read_pair(folder, CELL)
    else:
        server = make_keys(folder, CELL)
        lines.append(f"made the cell's own keys in {folder}")
    if client.endswith(".pub"):
        sent = Path(client)
        path = admit(folder, sent.stem, read_public(sent))
        lines.append(f"{path.stem} may attach; copy {folder / CELL}.pub to its host, beside its own keys")
        return lines
    own, listed = folder / client, folder / CLIENTS / f"{client}.pub"
    if client == CELL or listed.exists():
        raise KeysError(f"'{client}' is taken; choose another name" + (f", or remove {listed}" * listed.exists()))
    pair = make_keys(own, client)
    _write(own / f"{CELL}.pub", server.public, 0o644)
    admit(folder, client, pair.public)
    lines.append(f"{client} may attach; move {own} to its host, and give {own.name}/{client} as --key there")
    return lines


def _private_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise KeysError(f"{folder}: {error.strerror}; choose another folder for the keys") from error
    _check_safe(folder)


def _check_safe(folder: Path) -> None:
    """Whoever may change the folder may let himself in, or put another cell in the place of this one."""
    if os.name == "posix" and _stat(folder).st_mode & 0o022:
        raise KeysError(f"{folder} may be changed by others; chmod 700 {folder}")


def _stat(path: Path) -> os.stat_result:
    try:
        found = path.stat()
    except OSError as error:
        raise KeysError(f"{path}: {error.strerror}; make keys with `keys NAME`, or name where they are") from error
    if hasattr(os, "getuid") and found.st_uid not in (os.getuid(), 0):
        raise KeysError(f"{path} belongs to another user; copy the keys, or chown {path}")
    return found


def _write(path: Path, key: bytes, mode: int) -> None:
    try:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            file.write(key + b"\n")
    except FileExistsError:
        raise KeysError(f"{path} is there already; choose another name, or remove it first") from None
    except OSError as error:
        raise KeysError(f"{path}: {error.strerror}; choose another folder for the keys") from error


def _read(path: Path) -> bytes:
    """Read the one key of a file; a fifo or device in its place is none, and is not waited for."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise KeysError(f"{path} is no file; put a key file in its place")
        with path.open("rb") as file:
            key = file.read(_LONGEST_FILE).strip()
    except OSError as error:
        raise KeysError(f"{path}: {error.strerror}; make keys with `keys NAME`, or name where they are") from error
    try:
        known = len(key) == _KEY_LENGTH and z85.encode(z85.decode(key)) == key
    except (KeyError, ValueError, struct.error):
        known = False
    if not known:
        raise KeysError(f"{path} holds no key (one line of {_KEY_LENGTH} characters); copy it anew")
    return key
