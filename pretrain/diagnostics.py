"""Signs of collapse, as pure functions of embeddings, and the kNN monitor."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from msbreg.neighbours import nearest, weighted_vote


def dimension_std(
    embeddings: Tensor,  # (N, D)
) -> float:
    """Mean over dimensions of the standard deviation of the normalised embeddings, times sqrt(D).

    1 for embeddings spread evenly over the sphere, 0 for a point (SimSiam, arXiv 2011.10566, §4.1).
    """
    return float(F.normalize(embeddings, dim=-1).std(0).mean() * embeddings.shape[1] ** 0.5)


def singular_spectrum(
    embeddings: Tensor,  # (N, D)
) -> Tensor:  # (min(N, D),)
    """Singular values of the centred normalised embeddings over sqrt(N), largest first."""
    unit = F.normalize(embeddings, dim=-1)
    return torch.linalg.svdvals(unit - unit.mean(0)) / len(unit) ** 0.5


def effective_rank(
    spectrum: Tensor,  # (M,)
) -> float:
    """Exponential of the entropy of the singular values as shares of their sum; in [1, M].

    Roy and Vetterli, "The effective rank" (EUSIPCO 2007). 1 where all are 0: everything is one point.
    """
    total = spectrum.sum()
    if total <= 0:
        return 1.0
    shares = spectrum / total
    shares = shares[shares > 0]
    return float(torch.exp(-(shares * shares.log()).sum()))


def alignment(
    first: Tensor,  # (N, D)
    second: Tensor,  # (N, D)
) -> float:
    """Mean squared distance of the normalised embeddings of two views of an image; in [0, 4].

    Wang and Isola, arXiv 2005.10242, with exponent 2.
    """
    return float((F.normalize(first, dim=-1) - F.normalize(second, dim=-1)).square().sum(-1).mean())


def uniformity(
    embeddings: Tensor,  # (N, D), N >= 2
    *,
    t: float = 2.0,
) -> float:
    """Log of the mean Gaussian potential of all pairs of normalised embeddings; in [-4t, 0].

    Wang and Isola, arXiv 2005.10242. 0 for a point; about -2t for an even spread in many dimensions.
    """
    squared_distances = torch.pdist(F.normalize(embeddings, dim=-1)).square()
    return float(squared_distances.mul(-t).exp().mean().log())


def embedding_report(
    first: Tensor,  # (N, D)
    second: Tensor,  # (N, D)
    *,
    t: float,
) -> dict[str, float | list[float]]:
    """All of the above for the embeddings of two views of N images, by name."""
    spectrum = singular_spectrum(first)
    return {
        "std": dimension_std(first),
        "effective_rank": effective_rank(spectrum),
        "alignment": alignment(first, second),
        "uniformity": uniformity(first, t=t),
        "spectrum": [float(value) for value in spectrum],
    }


def collapse_in_words(
    report: dict[str, float | list[float]], *, least_std: float, least_rank: float
) -> str:
    """What is collapsing, in a sentence; empty while nothing is."""
    std, rank = report["std"], report["effective_rank"]
    assert isinstance(std, float)
    assert isinstance(rank, float)
    signs = []
    if std < least_std:
        signs.append(f"their spread per dimension is {std:.3f} of the ideal (bound {least_std})")
    if rank < least_rank:
        signs.append(f"they span {rank:.1f} dimensions effectively (bound {least_rank})")
    return f"the embeddings are collapsing: {' and '.join(signs)}" if signs else ""


def knn_top1(
    bank: np.ndarray,  # (N, C)
    bank_labels: np.ndarray,  # (N,)
    queries: np.ndarray,  # (Q, C)
    query_labels: np.ndarray,  # (Q,)
    *,
    classes: int,
    k: int = 20,
) -> float:
    """Top-1 accuracy in percent of the weighted vote of the k nearest; a monitor, not a protocol."""
    similarities, indices = nearest(queries, bank, min(k, len(bank)))
    scores = weighted_vote(similarities, bank_labels[indices], classes)
    return float((scores.argmax(1) == query_labels).mean() * 100)
