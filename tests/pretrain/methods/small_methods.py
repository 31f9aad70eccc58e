"""Every method with small networks and settings, on batches that are functions of the step."""

import io

import torch
from torch import Tensor

from msbreg.backbones.resnet import normalize
from pretrain.method_settings import (
    DBNSettings,
    DeepClusterV2Settings,
    DINOSettings,
    MoCoV2Settings,
    SwAVSettings,
    WMSESettings,
)
from pretrain.methods import METHODS, build_method
from pretrain.methods.method import Method
from pretrain.recipe import (
    MULTI_CROP,
    AugmentSettings,
    Config,
    HeadSettings,
    OptimizerSettings,
    TargetSettings,
)
from pretrain.training import PreTraining
from pretrain.view_batches import ViewBatch

CPU = torch.device("cpu")
IMAGES = 16  # of the data set: two steps of 8 images per epoch
BATCH, EPOCH, STEPS = 8, 2, 6

OWN = {
    "moco_v2": MoCoV2Settings(queue=20),
    "swav": SwAVSettings(prototypes=5, queue=10, queue_from_epoch=0.0),
    "deepcluster_v2": DeepClusterV2Settings(clusters=(3, 4), iterations=2),
    "wmse": WMSESettings(size=4, iterations=2, epsilon=0.05),
    "dbn": DBNSettings(group=4),
    "dino": DINOSettings(prototypes=6, bottleneck=5, warmup_epochs=2.0),
}
"""Settings of the methods whose defaults are too large for 16 images."""


def settings(method: str, **changes) -> Config:
    """Two views; methods with multi-crop have a local view in addition."""
    local = int(method in MULTI_CROP)
    defaults = {
        "method": method,
        "arch": "resnet18-tiny",
        "batch_size": BATCH,
        "views": 2,
        "epochs": STEPS // EPOCH,
        "head": HeadSettings(hidden=12, out=8),
        "augment": AugmentSettings(size=16, local_views=local, local_size=8),
        "optimizer": OptimizerSettings(name="sgd", base_lr=1.0, warmup_epochs=0.0),
        "target": TargetSettings(bias_correction="adam" if method == "byol" else "none"),
    }
    own = {method: OWN[method]} if method in OWN else {}
    return Config(**defaults | own | changes)


def batch(config: Config, step: int) -> ViewBatch:
    generator = torch.Generator().manual_seed(step)
    sizes = [config.augment.size] * config.views
    sizes += [config.augment.local_size] * config.augment.local_views
    views = [
        torch.randint(0, 256, (BATCH, 3, size, size), generator=generator).to(torch.uint8)
        for size in sizes
    ]
    epoch, position = divmod(step, EPOCH)
    order = torch.randperm(IMAGES, generator=torch.Generator().manual_seed(100 + epoch))
    return ViewBatch(views, order[position * BATCH : (position + 1) * BATCH])


def pixels(config: Config, step: int) -> list[Tensor]:
    """The views of a step as the networks see them."""
    return [normalize(view, CPU) for view in batch(config, step).views]


def training(config: Config) -> PreTraining:
    """Ready for the first step."""
    method = build_method(config)
    method.allocate(IMAGES)
    method.to(CPU, synchronize=False)
    made = PreTraining(method, config, CPU, steps=STEPS, epoch=EPOCH)
    method.prepare((batch(config, step) for step in range(EPOCH)), lambda rows: rows)
    made.train_mode()
    return made


def backward(trained: PreTraining, step: int) -> dict[str, Tensor]:
    """Compute the gradients of a step; return the terms of its loss."""
    trained.optimizer.zero_grad()
    terms: dict[str, Tensor] = {}
    for loss in trained.losses(trained.model, batch(trained.config, step), step):
        loss.total.backward()
        for name, value in loss.terms.items():
            terms[name] = terms.get(name, torch.zeros(())) + value.detach()
    return terms


def update(trained: PreTraining, step: int) -> None:
    """The rest of a step, as in the training loop."""
    rates = trained.learning_rates(step)
    for group, rate in zip(trained.optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
    trained.before_update()
    trained.optimizer.step()
    trained.after_step(step)


def train(trained: PreTraining, first: int, last: int) -> None:
    for step in range(first, last):
        backward(trained, step)
        update(trained, step)


def saved(trained: PreTraining | Method) -> dict:
    """The state as it comes back from a file."""
    buffer = io.BytesIO()
    torch.save(trained.state_dict(), buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


ALL = tuple(METHODS)
