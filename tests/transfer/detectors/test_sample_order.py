"""Which scenes make each batch."""

from itertools import islice

import pytest

from tests.transfer.detectors import data_by_detectron2 as by_detectron2
from transfer.detectors.samples import grouped, training_keys

WIDE = [number % 3 != 0 for number in range(17)]


def indices(batches):
    return [[index for _, index in batch] for batch in batches]


@pytest.mark.parametrize(("rank", "world"), [(0, 1), (0, 2), (1, 2), (2, 3)])
@pytest.mark.parametrize("group", [True, False])
def test_batches_equal_detectron2s(rank, world, group):
    data = by_detectron2.detectron2_data()
    from detectron2.data.samplers import TrainingSampler

    sampler = TrainingSampler(len(WIDE), seed=5)
    sampler._rank, sampler._world_size = rank, world
    scenes = [{"width": 2 if wide else 1, "height": 1, "n": n} for n, wide in enumerate(WIDE)]
    theirs = data.build_batch_data_loader(
        data.DatasetFromList(scenes), sampler, 4 * 1, aspect_ratio_grouping=group, num_workers=0
    )
    expected = [[scene["n"] for scene in batch] for batch in islice(theirs, 30)]
    shapes = WIDE if group else len(WIDE)
    ours = training_keys(shapes, 4, 5, rank=rank, world=world)
    assert indices(islice(ours, 30)) == expected


def test_batches_equal_those_recorded_from_detectron2():
    first = indices(islice(training_keys(WIDE, 4, 5, rank=0, world=1), 5))
    assert first == [[15, 9, 6, 3], [13, 1, 4, 10], [14, 7, 11, 2], [8, 5, 16, 13], [0, 12, 6, 3]]
    second = indices(islice(training_keys(len(WIDE), 4, 5, rank=1, world=2), 3))
    assert second == [[15, 6, 1, 10], [0, 11, 12, 5], [6, 4, 16, 15]]


def test_batches_are_wide_or_not_and_lose_no_scene():
    batches = list(islice(training_keys(WIDE, 3, 0, rank=0, world=1), 40))
    assert all(len({WIDE[index] for _, index in batch}) == 1 for batch in batches)
    positions = sorted(position for batch in batches for position, _ in batch)
    assert len(set(positions)) == len(positions)
    assert positions[-1] + 1 - len(positions) < 2 * 3  # scenes in incomplete groups


def test_a_group_that_never_fills_does_not_block_the_other():
    order = iter([(n, n % 5) for n in range(20)])
    batches = indices(grouped(order, [True, True, True, True, False], 8))
    assert batches == [[0, 1, 2, 3, 0, 1, 2, 3], [0, 1, 2, 3, 0, 1, 2, 3]]


@pytest.mark.parametrize("first", [1, 13, 200])
@pytest.mark.parametrize("shapes", [WIDE, len(WIDE)], ids=["grouped", "plain"])
def test_an_order_continues_where_it_stopped(first, shapes):
    whole = islice(training_keys(shapes, 2, 9, rank=1, world=2), first, first + 20)
    later = islice(training_keys(shapes, 2, 9, rank=1, world=2, first=first), 20)
    assert list(whole) == list(later)
