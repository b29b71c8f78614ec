"""Post-weld photos of Weld-4M: checked, put in order of time, and on request with the printed label painted over.

Some photos show a printed label with part number and class code, which tells a model the answer. Where that label is,
only its owner knows: the regions are given, nothing is searched for.
"""

import io
import re
import warnings
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final, TypeAlias

import xxhash
from PIL import Image, ImageOps, JpegImagePlugin, UnidentifiedImageError

from acquisition.packet import Photo
from recordings.weld4m_files import FileError, read_bounded, read_head, shown

MASK_GRAY: Final = 128
_MAX_BYTES: Final = 64 * 2**20
_MAX_PIXELS: Final = 64 * 10**6
_HEAD: Final = 256 * 2**10
_FORMATS: Final = ("JPEG", "PNG")
_TAKEN: Final = re.compile(r"(\d{8})_(\d{6})(?:_(\d{3}))?$", re.ASCII)

Region: TypeAlias = tuple[float, float, float, float]
"""Left, top, width and height of a part of a picture as it is shown, each as a share of the whole (0-1)."""


class PhotoError(Exception):
    """A photo cannot be used; the message names it, the cause and the next step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundPhoto:
    """A photo that can be used.

    Attributes:
        photo: As it will be stored.
        taken_local: When, by its name: ISO 8601 in naive local time; None where the name does not say.
        height: Pixels, as stored.
        width: Pixels, as stored.
        original: XXH3-128 of the file that it was made from, where regions were painted over; else None.
    """

    photo: Photo
    taken_local: str | None
    height: int
    width: int
    original: str | None


def parse_region(text: str) -> Region:
    """Read `X,Y,W,H`.

    Raises:
        PhotoError: It is not four numbers that lie in the picture.
    """
    try:
        x, y, width, height = (float(part) for part in text.split(","))
    except ValueError:
        x = y = width = height = -1.0
    if not (0 <= x < 1 and 0 <= y < 1 and 0 < width <= 1 and 0 < height <= 1):
        raise PhotoError(f"{text!r} is no region of a picture; give X,Y,W,H as shares of it, as in 0,0.8,0.3,0.2")
    return x, y, min(width, 1 - x), min(height, 1 - y)


def taken_local(path: Path) -> str | None:
    """Return the time in a name `YYYYMMDD_HHMMSS_FFF`, of which `_FFF` may be absent."""
    match = _TAKEN.search(path.stem)
    if match is None:
        return None
    try:
        moment = datetime.strptime(match.group(1) + match.group(2), "%Y%m%d%H%M%S")  # naive on purpose
    except ValueError:
        return None
    return moment.isoformat() + (f".{match.group(3)}" if match.group(3) else "")


def in_order(paths: tuple[Path, ...]) -> list[Path]:
    """Photos by the time in their names, those without one after them, numbers in names by their value."""

    def place(path: Path) -> tuple[str, list[tuple[int, str]]]:
        parts = re.split(r"(\d+)", path.name)
        return taken_local(path) or "~", [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]

    return sorted(paths, key=place)


def look_at_photo(path: Path) -> None:
    """Read the head of a photo only.

    Raises:
        PhotoError: It is no JPEG or PNG, or of too many pixels.
    """
    with _explained(path):
        _open(read_head(path, _HEAD))


def read_photo(path: Path, key: str, mask: tuple[Region, ...] = ()) -> FoundPhoto:
    """Read and check a photo; without a mask its bytes stay what they are.

    Raises:
        PhotoError: It is no JPEG or PNG, damaged, or of too many pixels.
    """
    with _explained(path):
        data = read_bounded(path, _MAX_BYTES)
        image = _open(data)
        width, height = image.size
        original = None
        if mask:
            original = xxhash.xxh3_128_hexdigest(data)
            data = _masked(image, mask)
        else:
            image.draft("L", (1, 1))  # decodes at an eighth of the size: enough to see whether it is whole
            image.load()
    photo = Photo(name=path.name, data=data, weld_hint=key)
    return FoundPhoto(photo=photo, taken_local=taken_local(path), height=height, width=width, original=original)


class _explained:
    """Turns whatever a picture library says about a file into one line."""

    def __init__(self, path: Path) -> None:
        self._name = shown(path.name)

    def __enter__(self) -> None:
        self._caught = warnings.catch_warnings()
        self._caught.__enter__()
        warnings.simplefilter("error", Image.DecompressionBombWarning)

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._caught.__exit__(None, None, None)
        if isinstance(error, FileError):
            raise PhotoError(f"{error}; check or replace it") from None
        if isinstance(error, UnidentifiedImageError):
            raise PhotoError(f"{self._name}: is neither JPEG nor PNG; check or replace it") from None
        if isinstance(error, (Exception, Image.DecompressionBombWarning)) and not isinstance(error, PhotoError):
            cause = next(iter(str(error).splitlines()), "") or type(error).__name__
            raise PhotoError(f"{self._name}: {cause}; check or replace it") from None


def _open(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data), formats=_FORMATS)
    if image.width * image.height > _MAX_PIXELS:
        raise ValueError(f"{image.width} x {image.height} pixels are too many (at most {_MAX_PIXELS})")
    return image


def _masked(image: Image.Image, mask: tuple[Region, ...]) -> bytes:
    """Paint regions flat; a JPEG is coded with its own tables again, and its thumbnail and comments are left out."""
    form, tables = image.format, getattr(image, "quantization", None)
    sampling = JpegImagePlugin.get_sampling(image) if form == "JPEG" else -1
    turned = ImageOps.exif_transpose(image)
    if turned.mode not in ("L", "RGB"):
        turned = turned.convert("RGB")
    for x, y, width, height in mask:
        left, top = int(x * turned.width), int(y * turned.height)
        right, bottom = -int(-(x + width) * turned.width // 1), -int(-(y + height) * turned.height // 1)
        turned.paste(MASK_GRAY if turned.mode == "L" else (MASK_GRAY,) * 3, (left, top, right, bottom))
    turned.info = {}
    out = io.BytesIO()
    if form == "JPEG":
        turned.save(out, "JPEG", qtables=tables, subsampling=sampling, optimize=True)
    else:
        turned.save(out, "PNG")
    return out.getvalue()
