"""Networks in inference form have the features of the networks that they were made from."""

import pytest
import torch
from torch import nn

from msbreg.backbones.inference import FrozenBackbone, compiles, folded
from msbreg.backbones.resnet import embed, normalize
from msbreg.backbones.spec import BackboneSpec, Normalization
from tests.msbreg.checkpoints.convert.realistic_networks import realistic

CPU = torch.device("cpu")


def pixels(size: int = 64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (3, 3, size, size), generator=generator, dtype=torch.uint8)


@pytest.mark.parametrize("arch", ["resnet18", "resnet50", "resnet18-tiny"])
def test_folding_keeps_the_features(arch):
    backbone = realistic(arch, seed=0)
    images = normalize(pixels(), CPU)
    with torch.inference_mode():
        wanted, found = embed(backbone, images), embed(folded(backbone), images)
    assert (found - wanted).abs().max() <= 1e-4 * wanted.abs().max()


def test_folding_is_exact_in_float64():
    backbone = realistic("resnet18-narrow", seed=0).double()
    images = normalize(pixels(), CPU).double()
    with torch.inference_mode():
        wanted, found = embed(backbone, images), embed(folded(backbone), images)
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-10)


def test_folding_leaves_no_batch_norm_and_does_not_change_the_given_network():
    backbone = realistic("resnet18-narrow", seed=0)
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    assert not any(isinstance(m, nn.BatchNorm2d) for m in folded(backbone).modules())
    assert all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())


def test_the_normalization_and_channel_order_of_the_network_are_applied():
    backbone = realistic("resnet18-narrow", seed=0)
    spec = BackboneSpec(
        "resnet18-narrow", Normalization((0.5, 0.4, 0.3), (0.2, 0.3, 0.4), "BGR"), image_size=64
    )
    images = (pixels().flip(1) / 255 - torch.tensor([0.5, 0.4, 0.3]).view(3, 1, 1)) / torch.tensor(
        [0.2, 0.3, 0.4]
    ).view(3, 1, 1)
    with torch.inference_mode():
        wanted = embed(backbone, images)
    found = FrozenBackbone(backbone, spec, CPU)(pixels())
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


def test_bf16_features_are_near_the_float32_ones_but_differ():
    backbone = realistic("resnet18-narrow", seed=0)
    spec = BackboneSpec("resnet18-narrow")
    exact = FrozenBackbone(backbone, spec, CPU)(pixels())
    rounded = FrozenBackbone(backbone, spec, CPU, precision="bf16")(pixels())
    assert rounded.dtype == torch.float32
    difference = (exact - rounded).norm() / exact.norm()
    assert 1e-4 < difference < 0.1


@pytest.mark.parametrize(
    ("choice", "images", "expected"), [("yes", 1, True), ("no", 10**9, False), ("auto", 100, False)]
)
def test_compilation_is_a_choice_and_automatic_for_large_data_sets(choice, images, expected):
    assert compiles(choice, images) == expected


def test_without_a_compiler_nothing_is_compiled_automatically(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert not compiles("auto", 10**9)


def test_tokens_are_the_cells_of_the_last_map():
    backbone, spec = realistic("resnet18-narrow", seed=0), BackboneSpec("resnet18-narrow")
    places = FrozenBackbone(backbone, spec, CPU, representation="tokens")(pixels(96))
    pools = FrozenBackbone(backbone, spec, CPU)(pixels(96))
    assert places.shape == (3, 9, 256)
    torch.testing.assert_close(places.mean(1), pools, rtol=1e-4, atol=1e-4)
