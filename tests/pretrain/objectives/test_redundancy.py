import pytest
import torch
from torch import Tensor

from pretrain.objectives.redundancy import (
    barlow_twins_loss,
    negative_cosine_loss,
    vicreg_loss,
    vicreg_terms,
)
from tests.reference import objectives as reference

SHAPES = [(2, 5, 3), (2, 2, 6), (4, 6, 4)]


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("shape", SHAPES)
def test_negative_cosine_loss_is_the_mean_over_pairs_of_different_views(shape):
    p, z = draw(0, *shape), draw(1, *shape)
    torch.testing.assert_close(negative_cosine_loss(p, z), reference.negative_cosine_loss(p, z))


def test_negative_cosine_loss_is_the_symmetrized_loss_of_lightly():
    cosine = pytest.importorskip("lightly.loss").NegativeCosineSimilarity()
    p, z = draw(0, 2, 5, 3), draw(1, 2, 5, 3)
    expected = (cosine(p[0], z[1]) + cosine(p[1], z[0])) / 2
    torch.testing.assert_close(negative_cosine_loss(p, z), expected)


def test_negative_cosine_loss_is_minus_one_for_equal_embeddings():
    equal = draw(0, 1, 5, 3).expand(3, 5, 3)
    assert negative_cosine_loss(equal, 2 * equal).item() == pytest.approx(-1)


def test_projections_get_no_gradient():
    p, z = draw(0, 2, 5, 3).requires_grad_(), draw(1, 2, 5, 3).requires_grad_()
    negative_cosine_loss(p, z).backward()
    assert p.grad is not None
    assert z.grad is None


@pytest.mark.parametrize("shape", SHAPES)
def test_barlow_twins_loss_is_equation_1(shape):
    z = draw(0, *shape)
    torch.testing.assert_close(
        barlow_twins_loss(z, off_diagonal=0.3), reference.barlow_twins_loss(z, off_diagonal=0.3)
    )


def test_barlow_twins_loss_and_its_gradient_are_those_of_lightly():
    loss = pytest.importorskip("lightly.loss").BarlowTwinsLoss(lambda_param=0.3)
    ours, theirs = draw(0, 2, 6, 4).requires_grad_(), draw(0, 2, 6, 4).requires_grad_()
    ours_loss, theirs_loss = barlow_twins_loss(ours, off_diagonal=0.3), loss(*theirs)
    torch.testing.assert_close(ours_loss, theirs_loss)
    ours_loss.backward()
    theirs_loss.backward()
    torch.testing.assert_close(ours.grad, theirs.grad)


def test_barlow_twins_loss_ignores_shift_and_scale_of_each_dimension():
    z = draw(0, 2, 8, 4)
    moved = z * draw(1, 2, 1, 4).exp() + draw(2, 2, 1, 4)
    # The 1e-5 that is added to the variances is not scaled with them.
    torch.testing.assert_close(
        barlow_twins_loss(moved, off_diagonal=0.3),
        barlow_twins_loss(z, off_diagonal=0.3),
        rtol=1e-3,
        atol=0,
    )


def test_barlow_twins_loss_of_collapsed_embeddings_is_the_number_of_dimensions():
    z = torch.ones(2, 6, 4, requires_grad=True)
    loss = barlow_twins_loss(z, off_diagonal=0.3)
    loss.backward()
    assert loss.item() == 4
    assert z.grad is not None
    assert z.grad.isfinite().all()


@pytest.mark.parametrize("shape", SHAPES)
def test_vicreg_terms_are_equations_1_to_5(shape):
    z = draw(0, *shape)
    torch.testing.assert_close(tuple(vicreg_terms(z)), reference.vicreg_terms(z))


@pytest.mark.parametrize("term", [(1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)])
def test_each_vicreg_term_is_that_of_lightly(term):
    loss = pytest.importorskip("lightly.loss").VICRegLoss(*term)
    z = draw(0, 2, 6, 4)
    weights = dict(zip(("invariance", "variance", "covariance"), term, strict=True))
    torch.testing.assert_close(vicreg_loss(vicreg_terms(z), **weights), loss(*z))


def test_vicreg_terms_vanish_for_equal_views_with_uncorrelated_dimensions_of_large_variance():
    white = torch.tensor([[1.0, 1], [1, -1], [-1, 1], [-1, -1]], dtype=torch.float64)
    assert vicreg_terms(torch.stack([white, white])) == (0, 0, 0)


def test_vicreg_terms_of_collapsed_embeddings_have_a_finite_gradient():
    z = torch.ones(2, 6, 4, requires_grad=True)
    terms = vicreg_terms(z)
    vicreg_loss(terms, invariance=25, variance=25, covariance=1).backward()
    assert [term.item() for term in terms] == pytest.approx([0, 0.99, 0])
    assert z.grad is not None
    assert z.grad.isfinite().all()


@pytest.mark.parametrize(
    "loss",
    [
        lambda z: negative_cosine_loss(z, z.detach() + 1),
        lambda z: barlow_twins_loss(z, off_diagonal=0.3),
        lambda z: vicreg_loss(vicreg_terms(z), invariance=25, variance=25, covariance=1),
    ],
    ids=["negative cosine", "Barlow Twins", "VICReg"],
)
def test_losses_ignore_the_order_of_images_and_of_views(loss):
    z = draw(0, 3, 6, 4)
    torch.testing.assert_close(loss(z[:, [3, 0, 5, 1, 4, 2]]), loss(z))
    torch.testing.assert_close(loss(z[[2, 0, 1]]), loss(z))


@pytest.mark.parametrize(
    "loss",
    [
        lambda z: negative_cosine_loss(z, draw(1, *z.shape)),
        lambda z: barlow_twins_loss(z, off_diagonal=0.3),
        lambda z: vicreg_loss(vicreg_terms(z), invariance=25, variance=25, covariance=1),
    ],
    ids=["negative cosine", "Barlow Twins", "VICReg"],
)
def test_gradients_match_finite_differences(loss):
    assert torch.autograd.gradcheck(loss, draw(0, 3, 4, 3).requires_grad_())


@pytest.mark.parametrize(("shape", "given"), [((1, 4, 3), "1 of 4"), ((2, 1, 3), "2 of 1")])
def test_statistics_need_two_views_of_two_images(shape, given):
    message = f"at least 2 views of at least 2 images, got {given}"
    with pytest.raises(ValueError, match=message):
        barlow_twins_loss(draw(0, *shape), off_diagonal=0.3)
    with pytest.raises(ValueError, match=message):
        vicreg_terms(draw(0, *shape))


@pytest.mark.parametrize(("predictions", "projections"), [(1, 1), (2, 3)])
def test_predictions_and_projections_must_be_of_the_same_views(predictions, projections):
    message = rf"got \({predictions}, 4, 3\) and \({projections}, 4, 3\)"
    with pytest.raises(ValueError, match=message):
        negative_cosine_loss(draw(0, predictions, 4, 3), draw(1, projections, 4, 3))
