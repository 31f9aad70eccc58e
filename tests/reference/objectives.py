"""The losses of ``pretrain.objectives``, written like their papers: one pair of embeddings at a time."""

import math

import torch
from torch import Tensor


def cosine(x: Tensor, y: Tensor) -> Tensor:
    return (x @ y) / (x.norm() * y.norm())


def mean(terms: list[Tensor]) -> Tensor:
    return sum(terms[1:], terms[0]) / len(terms)


def unordered_pairs(views: int) -> list[tuple[int, int]]:
    return [(i, j) for i in range(views) for j in range(views) if i < j]


def negative_log_share(positive: Tensor, candidates: list[Tensor], temperature: float) -> Tensor:
    """``-log(exp(s+ / t) / sum of exp(s / t))``; the candidates include the positive."""
    total = sum(torch.exp(similarity / temperature) for similarity in candidates)
    return -torch.log(torch.exp(positive / temperature) / total)


def nt_xent_loss(embeddings: Tensor, *, temperature: float) -> Tensor:
    """SimCLR's Alg. 1: embeddings 2k and 2k + 1 are the two views of image k."""
    views, images, _ = embeddings.shape
    losses = []
    for v, w in unordered_pairs(views):
        z = [embeddings[view, image] for image in range(images) for view in (v, w)]
        for i in range(2 * images):
            partner = i + 1 if i % 2 == 0 else i - 1
            others = [cosine(z[i], z[k]) for k in range(2 * images) if k != i]
            losses.append(negative_log_share(cosine(z[i], z[partner]), others, temperature))
    return mean(losses)


def queue_contrast_loss(
    queries: Tensor, keys: Tensor, queue: Tensor, *, temperature: float
) -> Tensor:
    losses = []
    for query, key in zip(queries, keys, strict=True):
        positive = cosine(query, key)
        candidates = [positive] + [cosine(query, old) for old in queue]
        losses.append(negative_log_share(positive, candidates, temperature))
    return mean(losses)


def batch_contrast_loss(queries: Tensor, keys: Tensor, *, temperature: float) -> Tensor:
    losses = []
    for i, query in enumerate(queries):
        candidates = [cosine(query, key) for key in keys]
        losses.append(negative_log_share(candidates[i], candidates, temperature))
    return 2 * temperature * mean(losses)


def negative_cosine_loss(predictions: Tensor, projections: Tensor) -> Tensor:
    views, images, _ = predictions.shape
    return mean(
        [
            -cosine(predictions[i, n], projections[j, n].detach())
            for i in range(views)
            for j in range(views)
            if i != j
            for n in range(images)
        ]
    )


def barlow_twins_loss(embeddings: Tensor, *, off_diagonal: float) -> Tensor:
    """Eq. 2 with the 1e-5 of batch normalization added to the variances."""
    views, images, dimensions = embeddings.shape
    losses = []
    for v, w in unordered_pairs(views):
        loss = torch.zeros((), dtype=embeddings.dtype)
        for i in range(dimensions):
            for j in range(dimensions):
                a = embeddings[v, :, i] - sum(embeddings[v, :, i]) / images
                b = embeddings[w, :, j] - sum(embeddings[w, :, j]) / images
                norms = ((a @ a / images + 1e-5) * (b @ b / images + 1e-5)).sqrt()
                entry = (a @ b / images) / norms
                loss = loss + ((1 - entry) ** 2 if i == j else off_diagonal * entry**2)
        losses.append(loss)
    return mean(losses)


def vicreg_terms(embeddings: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    views, images, dimensions = embeddings.shape
    invariance, variance, covariance = [], [], []
    for v, w in unordered_pairs(views):
        x, y = embeddings[v], embeddings[w]
        invariance.append(mean([(x[n] - y[n]) @ (x[n] - y[n]) / dimensions for n in range(images)]))
        hinges, squares = [], []
        for z in (x, y):
            centered = z - sum(z) / images
            s = sum(torch.outer(row, row) for row in centered) / (images - 1)
            for i in range(dimensions):
                hinges.append((1 - (s[i, i] + 1e-4).sqrt()).clamp(min=0))
                squares += [s[i, j] ** 2 / dimensions for j in range(dimensions) if j != i]
        variance.append(mean(hinges))  # half the sum of the two views' means
        covariance.append(sum(squares))  # the sum of both views
    return mean(invariance), mean(variance), mean(covariance)


def w_mse_loss(embeddings: Tensor, *, parts: list[list[list[int]]], epsilon: float) -> Tensor:
    """W-MSE with the parts of each partition given; whitened by the inverse of the Cholesky factor."""
    views, _, dimensions = embeddings.shape
    losses = []
    for partition in parts:
        for part in partition:
            white = []
            for view in range(views):
                rows = torch.stack([embeddings[view, n] for n in part])
                centered = rows - sum(rows) / len(part)
                s = sum(torch.outer(row, row) for row in centered) / (len(part) - 1)
                mixed = (1 - epsilon) * s + epsilon * torch.eye(dimensions, dtype=s.dtype)
                inverse = torch.linalg.inv(torch.linalg.cholesky(mixed))
                white.append([inverse @ row for row in centered])
            for v, w in unordered_pairs(views):
                losses += [2 - 2 * cosine(x, y) for x, y in zip(white[v], white[w], strict=True)]
    return mean(losses)


def decorrelated(embeddings: Tensor, *, groups: int, epsilon: float, shuffle: list[int]) -> Tensor:
    """ZCA by the singular values of the covariance, group by group."""
    images, dimensions = embeddings.shape
    width = dimensions // groups
    columns: dict[int, Tensor] = {}
    for group in range(groups):
        members = shuffle[group * width : (group + 1) * width]
        x = torch.stack([embeddings[:, d] - embeddings[:, d].mean() for d in members], dim=1)
        u, s, _ = torch.linalg.svd(x.T @ x / images + epsilon * torch.eye(width, dtype=x.dtype))
        white = x @ u @ torch.diag(s**-0.5) @ u.T
        columns |= {d: white[:, k] for k, d in enumerate(members)}
    return torch.stack([columns[d] for d in range(dimensions)], dim=1)


def pairwise_squared_distance(views: list[Tensor]) -> Tensor:
    return mean(
        [
            (x - y) @ (x - y)
            for v, w in unordered_pairs(len(views))
            for x, y in zip(views[v], views[w], strict=True)
        ]
    )


def sinkhorn_codes(scores: Tensor, *, epsilon: float, iterations: int) -> Tensor:
    """The pseudocode of SwAV, with loops: total mass 1, then 1 / P per prototype and 1 / N per image."""
    images, prototypes = scores.shape
    q = [
        [math.exp(scores[n, p].item() / epsilon) for p in range(prototypes)] for n in range(images)
    ]
    for _ in range(iterations):
        for p in range(prototypes):
            mass = sum(q[n][p] for n in range(images))
            for n in range(images):
                q[n][p] /= mass * prototypes
        for n in range(images):
            mass = sum(q[n])
            q[n] = [entry / (mass * images) for entry in q[n]]
    return torch.tensor([[entry * images for entry in row] for row in q], dtype=scores.dtype)


def softmax(logits: Tensor) -> list[Tensor]:
    total = sum(torch.exp(logit) for logit in logits)
    return [torch.exp(logit) / total for logit in logits]


def cross_view_entropy(targets: list[Tensor], logits: list[Tensor]) -> Tensor:
    losses = []
    for i, target in enumerate(targets):
        for j, view in enumerate(logits):
            if i != j:
                for image in range(len(view)):
                    shares = softmax(view[image])
                    entries = zip(target[image], shares, strict=True)
                    losses.append(-sum(q * torch.log(share) for q, share in entries))
    return mean(losses)


def self_distillation_loss(
    student: list[Tensor],
    teacher: list[Tensor],
    center: Tensor,
    *,
    student_temperature: float,
    teacher_temperature: float,
) -> Tensor:
    targets = [
        torch.stack([torch.stack(softmax((row - center) / teacher_temperature)) for row in view])
        for view in teacher
    ]
    return cross_view_entropy(targets, [view / student_temperature for view in student])


def cluster_assignment_loss(
    scores: list[Tensor], targets: list[int], *, temperature: float
) -> Tensor:
    return mean(
        [
            -torch.log(softmax(view[n] / temperature)[target])
            for view in scores
            for n, target in enumerate(targets)
            if target != -100
        ]
    )


def spherical_kmeans(
    memory: Tensor, *, start: list[int], iterations: int
) -> tuple[list[Tensor], list[int]]:
    """Lloyd's algorithm from the given rows; an empty cluster keeps its centroid."""

    def assigned() -> list[int]:
        similarities = [[float(row @ centroid) for centroid in centroids] for row in memory]
        return [row.index(max(row)) for row in similarities]

    centroids = [memory[row] for row in start]
    for _ in range(iterations):
        labels = assigned()
        for c in range(len(centroids)):
            members = [row for row, label in zip(memory, labels, strict=True) if label == c]
            if members:
                centroids[c] = sum(members) / sum(members).norm()
    return centroids, assigned()
