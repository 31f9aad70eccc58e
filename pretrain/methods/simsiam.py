"""SimSiam (Chen and He, arXiv 2011.10566): predict the other view, without a target network."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from msbreg.backbones.resnet import build_backbone, embed
from msbreg.train.loop import Loss
from pretrain.methods.encoders import Online, predictor, projector, seeded
from pretrain.methods.method import Moment, OneNetwork, Outputs
from pretrain.objectives.redundancy import negative_cosine_loss
from pretrain.recipe import Config


class Siamese(Online):
    """Backbone, projector and predictor: images -> projections and predictions."""

    def forward(  # type: ignore[override]
        self,
        images: Tensor,  # (B, 3, H, W)
    ) -> tuple[Tensor, Tensor]:  # (B, D) and (B, D)
        projections = self.projector(embed(self.backbone, images))
        return projections, self.predictor(projections)


class SimSiam(OneNetwork):
    """Each prediction against the projections of the other views, which get no gradient.

    The predictor's last layer has a bias, as in the authors' code.
    """

    online: Siamese

    def __init__(self, config: Config) -> None:
        backbone = build_backbone(config.arch, seed=config.seed)
        with seeded(config.seed + 1):
            network = Siamese(backbone, projector(config, backbone), predictor(config, bias=True))
        super().__init__(config, network)

    def loss(self, outputs: Sequence[Outputs], targets: Any, at: Moment) -> Loss:
        projections = torch.stack([at.gather(z) for z, _ in outputs])  # (K, N, D)
        predictions = torch.stack([at.gather(p) for _, p in outputs])
        total = negative_cosine_loss(predictions, projections)
        return Loss(total, {"total": total})

    def fixed_rate(self) -> nn.Module | None:
        return self.online.predictor if self.config.simsiam.fixed_predictor_rate else None
