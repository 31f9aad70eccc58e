"""Target: the names, settings and files of one toolbox; and the reader that checks every target.

The reader is a ResNet written as functions of a state dict with the toolbox's own names. It shares no
code with the converted network, so a wrong name, stride, channel order, epsilon or tensor shows as a
wrong number.
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

Settings = dict[str, Any]
"""A backbone's spec under a toolbox's own names."""

Features = dict[str, Tensor]
"""Outputs of the stem and of res2 to res5, by name."""

STAGES = ("stem", "res2", "res3", "res4", "res5")


@dataclass(frozen=True)
class Layout:
    """Names of a toolbox's modules, stated independently of the dialect that writes the tensors.

    ``{stage}``, ``{block}`` and ``{layer}`` are counted from ``first_stage``, 0 and ``first_layer``.
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
    """Everything that is written to a file.

    Attributes:
        state: tensors under the toolbox's names.
        settings: the spec as the toolbox's settings.
        provenance: provenance of the source, in plain types.
        certificate: result of reading the file back; None before that.
    """

    state: dict[str, Tensor]
    settings: Settings
    provenance: dict[str, Any]
    certificate: dict[str, Any] | None = None


@dataclass(frozen=True)
class Reading:
    """A written file as a network loaded it.

    Attributes:
        reader: library and version, or ``formulas``.
        loaded: tensors in that network, under the file's names.
        features: features of the images, computed in the given dtype from the pixels on.
        problems: tensors that the library could not load or did not find.
        ignored: suffix of tensor names that this network lacks by design.
    """

    reader: str
    loaded: dict[str, Tensor]
    features: Callable[[torch.dtype], Features]
    problems: tuple[str, ...] = ()
    ignored: str = ""


Reader = Callable[[Path, Settings, Tensor], list[Reading]]
"""File, stored settings, images (B, 3, H, W) uint8 RGB -> one reading per kind of network."""


@dataclass(frozen=True)
class Target:
    """One toolbox.

    Attributes:
        name: value of ``--to``.
        ending: appended to the checkpoint's stem for the default output.
        suffixes: allowed suffixes of an output; empty for a folder.
        names: dialect of the tensors.
        layout: module names of the toolbox's network, stated independently.
        refusal: spec -> why the toolbox cannot express it; empty if it can.
        express: spec -> the toolbox's settings.
        understand: settings -> spec; the inverse of ``express``, used by the certificate.
        encode: content and suffix -> {name of a file in the folder, or "" for the file itself: bytes}.
        decode: path -> tensors and stored settings; None if the format cannot store settings.
        fragment: settings and path -> text to paste into the toolbox's configuration or script.
        readers: readers of libraries that this package may import.
        has_card: whether a model card is written next to the file.
    """

    name: str
    ending: str
    suffixes: tuple[str, ...]
    names: Dialect
    layout: Layout
    refusal: Callable[[BackboneSpec], str]
    express: Callable[[BackboneSpec], Settings]
    understand: Callable[[Settings], BackboneSpec]
    encode: Callable[[Content, str], dict[str, bytes]]
    decode: Callable[[Path], tuple[dict[str, Tensor], Settings | None]]
    fragment: Callable[[Settings, Path], str]
    readers: tuple[Reader, ...] = ()
    has_card: bool = False

    def check(self, spec: BackboneSpec) -> None:
        """Check that the toolbox can build the network.

        Raises:
            UserError: it cannot; the message states the reason.
        """
        reason = self.refusal(spec)
        if reason:
            raise UserError(
                f"{self.name} cannot express this backbone: {reason}.\n"
                "`--to safetensors` writes any backbone, for use with this suite."
            )


def no_small_stem(spec: BackboneSpec) -> str:
    """Why a toolbox with only the ImageNet stem cannot express a spec; empty if it can."""
    stem = spec.architecture.stem
    if stem == "imagenet":
        return ""
    return (
        f"its stem is for small images ({stem}: a 3x3 convolution without max-pool), and the toolbox "
        "only builds a 7x7 stride-2 convolution with max-pool"
    )


# ---- Encodings


def pickled(content: Any) -> bytes:
    """A pickle whose tensors are NumPy arrays, for ``pickle.load(file, encoding="latin1")``.

    NumPy's own pickling names a module that moved from ``numpy.core`` in NumPy 1 to ``numpy._core`` in
    NumPy 2, so files written with NumPy 2 do not load in NumPy 1 (numpy/numpy#28340). Here an array is
    a call of ``numpy.ndarray`` on a ``bytearray``, which makes it writable; the pickle contains no
    other global.
    """
    buffer = io.BytesIO()
    _Pickler(buffer, protocol=4).dump(content)
    return buffer.getvalue()


class _Pickler(pickle.Pickler):
    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, Tensor):
            array = np.ascontiguousarray(obj.numpy())
            # ascontiguousarray turns a scalar into a vector, so take the shape from the tensor.
            return np.ndarray, (tuple(obj.shape), array.dtype.str, bytearray(array.tobytes()))
        return NotImplemented


def torch_saved(content: Any) -> bytes:
    """The bytes of ``torch.save``; plain types and tensors load with ``weights_only=True``."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def as_safetensors(state: dict[str, Tensor], metadata: dict[str, Any]) -> bytes:
    """A safetensors file with JSON metadata; ``format`` marks the tensors as PyTorch's."""
    encoded = {name: json.dumps(value, sort_keys=True) for name, value in metadata.items()}
    return safetensors.torch.save(state, {"format": "pt", **encoded})


def as_json(content: Any) -> bytes:
    """Indented JSON. NaN is an error, so that no certificate is written without its numbers."""
    return (json.dumps(content, indent=2, allow_nan=False) + "\n").encode()


# ---- The reader that checks every target: a ResNet without modules


EPSILON = 1e-5


class Executor:
    """The network given by a state dict and a spec.

    Attributes:
        used: names of the tensors that forward passes have read.
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
            KeyError: a tensor that the layout names is missing.
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
) -> Tensor:  # (B, 3, H, W) in dtype
    """Normalize pixels as Detectron2 does: reorder the channels, then (x - mean) / std."""
    ordered = images.flip(1) if normalization.channels == "BGR" else images
    mean = torch.tensor(normalization.pixel_mean, dtype=dtype).view(3, 1, 1)
    std = torch.tensor(normalization.pixel_std, dtype=dtype).view(3, 1, 1)
    return (ordered.to(dtype) - mean) / std
