"""Vision transformers compute what timm's own models compute, and adapt positions as their sources do."""

import numpy as np
import pytest
import torch
from timm.layers import resample_abs_pos_embed

from msbreg.backbones.inference import FrozenBackbone
from msbreg.backbones.networks import build_network
from msbreg.backbones.spec import BackboneSpec
from msbreg.backbones.vit import VisionTransformer, resized_positions
from msbreg.checkpoints.load import load_exactly
from msbreg.run.errors import UserError
from tests.msbreg.backbones.toy_transformers import (
    DINOV2,
    HEADS,
    PLAIN,
    REGISTERS,
    TOYS,
    images,
    timm_model,
    toys,  # noqa: F401 - a fixture
)
from tests.reference.positions import resized

pytestmark = pytest.mark.usefixtures("toys")


def ours(name: str, **spec) -> tuple[VisionTransformer, torch.nn.Module]:
    """Our network with the weights of timm's, and timm's."""
    model = timm_model(name)
    state = {k: v for k, v in model.state_dict().items() if not k.startswith("head.")}
    backbone = build_network(BackboneSpec(name, **spec)).eval()
    load_exactly(backbone, state, name)
    return backbone, model


@torch.no_grad()
def represented(backbone: VisionTransformer, side: int, representation: str) -> torch.Tensor:
    features = backbone.represent(images(side), representation)
    assert features.shape == (3, backbone.width(representation))
    return features


@pytest.mark.parametrize("name", TOYS)
def test_the_class_token_is_that_of_forward_features(name):
    backbone, model = ours(name)
    side = TOYS[name].image_size
    with torch.no_grad():
        wanted = model.forward_features(images(side))[:, 0]
    torch.testing.assert_close(represented(backbone, side, "cls"), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", [PLAIN, REGISTERS])
def test_the_mean_is_that_of_the_patch_tokens_without_class_token_and_registers(name):
    backbone, model = ours(name)
    side = TOYS[name].image_size
    with torch.no_grad():
        tokens = model.forward_features(images(side))
    patches = (side // 8) ** 2
    wanted = tokens[:, -patches:].mean(1)
    found = represented(backbone, side, "mean")
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    every = tokens[:, 1:].mean(1)
    if name == REGISTERS:
        assert (found - every).abs().max() > 0.01


@pytest.mark.parametrize("name", TOYS)
def test_the_class_tokens_of_the_last_blocks_are_normed_and_in_order(name):
    backbone, model = ours(name)
    side = TOYS[name].image_size
    with torch.no_grad():
        last = model.get_intermediate_layers(images(side), 2, return_prefix_tokens=True, norm=True)
    wanted = torch.cat([prefix[:, 0] for _, prefix in last], dim=1)
    found = represented(backbone, side, "cls-2")
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("first", ["cls", "cls-2"])
def test_concatenations_have_the_class_tokens_first(first):
    backbone, _ = ours(REGISTERS)
    both = represented(backbone, 40, f"{first}+mean")
    parts = [represented(backbone, 40, part) for part in (first, "mean")]
    assert torch.equal(both, torch.cat(parts, dim=1))


def test_representations_end_at_the_depth_of_the_network():
    backbone, _ = ours(PLAIN)
    assert backbone.representations == ("cls", "cls+mean", "mean", "cls-2", "cls-2+mean")
    deep = VisionTransformer(BackboneSpec("vit_tiny_patch16"))
    assert "cls-4" in deep.representations
    assert deep.width("cls-4+mean") == 5 * 192


def test_the_number_of_heads_changes_the_features():
    state = timm_model(PLAIN).state_dict()
    few, many = (build_network(BackboneSpec(name)).eval() for name in (PLAIN, HEADS))
    for backbone in (few, many):
        load_exactly(backbone, {k: v for k, v in state.items() if "head." not in k}, "")
    difference = represented(few, 32, "cls") - represented(many, 32, "cls")
    assert difference.abs().max() > 0.01


# ---- Position embeddings


@pytest.mark.parametrize("how", ["offset", "bicubic", "antialiased"])
@pytest.mark.parametrize(("old", "new"), [(5, 3), (3, 5), (37, 16), (4, 6)])
def test_positions_are_interpolated_as_the_slow_twin_does(how, old, new):
    generator = torch.Generator().manual_seed(0)
    grid = torch.randn(old, old, 4, generator=generator)
    found = resized_positions(grid.reshape(1, -1, 4), new, new, how)
    wanted = resized(grid.numpy(), new, new, how)
    # float32 coordinates in PyTorch, float64 in the twin
    np.testing.assert_allclose(found[0].reshape(new, new, 4).numpy(), wanted, rtol=0, atol=2e-5)


def test_timms_formula_is_timms():
    grid = torch.randn(1, 25, 4, generator=torch.Generator().manual_seed(0))
    wanted = resample_abs_pos_embed(grid, [3, 3], [5, 5], num_prefix_tokens=0)
    assert torch.equal(resized_positions(grid, 3, 3, "antialiased"), wanted)


def test_the_three_formulas_differ_where_an_image_is_smaller():
    grid = torch.randn(1, 37 * 37, 4, generator=torch.Generator().manual_seed(0))
    found = [resized_positions(grid, 16, 16, how) for how in ("offset", "bicubic", "antialiased")]
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert (found[one] - found[other]).abs().max() > 0.01


def test_positions_of_the_own_size_are_not_touched():
    grid = torch.randn(1, 16, 4, generator=torch.Generator().manual_seed(0))
    assert resized_positions(grid, 4, 4, "offset") is grid


@pytest.mark.parametrize("name", [PLAIN, DINOV2, REGISTERS])
def test_features_of_other_sizes_are_those_of_timm_with_timms_formula(name):
    backbone, _ = ours(name, positions="antialiased")
    flexible = timm_model(name, dynamic_img_size=True)
    with torch.no_grad():
        wanted = flexible.forward_features(images(24))[:, 0]
    torch.testing.assert_close(represented(backbone, 24, "cls"), wanted, rtol=1e-5, atol=1e-5)


def test_the_formula_of_the_spec_decides():
    offset, _ = ours(DINOV2)
    antialiased, _ = ours(DINOV2, positions="antialiased")
    assert not torch.allclose(
        represented(offset, 24, "cls"), represented(antialiased, 24, "cls"), atol=1e-4
    )


def test_another_size_is_recorded_or_refused():
    dinov2, _ = ours(DINOV2)
    assert dinov2.adaptation(40) == ""
    note = dinov2.adaptation(24)
    assert note.startswith("position embeddings are interpolated from 5^2 to 3^2 patches")
    assert "as in DINO" in note
    fixed, _ = ours(PLAIN)
    assert fixed.adaptation(32) == ""
    with pytest.raises(UserError, match=r"24 x 24 .* belong to 32 x 32(.|\n)*--transform.crop 32"):
        fixed.adaptation(24)


def test_a_size_between_patches_is_refused():
    backbone, _ = ours(DINOV2)
    with pytest.raises(
        UserError, match="30 x 30 pixels; this network expects a multiple of its pat"
    ):
        backbone.adaptation(30)


# ---- Inference form


def test_the_inference_form_computes_the_same_features():
    backbone, _ = ours(REGISTERS)
    pixels = torch.randint(
        0, 256, (3, 3, 40, 40), generator=torch.Generator().manual_seed(0), dtype=torch.uint8
    )
    spec = BackboneSpec(REGISTERS)
    n = spec.normalization
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (n.mean, n.std))
    with torch.no_grad():
        wanted = backbone.represent((pixels / 255 - mean) / std, "cls+mean")
    frozen = FrozenBackbone(backbone, spec, torch.device("cpu"), representation="cls+mean")
    torch.testing.assert_close(frozen(pixels), wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", [PLAIN, REGISTERS])
def test_tokens_are_those_of_the_patches(name):
    backbone, model = ours(name)
    side = TOYS[name].image_size
    with torch.no_grad():
        wanted = model.forward_features(images(side))[:, -((side // 8) ** 2) :]
        found = backbone.tokens(images(side))
    assert found.shape[2] == backbone.width("tokens")
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
