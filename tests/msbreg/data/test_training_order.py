"""Which images each process takes."""

from itertools import islice

import pytest

from msbreg.data.training_order import endless_order, part_of, share_of_batch, testing_share
from msbreg.run.errors import UserError

testing_share.__test__ = False


def test_processes_share_one_order_without_overlap():
    whole = list(islice(endless_order(7, 3, rank=0, world=1), 60))
    for world in (2, 3):
        shares = [list(islice(endless_order(7, 3, rank=r, world=world), 20)) for r in range(world)]
        assert sorted(key for share in shares for key in share) == whole[: 20 * world]


def test_every_image_occurs_once_before_any_repeats():
    keys = list(islice(endless_order(7, 3, rank=0, world=1), 21))
    assert [position for position, _ in keys] == list(range(21))
    epochs = [[index for _, index in keys[at : at + 7]] for at in (0, 7, 14)]
    assert [sorted(epoch) for epoch in epochs] == [list(range(7))] * 3
    assert epochs[0] != epochs[1]


def test_processes_share_a_batch_equally():
    assert share_of_batch(16, 8, name="BATCH") == 2
    with pytest.raises(
        UserError, match="BATCH is 15 with 2 processes; expected a positive multiple of 2"
    ):
        share_of_batch(15, 2, name="BATCH")
    with pytest.raises(UserError, match="BATCH is 0 with 1 processes"):
        share_of_batch(0, 1, name="BATCH")


@pytest.mark.parametrize(("size", "world"), [(10, 3), (2, 4), (9, 1), (8, 2)])
def test_test_shares_partition_the_images_in_order(size, world):
    shares = [testing_share(size, rank=rank, world=world) for rank in range(world)]
    assert [index for share in shares for index in share] == list(range(size))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_parts_have_equal_sizes():
    assert part_of(8, 4) == 2
    with pytest.raises(UserError, match="expected one of: 1, 2, 3, 6"):
        part_of(6, 4)
