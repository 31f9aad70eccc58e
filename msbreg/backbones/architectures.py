"""The table of depths and widths: every ResNet that this suite builds, loads and converts.

Nothing heavy is imported, so that options are checked before PyTorch loads.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from msbreg.run.errors import UserError

Stem = Literal["imagenet", "cifar", "small"]

BLOCKS = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
    200: (3, 24, 36, 3),
}
"""Depth -> residual blocks of the four stages (arXiv 1512.03385, Table 1; 200: arXiv 1603.05027)."""

NORM_TENSORS = ("weight", "bias", "running_mean", "running_var")


@dataclass(frozen=True)
class Architecture:
    """A ResNet without its tensors.

    Attributes:
        depth: 18 and 34 have basic blocks, 50 and deeper have bottlenecks.
        width: channels of the stem, and of the first stage before expansion; 64 is the published one.
        inner: factor on the inner channels of bottlenecks (Wide ResNet, arXiv 1605.07146: 2).
        stem: ``imagenet`` (7x7 stride 2, then max-pool), ``cifar`` (3x3 stride 1, no pool; SimCLR,
            arXiv 2002.05709, appendix B.9) or ``small`` (3x3 stride 2, no pool: a quarter of the cost).
    """

    depth: int
    width: int = 64
    inner: int = 1
    stem: Stem = "imagenet"

    @property
    def blocks(self) -> tuple[int, ...]:
        """Residual blocks of each stage."""
        return BLOCKS[self.depth]

    @property
    def bottleneck(self) -> bool:
        """Whether blocks are bottlenecks (1x1, 3x3, 1x1) rather than basic (3x3, 3x3)."""
        return self.depth >= 50

    @property
    def channels(self) -> dict[str, int]:
        """Of the stages' outputs, c2 to c5."""
        expansion = 4 if self.bottleneck else 1
        return {f"c{stage + 2}": self.width * expansion * 2**stage for stage in range(4)}

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """torchvision name -> shape of every tensor, in the order of the module's state dict."""
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
    # All channels times 2 or 4: the wider networks of SimCLR (arXiv 2002.05709), BYOL (arXiv
    # 2006.07733) and SwAV.
    "resnet50_2x": Architecture(50, width=128),
    "resnet50_4x": Architecture(50, width=256),
    "resnet200_2x": Architecture(200, width=128),
    "resnet18-cifar": Architecture(18, stem="cifar"),
    "resnet18-small": Architecture(18, stem="small"),
    # Narrow, but with the published stem: the network of the embedded data's detectors. Detectron2's
    # parts build it as well, though its own builder insists on 64 channels at depth 18.
    "resnet18-narrow": Architecture(18, width=32),
    "resnet18-tiny": Architecture(18, width=32, stem="small"),
}
"""Name -> architecture. All are v1.5 unless a BackboneSpec says otherwise."""

PUBLISHED = tuple(
    name for name, a in ARCHITECTURES.items() if a.stem == "imagenet" and a.width >= 64
)
"""What other people's files may hold; a file of ours names its architecture."""


def architecture(name: str) -> Architecture:
    """The architecture of that name.

    Raises:
        UserError: there is none; the message lists the known ones.

    >>> architecture("wide_resnet50_2").shapes["layer1.0.conv2.weight"]
    (128, 128, 3, 3)
    """
    if name not in ARCHITECTURES:
        raise UserError(
            f"backbone {name!r} is unknown; expected one of: {', '.join(ARCHITECTURES)}"
        )
    return ARCHITECTURES[name]


def name_of(wanted: Architecture) -> str:
    """The name of an architecture.

    Raises:
        UserError: the table has no such network.
    """
    for name, known in ARCHITECTURES.items():
        if known == wanted:
            return name
    raise UserError(
        f"no backbone has depth {wanted.depth}, width {wanted.width}, inner width "
        f"{wanted.width * wanted.inner} and the {wanted.stem} stem; known: {', '.join(ARCHITECTURES)}"
    )
