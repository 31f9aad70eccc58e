"""A ResNet without modules: functions over a state dict, in the names of whoever will read it.

It shares nothing with the network that was converted, nor with the dialects that named the tensors:
a wrong name, stride, color order, epsilon or tensor shows as a wrong number.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from msbreg.checkpoints.convert.consumer_settings import BLOCKS, Settings, prepared

EPSILON = 1e-5
STAGES = ("stem", "res2", "res3", "res4", "res5")


@dataclass(frozen=True)
class Layout:
    """Where a consumer's network looks for its tensors, stated apart from the dialect that wrote them.

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


class Executor:
    """The network of one state dict and one set of settings.

    Attributes:
        used: names of the tensors that a forward pass has read.
    """

    def __init__(self, state: Mapping[str, Tensor], layout: Layout, settings: Settings) -> None:
        self.state, self.layout, self.settings = state, layout, settings
        self.used: set[str] = set()

    @torch.no_grad()
    def __call__(
        self,
        images: Tensor,  # (B, 3, H, W) uint8 RGB
    ) -> dict[str, Tensor]:
        """stem and res2 to res5.

        Raises:
            KeyError: a tensor is not where the layout has it.
        """
        x = self._stem(prepared(images, self.settings))
        features = {"stem": x}
        for stage, blocks in enumerate(BLOCKS[self.settings.depth]):
            for block in range(blocks):
                x = self._block(x, stage, block)
            features[STAGES[stage + 1]] = x
        return features

    def _stem(self, x: Tensor) -> Tensor:
        small = {"imagenet": None, "cifar": 1, "small": 2}[self.settings.stem]
        if small is not None:
            x = self._convolution(x, self.layout.stem, stride=small, padding=1)
            return functional.relu(self._norm(x, self.layout.stem_norm))
        x = self._convolution(x, self.layout.stem, stride=2, padding=3)
        x = functional.relu(self._norm(x, self.layout.stem_norm))
        return functional.max_pool2d(x, kernel_size=3, stride=2, padding=1)

    def _block(self, x: Tensor, stage: int, block: int) -> Tensor:
        """One residual block; its first one has stride 2, but for the first stage."""
        stride = 2 if stage > 0 and block == 0 else 1
        if self.settings.bottleneck:
            in_1x1 = stride if self.settings.stride_in_1x1 else 1
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
        return functional.conv2d(x, self._take(f"{name}.weight"), None, stride, padding)

    def _norm(self, x: Tensor, name: str) -> Tensor:
        self.used.add(f"{name}.num_batches_tracked")  # read in training only
        statistics = (self._take(f"{name}.running_mean"), self._take(f"{name}.running_var"))
        affine = (self._take(f"{name}.weight"), self._take(f"{name}.bias"))
        return functional.batch_norm(x, *statistics, *affine, training=False, eps=EPSILON)

    def _take(self, name: str) -> Tensor:
        self.used.add(name)
        return self.state[name]
