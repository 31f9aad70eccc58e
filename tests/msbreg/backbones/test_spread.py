import pytest
import torch
import torch.nn.functional as F

from msbreg.backbones.spread import dimension_std, effective_rank, rankme, singular_spectrum
from tests.reference import feature_statistics


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


@pytest.mark.parametrize("shape", [(12, 5), (5, 12), (6, 6)])
def test_rankme_matches_its_equation(shape):
    features = draw(0, *shape) + 0.5  # an offset counts: the features are not centered
    assert rankme(features) == pytest.approx(feature_statistics.rankme(features.numpy()), rel=1e-4)


def test_rankme_is_1_without_features_and_lowered_by_a_common_offset():
    assert rankme(torch.zeros(4, 3)) == 1.0
    features = draw(0, 200, 16)
    assert rankme(features + 20) < 3 < 15 < rankme(features)
