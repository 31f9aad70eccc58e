"""Our own checkpoints: saved atomically, loaded without running code, matched key by key."""

import hashlib
import io
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from msbreg.backbones import BACKBONES, ResNet, build_backbone
from msbreg.errors import UserError
from msbreg.record import write_atomically

SCHEMA = 1
KIND = "msbreg-pretrain"
PREFIX = "backbone."  # of the backbone's tensors in the online network's state


@dataclass(frozen=True)
class Provenance:
    """Where a backbone's weights come from; goes into every record.

    Attributes:
        source: path as given, or ``random``.
        family: layout of the file (``msbreg``), or ``random``.
        encoder: which of the file's networks was taken.
        arch: name in BACKBONES.
        sha256: of the file; of the initial weights for a random network.
        tensors: number of tensors taken.
        image_size: side in pixels of the views it was pre-trained on; 0 if unknown.
        details: method, epoch and step, of a pre-trained one.
    """

    source: str
    family: str
    encoder: str
    arch: str
    sha256: str
    tensors: int
    image_size: int
    details: dict[str, Any]

    def as_dict(self) -> dict[str, Any]:
        """For a record."""
        return asdict(self)


def save_checkpoint(path: Path, content: Mapping[str, Any]) -> None:
    """Write a checkpoint; until it is whole on the disk, the previous one stays.

    Raises:
        UserError: it cannot be written (disk full, no permission).
    """
    buffer = io.BytesIO()
    torch.save({"schema": SCHEMA, "kind": KIND, **content}, buffer)
    try:
        write_atomically(path, buffer.getvalue())
    except OSError as error:
        kept = "the previous checkpoint is untouched" if path.exists() else "there was none before"
        size = buffer.getbuffer().nbytes / 2**20
        raise UserError(
            f"cannot write {path} ({size:.1f} MiB): {error.strerror or error}; {kept}.\n"
            "Free some space or give another --output; the same command then continues."
        ) from error


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint of ours, with ``weights_only=True``: no code in the file is run.

    Raises:
        UserError: no such file, not a checkpoint, cut short, or of another schema.
    """
    return _load(path)[0]


def _load(path: Path) -> tuple[dict[str, Any], str]:
    """The content and the sha256 of one reading of the file, which may be replaced meanwhile."""
    content, sha256 = _read(path)
    if not isinstance(content, dict) or content.get("kind") != KIND:
        found = (
            sorted(map(str, content))[:6] if isinstance(content, dict) else type(content).__name__
        )
        raise UserError(
            f"{path} matches no known checkpoint layout.\n"
            f"  msbreg  wants the entry kind = {KIND!r}    found {found}"
        )
    if content.get("schema") != SCHEMA:
        raise UserError(
            f"{path} has checkpoint schema {content.get('schema')!r}; this version reads {SCHEMA}"
        )
    return content, sha256


def load_backbone(path: Path, *, arch: str | None = None) -> tuple[ResNet, Provenance]:
    """The online backbone of a checkpoint, in eval mode, every tensor accounted for.

    Args:
        arch: the architecture that is expected; None takes the one that the file names.

    Raises:
        UserError: the file cannot be read, holds another architecture than asked, or its tensors do
            not match that architecture one to one (the message lists the difference).
    """
    content, sha256 = _load(path)
    found = content.get("arch")
    if found not in BACKBONES:
        raise UserError(
            f"{path} holds the unknown architecture {found!r}; known: {', '.join(BACKBONES)}"
        )
    if arch is not None and arch != found:
        raise UserError(
            f"{path} holds a {found}, but a {arch} was asked for.\n"
            f"Leave out --arch, or give the checkpoint of a {arch}."
        )
    backbone = build_backbone(found)
    state = {
        key.removeprefix(PREFIX): value
        for key, value in content["online"].items()
        if key.startswith(PREFIX)
    }
    load_exactly(backbone, state, path)
    provenance = Provenance(
        source=str(path),
        family="msbreg",
        encoder="online backbone",
        arch=found,
        sha256=sha256,
        tensors=len(state),
        image_size=content["image_size"],
        details={
            k: content["config"][k] for k in ("method", "views", "epochs", "batch_size", "seed")
        }
        | {"step": content["step"], "steps": content["steps"]},
    )
    return backbone.eval(), provenance


def random_backbone(arch: str, *, seed: int, image_size: int = 0) -> tuple[ResNet, Provenance]:
    """The untrained twin: the same architecture as initialised by ``seed``, in eval mode."""
    backbone = build_backbone(arch, seed=seed)
    digest = hashlib.sha256()
    for value in backbone.state_dict().values():
        digest.update(value.numpy().tobytes())
    provenance = Provenance(
        source="random",
        family="random",
        encoder="initialisation",
        arch=arch,
        sha256=digest.hexdigest(),
        tensors=len(backbone.state_dict()),
        image_size=image_size,
        details={"seed": seed},
    )
    return backbone.eval(), provenance


def load_exactly(module: torch.nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
    """Load a state whose keys and shapes are the module's own, or fail with the difference.

    Raises:
        UserError: a tensor is missing, left over, of another shape, or not finite.
    """
    wanted = module.state_dict()
    lines = [
        f"  missing      {key} {tuple(wanted[key].shape)}" for key in wanted if key not in state
    ]
    for key, value in state.items():
        if key not in wanted:
            lines.append(f"  unexpected   {key} {tuple(value.shape)}")
        elif value.shape != wanted[key].shape:
            lines.append(
                f"  wrong shape  {key} {tuple(value.shape)}, expected {tuple(wanted[key].shape)}"
            )
        elif value.is_floating_point() and not torch.isfinite(value).all():
            lines.append(f"  not finite   {key}: {int((~torch.isfinite(value)).sum())} values")
    if lines:
        shown = lines[:12] + ([f"  ... and {len(lines) - 12} more"] if len(lines) > 12 else [])
        raise UserError(f"{path} does not fit {type(module).__name__}:\n" + "\n".join(shown))
    module.load_state_dict(state)


def file_sha256(path: Path) -> str:
    """Of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read(path: Path) -> tuple[Any, str]:
    if not path.is_file():
        state = "is a folder" if path.is_dir() else "does not exist"
        raise UserError(
            f"checkpoint {path} {state}; expected a file such as runs/pretrain/checkpoint.pth"
        )
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"checkpoint {path} cannot be read: {error.strerror}") from error
    try:
        content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:
        size, start = len(data), data[:4]
        if start[:2] == b"PK":
            reason = "it is cut short or damaged, or holds objects other than plain tensors"
        else:
            reason = f"it starts with {start!r}, which is no checkpoint that PyTorch saves today"
        first_line = str(error).strip().partition("\n")[0]
        raise UserError(
            f"{path} ({size} bytes) cannot be loaded: {reason}.\n"
            f"PyTorch says: {first_line[:200]}\n"
            "Copy it again, or give another checkpoint."
        ) from error
    return content, hashlib.sha256(data).hexdigest()
