"""Statistics of features and norm layers, and kNN with one or several labels."""

import math

import numpy as np
import pytest
import torch

from msbreg.backbones.networks import build_network
from msbreg.backbones.resnet import build_backbone
from msbreg.backbones.spec import BackboneSpec
from tests.msbreg.backbones.toy_transformers import PLAIN, toys
from transfer.gating.gate_statistics import feature_health, neighbor_hits, norm_state

__all__ = ["toys"]


def draw(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def test_dead_channels_are_the_share_of_constant_dimensions():
    features = draw(50, 8)
    features[:, 2] = 0
    features[:, 5] = 3
    features[:, 6] *= 1e-12  # small, but not constant
    assert feature_health(features).constant == 2 / 8


def test_equal_features_are_constant_and_have_rank_1():
    health = feature_health(np.tile(draw(1, 8), (20, 1)))
    assert health.constant == 1
    assert health.std == pytest.approx(0, abs=1e-6)
    assert health.rankme == pytest.approx(1, abs=1e-3)


def test_images_without_finite_features_are_counted_and_left_out():
    features = draw(50, 8)
    features[3, 1], features[7, 2] = np.nan, np.inf
    health = feature_health(features)
    assert (health.images, health.finite) == (50, 48)
    assert health.rankme == feature_health(np.delete(features, [3, 7], axis=0)).rankme
    assert math.isnan(feature_health(np.full((4, 8), np.nan, np.float32)).rankme)


def test_all_norm_layers_of_new_networks_are_untouched(toys):
    resnet = norm_state(build_backbone("resnet18-tiny", seed=0).state_dict())
    assert (resnet.layers, resnet.untouched) == (20, 20)
    vit = norm_state(build_network(BackboneSpec(PLAIN), seed=0).state_dict())
    assert (vit.layers, vit.untouched) == (5, 5)  # two in each of two blocks, and the last


def test_forward_passes_and_lost_statistics_are_told_apart():
    backbone = build_backbone("resnet18-tiny", seed=0)
    with torch.no_grad():
        backbone.train()
        backbone.represent(torch.randn(4, 3, 32, 32), "gap")
    forwarded = norm_state(backbone.state_dict())
    assert (forwarded.untouched, forwarded.forwarded) == (0, 20)
    lost = build_backbone("resnet18-tiny", seed=0).state_dict()
    for name in lost:
        if "bn1.weight" in name:
            lost[name] *= 1.5
    refilled = norm_state(lost)
    assert refilled.refilled == sum("bn1.weight" in name for name in lost)
    assert refilled.untouched == 20 - refilled.refilled


def test_a_query_is_a_hit_if_the_class_with_most_votes_is_its_own():
    bank = np.array([[1, 0], [1, 0.1], [0, 1]], np.float32)
    queries = np.array([[1, 0], [1, 0], [0, 1]], np.float32)
    found = neighbor_hits(queries, np.array([0, 1, 1]), bank, np.array([0, 0, 1]), classes=2, k=2)
    assert found.tolist() == [True, False, True]


def test_a_query_with_several_labels_is_a_hit_if_it_has_the_class_with_most_votes():
    bank = np.array([[1, 0], [1, 0.1], [0, 1]], np.float32)
    labels = np.array([[1, 1, -1], [1, -1, 0], [-1, -1, 1]])  # two neighbors vote for class 0
    queries = np.array([[1, 0], [1, 0], [1, 0]], np.float32)
    wanted = np.array([[1, -1, 1], [-1, 1, 1], [0, 1, 1]])
    found = neighbor_hits(queries, wanted, bank, labels, classes=3, k=2)
    assert found.tolist() == [True, False, False]


def test_votes_of_several_labels_equal_a_loop():
    bank, queries = draw(30, 6), draw(12, 6, seed=1)
    rng = np.random.default_rng(2)
    labels, wanted = (rng.choice([-1, 0, 1], (n, 4)) for n in (30, 12))
    found = neighbor_hits(queries, wanted, bank, labels, classes=4, k=5)
    for query, present, hit in zip(queries, wanted, found, strict=True):
        cosines = bank @ query / np.linalg.norm(bank, axis=1) / np.linalg.norm(query)
        votes = np.zeros(4)
        for i in np.argsort(-cosines)[:5]:
            votes += np.exp(cosines[i] / 0.07) * (labels[i] == 1)
        assert hit == (present[votes.argmax()] == 1)


def test_features_of_zeros_are_misses_and_no_neighbors():
    bank = np.array([[0, 0], [1, 0]], np.float32)
    queries = np.array([[0, 0], [1, 0]], np.float32)
    labels = np.array([1, 0])
    found = neighbor_hits(queries, np.array([0, 0]), bank, labels, classes=2, k=2)
    assert found.tolist() == [False, True]
    assert not neighbor_hits(queries, labels, 0 * bank, labels, classes=2, k=2).any()
