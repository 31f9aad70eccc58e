"""The table of vision transformers is timm's, and only backbones have valid names."""

import functools
import re

import pytest
import timm
import torch

from msbreg.backbones.architectures import ARCHITECTURES
from msbreg.backbones.networks import build_network
from msbreg.backbones.spec import BackboneSpec, Normalization, spec_of_record
from msbreg.backbones.twin import random_backbone
from msbreg.backbones.vit_architectures import VITS, check_backbone_name, no_resnet
from msbreg.run.errors import UserError


def timm_name(name: str) -> str:
    """The model of timm with this architecture; timm puts the image size after the patch size."""
    if "dinov2" in name:
        return name
    return {"vit_small_patch16_heads12": "vit_small_patch16_224"}.get(name, f"{name}_224")


@functools.cache
def timms(name: str) -> timm.models.VisionTransformer:
    """timm's model, without values."""
    options = {"img_size": 518} if "dinov2" in name else {}
    with torch.device("meta"):
        return timm.create_model(timm_name(name), num_classes=0, weight_init="skip", **options)


@pytest.mark.parametrize("name", VITS)
def test_names_shapes_and_order_are_timms(name):
    a = VITS[name]
    model = timms(name)
    wanted = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    assert list(a.shapes(a.image_size).items()) == list(wanted.items())


@pytest.mark.parametrize("name", VITS)
def test_our_networks_have_the_heads_and_the_norms_of_timms(name):
    theirs = timms(name)
    with torch.device("meta"):
        ours = build_network(BackboneSpec(name))
    heads = 12 if name == "vit_small_patch16_heads12" else theirs.blocks[0].attn.num_heads
    assert ours.blocks[0].attn.num_heads == heads
    assert ours.norm.eps == theirs.norm.eps == 1e-6
    assert list(ours.state_dict()) == list(theirs.state_dict())


@pytest.mark.parametrize(
    "name", ["resnet50", "vit_small_patch14_dinov2", "timm/convnext_tiny.in12k"]
)
def test_a_backbone_has_a_valid_name(name):
    check_backbone_name(name)


@pytest.mark.parametrize(
    "name", ["resnet19", "vit_small_patch17", "timm/", "timm/hf-hub:a/b", "timm/local-dir:x", "x/y"]
)
def test_an_unknown_name_and_an_address_are_refused(name):
    with pytest.raises(UserError, match=re.escape(f"backbone {name!r} is unknown")):
        check_backbone_name(name)


def test_only_resnets_have_all_tasks():
    assert all(no_resnet(name) == "" for name in ARCHITECTURES)
    for name in (*VITS, "timm/convnext_tiny"):
        assert "only ResNets can be pre-trained" in no_resnet(name)
        assert "transfer/knn.py" in no_resnet(name)


# ---- Specs


def test_a_spec_of_a_transformer_survives_a_record():
    spec = BackboneSpec(
        "vit_small_patch14_dinov2",
        Normalization((0.5,) * 3, (0.25,) * 3),
        image_size=224,
        positions="bicubic",
        interpolation="bilinear",
    )
    assert spec_of_record(spec.as_dict()) == spec
    assert "stride" not in spec.as_dict()


def test_the_record_of_a_resnet_is_as_before():
    assert list(BackboneSpec("resnet50").as_dict()) == [
        "arch",
        "image_size",
        "normalization",
        "stride",
    ]


def test_defaults_are_those_of_the_source():
    plain, registers = BackboneSpec("vit_small_patch14_dinov2"), "vit_small_patch14_reg4_dinov2"
    assert (plain.image_size, plain.positions, plain.interpolation) == (518, "offset", "bicubic")
    assert BackboneSpec(registers).positions == "antialiased"
    assert BackboneSpec("vit_small_patch16", stride_in_1x1=True).stride_in_1x1 is False
    assert BackboneSpec("resnet50").interpolation == "bilinear"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"positions": "linear"}, "positions is 'linear'; expected offset or"),
        ({"interpolation": 3}, "interpolation is 3; expected bilinear or bicubic"),
        ({"image_size": 220}, "image_size is 220; a vit_small_patch16 expects a multiple"),
    ],
)
def test_a_malformed_record_is_reported(change, message):
    with pytest.raises(UserError, match=re.escape(message)):
        spec_of_record({"arch": "vit_small_patch16"} | change)


def test_a_resnet_is_asked_of_a_transformer_in_vain():
    with pytest.raises(
        UserError, match="vit_small_patch16 is a vision transformer, and only ResNets"
    ):
        _ = BackboneSpec("vit_small_patch16").architecture


def test_the_untrained_twin_is_reproducible_and_keeps_the_spec():
    spec = BackboneSpec("vit_tiny_patch16", image_size=32, positions="bicubic")
    before = torch.random.get_rng_state()
    (one, first), (_, second), (_, other) = (random_backbone(spec, seed=s) for s in (3, 3, 4))
    assert first.spec == spec
    assert first.sha256 == second.sha256 != other.sha256
    assert one.pos_embed.shape == (1, 5, 192)
    assert not one.training
    assert torch.equal(before, torch.random.get_rng_state())
