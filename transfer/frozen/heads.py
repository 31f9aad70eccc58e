"""One linear layer on cached features, trained with several learning rates at once.

The L layers share every batch, so that one matrix product (B, D) x (D, L C) serves them all. The
gradient of softmax cross-entropy is written out; autograd is not used.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from msbreg.run.errors import UserError
from msbreg.train.optimizers import warmup_cosine


@dataclass(frozen=True)
class LinearModel:
    """L linear layers that differ only in the learning rate they were trained with."""

    weights: Tensor  # (L, D, C) float32
    bias: Tensor  # (L, C)
    learning_rates: tuple[float, ...]  # L of them
    final_losses: Tensor  # (L,), cross-entropy averaged over the last epoch; inf = diverged


def fit_linear(
    features: Tensor,  # (N, D)
    labels: Tensor,  # (N,), in 0..C-1
    *,
    classes: int,
    learning_rates: Sequence[float],
    epochs: int,
    batch_size: int,
    momentum: float = 0.9,
    nesterov: bool = True,
    weight_decay: float = 0.0,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> LinearModel:
    """Minimize cross-entropy by SGD for each learning rate, on the device of the features.

    Learning rates are used as given: scaling them by batch size / 256 is the caller's job. All
    layers start from the same weights, N(0, 0.01) with bias 0 (Goyal et al. 2019, MoCo, SwAV), and
    see the same batches; the last, smaller batch of an epoch is used. Updates are those of
    `torch.optim.SGD`: weight decay is added to the gradient, also that of the bias, and the learning
    rate is applied after momentum. Each step's learning rate follows half a cosine down to zero.
    `progress(done, total)` counts epochs.

    A learning rate that diverges does not affect the others: its loss is inf and `best_on_held_out`
    never takes it. Raises UserError if shapes, labels, rates or sizes are unusable.
    """
    _check_training(features, labels, classes, learning_rates, epochs, batch_size)
    images, width, layers = len(features), features.shape[1], len(learning_rates)
    device, generator = features.device, torch.Generator().manual_seed(seed)
    start = 0.01 * torch.randn(width, 1, classes, generator=generator)
    weights = start.expand(-1, layers, -1).to(device).reshape(width, layers * classes)
    bias = torch.zeros(layers * classes, device=device)
    velocities = torch.zeros_like(weights), torch.zeros_like(bias)
    rates = torch.tensor(learning_rates, device=device).repeat_interleave(classes)
    labels, total = labels.to(device), epochs * math.ceil(images / batch_size)

    step, sound = 0, torch.ones(layers, dtype=torch.bool, device=device)
    for epoch in range(epochs):
        loss_sums = torch.zeros(layers, device=device)
        for chosen in torch.randperm(images, generator=generator).to(device).split(batch_size):
            batch = features[chosen].float()
            scores = torch.addmm(bias, batch, weights).view(-1, layers, classes)
            losses, slope = cross_entropy_and_gradient(scores, labels[chosen])
            slope = slope.view(len(chosen), -1)
            now = rates * warmup_cosine(step, total, peak=1.0, warmup=0)
            for value, gradient, velocity in (
                (weights, batch.T @ slope, velocities[0]),
                (bias, slope.sum(0), velocities[1]),
            ):
                _descend(value, gradient, velocity, now, momentum, nesterov, weight_decay)
            loss_sums += losses * len(chosen)
            step += 1
        sound &= loss_sums.isfinite()
        if progress is not None:
            progress(epoch + 1, epochs)
    by_layer = weights.view(width, layers, classes).transpose(0, 1).contiguous()
    sound &= by_layer.isfinite().all(dim=2).all(dim=1)  # the last step may have been the fatal one
    final_losses = torch.where(sound, loss_sums / images, torch.inf)
    return LinearModel(by_layer, bias.view(layers, classes), tuple(learning_rates), final_losses)


def logits(
    model: LinearModel,
    features: Tensor,  # (N, D)
) -> Tensor:  # (L, N, C) float32
    """The scores of every layer; those of a diverged one may be NaN."""
    if features.shape[-1] != model.weights.shape[1]:
        raise UserError(
            f"features have shape {tuple(features.shape)}, the layer was fitted on width "
            f"{model.weights.shape[1]}. Take both from the same backbone and layer."
        )
    return features.float() @ model.weights + model.bias[:, None]


def best_on_held_out(
    model: LinearModel,
    features: Tensor,  # (N, D), held out of the training split
    labels: Tensor,  # (N,)
) -> int:
    """Index of the learning rate with the highest top-1 accuracy; the first of equals.

    Meant for images held out of the training split (`held_out_split`), never for the split that is
    reported. Raises UserError if every learning rate diverged.
    """
    sound = model.final_losses.isfinite()
    if not sound.any():
        raise UserError(
            f"all {len(sound)} learning rates diverged: {list(model.learning_rates)}. "
            "Expected at least one with a finite loss: give lower ones."
        )
    hits = (logits(model, features).argmax(2) == labels.to(features.device)).sum(1)
    return int(torch.where(sound, hits, -1).argmax())


def held_out_split(
    labels: Tensor,  # (N,)
    fraction: float,
    seed: int,
) -> tuple[Tensor, Tensor]:  # (N - M,), (M,) int64, both rising
    """Draw a fraction of each class, rounded, to hold out; each class keeps one image to fit.

    Raises UserError if the fraction is not between 0 and 1 or no class is large enough to give one.
    """
    labels = labels.cpu()
    # Shuffle, then group by class: an image's place in its group is a random rank in its class.
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    order = order[labels[order].argsort(stable=True)]
    _, group, sizes = labels[order].unique_consecutive(return_inverse=True, return_counts=True)
    rank = torch.arange(len(labels)) - (sizes.cumsum(0) - sizes)[group]
    quota = (sizes * fraction + 0.5).floor().long().minimum(sizes - 1)
    held_out = order[rank < quota[group]].sort().values
    if not 0 < fraction < 1 or not len(held_out):
        raise UserError(
            f"holding out {fraction} of {len(labels)} images in {len(sizes)} classes leaves "
            f"{len(held_out)}: expected a fraction between 0 and 1 that gives at least one. "
            "Raise it, or give a single learning rate, which needs no selection."
        )
    return order[rank >= quota[group]].sort().values, held_out


def cross_entropy_and_gradient(
    scores: Tensor,  # (B, L, C)
    labels: Tensor,  # (B,)
) -> tuple[Tensor, Tensor]:  # (L,), (B, L, C)
    """Average -log softmax at the labels over the batch, with gradient (softmax - one-hot) / B."""
    at_labels = labels[:, None, None].expand(-1, scores.shape[1], 1)
    log_shares = scores.log_softmax(2)
    losses = -log_shares.gather(2, at_labels).squeeze(2).mean(0)
    gradient = log_shares.exp_()
    gradient.scatter_add_(2, at_labels, gradient.new_full((1, 1, 1), -1.0).expand(at_labels.shape))
    return losses, gradient.div_(len(labels))


def _descend(
    values: Tensor,  # (..., L C), changed in place, as are the next two
    gradient: Tensor,
    velocity: Tensor,
    rates: Tensor,  # (L C,)
    momentum: float,
    nesterov: bool,
    weight_decay: float,
) -> None:
    """Take the step of `torch.optim.SGD`, each column at its own learning rate."""
    if weight_decay:
        gradient.add_(values, alpha=weight_decay)
    velocity.mul_(momentum).add_(gradient)
    direction = gradient.add_(velocity, alpha=momentum) if nesterov else velocity
    values.addcmul_(direction, rates, value=-1)


def _check_training(
    features: Tensor,
    labels: Tensor,
    classes: int,
    learning_rates: Sequence[float],
    epochs: int,
    batch_size: int,
) -> None:
    if features.ndim != 2 or labels.shape != features.shape[:1] or not len(labels):
        raise UserError(
            f"features have shape {tuple(features.shape)}, labels {tuple(labels.shape)}: "
            "expected (N, D) and (N,) with at least one image."
        )
    if labels.min() < 0 or labels.max() >= classes:
        raise UserError(
            f"labels lie in {int(labels.min())}..{int(labels.max())}, expected 0..{classes - 1}. "
            "Give the number of classes of the data set."
        )
    wild = int((~features.isfinite()).any(1).sum())
    if wild:
        raise UserError(
            f"{wild} of {len(features)} features are not finite. "
            "Check the backbone's weights and, in half precision, that nothing overflowed."
        )
    if not learning_rates or min(learning_rates) <= 0 or epochs < 1 or batch_size < 1:
        raise UserError(
            f"learning rates {list(learning_rates)}, {epochs} epochs, batches of {batch_size}: "
            "expected learning rates above 0 and at least one epoch of batches of one."
        )
