"""MoCo v3 (Chen et al., arXiv 2104.02057): find the key of another view among the keys of the batch."""

from collections.abc import Sequence

import torch
from torch import Tensor

from msbreg.train.loop import Loss
from pretrain.losses import other_views
from pretrain.methods.encoders import build_networks
from pretrain.methods.method import Moment, Outputs, WithTarget
from pretrain.objectives.contrast import batch_contrast_loss
from pretrain.recipe import Config


class MoCoV3(WithTarget):
    """Alg. 1 with BYOL's networks; its predictor also ends with BatchNorm, like its projector.

    The paper sums both directions of two views. With more views, the mean over ordered pairs is doubled.
    """

    def __init__(self, config: Config) -> None:
        super().__init__(config, build_networks(config, output_norm=config.head.output_norm))

    def loss(
        self,
        outputs: Sequence[Outputs],  # of one view: predictions (B, D)
        targets: Tensor,  # (K, N, D)
        at: Moment,
    ) -> Loss:
        predictions = at.gather(outputs[0][0])
        losses = [
            batch_contrast_loss(predictions, keys, temperature=self.config.moco_v3.temperature)
            for keys in other_views(targets, at.view)
        ]
        total = 2 * torch.stack(losses).mean()
        return Loss(total, {"total": total})
