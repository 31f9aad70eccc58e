"""Matrix products in full float32, by the faster of two libraries.

On a CPU that is not Intel's, MKL, which `@` calls, takes a slow path; oneDNN, which PyTorch also
contains, does not. PyTorch offers oneDNN's product only as a private operator, so it is used where it
exists, and `@` elsewhere.
"""

import contextlib
import functools
import platform
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

Product = Callable[[Tensor, Tensor], Tensor]


def product(
    left: Tensor,  # (M, D) float32
    right: Tensor,  # (N, D) float32
    memory: Tensor | None = None,  # (M, N) float32
) -> Tensor:  # (M, N) float32
    """`left @ right.T`, equal to it up to the rounding of float32 sums in another order.

    The result is written to ``memory`` if the library can do that, and to new memory otherwise.

    >>> product(torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 4.0]]))
    tensor([[11.]])
    """
    onednn = None if left.device.type != "cpu" or mkl_is_fast() else onednn_product()
    return matmul(left, right, memory) if onednn is None else onednn(left, right)


def matmul(
    left: Tensor,  # (M, D)
    right: Tensor,  # (N, D)
    memory: Tensor | None = None,  # (M, N)
) -> Tensor:  # (M, N)
    """`left @ right.T`, written to ``memory`` if that is given."""
    return torch.mm(left, right.T, out=memory)


@functools.cache
def onednn_product() -> Product | None:
    """oneDNN's product, or None if this build of PyTorch does not have the operator."""
    operator = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
    if operator is None or not torch.backends.mkldnn.is_available():
        return None

    def onednn(left: Tensor, right: Tensor) -> Tensor:
        return operator(left, right, None, "none", [], "")

    try:
        found = onednn(torch.ones(2, 3), torch.ones(4, 3))
    except (RuntimeError, TypeError):  # a private operator may change its arguments
        return None
    return onednn if torch.equal(found, torch.full((2, 4), 3.0)) else None


@functools.cache
def mkl_is_fast() -> bool:
    """Whether `@` is the fast route: PyTorch has MKL and the CPU is Intel's, or it has no MKL.

    Decided by the vendor and not by a timing, so that a repeated run gives the same last bits. Measured in
    GFLOP/s of one core, 1024 x 2048 x 16384: AMD Zen 5, 98 by MKL and 215 by oneDNN; Intel Sapphire Rapids,
    128 and 115.
    """
    return not torch.backends.mkl.is_available() or "GenuineIntel" in _cpu_vendor()


def _cpu_vendor() -> str:
    information = Path("/proc/cpuinfo")
    if not information.is_file():
        return platform.processor()
    with information.open() as lines:
        return next((line for line in lines if line.startswith("vendor_id")), "")


@contextlib.contextmanager
def full_precision() -> Iterator[None]:
    """Compute float32 products in float32, even if the program allows TF32 or bfloat16 elsewhere."""
    backends: tuple[Any, ...] = (
        torch.backends.mkldnn.matmul,  # type: ignore[attr-defined]
        torch.backends.cuda.matmul,
    )
    before = [backend.fp32_precision for backend in backends]
    try:
        for backend in backends:
            backend.fp32_precision = "ieee"
        yield
    finally:
        for backend, precision in zip(backends, before, strict=True):
            backend.fp32_precision = precision


def has_fast_bfloat16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 matrices faster than float32 ones.

    CPUs with AVX512-BF16 or AMX do, and GPUs of compute capability 8.0 and above.

    PyTorch asks the CPU in private functions; a CPU that it cannot ask has no such units.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if not torch.backends.mkldnn.is_available():
        return False
    questions = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, question, lambda: False)() for question in questions)
