"""The mathematics of dense kNN against slow twins, and the memory of a small data set."""

import dataclasses
import functools

import numpy as np
import pytest
import torch
from torch import Tensor

from msbreg.backbones.backbone_interface import TOKENS, Backbone
from msbreg.backbones.inference import FrozenBackbone
from msbreg.backbones.twin import random_backbone
from msbreg.data.segmentation.map_sources import open_label_maps
from msbreg.neighbors import nearest
from msbreg.run.errors import UserError
from tests.msbreg.data.segmentation.map_trees import folders_tree
from tests.reference import segmentation as slow
from transfer.segmenters.patch_memory import (
    MemoryViews,
    build_memory,
    choose_patches,
    dilated,
    patch_shares,
    patches_per_side,
    soft_labels,
    to_square,
    upsampled_labels,
)
from transfer.segmenters.segmentation_config import MemoryOptions

SIDE = 32


@pytest.fixture(scope="module")
def views(tmp_path_factory) -> MemoryViews:
    root = folders_tree(tmp_path_factory.mktemp("maps") / "data", train=3)
    return MemoryViews(open_label_maps(f"folders:{root}", "train"), MemoryOptions(patches=None), 0)


@functools.cache
def frozen() -> FrozenBackbone:
    backbone, provenance = random_backbone("resnet18-tiny", seed=0, image_size=SIDE)
    return FrozenBackbone(backbone, provenance, torch.device("cpu"), representation=TOKENS)


def with_options(views: MemoryViews, **options: object) -> MemoryViews:
    return dataclasses.replace(views, options=MemoryOptions(**options))  # type: ignore[arg-type]


@pytest.mark.parametrize(("shape", "grid"), [((13, 9), 3), ((8, 8), 4), ((2, 5), 4)])
def test_shares_are_those_of_a_loop_over_pixels(shape, grid):
    labels = np.random.default_rng(0).choice(np.array([0, 1, 2, 255], np.uint8), shape)
    expected = slow.patch_shares(labels, grid, 3)
    np.testing.assert_allclose(patch_shares(labels, grid, 3), expected, rtol=1e-6)  # float32


def test_void_patches_are_not_chosen_and_rare_classes_are_preferred():
    shares = np.zeros((101, 2), np.float32)
    shares[:99, 0], shares[99, 1] = 1, 1  # 99 patches of class 0, one of class 1, one void
    chosen = [choose_patches(shares, 5, np.random.default_rng(seed)) for seed in range(20)]
    assert all(len(c) == 5 and (np.diff(c) > 0).all() and c.max() < 100 for c in chosen)
    # By chance, the patch of class 1 would be among 5 of 100 once in 20 draws; 1 x u against 99 x u'.
    assert sum(99 in c for c in chosen) >= 18
    assert choose_patches(shares, None, np.random.default_rng(0)).tolist() == list(range(100))


def test_labels_of_an_image_are_those_of_a_loop_over_patches_and_pixels():
    random = np.random.default_rng(0)
    query, features = random.standard_normal((9, 4)), random.standard_normal((30, 4))
    labels = random.dirichlet(np.full(3, 0.3), 30).astype(np.float32)
    similarities, indices = nearest(query.astype(np.float32), features.astype(np.float32), 5)
    soft = soft_labels(similarities, labels[indices], 0.1)
    found = upsampled_labels(soft, (11, 14))
    expected = slow.labels_by_patches(query, features, labels, 5, 0.1, (11, 14))
    assert len(np.unique(expected)) == 3
    assert np.array_equal(found, expected)


def test_soft_labels_do_not_overflow_at_low_temperatures():
    similarities, labels = np.array([[1.0, -1.0]], np.float32), np.eye(2, dtype=np.float32)[None]
    assert soft_labels(similarities, labels, 1e-4).tolist() == [[1.0, 0.0]]


def test_the_memory_has_the_tokens_of_all_labeled_patches_in_order(views):
    network = frozen()
    memory = build_memory(network, views, SIDE, threads=1)
    grid = patches_per_side(network, SIDE)
    shares = np.concatenate([patch_shares(views.label(i), grid, 3) for i in range(len(views))])
    assert np.array_equal(memory.labels, shares[shares.any(1)])
    assert memory.features.shape == (len(memory.labels), network.width)


def test_a_bounded_memory_has_equally_many_patches_of_every_view_with_their_labels(views):
    network, limit = frozen(), 2
    memory = build_memory(network, with_options(views, patches=7), SIDE, threads=1)
    assert len(memory) == limit * len(views)
    images = [to_square(SIDE)(views.image(i)) for i in range(len(views))]
    tokens = network(torch.from_numpy(np.stack(images))).numpy()
    for i in range(len(views)):
        part = slice(limit * i, limit * (i + 1))
        found = (memory.features[part][:, None] == tokens[i]).all(2)
        places = found.argmax(1)
        assert found.any(1).all()
        assert (np.diff(places) > 0).all()
        assert np.array_equal(memory.labels[part], patch_shares(views.label(i), 2, 3)[places])
    assert memory.labels.std(0).max() > 0


def test_crops_have_the_pixels_of_their_labels_and_are_repeatable(views):
    crops = with_options(views, passes=3, area=(0.3, 0.6), flip=0.5)
    assert len(crops) == 9
    for i in range(3, 9):
        image, labels = crops.image(i), crops.label(i)
        assert image.shape[:2] == labels.shape < views.label(i % 3).shape
        assert (image[labels == 1][:, 0] > 200).all()  # red rectangles, lossless PNG
        assert np.array_equal(crops.image(i), image)
    assert crops.image(3).shape != crops.image(6).shape or (crops.image(3) != crops.image(6)).any()


class Strips(Backbone):
    """Gives one token for every 16 rows of pixels, and one for the image."""

    representations = ("mean",)

    def width(self, representation: str) -> int:
        return 3

    def represent(self, images: Tensor, representation: str) -> Tensor:
        return images.mean((2, 3))

    def tokens(self, images: Tensor) -> Tensor:
        strips = images.unflatten(2, (-1, 16)).mean((3, 4)).transpose(1, 2)
        return torch.cat([strips, images.mean((2, 3))[:, None]], 1)


def test_tokens_that_are_no_square_grid_are_an_error():
    _, provenance = random_backbone("resnet18-tiny", seed=0, image_size=SIDE)
    network = FrozenBackbone(Strips(), provenance, torch.device("cpu"), representation=TOKENS)
    with pytest.raises(UserError, match="the network gives 3 features for a square image"):
        patches_per_side(network, SIDE)


def test_only_resnets_are_dilated():
    with pytest.raises(UserError, match="output_stride is 8, but a Strips is not a ResNet"):
        dilated(Strips(), 8)


def test_a_dilated_resnet_has_more_patches():
    backbone, provenance = random_backbone("resnet18-tiny", seed=0, image_size=SIDE)
    network = FrozenBackbone(
        dilated(backbone, 4), provenance, torch.device("cpu"), representation=TOKENS
    )
    assert (patches_per_side(frozen(), SIDE), patches_per_side(network, SIDE)) == (2, 8)


def test_a_side_that_patches_do_not_divide_is_an_error():
    with pytest.raises(UserError, match=r"side is 40, .* 3 x 3 patches; .* such as --side 42"):
        patches_per_side(frozen(), 40)


def test_a_memory_without_a_patch_for_each_view_is_an_error(views):
    with pytest.raises(UserError, match="3 training images in 2 passes; expected at least 6"):
        build_memory(frozen(), with_options(views, patches=5, passes=2), SIDE, threads=1)
