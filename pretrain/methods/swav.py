"""SwAV (Caron et al., arXiv 2006.09882): predict the cluster assignment of another view."""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from msbreg.run.errors import UserError
from msbreg.train.loop import Loss
from pretrain.methods.encoders import Target, projected, seeded
from pretrain.methods.method import Moment, OneNetwork, Outputs
from pretrain.objectives.clustering import sinkhorn_codes, swapped_prediction_loss
from pretrain.recipe import Config


class WithPrototypes(Target):
    """Backbone and projector: images -> projections; with the prototypes that the loss compares them with."""

    def __init__(self, encoder: Target, prototypes: Tensor) -> None:
        super().__init__(encoder.backbone, encoder.projector)
        self.prototypes = nn.Parameter(F.normalize(prototypes, dim=-1))  # (P, D)


class SwAV(OneNetwork):
    """The K full-size views get codes by Sinkhorn-Knopp over the whole batch; all views predict them.

    The prototypes have unit length after every step, and are not trained in the first epochs. The queue holds
    earlier embeddings of the views with codes, and is used as soon as it is full.
    """

    online: WithPrototypes

    def __init__(self, config: Config) -> None:
        options = config.swav
        if 0 < options.queue < config.batch_size:
            raise UserError(
                f"swav.queue is {options.queue}; expected 0 or at least the batch size, "
                f"{config.batch_size}. Set it with --swav.queue"
            )
        with seeded(config.seed + 2):
            prototypes = torch.randn(options.prototypes, config.head.out)
        super().__init__(config, WithPrototypes(projected(config, bias=True), prototypes))
        if options.queue:
            self.memory["queue"] = torch.zeros(config.views, options.queue, config.head.out)
        self.embeddings = torch.empty(0)  # (K, N, D) of this step, for the queue
        self.queueing = False

    def loss(self, outputs: Sequence[Outputs], targets: Any, at: Moment) -> Loss:
        config, options = self.config, self.config.swav
        units = [F.normalize(at.gather(z), dim=-1) for (z,) in outputs]  # K + V of (N, D)
        scores = [unit @ self.online.prototypes.T for unit in units]
        self.embeddings = torch.stack(units[: config.views]).detach()
        steps = at.step - math.ceil(options.queue_from_epoch * at.per_epoch)
        self.queueing = options.queue > 0 and steps >= 0
        full = self.queueing and steps * config.batch_size >= options.queue
        codes = [self._codes(view, scores[view].detach(), full) for view in range(config.views)]
        total = swapped_prediction_loss(scores, codes, temperature=options.temperature)
        return Loss(total, {"total": total})

    def _codes(self, view: int, scores: Tensor, with_queue: bool) -> Tensor:  # (N, P)
        """The codes of a view, assigned together with the queue of that view."""
        options, joined = self.config.swav, scores
        if with_queue:
            earlier = self.memory["queue"][view] @ self.online.prototypes.detach().T
            joined = torch.cat([scores, earlier])
        codes = sinkhorn_codes(joined, epsilon=options.epsilon, iterations=options.iterations)
        return codes[: len(scores)]

    def before_update(self, step: int, per_epoch: int) -> None:
        """Keep the prototypes fixed in the first epochs."""
        if step < self.config.swav.freeze_epochs * per_epoch:
            # Not 0, which would leave weight decay and momentum.
            self.online.prototypes.grad = None

    @torch.no_grad()
    def after_step(self, step: int, steps: int) -> None:
        self.online.prototypes.copy_(F.normalize(self.online.prototypes, dim=-1))
        if self.queueing:
            both = torch.cat([self.embeddings, self.memory["queue"]], dim=1)
            self.memory["queue"] = both[:, : self.config.swav.queue].contiguous()
