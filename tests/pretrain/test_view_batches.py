import numpy as np
import pytest
import torch

from msbreg.data.folder import list_images
from msbreg.run.errors import UserError
from pretrain.view_batches import Order, Recipe, batches_of_views, fixed_views
from pretrain.views import policy


def test_an_epoch_visits_each_image_at_most_once_and_drops_the_last_batch():
    order = Order(images=10, batch=3, epochs=2, seed=0)
    epochs = [[], []]
    for batch in order.batches(0):
        for epoch, index in batch:
            epochs[epoch].append(index)
    assert order.steps == 6
    for visited in epochs:
        assert len(visited) == 9
        assert len(set(visited)) == 9
    assert epochs[0] != epochs[1]


def test_the_order_depends_only_on_the_seed():
    first = list(Order(10, 2, 2, seed=0).batches(0))
    assert first == list(Order(10, 2, 2, seed=0).batches(0))
    assert first != list(Order(10, 2, 2, seed=1).batches(0))


@pytest.mark.parametrize("step", [1, 3, 5, 6])
def test_a_resumed_order_continues_at_its_step(step):
    order = Order(images=10, batch=3, epochs=2, seed=0)
    assert list(order.batches(step)) == list(order.batches(0))[step:]


def test_the_batches_of_two_processes_join_to_that_of_one():
    whole = list(Order(10, 4, 2, seed=0).batches(0))
    parts = [list(Order(10, 4, 2, seed=0, world=2, rank=r).batches(0)) for r in (0, 1)]
    assert whole == [a + b for a, b in zip(*parts, strict=True)]


@pytest.mark.parametrize(("batch", "world"), [(11, 1), (5, 2), (2, 2), (4, 3)])
def test_a_batch_that_cannot_be_split_is_rejected(batch, world):
    with pytest.raises(UserError, match="batch_size is"):
        Order(images=10, batch=batch, epochs=1, seed=0, world=world)


PLAIN = Recipe(policy("table9", 16), views=3)


def views_of(root, workers, first_step=0, recipe=PLAIN):
    images = list_images(root / "train")
    order = Order(len(images), 4, 2, seed=0)
    batches = batches_of_views(
        images,
        recipe,
        order,
        first_step=first_step,
        workers=workers,
        device=torch.device("cpu"),
    )
    found = list(batches)
    keys = [[index for _, index in keys] for keys in order.batches(first_step)]
    assert [batch.images.tolist() for batch in found] == keys
    return [batch.views for batch in found]


def equal(first, second):
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_views_do_not_depend_on_the_number_of_workers_or_the_first_step(make_folder):
    root = make_folder(train=4)
    alone = views_of(root, workers=0)
    assert [view.shape for view in alone[0]] == [(4, 3, 16, 16)] * 3
    assert alone[0][0].dtype == torch.uint8
    assert all(map(equal, alone, views_of(root, workers=2)))
    assert all(map(equal, alone[2:], views_of(root, workers=0, first_step=2)))


def test_local_views_come_after_the_others_and_leave_them_unchanged(make_folder):
    root = make_folder(train=4)
    alone = views_of(root, workers=0)
    local = policy("table9", 8, crop_area=(0.05, 0.14))
    both = views_of(root, workers=0, recipe=Recipe(PLAIN.policy, 3, local, 2))
    assert [view.shape[-1] for view in both[0]] == [16, 16, 16, 8, 8]
    assert equal(both[0][:3], alone[0])


def test_independent_views_of_the_target_come_last(make_folder):
    root = make_folder(train=4)
    local = policy("table9", 8, crop_area=(0.05, 0.14))
    recipe = Recipe(PLAIN.policy, 3, local, 2, independent=True)
    (views, *_) = views_of(root, workers=0, recipe=recipe)
    assert [view.shape[-1] for view in views] == [16, 16, 16, 8, 8, 16, 16, 16]
    assert equal(views[:3], views_of(root, workers=0)[0])
    assert not torch.equal(views[0], views[5])


def test_views_finished_on_the_device_are_those_of_the_workers(make_folder):
    root = make_folder(train=4)
    local = policy("table9", 8, crop_area=(0.05, 0.14))
    pairs = []
    for finish in ("worker", "device"):
        recipe = Recipe(PLAIN.policy, 3, local, 2, finish=finish)
        pairs.append([view for views in views_of(root, workers=0, recipe=recipe) for view in views])
    for one, other in zip(*pairs, strict=True):
        # Rounding: tests/pretrain/test_device_views.py has the bounds.
        assert (one.float() - other.float()).abs().mean() < 0.5


@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_image_is_reported_by_name(make_folder, workers):
    root = make_folder(train=4)
    (root / "train" / "class1" / "002.png").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"class1/002\.png is not an image.*\n.*skip-unreadable"):
        views_of(root, workers)


def test_fixed_views_are_spaced_over_the_list_and_repeatable(make_folder):
    images = list_images(make_folder(train=4) / "train")
    views = fixed_views(images, policy("table9", 16), count=4, seed=0)
    assert views.shape == (2, 4, 3, 16, 16)
    assert torch.equal(views, fixed_views(images, policy("table9", 16), count=4, seed=0))
    assert len(np.unique(views.flatten(2).numpy(), axis=1)[0]) == 4
