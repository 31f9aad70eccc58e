"""SimCLR (Chen et al., arXiv 2002.05709): find the other view among all embeddings of the batch."""

from collections.abc import Sequence
from typing import Any

from msbreg.train.loop import Loss
from pretrain.methods.method import Moment, OneNetwork, Outputs, gathered
from pretrain.objectives.contrast import nt_xent_loss


class SimCLR(OneNetwork):
    """NT-Xent between projections, averaged over all pairs of views."""

    def loss(self, outputs: Sequence[Outputs], targets: Any, at: Moment) -> Loss:
        projections = gathered(outputs, at.gather)
        total = nt_xent_loss(projections, temperature=self.config.simclr.temperature)
        return Loss(total, {"total": total})
