"""What a file is by its first bytes, and what to do with one that is no checkpoint."""

import io
import itertools
import re
import tarfile
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

from msbreg.run.errors import UserError

HEAD = 1024  # bytes that tell
# torch.save's legacy format begins with a pickle of this number; a pickle writes it little-endian.
_TORCH_LEGACY = 0x1950A86A20F9469CFC6C.to_bytes(10, "little")
# Protocol 2 and later; before, a dict, a list or an instance.
_PICKLES = (b"\x80", b"(dp", b"(lp", b"}q\0", b"]q\0", b"ccollections\n", b"ccopy_reg\n")
_TABLE_END = 0xDB4775248B80FB57.to_bytes(8, "little")  # LevelDB tables, TensorFlow's index
_WANTED = "a checkpoint saved by PyTorch, a pickle such as Detectron2's, or safetensors"
MODEL_NAMES = ("model.safetensors", "pytorch_model.bin", "checkpoint.pth", "model.pth")
MODEL_SUFFIXES = (".safetensors", ".pth", ".pt", ".ckpt", ".bin", ".pkl", ".torch", ".tar")
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


def container_of(path: Path, head: bytes, size: int, file: BinaryIO) -> str:
    """``torch zip``, ``torch legacy``, ``pickle`` or ``safetensors``.

    Args:
        head: the first HEAD bytes of the file, of which ``size`` is the length.
        file: to look at more of it where the beginning does not tell.

    Raises:
        UserError: it is none of these; the message says what it is instead, and what to do.
    """

    def refused(reason: str, remedy: str) -> UserError:
        return UserError(f"{path} ({size} bytes) cannot be loaded: {reason}.\n{remedy}")

    if not head:
        raise refused("it is empty", "Copy or download it again.")
    if head.startswith(b"PK"):
        return "torch zip"
    length = int.from_bytes(head[:8], "little")
    if head[8:9] == b"{" and length < 2**32:
        return "safetensors"
    if head.startswith(b"\x80") and _TORCH_LEGACY in head[:32]:
        return "torch legacy"
    if head.startswith(_PICKLES):
        return "pickle"
    if head.startswith(b"version https://git-lfs"):
        found = re.search(rb"\nsize (\d+)", head)
        stated = f" of {int(found[1])} bytes" if found else ""
        raise refused(
            f"it is a Git LFS pointer to a file{stated}, not the file",
            f"Run `git lfs pull` in {path.parent}, then the same command again.",
        )
    if head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<"):
        raise refused(
            "it is a web page, not a checkpoint: the download gave a login or error page",
            "Download it again, from the address of the file itself.",
        )
    for magic, name, command in _PACKED:
        if head.startswith(magic):
            raise refused(
                f"it is packed ({name})",
                f"Unpack it first ({command}), and give the file that comes out.",
            )
    if head[257:262] == b"ustar":
        raise refused(*_tar(file))
    for magic, name in _OTHERS:
        if head.startswith(magic):
            raise refused(f"it is {name}", f"Expected {_WANTED}: convert it, or give another.")
    file.seek(max(size - 8, 0))
    numbered = re.search(r"\.data-\d{5}-of-\d{5}$|\.ckpt(-\d+)?\.(index|meta)$", path.name)
    if numbered or file.read(8) == _TABLE_END:
        raise refused("it is part of a TensorFlow checkpoint", _TENSORFLOW)
    if all(byte in b"\t\r\n" or 32 <= byte < 127 for byte in head):
        shown = head[:60].decode().split("\n")[0]
        raise refused(f"it is text, beginning {shown!r}", f"Expected {_WANTED}.")
    raise refused(f"it starts with {head[:4]!r}", f"Expected {_WANTED}.")


_TENSORFLOW = (
    "Convert it to PyTorch's format first (for SimCLR: github.com/tonylins/simclr-converter), and\n"
    "give the converted file."
)


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


def refuse_archive(path: Path, data: bytes) -> None:
    """Return if a zip archive is a file of ``torch.save`` that can be loaded.

    Raises:
        UserError: it is cut short, a TorchScript program, an archive of files, or would unpack to
            far more than its size.
    """

    def refused(reason: str, remedy: str) -> UserError:
        return UserError(f"{path} ({len(data)} bytes) cannot be loaded: {reason}.\n{remedy}")

    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        end = data.rfind(b"PK\x05\x06", -(2**16 + 22))  # a record of 22 bytes and a comment
        if end < 0 or len(data) - end < 22:
            raise refused(
                f"it is cut short: after {len(data)} bytes the end of the archive is missing",
                "Copy or download it again.",
            ) from error
        raise refused(f"its archive is damaged ({error})", "Copy or download it again.") from error
    names = [entry.filename for entry in entries]
    inside = {name.partition("/")[2] for name in names}
    if "constants.pkl" in inside or any(name.startswith("code/") for name in inside):
        raise refused(
            "it is a TorchScript archive, a program rather than weights",
            "If you trust it, save its weights with PyTorch, and give the new file:\n"
            "  torch.save(torch.jit.load(FILE).state_dict(), NEW_FILE)",
        )
    if "data.pkl" not in inside:
        if names and all(name.endswith(".npy") for name in names):
            raise refused("it is an archive of NumPy arrays (npz)", f"Expected {_WANTED}.")
        raise refused(
            "it is a zip archive" + _of(names),
            "Unpack it first (unzip), and give the checkpoint inside.",
        )
    unpacked = sum(entry.file_size for entry in entries)
    if unpacked > 16 * len(data) + 2**20:
        raise refused(f"it would unpack to {unpacked} bytes", "Give a checkpoint that you trust.")


def _of(names: Iterable[str]) -> str:
    files = [name for name in names if not name.endswith("/")]
    shown = ", ".join(repr(name)[1:-1][:60] for name in files[:4])
    more = f" and {len(files) - 4} more" if len(files) > 4 else ""
    return f" of other files ({shown}{more})" if files else ""


def advice_for_folder(path: Path) -> str:
    """What to give instead of a folder."""
    names = sorted(file.name for file in path.iterdir() if file.is_file())
    known = [n for n in MODEL_NAMES if n in names]
    known += [n for n in names if n.endswith(MODEL_SUFFIXES) and n not in known]
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
