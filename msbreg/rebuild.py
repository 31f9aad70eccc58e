"""Checked constructors for the few things of a foreign pickle that are really built.

A pickle names functions and gives them arguments. For the names in ``ALLOWED`` a function of this
module is called in their place; it accepts only arguments that the genuine one gets from an honest
file, and makes only containers, numbers, and tensors no larger than what the file holds.
"""

import math
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from torch import Tensor

from msbreg.inert import Inert

# Views with stride 0 are larger than their storage; beyond this many elements that is an attack.
SMALL = 2**20
_NUMERIC = frozenset(
    ("b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8", "c8", "c16")
)
_KEYS: tuple[type, ...] = (
    str,
    int,
    float,
    bool,
    bytes,
    complex,
    type(None),
    frozenset,
    Inert,
    Tensor,
)
_KEYS += (torch.dtype, torch.device)


@dataclass(frozen=True, slots=True)
class Constructor:
    """A name in the file, and what is called in its place."""

    name: str
    make: Callable[..., Any]


def check_key(key: Any) -> None:
    """Refuse keys and set elements whose hash fails, or takes for ever.

    Raises:
        UnpicklingError: the key is unhashable, or tuples are nested without end.
    """
    to_do, budget = [key], 1000
    while to_do:
        budget -= 1
        one = to_do.pop()
        if isinstance(one, tuple) and budget > 0:
            to_do.extend(one[:budget])
        elif budget <= 0 or not isinstance(one, _KEYS):
            raise UnpicklingError(f"a {type(key).__name__} cannot be a key")


def _wrong(what: str) -> UnpicklingError:
    return UnpicklingError(f"{what} has arguments that no honest file has")


def _sizes(values: Any) -> bool:
    if not isinstance(values, tuple | list) or len(values) > 64:
        return False
    return all(type(n) is int and 0 <= n < 2**63 for n in values)


# ---------------------------------------------------------------------------------- containers


def _ordered_dict(pairs: Any = ()) -> OrderedDict[Any, Any]:
    result: OrderedDict[Any, Any] = OrderedDict()
    for key, value in pairs.items() if type(pairs) is dict else _sequence(pairs):
        check_key(key)
        result[key] = value
    return result


def _sequence(values: Any) -> Any:
    if type(values) not in (list, tuple):
        raise _wrong("a container")
    return values


def _counter(counts: Any = None) -> dict[Any, Any]:
    return dict(_ordered_dict(() if counts is None else counts))


def _set(elements: Any = ()) -> set[Any]:
    for element in _sequence(elements):
        check_key(element)
    return set(elements)


def _encode(text: Any, encoding: Any = "latin1") -> bytes:
    """Bytes as protocol 2 writes them: a text of which each character is one byte."""
    if type(text) is not str or encoding not in ("latin1", "latin-1"):
        raise _wrong("encode")
    return text.encode("latin1")


def _bytes(*args: Any) -> bytes:
    if args:  # a number would be a length; protocol 2 writes only the empty bytes so
        raise _wrong("bytes")
    return b""


def _bytearray(*args: Any) -> bytearray:
    if len(args) == 1 and type(args[0]) is bytes:
        return bytearray(args[0])
    return bytearray(_encode(*args)) if args else bytearray()


def _complex(real: Any, imaginary: Any) -> complex:
    if type(real) is not float or type(imaginary) is not float:
        raise _wrong("complex")
    return complex(real, imaginary)


def _slice(*args: Any) -> slice:
    if not all(n is None or type(n) is int for n in args):
        raise _wrong("slice")
    return slice(*args)


# ------------------------------------------------------------------------------------- PyTorch


def _size(sizes: Any) -> torch.Size:
    if not _sizes(sizes):
        raise _wrong("torch.Size")
    return torch.Size(sizes)


def _device(kind: Any, index: Any = None) -> torch.device:
    if type(kind) is not str or not (index is None or type(index) is int):
        raise _wrong("torch.device")
    return torch.device(kind) if index is None else torch.device(kind, index)


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, dtype: Any = None) -> Tensor:
    """A view of a storage that lies inside it: ``set_`` would enlarge a storage that is too small."""
    if not isinstance(storage, torch.storage.TypedStorage | torch.UntypedStorage):
        raise _wrong("a tensor")
    dtype = dtype or getattr(storage, "dtype", None)
    if not (isinstance(dtype, torch.dtype) and _sizes(size) and _sizes(stride)):
        raise _wrong("a tensor")
    if not _sizes([offset]) or len(size) != len(stride):
        raise _wrong("a tensor")
    untyped = storage.untyped() if isinstance(storage, torch.storage.TypedStorage) else storage
    room, numel = untyped.nbytes() // dtype.itemsize, math.prod(size)
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if numel > max(room, SMALL) or (numel > 0 and last >= room):
        raise UnpicklingError(f"a tensor {tuple(size)} does not fit its storage of {room} numbers")
    return torch.empty(0, dtype=dtype).set_(untyped, offset if numel else 0, size, stride)


def _tensor_v2(
    storage: Any, offset: Any, size: Any, stride: Any, _grad: Any, _hooks: Any, metadata: Any = None
) -> Tensor:
    if metadata:  # a pending conjugation or negation; weights have none
        raise _wrong("a tensor")
    return _tensor(storage, offset, size, stride)


def _tensor_v3(
    storage: Any,
    offset: Any,
    size: Any,
    stride: Any,
    _grad: Any,
    _hooks: Any,
    dtype: Any,
    metadata: Any = None,
) -> Tensor:
    if metadata or not isinstance(dtype, torch.dtype):
        raise _wrong("a tensor")
    return _tensor(storage, offset, size, stride, dtype)


def _parameter(data: Any, *_: Any) -> Tensor:
    """The values; that they were to be trained, and attributes beside them, is left out."""
    if not isinstance(data, Tensor):
        raise _wrong("a parameter")
    return data


def _tensor_of_type(function: Any, _type: Any, args: Any, _state: Any = None) -> Tensor:
    """A tensor of a subclass, or one with attributes, as the plain tensor it was made of."""
    if type(function) is not Constructor or function.make not in (_tensor_v2, _tensor_v3):
        raise _wrong("a tensor of a subclass")
    return function.make(*_sequence(args))


def _device_tensor(data: Any, dtype: Any, *_: Any) -> Tensor:
    """A tensor of a device that cannot be saved from directly: XLA, MPS and others."""
    tensor = array_tensor(data) if isinstance(data, Inert) else data
    if not isinstance(tensor, Tensor) or not isinstance(dtype, torch.dtype):
        raise _wrong("a tensor")
    return tensor.to(dtype)


# --------------------------------------------------------------------------------------- NumPy


def _array(kind: Any, shape: Any, _code: Any = None) -> Inert:
    """An array before its content is known; ``array_tensor`` turns it into a tensor in the end."""
    if kind is not _NDARRAY or not _sizes(shape):
        raise _wrong("a NumPy array")
    return Inert("numpy.ndarray", made_by="call")


def _ndarray(shape: Any, dtype: Any, buffer: Any) -> Inert:
    return Inert("numpy.ndarray", state=(1, shape, dtype, False, buffer), made_by="call")


def _frombuffer(buffer: Any, dtype: Any, shape: Any, order: Any, *_: Any) -> Inert:
    state = (1, shape, dtype, order == "F", buffer)
    return Inert("numpy.ndarray", state=state, made_by="call")


def _jax_array(function: Any, args: Any, state: Any, *_: Any) -> Inert:
    """An array of JAX, which is pickled as the parts of a NumPy array."""
    if type(function) is not Constructor or function.make is not _array:
        raise _wrong("a JAX array")
    array = _array(*_sequence(args))
    array.state = state
    return array


def _dtype(code: Any, *_: Any) -> Inert:
    return Inert("numpy.dtype", (code,), made_by="call")


def _scalar(dtype: Any, data: Any = b"") -> Any:
    """A Python number for a NumPy scalar; a text or an object stays inert."""
    found = _numeric(dtype)
    if found is None:
        return Inert("numpy.generic", (dtype, data), made_by="call")
    data = data.encode("latin1") if type(data) is str else data
    if type(data) is not bytes or len(data) != found.itemsize:
        raise _wrong("a NumPy scalar")
    return np.frombuffer(data, found)[0].item()


def _numeric(dtype: Any) -> np.dtype[Any] | None:
    """The type that is meant, if it is one of numbers or bool."""
    if not (isinstance(dtype, Inert) and dtype.name == "numpy.dtype"):
        raise _wrong("a NumPy array")
    code = dtype.args[0]
    if type(code) is not str or code not in _NUMERIC:
        return None
    state = dtype.state
    order = state[1] if isinstance(state, tuple) and len(state) > 1 else "="
    return np.dtype(("=" if order not in ("<", ">") else order) + code)


def array_tensor(array: Inert) -> Tensor | None:
    """The tensor with an array's values, on writable memory of its own; None if not of numbers.

    Raises:
        UnpicklingError: the array's bytes do not fit its shape.
    """
    state = array.state
    if not isinstance(state, tuple) or len(state) not in (4, 5):
        raise _wrong("a NumPy array")
    shape, dtype, fortran, data = state[-4:]  # old NumPy had no version in front
    found = _numeric(dtype)
    if found is None:
        return None
    data = data.encode("latin1") if type(data) is str else data  # Python 2's bytes
    if not (_sizes(shape) and isinstance(data, bytes | bytearray)):
        raise _wrong("a NumPy array")
    if len(data) != math.prod(shape) * found.itemsize:
        raise UnpicklingError(f"a NumPy array {tuple(shape)} has {len(data)} bytes")
    if not data:
        return torch.from_numpy(np.zeros(shape, found.newbyteorder("=")))
    values = np.frombuffer(data, found).reshape(shape, order="F" if fortran else "C")
    return torch.from_numpy(values.astype(found.newbyteorder("="), order="C", copy=True))


def settle(value: Any, left: set[str]) -> Any:
    """The content with every array a tensor and every parameter its values; containers in place.

    Args:
        left: gets the names of NumPy's arrays and scalars that are not of numbers; they stay inert.

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
    done[id(value)] = (value, value)  # kept with its result, so that no other object gets its id
    result = value
    if isinstance(value, Tensor):
        if value.requires_grad or isinstance(value, torch.nn.Parameter):
            result = value.detach()
    elif isinstance(value, Inert):
        if value.name == "numpy.ndarray":
            result = array_tensor(value)
        if value.name in ("numpy.ndarray", "numpy.generic") and not isinstance(result, Tensor):
            left.add(f"{value.name} that is not of numbers")
            result = value
        if result is value:
            value.args = tuple(_settle(item, left, done) for item in value.args)
            value.state = _settle(value.state, left, done)
            _settle(value.items, left, done)
            _settle(value.elements, left, done)
    elif isinstance(value, dict):
        for key, item in value.items():
            value[key] = _settle(item, left, done)
    elif type(value) is list:
        value[:] = [_settle(item, left, done) for item in value]
    elif type(value) is tuple:
        result = tuple(_settle(item, left, done) for item in value)
    done[id(value)] = (value, result)
    return result


_NDARRAY = Constructor("numpy.ndarray", _ndarray)


def _allowed() -> Mapping[tuple[str, str], Any]:
    table: dict[tuple[str, str], Any] = {}

    def add(module: str, name: str, make: Callable[..., Any]) -> None:
        table[module, name] = Constructor(f"{module}.{name}", make)

    add("collections", "OrderedDict", _ordered_dict)
    add("collections", "Counter", _counter)
    add("_codecs", "encode", _encode)
    for builtins in ("builtins", "__builtin__"):  # Python 3, Python 2
        add(builtins, "bytes", _bytes)
        add(builtins, "bytearray", _bytearray)
        add(builtins, "set", _set)
        add(builtins, "frozenset", lambda elements=(): frozenset(_set(elements)))
        add(builtins, "complex", _complex)
        add(builtins, "slice", _slice)
    for core in ("numpy.core", "numpy._core"):  # NumPy 1, NumPy 2
        add(f"{core}.multiarray", "_reconstruct", _array)
        add(f"{core}.multiarray", "scalar", _scalar)
        add(f"{core}.numeric", "_frombuffer", _frombuffer)
    add("numpy", "dtype", _dtype)
    table["numpy", "ndarray"] = _NDARRAY
    add("jax._src.array", "_reconstruct_array", _jax_array)
    add("jax._src.device_array", "reconstruct_device_array", _jax_array)
    add("torch", "Size", _size)
    add("torch", "device", _device)
    add("torch._utils", "_rebuild_tensor", _tensor)
    add("torch._utils", "_rebuild_tensor_v2", _tensor_v2)
    add("torch._utils", "_rebuild_tensor_v3", _tensor_v3)
    add("torch._utils", "_rebuild_parameter", _parameter)
    add("torch._utils", "_rebuild_parameter_with_state", _parameter)
    add("torch.nn.parameter", "Parameter", _parameter)
    add("torch._tensor", "_rebuild_from_type_v2", _tensor_of_type)
    add("torch._utils", "_rebuild_device_tensor_from_numpy", _device_tensor)
    add("torch._utils", "_rebuild_device_tensor_from_cpu_tensor", _device_tensor)
    # Values, not functions: the unpickler never calls what is not a Constructor.
    for name, value in vars(torch).items():
        if isinstance(value, torch.dtype):
            table["torch", name] = value
    table["torch.storage", "UntypedStorage"] = torch.UntypedStorage
    return table


ALLOWED = _allowed()
