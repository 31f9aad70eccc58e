"""The segmentation cards to compare with MMSegmentation and its recorded numbers, and their batches.

Small images and few channels, so that a case takes a fraction of a second; every option that changes the
network, the loss, the schedule or the inference is on in some case.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from msbreg.backbones.spec import BackboneSpec, Normalization
from transfer.segmenters.crops import Batch, normalized
from transfer.segmenters.fcn import Segmenter, build_fcn
from transfer.segmenters.segmentation_config import (
    Config,
    InferenceOptions,
    NetworkOptions,
    SolverOptions,
)

CLASSES = ("background", "cat", "dog", "cow", "horse")
RATE = 0.01
STEPS = 3
MSRA = Normalization((0.406, 0.456, 0.485), (1 / 255, 1 / 255, 1 / 255), "BGR")


@dataclass(frozen=True)
class Case:
    """A card with its backbone, and the side of its training images."""

    spec: BackboneSpec
    config: Config
    side: int


def _case(arch: str, side: int, network: dict, solver: dict, inference: dict, **spec) -> Case:
    config = Config(
        checkpoint="random",
        network=NetworkOptions(**network),
        solver=SolverOptions(learning_rates=(RATE,), batch_size=2, **solver),
        inference=InferenceOptions(**inference),
    )
    return Case(BackboneSpec(arch, **spec), config, side)


D8 = {
    "output_stride": 8,
    "contract_dilation": True,
    "channels": 24,
    "dilation": 1,
    "concatenate": True,
    "dropout": 0.1,
    "auxiliary": 0.4,
}
POLY = {
    "schedule": "poly",
    "iterations": 8,
    "final_rate": 1e-4,
    "weight_decay": 5e-4,
    "loss_over": "all",
}
CASES = {
    # MoCo's FCN: stride 16, dilation 6, the loss over labeled pixels, steps at 70 % and 90 %.
    "moco-d16": _case("resnet50", 65, {"channels": 32}, {"iterations": 3}, {}),
    # MMSegmentation's FCN-D8, with images of 512 pixels and of 769 pixels.
    "fcn-d8": _case("resnet50", 64, D8, POLY, {"base": (90, 70)}),
    "fcn-d8-769": _case(
        "resnet18-narrow",
        65,
        D8 | {"align_corners": True},
        POLY,
        {
            "mode": "slide",
            "crop": (33, 49),
            "stride": (21, 30),
            "flip": True,
            "scales": (0.75, 1.25),
        },
    ),
    # A stem for small images, and rates and decays of the head.
    "small-stem": _case(
        "resnet18-tiny",
        48,
        {"channels": 16, "convolutions": 1, "dilation": 1},
        {"schedule": "poly", "iterations": 5, "head_rate": 10.0, "head_weight_decay": 0.0},
        {"scales": (1.5,)},
    ),
    # Caffe's stride and pixels, and a frozen backbone.
    "caffe-frozen": _case(
        "resnet50",
        48,
        {"channels": 16, "output_stride": 8, "freeze": "backbone"},
        {"iterations": 6},
        {"mode": "slide", "crop": (40, 40), "stride": (27, 27)},
        normalization=MSRA,
        stride_in_1x1=True,
    ),
}
"""Name -> case."""


def batch_of(case: Case, step: int) -> Batch:
    """Two crops of noise, one of them smaller, with blocks of labels and of void."""
    generator = torch.Generator().manual_seed(step)
    side = case.side
    pixels = torch.randint(0, 256, (2, 3, side, side), dtype=torch.uint8, generator=generator)
    blocks = torch.randint(0, len(CLASSES), (2, side, side), dtype=torch.uint8, generator=generator)
    labels = blocks[:, ::7, ::7].repeat_interleave(7, 1).repeat_interleave(7, 2)[:, :side, :side]
    labels = labels.clone()
    labels[0, :9, 5:] = 255
    sizes = torch.tensor([[side, side], [side - 8, side - 3]])
    pixels[1, :, side - 8 :] = pixels[1, :, :, side - 3 :] = 0
    labels[1, side - 8 :] = labels[1, :, side - 3 :] = 255
    return Batch(pixels, labels, sizes)


def image_of(case: Case) -> np.ndarray:  # (H, W, 3) uint8
    """A test image of another size than the crops."""
    random = np.random.default_rng(4)
    coarse = random.integers(0, 256, (9, 11, 3), dtype=np.uint8)
    return np.kron(coarse, np.ones((9, 8, 1), np.uint8))[: case.side + 12, : case.side + 19]


def settled(case: Case) -> Segmenter:
    """Our network of a case, with BatchNorm statistics of real activations.

    Its classifiers are sure, and each class is as likely as the others.
    """
    torch.manual_seed(0)
    network = build_fcn(case.spec, len(CLASSES), case.config.network)
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.train().momentum = 1.0
    pixels = torch.from_numpy(image_of(case)).permute(2, 0, 1)
    x = normalized(torch.stack([pixels, pixels.flip(1)]), None, case.spec.normalization)
    network.training = True  # both heads
    with torch.no_grad(), in_double(network):  # the same start on every machine
        network.logits(x)
        for norm in norms:
            norm.momentum = 0.1
        for name, logits in network.logits(x).items():
            classifier = network.get_submodule(f"{name}_head.conv_seg")
            classifier.weight *= 10
            classifier.bias -= 10 * logits.mean((0, 2, 3))
    return network.float().train()


@contextlib.contextmanager
def in_double(network: nn.Module) -> Iterator[None]:
    """Convert a segmenter to float64; inside, images are converted at the entrance of its backbone.

    Deep networks with random weights and small maps amplify float32 rounding, which differs between
    processors, 10,000 times in one update.
    """
    network.double()
    hook = network.get_submodule("backbone").register_forward_pre_hook(
        lambda _, given: (given[0].double(), *given[1:])
    )
    try:
        yield
    finally:
        hook.remove()
