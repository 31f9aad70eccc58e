"""What one row of FORMATS says about a checkpoint layout."""

from dataclasses import dataclass
from typing import Literal

from msbreg.backbones.spec import IMAGENET, Normalization
from msbreg.checkpoints.layouts.names import Dialect, torchvision

ZERO_TO_ONE = Normalization((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
"""Pixels / 255 and nothing else (SimCLR in TensorFlow, sthalles, Spijkervet)."""

SWAV = Normalization((0.485, 0.456, 0.406), (0.228, 0.224, 0.225))
"""SwAV's standard deviations (facebookresearch/swav, multicropdataset.py)."""

CAFFE2 = Normalization((0.406, 0.456, 0.485), (0.225, 0.224, 0.229), "BGR")
"""ImageNet's statistics in the order of OpenCV (fair_self_supervision_benchmark, image_dataset.py)."""

MSRA = Normalization((103.53 / 255, 116.28 / 255, 123.675 / 255), (1 / 255,) * 3, "BGR")
"""Caffe's: BGR in [0, 255], mean only (Detectron2's default PIXEL_MEAN and PIXEL_STD)."""

Entry = tuple[str | int, ...]


@dataclass(frozen=True)
class Encoder:
    """One network in a file.

    Attributes:
        name: what records call it, and what ``--encoder`` takes.
        prefix: of its tensors, after wrapper tokens (``module.``) are taken away; with its dot.
        entry: where its state dict is, if not at the row's; several are joined.
    """

    name: str
    prefix: str
    entry: tuple[Entry, ...] = ()


@dataclass(frozen=True)
class Format:
    """One checkpoint layout found in the wild.

    Patterns are shell-style (``*`` also matches dots) and see keys without wrapper tokens.

    Attributes:
        name: of the family, in records and for ``--family``.
        covers: methods and files that come in this layout.
        source: repository and file in which the layout was read; [?] where only a file could prove it.
        encoders: networks that may be in the file; the first is the family's rule.
        why: why that one.
        entry: keys that lead from the file's content to the state dict.
        names: dialect of the tensors behind the prefix.
        hwio: convolutions are stored (height, width, in, out) and norms (1, 1, 1, C), as TensorFlow does.
        by_order: names carry no meaning; tensors come in torchvision's order.
        top: entries that the file's content must have.
        top_without: entries that it must not have.
        values: entries and the values that they must have.
        absent: places and patterns that must match no key there.
        marks: patterns, each of which must match a key: what tells the layout from its neighbors.
        without: patterns that must match no key.
        heads: patterns behind an encoder's prefix that are dropped on purpose.
        dropped: patterns of whole keys that are dropped on purpose.
        aliases: prefixes under which the same tensors are saved again; they must be equal.
        normalization: of the input.
        stride: where a bottleneck has stride 2: in the 3x3 (v1.5, torchvision) or the 1x1 (v1, Caffe).
        states_arch: the file names its architecture, in our terms.
        note: what else a user should know.
    """

    name: str
    covers: str
    source: str
    encoders: tuple[Encoder, ...]
    why: str = "the file holds one network"
    entry: Entry = ()
    names: Dialect = torchvision
    hwio: bool = False
    by_order: bool = False
    top: tuple[str, ...] = ()
    top_without: tuple[str, ...] = ()
    values: tuple[tuple[str, str], ...] = ()
    absent: tuple[tuple[Entry, str], ...] = ()
    marks: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    heads: tuple[str, ...] = ("fc.*",)
    dropped: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    normalization: Normalization = IMAGENET
    stride: Literal["3x3", "1x1"] = "3x3"
    states_arch: bool = False
    note: str = ""
