"""Barlow Twins (Zbontar et al., arXiv 2103.03230): the cross-correlation of two views is the identity."""

from collections.abc import Sequence
from typing import Any

from msbreg.train.loop import Loss
from pretrain.methods.method import Moment, OneNetwork, Outputs, gathered
from pretrain.objectives.redundancy import barlow_twins_loss


class BarlowTwins(OneNetwork):
    """The loss of the whole batch; the authors' code, too, sums correlations over processes."""

    def loss(self, outputs: Sequence[Outputs], targets: Any, at: Moment) -> Loss:
        options = self.config.barlow_twins
        projections = gathered(outputs, at.gather)
        correlation = barlow_twins_loss(projections, off_diagonal=options.off_diagonal)
        total = options.scale * correlation
        return Loss(total, {"total": total, "correlation": correlation})
