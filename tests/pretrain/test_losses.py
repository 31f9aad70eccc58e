import pytest
import torch
from torch import Tensor

from pretrain import losses
from tests.reference import losses as reference

SHAPES = [(2, 5, 3), (4, 3, 8), (3, 6, 6), (2, 2, 16)]


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("shape", SHAPES)
def test_centroid_loss_is_equation_3(shape):
    p, z = draw(0, *shape), draw(1, *shape)
    torch.testing.assert_close(losses.centroid_loss(p, z), reference.centroid_loss(p, z))


@pytest.mark.parametrize("shape", SHAPES)
def test_centroid_loss_is_the_pairwise_loss_minus_the_spread_of_the_targets(shape):
    p, z = draw(0, *shape), draw(1, *shape)
    unit = torch.nn.functional.normalize(z, dim=-1)
    spread = (unit - unit.mean(0)).square().sum(-1).mean()
    pairs = reference.all_pairs_loss(p, z)
    torch.testing.assert_close(losses.centroid_loss(p, z), pairs - spread)
    torch.testing.assert_close(losses.pairwise_loss(p, z), pairs)


def test_centroid_and_pairwise_loss_have_the_same_gradient():
    p, z = draw(0, 4, 5, 6).requires_grad_(), draw(1, 4, 5, 6)
    (centroid_gradient,) = torch.autograd.grad(losses.centroid_loss(p, z), p)
    (pairwise_gradient,) = torch.autograd.grad(reference.all_pairs_loss(p, z), p)
    torch.testing.assert_close(centroid_gradient, pairwise_gradient)


@pytest.mark.parametrize("shape", SHAPES)
def test_byol_loss_is_the_mean_over_pairs_of_different_views(shape):
    p, z = draw(0, *shape), draw(1, *shape)
    per_view = [losses.pairwise_loss(p[j, None], losses.other_views(z, j)) for j in range(len(p))]
    torch.testing.assert_close(torch.stack(per_view).mean(), reference.byol_loss(p, z))


@pytest.mark.parametrize("shape", SHAPES)
def test_singular_value_loss_is_equation_7(shape):
    p = draw(0, *shape)
    torch.testing.assert_close(losses.singular_value_loss(p), reference.singular_value_loss(p))


def test_singular_value_loss_is_zero_for_white_predictions():
    centered = draw(0, 50, 6) - draw(0, 50, 6).mean(0)
    basis, _ = torch.linalg.qr(centered)  # orthonormal columns, still centered
    white = basis * 49**0.5
    assert losses.singular_value_loss(white[None]) < 1e-20


@pytest.mark.parametrize(("images", "dimensions"), [(4, 300), (300, 4), (16, 16)])
def test_singular_value_loss_computes_only_the_smaller_matrix(images, dimensions):
    largest = 0
    inputs = images * dimensions

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            if isinstance(out, Tensor) and out.numel() != inputs:
                largest = max(largest, out.numel())
            return out

    predictions = draw(0, 1, images, dimensions).requires_grad_()
    with Watch():
        losses.singular_value_loss(predictions).backward()
    assert largest <= max(min(images, dimensions) ** 2, images, dimensions)


@pytest.mark.parametrize("shape", SHAPES)
def test_brownian_loss_is_equation_4(shape):
    p, n = draw(0, *shape), draw(2, *shape[1:])
    torch.testing.assert_close(losses.brownian_loss(p, n), reference.brownian_loss(p, n))


def test_brownian_loss_with_raw_noise_scales_with_the_noise():
    p, n = draw(0, 2, 5, 3), draw(2, 5, 3)
    raw = losses.brownian_loss(p, n, normalize_noise=False)
    torch.testing.assert_close(losses.brownian_loss(p, 10 * n, normalize_noise=False), 10 * raw)
    torch.testing.assert_close(losses.brownian_loss(p, 10 * n), losses.brownian_loss(p, n))


def test_msbreg_loss_is_the_weighted_sum_of_its_terms():
    p, z, n = draw(0, 3, 5, 4), draw(1, 3, 5, 4), draw(2, 5, 4)
    total, centroid, spread, drift = losses.msbreg_loss(p, z, n, lambda_s=0.3, lambda_b=0.7)
    torch.testing.assert_close(total, centroid + 0.3 * spread + 0.7 * drift)
    torch.testing.assert_close(centroid, losses.centroid_loss(p, z))
    torch.testing.assert_close(spread, losses.singular_value_loss(p))
    torch.testing.assert_close(drift, losses.brownian_loss(p, n))


def test_single_view_losses_average_to_the_loss_of_all_views():
    p, z, n = draw(0, 4, 5, 3), draw(1, 4, 5, 3), draw(2, 5, 3)
    whole = losses.msbreg_loss(p, z, n, lambda_s=0.3, lambda_b=0.7)
    single = [losses.msbreg_loss(p[j, None], z, n, lambda_s=0.3, lambda_b=0.7) for j in range(4)]
    torch.testing.assert_close(
        torch.stack([torch.stack(s) for s in single]).mean(0), torch.stack(whole)
    )


@pytest.mark.parametrize(
    "loss",
    [
        lambda p, z, n: losses.centroid_loss(p, z),
        lambda p, z, n: losses.singular_value_loss(p),
        lambda p, z, n: losses.brownian_loss(p, n),
        lambda p, z, n: losses.pairwise_loss(p, z),
        lambda p, z, n: losses.msbreg_loss(p, z, n, lambda_s=0.3, lambda_b=0.7).total,
    ],
    ids=["centroid", "singular value", "Brownian", "pairs", "msbreg"],
)
@pytest.mark.parametrize("shape", [(2, 4, 3), (3, 3, 5)])
def test_gradients_match_finite_differences(loss, shape):
    z, n = draw(1, *shape), draw(2, *shape[1:])
    assert torch.autograd.gradcheck(lambda p: loss(p, z, n), draw(0, *shape).requires_grad_())


def test_a_single_image_is_rejected():
    with pytest.raises(ValueError, match="at least 2 images, got 1"):
        losses.singular_value_loss(draw(0, 2, 1, 3))
