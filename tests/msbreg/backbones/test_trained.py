import pytest
import torch

from msbreg.backbones.resnet import build_backbone
from msbreg.backbones.trained import norm_layers, signs_of_no_training
from msbreg.run.errors import UserError

ARCH = "resnet18-tiny"
LAYERS = 20  # BatchNorm layers of a ResNet-18


def initial_state(arch=ARCH):
    return build_backbone(arch, seed=0).state_dict()


def move(state, *endings, only=""):
    """Change tensors with these endings slightly, as training would; no value remains initial."""
    generator = torch.Generator().manual_seed(1)
    for key, value in state.items():
        if key.startswith(only) and key.endswith(endings) and value.ndim == 1:
            value += 0.01 + 0.1 * torch.rand(value.shape, generator=generator)
    return state


AFFINE, STATISTICS = (".weight", ".bias"), (".running_mean", ".running_var")


@pytest.mark.parametrize("arch", ["resnet18", "resnet34", "resnet50", "resnet18-narrow"])
def test_a_new_network_is_recognized_as_untouched(arch):
    (sign,) = signs_of_no_training(initial_state(arch))
    assert sign.startswith("untouched initialization: all ")


def test_zero_initialized_residuals_count_as_untouched():
    state = initial_state()
    for stage in range(1, 5):
        for block in range(2):
            state[f"layer{stage}.{block}.bn2.weight"].zero_()
    (sign,) = signs_of_no_training(state)
    assert sign.startswith("untouched initialization: all 20")


def test_a_trained_network_gives_no_sign_with_or_without_batch_counts():
    state = move(initial_state(), *AFFINE, *STATISTICS)
    assert signs_of_no_training(state) == ()
    assert signs_of_no_training({k: v for k, v in state.items() if "num_batches" not in k}) == ()


def test_refilled_statistics_are_recognized_even_if_only_one_of_two_was():
    for kept in ((), (".running_mean",), (".running_var",)):
        (sign,) = signs_of_no_training(move(initial_state(), *AFFINE, *kept))
        assert sign.startswith("BatchNorm statistics were never updated or were stripped")


def test_forward_passes_without_training_are_recognized():
    backbone = build_backbone(ARCH, seed=0).train()
    backbone(torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0)))
    (sign,) = signs_of_no_training(backbone.state_dict())
    assert sign.startswith("forward passes without training: all 20")


def test_one_training_step_is_enough_to_give_no_sign():
    backbone = build_backbone(ARCH, seed=0).train()
    optimizer = torch.optim.SGD(backbone.parameters(), lr=1e-3)
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    backbone(images)["c5"].square().mean().backward()
    optimizer.step()
    assert signs_of_no_training(backbone.state_dict()) == ()


def test_a_stage_that_was_not_loaded_is_reported_by_name():
    state = initial_state()
    for part in ("bn1", "layer1", "layer2", "layer3"):
        move(state, *AFFINE, *STATISTICS, only=part)
    (sign,) = signs_of_no_training(state)
    assert sign.startswith("part of the network is untouched initialization: 5 of 20")
    assert "(5 in layer4)" in sign


@pytest.mark.parametrize(
    ("ending", "value", "message"),
    [
        ("running_var", -0.5, "1 of 32 values are negative"),
        ("running_var", float("inf"), "1 of 32 values are not finite"),
        ("running_mean", float("nan"), "1 of 32 values are not finite"),
    ],
)
def test_impossible_statistics_are_rejected_with_the_name_of_the_tensor(ending, value, message):
    state = move(initial_state(), *AFFINE, *STATISTICS)
    state[f"bn1.{ending}"][3] = value
    with pytest.raises(UserError, match=f"bn1.{ending}: {message}"):
        signs_of_no_training(state)


def test_half_precision_states_are_supported():
    state = {k: v.half() if v.is_floating_point() else v for k, v in initial_state().items()}
    assert signs_of_no_training(state)[0].startswith("untouched")


def test_batch_counts_are_read_if_present():
    state = initial_state()
    assert {layer.batches for layer in norm_layers(state)} == {0}
    del state["bn1.num_batches_tracked"]
    assert norm_layers(state)[0].batches is None
    assert len(norm_layers(state)) == LAYERS
