"""Distributions of the sampled view parameters, compared with torchvision's by their largest difference.

Two samples of n draws from one distribution have a Kolmogorov-Smirnov distance above BOUND with a
probability alpha of about 1 in 10,000: BOUND = sqrt(-ln(alpha / 2) / 2) * sqrt(2 / n).
"""

import functools
import itertools
import math
from collections import Counter

import numpy as np
import pytest
import torch
from scipy.stats import ks_2samp
from torchvision.transforms import ColorJitter, GaussianBlur, RandomResizedCrop

from pretrain.views import JITTER, Augmentation, ViewParameters, sample

DRAWS = 3000
BOUND = math.sqrt(-math.log(1e-4 / 2) / 2) * math.sqrt(2 / DRAWS)  # 0.057
STRONG = Augmentation(jitter=1.0, brightness=0.8, contrast=0.6, saturation=1.2, hue=0.4)
# The second and third are so narrow that many crops do not fit, and the largest center crop is taken.
SHAPES = [(375, 500), (100, 600), (900, 120)]


@functools.cache
def ours(height: int, width: int) -> list[ViewParameters]:
    generator = np.random.default_rng(0)
    return [sample(STRONG, height, width, generator) for _ in range(DRAWS)]


@functools.cache
def jitter_of_torchvision() -> list[tuple[list[int], dict[str, float]]]:
    """(order, factors) of each draw."""
    strengths = (STRONG.brightness, STRONG.contrast, STRONG.saturation, STRONG.hue)
    ranges = ColorJitter(*strengths)
    torch.manual_seed(0)
    draws = [
        ColorJitter.get_params(ranges.brightness, ranges.contrast, ranges.saturation, ranges.hue)
        for _ in range(DRAWS)
    ]
    return [(d[0].tolist(), dict(zip(JITTER, d[1:], strict=True))) for d in draws]


def distance(first: np.ndarray, second: np.ndarray) -> float:
    return float(ks_2samp(first, second).statistic)


@pytest.mark.parametrize(("height", "width"), SHAPES)
def test_areas_ratios_and_places_of_crops_are_distributed_like_torchvisions(height, width):
    torch.manual_seed(0)
    image = torch.empty(1).expand(3, height, width)
    theirs = [
        RandomResizedCrop.get_params(image, [0.08, 1.0], [3 / 4, 4 / 3]) for _ in range(DRAWS)
    ]
    sampled = [(p.top, p.left, p.height, p.width) for p in ours(height, width)]
    for name, of in {
        "area": lambda top, left, h, w: h * w,
        "ratio": lambda top, left, h, w: w / h,
        "row": lambda top, left, h, w: top / max(1, height - h),
        "column": lambda top, left, h, w: left / max(1, width - w),
    }.items():
        first, second = (np.array([of(*crop) for crop in crops]) for crops in (sampled, theirs))
        assert distance(first, second) <= BOUND, name


@pytest.mark.parametrize("part", JITTER)
def test_jitter_amounts_are_distributed_like_torchvisions(part):
    amounts = np.array([dict(p.jitter)[part] for p in ours(*SHAPES[0])])
    theirs = np.array([amount[part] for _, amount in jitter_of_torchvision()])
    assert distance(amounts, theirs) <= BOUND


def test_blur_sigmas_are_distributed_like_torchvisions():
    torch.manual_seed(0)
    theirs = np.array([GaussianBlur.get_params(0.1, 2.0) for _ in range(DRAWS)])
    assert distance(np.array([p.blur_sigma for p in ours(*SHAPES[0])]), theirs) <= BOUND


def test_all_orders_of_the_jitter_are_equally_frequent_as_in_torchvision():
    sampled = Counter(tuple(JITTER.index(n) for n, _ in p.jitter) for p in ours(*SHAPES[0]))
    theirs = Counter(tuple(order) for order, _ in jitter_of_torchvision())
    for counts in (sampled, theirs):
        frequency = np.array([counts[order] for order in itertools.permutations(range(4))])
        chi_squared = ((frequency - DRAWS / 24) ** 2 / (DRAWS / 24)).sum()
        assert chi_squared <= 55  # 23 degrees of freedom: exceeded by chance once in 5,000


def test_the_choices_of_a_view_are_independent():
    often = Augmentation(jitter=0.5, gray=0.5, blur=0.5, solarize=0.5)
    generator = np.random.default_rng(0)
    drawn = [sample(often, 375, 500, generator) for _ in range(DRAWS)]
    happened = [
        (p.flip, bool(p.jitter), p.gray, p.blur_sigma > 0, p.solarize, p.height * p.width)
        for p in drawn
    ]
    amounts = [
        [*(dict(p.jitter)[part] for part in JITTER), p.blur_sigma, p.flip, p.height * p.width]
        for p in ours(*SHAPES[0])
    ]
    for columns in (np.array(happened, float), np.array(amounts)):
        correlations = np.corrcoef(columns, rowvar=False)
        np.fill_diagonal(correlations, 0)
        assert np.abs(correlations).max() <= 4 / math.sqrt(DRAWS)  # four standard deviations


def test_the_bound_detects_another_distribution():
    """A uniform ratio instead of a log-uniform one, and a sigma that starts at 0.3."""
    generator = np.random.default_rng(0)
    uniform = generator.uniform(3 / 4, 4 / 3, DRAWS)
    assert distance(uniform, np.exp(generator.uniform(*np.log([3 / 4, 4 / 3]), DRAWS))) > BOUND
    sigmas = np.array([p.blur_sigma for p in ours(*SHAPES[0])])
    assert distance(sigmas, generator.uniform(0.3, 2.0, DRAWS)) > BOUND
