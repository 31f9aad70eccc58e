"""SGD over the parameter groups of Detectron2's build_optimizer, and its gradient clipping.

Source: detectron2/solver/build.py at 02b5c4e2. The order of groups and of parameters in them is its own, so
that an optimizer's state means the same in both.
"""

import itertools
from typing import Any

import torch
from fvcore.common.config import CfgNode
from torch import nn

from msbreg.errors import UserError

NORMS = (
    nn.modules.batchnorm._BatchNorm,  # SyncBatchNorm among them; Detectron2's FrozenBN has no parameters
    nn.GroupNorm,
    nn.modules.instancenorm._InstanceNorm,
    nn.LayerNorm,
    nn.LocalResponseNorm,
)


def parameter_groups(config: CfgNode, model: nn.Module) -> list[dict[str, Any]]:
    """The trainable parameters, put together by learning rate and weight decay.

    Norm layers have WEIGHT_DECAY_NORM, biases BASE_LR x BIAS_LR_FACTOR and WEIGHT_DECAY_BIAS (None:
    WEIGHT_DECAY); a norm layer's bias is a bias first.
    """
    solver = config.SOLVER
    of_biases: dict[str, float] = {}
    if solver.BIAS_LR_FACTOR != 1.0:
        of_biases["lr"] = solver.BASE_LR * solver.BIAS_LR_FACTOR
    if solver.WEIGHT_DECAY_BIAS is not None:
        of_biases["weight_decay"] = solver.WEIGHT_DECAY_BIAS
    groups: dict[tuple[tuple[str, float], ...], list[nn.Parameter]] = {}
    seen: set[nn.Parameter] = set()
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad or parameter in seen:
                continue
            seen.add(parameter)
            options = {"lr": solver.BASE_LR}
            if isinstance(module, NORMS):
                options["weight_decay"] = solver.WEIGHT_DECAY_NORM
            if name == "bias":
                options |= of_biases
            groups.setdefault(tuple(options.items()), []).append(parameter)
    return [dict(options) | {"params": parameters} for options, parameters in groups.items()]


def build_optimizer(config: CfgNode, model: nn.Module) -> torch.optim.SGD:
    """SGD with SOLVER's momentum.

    Raises:
        UserError: nothing is left to train.
    """
    groups = parameter_groups(config, model)
    if not groups:
        raise UserError("no parameter of the detector is trainable; lower MODEL.BACKBONE.FREEZE_AT")
    solver = config.SOLVER
    return torch.optim.SGD(
        groups,
        lr=solver.BASE_LR,
        momentum=solver.MOMENTUM,
        nesterov=solver.NESTEROV,
        weight_decay=solver.WEIGHT_DECAY,
        foreach=True,
    )


def clip_gradients(config: CfgNode, optimizer: torch.optim.Optimizer) -> None:
    """Clip each parameter's gradient by itself, as SOLVER.CLIP_GRADIENTS asks; off by default.

    Raises:
        UserError: CLIP_TYPE is unknown.
    """
    clip = config.SOLVER.CLIP_GRADIENTS
    if not clip.ENABLED:
        return
    parameters = itertools.chain.from_iterable(g["params"] for g in optimizer.param_groups)
    for parameter in parameters:
        if clip.CLIP_TYPE == "value":
            nn.utils.clip_grad_value_(parameter, clip.CLIP_VALUE)
        elif clip.CLIP_TYPE == "norm":
            nn.utils.clip_grad_norm_(parameter, clip.CLIP_VALUE, clip.NORM_TYPE)
        else:
            raise UserError(
                f"SOLVER.CLIP_GRADIENTS.CLIP_TYPE is {clip.CLIP_TYPE!r}; expected value or norm"
            )
