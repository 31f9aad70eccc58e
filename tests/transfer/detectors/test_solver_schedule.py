"""The learning rate equals Detectron2's at every iteration."""

import pytest

from msbreg.run.errors import UserError
from tests.transfer.detectors.toys import config
from transfer.detectors import detectron2_engine
from transfer.detectors.solver import learning_rate_multiplier

SCHEDULES = {
    "voc": "SOLVER.MAX_ITER 24000 SOLVER.STEPS (18000,22000) SOLVER.WARMUP_ITERS 100",
    "swav": "SOLVER.MAX_ITER 24000 SOLVER.STEPS (18000,22000) SOLVER.WARMUP_FACTOR 0.333",
    "constant": "SOLVER.MAX_ITER 3000 SOLVER.STEPS (2000,) SOLVER.WARMUP_METHOD constant",
    "no warm-up": "SOLVER.MAX_ITER 500 SOLVER.STEPS (300,400) SOLVER.WARMUP_ITERS 0",
    "warm-up over a step": "SOLVER.MAX_ITER 700 SOLVER.STEPS (300,600) SOLVER.WARMUP_ITERS 450",
    "warm-up longer than all": "SOLVER.MAX_ITER 70 SOLVER.STEPS (30,) SOLVER.WARMUP_ITERS 450",
    "steps after the end": "SOLVER.MAX_ITER 90 SOLVER.STEPS (60,200) SOLVER.WARMUP_ITERS 10",
    "rescaled": "SOLVER.MAX_ITER 900 SOLVER.STEPS (600,) SOLVER.RESCALE_INTERVAL True",
    "cosine": "SOLVER.MAX_ITER 900 SOLVER.LR_SCHEDULER_NAME WarmupCosineLR SOLVER.WARMUP_ITERS 50",
    "fixed gamma": "SOLVER.MAX_ITER 90 SOLVER.WARMUP_ITERS 9 SOLVER.LR_SCHEDULER_NAME "
    "WarmupStepWithFixedGammaLR",
}


@pytest.mark.skipif(not detectron2_engine.available(), reason="Detectron2 is not installed")
@pytest.mark.parametrize("words", SCHEDULES.values(), ids=SCHEDULES)
def test_every_value_equals_detectron2s_scheduler(tmp_path, words):
    import torch

    detectron2_engine.version()  # imports Detectron2 without its warnings
    from detectron2.config import get_cfg
    from detectron2.solver import build_lr_scheduler

    theirs = get_cfg()
    theirs.merge_from_list([*words.split(), "SOLVER.BASE_LR", "0.02"])
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.02)
    scheduler = build_lr_scheduler(theirs, optimizer)
    ours = learning_rate_multiplier(config(tmp_path, *words.split(), "SOLVER.BASE_LR", "0.02"))
    for iteration in range(theirs.SOLVER.MAX_ITER):
        scheduler.last_epoch = iteration
        assert [0.02 * ours(iteration)] == scheduler.get_lr(), iteration


# Printed by Detectron2 0.6 (02b5c4e2), build_lr_scheduler, as multiples of BASE_LR.
FROZEN = {
    "voc": {
        0: 0.001,
        1: 0.01099,
        50: 0.5005,
        99: 0.9900100000000001,
        100: 1.0,
        17999: 1.0,
        18000: 0.1,
        21999: 0.1,
        22000: 0.010000000000000002,
        23999: 0.010000000000000002,
    },
    "warm-up over a step": {
        0: 0.001,
        299: 0.06678,
        449: 0.09978000000000001,
        450: 0.1,
        599: 0.1,
        600: 0.010000000000000002,
    },
    "constant": {0: 0.001, 999: 0.001, 1000: 1.0, 1999: 1.0, 2000: 0.1},
}


@pytest.mark.parametrize("name", FROZEN)
def test_values_recorded_from_detectron2(tmp_path, name):
    multiplier = learning_rate_multiplier(config(tmp_path, *SCHEDULES[name].split()))
    assert {iteration: multiplier(iteration) for iteration in FROZEN[name]} == FROZEN[name]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("SOLVER.LR_SCHEDULER_NAME Cosine", "LR_SCHEDULER_NAME is 'Cosine'; expected Warmup"),
        ("SOLVER.WARMUP_METHOD slow", "WARMUP_METHOD is 'slow'; expected linear or constant"),
        ("SOLVER.STEPS (9,5)", r"STEPS is \[9, 5\]; expected iterations in ascending order"),
        ("SOLVER.STEPS (0,5)", "expected iterations in ascending order, from 1"),
        ("SOLVER.MAX_ITER 0", "MAX_ITER is 0"),
        (
            "SOLVER.LR_SCHEDULER_NAME WarmupStepWithFixedGammaLR SOLVER.MAX_ITER 9",
            "WARMUP_ITERS is 1000; expected less than MAX_ITER",
        ),
        ("SOLVER.BASE_LR 0.0", "BASE_LR 0.0; expected"),
        ("SOLVER.MAX_ITER 2 SOLVER.STEPS (1,) SOLVER.WARMUP_ITERS -1", "WARMUP_ITERS -1"),
        (
            "SOLVER.LR_SCHEDULER_NAME WarmupCosineLR SOLVER.BASE_LR_END 3.0",
            "BASE_LR_END is 3.0; expected 0 to BASE_LR",
        ),
    ],
)
def test_invalid_schedules_are_named(tmp_path, words, message):
    with pytest.raises(UserError, match=message):
        learning_rate_multiplier(config(tmp_path, *words.split()))
