"""BYOL (Grill et al., arXiv 2006.07733) with K views: all ordered pairs of different views."""

import torch
from torch import Tensor

from msbreg.train.loop import Loss
from pretrain.losses import msbreg_loss, other_views, pairwise_loss
from pretrain.methods.method import Gather, WithTarget, step_noise


class BYOL(WithTarget):
    """Eq. 1 of the MSBReg paper, for each view against all others.

    The other terms of MSBReg are logged, not minimized, so that the curves of both methods can be compared.
    """

    def loss(
        self,
        embeddings: Tensor,  # (1, B, D) predictions of one view, this process's images
        targets: Tensor | None,  # (K, N, D)
        *,
        view: int,
        step: int,
        gather: Gather,
    ) -> Loss:
        assert targets is not None
        config, options = self.config, self.config.loss
        predictions = gather(embeddings[0])[None]  # (1, N, D)
        others = other_views(targets, view)
        attraction = pairwise_loss(predictions, others)
        pairs = config.views * (config.views - 1)
        total = attraction * (pairs if options.byol_reduce == "sum" else 1)
        with torch.no_grad():
            noise = step_noise(config.seed, step, *predictions.shape[1:], share=options.noise_share)
            logged = msbreg_loss(
                predictions,
                others,
                noise.to(predictions.device),
                lambda_s=0.0,
                lambda_b=0.0,
                singular_input=options.singular_input,
                normalize_noise=options.normalize_noise,
            )
        terms = {"total": total, "centroid": attraction}
        terms |= {name: getattr(logged, name) for name in ("singular_value", "brownian")}
        return Loss(total, terms)
