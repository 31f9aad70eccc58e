"""SimCLR (Chen et al., arXiv 2002.05709): find the other view among all embeddings of the batch."""

from collections.abc import Sequence
from typing import Any

import torch

from msbreg.train.loop import Loss
from pretrain.methods.encoders import projected
from pretrain.methods.method import Moment, OneNetwork, Outputs
from pretrain.objectives.contrast import nt_xent_loss
from pretrain.recipe import Config


class SimCLR(OneNetwork):
    """NT-Xent between projections, averaged over all pairs of views."""

    def __init__(self, config: Config) -> None:
        super().__init__(config, projected(config))

    def loss(self, outputs: Sequence[Outputs], targets: Any, at: Moment) -> Loss:
        projections = torch.stack([at.gather(z) for (z,) in outputs])  # (K, N, D)
        total = nt_xent_loss(projections, temperature=self.config.simclr.temperature)
        return Loss(total, {"total": total})
