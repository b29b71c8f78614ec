"""Photos: masked where asked, never elsewhere by more than coding costs, nothing left of what was under it."""

import io

import numpy as np
import pytest
from PIL import Image

from recordings.weld4m_photos import MASK_GRAY, PhotoError, look_at_photo, parse_region, read_photo
from tests.recordings.synthetic_weld4m import huge_png, make_photo

REGION = (0.0, 0.75, 0.5, 0.25)
SIZE = (320, 240)


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)


def test_an_unmasked_photo_keeps_every_byte(tmp_path):
    data = make_photo(tmp_path / "a.jpg")
    found = read_photo(tmp_path / "a.jpg", "run/x")
    assert (found.photo.data, found.original, found.width, found.height) == (data, None, 64, 48)


def test_a_mask_is_flat_and_the_rest_stays_within_what_coding_costs(tmp_path):
    before = make_photo(tmp_path / "a.jpg", size=SIZE, label=True)
    found = read_photo(tmp_path / "a.jpg", "run/x", (REGION,))
    shown, original = pixels(found.photo.data), pixels(before)
    inside = shown[180:, :160]
    assert np.abs(inside - MASK_GRAY)[16:, :-16].max() <= 2
    assert np.abs(inside - MASK_GRAY).max() <= 40, "ringing of the neighbours, at the rim only"
    outside = np.ones(shown.shape[:2], bool)
    outside[160:, :176] = False
    assert np.abs(shown - original)[outside].max() <= 4
    assert np.abs(shown - original)[outside].mean() < 0.1
    assert (tmp_path / "a.jpg").read_bytes() == before


def test_a_mask_in_a_png_changes_nothing_else(tmp_path):
    image = Image.fromarray(np.random.default_rng(3).integers(0, 255, (60, 80, 3), dtype=np.uint8))
    image.save(tmp_path / "a.png")
    found = read_photo(tmp_path / "a.png", "run/x", ((0.5, 0.5, 0.25, 0.25),))
    shown, original = pixels(found.photo.data), np.asarray(image).astype(int)
    assert (shown[30:45, 40:60] == MASK_GRAY).all()
    shown[30:45, 40:60] = original[30:45, 40:60]
    assert np.array_equal(shown, original)


def test_thumbnail_and_comment_do_not_outlive_the_mask_and_turned_photos_are_masked_as_shown(tmp_path):
    image = Image.new("RGB", (80, 60), (200, 200, 200))
    exif = image.getexif()
    exif[0x0112] = 6  # shown turned to the right: 60 wide, 80 high
    exif[0x010E] = "class 06"
    image.save(tmp_path / "a.jpg", exif=exif, comment=b"class 06", quality=95)
    assert b"class 06" in (tmp_path / "a.jpg").read_bytes()
    data = read_photo(tmp_path / "a.jpg", "run/x", ((0.0, 0.0, 1.0, 0.25),)).photo.data
    assert b"class 06" not in data
    shown = pixels(data)
    assert shown.shape == (80, 60, 3)
    assert np.abs(shown[:18] - MASK_GRAY).max() <= 3
    assert np.abs(shown[26:] - 200).max() <= 3


@pytest.mark.parametrize("data", [b"", b"not a photo", b"\xff\xd8\xff\xe0", huge_png(), b"GIF89a\x01\0\x01\0\0\0\0;"])
def test_what_is_no_photo_gets_one_line(tmp_path, data):
    (tmp_path / "a.jpg").write_bytes(data)
    for read in (look_at_photo, lambda path: read_photo(path, "k", (REGION,)), lambda path: read_photo(path, "k")):
        with pytest.raises(PhotoError, match=r"^a\.jpg: ") as caught:
            read(tmp_path / "a.jpg")
        assert "\n" not in str(caught.value)


def test_regions():
    assert parse_region("0.5, 0.75,0.75,0.25") == (0.5, 0.75, 0.5, 0.25)
    for text in ("", "1,2,3", "0,0,0,1", "-0.1,0,1,1", "a,b,c,d", "nan,0,1,1", "1,0,1,1"):
        with pytest.raises(PhotoError, match="no region"):
            parse_region(text)
