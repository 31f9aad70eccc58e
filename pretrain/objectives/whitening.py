"""Losses on whitened embeddings: W-MSE's, and DBN's and Shuffled-DBN's.

Whitening gives the embeddings of a view zero mean and unit covariance over the images, so that they
cannot collapse. W-MSE whitens by a Cholesky factor; DBN by the symmetric inverse square root (ZCA).
"""

from collections.abc import Callable
from itertools import combinations
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from msbreg.run.host_to_device import to_device
from pretrain.objectives.precision import full_precision


@full_precision
def w_mse_loss(
    embeddings: Tensor,  # (K, N, D), K >= 2
    *,
    size: int,
    iterations: int,
    epsilon: float,
    generator: torch.Generator,
) -> Tensor:
    """Squared distance between the normalized whitened embeddings of two views.

    W-MSE (Ermolov et al., arXiv 2007.06346), as the mean over images, unordered pairs of views, and
    ``iterations`` random partitions of the images. In [0, 4]; 2 if all embeddings are equal and ε > 0.

    A partition has ``N // size`` parts, which are the same for all views and are whitened one by one. If
    N is not a multiple of ``size``, the remaining images are spread over the parts, so that each has at
    least ``size`` images and no image is left out.

    Args:
        size: images per part. Must exceed D if ``epsilon`` is 0.
        epsilon: weight of the identity in the covariance, see ``cholesky_whitened``.
        generator: of the CPU. Its state decides the partitions, so it must be equal in all processes.

    >>> generator = torch.Generator().manual_seed(0)
    >>> views = torch.randn(1, 8, 2, generator=generator).expand(2, 8, 2)
    >>> loss = w_mse_loss(views, size=4, iterations=1, epsilon=0.0, generator=generator)
    >>> abs(round(loss.item(), 4))
    0.0
    """
    views, images, dimensions = embeddings.shape
    if views < 2 or iterations < 1:
        raise ValueError(f"expected at least 2 views and 1 iteration, got {views} and {iterations}")
    if images < size:
        raise ValueError(f"expected at least size = {size} images, got {images}")
    if size <= dimensions and epsilon == 0:
        raise ValueError(
            f"the covariance of size = {size} images in {dimensions} dimensions has no inverse; "
            f"expected size > {dimensions}, or epsilon > 0"
        )

    def one_partition() -> Tensor:
        order = to_device(torch.randperm(images, generator=generator), embeddings.device)
        parts = order.tensor_split(images // size)
        white = [cholesky_whitened(embeddings[:, part], epsilon=epsilon) for part in parts]
        return mean_over_pairs(cosine_distance, torch.cat(white, dim=1))

    return torch.stack([one_partition() for _ in range(iterations)]).mean()


@full_precision
def cholesky_whitened(
    embeddings: Tensor,  # (..., N, D)
    *,
    epsilon: float,
) -> Tensor:  # (..., N, D)
    """``L^-1 (x - mean)`` with the Cholesky factor ``L`` of the covariance over the N images.

    The covariance has the divisor N - 1 and is mixed with the identity, ``(1 - ε) S + ε I``, as in the
    authors' code of W-MSE. A singular one is a ``torch.linalg.LinAlgError``.
    """
    images, dimensions = embeddings.shape[-2:]
    centered = embeddings - embeddings.mean(-2, keepdim=True)
    covariance = centered.mT @ centered / (images - 1)
    identity = torch.eye(dimensions, dtype=covariance.dtype, device=covariance.device)
    factor = torch.linalg.cholesky((1 - epsilon) * covariance + epsilon * identity)
    return torch.linalg.solve_triangular(factor, centered.mT, upper=False).mT


@full_precision
def decorrelation_loss(
    embeddings: Tensor,  # (K, N, D), K >= 2
    *,
    groups: int,
    epsilon: float,
    shuffles: Tensor | None = None,  # (K, D), one permutation of the dimensions per view
    normalize: bool = False,
) -> Tensor:
    """Squared distance between the decorrelated embeddings of two views.

    Hua et al., arXiv 2105.00470, as the mean over images and unordered pairs of views: DBN, or
    Shuffled-DBN with ``shuffles``, which the authors' code draws anew for each view and step.

    Decorrelated embeddings have a mean squared norm of D, up to ``epsilon``; the loss is therefore in
    [0, 4D]. With ``normalize``, embeddings are normalized after whitening and the loss is 2 - 2 cos, in
    [0, 4]; the authors' default is not to normalize.

    >>> views = torch.randn(1, 8, 4, generator=torch.Generator().manual_seed(0)).expand(2, 8, 4)
    >>> decorrelation_loss(views, groups=2, epsilon=1e-5).item()
    0.0
    """
    views = len(embeddings)
    if views < 2:
        raise ValueError(f"expected at least 2 views, got {views}")
    if shuffles is not None and len(shuffles) != views:
        raise ValueError(f"expected one shuffle per view, got {len(shuffles)} for {views} views")
    orders = [None] * views if shuffles is None else list(shuffles)
    white = torch.stack(
        [
            decorrelated(view, groups=groups, epsilon=epsilon, shuffle=order)
            for view, order in zip(embeddings, orders, strict=True)
        ]
    )
    return mean_over_pairs(cosine_distance if normalize else squared_distance, white)


@full_precision
def decorrelated(
    embeddings: Tensor,  # (N, D)
    *,
    groups: int,
    epsilon: float,
    shuffle: Tensor | None = None,  # (D,), a permutation of the dimensions
) -> Tensor:  # (N, D)
    """ZCA-whiten each of ``groups`` equal groups of dimensions: decorrelated batch normalization (DBN).

    Each group is multiplied by ``(S + ε I)^-1/2``, with the covariance ``S`` over the images (divisor N,
    as in batch normalization). Groups are of consecutive dimensions, or of consecutive entries of
    ``shuffle`` (Shuffled-DBN, Hua et al., arXiv 2105.00470); the output keeps the order of the input.

    >>> line = torch.tensor([[1.0, 2.0], [-1.0, -2.0], [3.0, 0.0], [-3.0, 0.0]])
    >>> white = decorrelated(line, groups=1, epsilon=0.0)
    >>> (white.T @ white / 4 - torch.eye(2)).abs().max().item() < 1e-5
    True
    """
    images, dimensions = embeddings.shape
    if dimensions % groups:
        raise ValueError(f"{dimensions} dimensions cannot be split into {groups} equal groups")
    if shuffle is not None and shuffle.shape != (dimensions,):
        raise ValueError(f"expected a shuffle of {dimensions}, got {tuple(shuffle.shape)}")
    width = dimensions // groups
    if images <= width and epsilon == 0:
        raise ValueError(
            f"the covariance of {images} images in groups of {width} dimensions has no inverse; "
            f"expected more than {width} images, more groups, or epsilon > 0"
        )
    order = torch.arange(dimensions) if shuffle is None else shuffle
    order = to_device(order, embeddings.device)
    grouped = embeddings[:, order].unflatten(1, (groups, width)).transpose(0, 1)  # (G, N, D / G)
    centered = grouped - grouped.mean(1, keepdim=True)
    covariance = centered.mT @ centered / images
    identity = torch.eye(width, dtype=covariance.dtype, device=covariance.device)
    white = centered @ inverse_square_root(covariance + epsilon * identity)
    return white.transpose(0, 1).flatten(1)[:, order.argsort()]


def inverse_square_root(
    matrices: Tensor,  # (..., D, D), symmetric and positive definite
) -> Tensor:  # (..., D, D)
    """The symmetric ``S^-1/2``.

    >>> inverse_square_root(torch.diag(torch.tensor([4.0, 0.25]))).tolist()
    [[0.5, 0.0], [0.0, 2.0]]
    """
    return _InverseSquareRoot.apply(matrices)


def mean_over_pairs(
    distance: Callable[[Tensor, Tensor], Tensor],
    views: Tensor,  # (K, N, D)
) -> Tensor:
    """The mean of ``distance`` over unordered pairs of different views."""
    return torch.stack([distance(*pair) for pair in combinations(views, 2)]).mean()


def squared_distance(
    first: Tensor,  # (N, D)
    second: Tensor,  # (N, D)
) -> Tensor:
    """Squared Euclidean distance, averaged over images."""
    return (first - second).square().sum(-1).mean()


def cosine_distance(
    first: Tensor,  # (N, D)
    second: Tensor,  # (N, D)
) -> Tensor:
    """Squared distance of the normalized embeddings as 2 - 2 cos, averaged over images; in [0, 4].

    It is 2 where an embedding is zero, so that collapsed embeddings are no minimum.
    """
    cosine = (F.normalize(first, dim=-1) * F.normalize(second, dim=-1)).sum(-1)
    return 2 - 2 * cosine.mean()


class _InverseSquareRoot(torch.autograd.Function):
    """``f(S) = U f(Λ) U'`` with ``f(λ) = λ^-1/2`` and the eigendecomposition ``S = U Λ U'``.

    Autograd through ``eigh`` divides by differences of eigenvalues and fails where two are equal. The
    derivative of a matrix function (Daleckii and Krein) needs divided differences of ``f`` instead,
    ``df = U (F * U' dS U) U'``, and for this ``f`` the differences cancel:

        F_ij = (f(a) - f(b)) / (a - b) = -1 / (sqrt(a) sqrt(b) (sqrt(a) + sqrt(b))),  a = λ_i, b = λ_j
    """

    @staticmethod
    def forward(ctx: Any, matrices: Tensor) -> Tensor:
        eigenvalues, vectors = torch.linalg.eigh(matrices)
        roots = eigenvalues.sqrt()
        ctx.save_for_backward(roots, vectors)
        return vectors / roots[..., None, :] @ vectors.mT

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        roots, vectors = ctx.saved_tensors
        rows, columns = roots[..., :, None], roots[..., None, :]
        differences = -1 / (rows * columns * (rows + columns))
        return vectors @ (differences * (vectors.mT @ gradients[0] @ vectors)) @ vectors.mT
