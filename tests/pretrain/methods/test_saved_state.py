"""A method restored from a checkpoint goes on bit for bit like one that was never interrupted."""

import pytest
import torch

from msbreg.run.errors import UserError
from pretrain.method_settings import DINOSettings, MoCoV2Settings
from tests.pretrain.methods.small_methods import ALL, STEPS, saved, settings, train, training


def assert_identical(one, other, name: str = "state") -> None:
    assert type(one) is type(other), name
    if isinstance(one, dict):
        assert one.keys() == other.keys(), name
        for key in one:
            assert_identical(one[key], other[key], f"{name}.{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), name
        for number, pair in enumerate(zip(one, other, strict=True)):
            assert_identical(*pair, f"{name}.{number}")
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one, other), name
    else:
        assert one == other, name


@pytest.mark.parametrize("method", ALL)
def test_six_steps_are_three_steps_a_checkpoint_and_three_steps(method):
    config = settings(method)
    whole = training(config)
    train(whole, 0, 3)
    half = saved(whole)
    train(whole, 3, STEPS)
    resumed = training(config)
    resumed.load_state_dict(half)
    assert_identical(saved(resumed), half)
    train(resumed, 3, STEPS)
    assert_identical(saved(resumed), saved(whole))
    weights = saved(whole)["online"]
    assert any(not torch.equal(value, half["online"][name]) for name, value in weights.items())


@pytest.mark.parametrize(
    ("method", "change", "entry"),
    [
        (
            "moco_v2",
            {"moco_v2": MoCoV2Settings(queue=24)},
            "'queue': (20, 8)}; expected {'queue': (24",
        ),
        ("dino", {"dino": DINOSettings(prototypes=6, bottleneck=5)}, None),
    ],
)
def test_a_checkpoint_with_another_memory_is_refused(method, change, entry):
    stored = saved(training(settings(method)))
    other = training(settings(method, **change))
    if entry is None:
        stored["memory"] = {}
        entry = "memory: the checkpoint has {}; expected {'center': (6,)}"
    with pytest.raises(UserError) as error:
        other.load_state_dict(stored)
    assert entry in str(error.value)
