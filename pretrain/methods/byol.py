"""BYOL (Grill et al., arXiv 2006.07733) with K views: all ordered pairs of different views."""

from collections.abc import Sequence

import torch
from torch import Tensor

from msbreg.run.host_to_device import to_device
from msbreg.train.loop import Loss
from pretrain.losses import added_terms, other_views, pairwise_loss
from pretrain.methods.method import Moment, Outputs, WithTarget, step_noise


class BYOL(WithTarget):
    """Eq. 1 of the MSBReg paper, for each view against all others; with local views, its §4.4 (multi-crop).

    The other terms of MSBReg are logged, not minimized, so that the curves of both methods can be compared.
    """

    def loss(
        self,
        outputs: Sequence[Outputs],  # of one view: predictions (B, D)
        targets: Tensor,  # (K, N, D)
        at: Moment,
    ) -> Loss:
        config, options = self.config, self.config.loss
        predictions = at.gather(outputs[0][0])[None]  # (1, N, D)
        others = other_views(targets, at.view)
        attraction = pairwise_loss(predictions, others)
        views = config.views + config.augment.local_views
        pairs = views * len(others)
        total = attraction * (pairs if options.byol_reduce == "sum" else 1)
        with torch.no_grad():
            noise = step_noise(
                config.seed, at.step, *predictions.shape[1:], share=options.noise_share
            )
            logged = added_terms(
                predictions,
                to_device(noise, predictions.device),
                ("singular_value", "brownian"),
                singular_input=options.singular_input,
                normalize_noise=options.normalize_noise,
            )
        return Loss(total, {"total": total, "centroid": attraction, **logged})
