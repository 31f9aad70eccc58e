"""Reading foreign pickles, plain or in files of ``torch.save``, without running code in them.

``opcodes`` has the unpickler, ``rebuild`` the few names that it really builds, and ``inert`` the records
of all others. ``torch.load`` unpickles by a class that it is given, which is how both of its formats
are read.
"""

import io
import types
import warnings
import zipfile
from collections.abc import Mapping
from pickle import UnpicklingError
from typing import Any

import torch

from msbreg.checkpoints.read.arrays import settle
from msbreg.checkpoints.read.inert import Constructor, Inert, plain, wrong
from msbreg.checkpoints.read.opcodes import InertUnpickler, Truncated
from msbreg.checkpoints.read.rebuild import ALLOWED

__all__ = ["Inert", "InertUnpickler", "Truncated", "load_plain", "load_torch", "names_in", "plain"]


class _Names(InertUnpickler):
    """Finds the names in a pickle and builds nothing at all."""

    found: set[tuple[str, str]]

    def find_class(self, module: str, name: str) -> Any:
        self.found.add(self.modern(module, name))
        return Inert("name")

    def _stored(self, asked: Any) -> Any:
        return Inert("storage")


def load_plain(data: bytes, *, stubbed: set[str]) -> Any:
    """What a plain pickle holds: containers, numbers, tensors (also for NumPy arrays), records.

    Args:
        stubbed: gets the names of the classes and functions that became inert.

    Raises:
        UnpicklingError: the stream is malformed.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's, about storages that it makes itself
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
    """Module and name of all that a pickle, or the first few in a row, refers to.

    Raises:
        UnpicklingError: the stream is malformed.
    """
    file, found = io.BytesIO(data), set[tuple[str, str]]()
    for _ in range(pickles):
        unpickler = _Names(file)
        unpickler.found = found
        unpickler.load()
    return found


def _load_torch(data: bytes, stubbed: set[str]) -> Any:
    room: Mapping[str, int] | int = len(data)
    if data.startswith(b"PK"):
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = archive.infolist()
        room = {e.filename.partition("/data/")[2]: e.file_size for e in entries}
        # What torch.load finds in the archive counts: it would run a TorchScript program.
        if "constants.pkl" in torch._C.PyTorchFileReader(io.BytesIO(data)).get_all_records():
            raise UnpicklingError("it is a TorchScript archive")
    unpickler = _unpickler(stubbed, room)
    module = types.SimpleNamespace(
        __name__="msbreg.checkpoints.read.unpickle",
        Unpickler=unpickler,
        load=lambda file, **options: unpickler(file, **options).load(),
    )
    return torch.load(
        io.BytesIO(data),
        map_location="cpu",
        pickle_module=module,
        weights_only=False,  # with True, PyTorch would use its own unpickler instead of ours
        mmap=False,
        encoding="latin1",  # Python 2's strings may hold any byte
    )


def _unpickler(stubbed: set[str], room: Mapping[str, int] | int) -> type[InertUnpickler]:
    """A class, since ``torch.load`` derives its own from it."""
    attributes = {"allowed": _ALLOWED, "stubbed": stubbed, "room": room}
    return type("Unpickler", (InertUnpickler,), attributes)


def _storage_from_bytes(data: Any) -> Any:
    """A storage as a plain pickle holds it: a whole legacy file within, which is read like any."""
    storage = _load_torch(data, set()) if type(data) is bytes else None
    if not isinstance(storage, torch.storage.TypedStorage | torch.UntypedStorage):
        raise wrong("a storage")
    return storage


_ALLOWED = {
    **ALLOWED,
    ("torch.storage", "_load_from_bytes"): Constructor(_storage_from_bytes),
}
