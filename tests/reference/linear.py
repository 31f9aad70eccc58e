"""A linear layer trained with one learning rate by autograd and PyTorch's optimizer."""

import math

import torch
from torch import nn


def fit_linear(
    features,
    labels,
    *,
    classes,
    learning_rate,
    epochs,
    batch_size,
    momentum,
    nesterov,
    weight_decay,
    factor,
    seed,
):
    """Return the trained layer and the mean loss of its last epoch.

    `factor(share of training)` scales the learning rate. The draws follow the product's: first
    the weights (D, C), then one permutation for each epoch.
    """
    generator = torch.Generator().manual_seed(seed)
    layer = nn.Linear(features.shape[1], classes)
    with torch.no_grad():
        layer.weight.copy_(0.01 * torch.randn(features.shape[1], classes, generator=generator).T)
        layer.bias.zero_()
    optimizer = torch.optim.SGD(
        layer.parameters(),
        lr=learning_rate,
        momentum=momentum,
        nesterov=nesterov,
        weight_decay=weight_decay,
    )
    steps = epochs * math.ceil(len(features) / batch_size)
    step = 0
    for _ in range(epochs):
        total = 0.0
        order = torch.randperm(len(features), generator=generator)
        for start in range(0, len(features), batch_size):
            chosen = order[start : start + batch_size]
            loss = nn.functional.cross_entropy(layer(features[chosen]), labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.param_groups[0]["lr"] = learning_rate * factor(step / steps)
            optimizer.step()
            total += loss.item() * len(chosen)
            step += 1
    return layer, total / len(features)
