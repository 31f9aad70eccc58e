"""Convolutions with a norm, the norms that Detectron2 supports, and its initializations."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from msbreg.run import distributed


class FrozenBatchNorm(nn.Module):
    """BatchNorm with constant statistics and affine parameters.

    torchvision's version always multiplies and adds. Detectron2's (layers/batch_norm.py) calls
    ``F.batch_norm`` if no gradient is needed, which differs in the last bits; so does this one.
    """

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor | None

    def __init__(self, channels: int, epsilon: float = 1e-5) -> None:
        super().__init__()
        self.epsilon = epsilon
        self.register_buffer("weight", torch.ones(channels))
        self.register_buffer("bias", torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        # So that a fresh layer is the identity.
        self.register_buffer("running_var", torch.ones(channels) - epsilon)
        self.register_buffer("num_batches_tracked", None)

    def forward(self, x: Tensor) -> Tensor:
        if not x.requires_grad:
            return F.batch_norm(
                x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.epsilon
            )
        scale = self.weight * (self.running_var + self.epsilon).rsqrt()
        shift = self.bias - self.running_mean * scale
        # In the dtype of x, which is bfloat16 under autocast.
        scale = scale.reshape(1, -1, 1, 1).to(x.dtype)
        return x * scale + shift.reshape(1, -1, 1, 1).to(x.dtype)


class NaiveSyncBatchNorm(nn.BatchNorm2d):
    """BatchNorm over all processes, each with equal weight, independent of its image sizes.

    ``naiveSyncBN`` in MoCo's configs, whose runs vary less with it than with SyncBN (MoCo,
    detection/README.md). The running variance is the biased one, as in Detectron2's version.
    """

    def forward(self, x: Tensor) -> Tensor:
        if distributed.world_size() == 1 or not self.training:
            return super().forward(x)
        wide = x.float() if x.dtype == torch.float16 else x  # squares overflow in half precision
        moments = torch.cat([wide.mean((0, 2, 3)), (wide * wide).mean((0, 2, 3))])
        mean, square = distributed.gather(moments[None]).mean(0).chunk(2)
        variance = square - mean * mean
        scale = self.weight * torch.rsqrt(variance + self.eps)
        shift = self.bias - mean * scale
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.momentum is not None
        self.running_mean += self.momentum * (mean.detach() - self.running_mean)
        self.running_var += self.momentum * (variance.detach() - self.running_var)
        y = wide * scale.reshape(1, -1, 1, 1) + shift.reshape(1, -1, 1, 1)
        return y.to(x.dtype)


def build_norm(name: str, channels: int) -> nn.Module | None:
    """The norm with this name in a config; None for the empty name."""
    if not name:
        return None
    if name == "GN":
        return nn.GroupNorm(32, channels)  # 32 groups: Detectron2, layers/batch_norm.py, get_norm
    kinds = {
        "BN": nn.BatchNorm2d,
        "SyncBN": nn.SyncBatchNorm,  # plain BatchNorm on one process
        "naiveSyncBN": NaiveSyncBatchNorm,
        "FrozenBN": FrozenBatchNorm,
    }
    return kinds[name](channels)


class Conv(nn.Conv2d):
    """A square convolution, padded to keep the size at stride 1, followed by a norm."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        size: int,
        *,
        stride: int = 1,
        norm: str = "",
        bias: bool = False,
    ) -> None:
        super().__init__(inputs, outputs, size, stride, padding=size // 2, bias=bias)
        self.norm = build_norm(norm, outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = super().forward(x)
        return x if self.norm is None else self.norm(x)


def fill_msra(layer: nn.Conv2d | nn.ConvTranspose2d) -> None:
    """Kaiming normal by fan-out, with zero bias (fvcore's c2_msra_fill)."""
    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def fill_xavier(layer: nn.Conv2d | nn.Linear) -> None:
    """Caffe2's Xavier initialization: uniform, by fan-in, with zero bias (fvcore's c2_xavier_fill)."""
    nn.init.kaiming_uniform_(layer.weight, a=1)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def fill_normal(layer: nn.Conv2d | nn.Linear, deviation: float) -> None:
    """Normal with this standard deviation, with zero bias."""
    nn.init.normal_(layer.weight, std=deviation)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def freeze(module: nn.Module) -> nn.Module:
    """Freeze a module: parameters get no gradient, and each BatchNorm becomes a FrozenBatchNorm.

    Returns:
        The module, or its replacement if it is a BatchNorm itself.
    """
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    if isinstance(module, nn.BatchNorm2d | nn.SyncBatchNorm):
        frozen = FrozenBatchNorm(module.num_features, module.eps)
        for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
            setattr(frozen, name, getattr(module, name).detach())
        return frozen
    for name, child in module.named_children():
        setattr(module, name, freeze(child))
    return module
