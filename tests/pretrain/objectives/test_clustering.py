import math

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from pretrain.objectives.clustering import (
    cluster_assignment_loss,
    sinkhorn_codes,
    spherical_kmeans,
    swapped_prediction_loss,
)
from tests.reference import objectives as reference


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=seeded(seed), dtype=torch.float64)


def cosines(seed: int, *shape: int) -> Tensor:
    return draw(seed, *shape).tanh()


@pytest.mark.parametrize("shape", [(6, 4), (4, 6), (1, 3), (5, 1)])
@pytest.mark.parametrize("iterations", [1, 3])
def test_sinkhorn_codes_are_those_of_the_papers_pseudocode(shape, iterations):
    scores = cosines(0, *shape)
    torch.testing.assert_close(
        sinkhorn_codes(scores, epsilon=0.05, iterations=iterations),
        reference.sinkhorn_codes(scores, epsilon=0.05, iterations=iterations),
    )


def test_sinkhorn_codes_are_those_of_lightly():
    sinkhorn = pytest.importorskip("lightly.loss.swav_loss").sinkhorn
    scores = cosines(0, 7, 5)
    torch.testing.assert_close(
        sinkhorn_codes(scores, epsilon=0.05, iterations=3), sinkhorn(scores, 3, 0.05)
    )


def test_sinkhorn_codes_of_an_image_sum_to_1_and_use_all_prototypes_equally_in_the_limit():
    codes = sinkhorn_codes(cosines(0, 8, 4), epsilon=0.3, iterations=200)
    torch.testing.assert_close(codes.sum(1), torch.ones(8, dtype=torch.float64))
    torch.testing.assert_close(codes.sum(0), torch.full((4,), 2.0, dtype=torch.float64))


def test_sinkhorn_codes_ignore_the_order_of_images_and_an_offset():
    scores, order = cosines(0, 6, 4), torch.tensor([3, 0, 5, 1, 4, 2])
    codes = sinkhorn_codes(scores, epsilon=0.05, iterations=3)
    permuted = sinkhorn_codes(scores[order] + 7, epsilon=0.05, iterations=3)
    torch.testing.assert_close(permuted, codes[order])


def test_sinkhorn_codes_are_right_in_float32_where_its_exponential_is_infinite_or_zero():
    scores = 30 * cosines(0, 6, 4)  # exp(30 / 0.05) is 1e260; float32 ends at 3e38
    codes = sinkhorn_codes(scores.float(), epsilon=0.05, iterations=3)
    expected = reference.sinkhorn_codes(scores, epsilon=0.05, iterations=3)
    # A logarithm of 600 has an error of 3e-5 in float32.
    torch.testing.assert_close(codes.double(), expected, rtol=0, atol=1e-3)


def test_sinkhorn_codes_have_no_gradient():
    assert not sinkhorn_codes(
        cosines(0, 4, 3).requires_grad_(), epsilon=0.05, iterations=3
    ).requires_grad


def test_sinkhorn_codes_need_an_iteration():
    with pytest.raises(ValueError, match="at least 1 iteration, got 0"):
        sinkhorn_codes(cosines(0, 4, 3), epsilon=0.05, iterations=0)


@pytest.mark.parametrize(("views", "assigned"), [(2, 2), (2, 1), (5, 2), (3, 3)])
def test_swapped_prediction_loss_predicts_each_code_from_all_other_views(views, assigned):
    scores = [cosines(seed, 4, 3) for seed in range(views)]
    codes = [draw(10 + seed, 4, 3).softmax(1) for seed in range(assigned)]
    torch.testing.assert_close(
        swapped_prediction_loss(scores, codes, temperature=0.1),
        reference.cross_view_entropy(codes, [view / 0.1 for view in scores]),
    )


def test_swapped_prediction_loss_and_its_gradient_are_those_of_lightly():
    loss = pytest.importorskip("lightly.loss").SwaVLoss(sinkhorn_epsilon=0.07)
    ours, theirs = cosines(0, 5, 6, 4).requires_grad_(), cosines(0, 5, 6, 4).requires_grad_()
    codes = [sinkhorn_codes(view, epsilon=0.07, iterations=3) for view in ours[:2]]
    ours_loss = swapped_prediction_loss(list(ours), codes, temperature=0.1)
    theirs_loss = loss(list(theirs[:2]), list(theirs[2:])).squeeze()
    torch.testing.assert_close(ours_loss, theirs_loss)
    ours_loss.backward()
    theirs_loss.backward()
    torch.testing.assert_close(ours.grad, theirs.grad)


def test_swapped_prediction_loss_is_at_least_the_entropy_of_the_codes():
    codes = [draw(seed, 4, 3).softmax(1) for seed in range(2)]
    entropy = -torch.stack([(code * code.log()).sum(1).mean() for code in codes]).mean()
    perfect = [codes[1].log(), codes[0].log()]  # each view predicts the code of the other
    torch.testing.assert_close(swapped_prediction_loss(perfect, codes, temperature=1.0), entropy)
    assert swapped_prediction_loss(perfect, codes, temperature=0.5) > entropy


def test_codes_get_no_gradient():
    scores = [cosines(seed, 4, 3).requires_grad_() for seed in range(2)]
    codes = [draw(seed, 4, 3).softmax(1).requires_grad_() for seed in range(2)]
    swapped_prediction_loss(scores, codes, temperature=0.1).backward()
    assert all(view.grad is not None for view in scores)
    assert all(code.grad is None for code in codes)


@pytest.mark.parametrize(("views", "codes"), [(1, 1), (2, 0), (2, 3)])
def test_swapped_prediction_needs_two_views_and_a_code(views, codes):
    scores, targets = [cosines(0, 4, 3)] * views, [cosines(0, 4, 3)] * codes
    with pytest.raises(ValueError, match=f"got {views} views and {codes} targets"):
        swapped_prediction_loss(scores, targets, temperature=0.1)


@pytest.mark.parametrize("iterations", [0, 1, 6])
@pytest.mark.parametrize("chunk", [7, 1000])
def test_spherical_kmeans_is_lloyds_algorithm_in_chunks(iterations, chunk):
    memory = normalize(draw(0, 40, 3), dim=1)
    start = torch.randperm(40, generator=seeded(1))[:5].tolist()
    centroids, assignments = spherical_kmeans(
        memory, clusters=5, iterations=iterations, generator=seeded(1), chunk=chunk
    )
    expected, labels = reference.spherical_kmeans(memory, start=start, iterations=iterations)
    torch.testing.assert_close(centroids, torch.stack(expected))
    assert assignments.tolist() == labels


def test_spherical_kmeans_finds_separate_clusters():
    directions = torch.eye(4, dtype=torch.float64)[:3]
    labels = torch.arange(60) % 3
    memory = normalize(directions[labels] + 0.1 * draw(0, 60, 4), dim=1)
    # Seed 1 starts with a row of each cluster.
    centroids, assignments = spherical_kmeans(
        memory, clusters=3, iterations=10, generator=seeded(1)
    )
    assert {tuple(pair) for pair in zip(labels.tolist(), assignments.tolist(), strict=True)} == {
        (label, assignments[label].item()) for label in range(3)
    }
    assert (centroids[assignments] * directions[labels]).sum(1).min() > 0.99
    torch.testing.assert_close(centroids.norm(dim=1), torch.ones(3, dtype=torch.float64))


def test_spherical_kmeans_never_decreases_the_similarity_to_the_centroid():
    memory = normalize(draw(0, 200, 8), dim=1)
    similarities = []
    for iterations in range(8):
        centroids, assignments = spherical_kmeans(
            memory, clusters=10, iterations=iterations, generator=seeded(1)
        )
        similarities.append((memory * centroids[assignments]).sum(1).mean().item())
    assert similarities == sorted(similarities)
    assert similarities[-1] > similarities[0]


def test_spherical_kmeans_depends_on_the_generator_alone():
    memory = normalize(draw(0, 50, 3), dim=1)
    runs = [
        spherical_kmeans(memory, clusters=6, iterations=4, generator=seeded(seed))
        for seed in (1, 1, 2)
    ]
    assert torch.equal(runs[0][0], runs[1][0])
    assert torch.equal(runs[0][1], runs[1][1])
    assert not torch.equal(runs[0][0], runs[2][0])


def test_an_empty_cluster_keeps_its_centroid():
    memory = torch.tensor([[1.0, 0.0]]).expand(4, 2)  # all centroids start at the same point
    centroids, assignments = spherical_kmeans(memory, clusters=3, iterations=2, generator=seeded(0))
    assert torch.equal(centroids, memory[:3])
    assert assignments.tolist() == [0, 0, 0, 0]


def test_a_cluster_whose_rows_cancel_keeps_its_centroid():
    memory = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    centroids, _ = spherical_kmeans(memory, clusters=1, iterations=2, generator=seeded(0))
    assert centroids.tolist() in [[[1.0, 0.0]], [[-1.0, 0.0]]]


@pytest.mark.parametrize("clusters", [0, 5])
def test_more_clusters_than_rows_are_rejected(clusters):
    with pytest.raises(ValueError, match=f"expected 1 to 4 clusters for 4 rows, got {clusters}"):
        spherical_kmeans(draw(0, 4, 3), clusters=clusters, iterations=1, generator=seeded(0))


def test_cluster_assignment_loss_is_the_mean_over_views_and_assigned_images():
    scores, targets = [cosines(seed, 5, 4) for seed in range(3)], [2, -100, 0, 3, -100]
    torch.testing.assert_close(
        cluster_assignment_loss(scores, torch.tensor(targets), temperature=0.1),
        reference.cluster_assignment_loss(scores, targets, temperature=0.1),
    )


def test_cluster_assignment_loss_is_the_cross_entropy_of_all_views_together():
    scores, targets = [cosines(seed, 5, 4) for seed in range(3)], torch.tensor([2, -100, 0, 3, 1])
    torch.testing.assert_close(
        cluster_assignment_loss(scores, targets, temperature=0.1),
        torch.nn.functional.cross_entropy(torch.cat(scores) / 0.1, targets.repeat(3)),
    )


def test_cluster_assignment_loss_of_equal_scores_is_the_logarithm_of_the_number_of_clusters():
    loss = cluster_assignment_loss([torch.ones(4, 8)], torch.arange(4), temperature=0.1)
    assert loss.item() == pytest.approx(math.log(8))


def test_cluster_assignment_loss_is_zero_if_no_image_has_an_assignment():
    scores = cosines(0, 3, 4).requires_grad_()
    loss = cluster_assignment_loss([scores], torch.full((3,), -100), temperature=0.1)
    loss.backward()
    assert loss.item() == 0
    assert scores.grad is not None
    assert scores.grad.eq(0).all()


def test_every_view_must_have_scores_of_all_images():
    with pytest.raises(ValueError, match=r"scores of 4 images, got views of \[4, 3\]"):
        cluster_assignment_loss(
            [cosines(0, 4, 2), cosines(1, 3, 2)], torch.zeros(4, dtype=torch.long), temperature=1.0
        )
    with pytest.raises(ValueError, match=r"at least 1 view.* got views of \[\]"):
        cluster_assignment_loss([], torch.zeros(4, dtype=torch.long), temperature=1.0)


def test_gradients_match_finite_differences():
    codes = [draw(seed, 4, 3).softmax(1) for seed in range(2)]
    targets = torch.tensor([2, 0, -100, 1])
    scores = cosines(0, 3, 4, 3).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda s: swapped_prediction_loss(list(s), codes, temperature=0.3), scores
    )
    assert torch.autograd.gradcheck(
        lambda s: cluster_assignment_loss(list(s), targets, temperature=0.3), scores
    )
