"""Method: what a way of pre-training adds to the loop; and BYOL's pair of networks, online and target.

Grill et al., arXiv 2006.07733, §3.1, as MSBReg uses it.
"""

import abc
import copy
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from msbreg.backbones.resnet import ResNet, build_backbone, embed
from msbreg.checkpoints.load import load_exactly
from msbreg.run import distributed
from msbreg.train.loop import Loss
from msbreg.train.optimizers import target_decay
from pretrain.recipe import Config

NORMS = ("bn", "ln", "none")


class Target(nn.Module):
    """Backbone and projector: images -> projections z'. Follows the online network, has no gradient."""

    def __init__(self, backbone: ResNet, projector: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.projector = projector

    def forward(
        self,
        images: Tensor,  # (B, 3, H, W)
    ) -> Tensor:  # (B, D)
        return self.projector(embed(self.backbone, images))


class Online(Target):
    """Backbone, projector and predictor: images -> predictions p = h(g(f(v)))."""

    def __init__(self, backbone: ResNet, projector: nn.Module, predictor: nn.Module) -> None:
        super().__init__(backbone, projector)
        self.predictor = predictor

    def forward(
        self,
        images: Tensor,  # (B, 3, H, W)
    ) -> Tensor:  # (B, D)
        return self.predictor(super().forward(images))


def head(inputs: int, hidden: int, outputs: int, norm: str) -> nn.Sequential:
    """Linear, norm, ReLU, Linear: the projector and the predictor (BYOL, appendix C).

    No norm on the output (A19), and no bias in the last layer (deepmind-research, ``networks.py``).
    """
    assert norm in NORMS, norm
    norms: dict[str, Callable[[int], nn.Module]] = {
        "bn": nn.BatchNorm1d,
        "ln": nn.LayerNorm,
        "none": lambda _: nn.Identity(),
    }
    return nn.Sequential(
        nn.Linear(inputs, hidden),
        norms[norm](hidden),
        nn.ReLU(inplace=True),
        nn.Linear(hidden, outputs, bias=False),
    )


def build_networks(
    arch: str, *, hidden: int, out: int, norm: str, seed: int
) -> tuple[Online, Target]:
    """Freshly initialized online and target networks; the target starts as a copy (A12).

    The backbone has the weights of ``build_backbone(arch, seed=seed)``: its untrained twin.
    """
    backbone = build_backbone(arch, seed=seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed + 1)
        projector = head(backbone.channels["c5"], hidden, out, norm)
        predictor = head(out, hidden, out, norm)
    online = Online(backbone, projector, predictor)
    target = Target(copy.deepcopy(backbone), copy.deepcopy(projector))
    return online, target.requires_grad_(False)


@torch.no_grad()
def update_target(target: Target, online: Online, decay: float) -> None:
    """``xi <- decay * xi + (1 - decay) * theta`` for the parameters (MSBReg §3.1; BYOL Eq. 1).

    BatchNorm statistics are not averaged: the target computes its own, as in BYOL's code.
    """
    followed = dict(online.named_parameters())
    names, slow = zip(*target.named_parameters(), strict=True)
    torch._foreach_lerp_(list(slow), [followed[name] for name in names], 1 - decay)


# ---- Method: what a way of pre-training adds to the loop, and the base of those with a targ


Gather = Callable[[Tensor], Tensor]  # (N / world, ...) -> (N, ...), with gradient


class Method(abc.ABC):
    """A self-supervised method: its networks, its loss, and what follows a step.

    Attributes:
        trained: the network that the optimizer changes: images (B, 3, H, W) -> embeddings (B, D).
        streams: given the targets, the loss is a mean over views, so that views can pass one by one and
            memory holds one of them.
    """

    trained: nn.Module
    streams: ClassVar[bool]

    @abc.abstractmethod
    def targets(
        self,
        views: list[Tensor],  # K of (B, 3, H, W), normalized, this process's images
        gather: Gather,
    ) -> Tensor | None:  # (K, N, D)
        """What the embeddings are compared with, without gradient; None for methods without targets."""

    @abc.abstractmethod
    def loss(
        self,
        embeddings: Tensor,  # (K, B, D), or (1, B, D) of one view where ``streams``
        targets: Tensor | None,  # (K, N, D)
        *,
        view: int,
        step: int,
        gather: Gather,
    ) -> Loss:
        """The loss of the global batch of N images; of view ``view`` alone where ``streams``."""

    @abc.abstractmethod
    def backbone(self) -> ResNet:
        """The backbone of the network that is evaluated."""

    @abc.abstractmethod
    def project(
        self,
        images: Tensor,  # (B, 3, H, W), normalized
    ) -> Tensor:  # (B, D)
        """The embeddings in which a collapse shows."""

    @abc.abstractmethod
    def after_step(self, step: int, steps: int) -> None:
        """Update whatever follows the trained network; ``step`` counts from 0."""

    @abc.abstractmethod
    def to(self, device: torch.device, *, synchronize: bool) -> None:
        """Move all networks to the device, BatchNorm over all processes if asked and possible."""

    @abc.abstractmethod
    def train_mode(self) -> None:
        """Put all networks in training mode."""

    @abc.abstractmethod
    def measured(self) -> dict[str, float]:
        """Numbers for the curve that are no losses, such as the decay of a target network."""

    @abc.abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Everything that changes, for a checkpoint.

        The network to evaluate is under ``online``, its backbone under ``backbone.*``: this is where
        ``load_backbone`` looks. A network that follows it, if there is one, is under ``target``.
        """

    @abc.abstractmethod
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put everything back; UserError with the difference where it does not fit."""


class WithTarget(Method):
    """BYOL's pair of networks: the online one is trained, the target one follows it by a moving average."""

    streams = True

    def __init__(self, config: Config) -> None:
        self.config = config
        self.online, self.target = build_networks(
            config.arch,
            hidden=config.head.hidden,
            out=config.head.out,
            norm=config.head_norm,
            seed=config.seed,
        )
        self.trained: Online = self.online
        self.decay = 1.0
        self.decay_product = 1.0  # of all decays so far, for Adam's bias correction

    @torch.no_grad()
    def targets(self, views: list[Tensor], gather: Gather) -> Tensor:
        """Projections of the target network."""
        return torch.stack([gather(z.float()) for z in [self.target(view) for view in views]])

    def backbone(self) -> ResNet:
        return self.online.backbone

    def project(self, images: Tensor) -> Tensor:
        return self.online.projector(embed(self.online.backbone, images))

    def after_step(self, step: int, steps: int) -> None:
        """``xi <- decay * xi + (1 - decay) * theta``; the decay rises to 1 (MSBReg §3.1, BYOL §3.3)."""
        self.decay = target_decay(step, steps, base=base_decay(self.config))
        if self.config.target.bias_correction == "adam":
            self.decay_product *= self.decay
            self.decay = 1 - (1 - self.decay) / (1 - self.decay_product)
        update_target(self.target, self.online, self.decay)

    def to(self, device: torch.device, *, synchronize: bool) -> None:
        for network in (self.online, self.target):
            if synchronize:
                distributed.synchronize_batch_norm(network, device)
            network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def train_mode(self) -> None:
        self.online.train()
        self.target.train()

    def measured(self) -> dict[str, float]:
        return {"target_decay": self.decay}

    def state_dict(self) -> dict[str, Any]:
        return {
            "online": self.online.state_dict(),
            "target": self.target.state_dict(),
            "decay_product": self.decay_product,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        load_exactly(self.online, state["online"], "online")
        load_exactly(self.target, state["target"], "target")
        self.decay_product = state["decay_product"]


def base_decay(config: Config) -> float:
    """The target's decay at the start, rescaled from batch 4096 on request (BYOL, appendix G)."""
    if config.target.scale_with_batch:
        return 1 - (1 - config.target.base_decay) * config.batch_size / 4096
    return config.target.base_decay


def step_noise(
    seed: int, step: int, images: int, dimensions: int, *, share: str
) -> Tensor:  # (N, D)
    """The Brownian noise of one step, of the whole batch, the same in every process (MSBReg Eq. 4)."""

    entropy = np.random.SeedSequence([seed, step]).generate_state(1, np.uint64)[0]
    generator = torch.Generator().manual_seed(int(entropy >> 1))
    if share == "batch":
        return torch.randn(1, dimensions, generator=generator).expand(images, -1)
    return torch.randn(images, dimensions, generator=generator)
