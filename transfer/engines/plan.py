"""The numbers that a training goes by, whatever the engine."""

from dataclasses import dataclass

from fvcore.common.config import CfgNode

from msbreg.errors import UserError
from transfer.engines.schedule import learning_rate_multiplier


@dataclass(frozen=True)
class Plan:
    """The numbers that the loop goes by.

    Attributes:
        iterations: steps in all.
        accumulate: parts in which a process passes its batch.
        bf16: autocast to bfloat16 while training; statistics and evaluation stay in float32.
        checkpoint_period, evaluation_period: in iterations; 0 is never before the end.
        precise_bn: batches for precise BatchNorm statistics before each evaluation; 0 is off.
        seed: of the draws between steps.
        row_period: iterations that a row of the curve averages over (Detectron2's writers: 20).
    """

    iterations: int
    accumulate: int = 1
    bf16: bool = False
    checkpoint_period: int = 0
    evaluation_period: int = 0
    precise_bn: int = 0
    seed: int = 0
    row_period: int = 20


def plan_of(config: CfgNode, *, accumulate: int, amp: str, seed: int) -> Plan:
    """What SOLVER and TEST say, and what the yaml has no word for.

    Raises:
        UserError: they make no schedule, or ask for float16.
    """
    learning_rate_multiplier(config)  # before anything is read or written
    if config.SOLVER.AMP.ENABLED:
        raise UserError(
            "SOLVER.AMP.ENABLED asks for float16, which is not implemented; give "
            "SOLVER.AMP.ENABLED False, and --amp bf16 for bfloat16"
        )
    precise = config.TEST.PRECISE_BN
    return Plan(
        iterations=config.SOLVER.MAX_ITER,
        accumulate=accumulate,
        bf16=amp == "bf16",
        checkpoint_period=config.SOLVER.CHECKPOINT_PERIOD,
        evaluation_period=config.TEST.EVAL_PERIOD,
        precise_bn=precise.NUM_ITER if precise.ENABLED else 0,
        seed=seed,
    )
