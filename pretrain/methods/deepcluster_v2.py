"""DeepCluster-v2 (Caron et al., arXiv 2006.09882): predict the k-means cluster of an image's embedding."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from msbreg.backbones.resnet import normalize
from msbreg.run.errors import UserError
from msbreg.run.host_to_device import to_device
from msbreg.train.loop import Loss
from pretrain.methods.encoders import projected
from pretrain.methods.method import Gather, Moment, OneNetwork, Outputs, step_generator
from pretrain.objectives.clustering import (
    IGNORED,
    cluster_assignment_loss,
    spherical_kmeans,
)
from pretrain.recipe import Config
from pretrain.view_batches import ViewBatch


class DeepClusterV2(OneNetwork):
    """Before each epoch, the embeddings of the epoch before are clustered; all views predict the clusters.

    The memory has one embedding per image for each of the K full-size views; clustering ``i`` uses those of
    view ``i`` modulo K. Before the first epoch, it is filled by a pass over the images. The centroids serve
    as prototypes and are not trained. Images without an embedding, dropped with an incomplete batch, do not
    count. All processes hold the whole memory and find the same clusters.
    """

    writes_memory = True

    def __init__(self, config: Config) -> None:
        super().__init__(config, projected(config, bias=True))

    def allocate(self, images: int) -> None:
        options, dimensions = self.config.deepcluster_v2, self.config.head.out
        most = images // self.config.batch_size * self.config.batch_size
        if max(options.clusters) > most:
            raise UserError(
                f"deepcluster_v2.clusters is {list(options.clusters)}; expected at most the {most} images of "
                "an epoch. Set it with --deepcluster_v2.clusters"
            )
        self.memory["embeddings"] = torch.zeros(self.config.views, images, dimensions)
        for number, clusters in enumerate(options.clusters):
            self.memory[f"centroids{number}"] = torch.zeros(clusters, dimensions)
            self.memory[f"assignments{number}"] = torch.full((images,), IGNORED)

    @torch.no_grad()
    def prepare(self, batches: Iterable[ViewBatch], gather: Gather) -> None:
        device = self.memory["embeddings"].device
        self.train_mode()
        for batch in batches:
            views = [normalize(view, device) for view in batch.views[: self.config.views]]
            self._remember([gather(self.online(view).float()) for view in views], batch, gather)

    def loss(self, outputs: Sequence[Outputs], targets: Any, at: Moment) -> Loss:
        options = self.config.deepcluster_v2
        if at.step % at.per_epoch == 0:
            self._cluster(at.epoch)
        embeddings = [at.gather(z) for (z,) in outputs]  # K + V of (N, D)
        units = [F.normalize(z, dim=-1) for z in embeddings]
        positions = at.gather(to_device(at.images, units[0].device))
        losses = [
            cluster_assignment_loss(
                [unit @ self.memory[f"centroids{number}"].T for unit in units],
                self.memory[f"assignments{number}"][positions],
                temperature=options.temperature,
            )
            for number in range(len(options.clusters))
        ]
        total = torch.stack(losses).mean()
        self._store(units[: self.config.views], positions)
        return Loss(total, {"total": total})

    def _remember(self, embeddings: list[Tensor], batch: ViewBatch, gather: Gather) -> None:
        positions = gather(to_device(batch.images, embeddings[0].device))
        self._store([F.normalize(z, dim=-1) for z in embeddings], positions)

    @torch.no_grad()
    def _store(self, units: list[Tensor], positions: Tensor) -> None:
        self.memory["embeddings"][:, positions] = torch.stack(units).detach()

    def _cluster(self, epoch: int) -> None:
        generator = step_generator(self.config.seed, epoch)
        for number, clusters in enumerate(self.config.deepcluster_v2.clusters):
            memory = self.memory["embeddings"][number % self.config.views]
            present = memory.norm(dim=-1) > 0
            centroids, assignments = spherical_kmeans(
                memory[present],
                clusters=clusters,
                iterations=self.config.deepcluster_v2.iterations,
                generator=generator,
            )
            self.memory[f"centroids{number}"] = centroids
            self.memory[f"assignments{number}"][:] = IGNORED
            self.memory[f"assignments{number}"][present] = assignments
