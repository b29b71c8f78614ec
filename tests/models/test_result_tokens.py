from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from models.detector_contract import DetectorError
from models.result_tokens import ResultTokens, ResultTokensConfig, whitened

WIDTHS = (12, 8)


def levels(welds: int, views: int = 3, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(welds, views, patches, width, generator=generator)
        for patches, width in zip((24, 6), WIDTHS, strict=True)
    ]


@pytest.fixture(scope="module")
def tokens() -> ResultTokens:
    return ResultTokens.fit([levels(8, seed=s) for s in range(4)], ResultTokensConfig(widths=WIDTHS, words=10))


def seen(welds: int, views: int = 3) -> Tensor:
    return torch.ones(welds, views, dtype=torch.bool)


def test_shape_and_normalisation(tokens: ResultTokens):
    assert tokens.config.tokens >= 8
    rows = torch.cat([tokens(levels(8, seed=s), seen(8)) for s in range(4)])
    assert rows.shape == (32, tokens.config.tokens, 12)
    torch.testing.assert_close(rows.mean(dim=0), torch.zeros(rows.shape[1:]), atol=1e-4, rtol=0)
    used = tokens.scale[tokens.mean != 0]
    assert (used > 0).all()
    assert rows.std(dim=0).max() < 1.01  # never magnified beyond one standard deviation


def test_the_order_of_the_views_does_not_matter(tokens: ResultTokens):
    found = levels(4, views=5, seed=9)
    order = torch.tensor([3, 0, 4, 2, 1])
    mask = torch.tensor([True, True, False, True, True]).expand(4, -1)
    shuffled = tokens([x[:, order] for x in found], mask[:, order])
    torch.testing.assert_close(shuffled, tokens(found, mask), atol=1e-5, rtol=1e-5)
    assert not torch.allclose(shuffled, tokens(levels(4, views=5, seed=10), mask), atol=0.1)


def test_a_fault_in_one_view_shows_however_many_others_there_are(tokens: ResultTokens):
    found = levels(1, views=5, seed=3)
    before = tokens(found, seen(1, 5))
    found[0][0, 2, 5, 0] += 50.0
    after = tokens(found, seen(1, 5))
    assert (after - before).abs().max() > 3.0


def test_it_is_frozen(tokens: ResultTokens):
    assert list(tokens.parameters()) == []
    found = [x.requires_grad_() for x in levels(2)]
    assert not tokens(found, seen(2)).requires_grad


@pytest.mark.parametrize("fill", [float("nan"), float("inf"), 7.0])
def test_dropped_views_never_count(tokens: ResultTokens, fill: float):
    found = levels(3, seed=4)
    mask = torch.tensor([[True, True, False], [False, True, True], [False, False, False]])
    filled = [torch.where(mask[..., None, None], x, fill) for x in found]
    clean = [torch.where(mask[..., None, None], x, 0.0) for x in found]
    result = tokens(filled, mask)
    assert torch.equal(result, tokens(clean, mask))
    assert torch.isfinite(result).all()
    assert torch.equal(result[2], torch.zeros_like(result[2]))
    two = [x[:1, :2] for x in found]
    torch.testing.assert_close(result[:1], tokens(two, seen(1, 2)), atol=1e-5, rtol=1e-5)


def test_the_same_seed_gives_the_same_tokens_and_a_state_brings_them_back(tokens: ResultTokens):
    again = ResultTokens.fit([levels(8, seed=s) for s in range(4)], ResultTokensConfig(widths=WIDTHS, words=10))
    loaded = ResultTokens(tokens.config)
    loaded.load_state_dict(tokens.state_dict())
    found = levels(3, seed=5)
    assert torch.equal(again(found, seen(3)), tokens(found, seen(3)))
    assert torch.equal(loaded(found, seen(3)), tokens(found, seen(3)))


def test_dropped_views_are_left_out_of_the_fit():
    whole = [levels(8, seed=s) for s in range(3)]
    padded = [[torch.cat([x, torch.zeros_like(x[:, :1])], dim=1) for x in batch] for batch in whole]
    padded[0] = [torch.cat([x, torch.zeros_like(x[:1])]) for x in padded[0]]  # a weld without any photo
    one, other = ResultTokens.fit(whole), ResultTokens.fit(padded)
    for name, value in one.state_dict().items():
        torch.testing.assert_close(other.state_dict()[name], value, atol=1e-5, rtol=1e-5, msg=name)


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


def test_bad_input_is_named():
    def generator() -> Iterator[list[Tensor]]:
        yield levels(8)

    with pytest.raises(DetectorError, match="at least 2 good training welds, found 0"):
        ResultTokens.fit([])
    with pytest.raises(DetectorError, match="not as a generator"):
        ResultTokens.fit(generator())
    with pytest.raises(DetectorError, match=r"widths \(12, 8\), the result tokens want \(64, 64, 64\)"):
        ResultTokens.fit([levels(8)], ResultTokensConfig())
