"""A folder of photos that vanishes, as a share does, and returns twenty times: no photo is lost, none comes twice."""

import os
import random
import time

from acquisition.packet import Photo
from acquisition.photo_folder import PhotoFolder, PhotoFolderConfig
from tests.acquisition.counterparts import wait_until
from tests.acquisition.test_photo_folder import picture
from tests.hotplug.pulls import PULLS, leak_check, report, returns, stay_out


def photo_of(packet):
    assert isinstance(packet.payload, Photo)
    return packet.payload


def test_a_share_that_vanishes_returns_twenty_times(tmp_path):
    rng = random.Random(4)
    share, away = tmp_path / "share", tmp_path / "away"
    share.mkdir()
    (share / "old.jpg").write_bytes(picture(99))
    photos = PhotoFolder("photos", PhotoFolderConfig(path=str(share), settle_s=0.1, poll_s=0.1))
    back = []
    try:
        with leak_check():
            photos.open()
            for segment in range(PULLS):
                (share / f"{segment}-before.jpg").write_bytes(picture(segment))
                came = photos.read(5.0)
                assert came is not None, photos.health()
                assert (photo_of(came).name, came.segment) == (f"{segment}-before.jpg", segment)
                os.rename(share, away)
                meanwhile = picture(100 + segment)
                (away / f"{segment}-meanwhile.jpg").write_bytes(meanwhile)
                stay_out(photos, rng.uniform(0.1, 2.0))
                os.rename(away, share)
                back.append(returns(photos, segment, time.monotonic_ns()))
                photo = photo_of(back[-1].after)
                assert (photo.name, photo.data) == (f"{segment}-meanwhile.jpg", meanwhile)
                assert (back[-1].before, back[-1].after.segment, back[-1].after.seq) == (None, segment + 1, 0)
            wait_until(lambda: photos.health().state == "streaming", "it goes on")
            assert photos.read(0.5) is None
            photos.close()
    finally:
        photos.close()
    report("photo folder", back)
