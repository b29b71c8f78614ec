"""The watched folder on real files: slow copies, odd names, broken pictures, links that lead out."""

import io
import os
import struct
import zlib

import numpy as np
import PIL.Image
import pytest

from acquisition.driver import DeviceError
from acquisition.photo_folder import PhotoFolder, PhotoFolderConfig
from tests.acquisition.counterparts import wait_until


def picture(level=100, kind="JPEG"):
    """The bytes of a small picture with some content."""
    pixels = np.random.default_rng(level).integers(0, 255, (60, 80, 3), dtype=np.uint8)
    file = io.BytesIO()
    PIL.Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "photos").mkdir()
    return tmp_path / "photos"


@pytest.fixture
def watch(folder):
    """Open drivers of the folder that are closed again whatever happens."""
    drivers = []

    def open_driver(**settings):
        driver = PhotoFolder(
            "post", PhotoFolderConfig(**{"path": str(folder), "settle_s": 0.1, "poll_s": 0.02, **settings})
        )
        drivers.append(driver)
        driver.open()
        return driver

    yield open_driver
    for driver in drivers:
        driver.close()


def photo_of(driver):
    packet = driver.read(5.0)
    assert packet is not None, f"no photo came: {driver.health()}"
    return packet


def test_a_new_photo_comes_once_and_byte_for_byte(folder, watch):
    (folder / "old.jpg").write_bytes(picture(1))
    driver = watch()
    assert driver.info.modality == "post_images"
    data = picture(2)
    (folder / "20220817_075026_295.jpg").write_bytes(data)
    packet = photo_of(driver)
    assert (packet.seq, packet.payload.name, packet.payload.data) == (0, "20220817_075026_295.jpg", data)
    assert (packet.payload.weld_hint, packet.payload.view) == (None, None)
    assert driver.read(0.3) is None  # neither the old one nor the same again


def test_a_slow_copy_is_waited_for(folder, watch):
    driver = watch()
    data = picture(3)
    with open(folder / "slow.jpg", "wb", buffering=0) as file:
        file.write(data[: len(data) // 2])
        assert driver.read(0.4) is None  # settled for four times settle_s, but the picture is not whole
        file.write(data[len(data) // 2 :])
    assert photo_of(driver).payload.data == data


@pytest.mark.parametrize("name", ["249 (11).jpg", "ANSICHT Ü 1.JPG", "a.b.jpeg", "'; rm -rf.png"])
def test_odd_names_are_kept(folder, watch, name):
    driver = watch()
    (folder / name).write_bytes(picture(4, "PNG" if name.endswith("png") else "JPEG"))
    assert photo_of(driver).payload.name == name


@pytest.mark.parametrize(
    ("path", "hint"),
    [
        ("2026-08-17T075026Z-3_1.jpg", "2026-08-17T075026Z-3"),
        ("20260817T075026Z-12.jpg", "20260817T075026Z-12"),
        ("03-22-23-0041-06_2.jpg", "03-22-23-0041-06"),
        ("03-22-23-0041-06/images/20220817_075026_295.jpg", "03-22-23-0041-06"),
        ("plate 7/249 (11).jpg", "plate 7"),
        ("images/20220817_075026_295.jpg", None),
    ],
)
def test_the_weld_is_read_from_file_or_folder(folder, watch, path, hint):
    driver = watch()
    (folder / path).parent.mkdir(parents=True, exist_ok=True)
    (folder / path).write_bytes(picture(5))
    assert photo_of(driver).payload.weld_hint == hint


def test_other_files_are_left_alone(folder, watch):
    driver = watch()
    (folder / "Thumbs.db").write_bytes(b"x")
    (folder / "photo.jpg.part").write_bytes(picture(6))
    (folder / "wanted.jpg").write_bytes(picture(6))
    assert photo_of(driver).payload.name == "wanted.jpg"
    assert driver.read(0.2) is None


def test_a_link_out_of_the_folder_is_refused_once(folder, tmp_path, watch, caplog):
    (tmp_path / "secret.jpg").write_bytes(picture(7))
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "secret.jpg").write_bytes(picture(7))
    driver = watch()
    (folder / "out.jpg").symlink_to(tmp_path / "secret.jpg")
    (folder / "out").symlink_to(tmp_path / "elsewhere")
    (folder / "real.jpg").write_bytes(picture(8))
    assert photo_of(driver).payload.name == "real.jpg"
    (folder / "inside.jpg").symlink_to(folder / "real.jpg")
    assert photo_of(driver).payload.name == "inside.jpg"
    assert driver.read(0.3) is None
    told = sorted(record.getMessage() for record in caplog.records)
    assert len(told) == 2
    assert told[1] == (
        f"photos post: {folder} holds the link out.jpg to {tmp_path / 'secret.jpg'}, outside; copy the file itself"
    )


def png_header(width, height):
    """A PNG file that claims a size and holds next to nothing."""
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(b"0")),
        (b"IEND", b""),
    ]
    body = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize(
    ("name", "data", "why"),
    [
        ("cut.jpg", picture(9)[:-300], "is no complete picture"),
        ("text.png", b"hello", "is no complete picture"),
        ("huge.png", png_header(40_000, 40_000), "is no complete picture"),
    ],
)
def test_a_broken_picture_is_told_once_and_left_out(folder, watch, caplog, monkeypatch, name, data, why):
    monkeypatch.setattr("acquisition.photo_folder.GIVE_UP_S", 0.2)
    driver = watch(settle_s=0.02)
    (folder / name).write_bytes(data)
    wait_until(lambda: bool(caplog.records), "the log line")
    (folder / "good.jpg").write_bytes(picture(10))
    assert photo_of(driver).payload.name == "good.jpg"
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 1
    assert told[0].startswith(f"photos post: {folder} holds {name}, which {why}")
    (folder / name).write_bytes(picture(11, name[-3:].replace("jpg", "jpeg")))
    assert photo_of(driver).payload.name == name  # copied again


def test_a_folder_that_was_away_gives_what_came_meanwhile(folder, tmp_path, watch):
    (folder / "old.jpg").write_bytes(picture(12))
    driver = watch()
    os.rename(folder, tmp_path / "away")
    wait_until(lambda: driver.health().state == "lost", "the loss is seen", 3.0)
    (tmp_path / "away" / "new.jpg").write_bytes(picture(13))
    os.rename(tmp_path / "away", folder)
    packet = photo_of(driver)
    assert (packet.payload.name, packet.segment) == ("new.jpg", 1)
    assert driver.read(0.3) is None


def test_an_unmounted_share_leaves_an_empty_folder_and_sends_nothing_twice(folder, tmp_path, watch, monkeypatch):
    mounted = [True]
    monkeypatch.setattr(os.path, "ismount", lambda path: mounted[0] and path == folder)  # mounting takes root's rights
    (folder / "old.jpg").write_bytes(picture(12))
    driver = watch()
    (folder / "first.jpg").write_bytes(picture(13))
    assert photo_of(driver).payload.name == "first.jpg"
    os.rename(folder, tmp_path / "away")
    folder.mkdir()
    mounted[0] = False
    wait_until(lambda: driver.health().state == "lost", "the loss is seen", 3.0)
    assert driver.health().problem == f"photos post: {folder} is not mounted any more; mount the share again"
    (tmp_path / "away" / "meanwhile.jpg").write_bytes(picture(14))
    folder.rmdir()
    os.rename(tmp_path / "away", folder)
    mounted[0] = True
    packet = photo_of(driver)
    assert (packet.payload.name, packet.segment) == ("meanwhile.jpg", 1)
    assert driver.read(0.3) is None


def test_a_folder_that_was_emptied_and_filled_again_sends_nothing_twice(folder, tmp_path, watch):
    (folder / "old.jpg").write_bytes(picture(12))
    driver = watch()
    os.rename(folder / "old.jpg", tmp_path / "old.jpg")
    (folder / "new.jpg").write_bytes(picture(13))
    assert photo_of(driver).payload.name == "new.jpg"
    os.rename(tmp_path / "old.jpg", folder / "old.jpg")
    assert driver.read(0.3) is None


def test_an_absent_folder_says_what_to_do(folder, watch):
    with pytest.raises(DeviceError) as caught:
        watch(path=str(folder / "nowhere"))
    assert str(caught.value) == (
        f"photos post: {folder / 'nowhere'} is no folder; create or mount it, or correct path in the cell file"
    )
    with pytest.raises(ValueError, match="must not be empty"):
        PhotoFolderConfig(path="")
