"""The losses of MSBReg (Moon et al., arXiv 2207.03552) and BYOL as pure functions.

Inputs are un-normalized ``(K, N, D)`` tensors: K views of N images, embedded in D dimensions. N counts
the images of the whole batch; gathering them across processes is left to the caller.

Every loss is a mean over the views of ``predictions``. The loss of K views is therefore the mean of K
single-view losses against the same targets, and training can keep one view in memory at a time.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class MSBRegLoss(NamedTuple):
    """The weighted sum of Eq. 2 and its three unweighted terms; all are scalars."""

    total: Tensor
    centroid: Tensor
    singular_value: Tensor
    brownian: Tensor


def centroid_loss(
    predictions: Tensor,  # (K, N, D)
    targets: Tensor,  # (L, N, D); L = K unless predictions are passed one view at a time
) -> Tensor:
    """Squared distance from each normalized prediction to the centroid of the normalized targets.

    Eq. 3; in [0, 4]. The centroid is not normalized again. This equals the mean over all pairs of views,
    including each view with itself, up to the spread of the targets, which has no gradient.

    >>> same, opposite = torch.tensor([[[3.0, 0.0]]]), torch.tensor([[[-1.0, 0.0]]])
    >>> centroid_loss(same, same).item(), centroid_loss(same, opposite).item()
    (0.0, 4.0)
    """
    centroid = F.normalize(targets, dim=-1).mean(0)  # (N, D)
    return (F.normalize(predictions, dim=-1) - centroid).square().sum(-1).mean()


def singular_value_loss(
    predictions: Tensor,  # (K, N, D), N >= 2
) -> Tensor:
    """Squared Frobenius distance between the covariance of each view and the identity.

    Eq. 5-7, in the Frobenius form of Eq. 6. The covariance is taken over the images, with divisor N - 1.

    The covariance ``S`` (D, D) and the Gram matrix ``G`` (N, N) of the centered predictions have the same
    non-zero eigenvalues, and the remaining D - N eigenvalues of ``S`` are 0. Hence
    ``|S - I|^2 = |G - I|^2 + D - N``, and only the smaller of the two matrices is computed.

    >>> collapsed = torch.zeros(1, 4, 2)  # S = 0, so |S - I|^2 = D
    >>> spread = torch.tensor([[[1.0, 1], [1, -1], [-1, 1], [-1, -1]]])  # S = 4/3 I
    >>> singular_value_loss(collapsed).item(), round(singular_value_loss(spread).item(), 4)
    (2.0, 0.2222)
    """
    _, images, dimensions = predictions.shape
    if images < 2:
        raise ValueError(f"the covariance needs at least 2 images, got {images}")

    def one_view(prediction: Tensor) -> Tensor:
        centered = prediction - prediction.mean(0)
        rows = centered if dimensions > images else centered.T  # (min(N, D), max(N, D))
        moments = (rows @ rows.T).div_(images - 1)
        moments.diagonal().sub_(1)  # in place, to avoid a second matrix
        entries = moments.flatten()
        return entries.dot(entries) + (dimensions - len(rows))

    return torch.stack([one_view(prediction) for prediction in predictions]).mean()


def brownian_loss(
    predictions: Tensor,  # (K, N, D)
    noise: Tensor,  # (N, D), standard normal; one vector per image, shared by its views
    *,
    normalize_noise: bool = True,
) -> Tensor:
    """Inner product of each normalized prediction with the random direction of its image.

    Eq. 4. With normalized noise the loss is in [-1, 1] and 0 in expectation. ``normalize_noise=False``
    keeps the length of the noise, about sqrt(D).

    >>> predictions, noise = torch.tensor([[[3.0, 4.0]]]), torch.tensor([[2.0, 0.0]])
    >>> round(brownian_loss(predictions, noise).item(), 4)  # the cosine of the two vectors
    0.6
    """
    direction = F.normalize(noise, dim=-1) if normalize_noise else noise
    return (F.normalize(predictions, dim=-1) * direction).sum(-1).mean()


def pairwise_loss(
    predictions: Tensor,  # (K, N, D)
    targets: Tensor,  # (L, N, D)
) -> Tensor:
    """BYOL's squared distance (Eq. 1), averaged over all K x L pairs of views; in [0, 4].

    >>> x, y = torch.tensor([[[1.0, 0.0]]]), torch.tensor([[[0.0, 5.0]]])
    >>> pairwise_loss(x, y).item()  # 2 - 2 cos
    2.0
    """
    mean_cosine = (F.normalize(predictions, dim=-1) * F.normalize(targets, dim=-1).mean(0)).sum(-1)
    return (2 - 2 * mean_cosine).mean()


def other_views(
    targets: Tensor,  # (K, N, D)
    view: int,
) -> Tensor:  # (K - 1, N, D)
    """All views except ``view``: the targets that BYOL compares this view with."""
    return torch.cat([targets[:view], targets[view + 1 :]])


def msbreg_loss(
    predictions: Tensor,  # (K, N, D)
    targets: Tensor,  # (L, N, D)
    noise: Tensor,  # (N, D)
    *,
    lambda_s: float,
    lambda_b: float,
    singular_input: str = "raw",
    singular_of: Tensor | None = None,  # (K, M, D)
    normalize_noise: bool = True,
) -> MSBRegLoss:
    """``centroid + lambda_s * singular_value + lambda_b * brownian`` (Eq. 2), with the three terms.

    Args:
        singular_input: how predictions enter the covariance; see ``singular_value_input``.
        singular_of: predictions to compute the covariance of, if not ``predictions``; for example those
            of a single process.

    >>> views = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])  # K = 1, N = 2, D = 2
    >>> noise = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    >>> loss = msbreg_loss(views, views, noise, lambda_s=0.1, lambda_b=0.5)
    >>> [round(term.item(), 4) for term in loss]  # 0 + 0.1 * 1 + 0.5 * 0.5
    [0.35, 0.0, 1.0, 0.5]
    """
    centroid = centroid_loss(predictions, targets)
    singular = predictions if singular_of is None else singular_of
    singular_value = singular_value_loss(singular_value_input(singular, singular_input))
    brownian = brownian_loss(predictions, noise, normalize_noise=normalize_noise)
    total = centroid + lambda_s * singular_value + lambda_b * brownian
    return MSBRegLoss(total, centroid, singular_value, brownian)


# ---- The terms on top of another method


def uniformity_loss(
    embeddings: Tensor,  # (K, N, D), N >= 2
    *,
    t: float = 2.0,
) -> Tensor:
    """Log of the mean Gaussian potential over all pairs of images of a view, averaged over views.

    Embeddings are normalized here.

    Wang and Isola, arXiv 2005.10242, Eq. 5; in [-4t, 0]. MSBReg's Table 12 adds it to BYOL.

    >>> uniformity_loss(torch.tensor([[[1.0, 0.0], [-1.0, 0.0]]])).item()  # the squared distance is 4
    -8.0
    """

    def one_view(view: Tensor) -> Tensor:
        exponents = -t * (2 - 2 * view @ view.T)
        # Filled rather than selected: indexing with a mask would wait for the GPU.
        above = torch.ones_like(exponents, dtype=torch.bool).triu(1)
        pairs = len(view) * (len(view) - 1) // 2
        return exponents.masked_fill(~above, -math.inf).flatten().logsumexp(0) - math.log(pairs)

    return torch.stack([one_view(view) for view in F.normalize(embeddings, dim=-1)]).mean()


def singular_value_input(
    embeddings: Tensor,  # (..., D)
    singular_input: str,
) -> Tensor:  # (..., D)
    """Embeddings as they enter the covariance: ``raw`` (Eq. 5), ``l2`` (normalized), or ``l2_sqrt_d``.

    ``l2_sqrt_d`` is normalized and scaled by sqrt(D), so that the covariance can be the identity.
    """
    if singular_input == "raw":
        return embeddings
    unit = F.normalize(embeddings, dim=-1)
    return unit * embeddings.shape[-1] ** 0.5 if singular_input == "l2_sqrt_d" else unit


def added_terms(
    embeddings: Tensor,  # (K, N, D)
    noise: Tensor | None,  # (N, D); only ``brownian`` needs it
    names: Sequence[str],
    *,
    singular_input: str = "raw",
    singular_of: Tensor | None = None,  # (K, M, D)
    normalize_noise: bool = True,
) -> dict[str, Tensor]:
    """The named terms, unweighted: ``singular_value``, ``brownian`` or ``uniformity``.

    Each is a mean over the views, for the outputs of any method: predictions if it has a predictor, else
    projections.
    """
    terms = {}
    if "singular_value" in names:
        singular = embeddings if singular_of is None else singular_of
        terms["singular_value"] = singular_value_loss(
            singular_value_input(singular, singular_input)
        )
    if "brownian" in names:
        assert noise is not None
        terms["brownian"] = brownian_loss(embeddings, noise, normalize_noise=normalize_noise)
    if "uniformity" in names:
        terms["uniformity"] = uniformity_loss(embeddings)
    return terms
