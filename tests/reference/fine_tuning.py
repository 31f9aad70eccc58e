"""Fine-tuning as a plain PyTorch loop, for comparison."""

import math

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from msbreg.data.images import LabeledImages
from msbreg.data.transforms import TrainingTransform, image_generator


def losses_of_a_plain_loop(
    backbone: nn.Module,  # modified; called as backbone(x)["c5"]
    images: LabeledImages,
    transform: TrainingTransform,
    *,
    classes: int,
    head_rate: float,
    encoder_rate: float,
    batch_size: int,
    epochs: int,
    frozen: bool,
    seed: int,
) -> list[float]:
    """The loss of every step: SGD with Nesterov momentum, cosine per step, ImageNet normalization."""
    layer = nn.Linear(256, classes)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        layer.weight.copy_(torch.normal(0.0, 0.01, layer.weight.shape, generator=generator))
        layer.bias.zero_()
    groups = [{"params": layer.parameters(), "lr": head_rate}]
    if not frozen:
        groups.append({"params": backbone.parameters(), "lr": encoder_rate})
    optimizer = torch.optim.SGD(groups, lr=0.1, momentum=0.9, nesterov=True)
    peaks = [head_rate, encoder_rate]
    # In pixel values and channels_last: small batches of BatchNorm would amplify another rounding.
    mean = torch.tensor([0.485, 0.456, 0.406])[:, None, None] * 255
    std = torch.tensor([0.229, 0.224, 0.225])[:, None, None] * 255
    backbone.train(not frozen)
    losses: list[float] = []
    total = epochs * math.ceil(len(images) / batch_size)
    for epoch in range(epochs):
        order = torch.randperm(
            len(images), generator=torch.Generator().manual_seed(seed * 1_000_003 + epoch)
        ).tolist()
        for first in range(0, len(images), batch_size):
            chosen = order[first : first + batch_size]
            pixels = [transform(images.image(i), image_generator(seed, epoch, i)) for i in chosen]
            x = (torch.from_numpy(np.stack(pixels)).float() - mean) / std
            x = x.contiguous(memory_format=torch.channels_last)
            for group, peak in zip(optimizer.param_groups, peaks, strict=False):
                group["lr"] = peak * 0.5 * (1 + math.cos(math.pi * len(losses) / total))
            with torch.set_grad_enabled(not frozen):
                features = backbone(x)["c5"].mean((2, 3))
            labels = torch.tensor([int(images.label(i)) for i in chosen])
            loss = functional.cross_entropy(layer(features), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    return losses
