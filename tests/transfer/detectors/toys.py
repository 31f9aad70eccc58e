"""A detector with a single convolution that maps samples to losses or detections."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from msbreg.run.config import Card
from msbreg.run.job import Job
from msbreg.run.progress import Progress
from msbreg.run.record import Record
from msbreg.run.signals import StopSignal
from msbreg.train.loop import Plan, Trainable, train
from msbreg.train.state import State
from transfer.detectors.config.yaml_file import read_config
from transfer.detectors.detection_config import Config
from transfer.detectors.detector_training import DetectorTraining, checkpoint_of
from transfer.detectors.mapper import Sample
from transfer.detectors.solver import Solver, build_optimizer


@dataclass(frozen=True)
class Found:
    boxes: Tensor
    scores: Tensor
    labels: Tensor
    masks: Tensor | None = None


class Toy(nn.Module):
    """Has BatchNorm, and a loss on pixels sampled from the global generator, like proposals."""

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
    """Endless batches; each is a function of its index."""
    while True:
        yield [sample(first * size + i) for i in range(size)]
        first += 1


def config(tmp_path, *overrides: str):
    """Detectron2's defaults with overrides."""
    file = tmp_path / "card.yaml"
    file.write_text("VERSION: 2\n")
    return read_config(file, overrides)


def new_training(cfg, seed: int = 0, **options) -> DetectorTraining:
    """A toy detector with SGD whose learning rate falls as 1 / (1 + iteration)."""
    torch.manual_seed(seed)
    model = Toy()
    optimizer = build_optimizer(cfg, model)
    rates = [group["lr"] for group in optimizer.param_groups]
    solver = Solver(optimizer, lambda iteration: [r / (1 + iteration) for r in rates])
    defaults = {"statistics_batches": lambda iteration: batches(1000 + iteration)}
    return DetectorTraining(model, solver, torch.device("cpu"), **defaults | options)


def new_job(folder: Path, resumed: bool = False) -> Job:
    """A job that locks, logs and records nothing."""
    settings = Config(config=folder / "card.yaml", output=folder)
    record = Record(folder, kind="detection", config=settings, card=Card("tiny"))
    return Job(folder, torch.device("cpu"), record, resumed=resumed, stop=StopSignal())


def fit(training: Trainable, batches: Iterable, plan: Plan, folder: Path, **hooks) -> State:
    """Train from the start, with a checkpoint in the folder."""
    state = State()
    checkpoint = checkpoint_of(folder / "checkpoint.pth", {})
    with Progress("training", plan.steps) as progress:
        train(
            training,
            batches,
            plan,
            state,
            checkpoint,
            job=new_job(folder),
            progress=progress,
            **hooks,
        )
    return state
