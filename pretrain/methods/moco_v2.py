"""MoCo v2 (Chen et al., arXiv 2003.04297): find the key of the other view among a queue of earlier keys."""

from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from msbreg.run.errors import UserError
from msbreg.train.loop import Loss
from pretrain.losses import other_views
from pretrain.methods.encoders import copied, projected
from pretrain.methods.method import Gather, Moment, Outputs, WithTarget, step_generator
from pretrain.objectives.contrast import enqueue, queue_contrast_loss
from pretrain.recipe import Config


class MoCoV2(WithTarget):
    """The first view is the query and the others are the keys, or each in turn if ``symmetric``.

    The authors shuffle the images over GPUs, so that BatchNorm statistics of queries and keys differ. Here
    BatchNorm is synchronized, which has the same purpose and makes the result independent of the number of
    processes.
    """

    def __init__(self, config: Config) -> None:
        options = config.moco_v2
        self.key_views = config.views - (0 if options.symmetric else 1)
        if options.queue < config.batch_size * self.key_views:
            raise UserError(
                f"moco_v2.queue is {options.queue}; expected at least the keys of a step, "
                f"{config.batch_size} x {self.key_views}. Set it with --moco_v2.queue"
            )
        online = projected(config)
        super().__init__(config, (online, copied(online)))
        generator = step_generator(config.seed, 0)
        queue = torch.randn(options.queue, config.head.out, generator=generator)
        self.memory["queue"] = F.normalize(queue, dim=-1)  # (Q, D)
        self.keys = torch.empty(0)

    def online_views(self, views: int) -> range:
        return range(views if self.config.moco_v2.symmetric else 1)

    def target_views(self, views: int) -> range:
        return range(views - self.key_views, views)

    def targets(self, views: Iterable[Tensor], gather: Gather) -> Tensor:  # (A, N, D)
        self.keys = F.normalize(super().targets(views, gather), dim=-1)
        return self.keys

    def loss(
        self,
        outputs: Sequence[Outputs],  # of one view: queries (B, D)
        targets: Tensor,  # (A, N, D)
        at: Moment,
    ) -> Loss:
        options = self.config.moco_v2
        queries = at.gather(outputs[0][0])
        keys = other_views(targets, at.view) if options.symmetric else targets
        losses = [
            queue_contrast_loss(queries, one, self.memory["queue"], temperature=options.temperature)
            for one in keys
        ]
        total = torch.stack(losses).mean()
        return Loss(total, {"total": total})

    def after_step(self, step: int, steps: int) -> None:
        super().after_step(step, steps)
        keys, queue = self.keys.flatten(0, 1), self.memory["queue"]  # (A N, D), (Q, D)
        self.memory["queue"], _ = enqueue(queue, step * len(keys) % len(queue), keys)
