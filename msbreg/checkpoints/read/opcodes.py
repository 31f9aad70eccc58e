"""An unpickler that imports and calls nothing which a file names.

A pickle is a program: it names functions and calls them. Here a name becomes a checked constructor
of ``rebuild.py``, if it is one of the few in its list, and else an ``Inert`` record; a call of a
record is another record. No name is ever looked up in a module. The opcodes that can call, or that
touch attributes or items of what they are given, are all replaced; the rest are listed one by one,
so that an opcode of a later Python is an error here until somebody has read what it does.
"""

import pickle
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pickle import UnpicklingError
from typing import Any, ClassVar

import torch
from torch.serialization import StorageType

from msbreg.checkpoints.read.inert import Inert, printable, wrong
from msbreg.checkpoints.read.rebuild import ALLOWED, call, check_key

# They push, pop or copy numbers, texts, marks and containers; none calls or touches an attribute.
_HARMLESS = (
    "PROTO FRAME MARK STOP POP POP_MARK DUP NONE NEWTRUE NEWFALSE INT BININT BININT1 BININT2 LONG "
    "LONG1 LONG4 FLOAT BINFLOAT STRING BINSTRING SHORT_BINSTRING UNICODE BINUNICODE BINUNICODE8 "
    "SHORT_BINUNICODE BINBYTES BINBYTES8 SHORT_BINBYTES EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 "
    "EMPTY_LIST LIST EMPTY_DICT EMPTY_SET GET BINGET LONG_BINGET PUT BINPUT LONG_BINPUT MEMOIZE "
    "GLOBAL STACK_GLOBAL"  # these two end in find_class, which is ours
)
_OURS = (
    "REDUCE NEWOBJ NEWOBJ_EX INST OBJ BUILD APPEND APPENDS ADDITEMS SETITEM SETITEMS DICT FROZENSET "
    "BYTEARRAY8 BINPERSID"
)
# Refused for good: EXT1, EXT2 and EXT4 name by a table of this process, NEXT_BUFFER and
# READONLY_BUFFER use data outside of the file, PERSID is a text that torch.load never wrote.


class Truncated(UnpicklingError):
    """The stream ends before the pickle does."""


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


class InertUnpickler(pickle._Unpickler):
    """Builds containers, numbers, tensors and inert records; see the module's first lines.

    Attributes:
        allowed: what names are built from, by module and name.
        stubbed: gets the names that became inert.
        room: bytes of each storage in the file; or of all together, where they have no index.
    """

    allowed: ClassVar[Mapping[tuple[str, str], Any]] = ALLOWED
    stubbed: ClassVar[set[str]] = set()
    room: ClassVar[Mapping[str, int] | int] = 0
    stack: list[Any]
    append: Callable[[Any], None]
    pop_mark: Callable[[], list[Any]]
    read: Callable[[int], bytes]
    readline: Callable[[], bytes]
    proto: int

    def __init__(self, file: Any, *, encoding: str = "latin1") -> None:
        super().__init__(_Exactly(file), encoding=encoding)
        self._storages: dict[Any, Any] = {}
        self._taken: dict[str, int] = {}  # bytes of each storage so far, and of all
        self._total = 0

    def load(self) -> Any:
        """The object in the stream.

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
        module, name = self.modern(module, name)
        if (module, name) in self.allowed:
            return self.allowed[module, name]
        shown = printable(f"{module}.{name}")
        self.stubbed.add(shown)
        return Inert(shown)

    def modern(self, module: str, name: str) -> tuple[str, str]:
        """Python 3's name for one of Python 2, which the protocols of its time are written with."""
        if self.proto >= 3:
            return module, name
        renamed = NAME_MAPPING.get((module, name), (module, name))
        return IMPORT_MAPPING.get(renamed[0], renamed[0]), renamed[1]

    # ------------------------------------------------------------------------- opcodes that call

    def load_reduce(self) -> None:
        args = self.stack.pop()
        self.stack[-1] = call(self.stack[-1], args, "call")

    def load_newobj(self) -> None:
        args = self.stack.pop()
        self.stack[-1] = call(self.stack[-1], args, "class")

    def load_newobj_ex(self) -> None:
        named, args = self.stack.pop(), self.stack.pop()
        if type(named) is not dict or type(args) is not tuple:
            raise UnpicklingError("an object's arguments are a tuple and a dict")
        self.stack[-1] = call(self.stack[-1], (*args, named) if named else args, "class")

    def load_inst(self) -> None:
        module, name = self.readline()[:-1].decode(), self.readline()[:-1].decode()
        args = tuple(self.pop_mark())
        self.append(call(self.find_class(module, name), args, "call"))

    def load_obj(self) -> None:
        function, *args = self.pop_mark()
        self.append(call(function, tuple(args), "call"))

    def load_build(self) -> None:
        state = self.stack.pop()
        target = self.stack[-1]
        if type(target) is Inert:
            both = type(target.state) is dict and type(state) is dict
            target.state = {**target.state, **state} if both else state
        elif type(target) is OrderedDict:
            # Of a state dict's attributes only the versions of its modules matter; any other could
            # stand before the dict's own methods.
            metadata = state.get("_metadata") if isinstance(state, dict) else None
            if isinstance(metadata, dict):
                vars(target)["_metadata"] = metadata
        else:
            raise UnpicklingError(f"it sets the state of a {type(target).__name__}")

    # ------------------------------------------------- opcodes that touch the items of what they get

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
            check_key(value)
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
            check_key(key)
            mapping[key] = value

    def load_dict(self) -> None:
        pairs = self.pop_mark()
        self.append({})
        self._set_items(self.stack[-1], pairs)

    def load_frozenset(self) -> None:
        values = self.pop_mark()
        for value in values:
            check_key(value)
        self.append(frozenset(values))

    def load_bytearray8(self) -> None:
        size = int.from_bytes(self.read(8), "little")
        self.append(bytearray(self.read(size)))  # read first: the length may be a lie

    # ------------------------------------------------------------------ what torch.load is asked for

    def load_binpersid(self) -> None:
        self.append(self._stored(self.stack.pop()))

    def _stored(self, asked: Any) -> Any:
        """A storage of the file; ``torch.load`` is not asked before its arguments are checked."""
        if type(asked) is not tuple or not asked:
            raise UnpicklingError("it asks for data outside of itself")
        if asked[0] == "module" and len(asked) > 1:
            return asked[1]  # torch.load would compare its source code, and may write a patch file
        filled = [*asked, *[None] * (5 - len(asked))]
        kind, storage_type, key, location, numel = filled[:5]
        typed = isinstance(storage_type, StorageType)
        if (
            kind != "storage"
            or not (typed or storage_type is torch.UntypedStorage)
            or type(key) is not str
            or type(location) is not str
            or type(numel) is not int
            or not 0 <= numel < 2**63
            or not _are_views(filled[5:], numel)
        ):
            raise wrong("a storage")
        size = numel * (storage_type.dtype.itemsize if typed else 1)
        same = (key, size, storage_type.dtype if typed else None, *filled[5:])
        if same not in self._storages:
            self._check_room(key, size)
            self._storages[same] = self.persistent_load(asked)
        return self._storages[same]

    def _check_room(self, key: str, size: int) -> None:
        more = max(size - self._taken.get(key, 0), 0)
        self._taken[key] = self._taken.get(key, 0) + more
        self._total += more
        if isinstance(self.room, int):
            taken, room = self._total, self.room
        else:
            taken, room = size, self.room.get(key, -1)
        if taken > room:
            raise Truncated(f"a storage of {size} bytes is larger than what the file holds")


InertUnpickler.dispatch = {
    getattr(pickle, name)[0]: pickle._Unpickler.dispatch[getattr(pickle, name)[0]]
    for name in _HARMLESS.split()
} | {
    getattr(pickle, name)[0]: getattr(InertUnpickler, f"load_{name.lower()}")
    for name in _OURS.split()
}


def _are_views(views: list[Any], numel: int) -> bool:
    """Nothing, or a part of a storage as the legacy format writes it: its key, offset and length."""
    if not views or (len(views) == 1 and views[0] is None):
        return True
    if len(views) != 1 or type(views[0]) is not tuple or len(views[0]) != 3:
        return False
    key, offset, length = views[0]
    numbers = type(offset) is int and type(length) is int
    return type(key) is str and numbers and 0 <= offset <= offset + length <= numel
