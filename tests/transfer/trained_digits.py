"""A small checkpoint that has learned the embedded digits, in seconds."""

from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from msbreg.backbones.resnet import ResNet, build_backbone, embed, normalize
from msbreg.checkpoints.load import save_checkpoint
from msbreg.data.sources import open_source
from msbreg.data.transforms import EvaluationTransform

ARCH, SIDE = "resnet18-tiny", 32


def write_checkpoint(path: Path, backbone: ResNet) -> Path:
    """A checkpoint in the layout of pretrain/run.py."""
    about = {"method": "msbreg", "views": 2, "epochs": 1, "batch_size": 4, "seed": 7}
    online = {f"backbone.{key}": value for key, value in backbone.state_dict().items()}
    content = {"arch": ARCH, "image_size": SIDE, "step": 3, "steps": 9, "config": about}
    save_checkpoint(path, content | {"online": online})
    return path


def trained_on_digits(steps: int) -> ResNet:
    """A backbone after a few supervised steps; enough to be far above its untrained twin."""
    images = open_source("digits", "train").subset(np.arange(0, 2874, 3))
    transform = EvaluationTransform(SIDE, SIDE)
    pixels = torch.from_numpy(np.stack([transform(images.image(i)) for i in range(len(images))]))
    labels = torch.from_numpy(np.asarray(images.labels)).long()
    generator = torch.Generator().manual_seed(0)
    backbone = build_backbone(ARCH, seed=3).train()
    head = nn.Linear(256, len(images.classes))
    nn.init.zeros_(head.weight)
    optimizer = torch.optim.Adam([*backbone.parameters(), *head.parameters()], 1e-3)
    for _ in range(steps):
        chosen = torch.randint(0, len(labels), (32,), generator=generator)
        features = embed(backbone, normalize(pixels[chosen], torch.device("cpu")))
        optimizer.zero_grad()
        functional.cross_entropy(head(features), labels[chosen]).backward()
        optimizer.step()
    return backbone.eval()
