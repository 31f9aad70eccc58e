"""Content to bytes: a pickle that every NumPy reads, PyTorch's files, safetensors, JSON."""

import io
import json
import pickle
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor


def pickled(content: Any) -> bytes:
    """A pickle whose tensors are NumPy arrays, for ``pickle.load(file, encoding="latin1")``.

    An array's own reduction names a module that moved between NumPy 1 (``numpy.core``) and 2
    (``numpy._core``), so that files of the new one do not load in the old (numpy/numpy#28340). Here an
    array is a call of ``numpy.ndarray`` on a ``bytearray``, which is writable, and no other global is
    in the file.
    """
    buffer = io.BytesIO()
    _Pickler(buffer, protocol=4).dump(content)
    return buffer.getvalue()


class _Pickler(pickle.Pickler):
    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, Tensor):
            array = np.ascontiguousarray(obj.numpy())
            # ascontiguousarray makes a vector of a number; the tensor's shape is the one to keep.
            return np.ndarray, (tuple(obj.shape), array.dtype.str, bytearray(array.tobytes()))
        return NotImplemented


def torch_saved(content: Any) -> bytes:
    """What ``torch.save`` writes; plain types and tensors load under ``weights_only=True``."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def as_safetensors(state: dict[str, Tensor], metadata: dict[str, Any]) -> bytes:
    """Tensors, and metadata whose values are JSON; ``format`` says that they are PyTorch's."""
    words = {name: json.dumps(value, sort_keys=True) for name, value in metadata.items()}
    return safetensors.torch.save(state, {"format": "pt", **words})


def as_json(content: Any) -> bytes:
    """Readable JSON. NaN is none: where a number is missing, so is the file."""
    return (json.dumps(content, indent=2, allow_nan=False) + "\n").encode()
