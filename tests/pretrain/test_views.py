"""Augmented views: sampling, pixel operations, and reproducibility of both."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.datasets import load_sample_images
from torchvision.transforms import RandomResizedCrop

from msbreg.data.transforms import image_generator, sample_crop
from msbreg.run.errors import UserError
from pretrain import views
from pretrain.views import Augmentation, make_views, policy, sample
from tests.reference import views as slow

PHOTOGRAPHS = load_sample_images().images  # two of 427 x 640
NOISE = np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype=np.uint8)
SQUARES = [PHOTOGRAPHS[0][100:324, 100:324], PHOTOGRAPHS[1][100:324, 100:324], NOISE]
NEVER = {"flip": 0.0, "jitter": 0.0, "gray": 0.0, "blur": 0.0, "solarize": 0.0}
WHOLE = {"crop_area": (1.0, 1.0), "crop_ratio": (1.0, 1.0)}


def largest_difference(ours: np.ndarray, reference: np.ndarray) -> float:
    assert ours.dtype == np.uint8
    return float(np.abs(ours - reference).max())


def parameters_of(augmentation: Augmentation, count: int) -> list[views.ViewParameters]:
    generator = np.random.default_rng(0)
    return [sample(augmentation, 375, 500, generator) for _ in range(count)]


# ---- Reproducibility


def test_views_depend_only_on_seed_epoch_and_index():
    def run(seed: int, epoch: int, index: int) -> bytes:
        generator = image_generator(seed, epoch, index)
        return make_views(PHOTOGRAPHS[0], policy("table9", 32), 2, generator).tobytes()

    keys = [(0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0), (0, 1, 1), (2**32, 0, 0)]
    forwards = {key: run(*key) for key in keys}
    backwards = {key: run(*key) for key in reversed(keys)}  # another worker, another order
    assert forwards == backwards
    assert len(set(forwards.values())) == len(keys)


def test_views_of_one_image_differ_from_each_other():
    stacked = make_views(PHOTOGRAPHS[0], policy("table9", 32), 4, image_generator(0, 0, 0))
    assert len({view.tobytes() for view in stacked}) == 4


def test_more_views_do_not_change_the_first_ones():
    few, many = (
        make_views(PHOTOGRAPHS[0], policy("byol_alternate", 32), count, image_generator(0, 0, 0))
        for count in (2, 4)
    )
    np.testing.assert_array_equal(few, many[:2])


# ---- Sampling


@pytest.mark.parametrize("name", sorted(views.POLICIES))
def test_choices_have_the_frequencies_of_the_policy(name):
    count = 2000
    for augmentation in policy(name, 224):
        drawn = parameters_of(augmentation, count)
        for chance, happened in (
            (augmentation.flip, [p.flip for p in drawn]),
            (augmentation.jitter, [len(p.jitter) == 4 for p in drawn]),
            (augmentation.gray, [p.gray for p in drawn]),
            (augmentation.blur, [p.blur_sigma > 0 for p in drawn]),
            (augmentation.solarize, [p.solarize for p in drawn]),
        ):
            four_deviations = 4 * math.sqrt(chance * (1 - chance) / count)
            assert abs(np.mean(happened) - chance) <= four_deviations


def test_factors_cover_their_ranges_in_every_order():
    augmentation = Augmentation(jitter=1.0, brightness=1.5)
    drawn = parameters_of(augmentation, 2000)
    ranges = {
        "brightness": (0.0, 2.5),  # 1 - 1.5 is cut at 0
        "contrast": (0.6, 1.4),
        "saturation": (0.8, 1.2),
        "hue": (-0.1, 0.1),
    }
    for name, (lowest, highest) in ranges.items():
        amounts = np.array([dict(p.jitter)[name] for p in drawn])
        slack = 0.01 * (highest - lowest)  # 2000 draws miss an end of 1 % once in e^20
        assert lowest <= amounts.min() < lowest + slack
        assert highest - slack < amounts.max() <= highest
    assert len({tuple(name for name, _ in p.jitter) for p in drawn}) == math.factorial(4)
    sigmas = [p.blur_sigma for p in drawn]
    assert 0.1 <= min(sigmas) < 0.12
    assert 1.98 < max(sigmas) <= 2.0


def test_a_probability_does_not_change_the_other_choices():
    often, never = parameters_of(Augmentation(), 50), parameters_of(Augmentation(blur=0.0), 50)
    assert [replace(p, blur_sigma=0.0) for p in often] == never


def test_an_override_applies_to_every_distribution_of_a_policy():
    assert [a.hue for a in policy("byol_alternate", 32, hue=0.0)] == [0.0, 0.0]


def test_jitter_of_strength_zero_is_omitted():
    (parameters,) = parameters_of(Augmentation(jitter=1.0, brightness=0, hue=0), 1)
    assert sorted(name for name, _ in parameters.jitter) == ["contrast", "saturation"]


RANGES = {"area": (0.08, 1.0), "ratio": (3 / 4, 4 / 3)}


@pytest.mark.parametrize(("height", "width"), [(375, 500), (500, 375), (1, 1), (5, 3), (7, 900)])
def test_crops_are_inside_the_image(height, width):
    generator = np.random.default_rng(0)
    for _ in range(300):
        top, left, h, w = sample_crop(height, width, generator, **RANGES)
        assert 0 <= top <= top + h <= height
        assert 0 <= left <= left + w <= width
        assert min(h, w) > 0


def test_crops_respect_the_ranges_of_area_and_ratio():
    crops = parameters_of(Augmentation(), 1000)
    areas = np.array([p.height * p.width for p in crops]) / (375 * 500)
    ratios = np.array([p.width / p.height for p in crops])
    # Both sides are rounded: an error of half a pixel in at least 90, the side of the smallest crop.
    assert 0.08 * 0.98 <= areas.min() <= areas.max() <= 1.0
    assert 3 / 4 * 0.98 <= ratios.min() <= ratios.max() <= 4 / 3 * 1.02


def test_crops_are_distributed_like_those_of_torchvision():
    torch.manual_seed(0)
    image = torch.empty(3, 375, 500)
    theirs = np.array(
        [RandomResizedCrop.get_params(image, [0.08, 1.0], [3 / 4, 4 / 3]) for _ in range(2000)]
    )
    ours = np.array(
        [(p.top, p.left, p.height, p.width) for p in parameters_of(Augmentation(), 2000)]
    )
    deviation = np.sqrt((ours.var(0) + theirs.var(0)) / 2000)  # of the difference of means
    assert (np.abs(ours.mean(0) - theirs.mean(0)) <= 4 * deviation).all()
    assert (np.abs(ours.std(0) / theirs.std(0) - 1) <= 0.1).all()  # 1 / sqrt(2 * 2000) = 1.6 %


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [(100, 10, (43, 0, 13, 10)), (10, 100, (0, 43, 10, 13)), (10, 10, (0, 0, 10, 10))],
)
def test_a_crop_that_never_fits_becomes_the_largest_center_crop(height, width, expected):
    # A crop with the area of the image fits only if it has the image's aspect ratio.
    ranges = RANGES | {"area": (1.0, 1.0)}
    assert sample_crop(height, width, np.random.default_rng(1), **ranges) == expected


def test_even_and_odd_views_use_their_own_distributions():
    even, odd = policy("byol_alternate", 32)
    assert (even.blur, even.solarize, odd.blur, odd.solarize) == (1.0, 0.0, 0.1, 0.2)

    same = Augmentation(size=224, **NEVER, **WHOLE)
    inverted = Augmentation(size=224, **{**NEVER, "solarize": 1.0}, **WHOLE, solarize_threshold=0)
    stacked = make_views(SQUARES[0], (same, inverted), 4, np.random.default_rng(0))
    for j, view in enumerate(stacked):
        image = SQUARES[0].transpose(2, 0, 1)
        np.testing.assert_array_equal(view, 255 - image if j % 2 else image)


# ---- Pixel operations


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("size", [64, 224])
def test_resize_matches_pillow(size, interpolation):
    for image in PHOTOGRAPHS:
        for height, width in ((427, 640), (300, 280), (100, 130), (5, 3), (1, 1)):
            crop = image[20 : 20 + height, 30 : 30 + width] if height < 400 else image
            ours = views.resize(crop, size, size, interpolation)
            reference = slow.resize(crop, size, interpolation)
            # Both round after each pass, with integer weights of different precision.
            assert largest_difference(ours, reference) <= 2
            assert np.abs(ours - reference).mean() <= 0.05


@pytest.mark.parametrize(
    ("part", "amounts", "bound"),
    [
        # One rounding is half a level. The reference uses a luma of 0.2989 for red, which affects contrast
        # and saturation; saturation also uses fixed-point weights.
        ("brightness", [0.0, 0.6, 1.0, 1.37, 2.5], 0.51),
        ("contrast", [0.0, 0.6, 1.0, 1.37, 2.5], 0.55),
        ("saturation", [0.0, 0.8, 1.0, 1.2], 0.8),
        ("hue", [-0.5, -0.1, -0.033, -1e-9, 0.0, 0.07, 0.1, 0.5], 0.51),
    ],
)
def test_jitter_matches_torchvision(part, amounts, bound):
    for image in SQUARES:
        for amount in amounts:
            ours = getattr(views, part)(image, amount)
            assert largest_difference(ours, slow.jitter(image, part, amount)) <= bound


def test_gray_matches_torchvision():
    for image in SQUARES:
        ours = views.gray(image)
        assert (ours == ours[..., :1]).all()
        assert largest_difference(ours, slow.gray(image)) <= 0.6  # 0.299 against 0.2989


@pytest.mark.parametrize("sigma", [0.1, 0.5, 1.0, 1.4, 2.0, 5.0])
def test_blur_matches_torchvision(sigma):
    for image in SQUARES:
        # Errors from rounding, fixed-point weights, and the tail beyond 3 sigma.
        ours = views.blur(image, sigma, 0.1)
        reference = slow.blur(image, sigma, 0.1)
        assert largest_difference(ours, reference) <= 1.0
        assert np.abs(ours - reference).mean() <= 0.3  # a rounding costs 0.25


@pytest.mark.parametrize("threshold", [0, 1, 128, 255, 256])
def test_solarize_inverts_values_from_the_threshold_upward(threshold):
    np.testing.assert_array_equal(views.solarize(NOISE, threshold), slow.solarize(NOISE, threshold))


@pytest.mark.parametrize("image", PHOTOGRAPHS, ids=["china", "flower"])
def test_a_complete_view_matches_the_reference(image):
    augmentation = Augmentation(size=96, jitter=1.0)
    generator = np.random.default_rng(0)
    for _ in range(24):
        parameters = sample(augmentation, *image.shape[:2], generator)
        ours = views.apply(image, parameters, augmentation)
        difference = np.abs(ours - slow.apply(image, parameters, augmentation))
        # Rounding errors accumulate; jitter can amplify earlier ones by 1.4 or rotate a dark hue.
        assert difference.mean() <= 0.6
        assert difference.max() <= 5


def test_the_order_of_the_jitter_is_respected():
    parts = (("brightness", 1.4), ("contrast", 0.6))
    augmentation = Augmentation(size=224)
    for jitter in (parts, parts[::-1]):
        parameters = views.ViewParameters(0, 0, 224, 224, False, jitter, False, 0.0, False)
        ours = views.apply(SQUARES[0], parameters, augmentation)
        reference = slow.apply(SQUARES[0], parameters, augmentation)
        assert largest_difference(ours, reference) <= 1.3  # two roundings, the first times 1.4


def test_views_without_augmentation_equal_the_image():
    augmentation = Augmentation(size=224, **NEVER, **WHOLE)
    stacked = make_views(SQUARES[0], (augmentation,), 3, np.random.default_rng(0))
    assert stacked.flags.c_contiguous
    for view in stacked:
        np.testing.assert_array_equal(view, SQUARES[0].transpose(2, 0, 1))


def test_the_image_is_not_modified_and_may_be_read_only():
    image = SQUARES[0].copy()
    image.flags.writeable = False
    make_views(image, policy("table9", 224, solarize=1.0, **WHOLE), 2, np.random.default_rng(0))
    np.testing.assert_array_equal(image, SQUARES[0])


@pytest.mark.parametrize("size", [1, 8, 32])
@pytest.mark.parametrize("shape", [(1, 1), (5, 3), (2, 300)])
def test_tiny_images_and_tiny_views_work(shape, size):
    image = np.full((*shape, 3), 77, np.uint8)
    still = policy("table9", size, jitter=0.0, solarize=0.0)
    stacked = make_views(image, still, 8, np.random.default_rng(0))
    assert stacked.shape == (8, 3, size, size)
    assert (stacked == 77).all()
    make_views(image, policy("table9", size, jitter=1.0, gray=1.0), 8, np.random.default_rng(0))


# ---- Invalid input


@pytest.mark.parametrize(
    "image",
    [np.zeros((4, 4, 3), np.float32), np.zeros((4, 4), np.uint8), np.zeros((3, 0, 3), np.uint8)],
    ids=["dtype", "channels", "empty"],
)
def test_arrays_that_are_not_rgb_images_fail_an_assertion(image):
    with pytest.raises(AssertionError):
        make_views(image, policy("table9", 8), 1, np.random.default_rng(0))


@pytest.mark.parametrize(
    "option",
    [
        {"size": 0},
        {"flip": 1.5},
        {"blur": float("nan")},
        {"crop_area": (0.5, 0.2)},
        {"crop_area": (0.5, 1.2)},
        {"crop_ratio": (0.0, 1.0)},
        {"brightness": -0.1},
        {"hue": 0.6},
        {"blur_sigma": (0.0, 2.0)},
        {"blur_kernel": 0.0},
        {"solarize_threshold": 300},
        {"interpolation": "nearest"},
    ],
    ids=str,
)
def test_an_invalid_option_is_rejected_by_name(option):
    ((name, value),) = option.items()
    with pytest.raises(UserError, match=name) as caught:
        Augmentation(**option)
    assert repr(value) in str(caught.value)


def test_an_unknown_policy_or_option_lists_the_known_ones():
    with pytest.raises(UserError, match=r"byol_alternate, byol_sym, table9"):
        policy("byol", 224)
    with pytest.raises(UserError, match=r"option blurr is unknown.*blur_sigma"):
        policy("table9", 224, blurr=0.5)
