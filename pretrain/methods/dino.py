"""DINO (Caron et al., arXiv 2104.14294): match the centered and sharpened output of a momentum teacher."""

import itertools
from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from msbreg.backbones.resnet import build_backbone
from msbreg.train.loop import Loss
from pretrain.methods.encoders import Target, copied, seeded
from pretrain.methods.method import Gather, Moment, Outputs, WithTarget
from pretrain.objectives.distillation import (
    self_distillation_loss,
    teacher_temperature,
    updated_center,
)
from pretrain.objectives.precision import full_precision
from pretrain.recipe import Config


class Head(nn.Module):
    """Linear layers with GELU to a bottleneck, L2 normalization, and a last layer with unit weights.

    No BatchNorm, and a last layer that is weight-normalized with its length fixed at 1: the defaults of the
    authors' code.
    """

    def __init__(self, inputs: int, config: Config) -> None:
        super().__init__()
        widths = [inputs] + [config.head.hidden] * (config.head.layers - 1)
        modules: list[nn.Module] = []
        for before, after in itertools.pairwise(widths):
            modules += [nn.Linear(before, after), nn.GELU()]
        self.layers = nn.Sequential(*modules, nn.Linear(widths[-1], config.dino.bottleneck))
        for module in self.layers:
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
        self.last = nn.Linear(config.dino.bottleneck, config.dino.prototypes, bias=False)

    def forward(
        self,
        features: Tensor,  # (B, C)
    ) -> Tensor:  # (B, D), the bottleneck
        return self.layers(features)

    def scores(
        self,
        bottleneck: Tensor,  # (B, D)
    ) -> Tensor:  # (B, P), in [-1, 1]
        """The output of the head."""
        return cosines(bottleneck, self.last.weight)


@full_precision
def cosines(
    embeddings: Tensor,  # (B, D)
    prototypes: Tensor,  # (P, D)
) -> Tensor:  # (B, P)
    return F.normalize(embeddings, dim=-1) @ F.normalize(prototypes, dim=-1).T


class DINO(WithTarget):
    """Every view of the student against the K full-size views of the teacher, except itself.

    The loss is a mean over images, so each process computes that of its own images; the center is the mean
    over all. The teacher is evaluated. Networks return the bottleneck, at which ``--add`` and the monitor
    look: scores hardly vary by design.
    """

    view_by_view = False
    evaluated = "target"
    target: Target

    def __init__(self, config: Config) -> None:
        backbone = build_backbone(config.arch, seed=config.seed)
        with seeded(config.seed + 1):
            student = Target(backbone, Head(backbone.channels["c5"], config))
        super().__init__(config, (student, copied(student)))
        self.memory["center"] = torch.zeros(config.dino.prototypes)
        self.means = torch.empty(0)

    def target_views(self, views: int) -> range:
        return range(self.config.views)

    @torch.no_grad()
    def targets(self, views: Iterable[Tensor], gather: Gather) -> list[Tensor]:  # K of (B, P)
        teacher = [_head(self.target).scores(self.target(view)) for view in views]
        self.means = gather(torch.cat(teacher).mean(0, keepdim=True))  # (processes, P)
        return teacher

    def loss(self, outputs: Sequence[Outputs], targets: list[Tensor], at: Moment) -> Loss:
        options = self.config.dino
        temperature = teacher_temperature(
            at.epoch,
            start=options.teacher_temperature[0],
            final=options.teacher_temperature[1],
            warmup_epochs=round(options.warmup_epochs),
        )
        total = self_distillation_loss(
            [_head(self.online).scores(bottleneck) for (bottleneck,) in outputs],
            targets,
            self.memory["center"],
            student_temperature=options.student_temperature,
            teacher_temperature=temperature,
        )
        return Loss(total, {"total": total})

    def before_update(self, step: int, per_epoch: int) -> None:
        """Clip the gradient of each tensor; keep the last layer fixed in the first epochs."""
        options = self.config.dino
        for parameter in self.online.parameters():
            if parameter.grad is not None and options.clip > 0:
                scale = options.clip / (parameter.grad.norm() + 1e-6)
                parameter.grad.mul_(scale.clamp(max=1))
        last = self.online.get_submodule("projector.last").weight
        if step < options.freeze_epochs * per_epoch:
            last.grad = None

    def after_step(self, step: int, steps: int) -> None:
        super().after_step(step, steps)
        self.memory["center"] = updated_center(
            self.memory["center"], [self.means], momentum=self.config.dino.center_momentum
        )


def _head(network: Target) -> Head:
    assert isinstance(network.projector, Head)
    return network.projector
