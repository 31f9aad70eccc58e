"""The mean cosine, pair by pair, and the effective rank, from the eigenvalues of the Gram matrix."""

import itertools
import math

import numpy as np


def mean_pairwise_cosine(features):
    """The mean over all unordered pairs of rows."""
    cosines = [
        float(a @ b) / math.sqrt(float(a @ a) * float(b @ b))
        for a, b in itertools.combinations(features, 2)
    ]
    return sum(cosines) / len(cosines)


def effective_rank(vectors):
    """Singular values are roots of eigenvalues; the entropy is summed one term at a time."""
    eigenvalues = np.linalg.eigvalsh(vectors @ vectors.T)
    singular = [math.sqrt(value) for value in eigenvalues if value > 0]
    entropy = 0.0
    for value in singular:
        share = value / sum(singular)
        entropy -= share * math.log(share)
    return math.exp(entropy)
