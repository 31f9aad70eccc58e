"""SGD, its learning-rate schedule and gradient clipping, equal to Detectron2's.

Schedule: detectron2/solver/build.py (build_lr_scheduler) and lr_scheduler.py at 02b5c4e2, composed of
fvcore's schedulers as they do. These take the fraction of the training that is done, not the iteration,
which rounds differently.

Optimizer: build_optimizer in detectron2/solver/build.py at 02b5c4e2. Groups, and parameters within a
group, have the same order, so that an optimizer's state dict is interchangeable.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from fvcore.common.config import CfgNode
from fvcore.common.param_scheduler import (
    CompositeParamScheduler,
    ConstantParamScheduler,
    CosineParamScheduler,
    LinearParamScheduler,
    MultiStepParamScheduler,
    ParamScheduler,
    StepWithFixedGammaParamScheduler,
)
from torch import nn

from msbreg.run.errors import UserError

# ---- Learning-rate schedule


Multiplier = Callable[[int], float]
"""Iteration (from 0) -> factor on every group's base learning rate."""

NAMES = ("WarmupMultiStepLR", "WarmupCosineLR", "WarmupStepWithFixedGammaLR")
WARMUPS = ("linear", "constant")


def learning_rate_multiplier(config: CfgNode) -> Multiplier:
    """The schedule of SOLVER with its warm-up, for iterations 0 to MAX_ITER - 1.

    Raises:
        UserError: the schedule or the warm-up is unknown, or its settings are invalid.
    """
    solver = config.SOLVER
    _check(solver)
    whole = _schedule(solver)
    # The warm-up ends at the schedule's value at that time, which is below 1 after a long warm-up.
    length = min(solver.WARMUP_ITERS / solver.MAX_ITER, 1.0)
    end = whole(0.0) if solver.RESCALE_INTERVAL else whole(length)
    start = solver.WARMUP_FACTOR * whole(0.0)
    if solver.WARMUP_METHOD == "constant":
        warmup: ParamScheduler = ConstantParamScheduler(start)
    else:
        warmup = LinearParamScheduler(start, end)
    combined = CompositeParamScheduler(
        [warmup, whole],
        interval_scaling=["rescaled", "rescaled" if solver.RESCALE_INTERVAL else "fixed"],
        lengths=[length, 1 - length],
    )
    return lambda iteration: combined(iteration / solver.MAX_ITER)


def _schedule(solver: CfgNode) -> ParamScheduler:
    """The schedule without its warm-up."""
    if solver.LR_SCHEDULER_NAME == "WarmupCosineLR":
        return CosineParamScheduler(1, solver.BASE_LR_END / solver.BASE_LR)
    if solver.LR_SCHEDULER_NAME == "WarmupStepWithFixedGammaLR":
        return StepWithFixedGammaParamScheduler(
            base_value=1.0,
            gamma=solver.GAMMA,
            num_decays=solver.NUM_DECAYS,
            num_updates=solver.MAX_ITER,
        )
    steps = reached_steps(solver)
    return MultiStepParamScheduler(
        values=[solver.GAMMA**k for k in range(len(steps) + 1)],
        milestones=steps,
        num_updates=solver.MAX_ITER,
    )


def reached_steps(solver: CfgNode) -> list[int]:
    """The STEPS before MAX_ITER; Detectron2 ignores the others as well, with a warning."""
    return [step for step in solver.STEPS if step < solver.MAX_ITER]


def unreached_steps(solver: CfgNode) -> list[int]:
    """The STEPS at MAX_ITER or after it."""
    return [step for step in solver.STEPS if step >= solver.MAX_ITER]


def _check(solver: CfgNode) -> None:
    if solver.LR_SCHEDULER_NAME not in NAMES:
        raise UserError(
            f"SOLVER.LR_SCHEDULER_NAME is {solver.LR_SCHEDULER_NAME!r}; expected {', '.join(NAMES)}"
        )
    if solver.WARMUP_METHOD not in WARMUPS:
        raise UserError(
            f"SOLVER.WARMUP_METHOD is {solver.WARMUP_METHOD!r}; expected {' or '.join(WARMUPS)}"
        )
    if solver.MAX_ITER < 1 or solver.WARMUP_ITERS < 0 or solver.BASE_LR <= 0:
        raise UserError(
            f"SOLVER.MAX_ITER is {solver.MAX_ITER}, WARMUP_ITERS {solver.WARMUP_ITERS} and BASE_LR "
            f"{solver.BASE_LR}; expected at least 1, at least 0, and more than 0"
        )
    steps = list(solver.STEPS)
    if steps != sorted(set(steps)) or any(step < 1 for step in steps):
        raise UserError(f"SOLVER.STEPS is {steps}; expected iterations in ascending order, from 1")
    name, reached = solver.LR_SCHEDULER_NAME, reached_steps(solver)
    if name == "WarmupMultiStepLR" and len(reached) >= solver.MAX_ITER:
        raise UserError(
            f"SOLVER.MAX_ITER is {solver.MAX_ITER}: too few iterations for STEPS {steps}"
        )
    if name == "WarmupStepWithFixedGammaLR" and solver.WARMUP_ITERS >= solver.MAX_ITER:
        raise UserError(
            f"SOLVER.WARMUP_ITERS is {solver.WARMUP_ITERS}; expected less than MAX_ITER "
            f"({solver.MAX_ITER}) with WarmupStepWithFixedGammaLR"
        )
    if name == "WarmupCosineLR" and not 0 <= solver.BASE_LR_END <= solver.BASE_LR:
        raise UserError(
            f"SOLVER.BASE_LR_END is {solver.BASE_LR_END}; expected 0 to BASE_LR ({solver.BASE_LR})"
        )


# ---- What an engine gives to the training loop


@dataclass
class Solver:
    """An optimizer with its learning-rate schedule and gradient clipping.

    Attributes:
        optimizer: over the trainable parameters.
        rates: iteration (from 0) -> learning rate of each of the optimizer's groups.
        clip: called between the backward pass and the step.
    """

    optimizer: torch.optim.Optimizer
    rates: Callable[[int], list[float]]
    clip: Callable[[], None] = lambda: None


def check_schedule(config: CfgNode) -> None:
    """Check the settings of SOLVER before anything is read or written.

    Raises:
        UserError: the schedule is invalid, or float16 is enabled.
    """
    learning_rate_multiplier(config)
    if config.SOLVER.AMP.ENABLED:
        raise UserError(
            "SOLVER.AMP.ENABLED means float16, which is not implemented; give "
            "SOLVER.AMP.ENABLED False, and --amp bf16 for bfloat16"
        )


# ---- Optimizer and gradient clipping


NORMS = (
    nn.modules.batchnorm._BatchNorm,  # includes SyncBatchNorm; Detectron2's FrozenBN has no parameters
    nn.GroupNorm,
    nn.modules.instancenorm._InstanceNorm,
    nn.LayerNorm,
    nn.LocalResponseNorm,
)


def parameter_groups(config: CfgNode, model: nn.Module) -> list[dict[str, Any]]:
    """The trainable parameters, grouped by learning rate and weight decay.

    Norm layers use WEIGHT_DECAY_NORM; biases use BASE_LR x BIAS_LR_FACTOR and WEIGHT_DECAY_BIAS (None:
    WEIGHT_DECAY). A norm layer's bias follows the rule of biases.
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
    """SGD with the settings of SOLVER.

    Raises:
        UserError: no parameter is trainable.
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
    """Clip each parameter's gradient separately, as SOLVER.CLIP_GRADIENTS says; off by default.

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
