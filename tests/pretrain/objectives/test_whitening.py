import pytest
import torch
from torch import Tensor

from pretrain.objectives.whitening import (
    cholesky_whitened,
    decorrelated,
    decorrelation_loss,
    inverse_square_root,
    w_mse_loss,
)
from tests.reference import objectives as reference


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=seeded(seed), dtype=torch.float64)


def covariance(rows: Tensor, *, divisor: int) -> Tensor:
    centered = rows - rows.mean(0)
    return centered.T @ centered / divisor


def test_cholesky_whitened_embeddings_have_zero_mean_and_unit_covariance():
    white = cholesky_whitened(draw(0, 20, 5) @ draw(1, 5, 5) + 3, epsilon=0.0)
    torch.testing.assert_close(white.mean(0), torch.zeros(5, dtype=torch.float64))
    torch.testing.assert_close(
        covariance(white, divisor=19), torch.eye(5, dtype=torch.float64), rtol=0, atol=1e-10
    )


def parts_drawn(seed: int, images: int, sizes: list[int], *, iterations: int) -> list:
    """The parts of each partition, as lists of images."""
    generator = seeded(seed)
    orders = [torch.randperm(images, generator=generator) for _ in range(iterations)]
    return [[part.tolist() for part in order.split(sizes)] for order in orders]


@pytest.mark.parametrize(
    ("views", "images", "sizes"),
    [(2, 12, [6, 6]), (3, 12, [6, 6]), (2, 6, [6]), (2, 11, [11]), (2, 15, [8, 7])],
)
@pytest.mark.parametrize("epsilon", [0.0, 0.1])
def test_w_mse_loss_is_the_distance_of_images_whitened_within_their_part(
    views, images, sizes, epsilon
):
    z = draw(0, views, images, 3)
    parts = parts_drawn(4, images, sizes, iterations=2)
    torch.testing.assert_close(
        w_mse_loss(z, size=6, iterations=2, epsilon=epsilon, generator=seeded(4)),
        reference.w_mse_loss(z, parts=parts, epsilon=epsilon),
    )


@pytest.mark.parametrize("views", [2, 3])
def test_w_mse_loss_and_its_gradient_are_those_of_lightly(views):
    loss = pytest.importorskip("lightly.loss.wmse_loss").WMSELoss(
        embedding_dim=3, w_size=6, w_iter=2, num_samples=views, eps=0.1
    )
    ours = draw(0, views, 12, 3).float().requires_grad_()
    theirs = draw(0, views, 12, 3).float().requires_grad_()
    ours_loss = w_mse_loss(ours, size=6, iterations=2, epsilon=0.1, generator=seeded(4))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)  # lightly draws from the global generator
        theirs_loss = loss(theirs.flatten(0, 1))
    torch.testing.assert_close(ours_loss, theirs_loss)
    ours_loss.backward()
    theirs_loss.backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-6)


def test_w_mse_loss_ignores_an_affine_map_of_each_view_that_keeps_its_axes():
    """Cholesky whitening undoes a shift and a positive scale of each dimension."""
    z = draw(0, 2, 12, 3)
    moved = z * draw(1, 2, 1, 3).exp() + draw(2, 2, 1, 3)
    losses = [
        w_mse_loss(x, size=6, iterations=1, epsilon=0.0, generator=seeded(4)) for x in (z, moved)
    ]
    torch.testing.assert_close(losses[0], losses[1])


def test_w_mse_loss_in_one_part_ignores_the_order_of_images():
    z = draw(0, 2, 7, 3)
    loss, permuted = (
        w_mse_loss(x, size=7, iterations=1, epsilon=0.0, generator=seeded(0))
        for x in (z, z[:, [3, 0, 6, 5, 1, 4, 2]])
    )
    torch.testing.assert_close(permuted, loss)


def test_collapsed_embeddings_have_a_w_mse_loss_of_2_and_a_finite_gradient():
    z = torch.ones(2, 8, 3, requires_grad=True)
    loss = w_mse_loss(z, size=4, iterations=1, epsilon=0.1, generator=seeded(0))
    loss.backward()
    assert loss.item() == 2
    assert z.grad is not None
    assert z.grad.isfinite().all()


def test_collapsed_embeddings_without_epsilon_are_an_error():
    with pytest.raises(torch.linalg.LinAlgError, match="not positive-definite"):
        w_mse_loss(torch.ones(2, 8, 3), size=4, iterations=1, epsilon=0.0, generator=seeded(0))


@pytest.mark.parametrize(
    ("shape", "size", "iterations", "epsilon", "message"),
    [
        ((1, 8, 3), 4, 1, 0.0, "at least 2 views and 1 iteration, got 1 and 1"),
        ((2, 8, 3), 4, 0, 0.0, "at least 2 views and 1 iteration, got 2 and 0"),
        ((2, 3, 2), 4, 1, 0.0, "at least size = 4 images, got 3"),
        ((2, 8, 4), 4, 1, 0.0, "size = 4 images in 4 dimensions has no inverse; expected size > 4"),
    ],
)
def test_w_mse_loss_rejects_inputs_that_it_cannot_whiten(shape, size, iterations, epsilon, message):
    with pytest.raises(ValueError, match=message):
        w_mse_loss(
            draw(0, *shape),
            size=size,
            iterations=iterations,
            epsilon=epsilon,
            generator=seeded(0),
        )


@pytest.mark.parametrize("groups", [1, 2, 6])
@pytest.mark.parametrize("epsilon", [0.0, 0.1])
@pytest.mark.parametrize("shuffle", [None, [4, 1, 0, 5, 3, 2]])
def test_decorrelated_whitens_each_group_by_zca(groups, epsilon, shuffle):
    z = draw(0, 10, 6) @ draw(1, 6, 6) + 2
    ours = decorrelated(
        z,
        groups=groups,
        epsilon=epsilon,
        shuffle=None if shuffle is None else torch.tensor(shuffle),
    )
    theirs = reference.decorrelated(
        z, groups=groups, epsilon=epsilon, shuffle=shuffle or list(range(6))
    )
    torch.testing.assert_close(ours, theirs)


def test_the_covariance_within_each_group_is_the_identity():
    shuffle = torch.tensor([4, 1, 0, 5, 3, 2])
    white = decorrelated(draw(0, 10, 6) @ draw(1, 6, 6), groups=2, epsilon=0.0, shuffle=shuffle)
    for group in shuffle.split(3):
        torch.testing.assert_close(
            covariance(white[:, group], divisor=10),
            torch.eye(3, dtype=torch.float64),
            rtol=0,
            atol=1e-10,
        )
    torch.testing.assert_close(white.square().sum(1).mean().item(), 6.0)


def test_decorrelated_in_groups_of_one_dimension_is_batch_normalization():
    z = draw(0, 10, 6)
    torch.testing.assert_close(
        decorrelated(z, groups=6, epsilon=1e-5),
        torch.nn.functional.batch_norm(z, None, None, training=True),
    )


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("shuffled", [False, True])
def test_decorrelation_loss_is_the_mean_squared_distance_over_pairs_of_views(normalize, shuffled):
    z = draw(0, 3, 10, 6)
    orders = [[4, 1, 0, 5, 3, 2], [0, 2, 4, 1, 3, 5], [5, 4, 3, 2, 1, 0]]
    white = [
        reference.decorrelated(
            view, groups=2, epsilon=0.1, shuffle=order if shuffled else [0, 1, 2, 3, 4, 5]
        )
        for view, order in zip(z, orders, strict=True)
    ]
    if normalize:
        white = [torch.stack([row / row.norm() for row in view]) for view in white]
    loss = decorrelation_loss(
        z,
        groups=2,
        epsilon=0.1,
        shuffles=torch.tensor(orders) if shuffled else None,
        normalize=normalize,
    )
    torch.testing.assert_close(loss, reference.pairwise_squared_distance(white))


def test_decorrelation_loss_ignores_the_order_of_images():
    z = draw(0, 2, 7, 4)
    loss, permuted = (
        decorrelation_loss(x, groups=2, epsilon=0.0) for x in (z, z[:, [3, 0, 6, 5, 1, 4, 2]])
    )
    torch.testing.assert_close(permuted, loss)


def test_decorrelation_loss_of_opposite_views_is_the_largest_possible():
    z = draw(0, 1, 10, 6)
    opposite = torch.cat([z, -z])
    assert decorrelation_loss(opposite, groups=2, epsilon=0.0).item() == pytest.approx(4 * 6)
    assert decorrelation_loss(
        opposite, groups=2, epsilon=0.0, normalize=True
    ).item() == pytest.approx(4)


def test_collapsed_embeddings_have_a_finite_gradient_of_the_decorrelation_loss():
    z = torch.ones(2, 8, 4, requires_grad=True)  # all eigenvalues are equal
    decorrelation_loss(z, groups=2, epsilon=1e-3).backward()
    assert z.grad is not None
    assert z.grad.isfinite().all()


def test_inverse_square_root_has_the_gradient_of_finite_differences_at_equal_eigenvalues():
    factor = draw(0, 2, 4, 4)
    distinct = factor @ factor.mT + torch.eye(4, dtype=torch.float64)
    equal = 3 * torch.eye(4, dtype=torch.float64)[None]

    def symmetric_root(matrices: Tensor) -> Tensor:
        return inverse_square_root((matrices + matrices.mT) / 2)

    for matrices in (distinct, equal):
        root = inverse_square_root(matrices)
        torch.testing.assert_close(root @ matrices @ root, torch.eye(4).to(root).expand_as(root))
        assert torch.autograd.gradcheck(symmetric_root, matrices.requires_grad_())


def test_gradients_match_finite_differences():
    shuffles = torch.tensor([[2, 0, 3, 1], [0, 3, 1, 2]])
    for loss in (
        lambda z: w_mse_loss(z, size=5, iterations=2, epsilon=0.1, generator=seeded(0)),
        lambda z: decorrelation_loss(z, groups=2, epsilon=0.1, shuffles=shuffles),
    ):
        assert torch.autograd.gradcheck(loss, draw(0, 2, 6, 4).requires_grad_())


@pytest.mark.parametrize(
    ("shape", "groups", "shuffle", "message"),
    [
        ((8, 6), 4, None, "6 dimensions cannot be split into 4 equal groups"),
        (
            (3, 6),
            2,
            None,
            "3 images in groups of 3 dimensions has no inverse; expected more than 3",
        ),
        ((8, 6), 2, torch.arange(5), r"a shuffle of 6, got \(5,\)"),
    ],
)
def test_decorrelated_rejects_inputs_that_it_cannot_whiten(shape, groups, shuffle, message):
    with pytest.raises(ValueError, match=message):
        decorrelated(draw(0, *shape), groups=groups, epsilon=0.0, shuffle=shuffle)


def test_decorrelation_loss_needs_two_views_and_one_shuffle_for_each():
    with pytest.raises(ValueError, match="at least 2 views, got 1"):
        decorrelation_loss(draw(0, 1, 8, 4), groups=2, epsilon=0.1)
    with pytest.raises(ValueError, match="one shuffle per view, got 1 for 2 views"):
        decorrelation_loss(draw(0, 2, 8, 4), groups=2, epsilon=0.1, shuffles=torch.arange(4)[None])
