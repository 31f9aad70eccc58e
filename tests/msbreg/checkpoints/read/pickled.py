"""Write foreign files: objects of classes that no longer exist, and calls of any function."""

import contextlib
import importlib
import io
import pickle
import sys
import types
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from msbreg.checkpoints.read import read_file
from msbreg.run.errors import UserError

FORMS = ("zip", "legacy", "plain")


class Call:
    """Pickled as a call of a function; callable, so that its result can be pickled as called."""

    def __init__(self, function: Any, *args: Any) -> None:
        self.function, self.args = function, args

    def __reduce__(self):
        return self.function, self.args

    def __call__(self):
        raise AssertionError("only to be pickled")


def write(path: Path, content: Any, form: str) -> Path:
    """Save in the current torch.save format, in the one before 1.6, or as a plain pickle."""
    if form == "plain":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=form == "zip")
    return path


def message(path: Path, **options: Any) -> str:
    """The error message for a file that is rejected."""
    with pytest.raises(UserError) as caught:
        read_file(path, **options)
    return str(caught.value)


def zip_with(pickled: bytes, **storages: bytes) -> bytes:
    """The bytes of a torch.save file that contains this pickle."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/version", "3\n")
        for key, data in storages.items():
            archive.writestr(f"archive/data/{key.removeprefix('_')}", data)
    return buffer.getvalue()


def legacy_with(pickled: bytes) -> bytes:
    """The bytes of a file in the legacy format that contains this pickle and no storages."""
    before = (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})
    return b"".join(pickle.dumps(part, 2) for part in before) + pickled + pickle.dumps([], 2)


@contextlib.contextmanager
def foreign_classes(module: str, *classes: type) -> Iterator[None]:
    """Make classes picklable under a module that does not exist afterwards."""
    parts = module.split(".")
    names = [".".join(parts[: i + 1]) for i in range(len(parts))]
    saved = {name: sys.modules.pop(name, None) for name in names}
    for name in names:
        sys.modules[name] = types.ModuleType(name)
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], child, sys.modules[name])
    for one in classes:
        one.__module__, one.__qualname__ = module, one.__name__
        setattr(sys.modules[module], one.__name__, one)
    try:
        yield
    finally:
        for name, before in saved.items():
            del sys.modules[name]
            if before is not None:
                sys.modules[name] = before
        importlib.invalidate_caches()
