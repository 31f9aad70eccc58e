"""A ResNet without modules: functions of a state dict, in the names of whoever will read it.

It shares nothing with the network that was converted, nor with the dialects that named the tensors:
a wrong name, stride, channel order, epsilon or tensor shows as a wrong number.
"""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional

from msbreg.backbones.spec import BackboneSpec, Normalization
from msbreg.checkpoints.convert.target import STAGES, Features, Layout

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
