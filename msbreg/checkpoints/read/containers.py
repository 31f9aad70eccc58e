"""Checkpoint containers: recognize them by their first bytes and load their content.

``torch.save`` writes a zip archive with a pickle and one entry per storage; until version 1.6 it
wrote several pickles followed by the storages. Detectron2, VISSL and JAX projects write plain
pickles, Hugging Face writes safetensors.
"""

import io
import itertools
import json
import re
import tarfile
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, BinaryIO

import numpy as np
import safetensors.torch
import torch

from msbreg.checkpoints.read.rebuild import ALLOWED, Budget, Constructor, Storage, bad_arguments
from msbreg.checkpoints.read.unpickle import InertUnpickler, Truncated, resolve
from msbreg.run.errors import UserError

HEAD_BYTES = 1024  # enough to recognize every container
# torch.save's legacy format begins with a pickle of this number; a pickle writes it little-endian.
_MAGIC_NUMBER, _LEGACY_PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
_TORCH_LEGACY = _MAGIC_NUMBER.to_bytes(10, "little")
# Protocols 2 and later; then a dict, a list or an instance in protocols 0 and 1.
_PICKLES = (b"\x80", b"(dp", b"(lp", b"}q\0", b"]q\0", b"ccollections\n", b"ccopy_reg\n")
_TABLE_END = 0xDB4775248B80FB57.to_bytes(8, "little")  # LevelDB table, such as TensorFlow's index
_EXPECTED = "a checkpoint saved by PyTorch, a pickle such as Detectron2's, or safetensors"
_RECOPY = "Copy or download it again."
_MODEL_NAMES = ("model.safetensors", "pytorch_model.bin", "checkpoint.pth", "model.pth")
_MODEL_SUFFIXES = (".safetensors", ".pth", ".pt", ".ckpt", ".bin", ".pkl", ".torch", ".tar")
_COMPRESSED = (
    (b"\x1f\x8b", "gzip", "gunzip or tar xzf"),
    (b"\xfd7zXZ\x00", "xz", "unxz or tar xJf"),
    (b"BZh", "bzip2", "bunzip2 or tar xjf"),
    (b"\x28\xb5\x2f\xfd", "zstd", "unzstd"),
    (b"7z\xbc\xaf\x27\x1c", "7z", "7z x"),
    (b"Rar!", "rar", "unrar x"),
)
_OTHER_FORMATS = (
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file, such as Keras weights"),
    (b"\x93NUMPY", "a single NumPy array"),
    (b"GGUF", "a GGUF file of a language model"),
    (b"\x89PNG", "an image"),
    (b"\xff\xd8\xff", "an image"),
    (b"%PDF", "a PDF"),
)
_TENSORFLOW = (
    "Convert it to PyTorch's format first (for SimCLR: github.com/tonylins/simclr-converter), then\n"
    "pass the converted file."
)


def load_error(path: Path, size: int, reason: str, remedy: str) -> UserError:
    """The error for a file that is not a checkpoint we can load."""
    return UserError(f"{path} ({size} bytes) cannot be loaded: {reason}.\n{remedy}")


def container_of(path: Path, head: bytes, size: int, file: BinaryIO) -> str:
    """``torch zip``, ``torch legacy``, ``pickle`` or ``safetensors``.

    Args:
        head: the first HEAD_BYTES bytes of the file.
        size: length of the whole file in bytes.
        file: the open file, read further if its first bytes are inconclusive.

    Raises:
        UserError: the file is none of these; the message says what it is and what to do.
    """
    if not head:
        raise load_error(path, size, "it is empty", _RECOPY)
    if head.startswith(b"PK"):
        return "torch zip"
    length = int.from_bytes(head[:8], "little")
    if head[8:9] == b"{" and length < 2**32:
        return "safetensors"
    if head.startswith(b"\x80") and _TORCH_LEGACY in head[:32]:
        return "torch legacy"
    if head.startswith(_PICKLES):
        return "pickle"
    raise load_error(path, size, *_diagnose(path, head, size, file))


def _diagnose(path: Path, head: bytes, size: int, file: BinaryIO) -> tuple[str, str]:
    """What a file in an unsupported format is, and what to do."""
    if head.startswith(b"version https://git-lfs"):
        found = re.search(rb"\nsize (\d+)", head)
        stated = f" of {found[1].decode()} bytes" if found else ""
        return (
            f"it is a Git LFS pointer to a file{stated}, not the file",
            f"Run `git lfs pull` in {path.parent}, then the same command again.",
        )
    if head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<"):
        return (
            "it is a web page, not a checkpoint: the download returned a login or error page",
            "Download it again from the URL of the file itself.",
        )
    for magic, name, command in _COMPRESSED:
        if head.startswith(magic):
            return (
                f"it is compressed ({name})",
                f"Decompress it first ({command}), then pass the resulting file.",
            )
    if head[257:262] == b"ustar":
        return _diagnose_tar(file)
    for magic, name in _OTHER_FORMATS:
        if head.startswith(magic):
            return f"it is {name}", f"Expected {_EXPECTED}: convert it, or pass another file."
    file.seek(max(size - 8, 0))
    numbered = re.search(r"\.data-\d{5}-of-\d{5}$|\.ckpt(-\d+)?\.(index|meta)$", path.name)
    if numbered or file.read(8) == _TABLE_END:
        return "it is part of a TensorFlow checkpoint", _TENSORFLOW
    if all(byte in b"\t\r\n" or 32 <= byte < 127 for byte in head):
        shown = head[:60].decode().split("\n")[0]
        return f"it is a text file that begins with {shown!r}", f"Expected {_EXPECTED}."
    return f"it starts with {head[:4]!r}", f"Expected {_EXPECTED}."


def _diagnose_tar(file: BinaryIO) -> tuple[str, str]:
    file.seek(0)
    try:
        with tarfile.open(fileobj=file, mode="r:") as archive:
            names = [entry.name for entry in itertools.islice(archive, 1000)]
    except (tarfile.TarError, OSError):
        names = []
    if {"storages", "tensors", "pickle"} <= set(names):
        return (
            "it is a tar archive of storages, the format of the first PyTorch versions",
            "If you trust the file, convert it with an old PyTorch and pass the new file:\n"
            "  torch.save(torch.load(FILE), NEW_FILE)",
        )
    return "it is a tar archive" + _contents_note(
        names
    ), "Extract it first (tar xf), then pass the file inside."


def _contents_note(names: Iterable[str]) -> str:
    files = [name for name in names if not name.endswith("/")]
    shown = ", ".join(repr(name)[1:-1][:60] for name in files[:4])
    more = f" and {len(files) - 4} more" if len(files) > 4 else ""
    return f" of other files ({shown}{more})" if files else ""


def folder_message(path: Path) -> str:
    """The error message for a folder: which file in it to pass instead."""
    names = sorted(file.name for file in path.iterdir() if file.is_file())
    known = [n for n in _MODEL_NAMES if n in names]
    known += [n for n in names if n.endswith(_MODEL_SUFFIXES) and n not in known]
    if known:
        more = f" ({len(known)} such files)" if len(known) > 1 else ""
        return f"checkpoint {path} is a folder.\nPass the file inside it: {path / known[0]}{more}"
    if "saved_model.pb" in names or any(name.endswith(".index") for name in names):
        return f"checkpoint {path} is a folder with a TensorFlow checkpoint.\n{_TENSORFLOW}"
    return f"checkpoint {path} is a folder; expected a file such as runs/pretrain/checkpoint.pth"


def missing_message(path: Path) -> str:
    """The error message for a path without a file: what the user may have meant."""
    if re.match(r"[a-z0-9]+:/", str(path)):
        return f"checkpoint {path} is a URL; expected a file: download it first"
    if path.with_name(path.name + ".index").exists():
        return f"checkpoint {path} is the prefix of a TensorFlow checkpoint.\n{_TENSORFLOW}"
    return f"checkpoint {path} does not exist; expected a file such as runs/pretrain/checkpoint.pth"


# ------------------------------------------------------------------------------- zip of torch.save


def check_zip(path: Path, data: bytes) -> None:
    """Check that a zip archive is a consistent ``torch.save`` file.

    Raises:
        UserError: it is truncated, inconsistent, a TorchScript program or an archive of other files,
            or would expand to far more than its size.
    """
    size = len(data)
    try:
        names, unpacked = _check_entries(data)
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        end = data.rfind(b"PK\x05\x06", -(2**16 + 22))  # a record of 22 bytes and a comment
        if end < 0 or size - end < 22:
            reason = f"it is truncated: after {size} bytes the end of the archive is missing"
            raise load_error(path, size, reason, _RECOPY) from error
        raise load_error(path, size, f"its archive is damaged ({error})", _RECOPY) from error
    inside = {name.partition("/")[2] for name in names}
    if "constants.pkl" in inside or any(name.startswith("code/") for name in inside):
        raise load_error(
            path,
            size,
            "it is a TorchScript archive, a program rather than weights",
            "If you trust it, save its weights with PyTorch and pass the new file:\n"
            "  torch.save(torch.jit.load(FILE).state_dict(), NEW_FILE)",
        )
    if "data.pkl" not in inside:
        if names and all(name.endswith(".npy") for name in names):
            reason, remedy = "it is an archive of NumPy arrays (npz)", f"Expected {_EXPECTED}."
        else:
            reason = "it is a zip archive" + _contents_note(names)
            remedy = "Extract it first (unzip), then pass the checkpoint inside."
        raise load_error(path, size, reason, remedy)
    if unpacked > 16 * size + 2**20:
        reason = f"it would expand to {unpacked} bytes"
        raise load_error(path, size, reason, "Pass a checkpoint that you trust.")


def _check_entries(data: bytes) -> tuple[list[str], int]:
    """The entry names of a zip archive, and their total uncompressed size in bytes.

    Raises:
        BadZipFile: it has no table of contents, its first entry does not start at byte 0 (so the
            file may contain a second archive), or entries overlap or share a name.
    """
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        entries = sorted(archive.infolist(), key=lambda entry: entry.header_offset)
        end, table = 0, archive.start_dir
    if entries and entries[0].header_offset != 0:
        raise zipfile.BadZipFile("its table of contents does not cover the whole file")
    for entry in entries:
        if entry.header_offset < end:
            raise zipfile.BadZipFile("its entries overlap")
        end = _start(data, entry) + entry.compress_size
    if end > table:
        raise zipfile.BadZipFile("its entries overlap the table of contents")
    names = [entry.filename for entry in entries]
    if len(set(names)) < len(names):
        raise zipfile.BadZipFile("two entries have the same name")
    return names, sum(entry.file_size for entry in entries)


def _start(data: bytes, entry: zipfile.ZipInfo) -> int:
    """Offset of an entry's content, after its 30-byte header, its name and its extra field."""
    header = data[entry.header_offset : entry.header_offset + 30]
    if len(header) < 30 or header[:4] != b"PK\x03\x04":
        raise zipfile.BadZipFile("an entry has no header")
    lengths = int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
    return entry.header_offset + 30 + lengths


def _content(data: bytes, entry: zipfile.ZipInfo, budget: Budget) -> memoryview:
    """The uncompressed bytes of an entry. Its CRC is ignored, since torch.save can omit it."""
    start = _start(data, entry)
    packed = memoryview(data)[start : start + entry.compress_size]
    if entry.flag_bits & 1 or entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise UnpicklingError(
            f"entry {entry.filename!r} is encrypted or uses an unsupported compression"
        )
    if entry.compress_type == zipfile.ZIP_DEFLATED:
        budget.spend(entry.file_size)
        packed = memoryview(zlib.decompressobj(-15).decompress(packed, max(entry.file_size, 1)))
    if len(packed) != entry.file_size:
        raise Truncated(f"entry {entry.filename!r} has {len(packed)} of {entry.file_size} bytes")
    return packed


def load_zip(data: bytes, stubbed: set[str]) -> Any:
    """The content of an archive that passed ``check_zip``; see ``load_pickle``."""
    budget = Budget(len(data))
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        entries = {entry.filename: entry for entry in archive.infolist()}
    root = next(name.partition("/")[0] for name in entries if name.partition("/")[2] == "data.pkl")
    order = entries.get(f"{root}/byteorder")
    if order is not None and bytes(_content(data, order, budget)) != b"little":
        raise UnpicklingError("it was written on a big-endian machine")
    storages: dict[str, torch.UntypedStorage] = {}

    def storage(key: str, size: int) -> torch.UntypedStorage:
        entry = entries.get(f"{root}/data/{key}")
        if entry is None or entry.file_size < size:
            raise Truncated(f"a storage of {size} bytes is larger than its data in the file")
        if key not in storages:
            content = _content(data, entry, budget)
            storages[key] = _allocate(len(content), budget)
            _fill(storages[key], content)
        return storages[key]

    pickled = bytes(_content(data, entries[f"{root}/data.pkl"], budget))
    unpickler = _Unpickler(io.BytesIO(pickled), budget, stubbed, storage)
    return resolve(unpickler.load(), stubbed, budget)


def _allocate(size: int, budget: Budget) -> torch.UntypedStorage:
    budget.spend(size)
    return torch.UntypedStorage(size)


def _fill(storage: torch.UntypedStorage, content: memoryview) -> None:
    if len(content):
        values = torch.empty(0, dtype=torch.uint8).set_(storage)
        np.copyto(values.numpy(), np.frombuffer(content, np.uint8))


# ---------------------------------------------------------------- pickles, with and without storages


def load_legacy(data: bytes, stubbed: set[str], budget: Budget | None = None) -> Any:
    """The content of a file in the format of torch.save before 1.6; see ``load_pickle``.

    Five pickles (magic number, version, machine, content, storage keys) are followed by the storages,
    each as its number of elements (8 bytes, little-endian) and its bytes.
    """
    budget = budget or Budget(len(data))
    file = io.BytesIO(data)
    storages: dict[str, torch.UntypedStorage] = {}
    room = len(data)

    def load(stubs: set[str]) -> Any:
        return _Unpickler(file, budget, stubs, storage).load()

    def storage(key: str, size: int) -> torch.UntypedStorage:
        nonlocal room
        room -= 0 if key in storages else size
        if room < 0 or (key in storages and storages[key].nbytes() < size):
            raise Truncated(f"a storage of {size} bytes is larger than its data in the file")
        if key not in storages:
            storages[key] = _allocate(size, budget)
        return storages[key]

    number, version, machine = load(set()), load(set()), load(set())
    if (number, version) != (_MAGIC_NUMBER, _LEGACY_PROTOCOL):
        raise UnpicklingError("it does not begin with the magic number and version of torch.save")
    if not isinstance(machine, dict) or machine.get("little_endian") is not True:
        raise UnpicklingError("it was written on a big-endian machine")
    content, keys = load(stubbed), load(set())
    if not isinstance(keys, list) or not all(type(key) is str for key in keys):
        raise UnpicklingError("its list of storages is malformed")
    if set(keys) != set(storages):
        raise UnpicklingError("its list of storages does not match its content")
    for key in keys:
        size = storages[key].nbytes()
        start = file.seek(8, io.SEEK_CUR)
        if start + size > len(data):
            raise Truncated("its last storage is incomplete")
        numel = int.from_bytes(data[start - 8 : start], "little")
        if numel > size or (size and (numel == 0 or size % numel)):
            raise UnpicklingError(f"a storage of {size} bytes has {numel} elements")
        _fill(storages[key], memoryview(data)[start : file.seek(size, io.SEEK_CUR)])
    return resolve(content, stubbed, budget)


def load_pickle(data: bytes, stubbed: set[str]) -> Any:
    """The content of a plain pickle: containers, numbers, tensors and inert records.

    NumPy arrays become tensors.

    Args:
        stubbed: receives the names of the classes and functions that became inert records.

    Raises:
        UnpicklingError: the stream is malformed or exceeds its budget.
    """
    budget = Budget(len(data))
    return resolve(_Unpickler(io.BytesIO(data), budget, stubbed).load(), stubbed, budget)


def _storage_from_bytes(budget: Budget, data: Any) -> Storage:
    """A storage inside a plain pickle: a complete legacy file, read like any other."""
    values = load_legacy(data, set(), budget) if type(data) is bytes else None
    if not isinstance(values, torch.Tensor):
        raise bad_arguments("a storage")
    return Storage(values.untyped_storage(), values.dtype)


class _Unpickler(InertUnpickler):
    allowed = ALLOWED | {
        ("torch.storage", "_load_from_bytes"): Constructor(_storage_from_bytes, spends=True)
    }


# ------------------------------------------------------------------------------------- safetensors


def load_safetensors(data: bytes) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file: header length, JSON header, tensor bytes."""
    start = 8 + int.from_bytes(data[:8], "little")
    if start > len(data):
        raise Truncated("its header is incomplete")
    Budget(len(data)).spend(64 * start)
    header = json.loads(data[8:start])
    ends = [entry["data_offsets"][1] for key, entry in header.items() if key != "__metadata__"]
    if max(ends, default=0) > len(data) - start:
        raise Truncated("its last tensor is incomplete")
    return safetensors.torch.load(data), header.get("__metadata__") or {}
