"""Train heads on frozen features, cached ones or those of augmented images, with the common training loop."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from msbreg.checkpoints.load import load_exactly
from msbreg.data.images import LabeledImages
from msbreg.data.loading import stream
from msbreg.data.transforms import TrainingTransform, image_generator
from msbreg.run import distributed
from msbreg.run.errors import UserError
from msbreg.train.loop import Loss, Trainable
from transfer.frozen.feature_store import Rows
from transfer.frozen.head_optimizer import HeadOptimizer, Rule
from transfer.frozen.heads import Heads, Schedule, schedule_factor


@dataclass(frozen=True)
class HeadPlan:
    """What all heads of a training have in common.

    Attributes:
        epochs: passes over the training images.
        batch_size: images per step of all processes; the last, smaller batch of an epoch is included.
        rule: update rule of the optimizer.
        momentum: of sgd and lars.
        nesterov: of sgd.
        schedule: of the learning rate.
        drops: for the schedule ``steps``, epochs after which the learning rate is multiplied by 0.1.
        seed: of the initial weights, the order and the augmentation.
    """

    epochs: int
    batch_size: int
    rule: Rule = "sgd"
    momentum: float = 0.9
    nesterov: bool = True
    schedule: Schedule = "cosine"
    drops: tuple[float, ...] = ()
    seed: int = 0


@dataclass(frozen=True)
class HeadBatch:
    """This process's part of a batch."""

    inputs: Any  # indices of cached features, or (B, 3, S, S) uint8 pixels
    labels: Tensor  # (B,)
    images: int  # of the batch in all processes


class HeadTraining(Trainable):
    """L heads on the features that ``features_of`` returns for the inputs of a batch.

    A head that diverges does not affect the others: its final loss is inf, and `best_on_held_out` never
    selects it. Training fails if all heads have diverged.

    Args:
        images: number of training images.
        heads: with the weights that a generator seeded with ``plan.seed`` gives them.
        features_of: the inputs of a batch -> the features that the heads take, on ``device``.
        batches_of: (epoch, indices of this process's images) of each step -> their batches.

    Raises:
        UserError: a number is out of range.
    """

    model: Heads
    advice = "Give lower --learning-rates and a new --output."

    def __init__(
        self,
        images: int,
        heads: Heads,
        plan: HeadPlan,
        *,
        features_of: Callable[[Any], Tensor],
        batches_of: Callable[[Iterator["Share"]], Iterator[HeadBatch]],
        device: torch.device,
    ) -> None:
        if plan.epochs < 1 or plan.batch_size < 1:
            raise UserError(
                f"epochs is {plan.epochs} and batch_size {plan.batch_size}; expected at least 1"
            )
        self.images, self.plan, self.device = images, plan, device
        self.features_of, self.batches_of = features_of, batches_of
        self.epoch = -(-images // plan.batch_size)  # steps per epoch
        self.model = heads.to(device)
        self.exchanges = heads.norm is not None
        settings = heads.settings
        self.optimizer = HeadOptimizer(
            heads.decayed(),
            heads.undecayed(),
            [head.learning_rate for head in settings],
            [head.weight_decay for head in settings],
            rule=plan.rule,
            momentum=plan.momentum,
            nesterov=plan.nesterov,
        )
        self.loss_sums = torch.zeros(len(settings), device=device)  # of this process in this epoch
        self.sound = torch.ones(len(settings), dtype=torch.bool, device=device)

    @property
    def steps(self) -> int:
        """Total number of steps."""
        return self.plan.epochs * self.epoch

    def batches(self, first_step: int) -> Iterator[HeadBatch]:
        """This process's part of each batch; images are reshuffled every epoch."""
        return self.batches_of(self._shares(first_step))

    def _shares(self, first_step: int) -> Iterator["Share"]:
        first_epoch, position = divmod(first_step, self.epoch)
        generator = self._generator(first_epoch)
        for epoch in range(first_epoch, self.plan.epochs):
            order = torch.randperm(self.images, generator=generator)
            for batch in order.split(self.plan.batch_size)[position:]:
                mine = batch[distributed.rank() :: distributed.world_size()]
                yield Share(epoch, mine, len(batch))
            position = 0

    def _generator(self, epoch: int) -> torch.Generator:
        """The generator at the start of an epoch: past the initial weights and the earlier shuffles."""
        generator = torch.Generator().manual_seed(self.plan.seed)
        for shape in self.model.start_shapes:
            torch.randn(shape, generator=generator)
        for _ in range(epoch):
            torch.randperm(self.images, generator=generator)
        return generator

    def learning_rates(self, step: int) -> list[float]:
        """The factor that multiplies each head's own learning rate."""
        drops = [epoch / self.plan.epochs for epoch in self.plan.drops]
        factor = schedule_factor(self.plan.schedule, step, self.steps, drops=drops)
        return [factor] * len(self.optimizer.param_groups)

    def losses(self, forward: nn.Module, batch: HeadBatch, step: int) -> Iterator[Loss]:
        features = self.features_of(batch.inputs)
        summed, losses = forward(features, batch.labels.to(self.device), batch.images)
        if step % self.epoch == 0:
            self.loss_sums = torch.zeros_like(self.loss_sums)
        self.loss_sums = self.loss_sums + losses
        # The lowest loss of the heads that have not diverged; infinite if all have.
        means = losses * (distributed.world_size() / batch.images)
        yield Loss(summed, {"loss": torch.where(means.isfinite(), means, torch.inf).min()})

    def after_step(self, step: int) -> None:
        if (step + 1) % self.epoch == 0:
            self.sound &= self.loss_sums.isfinite()

    def row(self, step: int, means: dict[str, float]) -> dict[str, Any]:
        return {"epoch": step // self.epoch, "step": step} | means

    def state_dict(self) -> dict[str, Any]:
        # Heads that diverged are saved as zeros: a checkpoint contains finite numbers only.
        state = {k: v.nan_to_num(0.0, 0.0, 0.0) for k, v in self.model.state_dict().items()}
        largest = torch.finfo(torch.float32).max
        sums = distributed.gather_objects(self.loss_sums.nan_to_num(largest).cpu())
        return {
            "model": state,
            "optimizer": self.optimizer.state_dict(),
            "sound": self._sound_now(),
            "loss_sums": torch.stack(sums).sum(0),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        load_exactly(self.model, state["model"], "the heads")
        self.optimizer.load_state_dict(state["optimizer"])
        self.sound = state["sound"].to(self.device)
        # The sum over processes; each continues with its share, whatever their number was.
        self.loss_sums = state["loss_sums"].to(self.device) / distributed.world_size()

    def result(self) -> tuple[Heads, Tensor]:  # (L,)
        """The heads in eval mode, and the mean loss of each over the last epoch; inf = diverged."""
        sums = distributed.total(self.loss_sums)
        final = torch.where(self._sound_now(), sums / self.images, torch.inf)
        return self.model.eval(), final

    def _sound_now(self) -> Tensor:  # (L,) bool; the last step may have diverged
        return self.sound & self.model.finite()


@dataclass(frozen=True)
class Share:
    """The images of one process in one step."""

    epoch: int
    indices: Tensor  # (B,) int64
    images: int  # of the batch in all processes


# ---- Cached features


class CachedFeatures:
    """Features in memory or on disk, optionally standardized.

    Args:
        x: (N, D). On a GPU, all of them are copied to the device; on the CPU, each batch is read from disk.
        standardize: (mean, standard deviation), each (D,), applied to each batch.
    """

    def __init__(
        self,
        x: Rows | np.ndarray,
        device: torch.device,
        standardize: tuple[Tensor, Tensor] | None = None,
    ) -> None:
        self.x, self.device = x, device
        self.on_device = None
        if device.type != "cpu":
            self.on_device = torch.from_numpy(np.array(x)).to(device)
        self.standardize = standardize

    def __call__(
        self,
        indices: Tensor,  # (B,) int64, on the CPU
    ) -> Tensor:  # (B, D) float32
        if self.on_device is not None:
            rows = self.on_device[indices.to(self.device)]
        else:
            rows = torch.from_numpy(self.x[indices.numpy()])
        rows = rows.float()
        if self.standardize is not None:
            mean, deviation = self.standardize
            rows = (rows - mean) / deviation
        return rows


def moments(
    x: Rows | np.ndarray,  # (N, D)
    *,
    rows_at_once: int = 8192,
) -> tuple[Tensor, Tensor]:  # (D,), (D,) float32
    """Mean and (unbiased) standard deviation of each dimension, at least 1e-5; computed in float64."""
    mean, squares, count = np.zeros(x.shape[1]), np.zeros(x.shape[1]), 0
    for first in range(0, len(x), rows_at_once):
        block = x[first : first + rows_at_once].astype(np.float64)
        # Chan et al. 1979: combine the moments of two parts.
        delta, size = block.mean(0) - mean, len(block)
        squares += block.var(0) * size + delta**2 * count * size / (count + size)
        mean += delta * size / (count + size)
        count += size
    deviation = np.sqrt(squares / max(1, count - 1)).clip(1e-5)
    return torch.from_numpy(mean).float(), torch.from_numpy(deviation).float()


def cached_batches(
    labels: Tensor,  # (N,)
) -> Callable[[Iterator[Share]], Iterator[HeadBatch]]:
    """Batches whose inputs are indices."""

    def batches(shares: Iterator[Share]) -> Iterator[HeadBatch]:
        for share in shares:
            yield HeadBatch(share.indices, labels[share.indices], share.images)

    return batches


# ---- Augmented images


@dataclass(frozen=True)
class _Augmented:
    """(epoch, image) -> pixels of a random view. Pickled to send it to worker processes."""

    images: LabeledImages
    transform: TrainingTransform
    seed: int

    def __call__(self, key: tuple[int, int, int]) -> tuple[Tensor, int, int]:
        epoch, index, images = key
        pixels = self.transform(self.images.image(index), image_generator(self.seed, epoch, index))
        return torch.from_numpy(pixels), int(self.images.label(index)), images


def _stacked(items: list[tuple[Tensor, int, int]]) -> HeadBatch:
    pixels, labels, images = zip(*items, strict=True)
    return HeadBatch(torch.stack(pixels), torch.tensor(labels), images[0])


def augmented_batches(
    images: LabeledImages,
    transform: TrainingTransform,
    *,
    seed: int,
    workers: int,
    device: torch.device,
) -> Callable[[Iterator[Share]], Iterator[HeadBatch]]:
    """Batches of pixels: each image is cropped and flipped anew in every epoch.

    The views depend on seed, epoch and image only, not on the number of workers or processes.
    """

    def batches(shares: Iterator[Share]) -> Iterator[HeadBatch]:
        def keys() -> Iterator[list[tuple[int, int, int]]]:
            for share in shares:
                yield [(share.epoch, int(i), share.images) for i in share.indices]

        return stream(
            _Augmented(images, transform, seed),
            keys,
            _stacked,
            workers=workers,
            on_start=_one_thread,
            pin_memory=device.type == "cuda",
            ahead=4,
        )

    return batches


def _one_thread() -> None:
    import cv2

    cv2.setNumThreads(0)
