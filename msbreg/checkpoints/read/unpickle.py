"""An unpickler that never imports or calls what a file names, and works within a budget.

A pickle is a program: it names functions and calls them. Here a name becomes a checked
constructor if ``rebuild.py`` lists it, and an ``Inert`` record otherwise. Calling a record gives
another record. No name is ever looked up in a module. Opcodes that can call, or that access
attributes or items of their operands, are replaced. The others are listed one by one, so that an
opcode of a later Python version is an error until somebody has reviewed it.

PyTorch's ``weights_only`` unpickler cannot replace it. It reads only protocols 2 and 3, rejects
subclasses of dict and all names in ``os`` even as inert records, and has no budget: a file of 268
bytes that calls ``bytearray`` with a number allocates 2 GB, and colliding keys take minutes.
"""

import io
import pickle
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pickle import UnpicklingError
from typing import Any, ClassVar

import torch

from msbreg.checkpoints.read.inert import Inert, printable
from msbreg.checkpoints.read.rebuild import (
    ALLOWED,
    ARRAY,
    CALL,
    ITEM,
    SCALAR,
    Budget,
    Storage,
    StorageClass,
    array_tensor,
    bad_arguments,
    call,
    cost_of_copy,
)

# These push, pop or copy numbers, strings, marks and containers; none calls or reads an attribute.
_HARMLESS = (
    "PROTO FRAME MARK STOP POP POP_MARK DUP NONE NEWTRUE NEWFALSE INT BININT BININT1 BININT2 LONG "
    "LONG1 FLOAT BINFLOAT STRING BINSTRING SHORT_BINSTRING UNICODE BINUNICODE BINUNICODE8 "
    "SHORT_BINUNICODE BINBYTES BINBYTES8 SHORT_BINBYTES EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 "
    "EMPTY_LIST LIST EMPTY_DICT EMPTY_SET GET BINGET LONG_BINGET BINPUT LONG_BINPUT MEMOIZE "
    "GLOBAL STACK_GLOBAL"  # these two end in find_class, which is ours
)
_OURS = (
    "REDUCE NEWOBJ NEWOBJ_EX INST OBJ BUILD APPEND APPENDS ADDITEMS SETITEM SETITEMS DICT FROZENSET "
    "BYTEARRAY8 LONG4 PUT BINPERSID"
)
# Deliberately unsupported: EXT1, EXT2 and EXT4 look names up in a table of this process,
# NEXT_BUFFER and READONLY_BUFFER use data outside the file, and torch.save never wrote PERSID.

# Budget units per opcode, by the memory it keeps; 32 for opcodes not listed.
_COSTS = {
    **dict.fromkeys(["MARK", "EMPTY_LIST", "LIST", "EMPTY_DICT", "DICT"], 160),
    **dict.fromkeys(["TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"], 160),
    **dict.fromkeys(["EMPTY_SET", "FROZENSET"], 320),
    **dict.fromkeys(["PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"], 96),
}
MAX_INTEGER_BYTES = 1024  # more than Python would print


class Truncated(UnpicklingError):
    """The file ends before its content is complete."""


class _ExactReader:
    """A file whose reads return exactly the requested bytes, or fail.

    The pure-Python unpickler accepts short reads, so a length beyond the end would go unnoticed.
    """

    def __init__(self, file: Any) -> None:
        self.file = file

    def read(self, size: int) -> bytes:
        data = self.file.read(size)
        if len(data) != size:
            raise Truncated("its pickle is incomplete")
        return data

    def readline(self) -> bytes:
        line = self.file.readline()
        if not line.endswith(b"\n"):
            raise Truncated("its pickle is incomplete")
        return line


def no_storage(key: str, _size: int) -> torch.UntypedStorage:
    """For pickles without separate storages."""
    raise UnpicklingError(f"it refers to the external storage {printable(key)!r}")


class InertUnpickler(pickle._Unpickler):
    """Builds containers, numbers, tensors and inert records; see the module docstring."""

    allowed: ClassVar[Mapping[tuple[str, str], Any]] = ALLOWED
    stack: list[Any]
    append: Callable[[Any], None]
    pop_mark: Callable[[], list[Any]]
    read: Callable[[int], bytes]
    readline: Callable[[], bytes]
    proto: int

    def __init__(
        self,
        file: io.BytesIO,
        budget: Budget,
        stubbed: set[str],
        storage: Callable[[str, int], torch.UntypedStorage] = no_storage,
    ) -> None:
        """Read from the file's current position.

        Args:
            budget: charged for everything that is built.
            stubbed: receives the names of classes and functions that became inert records.
            storage: returns the memory of a storage key, of at least the given number of bytes.
        """
        super().__init__(_ExactReader(file), encoding="latin1")
        self.memo: dict[int, Any] = {}
        self.budget, self.stubbed, self.storage = budget, stubbed, storage

    def load(self) -> Any:
        """The object in the stream; NumPy arrays and storages in it still need ``resolve``.

        Raises:
            UnpicklingError: the stream is malformed; Truncated if it ends too early.
        """
        try:
            return super().load()
        except UnpicklingError:
            raise
        except RecursionError as error:
            raise UnpicklingError("its pickle is nested too deeply") from error
        except Exception as error:
            reason = printable(f"{type(error).__name__}: {error}")
            raise UnpicklingError(f"its pickle is malformed ({reason})") from error

    def find_class(self, module: str, name: str) -> Any:
        """The constructor for an allowed name, otherwise an inert record. Nothing is imported."""
        self.budget.spend(CALL + len(module) + len(name))
        if self.proto < 3:  # protocols 0 to 2 use Python 2's names
            module, name = NAME_MAPPING.get((module, name), (module, name))
            module = IMPORT_MAPPING.get(module, module)
        if (module, name) in self.allowed:
            return self.allowed[module, name]
        shown = printable(f"{module}.{name}")
        self.stubbed.add(shown)
        return Inert(shown)

    # ------------------------------------------------------------------------- opcodes that call

    def load_reduce(self) -> None:
        args = self.stack.pop()
        self.stack[-1] = call(self.stack[-1], args, "call", self.budget)

    def load_newobj(self) -> None:
        args = self.stack.pop()
        self.stack[-1] = call(self.stack[-1], args, "class", self.budget)

    def load_newobj_ex(self) -> None:
        named, args = self.stack.pop(), self.stack.pop()
        if type(named) is not dict or type(args) is not tuple:
            raise UnpicklingError("the arguments of an object are not a tuple and a dict")
        self.budget.spend(cost_of_copy(args))
        args = (*args, named) if named else args
        self.stack[-1] = call(self.stack[-1], args, "class", self.budget)

    def load_inst(self) -> None:
        module, name = self.readline()[:-1].decode(), self.readline()[:-1].decode()
        args = tuple(self.pop_mark())
        self.append(call(self.find_class(module, name), args, "call", self.budget))

    def load_obj(self) -> None:
        function, *args = self.pop_mark()
        self.append(call(function, tuple(args), "call", self.budget))

    def load_build(self) -> None:
        state = self.stack.pop()
        target = self.stack[-1]
        if type(target) is Inert:
            if type(target.state) is dict and type(state) is dict:
                for key in (*target.state, *state):
                    self.budget.spend_key(key)
                state = {**target.state, **state}
            target.state = state
        elif type(target) is OrderedDict:
            # Keep only the module versions of a state dict; other attributes could shadow the dict's
            # methods.
            metadata = state.get("_metadata") if isinstance(state, dict) else None
            if isinstance(metadata, dict):
                vars(target)["_metadata"] = metadata
        else:
            raise UnpicklingError(f"it sets the state of a {type(target).__name__}")

    # ------------------------------------------- opcodes that access items of their operands

    def load_append(self) -> None:
        value = self.stack.pop()
        self._extend(self.stack[-1], [value])

    def load_appends(self) -> None:
        values = self.pop_mark()
        self._extend(self.stack[-1], values)

    def _extend(self, target: Any, values: list[Any]) -> None:
        if type(target) not in (list, Inert):
            raise UnpicklingError(f"it appends to a {type(target).__name__}")
        (target.elements if type(target) is Inert else target).extend(values)

    def load_additems(self) -> None:
        values = self.pop_mark()
        target = self.stack[-1]
        if type(target) is not set:
            return self._extend(target, values)
        for value in values:
            self.budget.spend_key(value)
        target.update(values)

    def load_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._set_items(self.stack[-1], [key, value])

    def load_setitems(self) -> None:
        pairs = self.pop_mark()
        self._set_items(self.stack[-1], pairs)

    def _set_items(self, target: Any, pairs: list[Any]) -> None:
        if type(target) not in (dict, OrderedDict, Inert):
            raise UnpicklingError(f"it sets an item of a {type(target).__name__}")
        mapping = target.items if type(target) is Inert else target
        for key, value in zip(pairs[::2], pairs[1::2], strict=True):
            self.budget.spend_key(key)
            mapping[key] = value

    def load_dict(self) -> None:
        pairs = self.pop_mark()
        self.append({})
        self._set_items(self.stack[-1], pairs)

    def load_frozenset(self) -> None:
        values = self.pop_mark()
        for value in values:
            self.budget.spend_key(value)
        self.append(frozenset(values))

    # ------------------------------------------------ opcodes whose length or index may be false

    def load_bytearray8(self) -> None:
        size = int.from_bytes(self.read(8), "little")
        self.append(bytearray(self.read(size)))  # Python's version would allocate before reading

    def load_long4(self) -> None:
        size = int.from_bytes(self.read(4), "little")
        if size > MAX_INTEGER_BYTES:
            raise UnpicklingError(f"it contains an integer of {size} bytes")
        self.append(pickle.decode_long(self.read(size)))

    def load_put(self) -> None:
        index = int(self.readline())
        if not 0 <= index < 2**32:  # the range of binary protocols; larger keys could collide
            raise UnpicklingError("its memo has an index that no legitimate file uses")
        self.memo[index] = self.stack[-1]

    def load_binpersid(self) -> None:
        identifier = self.stack.pop()
        if type(identifier) is not tuple or not identifier:
            raise UnpicklingError("it refers to data outside the file")
        if identifier[0] == "module" and len(identifier) > 1:
            self.append(identifier[1])  # until 2020: a class with its source code
        else:
            self.append(self._storage(*identifier))

    def _storage(
        self,
        kind: Any = None,
        storage_class: Any = None,
        key: Any = None,
        location: Any = None,
        numel: Any = None,
        view: Any = None,
        *rest: Any,
    ) -> Storage:
        """A storage of the file, or the part of one given by ``view`` = (key, offset, length)."""
        if (
            kind != "storage"
            or type(storage_class) is not StorageClass
            or type(key) is not str
            or type(location) is not str
            or type(numel) is not int
            or not 0 <= numel < 2**63
            or not (view is None or _is_view(view, numel))
            or rest
        ):
            raise bad_arguments("a storage")
        self.budget.spend(CALL)
        dtype = storage_class.dtype
        itemsize = dtype.itemsize if dtype else 1
        memory = self.storage(key, numel * itemsize)
        if view is not None:
            _, offset, length = view
            memory = memory[offset * itemsize : (offset + length) * itemsize]
        return Storage(memory, dtype)


def _is_view(view: Any, numel: int) -> bool:
    if type(view) is not tuple or len(view) != 3:
        return False
    key, offset, length = view
    numbers = type(offset) is int and type(length) is int
    return type(key) is str and numbers and 0 <= offset <= offset + length <= numel


def _charged(name: str, load: Callable[[Any], None]) -> Callable[[Any], None]:
    """Charge the budget for an opcode before running it."""
    cost = _COSTS.get(name, 32)

    def charge_and_load(unpickler: Any) -> None:
        unpickler.budget.spend(cost)
        load(unpickler)

    return charge_and_load


def _opcode(name: str) -> int:
    return getattr(pickle, name)[0]


InertUnpickler.dispatch = {
    _opcode(name): _charged(name, pickle._Unpickler.dispatch[_opcode(name)])
    for name in _HARMLESS.split()
} | {
    _opcode(name): _charged(name, getattr(InertUnpickler, f"load_{name.lower()}"))
    for name in _OURS.split()
}


# ------------------------------------------------------------------------- after the last opcode


def resolve(value: Any, stubbed: set[str], budget: Budget) -> Any:
    """Replace NumPy arrays and bare storages by tensors; containers are changed in place.

    Each reference to a container is charged for everything inside it, because a reader of the content
    visits it once per reference: a few containers that refer to each other repeatedly can otherwise
    mean billions of visits.

    Args:
        stubbed: receives a name for NumPy arrays and scalars that are not numeric; they stay inert.

    Raises:
        UnpicklingError: an array does not fit its shape, or containers are nested too deeply.
    """
    try:
        return _Resolver(stubbed, budget).resolve(value)
    except RecursionError as error:
        raise UnpicklingError("its containers are nested too deeply") from error


class _Resolver:
    """One pass over the content that visits every container once."""

    def __init__(self, stubbed: set[str], budget: Budget) -> None:
        self.stubbed, self.budget = stubbed, budget
        self.visits = 0  # values that a reader without memoization would have visited so far
        # By id: the value (kept alive, so that its id is not reused), its result, and the visits inside.
        self.done: dict[int, tuple[Any, Any, int]] = {}

    def resolve(self, value: Any) -> Any:
        self.visits += 1
        if not isinstance(value, (dict, list, tuple, Inert, Storage)):
            return value
        if id(value) in self.done:
            _, result, visits = self.done[id(value)]
            self.budget.spend(ITEM // 4 * visits)
            self.visits += visits
            return result
        before = self.visits
        self.done[id(value)] = (value, value, 0)
        result = self._resolve_new(value)
        self.done[id(value)] = (value, result, self.visits - before)
        return result

    def _resolve_new(self, value: Any) -> Any:
        if isinstance(value, Inert):
            return self._resolve_record(value)
        if isinstance(value, Storage):
            kind = value.dtype or torch.uint8
            return torch.empty(0, dtype=kind).set_(value.data)
        if isinstance(value, dict):
            for key, item in value.items():
                value[key] = self.resolve(item)
        elif type(value) is list:
            value[:] = [self.resolve(item) for item in value]
        elif type(value) is tuple:
            return tuple([self.resolve(item) for item in value])
        return value

    def _resolve_record(self, record: Inert) -> Any:
        if record.name == ARRAY:
            tensor = array_tensor(record, self.budget)
            if tensor is not None:
                return tensor
        if record.name in (ARRAY, SCALAR):
            self.stubbed.add(f"{record.name} that is not numeric")
        record.args = tuple([self.resolve(item) for item in record.args])
        record.state = self.resolve(record.state)
        self.resolve(record.items)
        self.resolve(record.elements)
        return record
