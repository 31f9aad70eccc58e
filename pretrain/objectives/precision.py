"""Keep losses in full precision under autocast."""

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

P = ParamSpec("P")
R = TypeVar("R")

HALF = (torch.bfloat16, torch.float16)


def full_precision(function: Callable[P, R]) -> Callable[P, R]:
    """Compute ``function`` without autocast, on its half-precision tensors converted to float32.

    Autocast to bfloat16 would round a similarity of 0.9 by up to 0.002, hence a logit at temperature 0.1
    by 0.02, and a rounded covariance may not be positive definite. Tensors in float32 and float64 keep
    their type.

    >>> product = full_precision(torch.matmul)
    >>> a = torch.full((1, 1), 1.001)
    >>> with torch.autocast("cpu", torch.bfloat16):
    ...     round(product(a, a).item(), 4), torch.matmul(a, a).item()
    (1.002, 1.0)
    """

    @functools.wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        with torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
            return function(
                *(widened(value) for value in args),
                **{name: widened(value) for name, value in kwargs.items()},
            )

    return wrapped


def widened(value: Any) -> Any:
    """Half-precision tensors, alone or in a list, as float32; anything else unchanged."""
    if isinstance(value, list):
        return [widened(item) for item in value]
    return value.float() if isinstance(value, Tensor) and value.dtype in HALF else value
