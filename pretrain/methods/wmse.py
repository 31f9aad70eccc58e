"""W-MSE (Ermolov et al., arXiv 2007.06346): the distance between whitened embeddings of two views."""

from collections.abc import Sequence
from typing import Any

from msbreg.run.errors import UserError
from msbreg.train.loop import Loss
from pretrain.methods.method import Moment, OneNetwork, Outputs, gathered, step_generator
from pretrain.objectives.whitening import w_mse_loss
from pretrain.recipe import Config


class WMSE(OneNetwork):
    """Sub-batches are drawn from the whole batch, equally in all processes."""

    def __init__(self, config: Config) -> None:
        size, dimensions = config.wmse.size, config.head.out
        if size > config.batch_size or (size <= dimensions and config.wmse.epsilon == 0):
            raise UserError(
                f"wmse.size is {size}; expected at most the batch size, {config.batch_size}, and more than "
                f"head.out, {dimensions}, unless wmse.epsilon is positive. Set it with --wmse.size"
            )
        super().__init__(config)

    def loss(self, outputs: Sequence[Outputs], targets: Any, at: Moment) -> Loss:
        options = self.config.wmse
        total = w_mse_loss(
            gathered(outputs, at.gather),
            size=options.size,
            iterations=options.iterations,
            epsilon=options.epsilon,
            generator=step_generator(self.config.seed, at.step),
        )
        return Loss(total, {"total": total})
