"""DBN and Shuffled-DBN (Hua et al., arXiv 2105.00470): decorrelated embeddings of two views agree."""

from collections.abc import Sequence
from typing import Any

import torch

from msbreg.run.errors import UserError
from msbreg.train.loop import Loss
from pretrain.methods.method import Moment, OneNetwork, Outputs, gathered, step_generator
from pretrain.objectives.whitening import decorrelation_loss
from pretrain.recipe import Config


class DBN(OneNetwork):
    """Projections are whitened in groups of dimensions over the whole batch; there is no predictor."""

    def __init__(self, config: Config) -> None:
        if config.head.out % config.dbn.group:
            raise UserError(
                f"dbn.group is {config.dbn.group}; expected a divisor of head.out, {config.head.out}. Set it "
                "with --dbn.group"
            )
        if config.dbn.epsilon == 0 and config.batch_size <= config.dbn.group:
            raise UserError(
                f"dbn.epsilon is 0; expected more than 0, because the covariance of {config.batch_size} "
                f"images in groups of {config.dbn.group} dimensions has no inverse. Set it with --dbn.epsilon"
            )
        super().__init__(config)

    def loss(self, outputs: Sequence[Outputs], targets: Any, at: Moment) -> Loss:
        config, options = self.config, self.config.dbn
        projections = gathered(outputs, at.gather)
        shuffles = None
        if options.shuffle:
            generator = step_generator(config.seed, at.step)
            orders = [torch.randperm(config.head.out, generator=generator) for _ in outputs]
            shuffles = torch.stack(orders)
        total = decorrelation_loss(
            projections,
            groups=config.head.out // options.group,
            epsilon=options.epsilon,
            shuffles=shuffles,
        )
        return Loss(total, {"total": total})
