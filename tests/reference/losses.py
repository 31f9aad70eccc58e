"""The losses of the paper, written like its equations: one image, one view, one pair at a time."""

import torch
from torch import Tensor


def unit(vector: Tensor) -> Tensor:
    return vector / vector.pow(2).sum().sqrt()


def centroid_loss(predictions: Tensor, targets: Tensor) -> Tensor:
    """Eq. 3 for each image, then the mean over images."""
    views, images, _ = predictions.shape
    total = torch.zeros((), dtype=predictions.dtype)
    for i in range(images):
        centroid = sum(unit(targets[k, i]) for k in range(len(targets))) / len(targets)
        for j in range(views):
            total = total + (unit(predictions[j, i]) - centroid).pow(2).sum() / views
    return total / images


def all_pairs_loss(predictions: Tensor, targets: Tensor) -> Tensor:
    """Eq. 1, averaged over images and all ordered pairs of views, including each view with itself."""
    views, images, _ = predictions.shape
    total = torch.zeros((), dtype=predictions.dtype)
    for i in range(images):
        for j in range(views):
            for k in range(len(targets)):
                difference = unit(predictions[j, i]) - unit(targets[k, i])
                total = total + difference.pow(2).sum()
    return total / (images * views * len(targets))


def byol_loss(predictions: Tensor, targets: Tensor) -> Tensor:
    """Eq. 1 in its cosine form, averaged over images and ordered pairs of different views."""
    views, images, _ = predictions.shape
    terms = []
    for i in range(images):
        for j in range(views):
            for k in range(views):
                if j != k:
                    p, z = predictions[j, i], targets[k, i]
                    terms.append(2 - 2 * (p @ z) / (p.norm() * z.norm()))
    return torch.stack(terms).mean()


def singular_value_loss(predictions: Tensor) -> Tensor:
    """Eq. 5 by outer products, Eq. 7 by singular values."""
    views, images, dimensions = predictions.shape
    total = torch.zeros((), dtype=predictions.dtype)
    for j in range(views):
        mean = predictions[j].mean(0)
        covariance = torch.zeros(dimensions, dimensions, dtype=predictions.dtype)
        for i in range(images):
            centered = predictions[j, i] - mean
            covariance = covariance + torch.outer(centered, centered) / (images - 1)
        total = total + (torch.linalg.svdvals(covariance) - 1).pow(2).sum() / views
    return total


def brownian_loss(predictions: Tensor, noise: Tensor) -> Tensor:
    """Eq. 4 for each image, then the mean over images."""
    views, images, _ = predictions.shape
    total = torch.zeros((), dtype=predictions.dtype)
    for i in range(images):
        for j in range(views):
            total = total + unit(noise[i]) @ unit(predictions[j, i]) / views
    return total / images
