"""Small files that would need far more memory or time than their size allows: each ends in an error."""

import io
import json
import pickle
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable

import numpy as np
import pytest
import torch

from msbreg.checkpoints.read import read_file
from msbreg.checkpoints.read.rebuild import Budget
from tests.msbreg.checkpoints.read import read_within_limits
from tests.msbreg.checkpoints.read.pickled import FORMS, legacy_with, write, zip_with

MIB = 2**20
PRIME = 2**61 - 1  # an integer hashes to its remainder


def text(size: int) -> bytes:
    return b"X" + struct.pack("<I", size) + b"a" * size


def data(size: int) -> bytes:
    return b"B" + struct.pack("<I", size) + b"a" * size


def encoded() -> bytes:
    """Bytes as protocol 2 writes them."""
    return b"c_codecs\nencode\n" + text(4 * MIB) + b"X\6\0\0\0latin1\x86R"


def number(value: int) -> bytes:
    encoded = pickle.encode_long(value)
    return b"\x8a" + bytes([len(encoded)]) + encoded


def repeated(function: bytes, argument: bytes, times: int, more: bytes = b"") -> bytes:
    """A list of calls of a function with one memoized argument."""
    one = b"h\0h\1" + (more + b"t" if more else b"\x85") + b"R"
    one = one.replace(b"h\0h\1", b"h\0(h\1") if more else one
    return b"\x80\x02" + function + b"q\0" + argument + b"q\1](" + one * times + b"e."


def colliding_keys(count: int, key: Callable[[int], bytes]) -> bytes:
    pairs = b"".join(key(i) + b"N" for i in range(1, count + 1))
    return b"\x80\x02}(" + pairs + b"u."


def list_of(count: int) -> bytes:
    return b"](" + b"".join(b"J" + struct.pack("<i", i) for i in range(count)) + b"e"


def shared_dicts(depth: int) -> bytes:
    """Each dict contains the previous one twice: 2**depth leaves in a few kilobytes."""
    levels = b"".join(b"}(X\1\0\0\0ah\0X\1\0\0\0bh\0uq\0" for _ in range(depth))
    return b"\x80\x02}q\0" + levels + b"."


def two_tables() -> bytes:
    """A zip in which Python and PyTorch find different tables of contents."""
    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", b"\x80\x02N.")
        archive.writestr("a/version", "3\n")
        archive.writestr("a/data/0", bytes(400 * MIB))
    first = bomb.getvalue()
    end = first.rfind(b"PK\5\6")
    (size, start) = struct.unpack("<II", first[end + 12 : end + 20])
    second = zip_with(b"\x80\x02N.")
    # Both tables of contents have the same size; otherwise Python would notice.
    assert size > 0
    changed = bytearray(first[:end] + second)
    tail = len(changed) - 22
    changed[tail + 16 : tail + 20] = struct.pack("<I", start)
    return bytes(changed)


def storage_in_bytes(size: int) -> bytes:
    buffer = io.BytesIO()
    torch.save(torch.zeros(size).untyped_storage(), buffer, _use_new_zipfile_serialization=False)
    return b"B" + struct.pack("<I", len(buffer.getvalue())) + buffer.getvalue()


F4 = b"cnumpy\ndtype\nX\2\0\0\0f4\x85R"
TENSOR = b"ctorch._utils\n_rebuild_tensor_v2\n"
ONE_STORAGE = b"((X\7\0\0\0storagectorch\nFloatStorage\nX\1\0\0\x000X\3\0\0\0cpuK\2tQK\0"
BOMBS: dict[str, Callable[[], bytes]] = {
    "bytearray": lambda: repeated(b"cbuiltins\nbytearray\n", data(4 * MIB), 3000),
    "bytearray in a zip": lambda: zip_with(repeated(b"cbuiltins\nbytearray\n", encoded(), 3000)),
    "bytearray in an old file": lambda: legacy_with(
        repeated(b"cbuiltins\nbytearray\n", encoded(), 3000)
    ),
    "bytearray of a number": lambda: zip_with(b"\x80\x02cbuiltins\nbytearray\nJ\0\0\0\x7f\x85R."),
    "FloatTensor of a number": lambda: zip_with(b"\x80\x02ctorch\nFloatTensor\nJ\0\0\0\x7f\x85R."),
    "encode": lambda: repeated(b"c_codecs\nencode\n", text(4 * MIB), 3000),
    "frombuffer": lambda: (
        b"\x80\x02cnumpy.core.numeric\n_frombuffer\nq\0"
        + data(4 * MIB)
        + b"q\1"
        + F4
        + b"q\2]("
        + b"h\0(h\1h\2J\0\0\x10\0\x85X\1\0\0\0CtR" * 3000
        + b"e."
    ),
    "storages in bytes": lambda: repeated(
        b"ctorch.storage\n_load_from_bytes\n", storage_in_bytes(MIB), 3000
    ),
    "BUILD": lambda: (
        b"\x80\x02cargparse\nNamespace\n)\x81}("
        + b"".join(b"J" + struct.pack("<i", i) + b"N" for i in range(60_000))
        + b"uq\0"
        + b"bh\0" * 100_000
        + b"b."
    ),
    "set": lambda: repeated(b"cbuiltins\nset\n", list_of(100_000), 100_000),
    "OrderedDict": lambda: (
        b"\x80\x02ccollections\nOrderedDict\nq\0]("
        + b"".join(b"J" + struct.pack("<i", i) + b"N\x86" for i in range(60_000))
        + b"eq\1]("
        + b"h\0h\1\x85R" * 100_000
        + b"e."
    ),
    "colliding integers": lambda: colliding_keys(60_000, lambda i: number(i * PRIME)),
    "colliding tuples": lambda: colliding_keys(60_000, lambda i: number(i * PRIME) + b"\x85"),
    "colliding memo": lambda: (
        b"\x80\x02N" + b"".join(b"p%d\n" % (i * PRIME) for i in range(60_000)) + b"."
    ),
    "colliding elements": lambda: (
        b"\x80\x04\x8f(" + b"".join(number(i * PRIME) for i in range(60_000)) + b"\x90."
    ),
    "shared dicts": lambda: zip_with(shared_dicts(300)),
    "two tables of contents": two_tables,
    "an integer of 20 MB": lambda: b"\x80\x02\x8b" + struct.pack("<i", 20 * MIB) + b"a" * 20 * MIB + b".",
    "a decimal of 20 MB": lambda: zip_with(b"\x80\x02I" + b"9" * 20 * MIB + b"\n."),
    "a long decimal of 20 MB": lambda: b"\x80\x02L" + b"9" * 20 * MIB + b"L\n.",
    "names": lambda: b"\x80\x04" + text(MIB) + b"q\0](" + b"h\0h\0\x93" * 100_000 + b"e.",
    "arguments": lambda: (
        b"\x80\x04cm\nf\nq\0(" + b"N" * MIB + b"tq\1}X\1\0\0\0aNsq\2](" + b"h\0h\1h\2\x92" * 100_000 + b"e."
    ),
    "empty sets": lambda: b"\x80\x04(" + b"\x8f" * 8 * MIB + b"l.",
    "marks": lambda: b"\x80\x04" + b"(" * 8 * MIB + b".",
    "records": lambda: b"\x80\x04cm\nf\nq\0](" + b"h\0)R" * MIB + b"e.",
    "tensors": lambda: zip_with(
        b"\x80\x02" + TENSOR + b"q\0" + ONE_STORAGE + b"K\1\x85K\1\x85\x89Ntq\1"
        + b"](" + b"h\0h\1R" * MIB + b"e.",
        _0=bytes(8),
    ),
    "large views": lambda: zip_with(
        b"\x80\x02" + TENSOR + ONE_STORAGE + b"J\0\0\0\x7f\x85K\0\x85\x89NtR.", _0=bytes(8)
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """The outcome of each bomb in a process with limited time and memory."""
    folder = tmp_path_factory.mktemp("bombs")
    files = []
    for number_of_bomb, bomb in enumerate(BOMBS.values()):
        files.append(folder / str(number_of_bomb))
        files[-1].write_bytes(bomb())
    command = [sys.executable, read_within_limits.__file__, *map(str, files)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return dict(zip(BOMBS, json.loads(done.stdout), strict=True))


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_rejected_with_a_message(outcomes, name):
    outcome, message = outcomes[name]
    assert outcome == "UserError"
    assert "cannot be loaded: " in message
    assert "MemoryError" not in message


def test_the_budget_grows_with_the_size():
    budget = Budget(10)
    budget.spend(2**28 + 160)
    with pytest.raises(
        pickle.UnpicklingError, match="far more memory or time than a file of its size"
    ):
        budget.spend(1)


@pytest.mark.parametrize("form", FORMS)
def test_a_legitimate_file_of_many_small_objects_is_read(tmp_path, form):
    """Histories, sampler states, identifiers: all far below the limits."""
    content = {
        "history": [{"step": i, "loss": i / 7, "lr": (0.1, 0.2)} for i in range(20_000)],
        "ids": {f"image_{i}.jpg": i for i in range(50_000)},
        "by_id": {2**47 + i: [i] for i in range(20_000)},
        "pairs": {(i, i + 1): i for i in range(500)},
        "scalars": [np.float32(i) for i in range(2_000)],
        "tensors": [torch.ones(1) for _ in range(200)],
    }
    found = read_file(write(tmp_path / "x", content, form)).content
    assert found == content
