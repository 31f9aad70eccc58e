"""The containers of checkpoints: which one a file is, by its first bytes, and what is inside.

``torch.save`` writes a zip archive with a pickle and one entry per storage; until version 1.6 it
wrote several pickles with the storages after them. Detectron2, VISSL and JAX projects write plain
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

from msbreg.checkpoints.read.rebuild import ALLOWED, Budget, Constructor, Storage, wrong
from msbreg.checkpoints.read.unpickle import InertUnpickler, Truncated, settle
from msbreg.run.errors import UserError

HEAD = 1024  # bytes that tell
# torch.save's legacy format begins with a pickle of this number; a pickle writes it little-endian.
_MAGIC_NUMBER, _LEGACY_PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
_TORCH_LEGACY = _MAGIC_NUMBER.to_bytes(10, "little")
# Protocol 2 and later; before, a dict, a list or an instance.
_PICKLES = (b"\x80", b"(dp", b"(lp", b"}q\0", b"]q\0", b"ccollections\n", b"ccopy_reg\n")
_TABLE_END = 0xDB4775248B80FB57.to_bytes(8, "little")  # LevelDB tables, TensorFlow's index
_EXPECTED = "a checkpoint saved by PyTorch, a pickle such as Detectron2's, or safetensors"
_AGAIN = "Copy or download it again."
_MODEL_NAMES = ("model.safetensors", "pytorch_model.bin", "checkpoint.pth", "model.pth")
_MODEL_SUFFIXES = (".safetensors", ".pth", ".pt", ".ckpt", ".bin", ".pkl", ".torch", ".tar")
_PACKED = (
    (b"\x1f\x8b", "gzip", "gunzip or tar xzf"),
    (b"\xfd7zXZ\x00", "xz", "unxz or tar xJf"),
    (b"BZh", "bzip2", "bunzip2 or tar xjf"),
    (b"\x28\xb5\x2f\xfd", "zstd", "unzstd"),
    (b"7z\xbc\xaf\x27\x1c", "7z", "7z x"),
    (b"Rar!", "rar", "unrar x"),
)
_OTHERS = (
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file, as Keras saves weights"),
    (b"\x93NUMPY", "a single NumPy array"),
    (b"GGUF", "a GGUF file of a language model"),
    (b"\x89PNG", "an image"),
    (b"\xff\xd8\xff", "an image"),
    (b"%PDF", "a PDF"),
)
_TENSORFLOW = (
    "Convert it to PyTorch's format first (for SimCLR: github.com/tonylins/simclr-converter), and\n"
    "give the converted file."
)


def refused(path: Path, size: int, reason: str, remedy: str) -> UserError:
    """The error for a file that is not a checkpoint we can load."""
    return UserError(f"{path} ({size} bytes) cannot be loaded: {reason}.\n{remedy}")


def container_of(path: Path, head: bytes, size: int, file: BinaryIO) -> str:
    """``torch zip``, ``torch legacy``, ``pickle`` or ``safetensors``.

    Args:
        head: the first HEAD bytes of the file, of which ``size`` is the length.
        file: to look at more of it where the beginning does not tell.

    Raises:
        UserError: it is none of these; the message says what it is instead, and what to do.
    """
    if not head:
        raise refused(path, size, "it is empty", _AGAIN)
    if head.startswith(b"PK"):
        return "torch zip"
    length = int.from_bytes(head[:8], "little")
    if head[8:9] == b"{" and length < 2**32:
        return "safetensors"
    if head.startswith(b"\x80") and _TORCH_LEGACY in head[:32]:
        return "torch legacy"
    if head.startswith(_PICKLES):
        return "pickle"
    raise refused(path, size, *_what_it_is(path, head, size, file))


def _what_it_is(path: Path, head: bytes, size: int, file: BinaryIO) -> tuple[str, str]:
    """What a file of none of our containers is, and what to do."""
    if head.startswith(b"version https://git-lfs"):
        found = re.search(rb"\nsize (\d+)", head)
        stated = f" of {found[1].decode()} bytes" if found else ""
        return (
            f"it is a Git LFS pointer to a file{stated}, not the file",
            f"Run `git lfs pull` in {path.parent}, then the same command again.",
        )
    if head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<"):
        return (
            "it is a web page, not a checkpoint: the download gave a login or error page",
            "Download it again, from the address of the file itself.",
        )
    for magic, name, command in _PACKED:
        if head.startswith(magic):
            return (
                f"it is packed ({name})",
                f"Unpack it first ({command}), and give the file that comes out.",
            )
    if head[257:262] == b"ustar":
        return _tar(file)
    for magic, name in _OTHERS:
        if head.startswith(magic):
            return f"it is {name}", f"Expected {_EXPECTED}: convert it, or give another file."
    file.seek(max(size - 8, 0))
    numbered = re.search(r"\.data-\d{5}-of-\d{5}$|\.ckpt(-\d+)?\.(index|meta)$", path.name)
    if numbered or file.read(8) == _TABLE_END:
        return "it is part of a TensorFlow checkpoint", _TENSORFLOW
    if all(byte in b"\t\r\n" or 32 <= byte < 127 for byte in head):
        shown = head[:60].decode().split("\n")[0]
        return f"it is text, beginning {shown!r}", f"Expected {_EXPECTED}."
    return f"it starts with {head[:4]!r}", f"Expected {_EXPECTED}."


def _tar(file: BinaryIO) -> tuple[str, str]:
    file.seek(0)
    try:
        with tarfile.open(fileobj=file, mode="r:") as archive:
            names = [entry.name for entry in itertools.islice(archive, 1000)]
    except (tarfile.TarError, OSError):
        names = []
    if {"storages", "tensors", "pickle"} <= set(names):
        return (
            "it is a tar of storages, as the first versions of PyTorch wrote",
            "With an old PyTorch, and if you trust the file:\n"
            "  torch.save(torch.load(FILE), NEW_FILE)\nand give the new file.",
        )
    return "it is a tar archive" + _of(names), "Unpack it first (tar xf), and give the file inside."


def _of(names: Iterable[str]) -> str:
    files = [name for name in names if not name.endswith("/")]
    shown = ", ".join(repr(name)[1:-1][:60] for name in files[:4])
    more = f" and {len(files) - 4} more" if len(files) > 4 else ""
    return f" of other files ({shown}{more})" if files else ""


def advice_for_folder(path: Path) -> str:
    """What to give instead of a folder."""
    names = sorted(file.name for file in path.iterdir() if file.is_file())
    known = [n for n in _MODEL_NAMES if n in names]
    known += [n for n in names if n.endswith(_MODEL_SUFFIXES) and n not in known]
    if known:
        more = f" ({len(known)} such files)" if len(known) > 1 else ""
        return f"checkpoint {path} is a folder.\nGive the file in it: {path / known[0]}{more}"
    if "saved_model.pb" in names or any(name.endswith(".index") for name in names):
        return f"checkpoint {path} is a folder with a TensorFlow checkpoint.\n{_TENSORFLOW}"
    return f"checkpoint {path} is a folder; expected a file such as runs/pretrain/checkpoint.pth"


def advice_for_missing(path: Path) -> str:
    """What may have been meant by a path where there is no file."""
    if re.match(r"[a-z0-9]+:/", str(path)):
        return f"checkpoint {path} is an address; expected a file: download it first"
    if path.with_name(path.name + ".index").exists():
        return f"checkpoint {path} is the prefix of a TensorFlow checkpoint.\n{_TENSORFLOW}"
    return f"checkpoint {path} does not exist; expected a file such as runs/pretrain/checkpoint.pth"


# ------------------------------------------------------------------------------- zip of torch.save


def check_zip(path: Path, data: bytes) -> None:
    """Return if a zip archive is a consistent file of ``torch.save``.

    Raises:
        UserError: it is cut short, contradicts itself, is a TorchScript program or an archive of
            files, or would unpack to far more than its size.
    """
    size = len(data)
    try:
        names, unpacked = _check_entries(data)
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        end = data.rfind(b"PK\x05\x06", -(2**16 + 22))  # a record of 22 bytes and a comment
        if end < 0 or size - end < 22:
            reason = f"it is cut short: after {size} bytes the end of the archive is missing"
            raise refused(path, size, reason, _AGAIN) from error
        raise refused(path, size, f"its archive is damaged ({error})", _AGAIN) from error
    inside = {name.partition("/")[2] for name in names}
    if "constants.pkl" in inside or any(name.startswith("code/") for name in inside):
        raise refused(
            path,
            size,
            "it is a TorchScript archive, a program rather than weights",
            "If you trust it, save its weights with PyTorch, and give the new file:\n"
            "  torch.save(torch.jit.load(FILE).state_dict(), NEW_FILE)",
        )
    if "data.pkl" not in inside:
        if names and all(name.endswith(".npy") for name in names):
            reason, remedy = "it is an archive of NumPy arrays (npz)", f"Expected {_EXPECTED}."
        else:
            reason = "it is a zip archive" + _of(names)
            remedy = "Unpack it first (unzip), and give the checkpoint inside."
        raise refused(path, size, reason, remedy)
    if unpacked > 16 * size + 2**20:
        reason = f"it would unpack to {unpacked} bytes"
        raise refused(path, size, reason, "Give a checkpoint that you trust.")


def _check_entries(data: bytes) -> tuple[list[str], int]:
    """The names in a zip archive, and the bytes of all of them unpacked.

    Raises:
        BadZipFile: it has no table of contents, one that does not start with the file's first
            byte (there may be a second one then), or entries of one name or in one place.
    """
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        entries = sorted(archive.infolist(), key=lambda entry: entry.header_offset)
        end, table = 0, archive.start_dir
    if entries and entries[0].header_offset != 0:
        raise zipfile.BadZipFile("its table of contents is not that of the whole file")
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
    """Where an entry's content starts, after a header of 30 bytes, its name and its extra field."""
    header = data[entry.header_offset : entry.header_offset + 30]
    if len(header) < 30 or header[:4] != b"PK\x03\x04":
        raise zipfile.BadZipFile("an entry has no header")
    lengths = int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
    return entry.header_offset + 30 + lengths


def _content(data: bytes, entry: zipfile.ZipInfo, budget: Budget) -> memoryview:
    """The unpacked bytes of an entry. Its CRC is ignored, since torch.save can omit it."""
    start = _start(data, entry)
    packed = memoryview(data)[start : start + entry.compress_size]
    if entry.flag_bits & 1 or entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise UnpicklingError(f"entry {entry.filename!r} is encrypted or packed in an unknown way")
    if entry.compress_type == zipfile.ZIP_DEFLATED:
        budget.spend(entry.file_size)
        packed = memoryview(zlib.decompressobj(-15).decompress(packed, max(entry.file_size, 1)))
    if len(packed) != entry.file_size:
        raise Truncated(f"entry {entry.filename!r} has {len(packed)} of {entry.file_size} bytes")
    return packed


def load_zip(data: bytes, stubbed: set[str]) -> Any:
    """What an archive that ``check_zip`` passed holds; see ``load_pickle``."""
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
            raise Truncated(f"a storage of {size} bytes is larger than what the file holds")
        if key not in storages:
            content = _content(data, entry, budget)
            storages[key] = _allocate(len(content), budget)
            _fill(storages[key], content)
        return storages[key]

    pickled = bytes(_content(data, entries[f"{root}/data.pkl"], budget))
    unpickler = _Unpickler(io.BytesIO(pickled), budget, stubbed, storage)
    return settle(unpickler.load(), stubbed, budget)


def _allocate(size: int, budget: Budget) -> torch.UntypedStorage:
    budget.spend(size)
    return torch.UntypedStorage(size)


def _fill(storage: torch.UntypedStorage, content: memoryview) -> None:
    if len(content):
        values = torch.empty(0, dtype=torch.uint8).set_(storage)
        np.copyto(values.numpy(), np.frombuffer(content, np.uint8))


# ---------------------------------------------------------------- pickles, with and without storages


def load_legacy(data: bytes, stubbed: set[str], budget: Budget | None = None) -> Any:
    """What a file in torch.save's format before 1.6 holds; see ``load_pickle``.

    Five pickles (a number, a version, the machine, the content, the keys of storages) are followed
    by each storage: the number of its elements (8 bytes, little-endian), and its bytes.
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
            raise Truncated(f"a storage of {size} bytes is larger than what the file holds")
        if key not in storages:
            storages[key] = _allocate(size, budget)
        return storages[key]

    number, version, machine = load(set()), load(set()), load(set())
    if (number, version) != (_MAGIC_NUMBER, _LEGACY_PROTOCOL):
        raise UnpicklingError("it does not begin with the number and version of torch.save")
    if not isinstance(machine, dict) or machine.get("little_endian") is not True:
        raise UnpicklingError("it was written on a big-endian machine")
    content, keys = load(stubbed), load(set())
    if not isinstance(keys, list) or not all(type(key) is str for key in keys):
        raise UnpicklingError("its list of storages is malformed")
    if set(keys) != set(storages):
        raise UnpicklingError("its list of storages is not that of its content")
    for key in keys:
        size = storages[key].nbytes()
        start = file.seek(8, io.SEEK_CUR)
        if start + size > len(data):
            raise Truncated("its last storage has no end")
        numel = int.from_bytes(data[start - 8 : start], "little")
        if numel > size or (size and (numel == 0 or size % numel)):
            raise UnpicklingError(f"a storage of {size} bytes has {numel} elements")
        _fill(storages[key], memoryview(data)[start : file.seek(size, io.SEEK_CUR)])
    return settle(content, stubbed, budget)


def load_pickle(data: bytes, stubbed: set[str]) -> Any:
    """What a plain pickle holds: containers, numbers, tensors (also for NumPy arrays), records.

    Args:
        stubbed: gets the names of the classes and functions that became inert.

    Raises:
        UnpicklingError: the stream is malformed, or costs more than its size allows.
    """
    budget = Budget(len(data))
    return settle(_Unpickler(io.BytesIO(data), budget, stubbed).load(), stubbed, budget)


def _storage_from_bytes(budget: Budget, data: Any) -> Storage:
    """A storage as a plain pickle holds it: a whole legacy file, which is read like any other."""
    values = load_legacy(data, set(), budget) if type(data) is bytes else None
    if not isinstance(values, torch.Tensor):
        raise wrong("a storage")
    return Storage(values.untyped_storage(), values.dtype)


class _Unpickler(InertUnpickler):
    allowed = ALLOWED | {
        ("torch.storage", "_load_from_bytes"): Constructor(_storage_from_bytes, spends=True)
    }


# ------------------------------------------------------------------------------------- safetensors


def load_safetensors(data: bytes) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Tensors and metadata; a JSON header with its length before it says where the tensors are."""
    start = 8 + int.from_bytes(data[:8], "little")
    if start > len(data):
        raise Truncated("its header has no end")
    Budget(len(data)).spend(64 * start)
    header = json.loads(data[8:start])
    ends = [entry["data_offsets"][1] for key, entry in header.items() if key != "__metadata__"]
    if max(ends, default=0) > len(data) - start:
        raise Truncated("its last tensor has no end")
    return safetensors.torch.load(data), header.get("__metadata__") or {}
