"""Tensors of a file as they are on the disk."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor


def tensors_of(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """A state dict whose values may be NumPy arrays, as tensors."""
    return {
        name: torch.from_numpy(np.asarray(value)) if not isinstance(value, Tensor) else value
        for name, value in state.items()
    }
