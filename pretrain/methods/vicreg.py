"""VICReg (Bardes et al., arXiv 2105.04906): variance, invariance and covariance of projections."""

from collections.abc import Sequence
from typing import Any

from msbreg.train.loop import Loss
from pretrain.methods.method import Moment, OneNetwork, Outputs, gathered
from pretrain.objectives.redundancy import vicreg_loss, vicreg_terms


class VICReg(OneNetwork):
    """The three terms over the whole batch."""

    def loss(self, outputs: Sequence[Outputs], targets: Any, at: Moment) -> Loss:
        options = self.config.vicreg
        terms = vicreg_terms(gathered(outputs, at.gather))
        total = vicreg_loss(
            terms,
            invariance=options.invariance,
            variance=options.variance,
            covariance=options.covariance,
        )
        return Loss(total, {"total": total, **terms._asdict()})
