from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from msbreg.backbones.resnet import build_backbone, embed, normalize
from msbreg.backbones.spec import IMAGENET
from msbreg.backbones.trained import (
    PHOTOGRAPHS,
    effective_rank,
    feature_statistics,
    photographs,
    side_for,
    signs_in_features,
)
from tests.reference import feature_statistics as slow


def statistics(backbone):
    return feature_statistics(backbone, photographs(side_for(backbone)), IMAGENET)


def random_vectors(*size):
    return torch.randn(*size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("shape", [(6, 20), (20, 6)])
def test_effective_rank_matches_the_reference(shape):
    vectors = random_vectors(*shape)
    # The reference takes roots of eigenvalues, which amplifies rounding errors if the rank is not full.
    expected = slow.effective_rank(vectors.numpy())
    assert effective_rank(vectors) == pytest.approx(expected, rel=1e-5)


def test_effective_rank_counts_equal_directions():
    assert effective_rank(torch.eye(5, 8)) == pytest.approx(5)
    assert effective_rank(torch.ones(5, 8)) == pytest.approx(1, abs=1e-4)
    assert effective_rank(torch.zeros(5, 8)) == 1


def test_statistics_are_computed_from_the_pooled_features():
    backbone = build_backbone("resnet18-tiny", seed=0).eval()
    images = photographs(64, 6)
    own = feature_statistics(backbone, images, IMAGENET)
    with torch.no_grad():
        features = embed(backbone, normalize(images, torch.device("cpu"))).double()
    assert (own.images, own.finite) == (6, 6)
    assert own.mean == pytest.approx(features.mean().item())
    assert own.std == pytest.approx(features.std().item())
    assert own.cosine == pytest.approx(slow.mean_pairwise_cosine(features.numpy()))
    expected = slow.effective_rank(F.normalize(features).numpy())
    assert own.effective_rank == pytest.approx(expected, rel=1e-6)


def test_the_mode_and_the_batch_norm_statistics_of_the_network_are_unchanged():
    backbone = build_backbone("resnet18-tiny", seed=0).train()
    feature_statistics(backbone, photographs(64, 2), IMAGENET)
    assert backbone.training
    assert backbone.bn1.num_batches_tracked == 0


def test_photographs_are_reproducible_and_distinct():
    first, second = photographs(32), photographs(32)
    assert first.dtype == torch.uint8
    assert first.shape == (PHOTOGRAPHS, 3, 32, 32)
    assert first.equal(second)
    assert len(np.unique(first.flatten(1).numpy(), axis=0)) == PHOTOGRAPHS


@pytest.mark.parametrize(
    ("arch", "zero_init"),
    [
        ("resnet50", False),
        ("resnet18-narrow", True),
        ("resnet18-tiny", False),
        ("resnet18-tiny", True),
    ],
)
def test_features_of_random_networks_look_random(arch, zero_init):
    backbone = build_backbone(arch, seed=1)
    if zero_init:
        for name, value in backbone.named_parameters():
            if name.startswith("layer") and name.endswith("bn2.weight"):
                torch.nn.init.zeros_(value)
    own = statistics(backbone)
    (sign,) = signs_in_features(own, own)
    assert sign.startswith("features look like those of a random network: for 32 photographs")


def test_diverse_features_give_no_sign():
    own = statistics(build_backbone("resnet18-tiny", seed=0))
    assert signs_in_features(replace(own, cosine=0.8), own) == ()
    assert signs_in_features(replace(own, effective_rank=9.0), own) == ()


def test_non_finite_and_zero_features_give_a_sign():
    backbone = build_backbone("resnet18-tiny", seed=0)
    twin = statistics(backbone)
    backbone.layer4[1].bn2.weight.data.fill_(3e38)
    (sign,) = signs_in_features(statistics(backbone), twin)
    assert sign.startswith("features of 32 of 32 photographs are not finite")
    backbone.layer4[1].bn2.weight.data.zero_()
    backbone.layer4[1].bn2.bias.data.fill_(-1e9)
    (sign,) = signs_in_features(statistics(backbone), twin)
    assert sign.startswith("features of all 32 photographs are 0")
