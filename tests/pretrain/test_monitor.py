import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from pretrain.monitor import (
    alignment,
    describe,
    describe_collapse,
    dimension_std,
    effective_rank,
    embedding_report,
    knn_top1,
    singular_spectrum,
    uniformity,
)


def draw(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_std_is_1_for_an_even_spread_and_0_for_equal_embeddings():
    assert dimension_std(draw(0, 5000, 64)) == pytest.approx(1.0, abs=0.02)  # 1/sqrt(5000)
    assert dimension_std(torch.ones(50, 8)) == pytest.approx(0.0, abs=1e-6)


def test_effective_rank_counts_equal_directions():
    assert effective_rank(torch.tensor([3.0, 3.0, 3.0, 0.0])) == pytest.approx(3.0)
    assert effective_rank(torch.tensor([5.0, 0.0])) == pytest.approx(1.0)
    assert effective_rank(torch.zeros(4)) == 1.0


def test_the_spectrum_matches_the_covariance():
    embeddings = draw(0, 40, 6)
    unit = F.normalize(embeddings, dim=-1)
    covariance = torch.cov(unit.T, correction=0)
    expected = torch.linalg.eigvalsh(covariance).flip(0).sqrt()
    torch.testing.assert_close(singular_spectrum(embeddings), expected, atol=1e-5, rtol=1e-4)


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
