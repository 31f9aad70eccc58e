"""Contrastive losses: SimCLR's (NT-Xent), MoCo's with a queue, and MoCo v3's within the batch.

All three are a cross entropy over cosine similarities: which of the candidates shows the same image?
Embeddings are normalized here. Keys and queue get no gradient.
"""

from itertools import combinations

import torch
import torch.nn.functional as F
from torch import Tensor

from pretrain.objectives.precision import full_precision


@full_precision
def nt_xent_loss(
    embeddings: Tensor,  # (K, N, D), K >= 2, N >= 2
    *,
    temperature: float,
) -> Tensor:
    """Cross entropy of finding the other view of an embedding among both views of all images.

    SimCLR (Chen et al., arXiv 2002.05709), Eq. 1, averaged over the 2N ordered positive pairs. More than
    two views give the mean of this loss over all unordered pairs of views, so that the 2N - 2 negatives
    of an embedding always come from the two views of the pair.

    Positive; ``log(2N - 1)`` if all embeddings are equal.

    >>> equal = torch.ones(2, 4, 3)
    >>> round(nt_xent_loss(equal, temperature=0.1).exp().item(), 4)
    7.0
    """
    views, images, _ = embeddings.shape
    if views < 2 or images < 2:
        raise ValueError(f"expected at least 2 views of at least 2 images, got {views} of {images}")
    units = F.normalize(embeddings, dim=-1)
    positive = torch.arange(2 * images, device=units.device).roll(images)  # i + N and i - N

    def two_views(first: Tensor, second: Tensor) -> Tensor:
        both = torch.cat([first, second])  # (2N, D)
        logits = both @ both.T / temperature
        logits.fill_diagonal_(-torch.inf)  # an embedding is not a candidate for itself
        return F.cross_entropy(logits, positive)

    return torch.stack([two_views(*pair) for pair in combinations(units, 2)]).mean()


@full_precision
def queue_contrast_loss(
    queries: Tensor,  # (N, D)
    keys: Tensor,  # (N, D), of the momentum encoder; the same images in the same order
    queue: Tensor,  # (Q, D), keys of earlier batches
    *,
    temperature: float,
) -> Tensor:
    """Cross entropy of finding the key of a query's image among that key and the queue.

    MoCo (He et al., arXiv 1911.05722), Eq. 1; MoCo v2 (arXiv 2003.04297) keeps it. Each query has one
    positive and Q negatives: the other keys of the batch are not used.

    Positive; ``log(Q + 1)`` if all embeddings are equal.

    >>> query, queue = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    >>> round(queue_contrast_loss(query, query, queue, temperature=1.0).item(), 4)  # log(1 + 1/e)
    0.3133
    """
    if len(queries) != len(keys):
        raise ValueError(f"expected one key per query, got {len(keys)} for {len(queries)}")
    queries = F.normalize(queries, dim=-1)
    keys, queue = F.normalize(keys.detach(), dim=-1), F.normalize(queue.detach(), dim=-1)
    positive = (queries * keys).sum(-1, keepdim=True)  # (N, 1)
    negative = queries @ queue.T  # (N, Q)
    logits = torch.cat([positive, negative], dim=1) / temperature
    return F.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.long, device=logits.device))


@torch.no_grad()
def enqueue(
    queue: Tensor,  # (Q, D)
    pointer: int,  # in [0, Q): the row of the oldest key
    keys: Tensor,  # (N, D), N <= Q
) -> tuple[Tensor, int]:  # (Q, D) and the next pointer
    """A copy of the queue in which ``keys`` replace the N oldest keys.

    The batch wraps around at the end of the queue. Q need not be a multiple of N.

    >>> queue, keys = torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor([[4.0], [5.0]])
    >>> queue, pointer = enqueue(queue, 2, keys)
    >>> queue.flatten().tolist(), pointer
    ([5.0, 2.0, 4.0], 1)
    """
    if len(keys) > len(queue):
        raise ValueError(f"a queue of {len(queue)} keys cannot take a batch of {len(keys)}")
    rows = (pointer + torch.arange(len(keys), device=queue.device)) % len(queue)
    return queue.index_copy(0, rows, keys.to(queue.dtype)), (pointer + len(keys)) % len(queue)


@full_precision
def batch_contrast_loss(
    queries: Tensor,  # (N, D), N >= 2
    keys: Tensor,  # (N, D), of the momentum encoder; the same images in the same order
    *,
    temperature: float,
) -> Tensor:
    """Cross entropy of finding the key of a query's image among the keys of the batch, times 2τ.

    MoCo v3 (Chen et al., arXiv 2104.02057), Alg. 1, for one direction. The paper's loss of two views is
    the sum of both: the queries of view 1 against the keys of view 2, and the reverse.

    Positive; ``2τ log N`` if all embeddings are equal.

    >>> round(batch_contrast_loss(torch.eye(2), torch.eye(2), temperature=0.5).item(), 4)
    0.1269
    """
    if len(queries) != len(keys) or len(queries) < 2:
        raise ValueError(
            f"expected at least 2 queries and one key per query, got {len(queries)} and {len(keys)}"
        )
    logits = F.normalize(queries, dim=-1) @ F.normalize(keys.detach(), dim=-1).T / temperature
    own = torch.arange(len(queries), device=queries.device)
    return 2 * temperature * F.cross_entropy(logits, own)
