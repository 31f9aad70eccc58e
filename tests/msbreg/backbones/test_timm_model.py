"""Any model of timm gives timm's own pooled features."""

import pytest
import timm
import torch

from msbreg.backbones.inference import folded
from msbreg.backbones.timm_model import TimmModel, timm_spec
from msbreg.backbones.twin import random_backbone
from msbreg.run.errors import UserError
from tests.msbreg.backbones.toy_transformers import images

TINY = "timm/resnet10t"  # 5 million parameters; its shortcuts have three modules
VIT = "timm/vit_tiny_patch16_224"


@pytest.mark.parametrize(("name", "side"), [(TINY, 64), (VIT, 224)])
def test_features_are_the_input_of_timms_classifier(name, side):
    backbone = TimmModel(name).eval()
    pixels = images(side, 2)
    with torch.no_grad():
        wanted = backbone.model(pixels)  # no classifier: its input
        found = backbone.represent(pixels, "pooled")
    assert torch.equal(found, wanted)
    assert found.shape == (2, backbone.width("pooled"))


def test_the_inference_form_does_not_change_it():
    backbone = TimmModel(TINY).eval()
    pixels = images(64, 2)
    with torch.no_grad():
        wanted = backbone.represent(pixels, "pooled")
        assert torch.equal(folded(backbone).represent(pixels, "pooled"), wanted)


def test_the_spec_is_what_timm_states():
    config = timm.get_pretrained_cfg("vit_tiny_patch16_224")
    spec = timm_spec(VIT)
    assert (spec.normalization.mean, spec.normalization.std) == (config.mean, config.std)
    assert (spec.image_size, spec.interpolation, spec.positions) == (224, "bicubic", None)


def test_a_fixed_size_is_required():
    backbone = TimmModel(VIT)
    assert backbone.adaptation(224) == ""
    with pytest.raises(UserError, match=r"96 x 96 pixels; timm/vit_tiny_patch16_224 expects 224"):
        backbone.adaptation(96)
    assert TimmModel(TINY).adaptation(96) == ""


def test_an_unknown_model_lists_similar_names():
    with pytest.raises(
        UserError, match=r"has no model 'resnet10x', such as (.*resnet10t|.*resnet101)"
    ):
        TimmModel("timm/resnet10x")


def test_the_twin_of_a_name_is_reproducible():
    _, one = random_backbone(TINY, seed=0)
    _, other = random_backbone(TINY, seed=0)
    assert one.sha256 == other.sha256
    assert one.spec == timm_spec(TINY)


@pytest.mark.parametrize(
    ("name", "side", "places"), [(TINY, 64, 4), (VIT, 224, 196), ("timm/convnext_atto", 64, 4)]
)
def test_tokens_are_one_vector_per_place(name, side, places):
    backbone = TimmModel(name).eval()
    with torch.no_grad():
        tokens = backbone.tokens(images(side, 2))
        features = backbone.model.forward_features(images(side, 2))
    assert tokens.shape == (2, places, backbone.width("tokens"))
    if features.ndim == 4:  # (B, C, H, W)
        assert torch.equal(tokens[0, 1], features[0, :, 0, 1])
