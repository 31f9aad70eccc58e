"""Images of rare classes are repeated exactly as by Detectron2's RepeatFactorTrainingSampler."""

from functools import partial
from itertools import islice
from pathlib import Path

import pytest
import torch

from msbreg.data.scenes import Instance, Scene, Scenes
from tests.transfer.detectors import data_by_detectron2 as by_detectron2
from transfer.detectors.repeat_factors import repeat_factors, repeated, shuffled
from transfer.detectors.samples import endless_order, training_keys

SHOWN = [[0], [0, 1], [], [0, 0], [0], [0], [1, 2], [0], [0], [0]]
"""Labels of the objects in each scene."""


def scenes(shown):
    box = (0.0, 0.0, 1.0, 1.0)
    made = tuple(
        Scene(i, Path(f"{i}.png"), 1, 2, tuple(Instance(box, label) for label in labels))
        for i, labels in enumerate(shown)
    )
    return Scenes("shown", ("a", "b", "c"), made)


FACTORS = [1, 2**0.5, 1, 1, 1, 1, 2, 1, 1, 1]
"""At a threshold of 0.4: class 1 is in 0.2 of the scenes, class 2 in 0.1."""
RECORDED = [6, 8, 2, 9, 1, 0, 7, 4, 1, 3, 6, 5, 1, 8, 5, 1, 4, 2, 6, 6, 7, 3, 9, 0, 6, 9]  # fmt: skip


def test_an_image_is_repeated_by_the_square_root_for_its_rarest_class():
    found = repeat_factors(scenes(SHOWN), 0.4)
    assert found.tolist() == pytest.approx(FACTORS)
    plain = repeat_factors(scenes(SHOWN), 0.4, square_root=False)
    assert plain.tolist() == pytest.approx([factor**2 for factor in FACTORS])


def test_a_threshold_of_zero_repeats_nothing():
    assert repeat_factors(scenes(SHOWN), 0.0).tolist() == [1.0] * 10


def test_fractions_are_rounded_at_random_with_the_right_mean():
    generator = torch.Generator().manual_seed(0)
    factors = torch.tensor([1.0, 1.25, 2.5])
    counts = sum(repeated(factors, generator).bincount(minlength=3) for _ in range(2000))
    # The standard deviation of the mean is 0.5 / sqrt(2000) = 0.011.
    assert (counts / 2000).tolist() == pytest.approx([1, 1.25, 2.5], abs=0.04)


def indices(keys):
    return [index for _, index in keys]


def test_the_order_equals_that_recorded_from_detectron2():
    factors = repeat_factors(scenes(SHOWN), 0.4)
    found = indices(
        islice(endless_order(10, 5, rank=0, world=1, shuffle=partial(shuffled, factors)), 26)
    )
    assert found == RECORDED
    batches = training_keys(10, 2, 5, rank=1, world=2, first=3, repeats=factors)
    assert indices(next(batches)) == RECORDED[13:16:2]


@pytest.mark.parametrize(("rank", "world"), [(0, 1), (1, 3)])
@pytest.mark.parametrize("square_root", [True, False])
def test_factors_and_order_equal_detectron2s(rank, world, square_root):
    by_detectron2.detectron2_data()
    from detectron2.data.samplers import RepeatFactorTrainingSampler as Sampler

    given = [{"annotations": [{"category_id": label} for label in labels]} for labels in SHOWN]
    for threshold in (0.0, 0.15, 0.37, 1.0):
        theirs = Sampler.repeat_factors_from_category_frequency(given, threshold, square_root)
        ours = repeat_factors(scenes(SHOWN), threshold, square_root=square_root)
        assert torch.equal(ours, theirs)
        sampler = Sampler(theirs, seed=5)
        sampler._rank, sampler._world_size = rank, world
        order = endless_order(10, 5, rank=rank, world=world, shuffle=partial(shuffled, ours))
        assert indices(islice(order, 200)) == list(islice(sampler, 200))
