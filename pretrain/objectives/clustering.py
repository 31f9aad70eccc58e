"""Losses on assignments to prototypes: SwAV's and DeepCluster-v2's.

``scores`` are the inner products of normalized embeddings and P normalized prototypes, one ``(N, P)``
tensor per view. With multi-crop, the first views are the large crops.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from pretrain.objectives.precision import full_precision

IGNORED = -100
"""The target of an image without an assignment, as in ``torch.nn.functional.cross_entropy``."""


@torch.no_grad()
@full_precision
def sinkhorn_codes(
    scores: Tensor,  # (N, P)
    *,
    epsilon: float,
    iterations: int,
) -> Tensor:  # (N, P)
    """Soft assignments of N images to P prototypes that use all prototypes about equally.

    SwAV (Caron et al., arXiv 2006.09882): ``exp(scores / ε)``, normalized by turns over images and over
    prototypes (Sinkhorn-Knopp). Prototypes come last, so each row sums to 1; each column sums to N / P
    only in the limit. No gradient.

    The iterations are those of the paper in log space, where no small ``epsilon`` can overflow or leave
    a prototype without mass.

    >>> codes = sinkhorn_codes(torch.tensor([[2.0, 1.0], [1.0, 0.0]]), epsilon=0.05, iterations=3)
    >>> [[round(entry, 4) for entry in row] for row in codes.tolist()]
    [[0.5, 0.5], [0.5, 0.5]]
    """
    if iterations < 1:
        raise ValueError(f"expected at least 1 iteration, got {iterations}")
    logs = scores / epsilon
    for _ in range(iterations):
        logs = logs - logs.logsumexp(0, keepdim=True)  # the images of each prototype
        logs = logs - logs.logsumexp(1, keepdim=True)  # the prototypes of each image
    return logs.exp()


@full_precision
def swapped_prediction_loss(
    scores: list[Tensor],  # V >= 2 of (N, P)
    codes: list[Tensor],  # A <= V of (N, P), those of the first A views
    *,
    temperature: float,
) -> Tensor:
    """Cross entropy of predicting the code of a view from the scores of every other view.

    SwAV (arXiv 2006.09882), as in the authors' code with multi-crop: the mean over images, over the A
    views with a code, and over the V - 1 other views of each. Codes get no gradient.

    Compute the codes by ``sinkhorn_codes``. For SwAV's queue, pass it the scores of the batch and of the
    queued embeddings together, and keep the rows of the batch.

    >>> scores = [torch.tensor([[5.0, 0.0]]), torch.tensor([[0.0, 0.0]])]
    >>> codes = [torch.tensor([[1.0, 0.0]])]
    >>> round(swapped_prediction_loss(scores, codes, temperature=0.1).item(), 4)  # log 2
    0.6931
    """
    return cross_view_entropy([view / temperature for view in scores], codes)


def cross_view_entropy(
    logits: list[Tensor],  # V >= 2 of (N, P)
    targets: list[Tensor],  # A <= V of (N, P), probabilities; those of the first A views
) -> Tensor:
    """Cross entropy from each target to the softmax of every other view's logits, averaged over all."""
    if len(logits) < 2 or not 1 <= len(targets) <= len(logits):
        raise ValueError(
            "expected at least 2 views, the first of them with a target, "
            f"got {len(logits)} views and {len(targets)} targets"
        )
    logs = [F.log_softmax(view, dim=-1) for view in logits]
    pairs = [(i, j) for i in range(len(targets)) for j in range(len(logs)) if i != j]
    return torch.stack([-(targets[i].detach() * logs[j]).sum(-1).mean() for i, j in pairs]).mean()


@torch.no_grad()
@full_precision
def spherical_kmeans(
    memory: Tensor,  # (M, D), normalized
    *,
    clusters: int,
    iterations: int,
    generator: torch.Generator,
    chunk: int = 8192,
) -> tuple[Tensor, Tensor]:  # (C, D), normalized, and (M,), in [0, C)
    """k-means with the cosine as similarity: centroids, and the assignment of each row to one.

    DeepCluster-v2, as in the code of SwAV (arXiv 2006.09882). Centroids start at random rows of
    ``memory``, all different. An iteration assigns each row to its most similar centroid (at a tie, the
    first), and moves each centroid to the direction of the sum of its rows. A centroid whose rows sum to
    zero, such as one without rows, stays where it is. The assignments are to the final centroids.

    The result depends on nothing but ``memory`` and the state of ``generator``, a generator of the CPU.
    Similarities take ``chunk`` x C numbers at a time.

    >>> memory = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, -1.0]])
    >>> generator = torch.Generator().manual_seed(0)
    >>> centroids, assignments = spherical_kmeans(memory, clusters=2, iterations=5, generator=generator)
    >>> (assignments == assignments[0]).tolist()
    [True, True, False]
    """
    if not 1 <= clusters <= len(memory):
        raise ValueError(
            f"expected 1 to {len(memory)} clusters for {len(memory)} rows, got {clusters}"
        )

    def assigned(rows: Tensor) -> Tensor:
        return (rows @ centroids.T).argmax(1)

    start = torch.randperm(len(memory), generator=generator)[:clusters]
    centroids = memory[start.to(memory.device)]
    numbers = torch.arange(clusters, device=memory.device)
    for _ in range(iterations):
        sums = torch.zeros_like(centroids)
        for rows in memory.split(chunk):
            # A product with the indicator matrix, because index_add_ is not deterministic on GPUs.
            members = (assigned(rows)[:, None] == numbers).to(rows.dtype)  # (chunk, C)
            sums += members.T @ rows
        moved = sums.norm(dim=1, keepdim=True) > 0
        centroids = torch.where(moved, F.normalize(sums, dim=1), centroids)
    return centroids, torch.cat([assigned(rows) for rows in memory.split(chunk)])


@full_precision
def cluster_assignment_loss(
    scores: list[Tensor],  # V >= 1 of (N, C)
    targets: Tensor,  # (N,), clusters in [0, C), or -100 to ignore an image
    *,
    temperature: float,
) -> Tensor:
    """Cross entropy of each view's scores with the cluster of its image.

    DeepCluster-v2, as in the code of SwAV (arXiv 2006.09882): the mean over views and over the images
    that are not ignored. 0 if all are ignored.

    >>> scores = [torch.tensor([[0.1, 0.0], [0.3, 0.9]])]
    >>> round(cluster_assignment_loss(scores, torch.tensor([0, -100]), temperature=0.1).item(), 4)
    0.3133
    """
    if not scores or any(len(view) != len(targets) for view in scores):
        raise ValueError(
            f"expected at least 1 view, with scores of {len(targets)} images, "
            f"got views of {[len(view) for view in scores]}"
        )
    images = (targets != IGNORED).sum().clamp(min=1)
    sums = [
        F.cross_entropy(view / temperature, targets, ignore_index=IGNORED, reduction="sum")
        for view in scores
    ]
    return torch.stack(sums).mean() / images
