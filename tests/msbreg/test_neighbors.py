"""The search matches scikit-learn's brute force; the votes match scikit-learn and slow references."""

import importlib
import math
import subprocess
import sys
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier, NearestNeighbors

from msbreg.neighbors import majority_vote, nearest, weighted_vote
from msbreg.neighbors.exact import fixed_order_sums
from msbreg.neighbors.faiss_search import scan_with_faiss
from msbreg.neighbors.shortlist import BFloat16Scores, scan
from msbreg.neighbors.vectors import Vectors
from msbreg.run.errors import UserError
from tests.msbreg import search_processes
from tests.processes import run_code, run_many
from tests.reference import neighbors as slow

# Float32 dot products of 32-dimensional unit vectors can differ by a few units in the last place.
ROUNDING = 1e-6


# Every way to search; all give equal neighbors and equal similarities.
WAYS = {
    "bfloat16": {"backend": "torch", "precision": "bfloat16"},
    "float32": {"backend": "torch", "precision": "float32"},
    **({"faiss": {"backend": "faiss"}} if find_spec("faiss") else {}),
}


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


@pytest.mark.parametrize("k", [1, 5, 100])
@pytest.mark.parametrize("queries", [3, 24])  # FAISS uses another algorithm from 20 queries on
@pytest.mark.parametrize("rows_at_once", [7, 1000])
@pytest.mark.parametrize("way", WAYS)
def test_equal_similarities_are_ordered_by_index(way, rows_at_once, queries, k):
    # Entries of +-1 in 4 dimensions: 16 directions, all products exact, hundreds of ties per query.
    draw = np.random.default_rng(5)
    bank = draw.choice(np.float32([-1, 1]), (120, 4))
    vectors = draw.choice(np.float32([-1, 1]), (queries, 4))
    similarities, indices = nearest(vectors, bank, k, rows_at_once=rows_at_once, **WAYS[way])
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
    assert np.array_equal(narrow[0], wide[0][:, :20])


@pytest.mark.parametrize("rows_at_once", [1, 8, 599])
def test_the_bank_can_be_searched_in_blocks_of_any_size(features, rows_at_once):
    queries, bank, _ = features
    similarities, indices = nearest(queries, bank, 20, rows_at_once=rows_at_once)
    expected_similarities, expected = nearest(queries, bank, 20)
    assert np.array_equal(indices, expected)
    assert np.array_equal(similarities, expected_similarities)


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


# ---- Hard vectors: every way equals the float64 reference


def hard_vectors(kind):
    """Queries and a bank."""
    draw = np.random.default_rng(11)

    def normal(*shape):
        return draw.standard_normal(shape, dtype=np.float32)

    center = normal(1, 16)
    return {
        "random": lambda: (normal(12, 16), normal(300, 16)),
        "rectified": lambda: (np.maximum(normal(12, 32), 0), np.maximum(normal(300, 32), 0)),
        "duplicated": lambda: (normal(12, 8), np.repeat(normal(20, 8), 15, axis=0)),
        "nearly parallel": lambda: (
            center + 1e-4 * normal(12, 16),
            center + 1e-4 * normal(300, 16),
        ),
        "parallel in float32": lambda: (
            center + 1e-7 * normal(12, 16),
            center + 1e-7 * normal(300, 16),
        ),
        # bfloat16 has steps of 2^-7 above 1: every row is rounded to one of few.
        "equal in bfloat16": lambda: (
            1 + 1e-3 * normal(12, 16),
            1 + 2e-3 * np.abs(normal(300, 16)),
        ),
        "long": lambda: (1e30 * normal(12, 16), 1e30 * normal(300, 16)),
        "short": lambda: (1e-30 * normal(12, 16), 1e-30 * normal(300, 16)),
        "of many lengths": lambda: (
            normal(12, 16),
            normal(300, 16)
            * np.float32(10.0) ** draw.integers(-15, 15, (300, 1)).astype(np.float32),
        ),
        "far from the origin": lambda: (100 + normal(12, 16), 100 + normal(300, 16)),
        "orthogonal": lambda: (
            np.eye(16, dtype=np.float32),
            np.eye(16, dtype=np.float32)[draw.integers(0, 16, 300)],
        ),
        "of one dimension": lambda: (normal(12, 1), normal(300, 1)),
    }[kind]()


HARD = (
    *("random", "rectified", "duplicated", "nearly parallel", "parallel in float32"),
    *("equal in bfloat16", "long", "short", "of many lengths", "far from the origin", "orthogonal"),
    "of one dimension",
)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("kind", HARD)
@pytest.mark.parametrize("way", WAYS)
def test_neighbors_of_hard_vectors_are_those_of_the_reference(way, kind, metric):
    queries, bank = hard_vectors(kind)
    for k in (1, 20):
        similarities, indices = nearest(
            queries, bank, k, metric=metric, rows_at_once=64, **WAYS[way]
        )
        expected_similarities, expected = slow.nearest(queries, bank, k, metric)
        assert np.array_equal(indices, expected)
        assert np.array_equal(similarities, expected_similarities)


def near_ties(scale=1.0):
    """Two queries and 500 rows: 100 rows of nearly the same direction, copies, and copies one bit away."""
    draw = np.random.default_rng(7)
    center = 1 + draw.random((1, 48), dtype=np.float32)
    rows = center + 1e-4 * draw.standard_normal((100, 48), dtype=np.float32)
    shifted = rows.copy()
    shifted[:, 3] = np.nextafter(shifted[:, 3], np.float32(9))
    # A power of two times a row has the same cosine, bit for bit.
    bank = np.concatenate([rows, shifted, 2 * rows, rows, 1.5 * shifted])
    return np.concatenate([center, rows[:1]]), np.float32(scale) * draw.permutation(bank)


@pytest.fixture(scope="module")
def order_of_near_ties():
    queries, bank = near_ties()
    return {
        metric: slow.nearest(queries, bank, len(bank), metric) for metric in ("cosine", "euclidean")
    }


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("k", [1, 20, 333, 499, 500])
@pytest.mark.parametrize("way", WAYS)
def test_near_ties_have_the_order_of_the_reference(order_of_near_ties, way, k, metric):
    queries, bank = near_ties()
    expected = order_of_near_ties[metric]
    for wanted in (slice(0, 1), slice(0, 2)):
        similarities, indices = nearest(
            queries[wanted], bank, k, metric=metric, rows_at_once=37, **WAYS[way]
        )
        assert np.array_equal(indices, expected[1][wanted, :k])
        assert np.array_equal(similarities, expected[0][wanted, :k])


@pytest.mark.parametrize("way", WAYS)
def test_near_ties_of_rows_too_short_for_float32_products_have_the_order_of_the_reference(way):
    queries, bank = near_ties(scale=1e-41)  # products keep few bits
    similarities, indices = nearest(queries, bank, 20, **WAYS[way])
    expected_similarities, expected = slow.nearest(queries, bank, 20)
    assert np.array_equal(indices, expected)
    assert np.array_equal(similarities, expected_similarities)


def shortlists(way, queries, bank, k):
    cpu = torch.device("cpu")
    vectors = [Vectors(rows, "rows", cpu, zeros=False) for rows in (queries, bank)]
    wanted = np.arange(len(queries))
    if way == "faiss":
        return scan_with_faiss(*vectors, wanted, k, metric="cosine", gpus=False)
    return scan(*vectors, wanted, k, metric="cosine", precision=way, rows_at_once=64)


@pytest.mark.parametrize("kind", HARD)
@pytest.mark.parametrize("way", WAYS)
def test_scores_with_constants_are_within_their_bounds_of_the_cosine(way, kind):
    queries, bank = hard_vectors(kind)
    unit_queries, unit_bank = (
        rows / np.linalg.norm(rows, axis=1, keepdims=True)
        for rows in (queries.astype(np.longdouble), bank.astype(np.longdouble))
    )
    cosines = torch.from_numpy((unit_queries @ unit_bank.T).astype(np.float64))
    for found in shortlists(way, queries, bank, 5):
        expected = cosines.gather(1, found.candidates.clamp(min=0))
        error = (found.scores + found.constants[:, None] - expected).abs()
        assert (error <= found.bounds[:, None])[found.candidates >= 0].all()


def test_auto_searches_in_bfloat16_only_for_many_queries(features, monkeypatch):
    used = []

    class Recorded(BFloat16Scores):
        def __init__(self, *arguments):
            used.append(True)
            super().__init__(*arguments)

    monkeypatch.setattr("msbreg.neighbors.shortlist.BFloat16Scores", Recorded)
    monkeypatch.setattr("msbreg.neighbors.search.has_fast_bfloat16", lambda device: True)
    few = nearest(*features[:2], 20)
    assert not used
    many = nearest(np.repeat(features[0], 2, axis=0), features[1], 20)
    assert used
    assert np.array_equal(few[1], many[1][::2])


@pytest.mark.parametrize("way", WAYS)
def test_euclidean_neighbors_match_scikit_learn(features, way):
    queries, bank, _ = features
    similarities, indices = nearest(queries, bank, 5, metric="euclidean", **WAYS[way])
    search = NearestNeighbors(n_neighbors=5, algorithm="brute").fit(bank.astype(np.float64))
    distances, expected = search.kneighbors(queries.astype(np.float64))
    assert np.array_equal(indices, expected)
    np.testing.assert_allclose(-similarities, distances, rtol=1e-6)


@pytest.mark.parametrize("way", ["bfloat16", "float32"])
def test_a_shortlist_keeps_rows_that_its_precision_cannot_tell_from_the_nearest(way):
    # 1,500 rows differ from the query by less than bfloat16 resolves; the last ones are the nearest.
    draw = np.random.default_rng(0)
    query = 1 + draw.random((1, 64), dtype=np.float32)
    noise = draw.standard_normal((1500, 64), dtype=np.float32)
    bank = query + noise * np.linspace(2e-3, 1e-5, 1500, dtype=np.float32)[:, None]
    cpu = torch.device("cpu")
    vectors = [Vectors(rows, "rows", cpu, zeros=False) for rows in (query, bank)]
    found = scan(*vectors, np.array([0]), 5, metric="cosine", precision=way, rows_at_once=100)
    (shortlist,) = found
    _, expected = slow.nearest(query, bank, 5)
    assert shortlist.complete.all()
    assert set(expected[0]) <= set(shortlist.candidates[0].tolist())
    assert np.array_equal(nearest(query, bank, 5, **WAYS[way])[1], expected)


def test_a_query_with_more_near_rows_than_a_shortlist_holds_is_searched_in_float64():
    draw = np.random.default_rng(1)
    center = draw.standard_normal((1, 8), dtype=np.float32)
    bank = center + 1e-6 * draw.standard_normal((4000, 8), dtype=np.float32)
    cpu = torch.device("cpu")
    vectors = [Vectors(rows, "rows", cpu, zeros=False) for rows in (center, bank)]
    (shortlist,) = scan(*vectors, np.array([0]), 3, metric="cosine", precision="float32")
    assert not shortlist.complete.any()
    similarities, indices = nearest(center, bank, 3)
    expected_similarities, expected = slow.nearest(center, bank, 3)
    assert np.array_equal(indices, expected)
    assert np.array_equal(similarities, expected_similarities)


@pytest.mark.parametrize("way", WAYS)
def test_zero_features_have_euclidean_neighbors(way):
    bank = np.float32([[1, 0], [0, 0], [0, 0]])
    similarities, indices = nearest(bank, bank, 2, metric="euclidean", **WAYS[way])
    assert indices.tolist() == [[0, 1], [1, 2], [1, 2]]
    assert similarities.tolist() == [[0, -1], [0, 0], [0, 0]]


def test_features_that_are_not_finite_have_no_euclidean_neighbors(features):
    broken = features[0].copy()
    broken[0, 0] = np.nan
    with pytest.raises(UserError, match=r"queries: 1 of 150 features are not finite"):
        nearest(broken, features[1], 5, metric="euclidean")


@pytest.mark.parametrize("way", WAYS)
def test_arrays_may_be_memory_mapped(features, tmp_path, way):
    for name, rows in zip(("queries", "bank"), features[:2], strict=True):
        np.save(tmp_path / f"{name}.npy", rows)
    mapped = [np.load(tmp_path / f"{name}.npy", mmap_mode="r") for name in ("queries", "bank")]
    found = nearest(*mapped, 20, rows_at_once=64, **WAYS[way])
    expected = nearest(*features[:2], 20)
    assert np.array_equal(found[0], expected[0])
    assert np.array_equal(found[1], expected[1])


def test_the_bank_is_not_copied_in_float32():
    bank = random_features(600, seed=2)
    vectors = Vectors(bank, "bank", torch.device("cpu"), zeros=False)
    assert np.shares_memory(vectors.block(100, 200).numpy(), bank)


def test_allowing_bfloat16_products_elsewhere_does_not_change_the_neighbors(features):
    expected = nearest(*features[:2], 20, precision="float32")
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        found = nearest(*features[:2], 20, precision="float32")
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)
    assert np.array_equal(found[0], expected[0])
    assert np.array_equal(found[1], expected[1])


def test_no_queries_have_no_neighbors(features):
    similarities, indices = nearest(features[0][:0], features[1], 3)
    assert similarities.shape == indices.shape == (0, 3)


def test_sums_in_a_fixed_order_do_not_depend_on_the_other_rows():
    terms = np.random.default_rng(0).standard_normal((50, 37)).astype(np.float64)
    together = fixed_order_sums(terms.copy())
    alone = np.concatenate([fixed_order_sums(row[None].copy()) for row in terms])
    assert np.array_equal(together, alone)
    np.testing.assert_allclose(together, [math.fsum(row) for row in terms], rtol=1e-12)


# ---- Several processes


@pytest.mark.parametrize("processes", [2, 3])
def test_several_processes_find_what_one_finds_bit_for_bit(processes, tmp_path):
    codes = run_many("tests.msbreg.search_processes", processes, tmp_path)
    assert codes == [0] * processes
    queries, bank = search_processes.features()
    for metric in ("cosine", "euclidean"):
        expected = nearest(queries, bank, 7, metric=metric)
        for rank in range(processes):
            found = np.load(tmp_path / f"{metric}-{rank}.npz")
            assert np.array_equal(found["similarities"], expected[0])
            assert np.array_equal(found["indices"], expected[1])


# ---- FAISS


def test_without_faiss_the_search_works_and_the_backend_faiss_is_refused():
    program = """
import importlib.abc, sys
class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name == "faiss":
            raise ModuleNotFoundError("No module named 'faiss'", name="faiss")
sys.meta_path.insert(0, Absent())
import numpy
from msbreg.neighbors import nearest
from msbreg.run.errors import UserError
features = numpy.random.default_rng(0).standard_normal((300, 8))
assert (nearest(features, features, 2)[1][:, 0] == numpy.arange(300)).all()
try:
    nearest(features, features, 2, backend="faiss")
except UserError as error:
    assert "FAISS is not installed" in str(error), error
else:
    raise SystemExit("no error")
"""
    code, _, message = run_code(program)
    assert code == 0, message


def write_distribution(folder, name):
    info = folder / f"{name.replace('-', '_')}-1.15.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.15.1\n")


def test_two_distributions_of_faiss_are_refused_with_the_remedy(tmp_path, monkeypatch, features):
    for name in ("faiss-cpu", "faiss-gpu"):
        write_distribution(tmp_path, name)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match=r"faiss-cpu 1.15.1, faiss-gpu 1.15.1") as error:
        nearest(*features[:2], 3, backend="faiss")
    assert "pip uninstall faiss-cpu faiss-gpu\n  pip install faiss-gpu" in str(error.value)


@pytest.mark.skipif("faiss" not in WAYS, reason="FAISS is not installed")
def test_faiss_without_gpus_is_refused_as_the_gpu_backend(features):
    if importlib.import_module("faiss").get_num_gpus():
        pytest.skip("this FAISS has a GPU")
    with pytest.raises(UserError, match=r"backend is faiss-gpu, but the installed FAISS"):
        nearest(*features[:2], 3, backend="faiss-gpu")


@pytest.mark.skipif("faiss" not in WAYS, reason="FAISS is not installed")
@pytest.mark.parametrize("first", ["torch", "faiss"])
def test_faiss_and_torch_work_together_in_either_import_order(first):
    program = f"""
import {first}, numpy, torch
from msbreg.neighbors import nearest
square = torch.ones(300, 300)
assert (square @ square)[0, 0] == 300
features = numpy.random.default_rng(0).standard_normal((300, 8))
assert (nearest(features, features, 2, backend="faiss")[1][:, 0] == numpy.arange(300)).all()
assert (square @ square)[0, 0] == 300
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)


def test_rows_in_several_files_have_the_neighbors_of_one_array():
    rng = np.random.default_rng(3)
    bank, queries = (
        rng.standard_normal((50, 6), np.float32),
        rng.standard_normal((9, 6), np.float32),
    )

    class Parts:
        """The rows of the bank, read on access."""

        shape, ndim = bank.shape, 2

        def __len__(self):
            return len(bank)

        def __getitem__(self, rows):
            return bank[rows].copy()

    for metric in ("cosine", "euclidean"):
        wanted = nearest(queries, bank, 7, metric=metric)
        found = nearest(queries, Parts(), 7, metric=metric, rows_at_once=16)
        assert all(np.array_equal(a, b) for a, b in zip(wanted, found, strict=True))
