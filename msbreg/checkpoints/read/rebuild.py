"""Build the few objects of a pickle that are allowed, with checked functions and within a budget.

A pickle names functions and gives them arguments. For the names in ``ALLOWED``, ``call`` runs a
function of ours instead. It accepts only arguments that occur in legitimate files, and builds only
containers, numbers and tensors. A call to any other name returns an ``Inert`` record.

NumPy pickles an array in three steps: ``_reconstruct``, ``dtype``, and a state with the bytes. All
three are recorded here; ``array_tensor`` builds the tensor after the whole pickle is read.
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
# In units of the budget: about a byte of memory, or some nanoseconds of work.
ITEM, CALL = 128, 2048
LEAST = 2**28  # what a file of any size may spend


class OverBudget(UnpicklingError):
    """The file needs more memory or work than its size allows."""


class Budget:
    """Limit on the memory and work for reading one file: 16 units per byte plus 2**28.

    Every opcode, call, copy and storage spends units, so that a small file can neither exhaust
    the memory nor run for minutes. Legitimate files spend 1 to 8 units per byte.
    """

    def __init__(self, size: int) -> None:
        self.left = 16 * size + LEAST
        self.chosen_keys = 0

    def spend(self, units: int) -> None:
        """Charge for an operation before it is done; raise OverBudget if too little is left."""
        self.left -= units
        if self.left < 0:
            raise OverBudget("it would need far more memory or time than a file of its size should")

    def spend_key(self, key: Any) -> None:
        """Charge for a dict key or a set element before it is hashed.

        Strings and bytes have salted hashes, and small integers have distinct ones. A file can choose
        all other keys so that their hashes are equal, so each is charged as if it collided with all
        previous ones.

        Raises:
            UnpicklingError: the key is not hashable, or is nested too deeply.
        """
        pending, nodes, chosen = [key], 0, False
        while pending:
            one = pending.pop()
            nodes += 1
            if isinstance(one, tuple | frozenset) and nodes + len(pending) + len(one) < 1000:
                pending.extend(one)
                chosen = True
            elif not isinstance(one, _KEYS):
                raise UnpicklingError(f"it uses a {type(key).__name__} as a key")
            elif isinstance(one, int | complex):
                chosen = chosen or type(one) is complex or abs(one) >= 2**60
        self.chosen_keys += chosen
        self.spend(ITEM * nodes * (1 + (self.chosen_keys if chosen else 0)))


@dataclass(frozen=True, slots=True)
class Constructor:
    """Our replacement for an allowed name; its first parameter is the budget if it ``spends``."""

    make: Callable[..., Any]
    spends: bool = False


@dataclass(frozen=True, slots=True)
class StorageClass:
    """Our replacement for a storage class; a dtype of None means untyped bytes."""

    dtype: torch.dtype | None


@dataclass(frozen=True, slots=True)
class Storage:
    """Tensor memory that the pickle refers to."""

    data: torch.UntypedStorage
    dtype: torch.dtype | None


def bad_arguments(what: str) -> UnpicklingError:
    """The error of a constructor that rejects its arguments."""
    return UnpicklingError(f"{what} in it has arguments that no legitimate file uses")


def call(function: Any, args: Any, made_by: str, budget: Budget) -> Any:
    """Carry out a call that the file requests; nothing else is ever called on its behalf.

    Raises:
        UnpicklingError: the function is not callable here, or its arguments are rejected.
    """
    if type(args) is not tuple:
        raise UnpicklingError(f"its arguments are a {type(args).__name__}, not a tuple")
    budget.spend(CALL + cost_of_copy(args))
    budget.spend(sum(map(cost_of_copy, args)))
    if type(function) is Constructor:
        return function.make(*((budget, *args) if function.spends else args))
    if type(function) is Inert:
        budget.spend(cost_of_copy(function.args))
        return Inert(_instance_name(function), args, made_by=made_by)
    raise UnpicklingError(f"it calls a {type(function).__name__}")


def cost_of_copy(value: Any) -> int:
    """Budget units for a shallow copy of a value."""
    if isinstance(value, str | bytes | bytearray):
        return 4 * len(value) if isinstance(value, str) else len(value)
    return ITEM * len(value) if isinstance(value, list | tuple | dict | set | frozenset) else 0


def _instance_name(function: Inert) -> str:
    """The name for the result of calling a record; dill and cloudpickle write classes as calls."""
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
        raise bad_arguments("a container")
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
    """Bytes as protocol 2 writes them: a string with one character per byte."""
    if type(text) is not str or encoding not in ("latin1", "latin-1"):
        raise bad_arguments("encode")
    return text.encode("latin1")


def _bytes(*args: Any) -> bytes:
    if args:  # a number would be a length; protocol 2 writes only empty bytes this way
        raise bad_arguments("bytes")
    return b""


def _bytearray(*args: Any) -> bytearray:
    if len(args) == 1 and type(args[0]) is bytes:
        return bytearray(args[0])
    return bytearray(_encode(*args)) if args else bytearray()


def _complex(real: Any, imaginary: Any) -> complex:
    if type(real) is not float or type(imaginary) is not float:
        raise bad_arguments("complex")
    return complex(real, imaginary)


def _slice(*args: Any) -> slice:
    if not all(n is None or type(n) is int for n in args):
        raise bad_arguments("slice")
    return slice(*args)


def _instance(budget: Budget, kind: Any, *args: Any) -> Any:
    """``__newobj__``: an instance made by ``__new__``; later protocols have an opcode for it."""
    return call(kind, args, "class", budget)


def _reconstructor(budget: Budget, kind: Any, _base: Any, content: Any) -> Any:
    """An instance as protocols 0 and 1 write it, with the value of its builtin base class."""
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
    """Whether a tensor can have this shape, or these strides."""
    if not isinstance(values, tuple | list) or len(values) > 64:
        return False
    return all(type(n) is int and 0 <= n < 2**63 for n in values)


def _new_array(kind: Any, *_: Any) -> Inert:
    """``_reconstruct``: an array without content. Subclasses (memmap) are pickled the same way."""
    if kind != _NDARRAY and not isinstance(kind, Inert):
        raise bad_arguments("a NumPy array")
    return Inert(ARRAY, made_by="call")


def _array(shape: Any, dtype: Any, data: Any) -> Inert:
    """``ndarray`` called with its content; the dtype may be a string such as ``<f4``."""
    if type(dtype) is str:
        dtype = Inert(DTYPE, (dtype[1:],), state=(3, dtype[:1]), made_by="call")
    return Inert(ARRAY, state=(1, shape, dtype, False, data), made_by="call")


def _array_from_buffer(data: Any, dtype: Any, shape: Any, order: Any, *_: Any) -> Inert:
    """``_frombuffer``, which protocol 5 uses for arrays."""
    return Inert(ARRAY, state=(1, shape, dtype, order == "F", data), made_by="call")


def _array_in_parts(function: Any, args: Any, state: Any, *_: Any) -> Inert:
    """Functions of JAX and dill that build an array from the parts that NumPy pickles."""
    if function != _RECONSTRUCT or type(args) is not tuple:
        raise bad_arguments("an array")
    array = _new_array(*args)
    array.state = state
    return array


def _dtype(code: Any, *_: Any) -> Inert:
    """``dtype``; its byte order follows in its state."""
    return Inert(DTYPE, (code,), made_by="call")


def _scalar(dtype: Any, data: Any = b"") -> Any:
    """``scalar``: a Python number; a string or an object stays inert."""
    found = _numeric(dtype)
    if found is None:
        return Inert(SCALAR, (dtype, data), made_by="call")
    data = data.encode("latin1") if type(data) is str else data
    if type(data) is not bytes or len(data) != found.itemsize:
        raise bad_arguments("a NumPy scalar")
    return np.frombuffer(data, found)[0].item()


def _numeric(dtype: Any) -> np.dtype[Any] | None:
    """The NumPy dtype if it is numeric or bool, otherwise None."""
    if not (isinstance(dtype, Inert) and dtype.name == DTYPE):
        raise bad_arguments("a NumPy array")
    code = dtype.args[0]
    if type(code) is not str or code not in _NUMERIC:
        return None
    state = dtype.state
    order = state[1] if isinstance(state, tuple) and len(state) > 1 else "="
    return np.dtype((order if order in ("<", ">") else "=") + code)


def array_tensor(array: Inert, budget: Budget) -> Tensor | None:
    """A tensor with a copy of the array's values; None if the array is not numeric.

    Raises:
        UnpicklingError: the array's bytes do not fit its shape.
    """
    state = array.state
    if not isinstance(state, tuple) or len(state) not in (4, 5):
        raise bad_arguments("a NumPy array")
    shape, dtype, fortran, data = state[-4:]  # old NumPy versions wrote no version number first
    found = _numeric(dtype)
    if found is None:
        return None
    if not (_are_sizes(shape) and isinstance(data, str | bytes | bytearray)):
        raise bad_arguments("a NumPy array")
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
        raise bad_arguments("torch.Size")
    return torch.Size(sizes)


def _device(kind: Any, index: Any = None) -> torch.device:
    if type(kind) is not str or not (index is None or type(index) is int):
        raise bad_arguments("torch.device")
    return torch.device(kind) if index is None else torch.device(kind, index)


def _tensor(
    budget: Budget, storage: Any, offset: Any, size: Any, stride: Any, dtype: Any = None
) -> Tensor:
    """A view of a storage, checked to lie within it: ``set_`` would enlarge a storage that is too small.

    The charge is a quarter of the view's size, even if stride 0 makes it small in memory, because a
    later clone allocates every element.
    """
    if type(storage) is not Storage:
        raise bad_arguments("a tensor")
    dtype = dtype or storage.dtype
    if not (isinstance(dtype, torch.dtype) and _are_sizes(size) and _are_sizes(stride)):
        raise bad_arguments("a tensor")
    if not _are_sizes([offset]) or len(size) != len(stride):
        raise bad_arguments("a tensor")
    room, numel = storage.data.nbytes() // dtype.itemsize, math.prod(size)
    budget.spend(numel * dtype.itemsize // 4)
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if numel > 0 and last >= room:
        raise UnpicklingError(
            f"a tensor {tuple(size)} does not fit in its storage of {room} elements"
        )
    return torch.empty(0, dtype=dtype).set_(storage.data, offset if numel else 0, size, stride)


def _tensor_v2(
    budget: Budget, storage: Any, offset: Any, size: Any, stride: Any, *rest: Any
) -> Tensor:
    """``rest``: ``requires_grad``, hooks, and optionally metadata such as a pending conjugation."""
    if len(rest) not in (2, 3) or any(rest[2:]):
        raise bad_arguments("a tensor")
    return _tensor(budget, storage, offset, size, stride)


def _tensor_v3(
    budget: Budget, storage: Any, offset: Any, size: Any, stride: Any, *rest: Any
) -> Tensor:
    """Version 2 with the dtype after the hooks, for dtypes that have no storage class."""
    if len(rest) not in (3, 4) or any(rest[3:]):
        raise bad_arguments("a tensor")
    return _tensor(budget, storage, offset, size, stride, rest[2])


def _parameter(data: Any, *_: Any) -> Tensor:
    """The tensor of a parameter; ``requires_grad`` and attributes are dropped."""
    if not isinstance(data, Tensor):
        raise bad_arguments("a parameter")
    return data


def _tensor_of_type(
    budget: Budget, function: Any, _type: Any, args: Any, _state: Any = None
) -> Tensor:
    """The plain tensor inside a tensor subclass or a tensor with attributes."""
    if function not in (Constructor(_tensor_v2, True), Constructor(_tensor_v3, True)):
        raise bad_arguments("a tensor of a subclass")
    return call(function, args, "call", budget)


def _device_tensor(budget: Budget, data: Any, dtype: Any, *_: Any) -> Tensor:
    """A tensor from a device that is saved through the CPU: XLA, MPS and others."""
    tensor = array_tensor(data, budget) if isinstance(data, Inert) else data
    if not isinstance(tensor, Tensor) or not isinstance(dtype, torch.dtype):
        raise bad_arguments("a tensor")
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
_SPENDING_MAKERS: dict[str, Callable[..., Any]] = {
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
    for makers, spends in ((_MAKERS, False), (_SPENDING_MAKERS, True)):
        for dotted, make in makers.items():
            module, _, name = dotted.rpartition(".")
            constructor = Constructor(make, spends)
            table[module, name] = table[_NUMPY_2.get(module, module), name] = constructor
    # Values, not functions: only a Constructor is ever called.
    for name, value in vars(torch).items():
        if isinstance(value, torch.dtype):
            table["torch", name] = value
    for dtype, name in torch.storage._dtype_to_storage_type_map().items():
        table["torch", name] = table["torch.cuda", name] = StorageClass(dtype)
    table["torch.storage", "UntypedStorage"] = StorageClass(None)
    table["torch", "Tensor"] = torch.Tensor
    return table


ALLOWED = _allowed()
