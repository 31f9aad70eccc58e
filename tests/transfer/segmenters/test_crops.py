"""Training samples are resized, cropped, flipped and recolored; batches are the same for all workers."""

from contextlib import closing
from itertools import islice

import numpy as np
import pytest
import torch

from msbreg.backbones.spec import IMAGENET
from msbreg.data.segmentation.map_sources import open_label_maps
from msbreg.data.training_order import random_state
from tests.msbreg.data.segmentation.map_trees import folders_tree
from transfer.segmenters.crops import (
    crop_window,
    distort,
    normalized,
    scaled_size,
    training_batches,
    training_crop,
)
from transfer.segmenters.segmentation_config import AugmentationOptions

SMALL = AugmentationOptions(crop=(24, 20))


def pair(height: int = 30, width: int = 40) -> tuple[np.ndarray, np.ndarray]:
    """An image whose first channel is its label map."""
    labels = np.random.default_rng(0).integers(0, 3, (height, width)).astype(np.uint8)
    labels = np.kron(labels[:6, :8], np.ones((5, 5), np.uint8))
    return np.repeat(labels[..., None] * 50, 3, axis=2), labels


def crops(options: AugmentationOptions, count: int = 20) -> list[tuple[np.ndarray, np.ndarray]]:
    return [training_crop(*pair(), options, random_state(0, n)) for n in range(count)]


def test_pixels_and_labels_stay_together():
    options = AugmentationOptions(crop=(24, 20), scales=(1, 1))
    for image, labels in crops(options):
        assert labels.shape == (24, 20)
        assert (image[..., 0] == labels * 50).all()


def test_crops_of_small_images_are_as_large_as_the_image():
    options = AugmentationOptions(crop=(64, 20), scales=(0.5, 0.5))
    assert {labels.shape for _, labels in crops(options)} == {(15, 20)}


def test_half_of_the_crops_are_mirrored():
    options = AugmentationOptions(crop=(30, 40), scales=(1, 1))
    _, whole = pair()
    kinds = [
        "same"
        if (labels == whole).all()
        else "mirrored"
        if (labels == whole[:, ::-1]).all()
        else ""
        for _, labels in crops(options, 40)
    ]
    assert kinds.count("same") + kinds.count("mirrored") == 40
    assert 10 <= kinds.count("mirrored") <= 30


@pytest.mark.parametrize(
    ("shape", "scale", "base", "size"),
    [
        ((375, 500), 1.0, (2048, 512), (512, 683)),
        ((1024, 2048), 0.5, (2048, 1024), (512, 1024)),
        ((500, 375), 0.5, None, (250, 188)),
        ((100, 1000), 1.0, (2048, 512), (205, 2048)),
    ],
)
def test_images_are_fitted_into_the_base_times_the_scale(shape, scale, base, size):
    assert scaled_size(shape, scale, base) == size


def test_crops_with_too_much_of_one_class_are_drawn_again():
    labels = np.zeros((40, 40), np.uint8)
    labels[:, 36:] = 1

    def shares(largest_class: float) -> list[float]:
        options = AugmentationOptions(crop=(10, 10), largest_class=largest_class)
        drawn = [labels[crop_window(labels, options, random_state(1, n))] for n in range(40)]
        return [float((window == 0).mean()) for window in drawn]

    assert np.mean([s < 0.75 for s in shares(0.75)]) > 2 * np.mean([s < 0.75 for s in shares(1.0)])


def test_colors_change_but_stay_in_range_and_the_labels_do_not():
    random = np.random.RandomState(0)
    image = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    changed = [distort(image, random) for _ in range(12)]
    assert all(c.dtype == np.uint8 and c.shape == image.shape for c in changed)
    assert sum(not np.array_equal(c, image) for c in changed) > 8
    plain, colored = (
        AugmentationOptions(crop=(24, 20), photometric=photometric) for photometric in (False, True)
    )
    for (_, a), (_, b) in zip(crops(plain), crops(colored), strict=True):
        assert (a == b).all()


def test_the_input_is_zero_outside_of_the_crops():
    pixels = torch.full((2, 3, 4, 5), 200, dtype=torch.uint8)
    x = normalized(pixels, torch.tensor([[4, 5], [2, 3]]), IMAGENET)
    inside = (200 - torch.tensor(IMAGENET.pixel_mean)) / torch.tensor(IMAGENET.pixel_std)
    torch.testing.assert_close(x[1, :, :2, :3], inside.view(3, 1, 1).expand(3, 2, 3))
    assert (x[1, :, 2:] == 0).all()
    assert (x[1, :, :, 3:] == 0).all()
    assert (x[0] != 0).all()


def batches(root, *, first=0, rank=0, world=1, workers=0, count=3):
    source = open_label_maps(f"folders:{root}", "train")
    stream = training_batches(
        source, SMALL, batch=4, seed=3, first=first, rank=rank, world=world, workers=workers
    )
    with closing(stream) as opened:
        return list(islice(opened, count))


def equal(a, b) -> bool:
    return torch.equal(a.pixels, b.pixels) and torch.equal(a.labels, b.labels)


def test_batches_depend_neither_on_workers_nor_on_interruptions(tmp_path):
    root = folders_tree(tmp_path / "data")
    whole = batches(root)
    assert whole[0].pixels.shape == (4, 3, 24, 20)
    assert all(map(equal, whole, batches(root, workers=1)))
    assert equal(whole[2], batches(root, first=2, count=1)[0])


def test_two_processes_share_the_samples_of_one(tmp_path):
    root = folders_tree(tmp_path / "data")
    (whole,) = batches(root, count=1)
    for rank in (0, 1):
        (part,) = batches(root, rank=rank, world=2, count=1)
        assert torch.equal(part.pixels, whole.pixels[rank::2])
