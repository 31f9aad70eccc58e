"""Checked constructors for the few things of a foreign pickle that are really built.

A pickle names functions and gives them arguments. For the names in ``ALLOWED`` a function of ours is
called in their place; it accepts only arguments that the genuine one gets from an honest file, and
makes only containers, numbers, and tensors no larger than what the file holds.
"""

import math
from collections import OrderedDict
from collections.abc import Callable
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor

from msbreg.checkpoints.read import arrays
from msbreg.checkpoints.read.arrays import are_sizes
from msbreg.checkpoints.read.inert import Constructor, Inert, printable, wrong

# Views with stride 0 are larger than their storage; beyond this many elements that is an attack.
SMALL = 2**20
_KEYS: tuple[type, ...] = (str, int, float, bytes, complex, type(None), frozenset, Inert, Tensor)
_KEYS += (torch.dtype, torch.device)


def call(function: Any, args: Any, made_by: str) -> Any:
    """What a file wants of a name: the one place where anything is called on its behalf.

    Raises:
        UnpicklingError: it is no name, or the arguments are none that an honest file has.
    """
    if type(args) is not tuple:
        raise UnpicklingError(f"arguments are a tuple, not a {type(args).__name__}")
    if type(function) is Constructor:
        return function.make(*args)
    if type(function) is Inert:
        return Inert(_name_of_made(function), args, made_by=made_by)
    raise UnpicklingError(f"it calls a {type(function).__name__}")


def check_key(key: Any) -> None:
    """Refuse keys and set elements whose hash fails, or takes for ever.

    Raises:
        UnpicklingError: the key is unhashable, or tuples are nested without end.
    """
    to_do, budget = [key], 1000
    while to_do:
        one = to_do.pop()
        budget -= 1
        if isinstance(one, tuple) and len(one) < budget:
            to_do.extend(one)
        elif not isinstance(one, _KEYS):
            raise UnpicklingError(f"a {type(key).__name__} in it cannot be a key")


def _name_of_made(function: Inert) -> str:
    """Of what a record makes when called; dill and cloudpickle write classes as calls."""
    if function.made_by == "name":
        return function.name
    made = function.name.rpartition(".")[2]
    texts = [arg if type(arg) is str else "" for arg in function.args]
    if made == "_create_namedtuple" and len(texts) >= 3:
        return printable(f"{texts[2]}.{texts[0]}")
    if made in ("_create_type", "_make_skeleton_class") and len(texts) >= 2:
        return printable(texts[1])
    return printable(f"{function.name}()")


# ---------------------------------------------------------------------------------- containers


def _ordered_dict(pairs: Any = ()) -> OrderedDict[Any, Any]:
    result: OrderedDict[Any, Any] = OrderedDict()
    for key, value in pairs.items() if type(pairs) is dict else _sequence(pairs):
        check_key(key)
        result[key] = value
    return result


def _sequence(values: Any) -> Any:
    if type(values) not in (list, tuple):
        raise wrong("a container")
    return values


def _counter(counts: Any = ()) -> dict[Any, Any]:
    return dict(_ordered_dict(counts))


def _set(elements: Any = ()) -> set[Any]:
    for element in _sequence(elements):
        check_key(element)
    return set(elements)


def _frozenset(elements: Any = ()) -> frozenset[Any]:
    return frozenset(_set(elements))


def _encode(text: Any, encoding: Any = "latin1") -> bytes:
    """Bytes as protocol 2 writes them: a text of which each character is one byte."""
    if type(text) is not str or encoding not in ("latin1", "latin-1"):
        raise wrong("encode")
    return text.encode("latin1")


def _bytes(*args: Any) -> bytes:
    if args:  # a number would be a length; protocol 2 writes only the empty bytes so
        raise wrong("bytes")
    return b""


def _bytearray(*args: Any) -> bytearray:
    if len(args) == 1 and type(args[0]) is bytes:
        return bytearray(args[0])
    return bytearray(_encode(*args)) if args else bytearray()


def _complex(real: Any, imaginary: Any) -> complex:
    if type(real) is not float or type(imaginary) is not float:
        raise wrong("complex")
    return complex(real, imaginary)


def _slice(*args: Any) -> slice:
    if not all(n is None or type(n) is int for n in args):
        raise wrong("slice")
    return slice(*args)


def _instance(kind: Any, *args: Any) -> Any:
    """For ``__newobj__``: an instance by ``__new__``, which later protocols write as an opcode."""
    return call(kind, args, "class")


def _reconstructor(kind: Any, _base: Any, content: Any) -> Any:
    """An instance as protocols 0 and 1 write it, with the value of the builtin it derives from."""
    made = call(kind, (), "class")
    if type(made) is Inert:
        if type(content) is dict:
            made.items.update(content)
        elif type(content) in (list, set):
            made.elements.extend(content)
        elif content is not None:
            made.args = content if type(content) is tuple else (content,)
    return made


# ------------------------------------------------------------------------------------- PyTorch


def _size(sizes: Any) -> torch.Size:
    if not are_sizes(sizes):
        raise wrong("torch.Size")
    return torch.Size(sizes)


def _device(kind: Any, index: Any = None) -> torch.device:
    if type(kind) is not str or not (index is None or type(index) is int):
        raise wrong("torch.device")
    return torch.device(kind) if index is None else torch.device(kind, index)


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, dtype: Any = None) -> Tensor:
    """A view of a storage that lies inside it: ``set_`` would enlarge a storage that is too small."""
    if not isinstance(storage, torch.storage.TypedStorage | torch.UntypedStorage):
        raise wrong("a tensor")
    dtype = dtype or getattr(storage, "dtype", None)
    if not (isinstance(dtype, torch.dtype) and are_sizes(size) and are_sizes(stride)):
        raise wrong("a tensor")
    if not are_sizes([offset]) or len(size) != len(stride):
        raise wrong("a tensor")
    untyped = storage.untyped() if isinstance(storage, torch.storage.TypedStorage) else storage
    room, numel = untyped.nbytes() // dtype.itemsize, math.prod(size)
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if numel > max(room, SMALL) or (numel > 0 and last >= room):
        raise UnpicklingError(f"a tensor {tuple(size)} does not fit its storage of {room} numbers")
    return torch.empty(0, dtype=dtype).set_(untyped, offset if numel else 0, size, stride)


def _tensor_v2(storage: Any, offset: Any, size: Any, stride: Any, *rest: Any) -> Tensor:
    """``rest``: whether it needs a gradient, its hooks, and perhaps a pending conjugation."""
    if len(rest) not in (2, 3) or any(rest[2:]):
        raise wrong("a tensor")
    return _tensor(storage, offset, size, stride)


def _tensor_v3(storage: Any, offset: Any, size: Any, stride: Any, *rest: Any) -> Tensor:
    """As version 2, with its type after the hooks: for types that have no class of storage."""
    if len(rest) not in (3, 4) or any(rest[3:]):
        raise wrong("a tensor")
    return _tensor(storage, offset, size, stride, rest[2])


def _parameter(data: Any, *_: Any) -> Tensor:
    """The values; that they were to be trained, and attributes beside them, is left out."""
    if not isinstance(data, Tensor):
        raise wrong("a parameter")
    return data


def _tensor_of_type(function: Any, _type: Any, args: Any, _state: Any = None) -> Tensor:
    """A tensor of a subclass, or one with attributes, as the plain tensor it was made of."""
    if function not in (Constructor(_tensor_v2), Constructor(_tensor_v3)):
        raise wrong("a tensor of a subclass")
    return call(function, args, "call")


def _device_tensor(data: Any, dtype: Any, *_: Any) -> Tensor:
    """A tensor of a device that cannot be saved from directly: XLA, MPS and others."""
    tensor = arrays.array_tensor(data) if isinstance(data, Inert) else data
    if not isinstance(tensor, Tensor) or not isinstance(dtype, torch.dtype):
        raise wrong("a tensor")
    return tensor.to(dtype)


_MAKERS: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": _ordered_dict,
    "collections.Counter": _counter,
    "_codecs.encode": _encode,
    "builtins.bytes": _bytes,
    "builtins.bytearray": _bytearray,
    "builtins.set": _set,
    "builtins.frozenset": _frozenset,
    "builtins.complex": _complex,
    "builtins.slice": _slice,
    "copyreg._reconstructor": _reconstructor,
    "copyreg.__newobj__": _instance,
    "numpy.dtype": arrays.new_dtype,
    "numpy.ndarray": arrays.NDARRAY.make,
    "numpy.core.multiarray._reconstruct": arrays.RECONSTRUCT.make,
    "numpy.core.multiarray.scalar": arrays.scalar,
    "numpy.core.numeric._frombuffer": arrays.array_from_buffer,
    "dill._dill._create_array": arrays.array_in_parts,
    "jax._src.array._reconstruct_array": arrays.array_in_parts,
    "jax._src.device_array.reconstruct_device_array": arrays.array_in_parts,
    "torch.Size": _size,
    "torch.device": _device,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor_v2,
    "torch._utils._rebuild_tensor_v3": _tensor_v3,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "torch.nn.parameter.Parameter": _parameter,
    "torch._tensor._rebuild_from_type_v2": _tensor_of_type,
    "torch._utils._rebuild_device_tensor_from_numpy": _device_tensor,
    "torch._utils._rebuild_device_tensor_from_cpu_tensor": _device_tensor,
}
_NUMPY_2 = {f"numpy.core.{module}": f"numpy._core.{module}" for module in ("multiarray", "numeric")}


def _allowed() -> dict[tuple[str, str], Any]:
    table: dict[tuple[str, str], Any] = {}
    for dotted, make in _MAKERS.items():
        module, _, name = dotted.rpartition(".")
        table[module, name] = table[_NUMPY_2.get(module, module), name] = Constructor(make)
    # Values that are only named, not functions: what is no Constructor is never called.
    for name, value in vars(torch).items():
        if isinstance(value, torch.dtype):
            table["torch", name] = value
    table["torch.storage", "UntypedStorage"] = torch.UntypedStorage
    return table


ALLOWED = _allowed()
