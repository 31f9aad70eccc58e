"""The learning rate of each iteration, value by value as Detectron2's scheduler has it.

Source: detectron2/solver/build.py (build_lr_scheduler) and lr_scheduler.py at 02b5c4e2, which put fvcore's
schedulers together; so is it done here. They count in parts of the whole, not in iterations: the
rounding is part of the value.
"""

from collections.abc import Callable

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

from msbreg.errors import UserError

Multiplier = Callable[[int], float]
"""Iteration, from 0 -> what every group's base learning rate is multiplied by."""

NAMES = ("WarmupMultiStepLR", "WarmupCosineLR", "WarmupStepWithFixedGammaLR")
WARMUPS = ("linear", "constant")


def learning_rate_multiplier(config: CfgNode) -> Multiplier:
    """SOLVER's schedule with its warm-up, from 0 to MAX_ITER - 1.

    Raises:
        UserError: the schedule or the warm-up is unknown, or its numbers make none.
    """
    solver = config.SOLVER
    _check(solver)
    whole = _schedule(solver)
    # The warm-up ends where the schedule then is, which a long one makes lower than its start.
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
    """What is left of the schedule without its warm-up."""
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
    """The STEPS that come before the end; Detectron2 leaves the others out, too, with a warning."""
    return [step for step in solver.STEPS if step < solver.MAX_ITER]


def unreached_steps(solver: CfgNode) -> list[int]:
    """The STEPS at the end or after it."""
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
