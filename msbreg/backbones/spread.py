"""How evenly features or embeddings use their dimensions: spread, singular values, effective rank, RankMe."""

import torch
import torch.nn.functional as F
from torch import Tensor


def dimension_std(
    embeddings: Tensor,  # (N, D)
) -> float:
    """Standard deviation of the normalized embeddings, averaged over dimensions, times sqrt(D).

    1 if the embeddings are spread evenly over the sphere, 0 if all are equal (SimSiam, arXiv 2011.10566,
    §4.1).

    >>> generator = torch.Generator().manual_seed(0)
    >>> round(dimension_std(torch.randn(10_000, 16, generator=generator)), 2)
    1.0
    """
    return float(F.normalize(embeddings, dim=-1).std(0).mean() * embeddings.shape[1] ** 0.5)


def singular_spectrum(
    embeddings: Tensor,  # (N, D)
) -> Tensor:  # (min(N, D),)
    """Singular values of the centered, normalized embeddings, divided by sqrt(N); in descending order."""
    unit = F.normalize(embeddings, dim=-1)
    return torch.linalg.svdvals(unit - unit.mean(0)) / len(unit) ** 0.5


def effective_rank(
    spectrum: Tensor,  # (M,)
) -> float:
    """Exponential of the entropy of the singular values, normalized to sum to 1; in [1, M].

    Roy and Vetterli, "The effective rank" (EUSIPCO 2007). Returns 1 if all singular values are 0, that is,
    if all embeddings are equal.

    >>> round(effective_rank(torch.ones(4)), 4), round(effective_rank(torch.tensor([1.0, 0, 0])), 4)
    (4.0, 1.0)
    """
    total = spectrum.sum()
    if total <= 0:
        return 1.0
    shares = spectrum / total
    shares = shares[shares > 0]
    return float(torch.exp(-(shares * shares.log()).sum()))


def rankme(
    features: Tensor,  # (N, D)
) -> float:
    """RankMe: the exponential of the entropy of ``sigma / sum(sigma) + 1e-7``, at least about 1.

    Garrido et al., arXiv 2210.02885, Eq. 1. The singular values ``sigma`` are those of the features as they
    are: unlike for ``effective_rank`` above, rows are neither normalized nor centered, so that a common
    offset of all features lowers the rank. At most about min(N, D), so compare only equal N. Returns 1 if
    all features are 0.

    >>> round(rankme(torch.eye(4)), 4), round(rankme(torch.ones(4, 3)), 4)
    (4.0, 1.0)
    """
    sigma = torch.linalg.svdvals(features.float())
    total = sigma.sum()
    if total <= 0:
        return 1.0
    shares = sigma / total + 1e-7
    return float(torch.exp(-(shares * shares.log()).sum()))
