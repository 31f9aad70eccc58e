"""Exact nearest neighbors, and two voting rules that turn them into class scores."""

from msbreg.neighbors.search import check_backend, nearest, nearest_across_processes
from msbreg.neighbors.voting import majority_vote, weighted_vote

__all__ = [
    "check_backend",
    "majority_vote",
    "nearest",
    "nearest_across_processes",
    "weighted_vote",
]
