from collections.abc import Iterator
from typing import Final

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from models.collapse import MIN_SAMPLES, collapse_report

SAMPLES: Final = 64


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Small tensors gain nothing from threads that wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def trained(jointly: bool) -> Tensor:
    """Predict one modality from the other with a cosine loss; both show the same 16 hidden causes, with noise.

    Args:
        jointly: The encoder of the target learns too; otherwise it is frozen and its features are standardised.
    """
    torch.manual_seed(0)
    mixing = torch.randn(2, 16, 32) / 4
    predictor, encoder = (nn.Sequential(nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 32)) for _ in range(2))
    encoder.requires_grad_(jointly)

    def modalities(count: int) -> Tensor:
        return torch.randn(count, 16) @ mixing + 0.5 * torch.randn(2, count, 32)

    with torch.no_grad():
        known = encoder(modalities(256)[1])
    moving = [p for p in (*predictor.parameters(), *encoder.parameters()) if p.requires_grad]
    optimiser = torch.optim.AdamW(moving, lr=3e-3)
    for _ in range(400):
        seen, other = modalities(SAMPLES)
        wanted = encoder(other) if jointly else (encoder(other) - known.mean(dim=0)) / known.std(dim=0)
        loss = (1.0 - functional.cosine_similarity(predictor(seen), wanted)).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    predicted: Tensor = predictor(modalities(SAMPLES)[0]).detach()
    return predicted


def test_a_jointly_trained_target_fails_the_gate():
    report = collapse_report(trained(jointly=True))
    assert report.pairwise_cosine > 0.95
    assert report.problem is not None
    assert "collapsed" in report.problem


def test_a_frozen_target_passes_the_gate():
    report = collapse_report(trained(jointly=False))
    assert report.problem is None
    assert report.effective_rank > 8
    assert report.pairwise_cosine < 0.5


def test_figures_of_known_cases():
    report = collapse_report(torch.eye(20)[:, None].expand(-1, 3, -1))
    assert report.pairwise_cosine == pytest.approx(0.0)
    assert report.effective_rank == pytest.approx(19.0)  # the mean takes one of twenty directions
    line = torch.arange(20.0)[:, None] * torch.ones(1, 5)
    assert collapse_report(line + 100.0).effective_rank == pytest.approx(1.0)
    assert collapse_report(line).std == pytest.approx(float(torch.arange(20.0).std()))


def test_tokens_that_differ_only_among_themselves_do_not_hide_a_collapse():
    constant = torch.randn(1, 30, 64, generator=torch.Generator().manual_seed(0)).expand(40, -1, -1)
    assert collapse_report(constant).problem is not None


@pytest.mark.parametrize("fill", [float("nan"), 0.0])
def test_nothing_sensible_never_passes(fill: float):
    assert collapse_report(torch.full((40, 32), fill)).problem is not None


def test_too_few_samples_are_said_to_be_too_few():
    many = torch.randn(MIN_SAMPLES, 64, generator=torch.Generator().manual_seed(1))
    assert collapse_report(many).problem is None
    for few in (many[:-1], many[:1]):
        assert f"at least {MIN_SAMPLES}" in str(collapse_report(few).problem)
