"""Losses without negatives: SimSiam's, Barlow Twins' and VICReg's."""

from itertools import combinations
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from pretrain.objectives.precision import full_precision


@full_precision
def negative_cosine_loss(
    predictions: Tensor,  # (K, N, D), K >= 2
    projections: Tensor,  # (K, N, D)
) -> Tensor:
    """Negative cosine between each prediction and the projections of the image's other views.

    SimSiam (Chen & He, arXiv 2011.10566), Eq. 4, as the mean over ordered pairs of different views.
    Projections get no gradient. In [-1, 1].

    >>> views = torch.tensor([[[3.0, 0.0]], [[0.0, 1.0]]])
    >>> negative_cosine_loss(views, views.flip(0)).item(), negative_cosine_loss(views, views).item()
    (-1.0, -0.0)
    """
    views = len(predictions)
    if views < 2 or predictions.shape != projections.shape:
        raise ValueError(
            "expected predictions and projections of at least 2 views in the same shape, "
            f"got {tuple(predictions.shape)} and {tuple(projections.shape)}"
        )
    targets = F.normalize(projections.detach(), dim=-1)
    others = (targets.sum(0) - targets) / (views - 1)  # of each view: the mean of all other views
    return -(F.normalize(predictions, dim=-1) * others).sum(-1).mean()


@full_precision
def barlow_twins_loss(
    embeddings: Tensor,  # (K, N, D), K >= 2, N >= 2
    *,
    off_diagonal: float,
) -> Tensor:
    """Squared distance between the cross-correlation of two views and the identity.

    Barlow Twins (Zbontar et al., arXiv 2103.03230), Eq. 1 and 2, as the mean over unordered pairs of
    views. Errors off the diagonal are weighted by ``off_diagonal`` (the paper's λ).

    Each dimension is standardized over the images of a view, as by batch normalization without affine
    parameters: biased variance, and 1e-5 added to it. A constant dimension thus has correlation 0.

    Non-negative; D if all embeddings are equal.

    >>> white = torch.tensor([[1.0, 1], [1, -1], [-1, 1], [-1, -1]])
    >>> round(barlow_twins_loss(torch.stack([white, white]), off_diagonal=0.005).item(), 4)
    0.0
    >>> round(barlow_twins_loss(torch.stack([white, -white]), off_diagonal=0.005).item(), 2)
    8.0
    """
    _check_views_and_images(embeddings)
    centered = embeddings - embeddings.mean(1, keepdim=True)
    variance = centered.square().mean(1, keepdim=True)
    standardized = centered / (variance + 1e-5).sqrt()

    def two_views(first: Tensor, second: Tensor) -> Tensor:
        correlation = first.T @ second / len(first)  # (D, D), Eq. 2
        on_diagonal = (1 - correlation.diagonal()).square().sum()
        return on_diagonal + off_diagonal * _squares_off_diagonal(correlation)

    return torch.stack([two_views(*pair) for pair in combinations(standardized, 2)]).mean()


class VICRegTerms(NamedTuple):
    """The three unweighted terms of VICReg; all are scalars and at least 0."""

    invariance: Tensor
    variance: Tensor
    covariance: Tensor


@full_precision
def vicreg_terms(
    embeddings: Tensor,  # (K, N, D), K >= 2, N >= 2
) -> VICRegTerms:
    """Invariance to the view, and variance and covariance over the images of a view.

    VICReg (Bardes et al., arXiv 2105.04906):

    - invariance: squared distance between two views (Eq. 5), here divided by D
    - variance: ``max(0, 1 - std)`` averaged over dimensions (Eq. 1 and 2), ``std = sqrt(var + 1e-4)``
    - covariance: squared entries off the diagonal (Eq. 3 and 4), divided by D

    Variances and covariances have the divisor N - 1.

    Eq. 6 sums the variance and covariance terms of both views. The authors' code, to which the weights 25,
    25 and 1 belong, takes the *mean* of the two variance terms, the *sum* of the two covariance terms,
    and divides the squared distance by D. This function follows the code. More than two views give the
    mean over unordered pairs.

    >>> constant = torch.zeros(2, 4, 3)
    >>> [round(term.item(), 4) for term in vicreg_terms(constant)]
    [0.0, 0.99, 0.0]
    """
    _check_views_and_images(embeddings)
    pairs = [F.mse_loss(*pair) for pair in combinations(embeddings, 2)]
    variance = torch.relu(1 - (embeddings.var(1) + 1e-4).sqrt()).mean()
    # Each view is in the same number of pairs, so the mean over pairs of the sum is twice the mean.
    covariance = 2 * torch.stack([_covariance_term(view) for view in embeddings]).mean()
    return VICRegTerms(torch.stack(pairs).mean(), variance, covariance)


def vicreg_loss(
    terms: VICRegTerms, *, invariance: float, variance: float, covariance: float
) -> Tensor:
    """The weighted sum of Eq. 6 of VICReg; the paper's weights λ, μ, ν are 25, 25 and 1.

    >>> terms = VICRegTerms(*torch.tensor([1.0, 2.0, 3.0]))
    >>> vicreg_loss(terms, invariance=25, variance=25, covariance=1).item()
    78.0
    """
    return invariance * terms.invariance + variance * terms.variance + covariance * terms.covariance


def _covariance_term(
    view: Tensor,  # (N, D)
) -> Tensor:
    centered = view - view.mean(0)
    covariance = centered.T @ centered / (len(view) - 1)
    return _squares_off_diagonal(covariance) / view.shape[1]


def _squares_off_diagonal(
    matrix: Tensor,  # (D, D), which is modified: a copy would be the largest tensor of the loss
) -> Tensor:
    return matrix.fill_diagonal_(0).square().sum()


def _check_views_and_images(embeddings: Tensor) -> None:
    views, images, _ = embeddings.shape
    if views < 2 or images < 2:
        raise ValueError(f"expected at least 2 views of at least 2 images, got {views} of {images}")
