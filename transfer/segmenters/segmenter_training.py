"""SegmenterTraining: adapts a segmentation network of either engine to the training loop."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from msbreg.backbones.spec import Normalization
from msbreg.checkpoints.load import load_exactly
from msbreg.data.segmentation.label_maps import VOID
from msbreg.run import distributed
from msbreg.run.errors import UserError
from msbreg.train.loop import Loss, Plan, Trainable
from transfer.segmenters.crops import Batch, normalized
from transfer.segmenters.fcn import Segmenter
from transfer.segmenters.segmentation_config import Config, SolverOptions

BATCH_SIZE = "solver.batch_size"
ROW_EVERY = 20  # iterations averaged in a row of the curve
STEP_FACTOR = 0.1
TESTING_ADVICE = (
    "out of memory while evaluating a single image.\n"
    "Use windows (--inference.mode slide with --inference.crop and stride), which changes the protocol."
)


def rate_at(step: int, base: float, options: SolverOptions) -> float:
    """The learning rate at a step; steps count from 0.

    >>> options = SolverOptions(iterations=10)
    >>> [round(rate_at(step, 1.0, options), 3) for step in (0, 6, 7, 8, 9)]
    [1.0, 1.0, 0.1, 0.1, 0.01]
    """
    total = options.iterations
    if options.schedule == "step":
        return base * STEP_FACTOR ** sum(step >= round(drop * total) for drop in options.drops)
    # mmengine's PolyLR in closed form, which reaches the final rate in the last step
    left = 1 - step / max(total - 1, 1)
    return options.final_rate + (base - options.final_rate) * left**options.power


def build_optimizer(network: Segmenter, rate: float, options: SolverOptions) -> torch.optim.SGD:
    """SGD with two groups: the backbone, and the heads. Weight decay applies to all parameters."""
    backbone = [p for p in network.backbone.parameters() if p.requires_grad]
    inside = {id(p) for p in network.backbone.parameters()}
    heads = [p for p in network.parameters() if p.requires_grad and id(p) not in inside]
    decay = options.head_weight_decay
    groups = [
        {"params": backbone, "lr": rate, "weight_decay": options.weight_decay},
        {
            "params": heads,
            "lr": rate * options.head_rate,
            "weight_decay": options.weight_decay if decay is None else decay,
        },
    ]
    used = [group for group in groups if group["params"]]
    return torch.optim.SGD(used, lr=rate, momentum=options.momentum)


class SegmenterTraining(Trainable):
    """A segmentation network with its optimizer and learning-rate schedule."""

    model: Segmenter
    advice = "Try lower solver.learning_rates, in a new --output."

    def __init__(
        self,
        network: Segmenter,
        config: Config,
        rate: float,
        normalization: Normalization,
        device: torch.device,
    ) -> None:
        self.model, self.solver, self.device = network, config.solver, device
        self.normalization = normalization
        self.parts, self.bf16 = config.accumulate, config.amp == "bf16"
        self.memory_format = (
            torch.channels_last if config.channels_last else torch.contiguous_format
        )
        self.optimizer = build_optimizer(network, rate, config.solver)
        self.bases = [group["lr"] for group in self.optimizer.param_groups]
        self.exchanges = distributed.world_size() > 1  # the number of labeled pixels; SyncBN
        self.memory = memory_advice_of(config)

    def learning_rates(self, step: int) -> list[float]:
        return [rate_at(step, base, self.solver) for base in self.bases]

    def losses(self, forward: nn.Module, batch: Batch, step: int) -> Iterator[Loss]:
        pixels = self._pixels(batch)
        for part in batch.split(len(batch) // self.parts):
            x = normalized(
                part.pixels.to(self.device, non_blocking=True), part.sizes, self.normalization
            )
            x = x.contiguous(memory_format=self.memory_format)  # loaders collate (B, H, W, 3)
            labels = part.labels.to(self.device, non_blocking=True).long()
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
                terms = forward(x, labels, pixels)
            yield Loss(sum(terms.values()), {name: v.detach() for name, v in terms.items()})

    def _pixels(self, batch: Batch) -> torch.Tensor | float:
        """What the sum of this process's losses is divided by, so that the mean over processes is that over
        the pixels of all processes; an all-void batch has the loss 0."""
        if self.solver.loss_over == "all":
            return float(batch.labels.numel())
        labeled = (batch.labels != VOID).sum().to(self.device, torch.float32)
        return distributed.total(labeled).clamp(min=1) / distributed.world_size()

    def row(self, step: int, means: dict[str, float]) -> dict[str, Any]:
        return {
            "iteration": step,
            **means,
            "total_loss": sum(means.values()),
            "learning_rate": self.learning_rates(step - 1)[0],
        }

    def prepare_evaluation(self, step: int) -> None:
        distributed.share_buffers(self.model)

    def state_dict(self) -> dict[str, Any]:
        return {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        load_exactly(self.model, state["model"], "the segmentation network")
        try:
            self.optimizer.load_state_dict(state["optimizer"])
        except ValueError as error:
            raise UserError(f"the optimizer state is from another network: {error}") from error


def plan_of(config: Config, device: torch.device) -> Plan:
    """The training loop's plan."""
    return Plan(
        steps=config.solver.iterations,
        row_every=ROW_EVERY,
        save_every=config.save_every,
        evaluate_every=config.evaluate_every,
        read_every=1 if device.type == "cpu" else ROW_EVERY,
        seed=config.seed,
    )


def memory_advice_of(config: Config) -> str:
    """Which settings to change if training runs out of memory."""
    lines = ["out of memory while training."]
    lines.append(f"  --accumulate {2 * config.accumulate} splits each batch into smaller parts")
    if config.amp == "no":
        lines.append("  --amp bf16 needs about half the memory")
    lines.append("  more processes (torchrun) each take a smaller share of solver.batch_size")
    lines.append(
        "A run with changed settings needs a new --output; the same command continues this run."
    )
    return "\n".join(lines)


def format_losses(losses: Mapping[str, float]) -> str:
    """Losses as text, such as ``loss 1.53 (decode 1.20, auxiliary 0.33)``."""
    parts = ", ".join(f"{name.removeprefix('loss_')} {value:.2f}" for name, value in losses.items())
    return f"loss {sum(losses.values()):.2f}" + (f" ({parts})" if len(losses) > 1 else "")
