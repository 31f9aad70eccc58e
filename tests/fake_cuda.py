"""Fake CUDA tensors: shapes, types and devices without a GPU. Mixing devices raises an error."""

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

CUDA = torch.device("cuda", 0)


@contextlib.contextmanager
def fake_cuda() -> Iterator[FakeTensorMode]:
    """New tensors in this context have no content. Backward passes are not supported."""
    with FakeTensorMode(allow_non_fake_inputs=False) as mode:
        yield mode


def on_fake_cuda(module: nn.Module) -> nn.Module:
    """Replace every parameter and buffer, in place, by a fake CUDA tensor; no GPU is needed."""
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
    """The device types of the tensors."""
    return {tensor.device.type for tensor in tensors}
