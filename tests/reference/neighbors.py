"""Nearest neighbors and votes, one query and one neighbor at a time."""

import math

import numpy as np


def nearest(queries, bank, k):
    """Sort the whole bank by (descending cosine, ascending index) for each query, in float64."""
    similarities, indices = [], []
    for query in queries.astype(np.float64):
        cosines = [
            float(query @ row) / (math.sqrt(query @ query) * math.sqrt(row @ row))
            for row in bank.astype(np.float64)
        ]
        order = sorted(range(len(bank)), key=lambda index: (-cosines[index], index))[:k]
        indices.append(order)
        similarities.append([cosines[index] for index in order])
    return np.array(similarities), np.array(indices)


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
