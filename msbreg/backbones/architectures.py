"""The ResNet architectures that this suite can build, load and convert.

This module does not import PyTorch, so that options can be checked before it is loaded.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from msbreg.run.errors import UserError, did_you_mean

Stem = Literal["imagenet", "cifar", "small"]

BLOCKS = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
    200: (3, 24, 36, 3),
}
"""Depth -> number of residual blocks in each stage (arXiv 1512.03385, Table 1; 200: arXiv 1603.05027)."""

NORM_TENSORS = ("weight", "bias", "running_mean", "running_var")


@dataclass(frozen=True)
class Architecture:
    """The architecture of a ResNet.

    Attributes:
        depth: ResNets of depth 18 and 34 have basic blocks, deeper ones have bottlenecks.
        width: channels of the stem, and of the first stage before expansion; 64 in published networks.
        inner: factor on the inner channels of bottlenecks (2 in Wide ResNet, arXiv 1605.07146).
        stem: ``imagenet`` (7x7 stride 2, then max-pool), ``cifar`` (3x3 stride 1, no pool; SimCLR,
            arXiv 2002.05709, appendix B.9) or ``small`` (3x3 stride 2, no pool: a quarter of the cost).
    """

    depth: int
    width: int = 64
    inner: int = 1
    stem: Stem = "imagenet"

    @property
    def blocks(self) -> tuple[int, ...]:
        """Number of residual blocks in each stage."""
        return BLOCKS[self.depth]

    @property
    def bottleneck(self) -> bool:
        """Whether blocks are bottlenecks (1x1, 3x3, 1x1) rather than basic (3x3, 3x3)."""
        return self.depth >= 50

    @property
    def channels(self) -> dict[str, int]:
        """Number of channels of the stage outputs, c2 to c5."""
        expansion = 4 if self.bottleneck else 1
        return {f"c{stage + 2}": self.width * expansion * 2**stage for stage in range(4)}

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """torchvision name -> shape of every tensor, in the order of the state dict."""
        made: dict[str, tuple[int, ...]] = {}

        def convolution(name: str, norm: str, outputs: int, inputs: int, size: int) -> None:
            made[f"{name}.weight"] = (outputs, inputs, size, size)
            made.update({f"{norm}.{tensor}": (outputs,) for tensor in NORM_TENSORS})
            made[f"{norm}.num_batches_tracked"] = ()

        convolution("conv1", "bn1", self.width, 3, 7 if self.stem == "imagenet" else 3)
        inputs = self.width
        for stage, (blocks, outputs) in enumerate(
            zip(self.blocks, self.channels.values(), strict=True)
        ):
            inner = self.width * 2**stage * self.inner
            widths = [(inner, 1), (inner, 3), (outputs, 1)]
            for block in range(blocks):
                name, layer_inputs = f"layer{stage + 1}.{block}", inputs
                for layer, (channels, size) in enumerate(
                    widths if self.bottleneck else [(outputs, 3)] * 2, start=1
                ):
                    convolution(
                        f"{name}.conv{layer}", f"{name}.bn{layer}", channels, layer_inputs, size
                    )
                    layer_inputs = channels
                if inputs != outputs:
                    shortcut = f"{name}.downsample"
                    convolution(f"{shortcut}.0", f"{shortcut}.1", outputs, inputs, 1)
                inputs = outputs
        return made


ARCHITECTURES: dict[str, Architecture] = {
    "resnet18": Architecture(18),
    "resnet34": Architecture(34),
    "resnet50": Architecture(50),
    "resnet101": Architecture(101),
    "resnet152": Architecture(152),
    "resnet200": Architecture(200),
    "wide_resnet50_2": Architecture(50, inner=2),  # torchvision's name
    # 2 or 4 times as many channels: the wide networks of SimCLR (arXiv 2002.05709), BYOL (arXiv
    # 2006.07733) and SwAV.
    "resnet50_2x": Architecture(50, width=128),
    "resnet50_4x": Architecture(50, width=256),
    "resnet200_2x": Architecture(200, width=128),
    "resnet18-cifar": Architecture(18, stem="cifar"),
    "resnet18-small": Architecture(18, stem="small"),
    # Narrow, but with the published stem: the backbone of the detectors for the embedded data. It can be
    # built from Detectron2's modules, although Detectron2's builder requires 64 channels at depth 18.
    "resnet18-narrow": Architecture(18, width=32),
    "resnet18-tiny": Architecture(18, width=32, stem="small"),
}
"""Name -> architecture. All networks are v1.5 unless a BackboneSpec says otherwise."""

PUBLISHED = tuple(
    name for name, a in ARCHITECTURES.items() if a.stem == "imagenet" and a.width >= 64
)
"""Architectures that third-party files may contain; our own files name their architecture."""


def architecture(name: str) -> Architecture:
    """The architecture called ``name``.

    Raises:
        UserError: the name is unknown; the message lists the known names.

    >>> architecture("wide_resnet50_2").shapes["layer1.0.conv2.weight"]
    (128, 128, 3, 3)
    """
    if name not in ARCHITECTURES:
        raise UserError(
            f"backbone {name!r} is unknown{did_you_mean(name, ARCHITECTURES) or '.'}\n"
            f"Expected one of: {', '.join(ARCHITECTURES)}"
        )
    return ARCHITECTURES[name]


def name_of(wanted: Architecture) -> str:
    """The name of an architecture.

    Raises:
        UserError: ARCHITECTURES does not contain it.
    """
    for name, known in ARCHITECTURES.items():
        if known == wanted:
            return name
    raise UserError(
        f"no backbone has depth {wanted.depth}, width {wanted.width}, inner width "
        f"{wanted.width * wanted.inner} and the {wanted.stem} stem; expected one of: "
        f"{', '.join(ARCHITECTURES)}"
    )
