import math

import pytest
import torch
from torch import Tensor

from pretrain.objectives.contrast import (
    batch_contrast_loss,
    enqueue,
    nt_xent_loss,
    queue_contrast_loss,
)
from tests.reference import objectives as reference


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("shape", [(2, 5, 3), (2, 2, 8), (4, 3, 6)])
@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_nt_xent_loss_is_equation_1_of_simclr_for_each_pair_of_views(shape, temperature):
    z = draw(0, *shape)
    torch.testing.assert_close(
        nt_xent_loss(z, temperature=temperature),
        reference.nt_xent_loss(z, temperature=temperature),
    )


def test_nt_xent_loss_of_many_views_is_the_mean_over_pairs_of_views():
    z = draw(0, 3, 5, 4)
    pairs = [nt_xent_loss(z[[i, j]], temperature=0.2) for i, j in [(0, 1), (0, 2), (1, 2)]]
    torch.testing.assert_close(nt_xent_loss(z, temperature=0.2), torch.stack(pairs).mean())


def test_nt_xent_loss_and_its_gradient_are_those_of_lightly():
    loss = pytest.importorskip("lightly.loss").NTXentLoss(temperature=0.2)
    ours, theirs = draw(0, 2, 6, 4).requires_grad_(), draw(0, 2, 6, 4).requires_grad_()
    ours_loss, theirs_loss = nt_xent_loss(ours, temperature=0.2), loss(*theirs)
    torch.testing.assert_close(ours_loss, theirs_loss)
    ours_loss.backward()
    theirs_loss.backward()
    torch.testing.assert_close(ours.grad, theirs.grad)


def test_queue_contrast_loss_is_equation_1_of_moco():
    q, k, queue = draw(0, 5, 4), draw(1, 5, 4), draw(2, 7, 4)
    torch.testing.assert_close(
        queue_contrast_loss(q, k, queue, temperature=0.2),
        reference.queue_contrast_loss(q, k, queue, temperature=0.2),
    )


def test_queue_contrast_loss_is_that_of_lightly_with_the_same_queue():
    loss = pytest.importorskip("lightly.loss").NTXentLoss(0.2, memory_bank_size=(7, 4))
    q, k, queue = (draw(seed, n, 4).float() for seed, n in enumerate((5, 5, 7)))
    loss.memory_bank.bank = torch.nn.functional.normalize(queue, dim=1)
    torch.testing.assert_close(queue_contrast_loss(q, k, queue, temperature=0.2), loss(q, k))


@pytest.mark.parametrize("images", [2, 5])
def test_batch_contrast_loss_is_algorithm_1_of_moco_v3(images):
    q, k = draw(0, images, 4), draw(1, images, 4)
    torch.testing.assert_close(
        batch_contrast_loss(q, k, temperature=0.2),
        reference.batch_contrast_loss(q, k, temperature=0.2),
    )


def test_equal_embeddings_cannot_be_told_apart():
    z = torch.ones(2, 6, 4, dtype=torch.float64)
    nt_xent = nt_xent_loss(z, temperature=0.1)
    queue = queue_contrast_loss(z[0], z[1], z[0, :3], temperature=0.1)
    batch = batch_contrast_loss(z[0], z[1], temperature=0.1)
    losses = [nt_xent.item(), queue.item(), batch.item() / 0.2]
    assert losses == pytest.approx([math.log(11), math.log(4), math.log(6)])


def test_contrastive_losses_ignore_the_length_of_embeddings():
    z, queue = draw(0, 2, 6, 4), draw(1, 5, 4)
    scaled, longer = z * draw(2, 2, 6, 1).exp(), queue * draw(3, 5, 1).exp()
    for loss in (
        lambda z, queue: nt_xent_loss(z, temperature=0.1),
        lambda z, queue: queue_contrast_loss(*z, queue, temperature=0.1),
        lambda z, queue: batch_contrast_loss(*z, temperature=0.1),
    ):
        torch.testing.assert_close(loss(scaled, longer), loss(z, queue))


def test_contrastive_losses_ignore_the_order_of_images():
    z, queue = draw(0, 2, 6, 4), draw(1, 5, 4)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    for loss in (
        lambda z: nt_xent_loss(z, temperature=0.1),
        lambda z: queue_contrast_loss(*z, queue, temperature=0.1),
        lambda z: batch_contrast_loss(*z, temperature=0.1),
    ):
        torch.testing.assert_close(loss(z[:, order]), loss(z))


def test_gradients_of_contrastive_losses_match_finite_differences():
    z, keys, queue = draw(0, 2, 3, 4).requires_grad_(), draw(1, 3, 4), draw(2, 5, 4)
    assert torch.autograd.gradcheck(lambda z: nt_xent_loss(z, temperature=0.3), z)
    queries = draw(3, 3, 4).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda q: queue_contrast_loss(q, keys, queue, temperature=0.3), queries
    )
    assert torch.autograd.gradcheck(
        lambda q: batch_contrast_loss(q, keys, temperature=0.3), queries
    )


def test_keys_and_queue_get_no_gradient():
    q, k, queue = (draw(seed, 4, 3).requires_grad_() for seed in range(3))
    loss = queue_contrast_loss(q, k, queue, temperature=0.1) + batch_contrast_loss(
        q, k, temperature=0.1
    )
    loss.backward()
    assert q.grad is not None
    assert k.grad is None
    assert queue.grad is None


def test_the_queue_always_holds_the_most_recent_keys():
    queue, pointer = torch.zeros(5, 1), 0
    keys = torch.arange(1.0, 29.0)[:, None]
    sizes = [2, 3, 5, 4, 4, 5, 1, 4]  # some batches end at the end of the queue, some wrap around
    for batch in keys.split(sizes):
        queue, pointer = enqueue(queue, pointer, batch)
    assert pointer == sum(sizes) % 5
    assert queue.roll(-pointer, 0).flatten().tolist() == [24, 25, 26, 27, 28]  # oldest first


def test_enqueue_leaves_the_given_queue_unchanged():
    queue, keys = torch.zeros(3, 2), torch.ones(2, 2, requires_grad=True)
    new, _ = enqueue(queue, 0, keys)
    assert queue.eq(0).all()
    assert not new.requires_grad


def test_a_batch_larger_than_the_queue_is_rejected():
    with pytest.raises(ValueError, match="a queue of 3 keys cannot take a batch of 4"):
        enqueue(torch.zeros(3, 2), 0, torch.zeros(4, 2))


@pytest.mark.parametrize(("shape", "given"), [((1, 4, 3), "1 of 4"), ((2, 1, 3), "2 of 1")])
def test_nt_xent_loss_needs_two_views_of_two_images(shape, given):
    with pytest.raises(ValueError, match=f"at least 2 views of at least 2 images, got {given}"):
        nt_xent_loss(draw(0, *shape), temperature=0.1)


def test_every_query_needs_a_key():
    with pytest.raises(ValueError, match="one key per query, got 3 for 4"):
        queue_contrast_loss(draw(0, 4, 2), draw(1, 3, 2), draw(2, 5, 2), temperature=0.1)
    with pytest.raises(ValueError, match="one key per query, got 4 and 3"):
        batch_contrast_loss(draw(0, 4, 2), draw(1, 3, 2), temperature=0.1)
    with pytest.raises(ValueError, match="at least 2 queries .*, got 1 and 1"):
        batch_contrast_loss(draw(0, 1, 2), draw(1, 1, 2), temperature=0.1)
