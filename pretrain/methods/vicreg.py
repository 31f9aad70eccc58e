"""VICReg (Bardes et al., arXiv 2105.04906): variance, invariance and covariance of projections."""

from collections.abc import Sequence
from typing import Any

import torch

from msbreg.train.loop import Loss
from pretrain.methods.encoders import projected
from pretrain.methods.method import Moment, OneNetwork, Outputs
from pretrain.objectives.redundancy import vicreg_loss, vicreg_terms
from pretrain.recipe import Config


class VICReg(OneNetwork):
    """The three terms over the whole batch."""

    def __init__(self, config: Config) -> None:
        super().__init__(config, projected(config))

    def loss(self, outputs: Sequence[Outputs], targets: Any, at: Moment) -> Loss:
        options = self.config.vicreg
        terms = vicreg_terms(torch.stack([at.gather(z) for (z,) in outputs]))
        total = vicreg_loss(
            terms,
            invariance=options.invariance,
            variance=options.variance,
            covariance=options.covariance,
        )
        return Loss(total, {"total": total, **terms._asdict()})
