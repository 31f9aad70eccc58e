"""The interface of a pre-training method, and the online and target networks of BYOL.

The networks follow Grill et al., arXiv 2006.07733, §3.1, as MSBReg uses them.
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
    """Backbone and projector: images -> projections z'. An EMA of the online network, without gradient."""

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
    """Linear, norm, ReLU, Linear: the architecture of projector and predictor (BYOL, appendix C).

    The output is not normalized (A19), and the last layer has no bias (deepmind-research, ``networks.py``).
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
    """Initialize the online and the target network; the target starts as a copy (A12).

    The backbone has the weights of ``build_backbone(arch, seed=seed)``, its untrained twin.
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
    """EMA update of the parameters: ``xi <- decay * xi + (1 - decay) * theta`` (MSBReg §3.1; BYOL Eq. 1).

    BatchNorm statistics are not averaged: the target network computes its own, as in BYOL's code.
    """
    theta = dict(online.named_parameters())
    names, xi = zip(*target.named_parameters(), strict=True)
    torch._foreach_lerp_(list(xi), [theta[name] for name in names], 1 - decay)


# ---- Methods


Gather = Callable[[Tensor], Tensor]  # (N / world, ...) -> (N, ...), with gradient


class Method(abc.ABC):
    """A self-supervised method: its networks, its loss, and its update after each step.

    Attributes:
        trained: the network that the optimizer updates: images (B, 3, H, W) -> embeddings (B, D).
        view_by_view: whether the loss, given the targets, is a mean over views. Views are then processed
            one at a time, and memory holds the activations of a single view.
    """

    trained: nn.Module
    view_by_view: ClassVar[bool]

    @abc.abstractmethod
    def targets(
        self,
        views: list[Tensor],  # K of (B, 3, H, W), normalized, this process's images
        gather: Gather,
    ) -> Tensor | None:  # (K, N, D)
        """The targets for the embeddings, without gradient; None if the method has no targets."""

    @abc.abstractmethod
    def loss(
        self,
        embeddings: Tensor,  # (K, B, D), or (1, B, D) if ``view_by_view``
        targets: Tensor | None,  # (K, N, D)
        *,
        view: int,
        step: int,
        gather: Gather,
    ) -> Loss:
        """The loss of the global batch of N images; of the single view ``view`` if ``view_by_view``."""

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
        """Update the networks that the optimizer does not; ``step`` counts from 0."""

    @abc.abstractmethod
    def to(self, device: torch.device, *, synchronize: bool) -> None:
        """Move all networks to the device; with ``synchronize``, use SyncBatchNorm where available."""

    @abc.abstractmethod
    def train_mode(self) -> None:
        """Switch all networks to training mode."""

    @abc.abstractmethod
    def metrics(self) -> dict[str, float]:
        """Further values to log in the curve, such as the decay of the target network."""

    @abc.abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Everything that training changes, for the checkpoint.

        The entry ``online`` is the network to evaluate, with its backbone under ``backbone.*``, where
        ``load_backbone`` expects it. The entry ``target`` is its moving average, if there is one.
        """

    @abc.abstractmethod
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what ``state_dict`` returned.

        Raises:
            UserError: the state does not match; the message lists the differences.
        """


class WithTarget(Method):
    """Base of methods with a trained online network and a target network that is its moving average."""

    view_by_view = True

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
        self.decay_product = 1.0  # product of all decays so far, for Adam's bias correction

    @torch.no_grad()
    def targets(self, views: list[Tensor], gather: Gather) -> Tensor:
        """Projections of the target network."""
        return torch.stack([gather(z.float()) for z in [self.target(view) for view in views]])

    def backbone(self) -> ResNet:
        return self.online.backbone

    def project(self, images: Tensor) -> Tensor:
        return self.online.projector(embed(self.online.backbone, images))

    def after_step(self, step: int, steps: int) -> None:
        """Update the target network; the decay rises to 1 during training (MSBReg §3.1, BYOL §3.3)."""
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

    def metrics(self) -> dict[str, float]:
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
    """Initial decay of the target; with ``scale_with_batch``, scaled from batch 4096 (BYOL, appendix G)."""
    if config.target.scale_with_batch:
        return 1 - (1 - config.target.base_decay) * config.batch_size / 4096
    return config.target.base_decay


def step_noise(
    seed: int, step: int, images: int, dimensions: int, *, share: str
) -> Tensor:  # (N, D)
    """The Brownian noise of one step for the global batch, equal in all processes (MSBReg Eq. 4).

    Args:
        share: ``image`` draws one direction per image, ``batch`` one for all images.
    """
    entropy = np.random.SeedSequence([seed, step]).generate_state(1, np.uint64)[0]
    generator = torch.Generator().manual_seed(int(entropy >> 1))
    if share == "batch":
        return torch.randn(1, dimensions, generator=generator).expand(images, -1)
    return torch.randn(images, dimensions, generator=generator)
