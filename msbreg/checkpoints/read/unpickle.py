"""An unpickler that imports and calls nothing that a file names, and spends within a budget.

A pickle is a program: it names functions and calls them. Here a name becomes a checked constructor
of ``rebuild.py``, if it is in its list, and an ``Inert`` record otherwise. A call of a record is
another record. No name is ever looked up in a module. All opcodes that can call, or that touch
attributes or items of their operands, are replaced; the others are listed one by one, so that an
opcode of a later Python is an error here until somebody has read what it does.

PyTorch's ``weights_only`` unpickler cannot replace it. It reads protocols 2 and 3 only, refuses
subclasses of dict and all names of ``os`` even as inert records, and has no budget: a file of 268
bytes that calls ``bytearray`` with a number takes 2 GB, and colliding keys take minutes.
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
    call,
    cost_of_copy,
    wrong,
)

# They push, pop or copy numbers, texts, marks and containers; none calls or touches an attribute.
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
# Refused for good: EXT1, EXT2 and EXT4 name by a table of this process, NEXT_BUFFER and
# READONLY_BUFFER use data outside of the file, PERSID is a text that torch.save never wrote.

# Units of a budget for one opcode, by what it leaves in memory: 32, but for these.
_COSTS = {
    "MARK": 96,
    **dict.fromkeys(["EMPTY_LIST", "LIST", "EMPTY_DICT", "DICT"], 160),
    **dict.fromkeys(["TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"], 160),
    **dict.fromkeys(["EMPTY_SET", "FROZENSET"], 320),
    **dict.fromkeys(["PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"], 96),
}
LONGEST_INTEGER = 1024  # bytes; more than Python would print


class Truncated(UnpicklingError):
    """The file ends before its content does."""


class _Exactly:
    """A file of which every read gives all it was asked for, or fails.

    The pure-Python unpickler takes what it gets, so that a length beyond the end passes unnoticed.
    """

    def __init__(self, file: Any) -> None:
        self.file = file

    def read(self, size: int) -> bytes:
        data = self.file.read(size)
        if len(data) != size:
            raise Truncated("its pickle has no end")
        return data

    def readline(self) -> bytes:
        line = self.file.readline()
        if not line.endswith(b"\n"):
            raise Truncated("its pickle has no end")
        return line


def no_storage(key: str, _size: int) -> torch.UntypedStorage:
    """For pickles beside which there are no storages."""
    raise UnpicklingError(f"it asks for storage {printable(key)!r} outside of itself")


class InertUnpickler(pickle._Unpickler):
    """Builds containers, numbers, tensors and inert records; see the module's first lines."""

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
        """Read from where the file is.

        Args:
            budget: pays for all that is built.
            stubbed: gets the names of classes and functions that became inert.
            storage: the memory of a key, with so many bytes or more.
        """
        super().__init__(_Exactly(file), encoding="latin1")
        self.memo: dict[int, Any] = {}
        self.budget, self.stubbed, self.storage = budget, stubbed, storage

    def load(self) -> Any:
        """The object in the stream; arrays in it are tensors, and not yet settled.

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
        """What stands for a name: its constructor, or a record of it. Nothing is imported."""
        self.budget.spend(CALL + len(module) + len(name))
        if self.proto < 3:  # Python 2's names, which the protocols of its time are written with
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
            raise UnpicklingError("an object's arguments are a tuple and a dict")
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
            # Of a state dict's attributes only the versions of its modules matter; any other could
            # hide the dict's own methods.
            metadata = state.get("_metadata") if isinstance(state, dict) else None
            if isinstance(metadata, dict):
                vars(target)["_metadata"] = metadata
        else:
            raise UnpicklingError(f"it sets the state of a {type(target).__name__}")

    # ------------------------------------------- opcodes that touch the items of their operands

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

    # ----------------------------------------------- opcodes whose length or number may be a lie

    def load_bytearray8(self) -> None:
        size = int.from_bytes(self.read(8), "little")
        self.append(bytearray(self.read(size)))  # Python's own would allocate first, then read

    def load_long4(self) -> None:
        size = int.from_bytes(self.read(4), "little")
        if size > LONGEST_INTEGER:
            raise UnpicklingError(f"an integer in it has {size} bytes")
        self.append(pickle.decode_long(self.read(size)))

    def load_put(self) -> None:
        index = int(self.readline())
        if not 0 <= index < 2**32:  # as in binary protocols; the memo's keys could collide
            raise UnpicklingError("its memo has an index that no honest file has")
        self.memo[index] = self.stack[-1]

    def load_binpersid(self) -> None:
        asked = self.stack.pop()
        if type(asked) is not tuple or not asked:
            raise UnpicklingError("it asks for data outside of itself")
        if asked[0] == "module" and len(asked) > 1:
            self.append(asked[1])  # until 2020, a class with its source code
        else:
            self.append(self._storage(*asked))

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
        """A storage of the file; ``view``: a part of one, as (its key, offset, length)."""
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
            raise wrong("a storage")
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


def _paid(name: str, load: Callable[[Any], None]) -> Callable[[Any], None]:
    """What an opcode does, once it is paid for."""
    cost = _COSTS.get(name, 32)

    def pay_and_load(unpickler: Any) -> None:
        unpickler.budget.spend(cost)
        load(unpickler)

    return pay_and_load


def _opcode(name: str) -> int:
    return getattr(pickle, name)[0]


InertUnpickler.dispatch = {
    _opcode(name): _paid(name, pickle._Unpickler.dispatch[_opcode(name)])
    for name in _HARMLESS.split()
} | {
    _opcode(name): _paid(name, getattr(InertUnpickler, f"load_{name.lower()}"))
    for name in _OURS.split()
}


# ------------------------------------------------------------------------- after the last opcode


def settle(value: Any, stubbed: set[str], budget: Budget) -> Any:
    """The content with NumPy's arrays and bare storages as tensors; containers are changed in place.

    A container that is referred to again is charged again for all inside it, because a reader of the
    content visits it again: a few of them inside each other are otherwise billions.

    Args:
        stubbed: gets a name for NumPy's arrays and scalars that are not of numbers; they stay inert.

    Raises:
        UnpicklingError: an array does not fit its shape, or containers are nested too deeply.
    """
    try:
        return _Settling(stubbed, budget).settle(value)
    except RecursionError as error:
        raise UnpicklingError("its containers are nested too deeply") from error


class _Settling:
    """One pass over a content, in which every container is visited once."""

    def __init__(self, stubbed: set[str], budget: Budget) -> None:
        self.stubbed, self.budget = stubbed, budget
        self.visits = 0  # values that a reader without a memory would have visited so far
        # By id: the value, so that no later object gets its id; its result; visits inside it.
        self.done: dict[int, tuple[Any, Any, int]] = {}

    def settle(self, value: Any) -> Any:
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
        result = self._settle_new(value)
        self.done[id(value)] = (value, result, self.visits - before)
        return result

    def _settle_new(self, value: Any) -> Any:
        if isinstance(value, Inert):
            return self._settle_record(value)
        if isinstance(value, Storage):
            kind = value.dtype or torch.uint8
            return torch.empty(0, dtype=kind).set_(value.data)
        if isinstance(value, dict):
            for key, item in value.items():
                value[key] = self.settle(item)
        elif type(value) is list:
            value[:] = [self.settle(item) for item in value]
        elif type(value) is tuple:
            return tuple([self.settle(item) for item in value])
        return value

    def _settle_record(self, record: Inert) -> Any:
        if record.name == ARRAY:
            tensor = array_tensor(record, self.budget)
            if tensor is not None:
                return tensor
        if record.name in (ARRAY, SCALAR):
            self.stubbed.add(f"{record.name} that is not of numbers")
        record.args = tuple([self.settle(item) for item in record.args])
        record.state = self.settle(record.state)
        self.settle(record.items)
        self.settle(record.elements)
        return record
