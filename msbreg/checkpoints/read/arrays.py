"""NumPy in a foreign pickle: arrays as tensors, scalars as Python's numbers, step by checked step.

A pickle makes an array in three calls: of ``_reconstruct``, of ``dtype``, and of ``__setstate__`` with
the bytes. The first two give inert records here, the last fills one in; ``settle`` turns it into a
tensor when everything is read.
"""

import math
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from torch import Tensor

from msbreg.checkpoints.read.inert import Constructor, Inert, wrong

_NUMERIC = frozenset(
    ("b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8", "c8", "c16")
)
ARRAY, SCALAR, DTYPE = "numpy.ndarray", "numpy.generic", "numpy.dtype"


def are_sizes(values: Any) -> bool:
    """Whether this is a shape, or strides, that a tensor can have."""
    if not isinstance(values, tuple | list) or len(values) > 64:
        return False
    return all(type(n) is int and 0 <= n < 2**63 for n in values)


def new_array(kind: Any, *_: Any) -> Inert:
    """For ``_reconstruct``: an array without content. Subclasses (memmap) are pickled alike."""
    if kind != NDARRAY and not isinstance(kind, Inert):
        raise wrong("a NumPy array")
    return Inert(ARRAY, made_by="call")


def array_of(shape: Any, dtype: Any, data: Any) -> Inert:
    """For ``ndarray``, called with its content; a type may be words there, such as ``<f4``."""
    if type(dtype) is str:
        dtype = Inert(DTYPE, (dtype[1:],), state=(3, dtype[:1]), made_by="call")
    return Inert(ARRAY, state=(1, shape, dtype, False, data), made_by="call")


def array_from_buffer(data: Any, dtype: Any, shape: Any, order: Any, *_: Any) -> Inert:
    """For ``_frombuffer``, with which protocol 5 writes arrays."""
    return Inert(ARRAY, state=(1, shape, dtype, order == "F", data), made_by="call")


def array_in_parts(function: Any, args: Any, state: Any, *_: Any) -> Inert:
    """For functions of JAX and dill, which make an array from the parts that NumPy pickles it in."""
    if function != RECONSTRUCT or type(args) is not tuple:
        raise wrong("an array")
    array = new_array(*args)
    array.state = state
    return array


def new_dtype(code: Any, *_: Any) -> Inert:
    """For ``dtype``; its byte order comes as its state."""
    return Inert(DTYPE, (code,), made_by="call")


def scalar(dtype: Any, data: Any = b"") -> Any:
    """For ``scalar``: a Python number; a text or an object stays inert."""
    found = _numeric(dtype)
    if found is None:
        return Inert(SCALAR, (dtype, data), made_by="call")
    data = data.encode("latin1") if type(data) is str else data
    if type(data) is not bytes or len(data) != found.itemsize:
        raise wrong("a NumPy scalar")
    return np.frombuffer(data, found)[0].item()


NDARRAY = Constructor(array_of)
RECONSTRUCT = Constructor(new_array)


def _numeric(dtype: Any) -> np.dtype[Any] | None:
    """The type that is meant, if it is one of numbers or bool."""
    if not (isinstance(dtype, Inert) and dtype.name == DTYPE):
        raise wrong("a NumPy array")
    code = dtype.args[0]
    if type(code) is not str or code not in _NUMERIC:
        return None
    state = dtype.state
    order = state[1] if isinstance(state, tuple) and len(state) > 1 else "="
    return np.dtype((order if order in ("<", ">") else "=") + code)


def array_tensor(array: Inert) -> Tensor | None:
    """The tensor with an array's values, on writable memory of its own; None if not of numbers.

    Raises:
        UnpicklingError: the array's bytes do not fit its shape.
    """
    state = array.state
    if not isinstance(state, tuple) or len(state) not in (4, 5):
        raise wrong("a NumPy array")
    shape, dtype, fortran, data = state[-4:]  # old NumPy wrote no version in front
    found = _numeric(dtype)
    if found is None:
        return None
    data = data.encode("latin1") if type(data) is str else data  # Python 2's bytes
    if not (are_sizes(shape) and isinstance(data, bytes | bytearray)):
        raise wrong("a NumPy array")
    if len(data) != math.prod(shape) * found.itemsize:
        raise UnpicklingError(f"a NumPy array {tuple(shape)} has {len(data)} bytes")
    native = found.newbyteorder("=")
    if not data:
        return torch.from_numpy(np.empty(shape, native))
    values = np.frombuffer(data, found).reshape(shape, order="F" if fortran else "C")
    return torch.from_numpy(values.astype(native, order="C", copy=True))


def settle(value: Any, left: set[str]) -> Any:
    """The content with arrays as tensors and parameters as their values; containers are changed.

    Args:
        left: gets a name for NumPy's arrays and scalars that are not of numbers; they stay inert.

    Raises:
        UnpicklingError: an array does not fit its shape, or containers are nested too deeply.
    """
    try:
        return _settle(value, left, {})
    except RecursionError as error:
        raise UnpicklingError("its containers are nested too deeply") from error


def _settle(value: Any, left: set[str], done: dict[int, Any]) -> Any:
    if id(value) in done:
        return done[id(value)][1]
    done[id(value)] = (value, value)  # the value too, so that no later object gets its id
    result = value
    if isinstance(value, Tensor):
        if value.requires_grad or isinstance(value, torch.nn.Parameter):
            result = value.detach()
    elif isinstance(value, Inert):
        result = _settle_record(value, left, done)
    elif isinstance(value, dict):
        for key, item in value.items():
            value[key] = _settle(item, left, done)
    elif type(value) is list:
        value[:] = [_settle(item, left, done) for item in value]
    elif type(value) is tuple:
        result = tuple(_settle(item, left, done) for item in value)
    done[id(value)] = (value, result)
    return result


def _settle_record(record: Inert, left: set[str], done: dict[int, Any]) -> Any:
    if record.name == ARRAY:
        tensor = array_tensor(record)
        if tensor is not None:
            return tensor
    if record.name in (ARRAY, SCALAR):
        left.add(f"{record.name} that is not of numbers")
    record.args = tuple(_settle(item, left, done) for item in record.args)
    record.state = _settle(record.state, left, done)
    _settle(record.items, left, done)
    _settle(record.elements, left, done)
    return record
