"""An unpickler that imports and calls nothing which a file names.

A pickle is a program: it names functions and calls them. Here a name becomes a checked constructor
of ``msbreg.rebuild``, if it is one of the few in its list, and else an ``Inert`` record; a call of a
record is another record. No name is ever looked up in a module. The opcodes that can call, or that
touch an object's attributes or items, are all replaced; the rest are listed one by one, so that an
opcode of a later Python is an error here until somebody has read what it does.

``torch.load`` unpickles by a class that it is given, which is how both of its formats are read.
"""

import io
import pickle
import types
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pickle import UnpicklingError
from typing import Any, ClassVar

import torch
from torch.serialization import StorageType

from msbreg.inert import Inert, plain
from msbreg.rebuild import ALLOWED, Constructor, check_key, settle

__all__ = ["Inert", "Truncated", "load_plain", "load_torch", "names_in", "plain"]

LONGEST_NAME = 200
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
            raise Truncated("the file ends in the middle of its pickle")
        return data

    def readline(self) -> bytes:
        line = self.file.readline()
        if not line.endswith(b"\n"):
            raise Truncated("the file ends in the middle of its pickle")
        return line


class InertUnpickler(pickle._Unpickler):
    """Builds containers, numbers, tensors and inert records; see the module's first lines.

    Attributes:
        allowed: names that are built, with their constructors.
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

    def __init__(self, file: Any, *, encoding: str = "latin1") -> None:
        super().__init__(_Exactly(file), encoding=encoding)
        self._storages: dict[Any, Any] = {}
        self._sizes: dict[str, int] = {}

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
            reason = f"{type(error).__name__}: {error}"[:LONGEST_NAME]
            raise UnpicklingError(f"its pickle is malformed ({reason})") from error

    def find_class(self, module: str, name: str) -> Any:
        """The constructor of a name in the list, else a record of the name; nothing is imported."""
        if (module, name) in self.allowed:
            return self.allowed[module, name]
        shown = printable(f"{module}.{name}")
        self.stubbed.add(shown)
        return Inert(shown)

    # ------------------------------------------------------------------------- opcodes that call

    def load_reduce(self) -> None:
        args = self.stack.pop()
        self.stack[-1] = _call(self.stack[-1], args, "call")

    def load_newobj(self) -> None:
        args = self.stack.pop()
        self.stack[-1] = _call(self.stack[-1], args, "class")

    def load_newobj_ex(self) -> None:
        named, args = self.stack.pop(), self.stack.pop()
        if type(named) is not dict or type(args) is not tuple:
            raise UnpicklingError("an object's arguments are a tuple and a dict")
        self.stack[-1] = _call(self.stack[-1], (*args, named) if named else args, "class")

    def load_inst(self) -> None:
        module, name = self.readline()[:-1].decode(), self.readline()[:-1].decode()  # type: ignore[attr-defined]
        self.append(_call(self.find_class(module, name), tuple(self.pop_mark()), "call"))

    def load_obj(self) -> None:
        function, *args = self.pop_mark()
        self.append(_call(function, tuple(args), "call"))

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

    # -------------------------------------------------------- opcodes that touch what they are given

    def load_append(self) -> None:
        value = self.stack.pop()
        self._extend(self.stack[-1], [value])

    def load_appends(self) -> None:
        values = self.pop_mark()
        self._extend(self.stack[-1], values)

    def _extend(self, target: Any, values: list[Any]) -> None:
        if type(target) is Inert:
            target.elements.extend(values)
        elif type(target) is list:
            target.extend(values)
        else:
            raise UnpicklingError(f"it appends to a {type(target).__name__}")

    def load_additems(self) -> None:
        values = self.pop_mark()
        target = self.stack[-1]
        if type(target) is set:
            for value in values:
                check_key(value)
            target.update(values)
        elif type(target) is Inert:
            target.elements.extend(values)
        else:
            raise UnpicklingError(f"it adds to a {type(target).__name__}")

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
        self.append(self._persistent(self.stack.pop()))

    def _persistent(self, asked: Any) -> Any:
        """A storage of the file; ``torch.load`` is not asked before its arguments are checked."""
        if type(asked) is not tuple or not asked:
            raise UnpicklingError("it asks for data outside of itself")
        if asked[0] == "module" and len(asked) > 1:
            return asked[1]  # torch.load would compare source code, and may write a patch file
        filled = [*asked, *[None] * (5 - len(asked))]
        kind, storage_type, key, location, numel = filled[:5]
        view = filled[5:]
        typed = isinstance(storage_type, StorageType)
        if (
            kind != "storage"
            or not (typed or storage_type is torch.UntypedStorage)
            or type(key) is not str
            or type(location) is not str
            or type(numel) is not int
            or not 0 <= numel < 2**63
            or not _are_views(view, numel)
        ):
            raise UnpicklingError("a storage has arguments that no honest file has")
        size = numel * (storage_type.dtype.itemsize if typed else 1)
        same = (key, size, storage_type.dtype if typed else None, *view)
        if same not in self._storages:
            if isinstance(self.room, int):
                self._sizes[key] = max(size, self._sizes.get(key, 0))
                fits = sum(self._sizes.values()) <= self.room
            else:
                fits = size <= self.room.get(key, -1)
            if not fits:
                raise Truncated(f"a storage of {size} bytes is larger than what the file holds")
            self._storages[same] = self.persistent_load(asked)
        return self._storages[same]


InertUnpickler.dispatch = {
    getattr(pickle, name)[0]: pickle._Unpickler.dispatch[getattr(pickle, name)[0]]
    for name in _HARMLESS.split()
} | {
    getattr(pickle, name)[0]: getattr(InertUnpickler, f"load_{name.lower()}")
    for name in _OURS.split()
}


class _Names(InertUnpickler):
    """Finds the names in a pickle and builds nothing at all."""

    allowed: ClassVar[Mapping[tuple[str, str], Any]] = {}
    found: set[tuple[str, str]]

    def find_class(self, module: str, name: str) -> Any:
        self.found.add((module, name))
        return Inert("name")

    def _persistent(self, asked: Any) -> Any:
        return Inert("storage")


def load_plain(data: bytes, *, stubbed: set[str]) -> Any:
    """What a plain pickle holds: containers, numbers, tensors (also for NumPy arrays), records.

    Args:
        stubbed: gets the names of the classes and functions that became inert.

    Raises:
        UnpicklingError: the stream is malformed.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's, on storages that it makes itself
        unpickler = _unpickler(stubbed, len(data))
        return settle(unpickler(io.BytesIO(data)).load(), stubbed)


def load_torch(data: bytes, *, stubbed: set[str]) -> Any:
    """What a file of ``torch.save`` holds, in the zip or the legacy format; as ``load_plain``.

    Raises:
        UnpicklingError: the pickle in it is malformed.
        Exception: whatever ``torch.load`` raises for a damaged file.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return settle(_load_torch(data, stubbed), stubbed)


def names_in(data: bytes, *, pickles: int = 1) -> set[tuple[str, str]]:
    """Module and name of all that a pickle, or the first few in a row, refers to; as they stand.

    Raises:
        UnpicklingError: the stream is malformed.
    """
    file, found = io.BytesIO(data), set[tuple[str, str]]()
    for _ in range(pickles):
        unpickler = _Names(file)
        unpickler.found = found
        unpickler.load()
    return found


def printable(text: str) -> str:
    """A name that is safe to print: no control characters, no line breaks, not without end."""
    shown = "".join(c if c.isprintable() else "?" for c in text[:LONGEST_NAME])
    return shown if len(text) <= LONGEST_NAME else shown + "..."


def _load_torch(data: bytes, stubbed: set[str]) -> Any:
    room: Mapping[str, int] | int = len(data)
    if data[:2] == b"PK":
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            room = {
                entry.filename.partition("/data/")[2]: entry.file_size
                for entry in archive.infolist()
            }
    unpickler = _unpickler(stubbed, room)
    module = types.SimpleNamespace(
        __name__="msbreg.unpickle",
        Unpickler=unpickler,
        load=lambda file, **options: unpickler(file, **options).load(),
    )
    return torch.load(
        io.BytesIO(data),
        map_location="cpu",
        pickle_module=module,
        weights_only=False,  # its own unpickler would be used instead of ours
        mmap=False,
        encoding="latin1",  # Python 2's strings may hold any byte
    )


def _unpickler(stubbed: set[str], room: Mapping[str, int] | int) -> type[InertUnpickler]:
    """A class, since ``torch.load`` derives its own from it."""
    return type("Unpickler", (InertUnpickler,), {"stubbed": stubbed, "room": room})


def _are_views(views: list[Any], numel: int) -> bool:
    """Nothing, or a part of a storage as the legacy format writes it: its key, offset and length."""
    if not views or (len(views) == 1 and views[0] is None):
        return True
    if len(views) != 1 or type(views[0]) is not tuple or len(views[0]) != 3:
        return False
    key, offset, length = views[0]
    numbers = type(offset) is int and type(length) is int
    return type(key) is str and numbers and 0 <= offset <= offset + length <= numel


def _call(function: Any, args: Any, made_by: str) -> Any:
    """What the file wants of a name: the one place where anything is called on its behalf."""
    if type(args) is not tuple:
        raise UnpicklingError(f"arguments are a tuple, not a {type(args).__name__}")
    if type(function) is Constructor:
        return function.make(*args)
    if type(function) is Inert:
        return Inert(_name_of_made(function), args, made_by=made_by)
    raise UnpicklingError(f"it calls a {type(function).__name__}")


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


def _reconstructor(kind: Any, base: Any, content: Any) -> Any:
    """An instance as protocols 0 and 1 write it: its class, the builtin it derives from, its value."""
    made = _call(kind, (), "class")
    if type(made) is Inert:
        if type(content) is dict:
            made.items.update(content)
        elif type(content) in (list, set):
            made.elements.extend(content)
        elif content is not None:
            made.args = content if type(content) is tuple else (content,)
    return made


def _storage_from_bytes(data: Any) -> Any:
    """A storage that a plain pickle holds as a whole legacy file within; that is read like any."""
    if type(data) is not bytes:
        raise UnpicklingError("a storage has arguments that no honest file has")
    storage = _load_torch(data, set())
    if not isinstance(storage, torch.storage.TypedStorage | torch.UntypedStorage):
        raise UnpicklingError("a storage in it is something else")
    return storage


InertUnpickler.allowed = {
    **ALLOWED,
    ("torch.storage", "_load_from_bytes"): Constructor("", _storage_from_bytes),
    ("copyreg", "_reconstructor"): Constructor("", _reconstructor),
    ("copy_reg", "_reconstructor"): Constructor("", _reconstructor),
    ("copyreg", "__newobj__"): Constructor("", lambda kind, *args: _call(kind, args, "class")),
}
