"""Nearest neighbors and votes, one query and one neighbor at a time."""

import math

import numpy as np


def nearest(queries, bank, k, metric="cosine"):
    """Sort the whole bank by (descending similarity, ascending index) for each query.

    The similarity is the cosine, or the negative Euclidean distance, computed in extended precision where
    the machine has it and rounded to float32.
    """
    similarities, indices = [], []
    for query in queries.astype(np.float32).astype(np.longdouble):
        row = [
            similarity(query, other, metric)
            for other in bank.astype(np.float32).astype(np.longdouble)
        ]
        order = sorted(range(len(bank)), key=lambda index: (-row[index], index))[:k]
        indices.append(order)
        similarities.append([row[index] for index in order])
    return np.array(similarities), np.array(indices)


def similarity(query, other, metric):
    if metric == "euclidean":
        return np.float32(-np.sqrt(((query - other) ** 2).sum()))
    return np.float32((query * other).sum() / np.sqrt((query**2).sum() * (other**2).sum()))


def weighted_vote(similarities, labels_of_neighbors, classes, temperature):
    """Add exp(s / temperature) to the score of each neighbor's class, without rescaling."""
    scores = np.zeros((len(similarities), classes))
    for query, (row, labels) in enumerate(zip(similarities, labels_of_neighbors, strict=True)):
        for similarity, label in zip(row, labels, strict=True):
            scores[query, label] += math.exp(float(similarity) / temperature)
    return scores


def majority_vote(labels_of_neighbors, classes):
    """Count the neighbors of each class, one at a time."""
    scores = np.zeros((len(labels_of_neighbors), classes))
    for query, labels in enumerate(labels_of_neighbors):
        for label in labels:
            scores[query, label] += 1
    return scores
