import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_images
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Resize

from msbreg.backbones.resnet import normalize
from msbreg.backbones.spec import IMAGENET, Normalization
from msbreg.data.transforms import AugmentationOptions, EvaluationTransform
from msbreg.run.errors import UserError


@pytest.fixture(scope="module")
def photograph():
    return load_sample_images().images[0]


@pytest.mark.parametrize(("resize", "crop"), [(256, 224), (64, 64), (500, 450)])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_the_transform_matches_torchvision_on_pillow_images(
    photograph, resize, crop, interpolation
):
    ours = EvaluationTransform(resize, crop, interpolation)(photograph)
    mode = InterpolationMode(interpolation)
    theirs = Compose([Resize(resize, mode), CenterCrop(crop)])(Image.fromarray(photograph))
    difference = np.abs(ours.transpose(1, 2, 0).astype(int) - np.asarray(theirs))
    assert difference.max() <= 2  # Pillow rounds its weights to 8 bits, torch to 16
    assert difference.mean() < 0.1


def test_portrait_and_landscape_keep_their_aspect_ratio(photograph):
    tall = photograph[:, :200]
    assert EvaluationTransform(32, 32)(tall).shape == (3, 32, 32)
    assert EvaluationTransform(32, 32)(tall.transpose(1, 0, 2)).shape == (3, 32, 32)


def test_an_image_of_the_right_size_is_unchanged(photograph):
    image = np.ascontiguousarray(photograph[:32, :32])
    np.testing.assert_array_equal(EvaluationTransform(32, 32)(image), image.transpose(2, 0, 1))


def test_squash_resizes_the_whole_image(photograph):
    squashed = EvaluationTransform(48, 32, squash=True)(photograph)
    assert squashed.shape == (3, 32, 32)
    left = EvaluationTransform(48, 32, squash=True)(photograph[:, :10])
    assert left.shape == (3, 32, 32)


def test_resize_0_keeps_the_size_and_enlarges_only_small_images(photograph):
    kept = EvaluationTransform(0, 96)(photograph)
    top, left = round((427 - 96) / 2), round((640 - 96) / 2)
    np.testing.assert_array_equal(
        kept, photograph[top : top + 96, left : left + 96].transpose(2, 0, 1)
    )
    assert EvaluationTransform(0, 96)(photograph[:50, :60]).shape == (3, 96, 96)


def test_a_crop_larger_than_the_resized_image_is_rejected():
    with pytest.raises(UserError, match="resize is 200 and crop is 224"):
        EvaluationTransform(200, 224)


def test_normalize_applies_mean_and_std():
    images = torch.randint(0, 256, (2, 3, 4, 4), generator=torch.Generator().manual_seed(0))
    out = normalize(images.to(torch.uint8), torch.device("cpu"))
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (IMAGENET.mean, IMAGENET.std))
    expected = (images / 255 - mean) / std
    torch.testing.assert_close(out, expected)
    assert out.is_contiguous(memory_format=torch.channels_last)


def test_for_bgr_the_channels_are_reversed_before_normalization():
    images = torch.tensor([10, 20, 30], dtype=torch.uint8).view(1, 3, 1, 1)
    bgr = Normalization((0.3, 0.2, 0.1), (1 / 255,) * 3, "BGR")
    out = normalize(images, torch.device("cpu"), bgr)
    torch.testing.assert_close(out.flatten(), torch.tensor([30 - 76.5, 20 - 51, 10 - 25.5]))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (
            {"area": (1.0, 0.5)},
            "area of the augmentation is 1.0 0.5; expected two numbers, .* 0.08 1",
        ),
        ({"ratio": (0.0, 1.0)}, "ratio of the augmentation is 0.0 1.0; expected two numbers"),
        ({"flip": 2.0}, "flip of the augmentation is 2.0; expected a probability"),
        ({"crop": 0}, "crop of the augmentation is 0; expected at least 1 pixel"),
    ],
)
def test_an_option_of_the_augmentation_out_of_range_is_refused_with_the_options(wrong, message):
    with pytest.raises(UserError, match=message):
        AugmentationOptions(**wrong)
