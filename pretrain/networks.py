"""The online and the target branch of BYOL (Grill et al., arXiv 2006.07733, §3.1), as MSBReg uses it."""

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from msbreg.backbones.resnet import ResNet, build_backbone, embed

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
