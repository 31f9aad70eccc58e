"""Attentive probes: a few learned queries attend to the places of an image, before a linear layer.

For networks that are not trained to pool, such as masked autoencoders, a global average hides what the places
contain (Chen et al., arXiv 2202.03026; Bardes et al., arXiv 2404.08471). This is the smallest such probe: one
cross-attention without projections, whose values the linear layer projects.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from msbreg.run.errors import UserError
from transfer.frozen.heads import FeatureNorm, Head, Heads

_START = 0.02  # standard deviation of the initial queries, as of tokens in vision transformers


class AttentiveHeads(Heads):
    """L attentive probes side by side.

    Each has M queries of dimension C. A query q weights the T tokens x by softmax(q . x / sqrt(C)); the M
    weighted sums are concatenated and classified. With the norm ``no_affine``, tokens pass through a
    BatchNorm first.

    Args:
        width: dimension C of the tokens.
        queries: number M of queries.

    Raises:
        UserError: there is no query, or the heads have different norms or ``affine`` ones.
    """

    def __init__(
        self,
        width: int,
        classes: int,
        settings: Sequence[Head],
        generator: torch.Generator,
        *,
        queries: int,
    ) -> None:
        norms = {head.norm for head in settings}
        if queries < 1 or "affine" in norms or len(norms) > 1:
            raise UserError(
                f"queries is {queries} and norms {sorted(norms)}; expected at least one query, and the same "
                "norm for all attentive heads, none or no_affine"
            )
        super().__init__(queries * width, classes, settings, generator)
        self.norm = FeatureNorm(width) if norms == {"no_affine"} else None
        shape = (width, 1, queries)
        self.start_shapes += (shape,)
        start = _START * torch.randn(shape, generator=generator)
        self.queries = nn.Parameter(start.repeat(1, len(settings), 1))

    def logits(
        self,
        features: Tensor,  # (B, T, C)
    ) -> Tensor:  # (B, L, K) float32
        """The logits of all heads; those of a diverged head may be NaN."""
        pooled = self.pooled(features)
        return torch.einsum("bld,dlk->blk", pooled, self.weight) + self.bias

    def pooled(
        self,
        tokens: Tensor,  # (B, T, C)
    ) -> Tensor:  # (B, L, M C)
        """The sums that each query takes, one after the other."""
        if tokens.ndim != 3 or tokens.shape[2] != self.queries.shape[0]:
            raise UserError(
                f"tokens have shape {tuple(tokens.shape)}; expected (images, places, "
                f"{self.queries.shape[0]}). Take them from the network that the heads were made for"
            )
        x = tokens.float()
        if self.norm is not None:
            x = self.norm(x.flatten(0, 1)).unflatten(0, x.shape[:2])
        similarity = torch.einsum("btc,clm->blmt", x, self.queries) * x.shape[2] ** -0.5
        return torch.einsum("blmt,btc->blmc", similarity.softmax(3), x).flatten(2)

    def decayed(self) -> list[nn.Parameter]:
        return [*super().decayed(), self.queries]

    def finite(self) -> Tensor:  # (L,) bool
        return super().finite() & self.queries.isfinite().all(dim=2).all(dim=0)
