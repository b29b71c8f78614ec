import os
import re
import stat
from pathlib import Path

import pytest
import zmq

from acquisition.keys import (
    CELL,
    CLIENTS,
    KeysError,
    admit,
    give_keys,
    make_keys,
    read_client,
    read_clients,
    read_pair,
    read_public,
)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_pair_is_private_and_is_never_overwritten(tmp_path):
    folder = tmp_path / "new" / "keys"
    pair = make_keys(folder, "screen")
    assert (mode(folder), mode(folder / "screen.secret")) == (0o700, 0o600)
    assert read_pair(folder, "screen") == pair
    assert zmq.curve_public(pair.secret) == pair.public
    assert pair.secret.decode() not in repr(pair)
    for name in ("screen.secret", "screen.pub"):
        with pytest.raises(KeysError, match="is there already; choose another name"):
            make_keys(folder, "screen")
        (folder / name).unlink()
    assert make_keys(folder, "screen") != pair


@pytest.mark.parametrize("name", ["", "../up", "a b", ".hidden", CLIENTS, "x" * 41])
def test_a_name_that_is_none_is_refused(tmp_path, name):
    with pytest.raises(KeysError, match="cannot name a key"):
        make_keys(tmp_path / "keys", name)
    assert not (tmp_path / "keys").exists()


@pytest.mark.parametrize(
    ("file", "to", "fix"), [("own.secret", 0o604, "chmod 600 {0}/own.secret"), (".", 0o720, "chmod 700 {0}")]
)
def test_what_others_may_read_or_change_is_refused_with_the_fix(tmp_path, file, to, fix):
    folder = tmp_path / "keys"
    make_keys(folder, "own")
    (folder / file).chmod(to)
    with pytest.raises(KeysError, match=re.escape(fix.format(folder)) + "$"):
        read_pair(folder, "own")


def test_keys_of_another_user_are_refused(tmp_path, monkeypatch):
    make_keys(tmp_path / "keys", "own")
    owner = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: owner + 1)
    if owner == 0:  # what belongs to root is safe for everybody
        os.chown(tmp_path / "keys", 7, 7)
    with pytest.raises(KeysError, match="belongs to another user"):
        read_pair(tmp_path / "keys", "own")


@pytest.mark.parametrize("text", [b"", b"a" * 39, b"a" * 41, b"~" * 40, b"\xff" * 40, b"#" * 40, b"a" * 10**6])
def test_what_is_no_key_is_said_so_with_its_file(tmp_path, text):
    make_keys(tmp_path / "keys", "own")
    (tmp_path / "keys" / "own.pub").write_bytes(text)
    with pytest.raises(KeysError, match=r"own\.pub holds no key"):
        read_pair(tmp_path / "keys", "own")


def test_a_fifo_in_the_place_of_a_key_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "own.pub")
    with pytest.raises(KeysError, match="is no file"):
        read_public(tmp_path / "own.pub")


def test_halves_of_two_pairs_are_refused(tmp_path):
    folder = tmp_path / "keys"
    make_keys(folder, "own")
    other = make_keys(folder, "other")
    (folder / "own.pub").write_bytes(other.public)
    with pytest.raises(KeysError, match=r"own\.secret does not belong to own\.pub"):
        read_pair(folder, "own")


def test_one_command_makes_all_that_a_client_carries_away(tmp_path):
    folder = tmp_path / "keys"
    lines = give_keys(folder, "screen")
    assert lines == [
        f"made the cell's own keys in {folder}",
        f"screen may attach; move {folder}/screen to its host, and give screen/screen as --key there",
    ]
    found = read_client(folder / "screen" / "screen")
    assert found == read_client(folder / "screen" / "screen.secret")
    cell = read_pair(folder, CELL)
    assert found.cell == cell.public
    assert read_clients(folder) == ({found.own.public: "screen"}, [])
    assert give_keys(folder, "detector")[0].startswith("detector may attach")
    assert read_pair(folder, CELL) == cell
    assert set(read_clients(folder)[0].values()) == {"screen", "detector"}
    for taken in ("screen", CELL):
        with pytest.raises(KeysError, match=f"'{taken}' is taken"):
            give_keys(folder, taken)


def test_a_client_whose_secret_never_left_its_host(tmp_path):
    folder, elsewhere = tmp_path / "keys", tmp_path / "elsewhere"
    pair = make_keys(elsewhere, "screen")
    lines = give_keys(folder, str(elsewhere / "screen.pub"))
    assert lines[-1] == f"screen may attach; copy {folder}/cell.pub to its host, beside its own keys"
    assert read_clients(folder) == ({pair.public: "screen"}, [])
    with pytest.raises(KeysError, match=r"cell\.pub: not there; copy it"):
        read_client(elsewhere / "screen")
    assert give_keys(folder, str(elsewhere / "screen.pub")) == lines[-1:]
    with pytest.raises(KeysError, match="holds another key"):
        admit(folder, "screen", make_keys(elsewhere, "second").public)


def test_a_damaged_file_among_the_clients_keeps_nobody_else_out(tmp_path):
    folder = tmp_path / "keys"
    give_keys(folder, "screen")
    (folder / CLIENTS / "broken.pub").write_text("nothing")
    admitted, problems = read_clients(folder)
    assert list(admitted.values()) == ["screen"]
    assert problems == [f"{folder}/clients/broken.pub holds no key (one line of 40 characters); copy it anew"]
