"""Fake CUDA tensors: shapes, types and devices without a GPU; a tensor left on the CPU is an error."""

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

CUDA = torch.device("cuda", 0)


@contextlib.contextmanager
def fake_cuda() -> Iterator[FakeTensorMode]:
    """Inside, new tensors have no content; mixing devices raises. Backward passes cannot run."""
    with FakeTensorMode(allow_non_fake_inputs=False) as mode:
        yield mode


def on_fake_cuda(module: nn.Module) -> nn.Module:
    """Replace, in place, every parameter and buffer by a fake one on a GPU that need not exist."""
    for child in module.modules():
        for name, parameter in child._parameters.items():
            if parameter is not None:
                fake = torch.empty_strided(
                    parameter.shape, parameter.stride(), dtype=parameter.dtype, device=CUDA
                )
                child._parameters[name] = nn.Parameter(fake, requires_grad=parameter.requires_grad)
        for name, buffer in child._buffers.items():
            if buffer is not None:
                child._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype, device=CUDA)
    return module


def devices(*tensors: Tensor) -> set[str]:
    """The kinds of devices that the tensors are on."""
    return {tensor.device.type for tensor in tensors}
