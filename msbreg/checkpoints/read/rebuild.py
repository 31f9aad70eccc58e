"""The few names of a pickle that are really built, by checked functions, within a budget.

A pickle names functions and gives them arguments. For the names in ``ALLOWED``, ``call`` runs a
function of ours instead. It accepts only arguments that an honest file has, and builds only
containers, numbers and tensors. A call of any other name gives an ``Inert`` record.

NumPy pickles an array in three steps: ``_reconstruct``, ``dtype``, and a state with the bytes. All
three give records here; ``array_tensor`` makes the tensor once the whole pickle is read.
"""

import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from torch import Tensor

from msbreg.checkpoints.read.inert import Inert, printable

ARRAY, SCALAR, DTYPE = "numpy.ndarray", "numpy.generic", "numpy.dtype"
_NUMERIC = frozenset(
    ("b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8", "c8", "c16")
)
_KEYS: tuple[type, ...] = (str, int, float, bytes, complex, type(None), Inert, Tensor)
_KEYS += (torch.dtype, torch.device)
# Units of a budget, about bytes of memory. A unit of work takes some nanoseconds.
ITEM, CALL = 128, 2048


class OverBudget(UnpicklingError):
    """The file needs more memory or work than a file of its size may."""


class Budget:
    """What reading one file may cost, in memory and work: 16 units per byte, and 256 Mi.

    Every opcode, call, copy and storage spends units, so that a small file can neither fill the
    memory nor run for minutes. Honest files spend 1 to 8 units per byte.
    """

    def __init__(self, size: int) -> None:
        self.left = 16 * size + 2**28
        self.chosen_keys = 0

    def spend(self, units: int) -> None:
        """Pay before something is built or done; OverBudget if too little is left."""
        self.left -= units
        if self.left < 0:
            raise OverBudget("it would take far more memory or time than a file of its size should")

    def spend_key(self, key: Any) -> None:
        """Pay for a key of a dict or an element of a set, before it is hashed.

        Texts and bytes have salted hashes and small integers distinct ones. A file can choose the
        hashes of all others to be equal, so each is charged as if it collided with all before it.

        Raises:
            UnpicklingError: it is not hashable, or nested without end.
        """
        to_do, nodes, chosen = [key], 0, False
        while to_do:
            one = to_do.pop()
            nodes += 1
            if isinstance(one, tuple | frozenset) and nodes + len(to_do) + len(one) < 1000:
                to_do.extend(one)
                chosen = True
            elif not isinstance(one, _KEYS):
                raise UnpicklingError(f"a {type(key).__name__} in it cannot be a key")
            elif isinstance(one, int | complex):
                chosen = chosen or type(one) is complex or abs(one) >= 2**60
        self.chosen_keys += chosen
        self.spend(ITEM * nodes * (1 + (self.chosen_keys if chosen else 0)))


@dataclass(frozen=True, slots=True)
class Constructor:
    """What an allowed name gives: a function of ours; its first parameter is a budget if it spends."""

    make: Callable[..., Any]
    spends: bool = False


@dataclass(frozen=True, slots=True)
class StorageClass:
    """What the name of a class of storages gives; None stands for bytes without a type."""

    dtype: torch.dtype | None


@dataclass(frozen=True, slots=True)
class Storage:
    """Memory of tensors, as the file's pickle refers to it."""

    data: torch.UntypedStorage
    dtype: torch.dtype | None


def wrong(what: str) -> UnpicklingError:
    """The error of a constructor whose arguments are refused."""
    return UnpicklingError(f"{what} in it has arguments that no honest file has")


def call(function: Any, args: Any, made_by: str, budget: Budget) -> Any:
    """What a file wants of a name: the one place where anything is called on its behalf.

    Raises:
        UnpicklingError: it is not a name, or the arguments are none that an honest file has.
    """
    if type(args) is not tuple:
        raise UnpicklingError(f"arguments are a tuple, not a {type(args).__name__}")
    budget.spend(CALL + cost_of_copy(args))
    budget.spend(sum(map(cost_of_copy, args)))
    if type(function) is Constructor:
        return function.make(*((budget, *args) if function.spends else args))
    if type(function) is Inert:
        budget.spend(cost_of_copy(function.args))
        return Inert(_name_of_made(function), args, made_by=made_by)
    raise UnpicklingError(f"it calls a {type(function).__name__}")


def cost_of_copy(value: Any) -> int:
    """Units for a copy of a value, without what its elements refer to."""
    if isinstance(value, str | bytes | bytearray):
        return 4 * len(value) if isinstance(value, str) else len(value)
    return ITEM * len(value) if isinstance(value, list | tuple | dict | set | frozenset) else 0


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


def _ordered_dict(budget: Budget, pairs: Any = ()) -> OrderedDict[Any, Any]:
    result: OrderedDict[Any, Any] = OrderedDict()
    for key, value in pairs.items() if type(pairs) is dict else _sequence(pairs):
        budget.spend_key(key)
        result[key] = value
    return result


def _sequence(values: Any) -> Any:
    if type(values) not in (list, tuple):
        raise wrong("a container")
    return values


def _counter(budget: Budget, counts: Any = ()) -> dict[Any, Any]:
    return dict(_ordered_dict(budget, counts))


def _set(budget: Budget, elements: Any = ()) -> set[Any]:
    for element in _sequence(elements):
        budget.spend_key(element)
    return set(elements)


def _frozenset(budget: Budget, elements: Any = ()) -> frozenset[Any]:
    return frozenset(_set(budget, elements))


def _encode(text: Any, encoding: Any = "latin1") -> bytes:
    """Bytes as protocol 2 writes them: a text of which each character is one byte."""
    if type(text) is not str or encoding not in ("latin1", "latin-1"):
        raise wrong("encode")
    return text.encode("latin1")


def _bytes(*args: Any) -> bytes:
    if args:  # a number would be a length; protocol 2 writes only the empty bytes like this
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


def _instance(budget: Budget, kind: Any, *args: Any) -> Any:
    """For ``__newobj__``: an instance by ``__new__``, which later protocols write as an opcode."""
    return call(kind, args, "class", budget)


def _reconstructor(budget: Budget, kind: Any, _base: Any, content: Any) -> Any:
    """An instance as protocols 0 and 1 write it, with the value of the builtin it derives from."""
    made = call(kind, (), "class", budget)
    if type(made) is Inert:
        for key in content if type(content) in (dict, set) else ():
            budget.spend_key(key)
        if type(content) is dict:
            made.items.update(content)
        elif type(content) in (list, set):
            made.elements.extend(content)
        elif content is not None:
            made.args = content if type(content) is tuple else (content,)
    return made


# --------------------------------------------------------------------------------------- NumPy


def _are_sizes(values: Any) -> bool:
    """Whether this is a shape, or strides, that a tensor can have."""
    if not isinstance(values, tuple | list) or len(values) > 64:
        return False
    return all(type(n) is int and 0 <= n < 2**63 for n in values)


def _new_array(kind: Any, *_: Any) -> Inert:
    """For ``_reconstruct``: an array without content. Subclasses (memmap) are pickled alike."""
    if kind != _NDARRAY and not isinstance(kind, Inert):
        raise wrong("a NumPy array")
    return Inert(ARRAY, made_by="call")


def _array(shape: Any, dtype: Any, data: Any) -> Inert:
    """For ``ndarray``, called with its content; the type may be a text there, such as ``<f4``."""
    if type(dtype) is str:
        dtype = Inert(DTYPE, (dtype[1:],), state=(3, dtype[:1]), made_by="call")
    return Inert(ARRAY, state=(1, shape, dtype, False, data), made_by="call")


def _array_from_buffer(data: Any, dtype: Any, shape: Any, order: Any, *_: Any) -> Inert:
    """For ``_frombuffer``, with which protocol 5 writes arrays."""
    return Inert(ARRAY, state=(1, shape, dtype, order == "F", data), made_by="call")


def _array_in_parts(function: Any, args: Any, state: Any, *_: Any) -> Inert:
    """For functions of JAX and dill, which make an array from the parts that NumPy pickles."""
    if function != _RECONSTRUCT or type(args) is not tuple:
        raise wrong("an array")
    array = _new_array(*args)
    array.state = state
    return array


def _dtype(code: Any, *_: Any) -> Inert:
    """For ``dtype``; its byte order comes as its state."""
    return Inert(DTYPE, (code,), made_by="call")


def _scalar(dtype: Any, data: Any = b"") -> Any:
    """For ``scalar``: a Python number; a text or an object stays inert."""
    found = _numeric(dtype)
    if found is None:
        return Inert(SCALAR, (dtype, data), made_by="call")
    data = data.encode("latin1") if type(data) is str else data
    if type(data) is not bytes or len(data) != found.itemsize:
        raise wrong("a NumPy scalar")
    return np.frombuffer(data, found)[0].item()


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


def array_tensor(array: Inert, budget: Budget) -> Tensor | None:
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
    if not (_are_sizes(shape) and isinstance(data, str | bytes | bytearray)):
        raise wrong("a NumPy array")
    budget.spend(CALL + 2 * len(data))
    if isinstance(data, str):  # Python 2's bytes
        data = data.encode("latin1")
    if len(data) != math.prod(shape) * found.itemsize:
        raise UnpicklingError(f"a NumPy array {tuple(shape)} has {len(data)} bytes")
    native = found.newbyteorder("=")
    if not data:
        return torch.from_numpy(np.empty(shape, native))
    values = np.frombuffer(data, found).reshape(shape, order="F" if fortran else "C")
    return torch.from_numpy(values.astype(native, order="C", copy=True))


# ------------------------------------------------------------------------------------- PyTorch


def _size(sizes: Any) -> torch.Size:
    if not _are_sizes(sizes):
        raise wrong("torch.Size")
    return torch.Size(sizes)


def _device(kind: Any, index: Any = None) -> torch.device:
    if type(kind) is not str or not (index is None or type(index) is int):
        raise wrong("torch.device")
    return torch.device(kind) if index is None else torch.device(kind, index)


def _tensor(
    budget: Budget, storage: Any, offset: Any, size: Any, stride: Any, dtype: Any = None
) -> Tensor:
    """A view of a storage, inside it: ``set_`` would enlarge a storage that is too small.

    It pays a quarter of all its elements, although a view with stride 0 has fewer in memory:
    whoever clones it makes them.
    """
    if type(storage) is not Storage:
        raise wrong("a tensor")
    dtype = dtype or storage.dtype
    if not (isinstance(dtype, torch.dtype) and _are_sizes(size) and _are_sizes(stride)):
        raise wrong("a tensor")
    if not _are_sizes([offset]) or len(size) != len(stride):
        raise wrong("a tensor")
    room, numel = storage.data.nbytes() // dtype.itemsize, math.prod(size)
    budget.spend(numel * dtype.itemsize // 4)
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if numel > 0 and last >= room:
        raise UnpicklingError(f"a tensor {tuple(size)} does not fit its storage of {room} numbers")
    return torch.empty(0, dtype=dtype).set_(storage.data, offset if numel else 0, size, stride)


def _tensor_v2(
    budget: Budget, storage: Any, offset: Any, size: Any, stride: Any, *rest: Any
) -> Tensor:
    """``rest``: whether it needs a gradient, its hooks, and perhaps a pending conjugation."""
    if len(rest) not in (2, 3) or any(rest[2:]):
        raise wrong("a tensor")
    return _tensor(budget, storage, offset, size, stride)


def _tensor_v3(
    budget: Budget, storage: Any, offset: Any, size: Any, stride: Any, *rest: Any
) -> Tensor:
    """As version 2, with its type after the hooks: for types that have no class of storage."""
    if len(rest) not in (3, 4) or any(rest[3:]):
        raise wrong("a tensor")
    return _tensor(budget, storage, offset, size, stride, rest[2])


def _parameter(data: Any, *_: Any) -> Tensor:
    """The values; the flag ``requires_grad`` and attributes are dropped."""
    if not isinstance(data, Tensor):
        raise wrong("a parameter")
    return data


def _tensor_of_type(
    budget: Budget, function: Any, _type: Any, args: Any, _state: Any = None
) -> Tensor:
    """A tensor of a subclass, or one with attributes, as the plain tensor it was made of."""
    if function not in (Constructor(_tensor_v2, True), Constructor(_tensor_v3, True)):
        raise wrong("a tensor of a subclass")
    return call(function, args, "call", budget)


def _device_tensor(budget: Budget, data: Any, dtype: Any, *_: Any) -> Tensor:
    """A tensor of a device that cannot be saved from directly: XLA, MPS and others."""
    tensor = array_tensor(data, budget) if isinstance(data, Inert) else data
    if not isinstance(tensor, Tensor) or not isinstance(dtype, torch.dtype):
        raise wrong("a tensor")
    budget.spend(tensor.numel() * dtype.itemsize)
    return tensor.to(dtype)


_MAKERS: dict[str, Callable[..., Any]] = {
    "_codecs.encode": _encode,
    "builtins.bytes": _bytes,
    "builtins.bytearray": _bytearray,
    "builtins.complex": _complex,
    "builtins.slice": _slice,
    "numpy.dtype": _dtype,
    "numpy.ndarray": _array,
    "numpy.core.multiarray._reconstruct": _new_array,
    "numpy.core.multiarray.scalar": _scalar,
    "numpy.core.numeric._frombuffer": _array_from_buffer,
    "dill._dill._create_array": _array_in_parts,
    "jax._src.array._reconstruct_array": _array_in_parts,
    "jax._src.device_array.reconstruct_device_array": _array_in_parts,
    "torch.Size": _size,
    "torch.device": _device,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "torch.nn.parameter.Parameter": _parameter,
}
_SPENDING: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": _ordered_dict,
    "collections.Counter": _counter,
    "builtins.set": _set,
    "builtins.frozenset": _frozenset,
    "copyreg._reconstructor": _reconstructor,
    "copyreg.__newobj__": _instance,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor_v2,
    "torch._utils._rebuild_tensor_v3": _tensor_v3,
    "torch._tensor._rebuild_from_type_v2": _tensor_of_type,
    "torch._utils._rebuild_device_tensor_from_numpy": _device_tensor,
    "torch._utils._rebuild_device_tensor_from_cpu_tensor": _device_tensor,
}
_NUMPY_2 = {f"numpy.core.{module}": f"numpy._core.{module}" for module in ("multiarray", "numeric")}
_NDARRAY, _RECONSTRUCT = Constructor(_array), Constructor(_new_array)


def _allowed() -> dict[tuple[str, str], Any]:
    table: dict[tuple[str, str], Any] = {}
    for makers, spends in ((_MAKERS, False), (_SPENDING, True)):
        for dotted, make in makers.items():
            module, _, name = dotted.rpartition(".")
            constructor = Constructor(make, spends)
            table[module, name] = table[_NUMPY_2.get(module, module), name] = constructor
    # Values that are only named, not functions: what is not a Constructor is never called.
    for name, value in vars(torch).items():
        if isinstance(value, torch.dtype):
            table["torch", name] = value
    for dtype, name in torch.storage._dtype_to_storage_type_map().items():
        table["torch", name] = table["torch.cuda", name] = StorageClass(dtype)
    table["torch.storage", "UntypedStorage"] = StorageClass(None)
    table["torch", "Tensor"] = torch.Tensor
    return table


ALLOWED = _allowed()
