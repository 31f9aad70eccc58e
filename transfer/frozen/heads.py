"""Linear layers on cached features, trained with several learning rates at once.

The L layers see the same batches, so a single matrix product (B, D) x (D, L C) computes all of them.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from msbreg.checkpoints.load import load_exactly
from msbreg.run.errors import UserError
from msbreg.train.loop import Loss, Trainable
from msbreg.train.optimizers import warmup_cosine


@dataclass(frozen=True)
class LinearModel:
    """L linear layers that were trained with different learning rates and are otherwise alike."""

    weights: Tensor  # (L, D, C) float32
    bias: Tensor  # (L, C)
    learning_rates: tuple[float, ...]  # L of them
    final_losses: Tensor  # (L,), mean cross-entropy over the last epoch; inf = diverged


class LinearHeads(Trainable):
    """L linear layers on cached features, trained with one learning rate each.

    Learning rates are used as given: scaling them by batch size / 256 is the caller's job. All layers
    start from the same weights, N(0, 0.01) with bias 0 (Goyal et al. 2019, MoCo, SwAV), and see the same
    batches; the last, smaller batch of an epoch is included. Updates are those of `torch.optim.SGD`: weight
    decay is added to the gradient (also for the bias), and the learning rate is applied after momentum.
    The learning rate follows a half cosine from its peak to zero.

    A layer that diverges does not affect the others: its final loss is inf and `best_on_held_out` never
    selects it. Training fails if all layers have diverged.
    """

    model: "_Layers"
    advice = "Give lower --learning-rates and a new --output."

    def __init__(
        self,
        features: Tensor,  # (N, D), on the device to train on
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
    ) -> None:
        """Raises UserError if shapes, labels, rates or sizes are unusable."""
        _check_training(features, labels, classes, learning_rates, epochs, batch_size)
        self.features, self.labels = features, labels.to(features.device)
        self.learning_rate_of_layer = tuple(learning_rates)
        self.epochs, self.batch_size, self.seed = epochs, batch_size, seed
        self.epoch = math.ceil(len(features) / batch_size)  # steps per epoch
        self.model = _Layers(
            features.shape[1], classes, len(learning_rates), torch.Generator().manual_seed(seed)
        ).to(features.device)
        rates = torch.tensor(learning_rates, device=features.device).repeat_interleave(classes)
        self.optimizer = ColumnSGD(
            self.model.parameters(), rates, momentum, nesterov=nesterov, weight_decay=weight_decay
        )
        layers = len(learning_rates)
        self.loss_sums = torch.zeros(layers, device=features.device)  # of the epoch so far
        self.sound = torch.ones(layers, dtype=torch.bool, device=features.device)

    @property
    def steps(self) -> int:
        """Total number of steps."""
        return self.epochs * self.epoch

    def batches(self, first_step: int) -> Iterator[Tensor]:
        """Indices of the images of each step, reshuffled every epoch."""
        first_epoch, position = divmod(first_step, self.epoch)
        generator = self._generator(first_epoch)
        for _ in range(first_epoch, self.epochs):
            order = torch.randperm(len(self.features), generator=generator)
            yield from order.to(self.features.device).split(self.batch_size)[position:]
            position = 0

    def _generator(self, epoch: int) -> torch.Generator:
        """The generator at the start of an epoch: past the initial weights and the earlier shuffles."""
        generator = torch.Generator().manual_seed(self.seed)
        torch.randn(self.model.start_shape, generator=generator)
        for _ in range(epoch):
            torch.randperm(len(self.features), generator=generator)
        return generator

    def learning_rates(self, step: int) -> list[float]:
        """The factor that multiplies each layer's own learning rate."""
        return [warmup_cosine(step, self.steps, peak=1.0, warmup=0)]

    def losses(self, forward: nn.Module, batch: Tensor, step: int) -> Iterator[Loss]:
        total, losses = forward(self.features[batch].float(), self.labels[batch])
        if step % self.epoch == 0:
            self.loss_sums = torch.zeros_like(self.loss_sums)
        self.loss_sums = self.loss_sums + losses * len(batch)
        # The lowest loss of the layers that have not diverged; infinite if all have.
        yield Loss(total, {"loss": torch.where(losses.isfinite(), losses, torch.inf).min()})

    def after_step(self, step: int) -> None:
        if (step + 1) % self.epoch == 0:
            self.sound &= self.loss_sums.isfinite()

    def row(self, step: int, means: dict[str, float]) -> dict[str, Any]:
        return {"epoch": step // self.epoch, "step": step} | means

    def state_dict(self) -> dict[str, Any]:
        # Layers that diverged are saved as zeros: a checkpoint contains finite numbers only.
        state = {k: v.nan_to_num(0.0, 0.0, 0.0) for k, v in self.model.state_dict().items()}
        return {
            "model": state,
            "optimizer": self.optimizer.state_dict(),
            "sound": self._sound_now(),
            "loss_sums": self.loss_sums.nan_to_num(torch.finfo(torch.float32).max),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        load_exactly(self.model, state["model"], "the linear layers")
        self.optimizer.load_state_dict(state["optimizer"])
        self.sound = state["sound"].to(self.features.device)
        self.loss_sums = state["loss_sums"].to(self.features.device)

    def result(self) -> LinearModel:
        """The layers in their current state."""
        weights, bias = self.model.by_layer()
        sound = self._sound_now()
        final = torch.where(sound, self.loss_sums / len(self.features), torch.inf)
        return LinearModel(weights, bias, self.learning_rate_of_layer, final)

    def _sound_now(self) -> Tensor:  # (L,) bool
        weights, _ = self.model.by_layer()  # the last step may have diverged
        return self.sound & weights.isfinite().all(dim=2).all(dim=1)


class _Layers(nn.Module):
    """L layers side by side in one weight of shape (D, L C)."""

    def __init__(self, width: int, classes: int, layers: int, generator: torch.Generator) -> None:
        super().__init__()
        self.start_shape = (width, 1, classes)
        start = 0.01 * torch.randn(self.start_shape, generator=generator)
        self.layers, self.classes = layers, classes
        self.weight = nn.Parameter(start.expand(-1, layers, -1).reshape(width, layers * classes))
        self.bias = nn.Parameter(torch.zeros(layers * classes))

    def forward(
        self,
        features: Tensor,  # (B, D) float32
        labels: Tensor,  # (B,)
    ) -> tuple[Tensor, Tensor]:  # (), (L,)
        """The sum of the layers' losses, with gradient, and the loss of each layer."""
        total, losses = _SummedCrossEntropy.apply(
            self.weight, self.bias, features, labels, self.layers
        )
        return total, losses

    def by_layer(self) -> tuple[Tensor, Tensor]:  # (L, D, C), (L, C)
        weight = self.weight.detach().view(-1, self.layers, self.classes)
        bias = self.bias.detach().view(self.layers, self.classes)
        return weight.transpose(0, 1).contiguous(), bias.clone()


class _SummedCrossEntropy(torch.autograd.Function):
    """Cross-entropy of L layers with an explicit gradient, which takes half the time of autograd's."""

    @staticmethod
    def forward(
        ctx: Any, weight: Tensor, bias: Tensor, features: Tensor, labels: Tensor, layers: int
    ) -> tuple[Tensor, Tensor]:
        scores = torch.addmm(bias, features, weight).view(len(features), layers, -1)
        losses, slope = cross_entropy_and_gradient(scores, labels)
        ctx.save_for_backward(features, slope.view(len(features), -1))
        ctx.mark_non_differentiable(losses)
        return losses.sum(), losses

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        features, slope = ctx.saved_tensors
        return features.T @ slope * gradient, slope.sum(0) * gradient, None, None, None


class ColumnSGD(torch.optim.Optimizer):
    """`torch.optim.SGD` with a separate learning rate for each column of the parameters.

    Args:
        rates: (L C,) learning rates; they are multiplied by the group's `lr`.
    """

    def __init__(
        self,
        parameters: Iterable[Tensor],  # each (..., L C)
        rates: Tensor,
        momentum: float,
        *,
        nesterov: bool,
        weight_decay: float,
    ) -> None:
        self.rates = rates
        options = {"momentum": momentum, "nesterov": nesterov, "weight_decay": weight_decay}
        super().__init__(parameters, {"lr": 1.0, **options})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One update of every parameter."""
        assert closure is None, "closures are not supported"
        for group in self.param_groups:
            for values in group["params"]:
                state = self.state[values]
                if "momentum_buffer" not in state:
                    state["momentum_buffer"] = torch.zeros_like(values)
                _descend(
                    values,
                    values.grad,
                    state["momentum_buffer"],
                    self.rates * group["lr"],
                    group["momentum"],
                    group["nesterov"],
                    group["weight_decay"],
                )


def logits(
    model: LinearModel,
    features: Tensor,  # (N, D)
) -> Tensor:  # (L, N, C) float32
    """The logits of every layer; those of a diverged layer may be NaN."""
    if features.shape[-1] != model.weights.shape[1]:
        raise UserError(
            f"features have shape {tuple(features.shape)}, but the layer was trained on features of "
            f"width {model.weights.shape[1]}. Take both from the same backbone and layer."
        )
    return features.float() @ model.weights + model.bias[:, None]


def best_on_held_out(
    model: LinearModel,
    features: Tensor,  # (N, D), held out of the training split
    labels: Tensor,  # (N,)
) -> int:
    """Index of the learning rate with the highest top-1 accuracy; the first one wins ties.

    Use it with images held out of the training split (`held_out_split`), never with the split whose score
    is reported. Raises UserError if every learning rate diverged.
    """
    sound = model.final_losses.isfinite()
    if not sound.any():
        raise UserError(
            f"all {len(sound)} learning rates diverged: {list(model.learning_rates)}. "
            "Expected at least one with a finite loss. Give lower ones."
        )
    hits = (logits(model, features).argmax(2) == labels.to(features.device)).sum(1)
    return int(torch.where(sound, hits, -1).argmax())


def held_out_split(
    labels: Tensor,  # (N,)
    fraction: float,
    seed: int,
) -> tuple[Tensor, Tensor]:  # (N - M,), (M,) int64, both ascending
    """Hold out a random fraction of each class, rounded; at least one image of each remains for training.

    Raises UserError if the fraction is not between 0 and 1 or no class is large enough to hold out one.
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
            "Raise it, or give a single learning rate, so that nothing has to be selected."
        )
    return order[rank >= quota[group]].sort().values, held_out


def cross_entropy_and_gradient(
    scores: Tensor,  # (B, L, C)
    labels: Tensor,  # (B,)
) -> tuple[Tensor, Tensor]:  # (L,), (B, L, C)
    """Mean of -log softmax at the labels over the batch, with gradient (softmax - one-hot) / B."""
    at_labels = labels[:, None, None].expand(-1, scores.shape[1], 1)
    log_shares = scores.log_softmax(2)
    losses = -log_shares.gather(2, at_labels).squeeze(2).mean(0)
    gradient = log_shares.exp_()
    gradient.scatter_add_(2, at_labels, gradient.new_full((1, 1, 1), -1.0).expand(at_labels.shape))
    return losses, gradient.div_(len(labels))


def _descend(
    values: Tensor,  # (..., L C), changed in place, like the next two
    gradient: Tensor,
    velocity: Tensor,
    rates: Tensor,  # (L C,)
    momentum: float,
    nesterov: bool,
    weight_decay: float,
) -> None:
    """One step of `torch.optim.SGD`, each column with its own learning rate."""
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
            f"labels are in {int(labels.min())}..{int(labels.max())}; expected 0..{classes - 1}. "
            "Give the number of classes of the data set."
        )
    bad = int((~features.isfinite()).any(1).sum())
    if bad:
        raise UserError(
            f"{bad} of {len(features)} features are not finite. "
            "Check the backbone's weights and, in half precision, for overflow."
        )
    if not learning_rates or min(learning_rates) <= 0 or epochs < 1 or batch_size < 1:
        raise UserError(
            f"learning rates {list(learning_rates)}, {epochs} epochs, batches of {batch_size}: "
            "expected learning rates above 0, at least one epoch and a batch size of at least one."
        )
