"""Result tokens: a frozen description of a weld's photos that does not depend on the order of the views.

They are what the process must predict, so nothing in them is trained (a target that learns together with its
prediction collapses). Each token is one statistic of the set of views:
- plain statistics of the views (mean, and the oddest view), and the brightness across and along the bead;
- per level of patch features, which are normalised per patch (LayerNorm) and whitened with good training patches: the
  largest and smallest value anywhere, mean and spread per horizontal band of the view, and a soft histogram over a
  codebook of good patches.
Where a fault may show in one view only, the largest value over the views counts: the mean hides a crack. Each statistic
is then reduced to its principal directions in good welds, whitened: a prediction that is asked for hundreds of features
that differ by chance only learns chance.
Codebook: S. P. Lloyd, "Least squares quantization in PCM", IEEE Trans. Inf. Theory 1982 (k-means).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.detector_contract import DetectorError
from models.photo_views import ACROSS, ALONG, DARK_SHARE, VIEW_STATISTICS

_ROUNDS: Final = 15
"""Of k-means; the codebook hardly moves afterwards."""
_LEAST_POWER: Final = 0.01
"""Directions with less of the mean power than this are taken for noise and not magnified to the full."""
_LEAST_DIRECTION: Final = 0.01
"""The same, of the directions of a statistic."""
_PATCHES_PER_VIEW: Final = 32
_MAX_PATCHES: Final = 20_000


PLAIN_SIZES: Final = (len(VIEW_STATISTICS), len(VIEW_STATISTICS) + 1, ACROSS, ALONG)
"""Mean over the views, the oddest view, brightness across and along the bead."""
Photos = tuple[list[Tensor], Tensor]
"""Patch features `(B, N, P_l, C_l)` of each level, row by row over the view (dropped views are all zero), and the plain
description of the views, `(B, N, V)` (see `photo_views`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultTokensConfig:
    """Sizes; stored in the checkpoint.

    Attributes:
        widths: C of each level of patch features.
        words: Words of each level's codebook.
        bands: Horizontal bands of a view.
        width: R, directions kept of a plain statistic; narrower tokens are filled up with zeros.
        directions: Directions kept of a statistic of patch features.
    """

    widths: tuple[int, ...] = (64, 64, 64)
    words: int = 64
    bands: int = 3
    width: int = 16
    directions: int = 4

    def __post_init__(self) -> None:
        """Refuse directions that do not fit."""
        if not 1 <= self.directions <= self.width:
            raise ValueError(f"directions is {self.directions}; give 1 to {self.width}, the width of a token")

    @property
    def kept(self) -> tuple[int, ...]:
        """Directions kept of each token."""
        plain = tuple(min(self.width, size) for size in PLAIN_SIZES)
        return plain + tuple(
            min(self.directions, size) for width in self.widths for size in self._sizes_of_level(width)
        )

    @property
    def sizes(self) -> tuple[int, ...]:
        """Width of each statistic before it is reduced."""
        return PLAIN_SIZES + tuple(size for width in self.widths for size in self._sizes_of_level(width))

    @property
    def tokens(self) -> int:
        """K: plain statistics; per level largest, smallest, mean and spread per band, two histograms."""
        return len(self.sizes)

    def _sizes_of_level(self, width: int) -> tuple[int, ...]:
        return (width,) * (2 + 2 * self.bands) + (self.words,) * 2


class ResultTokens(nn.Module):
    """See the module; it has buffers only. Make one with `fit`, or load a state into one made from a configuration."""

    def __init__(self, config: ResultTokensConfig) -> None:
        super().__init__()
        self.config = config
        for level, width in enumerate(config.widths):
            self.register_buffer(f"centre_{level}", torch.zeros(width))
            self.register_buffer(f"whitening_{level}", torch.eye(width))
            self.register_buffer(f"codebook_{level}", torch.zeros(config.words, width))
            self.register_buffer(f"softness_{level}", torch.ones(()))
        for i, (size, kept) in enumerate(zip(config.sizes, config.kept, strict=True)):
            self.register_buffer(f"mean_{i}", torch.zeros(size))
            self.register_buffer(f"map_{i}", torch.zeros(size, kept))

    @classmethod
    def fit(
        cls, photos_of_good_train: Iterable[Photos], config: ResultTokensConfig | None = None, *, seed: int = 0
    ) -> "ResultTokens":
        """Fit the codebooks and the principal directions on photos of good training welds.

        Args:
            photos_of_good_train: Batches of welds. They are gone through twice: a list, or an object that starts
                anew, but no generator.
            config: Sizes; None takes the widths as they come, and the defaults.
            seed: Of the patches drawn and of the first codebook.

        Raises:
            DetectorError: There are too few welds with photos, their features have other widths than the
                configuration, or the second pass gave others.
        """
        generator = torch.Generator().manual_seed(seed)
        drawn: list[list[Tensor]] = []
        widths: tuple[int, ...] = ()
        welds = 0
        for levels, _ in photos_of_good_train:
            mask = _views(levels)
            welds += int(mask.any(dim=1).sum())
            widths = tuple(x.shape[-1] for x in levels)
            drawn.append([_draw(_normalised(x)[mask], generator) for x in levels])
        if welds < 2:
            raise DetectorError(f"result tokens need photos of at least 2 good training welds, found {welds}")
        config = config or ResultTokensConfig(widths=widths)
        if config.widths != widths:
            raise DetectorError(f"patch features have the widths {widths}, the result tokens want {config.widths}")
        tokens = cls(config)
        for level in range(len(widths)):
            patches = torch.cat([batch[level] for batch in drawn])
            centre, whitening = whitened(
                len(patches), patches.double().sum(dim=0), patches.double().T @ patches.double()
            )
            tokens.get_buffer(f"centre_{level}").copy_(centre)
            tokens.get_buffer(f"whitening_{level}").copy_(whitening)
            codebook, softness = _codebook(tokens._white(level, patches), config.words, generator)
            tokens.get_buffer(f"codebook_{level}").copy_(codebook)
            tokens.get_buffer(f"softness_{level}").copy_(softness)
        rows = [
            [x[mask.any(dim=1)] for x in tokens._all_statistics(levels, views, mask)]
            for levels, views in photos_of_good_train
            for mask in [_views(levels)]
        ]
        again = sum(len(batch[0]) for batch in rows)
        if again != welds:
            raise DetectorError(
                f"result tokens saw {welds} welds at first and {again} afterwards; "
                "give the photos as a list, not as a generator"
            )
        for i, statistic in enumerate(zip(*rows, strict=True)):
            mean, directions = _principal(torch.cat(statistic), config.kept[i])
            tokens.get_buffer(f"mean_{i}").copy_(mean)
            tokens.get_buffer(f"map_{i}").copy_(directions)
        return tokens

    @torch.no_grad()
    def forward(self, levels: list[Tensor], views: Tensor, mask: Tensor) -> Tensor:
        """Describe the photos of each weld.

        Args:
            levels: See `Photos`.
            views: See `Photos`.
            mask: `(B, N)`, true where there is a view.

        Returns:
            `(B, K, R)`, in standard deviations from the mean of good welds; zeros without a photo.
        """
        tokens = []
        for i, statistic in enumerate(self._all_statistics(levels, views, mask)):
            token = (statistic - self.get_buffer(f"mean_{i}")) @ self.get_buffer(f"map_{i}")
            tokens.append(functional.pad(token, (0, self.config.width - token.shape[-1])))
        return torch.where(mask.any(dim=1)[:, None, None], torch.stack(tokens, dim=1), 0.0)

    def _all_statistics(self, levels: list[Tensor], views: Tensor, mask: Tensor) -> list[Tensor]:
        seen = mask[..., None]
        plain, across, along = torch.split(torch.where(seen, views, 0.0), [len(VIEW_STATISTICS), ACROSS, ALONG], dim=-1)
        dark = plain[..., DARK_SHARE, None]
        return [
            _mean(plain, seen),
            torch.cat([_largest(plain, seen), -_largest(-dark, seen)], dim=-1),
            _mean(across, seen),
            _mean(along, seen),
            *(token for level, features in enumerate(levels) for token in self._statistics(level, features, mask)),
        ]

    def _statistics(self, level: int, features: Tensor, mask: Tensor) -> list[Tensor]:
        """Statistics `(B, C)` or `(B, words)` of one level."""
        seen = mask[..., None]  # (B, N, 1)
        patches = self._white(level, _normalised(torch.where(seen[..., None], features, 0.0)))  # (B, N, P, C)
        bands = patches.tensor_split(self.config.bands, dim=2)
        distance = torch.cdist(patches.flatten(0, 2), self.get_buffer(f"codebook_{level}")).square()
        words = torch.softmax(-distance / self.get_buffer(f"softness_{level}"), dim=-1)
        histogram = words.reshape(*patches.shape[:3], -1).mean(dim=2).sqrt()  # (B, N, words)
        return [
            _largest(patches.amax(dim=2), seen),
            -_largest(-patches.amin(dim=2), seen),
            *(_mean(band.mean(dim=2), seen) for band in bands),
            *(_largest(band.std(dim=2, correction=0), seen) for band in bands),
            _mean(histogram, seen),
            _largest(histogram, seen),
        ]

    def _white(self, level: int, patches: Tensor) -> Tensor:
        return (patches - self.get_buffer(f"centre_{level}")) @ self.get_buffer(f"whitening_{level}")


def whitened(count: int, total: Tensor, products: Tensor) -> tuple[Tensor, Tensor]:
    """Give centre `(C,)` and symmetric whitening `(C, C)` of features, so that all their directions count alike.

    Most features of one encoder say the same (how bright it is), and a cosine between them hardly sees the rest. The
    symmetric form changes each feature as little as possible.

    Args:
        count: Number of rows.
        total: Their sum, `(C,)`.
        products: Sum of their outer products, `(C, C)`.
    """
    centre = total / max(count, 1)
    covariance = products / max(count, 1) - torch.outer(centre, centre)
    powers, directions = torch.linalg.eigh(covariance)
    powers = powers.clamp_min(0.0)
    floor = _LEAST_POWER * powers.mean()
    if count < 2 or floor == 0.0:
        return centre, torch.eye(len(centre), dtype=centre.dtype)
    return centre, directions / (powers + floor).sqrt() @ directions.T


def _principal(rows: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Give the mean `(d,)` of rows `(n, d)` and the map `(d, count)` onto their whitened principal directions."""
    table = rows.double()
    mean, scale = table.mean(dim=0), table.std(dim=0)
    # What hardly ever varies, such as an unused word, would otherwise count for its noise alone.
    floor = 0.1 * scale[scale > 0].median() if (scale > 0).any() else scale.new_ones(())
    scale = torch.where(scale > 0, scale.clamp_min(float(floor)), 1.0)
    normal = (table - mean) / scale
    powers, directions = torch.linalg.eigh(normal.T @ normal / len(normal))
    powers, directions = powers.flip(0)[:count], directions.flip(1)[:, :count]
    # Fewer welds than directions leave some empty; magnified, they would say something of noise alone.
    directions = torch.where(powers > 1e-9, directions, 0.0)
    return mean, directions / powers.clamp_min(_LEAST_DIRECTION).sqrt() / scale[:, None]


def _views(levels: list[Tensor]) -> Tensor:
    """Tell which views are there: dropped ones are zero."""
    return levels[0].flatten(2).abs().amax(dim=2) > 0.0


def _normalised(features: Tensor) -> Tensor:
    """LayerNorm over the features of a patch, without parameters."""
    return functional.layer_norm(features, features.shape[-1:])


def _largest(values: Tensor, seen: Tensor) -> Tensor:
    return torch.where(seen, values, -torch.inf).amax(dim=1).nan_to_num(neginf=0.0)


def _mean(values: Tensor, seen: Tensor) -> Tensor:
    return torch.where(seen, values, 0.0).sum(dim=1) / seen.sum(dim=1).clamp_min(1)


def _draw(views: Tensor, generator: torch.Generator) -> Tensor:
    """Draw patches of views `(n, P, C)`, the same number of each."""
    count = min(_PATCHES_PER_VIEW, views.shape[1])
    order = torch.rand(views.shape[:2], generator=generator).argsort(dim=1)[:, :count].to(views.device)
    return views.gather(1, order[..., None].expand(-1, -1, views.shape[2])).flatten(0, 1).cpu()


def _codebook(patches: Tensor, words: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Cluster patches `(n, C)`; returns the words and the mean squared distance to the nearest one."""
    patches = patches[torch.randperm(len(patches), generator=generator)[:_MAX_PATCHES]]
    codebook = patches[torch.arange(words) % len(patches)].clone()
    for _ in range(_ROUNDS):
        nearest = torch.cdist(patches, codebook).argmin(dim=1)
        count = torch.bincount(nearest, minlength=words)
        centres = torch.zeros_like(codebook).index_add_(0, nearest, patches) / count.clamp_min(1)[:, None]
        codebook = torch.where(count[:, None] > 0, centres, codebook)
    softness = torch.cdist(patches, codebook).amin(dim=1).square().mean()
    return codebook, softness.clamp_min(1e-6)
