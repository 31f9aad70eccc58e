"""Which scenes make each batch."""

from itertools import islice

import pytest

from msbreg.run.errors import UserError
from tests.transfer.detectors import data_by_detectron2 as by_detectron2
from transfer.detectors.samples import (
    endless_order,
    grouped,
    share_of_batch,
    testing_share,
    training_keys,
)

testing_share.__test__ = False
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


def test_processes_share_one_order_without_overlap():
    whole = list(islice(endless_order(7, 3, rank=0, world=1), 60))
    for world in (2, 3):
        shares = [list(islice(endless_order(7, 3, rank=r, world=world), 20)) for r in range(world)]
        assert sorted(key for share in shares for key in share) == whole[: 20 * world]


def test_every_scene_occurs_once_before_any_repeats():
    keys = list(islice(endless_order(7, 3, rank=0, world=1), 21))
    assert [position for position, _ in keys] == list(range(21))
    epochs = [[index for _, index in keys[at : at + 7]] for at in (0, 7, 14)]
    assert [sorted(epoch) for epoch in epochs] == [list(range(7))] * 3
    assert epochs[0] != epochs[1]


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


def test_processes_share_a_batch_equally():
    assert share_of_batch(16, 8) == 2
    with pytest.raises(
        UserError, match="IMS_PER_BATCH is 15 with 2 processes; expected a positive multiple of 2"
    ):
        share_of_batch(15, 2)
    with pytest.raises(UserError, match="IMS_PER_BATCH is 0 with 1 processes"):
        share_of_batch(0, 1)


@pytest.mark.parametrize(("size", "world"), [(10, 3), (2, 4), (9, 1), (8, 2)])
def test_test_shares_partition_the_scenes_in_order(size, world):
    shares = [testing_share(size, rank=rank, world=world) for rank in range(world)]
    assert [index for share in shares for index in share] == list(range(size))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
