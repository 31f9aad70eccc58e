"""Reading a checkpoint file of any origin, without running code in it."""

import hashlib
import io
import json
import os
import stat
import warnings
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import safetensors.torch
import torch

from msbreg.checkpoints.read.arrays import settle
from msbreg.checkpoints.read.inert import printable
from msbreg.checkpoints.read.magic import (
    HEAD,
    advice_for_folder,
    advice_for_missing,
    container_of,
    refuse_archive,
)
from msbreg.checkpoints.read.refused import (
    TRUST,
    explained,
    only_pytorchs_safe_names,
    refused_names,
)
from msbreg.checkpoints.read.unpickle import Truncated, load_plain, load_torch
from msbreg.run.errors import UserError

AGAIN = "Copy or download it again, or give another checkpoint."
SIDECAR_OF = (".safetensors", ".bin")  # what Hugging Face keeps beside its settings


@dataclass(frozen=True)
class FileContent:
    """What one reading of a checkpoint file gave.

    Attributes:
        path: as given.
        content: usually a dict; tensors lie on the CPU and need no gradient, NumPy's arrays are
            tensors too.
        sha256: of the bytes that the content was read from.
        container: ``torch zip``, ``torch legacy``, ``pickle`` or ``safetensors``.
        stubbed: names of the classes and functions that became inert records; only with
            ``trust_pickle``.
        metadata: of a safetensors file.
        sidecar: ``config.json`` beside a safetensors or bin file, and ``preprocessor_config.json``
            under ``preprocessor``; empty where there is none.
    """

    path: Path
    content: Any
    sha256: str
    container: str
    stubbed: tuple[str, ...]
    metadata: dict[str, str]
    sidecar: dict[str, Any]


def read_file(path: Path, *, trust_pickle: bool = False) -> FileContent:
    """Read a checkpoint, by what its bytes are and not by its name.

    Args:
        trust_pickle: keep the tensors of a file that holds objects, by replacing all objects with
            inert records (``msbreg.checkpoints.read.unpickle``). Code in the file is run in neither case.

    Raises:
        UserError: the file is missing, is no checkpoint, is damaged, or holds objects and
            ``trust_pickle`` is not given.
    """
    data, container = _bytes_of(path)
    stubbed: set[str] = set()
    metadata: dict[str, str] = {}
    try:
        if container == "safetensors":
            content, metadata = _load_safetensors(data)
        elif container == "pickle":
            content = load_plain(data, stubbed=stubbed)
        elif trust_pickle:
            content = load_torch(data, stubbed=stubbed)
        else:
            content = _load_weights(data)
    except Exception as error:
        raise _why(path, data, container, error, trust_pickle) from error
    if stubbed and not trust_pickle:
        raise _refusal(path, data, sorted(stubbed))
    return FileContent(
        path=path,
        content=content,
        sha256=hashlib.sha256(data).hexdigest(),
        container=container,
        stubbed=tuple(sorted(stubbed)),
        metadata=metadata,
        sidecar=_sidecar(path),
    )


def _bytes_of(path: Path) -> tuple[bytes, str]:
    """The whole file, read once, if its beginning is that of a container we read."""
    try:
        mode = os.stat(path).st_mode
        if stat.S_ISDIR(mode):
            raise UserError(advice_for_folder(path))
        if not stat.S_ISREG(mode):
            raise UserError(f"checkpoint {path} is a device or a pipe; expected a file")
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            container = container_of(path, file.read(HEAD), size, file)
            file.seek(0)
            data = file.read()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(advice_for_missing(path)) from error
    except OSError as error:
        raise UserError(
            f"checkpoint {path} cannot be read: {error.strerror or error}.\n"
            "Make it readable for you, or give another checkpoint."
        ) from error
    if container == "torch zip":
        refuse_archive(path, data)
    return data, container


def _load_weights(data: bytes) -> Any:
    """By PyTorch's own safe reader; its warnings are about how it works inside."""
    with warnings.catch_warnings(), only_pytorchs_safe_names():
        warnings.simplefilter("ignore")
        content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True, mmap=False)
    return settle(content, set())


def _load_safetensors(data: bytes) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Tensors and metadata; a JSON header with its length in front tells where they lie."""
    start = 8 + int.from_bytes(data[:8], "little")
    if start > len(data):
        raise Truncated("its header has no end")
    header = json.loads(data[8:start])
    ends = [entry["data_offsets"][1] for key, entry in header.items() if key != "__metadata__"]
    if max(ends, default=0) > len(data) - start:
        raise Truncated("its last tensor has no end")
    return safetensors.torch.load(data), header.get("__metadata__") or {}


def _sidecar(path: Path) -> dict[str, Any]:
    if path.suffix not in SIDECAR_OF:
        return {}
    found = _json(path.with_name("config.json"))
    preprocessor = _json(path.with_name("preprocessor_config.json"))
    return found | ({"preprocessor": preprocessor} if preprocessor else {})


def _json(path: Path) -> dict[str, Any]:
    """Of a file that need not be there, nor be ours."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _why(
    path: Path, data: bytes, container: str, error: Exception, trust_pickle: bool
) -> UserError:
    """The message for a file whose reader failed."""
    if container.startswith("torch") and not trust_pickle:
        try:
            names = refused_names(data)
        except UnpicklingError as malformed:
            error = malformed
        else:
            if names:
                return _refusal(path, data, names)
            if isinstance(error, UnpicklingError):
                return UserError(
                    f"{path} ({len(data)} bytes) cannot be loaded: it is pickled in a way that "
                    f"PyTorch's safe reader does not know.\n{TRUST}"
                )
    if trust_pickle and os.environ.get("TORCH_FORCE_WEIGHTS_ONLY_LOAD", "0") != "0":
        return UserError(
            f"{path} ({len(data)} bytes) cannot be loaded: the variable "
            "TORCH_FORCE_WEIGHTS_ONLY_LOAD forbids\nother unpicklers than PyTorch's own.\n"
            "Unset it to read the file with --trust-pickle: no code in it is run."
        )
    first_line = printable(str(error).strip().partition("\n")[0])
    if isinstance(error, Truncated | EOFError) or "unexpected EOF" in first_line:
        reason = "it is cut short"
    else:
        reason = f"it is damaged, or no {container} file that can be read"
    return UserError(
        f"{path} ({len(data)} bytes) cannot be loaded: {reason}.\n"
        f"The reader says: {first_line or type(error).__name__}\n{AGAIN}"
    )


def _refusal(path: Path, data: bytes, names: list[str]) -> UserError:
    number = "an object" if len(names) == 1 else f"objects of {len(names)} kinds"
    return UserError(
        f"{path} ({len(data)} bytes) cannot be loaded: besides tensors it holds {number}, which "
        f"only code can make.\n{explained(names)}\n{TRUST}"
    )
