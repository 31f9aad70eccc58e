"""The torchvision engine: the networks of transfer/detectors/rcnn with Detectron2's solver."""

import torchvision
from fvcore.common.config import CfgNode
from torch import nn

from transfer.detectors.rcnn import build_model
from transfer.detectors.solver import (
    Solver,
    build_optimizer,
    clip_gradients,
    learning_rate_multiplier,
)


def version() -> str:
    """Version of torchvision, such as ``0.29.0``."""
    return torchvision.__version__


def build_detector(config: CfgNode) -> nn.Module:
    """A freshly initialized detector on the CPU; see ``rcnn.build_model``."""
    return build_model(config)


def build_solver(config: CfgNode, model: nn.Module) -> Solver:
    """SGD and its schedule, equal to Detectron2's build_optimizer and build_lr_scheduler."""
    optimizer = build_optimizer(config, model)
    multiplier = learning_rate_multiplier(config)
    bases = [group["lr"] for group in optimizer.param_groups]
    return Solver(
        optimizer,
        rates=lambda iteration: [base * multiplier(iteration) for base in bases],
        clip=lambda: clip_gradients(config, optimizer),
    )
