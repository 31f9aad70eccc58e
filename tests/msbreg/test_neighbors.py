"""The search matches scikit-learn's brute force; the votes match scikit-learn and slow references."""

import subprocess
import sys

import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier, NearestNeighbors

from msbreg.neighbors import majority_vote, nearest, weighted_vote
from msbreg.run.errors import UserError
from tests.reference import neighbors as slow

# Float32 dot products of 32-dimensional unit vectors can differ by a few units in the last place.
ROUNDING = 1e-6


def random_features(rows, seed, width=32):
    return np.random.default_rng(seed).standard_normal((rows, width), dtype=np.float32)


@pytest.fixture(scope="module")
def features():
    """150 queries and a bank of 600 rows in 7 classes."""
    labels = np.random.default_rng(3).integers(0, 7, 600)
    return random_features(150, seed=1), random_features(600, seed=2), labels


def test_neighbors_and_similarities_match_scikit_learn(features):
    queries, bank, _ = features
    similarities, indices = nearest(queries, bank, 20)
    search = NearestNeighbors(n_neighbors=20, algorithm="brute", metric="cosine")
    distances, expected = search.fit(bank).kneighbors(queries)
    assert np.array_equal(np.sort(indices), np.sort(expected))
    np.testing.assert_allclose(similarities, 1 - distances, atol=ROUNDING)


def test_weighted_votes_match_scikit_learn_with_exponential_weights(features):
    queries, bank, labels = features
    similarities, indices = nearest(queries, bank, 20)
    votes = weighted_vote(similarities, labels[indices], 7)
    peer = KNeighborsClassifier(
        20, weights=lambda distances: np.exp((1 - distances) / 0.07), metric="cosine"
    )
    assert np.array_equal(votes.argmax(1), peer.fit(bank, labels).predict(queries))


def test_majority_votes_match_scikit_learn_with_uniform_weights(features):
    queries, bank, labels = features
    _, indices = nearest(queries, bank, 5)
    peer = KNeighborsClassifier(5, metric="cosine").fit(bank, labels)
    assert np.array_equal(majority_vote(labels[indices], 7).argmax(1), peer.predict(queries))


def test_the_search_matches_the_reference(features):
    queries, bank, _ = features
    similarities, indices = nearest(queries[:10], bank, 50)
    expected_similarities, expected = slow.nearest(queries[:10], bank, 50)
    assert np.array_equal(indices, expected)
    np.testing.assert_allclose(similarities, expected_similarities, atol=ROUNDING)


def test_votes_match_the_reference_up_to_one_factor_per_query(features):
    queries, bank, labels = features
    similarities, indices = nearest(queries, bank, 20)
    votes = weighted_vote(similarities, labels[indices], 7, temperature=0.1)
    expected = slow.weighted_vote(similarities, labels[indices], 7, temperature=0.1)
    # Both compute in float64; 20 terms are added in the same order.
    shares = votes / votes.sum(1, keepdims=True)
    np.testing.assert_allclose(shares, expected / expected.sum(1, keepdims=True), rtol=1e-12)
    counts = majority_vote(labels[indices], 7)
    assert np.array_equal(counts, slow.majority_vote(labels[indices], 7))


@pytest.mark.parametrize("k", [1, 3, 5, 12, 150])
@pytest.mark.parametrize("queries", [4, 40])  # FAISS uses another algorithm from 20 queries on
@pytest.mark.parametrize("rows_at_once", [7, 64, 1000])
def test_equal_similarities_are_ordered_by_index(rows_at_once, queries, k):
    # Entries of +-1 in 4 dimensions: 16 directions, all products exact, hundreds of ties per query.
    draw = np.random.default_rng(5)
    bank = draw.choice(np.float32([-1, 1]), (200, 4))
    vectors = draw.choice(np.float32([-1, 1]), (queries, 4))
    similarities, indices = nearest(vectors, bank, k, rows_at_once=rows_at_once)
    expected_similarities, expected = slow.nearest(vectors, bank, k)
    assert np.array_equal(indices, expected)
    assert np.array_equal(similarities, expected_similarities)


def test_with_a_collapsed_backbone_the_neighbors_are_the_first_rows_of_the_bank():
    _, indices = nearest(np.ones((30, 16)), np.ones((500, 16)), 7)
    assert np.array_equal(indices, np.tile(np.arange(7), (30, 1)))


def test_a_search_with_larger_k_begins_with_that_of_smaller_k(features):
    queries, bank, _ = features
    narrow, wide = nearest(queries, bank, 20), nearest(queries, bank, 200)
    assert np.array_equal(narrow[1], wide[1][:, :20])
    # FAISS keeps a heap below k = 100 and a reservoir above; both read the same products.
    np.testing.assert_allclose(narrow[0], wide[0][:, :20], atol=ROUNDING)


@pytest.mark.parametrize("rows_at_once", [1, 8, 599])
def test_the_bank_can_be_searched_in_blocks_of_any_size(features, rows_at_once):
    queries, bank, _ = features
    similarities, indices = nearest(queries, bank, 20, rows_at_once=rows_at_once)
    expected_similarities, expected = nearest(queries, bank, 20)
    assert np.array_equal(indices, expected)
    np.testing.assert_allclose(similarities, expected_similarities, atol=ROUNDING)


def test_k_may_be_the_size_of_the_bank(features):
    queries, bank, _ = features
    _, indices = nearest(queries, bank, len(bank))
    assert np.array_equal(np.sort(indices), np.tile(np.arange(len(bank)), (len(queries), 1)))


def test_half_precision_features_are_converted_to_single_precision(features):
    queries, bank, _ = (part.astype(np.float16) for part in features)
    _, indices = nearest(queries, bank, 10)
    _, expected = nearest(queries.astype(np.float32), bank.astype(np.float32), 10)
    assert np.array_equal(indices, expected)


def test_voting_at_a_tiny_temperature_does_not_overflow():
    votes = weighted_vote(np.float32([[0.9, 0.8, -1.0]]), np.array([[2, 0, 1]]), 3, 1e-4)
    assert votes.tolist() == [[0.0, 0.0, 1.0]]


def test_equal_counts_go_to_the_smallest_class():
    assert majority_vote(np.array([[4, 2, 4, 2, 0]]), 5).argmax(1).tolist() == [2]


@pytest.mark.parametrize("k", [0, 601])
def test_an_invalid_k_is_rejected(features, k):
    with pytest.raises(UserError, match=rf"k is {k}, but the bank has 600 rows"):
        nearest(*features[:2], k)


def test_zero_and_non_finite_features_are_counted_and_rejected(features):
    queries, bank, _ = features
    broken = bank.copy()
    broken[:3] = 0
    broken[5, 2] = np.nan
    broken[6, 1] = np.inf
    with pytest.raises(UserError, match=r"bank: 3 of 600 features are zero and 2 are not finite"):
        nearest(queries, broken, 5)
    with pytest.raises(UserError, match=r"queries: 150 of 150 features are zero"):
        nearest(queries * 0, bank, 5)


def test_features_of_different_dimensions_are_rejected(features):
    with pytest.raises(UserError, match="same backbone and layer"):
        nearest(features[0][:, :8], features[1], 5)


def test_a_label_out_of_range_is_rejected():
    with pytest.raises(UserError, match=r"labels 1..3; expected 0..2"):
        majority_vote(np.array([[1, 3]]), 3)


@pytest.mark.parametrize("first", ["torch", "faiss"])
def test_faiss_and_torch_work_together_in_either_import_order(first):
    program = f"""
import {first}, numpy, torch
from msbreg.neighbors import nearest
square = torch.ones(300, 300)
assert (square @ square)[0, 0] == 300
features = numpy.random.default_rng(0).standard_normal((300, 8))
assert (nearest(features, features, 2)[1][:, 0] == numpy.arange(300)).all()
assert (square @ square)[0, 0] == 300
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)
