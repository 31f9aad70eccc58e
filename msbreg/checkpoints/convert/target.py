"""What one toolbox wants: names, settings, files, how to read them back; and the common reader.

The reader is a ResNet without modules: functions of a state dict in the toolbox's own names. It shares
nothing with the network that was converted, so that a wrong name, stride, channel order, epsilon or
tensor shows as a wrong number.
"""

import io
import json
import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor
from torch.nn import functional

from msbreg.backbones.spec import BackboneSpec, Normalization
from msbreg.checkpoints.layouts.names import Dialect
from msbreg.run.errors import UserError

Words = dict[str, Any]
"""A backbone's spec under a toolbox's own names."""

Features = dict[str, Tensor]
"""Stem and res2 to res5, by name."""

STAGES = ("stem", "res2", "res3", "res4", "res5")


@dataclass(frozen=True)
class Layout:
    """Where a toolbox's network looks for its tensors, stated apart from the dialect that wrote them.

    Convolutions end in ``.weight`` and norms in the names of BatchNorm's tensors. ``{stage}``,
    ``{block}`` and ``{layer}`` are counted from ``first_stage``, 0 and ``first_layer``.
    """

    stem: str
    stem_norm: str
    convolution: str
    norm: str
    shortcut: str
    shortcut_norm: str
    first_stage: int
    first_layer: int


@dataclass(frozen=True)
class Content:
    """Everything that goes into a file.

    Attributes:
        state: tensors, in the toolbox's names.
        words: the spec, in the toolbox's words.
        provenance: of the source, in plain types.
        certificate: what was found when the file was read back; None until then.
    """

    state: dict[str, Tensor]
    words: Words
    provenance: dict[str, Any]
    certificate: dict[str, Any] | None = None


@dataclass(frozen=True)
class Reading:
    """A written file as a network loaded it.

    Attributes:
        reader: library and version, or ``formulas``.
        loaded: tensors in that network, under the file's names.
        features: of the images, computed in float64 or float32, input included.
        problems: what the library could not place or did not find.
        ignored: ending of the names of tensors that this network has no place for, by design.
    """

    reader: str
    loaded: dict[str, Tensor]
    features: Callable[[torch.dtype], Features]
    problems: tuple[str, ...] = ()
    ignored: str = ""


Reader = Callable[[Path, Words, Tensor], list[Reading]]
"""File, stored settings, images (B, 3, H, W) uint8 RGB -> one reading per kind of network."""


@dataclass(frozen=True)
class Target:
    """One toolbox.

    Attributes:
        name: what ``--to`` takes.
        ending: of the default output, after the checkpoint's stem.
        suffixes: that an output may have; none for a folder.
        names: dialect of the tensors.
        layout: where the toolbox's network looks for them, stated independently.
        refusal: why a backbone cannot be expressed for this toolbox; empty if it can.
        express: the spec in the toolbox's words.
        understand: the spec that the words in the file state; the inverse, for the certificate.
        encode: content and suffix -> name of a file in the folder (empty: the file itself) -> bytes.
        decode: path -> tensors and stored words; None if the format has no place for words.
        fragment: words and path -> what a user pastes into the toolbox's configuration or script.
        readers: of libraries that this package may import.
        has_card: a model card is written beside the file.
    """

    name: str
    ending: str
    suffixes: tuple[str, ...]
    names: Dialect
    layout: Layout
    refusal: Callable[[BackboneSpec], str]
    express: Callable[[BackboneSpec], Words]
    understand: Callable[[Words], BackboneSpec]
    encode: Callable[[Content, str], dict[str, bytes]]
    decode: Callable[[Path], tuple[dict[str, Tensor], Words | None]]
    fragment: Callable[[Words, Path], str]
    readers: tuple[Reader, ...] = ()
    has_card: bool = False

    def check(self, spec: BackboneSpec) -> None:
        """Check that the toolbox can build the network at all.

        Raises:
            UserError: it cannot; the message says why.
        """
        reason = self.refusal(spec)
        if reason:
            raise UserError(
                f"{self.name} cannot express this backbone: {reason}.\n"
                "`--to safetensors` writes every backbone of this suite, for its own scripts."
            )


def no_small_stem(spec: BackboneSpec) -> str:
    """The refusal that all toolboxes share."""
    stem = spec.architecture.stem
    if stem == "imagenet":
        return ""
    return (
        f"its stem is the one for small images ({stem}: a 3x3 convolution, no max-pool), and "
        "it builds the published 7x7 stride-2 convolution with max-pool only"
    )


# ---- Encodings


def pickled(content: Any) -> bytes:
    """A pickle whose tensors are NumPy arrays, for ``pickle.load(file, encoding="latin1")``.

    An array's own reduction names a module that moved between NumPy 1 (``numpy.core``) and 2
    (``numpy._core``), so that files written with NumPy 2 do not load in NumPy 1 (numpy/numpy#28340).
    Here an array is a call of ``numpy.ndarray`` on a ``bytearray``, which is writable, and the file
    contains no other global.
    """
    buffer = io.BytesIO()
    _Pickler(buffer, protocol=4).dump(content)
    return buffer.getvalue()


class _Pickler(pickle.Pickler):
    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, Tensor):
            array = np.ascontiguousarray(obj.numpy())
            # ascontiguousarray turns a scalar into a vector; the tensor's shape is the one to keep.
            return np.ndarray, (tuple(obj.shape), array.dtype.str, bytearray(array.tobytes()))
        return NotImplemented


def torch_saved(content: Any) -> bytes:
    """What ``torch.save`` writes; plain types and tensors load under ``weights_only=True``."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def as_safetensors(state: dict[str, Tensor], metadata: dict[str, Any]) -> bytes:
    """Tensors, and metadata whose values are JSON; ``format`` marks them as PyTorch's."""
    words = {name: json.dumps(value, sort_keys=True) for name, value in metadata.items()}
    return safetensors.torch.save(state, {"format": "pt", **words})


def as_json(content: Any) -> bytes:
    """Readable JSON. NaN is an error: a file whose certificate lacks a number is not written."""
    return (json.dumps(content, indent=2, allow_nan=False) + "\n").encode()


# ---- The reader that every target is checked with: a ResNet without modules


EPSILON = 1e-5


class Executor:
    """The network of one state dict and one spec.

    Attributes:
        used: names of the tensors that a forward pass has read.
    """

    def __init__(self, state: Mapping[str, Tensor], layout: Layout, spec: BackboneSpec) -> None:
        self.state, self.layout, self.spec = state, layout, spec
        self.used: set[str] = set()

    @torch.no_grad()
    def __call__(
        self,
        images: Tensor,  # (B, 3, H, W) uint8 RGB
        dtype: torch.dtype,
    ) -> Features:
        """Stem and res2 to res5, computed in ``dtype``.

        Raises:
            KeyError: a tensor is not where the layout has it.
        """
        x = self._stem(prepared(images, self.spec.normalization, dtype))
        features = {"stem": x}
        for stage, blocks in enumerate(self.spec.architecture.blocks):
            for block in range(blocks):
                x = self._block(x, stage, block)
            features[STAGES[stage + 1]] = x
        return features

    def _stem(self, x: Tensor) -> Tensor:
        small = {"imagenet": None, "cifar": 1, "small": 2}[self.spec.architecture.stem]
        if small is not None:
            x = self._convolution(x, self.layout.stem, stride=small, padding=1)
            return functional.relu(self._norm(x, self.layout.stem_norm))
        x = self._convolution(x, self.layout.stem, stride=2, padding=3)
        x = functional.relu(self._norm(x, self.layout.stem_norm))
        return functional.max_pool2d(x, kernel_size=3, stride=2, padding=1)

    def _block(self, x: Tensor, stage: int, block: int) -> Tensor:
        """One residual block; the first of a stage has stride 2, except in the first stage."""
        stride = 2 if stage > 0 and block == 0 else 1
        if self.spec.architecture.bottleneck:
            in_1x1 = stride if self.spec.stride_in_1x1 else 1
            layers = [(in_1x1, 0), (stride // in_1x1, 1), (1, 0)]  # (stride, padding)
        else:
            layers = [(stride, 1), (1, 1)]
        y = x
        for layer, (layer_stride, padding) in enumerate(layers):
            place = {
                "stage": stage + self.layout.first_stage,
                "block": block,
                "layer": layer + self.layout.first_layer,
            }
            if layer:
                y = functional.relu(y)
            name = self.layout.convolution.format(**place)
            y = self._convolution(y, name, stride=layer_stride, padding=padding)
            y = self._norm(y, self.layout.norm.format(**place))
        if stride > 1 or x.shape[1] != y.shape[1]:
            x = self._convolution(x, self.layout.shortcut.format(**place), stride=stride, padding=0)
            x = self._norm(x, self.layout.shortcut_norm.format(**place))
        return functional.relu(x + y)

    def _convolution(self, x: Tensor, name: str, *, stride: int, padding: int) -> Tensor:
        weight = self._take(f"{name}.weight").to(x.dtype)
        return functional.conv2d(x, weight, None, stride, padding)

    def _norm(self, x: Tensor, name: str) -> Tensor:
        self.used.add(f"{name}.num_batches_tracked")  # read in training only
        mean, variance, weight, bias = (
            self._take(f"{name}.{tensor}").to(x.dtype)
            for tensor in ("running_mean", "running_var", "weight", "bias")
        )
        return functional.batch_norm(x, mean, variance, weight, bias, training=False, eps=EPSILON)

    def _take(self, name: str) -> Tensor:
        self.used.add(name)
        return self.state[name]


def prepared(
    images: Tensor,  # (B, 3, H, W) uint8 RGB
    normalization: Normalization,
    dtype: torch.dtype = torch.float32,
) -> Tensor:  # (B, 3, H, W) of that type
    """Pixels as Detectron2 hands them to its backbone: channels reordered, then (x - mean) / std."""
    ordered = images.flip(1) if normalization.channels == "BGR" else images
    mean = torch.tensor(normalization.pixel_mean, dtype=dtype).view(3, 1, 1)
    std = torch.tensor(normalization.pixel_std, dtype=dtype).view(3, 1, 1)
    return (ordered.to(dtype) - mean) / std
