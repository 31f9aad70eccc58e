import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from pretrain.losses import singular_value_input, singular_value_loss
from pretrain.monitor import (
    alignment,
    covariance_eigenvalues,
    describe,
    describe_collapse,
    embedding_report,
    force_report,
    identity_report,
    knn_top1,
    uniformity,
)
from tests.reference import feature_statistics


def draw(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_alignment_is_the_mean_squared_distance_of_unit_vectors():
    first, second = draw(0, 20, 5), draw(1, 20, 5)
    by_hand = np.mean(
        [
            float((a / a.norm() - b / b.norm()).pow(2).sum())
            for a, b in zip(first, second, strict=True)
        ]
    )
    assert alignment(first, second) == pytest.approx(by_hand, rel=1e-5)
    assert alignment(first, 3 * first) == pytest.approx(0, abs=1e-10)
    assert alignment(first, -first) == pytest.approx(4)


def test_uniformity_is_the_log_mean_potential_of_all_pairs():
    x = draw(0, 12, 5)
    unit = F.normalize(x, dim=-1)
    potentials = [
        math.exp(-2 * float((unit[i] - unit[j]).pow(2).sum())) for i in range(12) for j in range(i)
    ]
    assert uniformity(x) == pytest.approx(math.log(np.mean(potentials)), rel=1e-4)
    assert uniformity(torch.ones(5, 3)) == pytest.approx(0)


def test_a_collapse_is_described_and_healthy_embeddings_are_not():
    healthy = embedding_report(draw(0, 64, 16), draw(1, 64, 16), t=2.0)
    point = torch.ones(64, 16) + 1e-3 * draw(0, 64, 16)
    collapsed = embedding_report(point, point, t=2.0)
    line = torch.outer(draw(2, 64), torch.ones(16))
    flat = embedding_report(line, line, t=2.0)
    bounds = {"least_std": 0.1, "least_rank": 2.0}
    assert describe_collapse(healthy, **bounds) == ""
    assert "spread per dimension is 0.00" in describe_collapse(collapsed, **bounds)
    assert "effective rank is 1.0" in describe_collapse(flat, **bounds)


def test_knn_top1_is_the_percentage_of_correct_votes():
    bank = np.eye(3, dtype=np.float32).repeat(4, axis=0)
    labels = np.arange(3).repeat(4)
    queries = np.eye(3, dtype=np.float32)[[0, 1, 2, 2]]
    right = knn_top1(bank, labels, queries, np.array([0, 1, 2, 0]), classes=3, k=4)
    assert right == 75.0


def test_a_row_shows_the_terms_of_any_method():
    row = {"epoch": 3, "step": 9, "total": 1.5, "contrast": 1.25, "std": 0.5, "effective_rank": 7.0}
    assert describe(row) == "epoch 3  loss 1.5000 (contrast 1.25)  std 0.50, rank 7.0"


def test_a_row_shows_neither_forces_nor_ranks_in_the_log():
    row = {"epoch": 3, "step": 9, "total": 1.5, "force/contrast": 1.0, "rankme": 4.0}
    assert describe(row) == "epoch 3  loss 1.5000"


@pytest.mark.parametrize("shape", [(12, 5), (4, 6)])
def test_eigenvalues_match_the_covariance_entry_by_entry(shape):
    inputs = 2 * draw(0, *shape) + 1
    expected = feature_statistics.covariance_eigenvalues(inputs.double().numpy())
    np.testing.assert_allclose(covariance_eigenvalues(inputs), expected, atol=1e-5)


@pytest.mark.parametrize("singular_input", ["raw", "l2", "l2_sqrt_d"])
def test_the_deviation_is_the_singular_value_loss_per_dimension(singular_input):
    predictions = draw(0, 20, 6)
    report = identity_report(predictions, singular_input=singular_input)
    loss = singular_value_loss(singular_value_input(predictions, singular_input)[None])
    assert report["identity_deviation"] == pytest.approx(float(loss) / 6, rel=1e-5)


def test_the_deviation_is_0_for_the_identity_and_1_for_a_point():
    spread = torch.cat([torch.eye(3), -torch.eye(3)]) * (5 / 2) ** 0.5
    identity = {"identity_deviation": 0.0, "largest_eigenvalue": 1.0, "smallest_eigenvalue": 1.0}
    point = {"identity_deviation": 1.0, "largest_eigenvalue": 0.0, "smallest_eigenvalue": 0.0}
    assert identity_report(spread, singular_input="raw") == pytest.approx(identity, abs=1e-6)
    assert identity_report(torch.ones(6, 3), singular_input="raw") == pytest.approx(point)


def test_force_shares_sum_to_1_and_opposite_forces_have_cosine_minus_1():
    force = draw(0, 6, 4)
    report = force_report({"a": force, "b": -3 * force, "c": torch.zeros(6, 4)})
    shares = [report[f"force_share/{name}"] for name in "abc"]
    assert shares == pytest.approx([0.25, 0.75, 0.0])
    assert report["force/a"] == pytest.approx(float(np.linalg.norm(force, axis=1).mean()))
    assert report["force_cosine/a,b"] == pytest.approx(-1)
    assert report["force_cosine/a,c"] == 0
    assert force_report({"a": torch.zeros(2, 3), "b": torch.zeros(2, 3)})["force_share/a"] == 0
    assert force_report({}) == {}
