"""A detector of one convolution that keeps the contract: samples -> losses, or detections."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transfer.detectors.train_loop import Solver, State

from transfer.detectors.config.yaml_file import read_config
from transfer.detectors.mapper import Sample
from transfer.detectors.solver import build_optimizer


@dataclass(frozen=True)
class Found:
    boxes: Tensor
    scores: Tensor
    labels: Tensor
    masks: Tensor | None = None


class Toy(nn.Module):
    """BatchNorm, and a loss on pixels drawn from the global generator as proposals are."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 1)

    def forward(self, samples: list[Sample]) -> dict[str, Tensor] | list[Found]:
        images = torch.stack([sample.image for sample in samples]).float() / 255
        features = self.norm(self.conv(images)).relu().flatten(2).transpose(1, 2)
        if not self.training:
            scores = self.head(features.mean(1)).sigmoid()
            box = torch.tensor([[1.0, 1.0, 5.0, 5.0]])
            return [Found(box, score, torch.zeros(1, dtype=torch.int64)) for score in scores]
        chosen = torch.randperm(features.shape[1])[:8]
        out = self.head(features[:, chosen]).squeeze(-1)
        targets = images.mean(1).flatten(1)[:, chosen]
        return {"loss_cls": (out - targets).square().mean(), "loss_box_reg": out.abs().mean() / 10}


def sample(number: int) -> Sample:
    generator = torch.Generator().manual_seed(number)
    image = torch.randint(0, 256, (3, 8, 8), dtype=torch.uint8, generator=generator)
    return Sample(scene=number, image=image, height=8, width=8)


def batches(first: int, size: int = 4):
    """Batches without end; a function of their number."""
    while True:
        yield [sample(first * size + i) for i in range(size)]
        first += 1


def config(tmp_path, *overrides: str):
    """Detectron2's defaults with overrides."""
    file = tmp_path / "card.yaml"
    file.write_text("VERSION: 2\n")
    return read_config(file, overrides)


def new_state(cfg, seed: int = 0) -> State:
    torch.manual_seed(seed)
    model = Toy()
    optimizer = build_optimizer(cfg, model)
    rates = [group["lr"] for group in optimizer.param_groups]
    return State(model, Solver(optimizer, lambda iteration: [r / (1 + iteration) for r in rates]))
