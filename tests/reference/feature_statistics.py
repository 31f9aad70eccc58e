"""The mean cosine, pair by pair, and ranks and spectra from the eigenvalues of small matrices."""

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


def rankme(features):
    """Garrido et al., Eq. 1, one singular value at a time; those that are 0 keep the epsilon."""
    rows, columns = features.shape
    small = features @ features.T if rows <= columns else features.T @ features
    singular = [
        math.sqrt(max(value, 0.0)) for value in np.linalg.eigvalsh(small.astype(np.float64))
    ]
    entropy = 0.0
    for value in singular:
        share = value / sum(singular) + 1e-7
        entropy -= share * math.log(share)
    return math.exp(entropy)


def covariance_eigenvalues(inputs):
    """The covariance entry by entry; its eigenvalues from the largest to the smallest."""
    images, dimensions = inputs.shape
    mean = [sum(row[d] for row in inputs) / images for d in range(dimensions)]
    covariance = np.empty((dimensions, dimensions))
    for i in range(dimensions):
        for j in range(dimensions):
            products = [(row[i] - mean[i]) * (row[j] - mean[j]) for row in inputs]
            covariance[i, j] = sum(products) / (images - 1)
    return np.linalg.eigvalsh(covariance)[::-1]
