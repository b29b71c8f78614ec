from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from models.detector_contract import DetectorError
from models.photo_views import ACROSS, ALONG, VIEW_STATISTICS, WIDTH
from models.result_tokens import PLAIN_SIZES, Photos, ResultTokens, ResultTokensConfig, whitened

WIDTHS = (12, 8)
CONFIG = ResultTokensConfig(widths=WIDTHS, words=10)
PER_LEVEL = 2 + 2 * CONFIG.bands + 2


def photos(welds: int, views: int = 3, seed: int = 0) -> Photos:
    """Patch features of two levels, and the plain description of the views."""
    generator = torch.Generator().manual_seed(seed)
    levels = [
        torch.randn(welds, views, patches, width, generator=generator)
        for patches, width in zip((24, 6), WIDTHS, strict=True)
    ]
    return levels, 0.3 * torch.randn(welds, views, WIDTH, generator=generator)


def good() -> list[Photos]:
    return [photos(8, seed=s) for s in range(6)]


@pytest.fixture(scope="module")
def tokens() -> ResultTokens:
    return ResultTokens.fit(good(), CONFIG)


def seen(welds: int, views: int = 3) -> Tensor:
    return torch.ones(welds, views, dtype=torch.bool)


def of(tokens: ResultTokens, found: Photos, mask: Tensor | None = None) -> Tensor:
    levels, views = found
    found_tokens: Tensor = tokens(levels, views, seen(*views.shape[:2]) if mask is None else mask)
    return found_tokens


def shown_in(tokens: ResultTokens, found: Photos, changed: Photos) -> set[int]:
    """Tell which tokens of the first weld another look at it changes."""
    moved = (of(tokens, changed)[0] - of(tokens, found)[0]).abs().amax(dim=1)
    return set(torch.nonzero(moved > 1e-3).flatten().tolist())


def test_tokens_are_whitened_principal_directions(tokens: ResultTokens):
    rows = torch.cat([of(tokens, found) for found in good()])
    assert rows.shape == (48, CONFIG.tokens, CONFIG.width)
    assert CONFIG.tokens == len(PLAIN_SIZES) + 2 * PER_LEVEL >= 8
    torch.testing.assert_close(rows.mean(dim=0), torch.zeros(rows.shape[1:]), atol=1e-4, rtol=0)
    for i, kept in enumerate(CONFIG.kept):
        assert not rows[:, i, kept:].any(), i  # filled up with zeros
        covariance = torch.cov(rows[:, i, :kept].T, correction=0)
        torch.testing.assert_close(covariance, torch.eye(kept), atol=2e-2, rtol=0)


def test_the_directions_kept_are_the_strongest():
    """One cause moves the whole profile, and is the first direction that is kept."""
    batches = good()
    cause = torch.randn(6, 8, 1, 1, generator=torch.Generator().manual_seed(1))
    profile = torch.linspace(-3.0, 3.0, ACROSS)
    for (_, views), strength in zip(batches, cause, strict=True):
        views[..., len(VIEW_STATISTICS) : -ALONG] += strength * profile
    tokens = ResultTokens.fit(batches, CONFIG)
    first = torch.cat([of(tokens, found) for found in batches])[:, 2, 0]
    assert torch.corrcoef(torch.stack([first, cause.flatten()]))[0, 1].abs() > 0.99


def test_widths_of_the_tokens():
    config = ResultTokensConfig(widths=(3, 5), words=6, bands=2, width=20, directions=4)
    assert config.sizes == (*PLAIN_SIZES, 3, 3, 3, 3, 3, 3, 6, 6, 5, 5, 5, 5, 5, 5, 6, 6)
    assert config.kept == (10, 11, 20, 20, 3, 3, 3, 3, 3, 3, *(4,) * 10)
    assert config.tokens == 20
    for directions in (0, 17):
        with pytest.raises(ValueError, match=f"directions is {directions}; give 1 to 16"):
            ResultTokensConfig(directions=directions)


def test_each_token_looks_at_its_own(tokens: ResultTokens):
    found = photos(2, seed=20)
    levels, views = found
    plain, first = len(VIEW_STATISTICS), len(PLAIN_SIZES)
    for part, wanted in (
        (slice(0, plain), {0, 1}),
        (slice(plain, plain + ACROSS), {2}),
        (slice(plain + ACROSS, None), {3}),
    ):
        other = views.clone()
        other[0, :, part] += torch.randn(other[0, :, part].shape, generator=torch.Generator().manual_seed(2))
        assert shown_in(tokens, found, (levels, other)) == wanted
    for level in range(len(WIDTHS)):
        changed = [x.clone() for x in levels]
        changed[level][0] = changed[level][0].flip(-1)
        wanted = set(range(first + level * PER_LEVEL, first + (level + 1) * PER_LEVEL))
        assert shown_in(tokens, found, (changed, views)) == wanted
    # The upper band of the first level, with the words and extremes that it may change.
    changed = [levels[0].clone(), levels[1]]
    changed[0][0, :, :8] = changed[0][0, :, :8].flip(-1)
    moved = shown_in(tokens, found, (changed, views))
    assert {first + 2, first + 5} <= moved
    assert not moved & {first + 3, first + 4, first + 6, first + 7}


def test_the_order_of_the_views_does_not_matter(tokens: ResultTokens):
    levels, views = photos(4, views=5, seed=9)
    order = torch.tensor([3, 0, 4, 2, 1])
    mask = torch.tensor([True, True, False, True, True]).expand(4, -1)
    found = of(tokens, (levels, views), mask)
    shuffled = of(tokens, ([x[:, order] for x in levels], views[:, order]), mask[:, order])
    torch.testing.assert_close(shuffled, found, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(of(tokens, photos(4, views=5, seed=10), mask), found, atol=0.1)


def test_a_fault_in_one_view_shows_however_many_others_there_are():
    """The largest over the views stays, where the mean over them hides it."""

    def alike(seed: int, views: int = 3) -> Photos:
        levels, plain = photos(8, views, seed)
        return [torch.linspace(-3.0, 3.0, x.shape[-1]) + 0.3 * x for x in levels], plain

    tokens = ResultTokens.fit([alike(s) for s in range(6)], CONFIG)
    first = len(PLAIN_SIZES)
    largest, mean = [], []
    for views in (2, 5, 20):
        found = alike(30, views)
        before = of(tokens, found)
        found[0][0][0, 1, 5] = found[0][0][0, 1, 5].flip(-1)
        moved = (of(tokens, found) - before)[0].norm(dim=1)
        assert not moved[:first].any()
        largest.append(float(moved[first]))
        mean.append(float(moved[first + 2]))
    assert min(largest) > 20.0
    assert min(largest) > 0.8 * max(largest)
    assert mean[2] < 0.15 * mean[0]


def test_width_and_place_are_those_of_all_views(tokens: ResultTokens):
    """A bead that looks wide in one view counts as one that looks a little wide in all of them."""
    levels, views = photos(1, views=5, seed=3)
    shape = torch.randn(ACROSS + ALONG, generator=torch.Generator().manual_seed(4))
    one, every = views.clone(), views.clone()
    one[0, 2, -len(shape) :] += 5.0 * shape
    every[0, :, -len(shape) :] += shape
    before, first, second = (of(tokens, (levels, x))[0, 2:4] for x in (views, one, every))
    assert (first - before).norm(dim=1).min() > 1.0
    torch.testing.assert_close(first, second, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize(("name", "by"), [("log_pits", 4.0), ("dark_share", -4.0)])
def test_the_oddest_view_counts(tokens: ResultTokens, name: str, by: float):
    """Many pits in one view, or a bead (which is dark) that one view does not show."""
    found = photos(1, views=5, seed=3)
    before = of(tokens, found)
    found[1][0, 2, VIEW_STATISTICS.index(name)] += by
    mean, oddest = (of(tokens, found) - before)[0, :2].norm(dim=1)
    assert oddest > 2.0 * mean
    assert oddest > 5.0


def test_it_is_frozen(tokens: ResultTokens):
    assert list(tokens.parameters()) == []
    levels, views = photos(2)
    found = [x.requires_grad_() for x in levels], views.requires_grad_()
    assert not of(tokens, found).requires_grad


@pytest.mark.parametrize("fill", [float("nan"), float("inf"), 7.0])
def test_dropped_views_never_count(tokens: ResultTokens, fill: float):
    levels, views = photos(3, seed=4)
    mask = torch.tensor([[True, True, False], [False, True, True], [False, False, False]])

    def filled(value: float) -> Photos:
        kept = mask[..., None]
        return [torch.where(kept[..., None], x, value) for x in levels], torch.where(kept, views, value)

    result = of(tokens, filled(fill), mask)
    assert torch.equal(result, of(tokens, filled(0.0), mask))
    assert torch.isfinite(result).all()
    assert torch.equal(result[2], torch.zeros_like(result[2]))
    two = of(tokens, ([x[:1, :2] for x in levels], views[:1, :2]))
    torch.testing.assert_close(result[:1], two, atol=1e-4, rtol=1e-4)


def test_the_same_seed_gives_the_same_tokens_and_a_state_brings_them_back(tokens: ResultTokens):
    again = ResultTokens.fit(good(), CONFIG)
    loaded = ResultTokens(tokens.config)
    loaded.load_state_dict(tokens.state_dict())
    found = photos(3, seed=5)
    assert torch.equal(of(again, found), of(tokens, found))
    assert torch.equal(of(loaded, found), of(tokens, found))


def test_dropped_views_are_left_out_of_the_fit():
    whole = good()
    padded = [
        (
            [torch.cat([x, torch.zeros_like(x[:, :1])], dim=1) for x in levels],
            torch.cat([views, torch.full_like(views[:, :1], torch.nan)], dim=1),
        )
        for levels, views in whole
    ]
    levels, views = padded[0]  # and a weld without any photo
    padded[0] = [torch.cat([x, torch.zeros_like(x[:1])]) for x in levels], torch.cat([views, views[:1] * torch.nan])
    one, other = ResultTokens.fit(whole, CONFIG), ResultTokens.fit(padded, CONFIG)
    for name, value in one.state_dict().items():
        found = other.state_dict()[name]
        if name.startswith("map_"):  # a direction is as good as its opposite
            value, found = (x @ x.T for x in (value, found))
        torch.testing.assert_close(found, value, atol=1e-3, rtol=1e-3, msg=name)


def test_whitening_makes_all_directions_count_alike():
    rows = torch.randn(4000, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    rows = rows @ torch.diag(torch.tensor([9.0, 5.0, 3.0, 2.0, 1.5, 0.0], dtype=torch.float64)) + 4.0
    centre, whitening = whitened(len(rows), rows.sum(dim=0), rows.T @ rows)
    spread = torch.cov(((rows - centre) @ whitening).T)
    torch.testing.assert_close(spread, torch.diag(spread.diag()), atol=1e-2, rtol=0)
    assert 0.8 < spread.diag()[:5].min() <= spread.diag()[:5].max() < 1.01
    assert torch.isfinite(whitening).all()
    assert spread[5, 5] < 1e-6  # what never varies is not magnified
    one = rows[0], torch.outer(rows[0], rows[0])
    for nothing in (0, 1):
        assert torch.equal(whitened(nothing, *(nothing * x for x in one))[1], torch.eye(6, dtype=torch.float64))


def test_what_never_varies_says_nothing():
    """Constant statistics, and fewer welds than directions, give finite tokens."""
    found = photos(2, seed=6)
    found[1][:] = 1.0
    tokens = ResultTokens.fit([found], CONFIG)
    assert torch.isfinite(of(tokens, photos(3, seed=7))).all()
    assert not of(tokens, found)[:, : len(PLAIN_SIZES)].any()


def test_bad_input_is_named():
    def generator() -> Iterator[Photos]:
        yield photos(8)

    with pytest.raises(DetectorError, match="at least 2 good training welds, found 0"):
        ResultTokens.fit([])
    with pytest.raises(DetectorError, match="not as a generator"):
        ResultTokens.fit(generator())
    with pytest.raises(DetectorError, match=r"widths \(12, 8\), the result tokens want \(64, 64, 64\)"):
        ResultTokens.fit([photos(8)], ResultTokensConfig())
