"""Collapse of predictions: have all inputs come to give (nearly) the same output?

A network whose target is trained together with its prediction can satisfy a cosine loss with a constant. Every run
logs these figures on validation welds, and a checkpoint that fails the gate is refused.
Effective rank: O. Roy and M. Vetterli, "The effective rank", EUSIPCO 2007.
"""

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional

MAX_COSINE: Final = 0.95
MIN_RANK: Final = 3.0
MIN_SAMPLES: Final = 16
"""Fewer predictions cannot reach `MIN_RANK` with room to spare, and their figures are mostly noise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CollapseReport:
    """How different the predictions for different samples are.

    Attributes:
        pairwise_cosine: Mean cosine over all pairs of two different samples; 1 = a constant.
        std: Standard deviation over samples, mean over the columns.
        effective_rank: Exponential of the entropy of the normalised singular values, mean over samples removed.
        samples: How many samples were compared.
    """

    pairwise_cosine: float
    std: float
    effective_rank: float
    samples: int

    @property
    def problem(self) -> str | None:
        """What fails the gate, as one line; None when it passes."""
        if self.samples < MIN_SAMPLES:
            return f"collapse cannot be judged on {self.samples} samples; give at least {MIN_SAMPLES}"
        # Said in this way round, NaN fails too.
        if not self.pairwise_cosine < MAX_COSINE:
            return f"predictions have collapsed: mean pairwise cosine {self.pairwise_cosine:.3f}, limit {MAX_COSINE}"
        if not self.effective_rank > MIN_RANK:
            return f"predictions have collapsed: effective rank {self.effective_rank:.1f}, at least {MIN_RANK:g} wanted"
        return None


def collapse_report(predictions: Tensor) -> CollapseReport:
    """Compare predictions of different samples.

    Args:
        predictions: `(n, ...)`; everything behind the first axis is one row. Do not put several tokens of one sample
            into different rows: learned queries differ between tokens even where the input has no influence.

    Returns:
        The figures; NaN for fewer than two samples, or when a prediction is not finite.
    """
    rows = predictions.detach().flatten(1).double()  # (n, F)
    n = len(rows)
    if n < 2 or not rows.isfinite().all():
        return CollapseReport(pairwise_cosine=float("nan"), std=float("nan"), effective_rank=float("nan"), samples=n)
    unit = functional.normalize(rows, dim=1)
    pairwise = (unit.sum(dim=0).square().sum() - unit.square().sum()) / (n * (n - 1))
    centred = rows - rows.mean(dim=0)
    # The Gram matrix has the squares of the singular values and is small: n is the size of a validation set.
    powers = torch.linalg.eigvalsh(centred @ centred.T).clamp_min(0.0).sqrt()
    share = powers / powers.sum().clamp_min(1e-300)
    rank = torch.special.entr(share).sum().exp() if powers.sum() > 0 else torch.tensor(0.0)
    return CollapseReport(
        pairwise_cosine=float(pairwise),
        std=float(rows.std(dim=0).mean()),
        effective_rank=float(rank),
        samples=n,
    )
