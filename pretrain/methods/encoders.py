"""The networks of the methods: a backbone with a projector, and a predictor or prototypes behind it."""

import contextlib
import copy
import itertools
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from msbreg.backbones.resnet import ResNet, build_backbone, embed
from pretrain.recipe import Config

NORMS: dict[str, Callable[[int], nn.Module]] = {
    "bn": nn.BatchNorm1d,
    "ln": nn.LayerNorm,
    "none": lambda _: nn.Identity(),
}


class Target(nn.Module):
    """Backbone and projector: images -> projections z."""

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


def head(
    inputs: int,
    hidden: int,
    outputs: int,
    norm: str,
    *,
    layers: int = 2,
    output_norm: bool = False,
    bias: bool = False,
) -> nn.Sequential:
    """Linear, norm, ReLU, Linear: the architecture of projector and predictor (BYOL, appendix C).

    By default the output is not normalized (A19), and the last layer has no bias (deepmind-research,
    ``networks.py``).

    Args:
        layers: number of linear layers; all but the last are followed by norm and ReLU.
        output_norm: whether BatchNorm without affine parameters follows.
        bias: whether the last layer has a bias.
    """
    assert norm in NORMS, norm
    widths = [inputs] + [hidden] * (layers - 1)
    modules: list[nn.Module] = []
    for before, after in itertools.pairwise(widths):
        modules += [nn.Linear(before, after), NORMS[norm](after), nn.ReLU(inplace=True)]
    modules.append(nn.Linear(widths[-1], outputs, bias=bias))
    if output_norm:
        modules.append(nn.BatchNorm1d(outputs, affine=False))
    return nn.Sequential(*modules)


def projected(config: Config, *, bias: bool = False) -> Target:
    """A projector on a backbone with the weights of the untrained twin, ``build_backbone(arch, seed)``."""
    backbone = build_backbone(config.arch, seed=config.seed)
    with seeded(config.seed + 1):
        return Target(backbone, projector(config, backbone, bias=bias))


def projector(config: Config, backbone: ResNet, *, bias: bool = False) -> nn.Sequential:
    """The projector that the settings describe; the authors of a method decide on the ``bias`` at its end."""
    options = config.head
    return head(
        backbone.channels["c5"],
        options.hidden,
        options.out,
        config.head_norm,
        layers=options.layers,
        output_norm=options.output_norm,
        bias=bias,
    )


def predictor(config: Config, *, output_norm: bool = False, bias: bool = False) -> nn.Sequential:
    """The predictor that the settings describe; always of two layers."""
    out, hidden = config.head.out, config.head.predictor_hidden or config.head.hidden
    return head(out, hidden, out, config.head_norm, output_norm=output_norm, bias=bias)


def build_networks(config: Config, *, output_norm: bool = False) -> tuple[Online, Target]:
    """Initialize BYOL's online and target network; the target starts as a copy (A12).

    Args:
        output_norm: whether the predictor also ends with BatchNorm.
    """
    backbone = build_backbone(config.arch, seed=config.seed)
    with seeded(config.seed + 1):
        project = projector(config, backbone)
        predict = predictor(config, output_norm=output_norm)
    return Online(backbone, project, predict), copied(Target(backbone, project))


def copied(network: Target) -> Target:
    """A copy without gradient."""
    return copy.deepcopy(network).requires_grad_(False)


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed PyTorch's CPU generator inside the context; restore it on exit."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


@torch.no_grad()
def update_target(target: Target, online: Target, decay: float) -> None:
    """EMA update of the parameters: ``xi <- decay * xi + (1 - decay) * theta`` (MSBReg §3.1; BYOL Eq. 1).

    BatchNorm statistics are not averaged: the target network computes its own, as in BYOL's code.
    """
    theta = dict(online.named_parameters())
    names, xi = zip(*target.named_parameters(), strict=True)
    torch._foreach_lerp_(list(xi), [theta[name] for name in names], 1 - decay)
