"""PreTraining: connects a method to the training loop, with its optimizer and learning rate."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from msbreg.backbones.resnet import normalize
from msbreg.run import distributed
from msbreg.train.loop import Loss, Trainable
from msbreg.train.optimizers import LARS, lars_groups, warmup_cosine
from pretrain.methods.method import Method
from pretrain.recipe import Config


class PreTraining(Trainable):
    """Computes the loss of a batch of views, one view at a time if the method allows it.

    The forward pass always processes one view at a time, so BatchNorm statistics are per view, as in BYOL.
    """

    exchanges = True  # embeddings are gathered
    advice = "Try a smaller --optimizer.base_lr or a longer --optimizer.warmup_epochs, in a new --output."
    memory = (
        "out of memory while pre-training.\n"
        "--precision bf16 needs about half the memory, and more processes (torchrun) split --batch_size. A "
        "smaller\n--batch_size or --augment.size changes the recipe and needs a new --output."
    )

    def __init__(
        self, method: Method, config: Config, device: torch.device, *, steps: int, epoch: int
    ) -> None:
        """``steps`` is the total number of steps, ``epoch`` the number of steps per epoch."""
        self.method, self.config, self.device = method, config, device
        self.steps, self.epoch = steps, epoch
        self.model = method.trained
        self.parts = config.views if method.view_by_view else 1
        self.optimizer = LARS(
            lars_groups(self.model, weight_decay=config.optimizer.weight_decay),
            lr=0.0,  # set at every step
            momentum=config.optimizer.momentum,
            trust=config.optimizer.trust,
        )

    def learning_rates(self, step: int) -> list[float]:
        options = self.config.optimizer
        rate = warmup_cosine(
            step,
            self.steps,
            peak=peak_learning_rate(self.config),
            warmup=round(options.warmup_epochs * self.epoch),
            start=options.warmup_start,
            final=options.final_lr,
        )
        return [rate] * len(self.optimizer.param_groups)

    def losses(
        self,
        forward: nn.Module,
        batch: Tensor,  # (K or 2K, B, 3, S, S) uint8; with 2K, the last K are for the target network
        step: int,
    ) -> Iterator[Loss]:
        config, gather = self.config, distributed.gather
        autocast = torch.autocast(
            self.device.type, torch.bfloat16, enabled=config.precision == "bf16"
        )
        with autocast:
            target_views = [normalize(view, self.device) for view in batch[-config.views :]]
            targets = self.method.targets(target_views, gather)
            del target_views
        if not self.method.view_by_view:
            with autocast:
                views = [forward(normalize(view, self.device)) for view in batch[: config.views]]
            embeddings = torch.stack([embedding.float() for embedding in views])
            yield self.method.loss(embeddings, targets, view=0, step=step, gather=gather)
            return
        for number, view in enumerate(batch[: config.views]):
            with autocast:
                embedding = forward(normalize(view, self.device))
            loss = self.method.loss(
                embedding.float()[None], targets, view=number, step=step, gather=gather
            )
            terms = {name: value.detach() / config.views for name, value in loss.terms.items()}
            yield Loss(loss.total / config.views, terms)

    def row(self, step: int, means: dict[str, float]) -> dict[str, Any]:
        return (
            {"epoch": step // self.epoch, "step": step}
            | means
            | {"learning_rate": self.learning_rates(step - 1)[0]}
            | self.method.metrics()
        )

    def train_mode(self) -> None:
        self.method.train_mode()

    def after_step(self, step: int) -> None:
        self.method.after_step(step, self.steps)

    def state_dict(self) -> dict[str, Any]:
        return self.method.state_dict() | {"optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.method.load_state_dict(state)
        self.optimizer.load_state_dict(state["optimizer"])


def peak_learning_rate(config: Config) -> float:
    """``base_lr * batch_size / 256``, times the number of views if ``scale_by_views`` (MSBReg §7.1).

    >>> peak_learning_rate(Config())  # 6.0 * 32 / 256 * 4
    3.0
    """
    scale = config.views if config.optimizer.scale_by_views else 1
    return config.optimizer.base_lr * config.batch_size / 256 * scale
