"""The plain description of photos: what is in it moves with the bead, and with nothing else."""

from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pytest

from models.photo_statistics import photo_statistics
from models.photo_views import ACROSS, DARK_SHARE, VIEW_STATISTICS, WIDTH, describe_views

Photos = npt.NDArray[np.uint8]
BEAD = (slice(52, 68), slice(20, 140))
"""Rows and columns of a bead in the middle of a view of 120 x 160, whose bands are 4 pixels high and wide."""


def view(
    bead: tuple[slice, slice] = BEAD, *, light: float = 1.0, seed: int = 0, size: tuple[int, int] = (120, 160)
) -> Photos:
    """One view: a dark sheet with a bright bead on it."""
    gray = np.random.default_rng(seed).normal(70.0, 3.0, size)
    gray[bead] += 80.0
    colour = gray + np.array([3.0, 0.0, -5.0])[:, None, None]
    photo: Photos = np.clip(colour * light, 0, 255).astype(np.uint8)
    return photo


def described(photos: Photos) -> npt.NDArray[np.float32]:
    found: npt.NDArray[np.float32] = describe_views(photos[None], np.ones(1, dtype=np.bool_))[0]
    return found


def profiles(photo: Photos) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """How bright it is across and along the bead."""
    row = described(photo)[len(VIEW_STATISTICS) :]
    return row[:ACROSS], row[ACROSS:]


def test_each_view_has_its_row_wherever_it_stands() -> None:
    photos = np.stack([view(seed=s, light=0.7 + 0.2 * s) for s in range(4)])
    mask = np.array([True, False, True, True])
    found = describe_views(photos, mask)
    assert found.shape == (4, WIDTH)
    assert found.dtype == np.float32
    order = [2, 0, 3, 1]
    np.testing.assert_array_equal(describe_views(photos[order], mask[order]), found[order])
    for i in (0, 2, 3):
        np.testing.assert_array_equal(found[i], described(photos[i]))
    assert len({row.tobytes() for row in found}) == 4


@pytest.mark.parametrize("fill", [0, 255, None])
def test_contents_under_a_false_mask_change_nothing(fill: int | None) -> None:
    photos = np.stack([view(seed=s) for s in range(3)])
    mask = np.array([True, False, True])
    found = describe_views(photos, mask)
    photos[1] = np.random.default_rng(9).integers(0, 256, photos[1].shape) if fill is None else fill
    np.testing.assert_array_equal(describe_views(photos, mask), found)
    assert not found[1].any()
    assert not describe_views(photos, np.zeros(3, dtype=np.bool_)).any()


def test_the_statistics_are_those_of_the_floor() -> None:
    photo = view()
    plain = photo_statistics(photo[None], np.ones(1, dtype=np.bool_))
    row = described(photo)
    np.testing.assert_allclose(row[: len(VIEW_STATISTICS)], plain[: len(VIEW_STATISTICS)], rtol=1e-6)
    assert row[DARK_SHARE] == np.float32(plain[-1])


@pytest.mark.parametrize("light", [0.6, 1.5])
def test_the_light_does_not_matter_to_the_profiles(light: float) -> None:
    usual, other = described(view()), described(view(light=light))
    assert abs(usual[0] - other[0]) > 20.0  # the level of the view
    for one, two in zip(profiles(view()), profiles(view(light=light)), strict=True):
        assert np.ptp(one) > 0.2
        np.testing.assert_allclose(one, two, atol=0.04)


def test_a_wider_bead_shows_across() -> None:
    (across, along), (wider, same) = profiles(view()), profiles(view((slice(44, 76), BEAD[1])))
    assert np.flatnonzero(np.abs(wider - across) > 0.1).tolist() == [11, 12, 17, 18]
    # Along the bead its height is averaged over, so it is brighter all along, but as long as before.
    assert np.corrcoef(along, same)[0, 1] > 0.99


def test_a_shifted_bead_shows_across_and_not_along() -> None:
    (across, along), (shifted, same) = profiles(view()), profiles(view((slice(60, 76), BEAD[1])))
    np.testing.assert_allclose(shifted[4:], across[2:-2], atol=0.02)
    assert np.abs(shifted - across).max() > 0.3
    np.testing.assert_allclose(same, along, atol=0.02)


def test_a_shorter_bead_shows_along_where_it_ends() -> None:
    (across, along), (fainter, shorter) = profiles(view()), profiles(view((BEAD[0], slice(20, 100))))
    moved = np.flatnonzero(np.abs(shorter - along) > 0.1)
    assert moved.tolist() == list(range(25, 35))
    # Across, the same rows are bright, only less so.
    assert np.corrcoef(across, fainter)[0, 1] > 0.99
    gap = view()
    gap[:, :, 60:68] = view((slice(0, 0), slice(0, 0)))[:, :, 60:68]
    assert np.flatnonzero(np.abs(profiles(gap)[1] - along) > 0.1).tolist() == [15, 16]


@pytest.mark.parametrize("size", [(9, 9), (10, 200), (31, 41), (120, 160)])
def test_every_row_of_any_view_counts_once(size: tuple[int, int]) -> None:
    """Where there are fewer rows than bands, some are repeated."""
    photo = view((slice(0, 3), slice(2, 7)), size=size)
    gray = np.log(photo.astype(np.float64).mean(axis=0) + 4.0)
    gray -= np.median(gray)
    third = size[0] // 3
    for found, lines in zip(
        profiles(photo), (gray.mean(axis=1), gray[third : size[0] - third].mean(axis=0)), strict=True
    ):
        count = len(found)
        bounds = [i * len(lines) // count for i in range(count + 1)]
        wanted = [lines[a : max(b, a + 1)].mean() for a, b in pairwise(bounds)]
        np.testing.assert_allclose(found, wanted, atol=1e-5)
    assert np.isfinite(described(photo)).all()
