"""ClassifierTraining: a backbone with a linear layer, trained on augmented images by the training loop."""

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from msbreg.backbones.backbone_interface import Backbone
from msbreg.backbones.resnet import normalize
from msbreg.backbones.spec import Normalization
from msbreg.checkpoints.load import load_exactly
from msbreg.run import distributed
from msbreg.run.errors import UserError
from msbreg.run.synchronized_norm import is_synchronized
from msbreg.train.loop import Loss, Trainable
from msbreg.train.optimizers import LARS, lars_groups
from transfer.finetuning.fine_tuning_config import Config
from transfer.frozen.head_training import HeadBatch, Share

HEAD_STD = 0.01
"""Standard deviation of the layer's initial weights (SwAV, Barlow Twins, VICReg); its bias starts at 0."""


@dataclass(frozen=True)
class Candidate:
    """What is chosen on held-out images."""

    head_rate: float
    encoder_rate: float
    weight_decay: float
    epochs: int


class Classifier(nn.Module):
    """A backbone and a linear layer on one of its representations.

    Args:
        backbone: is modified.
        frozen: whether no gradient reaches the backbone.
    """

    def __init__(
        self,
        backbone: Backbone,
        representation: str,
        classes: int,
        generator: torch.Generator,
        *,
        frozen: bool,
    ) -> None:
        super().__init__()
        self.backbone, self.representation, self.frozen = backbone, representation, frozen
        self.head = nn.Linear(backbone.width(representation), classes)
        with torch.no_grad():
            self.head.weight.normal_(0, HEAD_STD, generator=generator)
            self.head.bias.zero_()
        backbone.requires_grad_(not frozen)

    def forward(
        self,
        images: Tensor,  # (B, 3, S, S), normalized
    ) -> Tensor:  # (B, C)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            features = self.backbone.represent(images, self.representation)
        logits: Tensor = self.head(features)
        return logits


class ClassifierTraining(Trainable):
    """A classifier with its optimizer and schedule.

    Args:
        images: number of training images.
        batches_of: (epoch, indices of this process's images) of each step -> their batches.

    Raises:
        UserError: an epoch has no step in which every process gets two images.
    """

    model: Classifier
    advice = "Give lower learning rates and a new --output."
    memory = (
        "out of memory while fine-tuning.\n"
        "--precision bf16 needs about half the memory, and more processes (torchrun) split --batch-size."
    )

    def __init__(
        self,
        images: int,
        classifier: Classifier,
        candidate: Candidate,
        config: Config,
        normalization: Normalization,
        *,
        batches_of: Callable[[Iterator[Share]], Iterator[HeadBatch]],
        device: torch.device,
    ) -> None:
        self.images, self.candidate, self.config = images, candidate, config
        self.normalization, self.batches_of, self.device = normalization, batches_of, device
        self.sizes = step_sizes(images, config.batch_size, distributed.world_size())
        if not self.sizes:
            raise UserError(
                f"{images} training images do not give each of {distributed.world_size()} processes two "
                "images per step; expected more images or fewer processes"
            )
        self.epoch = len(self.sizes)  # steps per epoch
        self.model = classifier.to(device)
        self.exchanges = is_synchronized(classifier)
        if config.norm_epochs:
            limit_norm_momentum(classifier, config.norm_epochs / self.epoch)
        self.optimizer = build_optimizer(classifier, candidate, config)
        self.bases = [group["lr"] for group in self.optimizer.param_groups]

    @property
    def steps(self) -> int:
        """Total number of steps."""
        return self.candidate.epochs * self.epoch

    def batches(self, first_step: int) -> Iterator[HeadBatch]:
        """This process's part of each batch; images are reshuffled every epoch."""
        return self.batches_of(self._shares(first_step))

    def _shares(self, first_step: int) -> Iterator[Share]:
        first_epoch, position = divmod(first_step, self.epoch)
        for epoch in range(first_epoch, self.candidate.epochs):
            generator = torch.Generator().manual_seed(self.config.seed * 1_000_003 + epoch)
            order = torch.randperm(self.images, generator=generator)[: sum(self.sizes)]
            for batch in order.split(self.sizes)[position:]:
                mine = batch[distributed.rank() :: distributed.world_size()]
                yield Share(epoch, mine, len(batch))
            position = 0

    def learning_rates(self, step: int) -> list[float]:
        at = step if self.config.every_step else step - step % self.epoch
        factor = rate_factor(at, self.epoch, self.candidate.epochs, self.config)
        return [base * factor for base in self.bases]

    def losses(self, forward: nn.Module, batch: HeadBatch, step: int) -> Iterator[Loss]:
        images = normalize(batch.inputs, self.device, self.normalization)
        labels = batch.labels.to(self.device, non_blocking=True)
        with torch.autocast(
            self.device.type, torch.bfloat16, enabled=self.config.precision == "bf16"
        ):
            logits = forward(images)
        # The mean over processes of this is the mean over the images of the batch.
        share = distributed.world_size() / batch.images
        loss = functional.cross_entropy(logits.float(), labels, reduction="sum") * share
        yield Loss(loss, {"loss": loss.detach()})

    def train_mode(self) -> None:
        self.model.train()
        if self.config.freeze == "encoder":
            self.model.backbone.eval()
        elif self.config.freeze == "statistics":
            for module in self.model.backbone.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()

    def row(self, step: int, means: dict[str, float]) -> dict[str, Any]:
        rates = zip(self.optimizer.param_groups, self.learning_rates(step - 1), strict=True)
        named = {f"{group['part']}_rate": rate for group, rate in rates}
        return {"epoch": step // self.epoch, "step": step} | means | named

    def prepare_evaluation(self, step: int) -> None:
        distributed.share_buffers(self.model)

    def state_dict(self) -> dict[str, Any]:
        return {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        load_exactly(self.model, state["model"], "the classifier")
        try:
            self.optimizer.load_state_dict(state["optimizer"])
        except ValueError as error:
            raise UserError(f"the optimizer state is from another classifier: {error}") from error


# ---- Steps and learning rates


def step_sizes(images: int, batch_size: int, processes: int) -> list[int]:
    """The number of images in each step of an epoch.

    The last step takes what remains, unless a process would get fewer than two images of it: BatchNorm then
    has no variance. Those images are left out of this epoch.

    >>> step_sizes(10, 4, 1), step_sizes(9, 4, 1), step_sizes(11, 4, 2)
    ([4, 4, 2], [4, 4], [4, 4])
    """
    full, rest = divmod(images, batch_size)
    sizes = [batch_size] * full + [rest]
    return [size for size in sizes if size >= 2 * processes]


def candidates_of(config: Config, images: int) -> dict[str, Candidate]:
    """All combinations of learning rates, weight decays and epochs, by a name of what differs.

    >>> list(candidates_of(Config(learning_rates=(0.1, 0.2), epoch_counts=(30, 50)), 100))[:3]
    ['learning rate 0.1, 30 epochs', 'learning rate 0.1, 50 epochs', 'learning rate 0.2, 30 epochs']
    """
    epoch_counts = config.epoch_counts
    if config.steps:
        per_epoch = max(1, len(step_sizes(images, config.batch_size, distributed.world_size())))
        epoch_counts = (max(1, round(config.steps / per_epoch)),)
    pairs = zip(config.learning_rates, config.encoder_rates or config.learning_rates, strict=True)
    found: dict[str, Candidate] = {}
    for (head, encoder), decay, epochs in itertools.product(
        pairs, config.weight_decays, epoch_counts
    ):
        parts = [f"learning rate {head:g}" + (f" / {encoder:g}" if encoder != head else "")]
        parts += [f"weight decay {decay:g}"] if len(config.weight_decays) > 1 else []
        parts += [f"{epochs} epochs"] if len(epoch_counts) > 1 else []
        weight_decay = decay / head if config.decay_over_rate else decay
        found[", ".join(parts)] = Candidate(head, encoder, weight_decay, epochs)
    return found


def rate_factor(step: int, steps_per_epoch: int, epochs: int, config: Config) -> float:
    """The factor on the learning rates at a step; steps count from 0.

    >>> config = Config(schedule="steps", drops=(2, 3), drop_factor=0.2)
    >>> [round(rate_factor(step, 1, 4, config), 3) for step in range(4)]
    [1.0, 1.0, 0.2, 0.04]
    """
    if config.schedule == "cosine":
        return (1 + math.cos(math.pi * step / (steps_per_epoch * epochs))) / 2
    if config.schedule == "constant":
        return 1.0
    return config.drop_factor ** sum(step >= round(drop * steps_per_epoch) for drop in config.drops)


def build_optimizer(
    classifier: Classifier, candidate: Candidate, config: Config
) -> torch.optim.Optimizer:
    """The optimizer; weight decay applies to all parameters with SGD, as in the published code."""
    parts: dict[str, tuple[nn.Module, float]] = {
        "encoder": (classifier.backbone, candidate.encoder_rate),
        "head": (classifier.head, candidate.head_rate),
    }
    if config.freeze == "encoder":
        del parts["encoder"]
    groups: list[dict[str, Any]] = []
    for name, (module, rate) in parts.items():
        if config.optimizer == "lars":
            own: Sequence[Mapping[str, Any]] = lars_groups(
                module, weight_decay=candidate.weight_decay
            )
        else:
            own = [{"params": list(module.parameters()), "weight_decay": candidate.weight_decay}]
        groups += [{**group, "lr": rate, "part": name} for group in own]
    if config.optimizer == "lars":
        return LARS(groups, lr=candidate.head_rate, momentum=config.momentum)
    nesterov = config.nesterov and config.momentum > 0
    return torch.optim.SGD(
        groups, lr=candidate.head_rate, momentum=config.momentum, nesterov=nesterov
    )


def limit_norm_momentum(classifier: nn.Module, limit: float) -> None:
    """Limit the weight of a batch in the running statistics (SimCLR, arXiv 2002.05709, appendix B.8.2)."""
    for module in classifier.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = min(0.1, limit)
