"""ClassifierTraining: a backbone with a linear layer, trained on augmented images by the training loop."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from msbreg.backbones.backbone_interface import Backbone
from msbreg.backbones.resnet import normalize
from msbreg.backbones.spec import Normalization
from msbreg.checkpoints.load import load_exactly
from msbreg.run import distributed
from msbreg.run.errors import UserError
from msbreg.train.loop import Loss, Trainable
from msbreg.train.optimizers import LARS, lars_groups
from transfer.frozen.head_training import HeadBatch, Share

HEAD_STD = 0.01
"""Standard deviation of the layer's initial weights (SwAV, Barlow Twins, VICReg); its bias starts at 0."""


@dataclass(frozen=True)
class TrainingRules:
    """What all candidates of a run have in common.

    Attributes:
        freeze: ``statistics``: BatchNorm uses its stored statistics and leaves them; ``encoder``: also, no
            weight of the backbone is trained.
        batch_size: images per step of all processes.
        optimizer: ``sgd``, or ``lars`` in BYOL's form.
        schedule: ``cosine`` to 0, ``steps`` (x ``drop_factor`` at each of ``drops``), or ``constant``.
        every_step: whether the learning rate changes at every step, or once per epoch.
        norm_epochs: the weight of a batch in BatchNorm's running statistics is 0.1, but at most this number
            divided by the steps per epoch (SimCLR: 10); 0 is no such limit.
    """

    freeze: Literal["nothing", "statistics", "encoder"] = "nothing"
    batch_size: int = 256
    optimizer: Literal["sgd", "lars"] = "sgd"
    momentum: float = 0.9
    nesterov: bool = True
    schedule: Literal["cosine", "steps", "constant"] = "cosine"
    drops: tuple[float, ...] = ()
    drop_factor: float = 0.1
    every_step: bool = True
    norm_epochs: float = 0.0
    bf16: bool = False
    seed: int = 0


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
        rules: TrainingRules,
        normalization: Normalization,
        *,
        batches_of: Callable[[Iterator[Share]], Iterator[HeadBatch]],
        device: torch.device,
    ) -> None:
        self.images, self.candidate, self.rules = images, candidate, rules
        self.normalization, self.batches_of, self.device = normalization, batches_of, device
        self.sizes = step_sizes(images, rules.batch_size, distributed.world_size())
        if not self.sizes:
            raise UserError(
                f"{images} training images do not give each of {distributed.world_size()} processes two "
                "images per step; expected more images or fewer processes"
            )
        self.epoch = len(self.sizes)  # steps per epoch
        self.model = classifier.to(device)
        self.exchanges = any(isinstance(m, nn.SyncBatchNorm) for m in classifier.modules())
        if rules.norm_epochs:
            limit_norm_momentum(classifier, rules.norm_epochs / self.epoch)
        self.optimizer = build_optimizer(classifier, candidate, rules)
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
            generator = torch.Generator().manual_seed(self.rules.seed * 1_000_003 + epoch)
            order = torch.randperm(self.images, generator=generator)[: sum(self.sizes)]
            for batch in order.split(self.sizes)[position:]:
                mine = batch[distributed.rank() :: distributed.world_size()]
                yield Share(epoch, mine, len(batch))
            position = 0

    def learning_rates(self, step: int) -> list[float]:
        at = step if self.rules.every_step else step - step % self.epoch
        factor = rate_factor(at, self.epoch, self.candidate.epochs, self.rules)
        return [base * factor for base in self.bases]

    def losses(self, forward: nn.Module, batch: HeadBatch, step: int) -> Iterator[Loss]:
        images = normalize(batch.inputs, self.device, self.normalization)
        labels = batch.labels.to(self.device, non_blocking=True)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.rules.bf16):
            logits = forward(images)
        # The mean over processes of this is the mean over the images of the batch.
        share = distributed.world_size() / batch.images
        loss = functional.cross_entropy(logits.float(), labels, reduction="sum") * share
        yield Loss(loss, {"loss": loss.detach()})

    def train_mode(self) -> None:
        self.model.train()
        if self.rules.freeze == "encoder":
            self.model.backbone.eval()
        elif self.rules.freeze == "statistics":
            for module in self.model.backbone.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()

    def row(self, step: int, means: dict[str, float]) -> dict[str, Any]:
        rates = dict(zip(("learning_rate", "encoder_rate"), self._named_rates(step), strict=False))
        return {"epoch": step // self.epoch, "step": step} | means | rates

    def _named_rates(self, step: int) -> list[float]:
        """The learning rates of the head and of the encoder in the last step."""
        names = [group["part"] for group in self.optimizer.param_groups]
        rates = dict(zip(names, self.learning_rates(step - 1), strict=True))
        return [rates[name] for name in ("head", "encoder") if name in rates]

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


def rate_factor(step: int, steps_per_epoch: int, epochs: int, rules: TrainingRules) -> float:
    """The factor on the learning rates at a step; steps count from 0.

    >>> rules = TrainingRules(schedule="steps", drops=(2, 3), drop_factor=0.2)
    >>> [round(rate_factor(step, 1, 4, rules), 3) for step in range(4)]
    [1.0, 1.0, 0.2, 0.04]
    """
    if rules.schedule == "cosine":
        return (1 + math.cos(math.pi * step / (steps_per_epoch * epochs))) / 2
    if rules.schedule == "constant":
        return 1.0
    return rules.drop_factor ** sum(step >= round(drop * steps_per_epoch) for drop in rules.drops)


def build_optimizer(
    classifier: Classifier, candidate: Candidate, rules: TrainingRules
) -> torch.optim.Optimizer:
    """The optimizer; weight decay applies to all parameters with SGD, as in the published code."""
    parts: dict[str, tuple[nn.Module, float]] = {
        "encoder": (classifier.backbone, candidate.encoder_rate),
        "head": (classifier.head, candidate.head_rate),
    }
    if rules.freeze == "encoder":
        del parts["encoder"]
    groups: list[dict[str, Any]] = []
    for name, (module, rate) in parts.items():
        if rules.optimizer == "lars":
            own: Sequence[Mapping[str, Any]] = lars_groups(
                module, weight_decay=candidate.weight_decay
            )
        else:
            own = [{"params": list(module.parameters()), "weight_decay": candidate.weight_decay}]
        groups += [{**group, "lr": rate, "part": name} for group in own]
    if rules.optimizer == "lars":
        return LARS(groups, lr=candidate.head_rate, momentum=rules.momentum)
    return torch.optim.SGD(
        groups, lr=candidate.head_rate, momentum=rules.momentum, nesterov=rules.nesterov
    )


def limit_norm_momentum(classifier: nn.Module, limit: float) -> None:
    """Limit the weight of a batch in the running statistics (SimCLR, arXiv 2002.05709, appendix B.8.2)."""
    for module in classifier.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = min(0.1, limit)
