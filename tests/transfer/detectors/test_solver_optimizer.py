"""Parameter groups, their order and their steps equal Detectron2's."""

import pytest
import torch
from torch import nn

from msbreg.run.errors import UserError
from tests.transfer.detectors.toys import config
from transfer.detectors import detectron2_engine
from transfer.detectors.solver import build_optimizer, clip_gradients, parameter_groups


class Several(nn.Module):
    """Has every kind of layer with special rules, a shared weight and a frozen one."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.sync = nn.SyncBatchNorm(4)
        self.group = nn.GroupNorm(2, 4)
        self.layer = nn.LayerNorm(4)
        self.linear = nn.Linear(4, 4)
        self.tied = nn.Linear(4, 4)
        self.tied.weight = self.linear.weight
        self.frozen = nn.Linear(4, 4)
        self.frozen.requires_grad_(False)


def several() -> Several:
    torch.manual_seed(0)
    return Several()


SOLVERS = {
    "moco": "SOLVER.BASE_LR 0.02",
    "decay of norms": "SOLVER.WEIGHT_DECAY_NORM 0.001",
    "biases": "SOLVER.BIAS_LR_FACTOR 2.0 SOLVER.WEIGHT_DECAY_BIAS 0.5",
    "nesterov": "SOLVER.NESTEROV True SOLVER.MOMENTUM 0.8",
    "clip values": "SOLVER.CLIP_GRADIENTS.ENABLED True SOLVER.CLIP_GRADIENTS.CLIP_VALUE 0.01",
    "clip norms": "SOLVER.CLIP_GRADIENTS.ENABLED True SOLVER.CLIP_GRADIENTS.CLIP_TYPE norm",
}


def named_groups(model, groups):
    names = {parameter: name for name, parameter in model.named_parameters()}
    rest = ("lr", "weight_decay", "momentum", "nesterov")
    return [
        ([names[p] for p in group["params"]], {k: group[k] for k in rest if k in group})
        for group in groups
    ]


@pytest.mark.skipif(not detectron2_engine.available(), reason="Detectron2 is not installed")
@pytest.mark.parametrize("words", SOLVERS.values(), ids=SOLVERS)
def test_groups_and_three_steps_equal_detectron2s(tmp_path, words):
    detectron2_engine.version()
    from detectron2.config import get_cfg
    from detectron2.solver import build_optimizer as their_optimizer

    theirs = get_cfg()
    theirs.merge_from_list(words.split())
    ours = config(tmp_path, *words.split())
    one, other = several(), several()
    first, second = build_optimizer(ours, one), their_optimizer(theirs, other)
    assert named_groups(one, first.param_groups) == named_groups(other, second.param_groups)
    generator = torch.Generator().manual_seed(1)
    for _ in range(3):
        for a, b in zip(one.parameters(), other.parameters(), strict=True):
            if a.requires_grad:
                a.grad = torch.randn(a.shape, generator=generator)
                b.grad = a.grad.clone()
        clip_gradients(ours, first)
        first.step()
        second.step()
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_norm_layers_have_no_weight_decay_and_parameters_occur_once(tmp_path):
    model = several()
    (rest, options), (norms, without) = named_groups(
        model, parameter_groups(config(tmp_path, "SOLVER.BASE_LR", "0.02"), model)
    )
    assert rest == ["conv.weight", "conv.bias", "linear.weight", "linear.bias", "tied.bias"]
    assert options == {"lr": 0.02}
    assert {name.partition(".")[0] for name in norms} == {"norm", "sync", "group", "layer"}
    assert without == {"lr": 0.02, "weight_decay": 0.0}


def test_the_bias_of_a_norm_layer_is_treated_as_a_bias(tmp_path):
    cfg = config(tmp_path, "SOLVER.BIAS_LR_FACTOR", "2.0", "SOLVER.WEIGHT_DECAY_BIAS", "0.5")
    model = several()
    groups = named_groups(model, parameter_groups(cfg, model))
    (options,) = (options for names, options in groups if "norm.bias" in names)
    assert options == {"lr": 0.002, "weight_decay": 0.5}


def test_a_detector_that_cannot_be_trained_is_rejected(tmp_path):
    with pytest.raises(UserError, match="lower MODEL.BACKBONE.FREEZE_AT"):
        build_optimizer(config(tmp_path), nn.Linear(2, 2).requires_grad_(False))
    words = ["SOLVER.CLIP_GRADIENTS.ENABLED", "True", "SOLVER.CLIP_GRADIENTS.CLIP_TYPE", "half"]
    cfg = config(tmp_path, *words)
    with pytest.raises(UserError, match="CLIP_TYPE is 'half'; expected value or norm"):
        clip_gradients(cfg, build_optimizer(cfg, nn.Linear(2, 2)))
