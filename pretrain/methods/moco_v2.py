"""MoCo v2 (Chen et al., arXiv 2003.04297): find the key of the other view among a queue of earlier keys."""

from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from msbreg.run import distributed
from msbreg.run.errors import UserError
from msbreg.train.loop import Loss
from pretrain.losses import other_views
from pretrain.methods.encoders import copied, projected
from pretrain.methods.method import Gather, Moment, Outputs, WithTarget, step_generator
from pretrain.objectives.contrast import enqueue, queue_contrast_loss
from pretrain.recipe import Config


class MoCoV2(WithTarget):
    """The first view is the query and the others are the keys, or each in turn if ``symmetric``.

    The queue holds keys of other batches, so the BatchNorm statistics of a batch could tell a query which key
    is of the same batch. The authors' remedy is here as well: with several processes and ``--sync_bn false``,
    most keys of a process's images are computed by other processes (MoCo, arXiv 1911.05722, section 3.3). A
    single process, and SyncBatchNorm, have no such protection.
    """

    def __init__(self, config: Config) -> None:
        options = config.moco_v2
        self.key_views = config.views - (0 if options.symmetric else 1)
        if options.queue < config.batch_size * self.key_views:
            raise UserError(
                f"moco_v2.queue is {options.queue}; expected at least the keys of a step, "
                f"{config.batch_size} x {self.key_views}. Set it with --moco_v2.queue"
            )
        online = projected(config, bias=True)
        super().__init__(config, (online, copied(online)))
        generator = step_generator(config.seed, 0)
        queue = torch.randn(options.queue, config.head.out, generator=generator)
        self.memory["queue"] = F.normalize(queue, dim=-1)  # (Q, D)
        self.keys = torch.empty(0)

    def online_views(self, views: int) -> range:
        return range(views if self.config.moco_v2.symmetric else 1)

    def target_views(self, views: int) -> range:
        return range(views - self.key_views, views)

    @torch.no_grad()
    def targets(self, views: Iterable[Tensor], gather: Gather) -> Tensor:  # (A, N, D)
        keys = [self._shuffled_keys(view, gather).float() for view in views]
        self.keys = F.normalize(torch.stack(keys), dim=-1)
        return self.keys

    def _shuffled_keys(self, view: Tensor, gather: Gather) -> Tensor:  # (N, D)
        """The keys in the order of the images, each computed among images of all processes.

        A process has consecutive images of the batch and computes every world-th key. Images are in random
        order, so that is as good as a random permutation.
        """
        world = distributed.world_size()
        if world == 1 or self.config.sync_bn:
            return gather(self.target(view))
        images = gather(view)[distributed.rank() :: world]
        keys = gather(self.target(images.contiguous(memory_format=torch.channels_last)))
        return keys.unflatten(0, (world, -1)).transpose(0, 1).flatten(0, 1)

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
