"""Whole images, central crops and sliding windows."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from msbreg.backbones.spec import IMAGENET, BackboneSpec, Normalization
from msbreg.train.health import NotFinite
from tests.reference import segmentation as slow
from transfer.segmenters.fcn import Segmenter, build_fcn
from transfer.segmenters.segmentation_config import InferenceOptions, NetworkOptions
from transfer.segmenters.windows import class_scores, label_pixels, sliding_logits

CPU = torch.device("cpu")
WHOLE = InferenceOptions()


@pytest.fixture(scope="module")
def network() -> Segmenter:
    torch.manual_seed(0)
    return build_fcn(BackboneSpec("resnet18-narrow"), 4, NetworkOptions(head="linear")).eval()


def image(height: int = 50, width: int = 70) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def scores(network, picture, **options):
    return class_scores(network, picture, InferenceOptions(**options), IMAGENET, CPU)


class Local(Segmenter):
    """Scores that depend on the place in the window, so that every window gives other ones."""

    def __init__(self) -> None:
        super().__init__()
        self.options = NetworkOptions()
        self.backbone = self.decode_head = nn.Identity()

    def logits(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        rows = torch.arange(images.shape[-2])[:, None] + 2.0 * torch.arange(images.shape[-1])
        return {"decode": torch.stack([images[:, 0] * rows, images[:, 0] - rows], dim=1)}


@pytest.mark.parametrize("size", [(9, 13), (6, 6), (4, 11), (3, 3)])
def test_overlapping_windows_are_averaged_like_the_slow_twin(size):
    plane = np.random.default_rng(1).random(size).astype(np.float32)
    local = Local()

    def score(part):
        return local(torch.from_numpy(part)[None, None])[0].numpy()

    found = sliding_logits(local, torch.from_numpy(plane)[None, None], (6, 6), (4, 4))[0]
    np.testing.assert_allclose(found, slow.sliding(score, plane, 6, 4), rtol=1e-6, atol=1e-6)


def test_one_window_that_covers_all_equals_the_whole_image(network):
    whole = scores(network, image())
    assert torch.equal(scores(network, image(), mode="slide", crop=(99, 70), stride=(9, 9)), whole)


def test_a_central_crop_labels_nothing_outside(network):
    options = InferenceOptions(mode="center", crop=(32, 40))
    labels = label_pixels(network, image(), options, IMAGENET, CPU)
    assert (labels[9:41, 15:55] < 4).all()
    labels[9:41, 15:55] = 255
    assert (labels == 255).all()


def test_small_images_are_padded_to_the_central_crop_as_in_training(network):
    options = InferenceOptions(mode="center", crop=(64, 80))
    found = class_scores(network, image(), options, IMAGENET, CPU)
    x = torch.from_numpy(image()).permute(2, 0, 1)[None].float()
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (IMAGENET.pixel_mean, IMAGENET.pixel_std))
    padded = nn.functional.pad((x - mean) / std, (0, 10, 0, 14))
    with torch.no_grad():
        torch.testing.assert_close(found, network(padded)[0, :, :50, :70])


def test_logits_of_resized_images_have_the_size_of_the_label_map(network):
    found = scores(network, image(), base=(40, 30))
    assert found.shape == (4, 50, 70)


def test_mirror_images_and_scales_are_averaged_as_probabilities(network):
    found = scores(network, image(), flip=True, scales=(1.0, 0.5))
    torch.testing.assert_close(found.sum(0), torch.full((50, 70), 4.0))
    mirrored = scores(network, np.ascontiguousarray(image()[:, ::-1]), flip=True, scales=(1.0, 0.5))
    torch.testing.assert_close(
        found, mirrored.flip(2), rtol=1e-4, atol=1e-5
    )  # sums in other orders


def test_the_input_has_the_channels_and_normalization_of_the_network(network):
    bgr = Normalization((0.4, 0.45, 0.5), (0.2, 0.25, 0.3), "BGR")
    rgb = Normalization((0.5, 0.45, 0.4), (0.3, 0.25, 0.2))
    one = class_scores(network, image(), WHOLE, bgr, CPU)
    swapped = np.ascontiguousarray(image()[..., ::-1])
    other = class_scores(network, swapped, WHOLE, dataclasses.replace(bgr, channels="RGB"), CPU)
    assert torch.equal(one, other)
    assert not torch.equal(one, class_scores(network, image(), WHOLE, rgb, CPU))


def test_logits_that_are_not_finite_are_an_error(network):
    broken = build_fcn(BackboneSpec("resnet18-narrow"), 4, NetworkOptions(head="linear")).eval()
    nn.init.constant_(broken.decode_head.conv_seg.bias, float("nan"))
    with pytest.raises(NotFinite, match="logits are not finite"):
        scores(broken, image())
