"""Checkpoints: ours saved atomically, anybody's loaded without running code, matched key by key."""

import hashlib
import io
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from msbreg.backbones.resnet import ResNet, build_backbone, stride_in_1x1
from msbreg.backbones.spec import IMAGENET, Normalization
from msbreg.backbones.trained import signs_of_no_training
from msbreg.checkpoints.layouts.content import overview
from msbreg.checkpoints.layouts.match import identify
from msbreg.checkpoints.layouts.rows_libraries import KIND
from msbreg.checkpoints.layouts.stated import SCHEMA
from msbreg.checkpoints.read import read_file
from msbreg.run.errors import UserError
from msbreg.run.files import write_atomically

log = logging.getLogger("msbreg")


@dataclass(frozen=True)
class Provenance:
    """Where a backbone's weights come from; goes into every record.

    Attributes:
        source: path as given, or ``random``.
        family: row of FORMATS, or ``random``.
        encoder: which of the file's networks was taken.
        arch: name in BACKBONES.
        sha256: of the file; of the initial weights for a random network.
        tensors: number of tensors taken.
        image_size: side in pixels of the views it was pre-trained on; 0 if unknown.
        normalization: of the input; every protocol and conversion applies it.
        stride: where a bottleneck has stride 2: in its 3x3 (v1.5) or its first 1x1 (v1) convolution.
        details: method, epoch and step, where the file says them.
        notes: what a reader of a score should know of these weights.
        warnings: signs that the network is not trained.
    """

    source: str
    family: str
    encoder: str
    arch: str
    sha256: str
    tensors: int
    image_size: int
    normalization: Normalization
    stride: Literal["3x3", "1x1"]
    details: dict[str, Any]
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """For a record."""
        return asdict(self)


def save_checkpoint(path: Path, content: Mapping[str, Any]) -> None:
    """Write a checkpoint; until it is whole on the disk, the previous one stays.

    Raises:
        RunFailed: it cannot be written (disk full, no permission).
    """
    buffer = io.BytesIO()
    torch.save({"schema": SCHEMA, "kind": KIND, **content}, buffer)
    write_atomically(path, buffer.getvalue())


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint of ours, to continue from it; no code in the file is run.

    Raises:
        UserError: no such file, not a checkpoint, cut short, not ours, or of another schema.
    """
    content = read_file(path).content
    if not isinstance(content, dict) or content.get("kind") != KIND:
        raise UserError(
            f"{path} is no checkpoint of pretrain/run.py: it holds {overview(content)}.\n"
            f"Expected the entry kind = {KIND!r}."
        )
    if content.get("schema") != SCHEMA:
        raise UserError(
            f"{path} has checkpoint schema {content.get('schema')!r}; this version reads {SCHEMA}"
        )
    return content


def load_backbone(
    path: Path,
    *,
    arch: str | None = None,
    encoder: str | None = None,
    family: str | None = None,
    trust_pickle: bool = False,
) -> tuple[ResNet, Provenance]:
    """The backbone of any checkpoint that FORMATS knows, in eval mode, every key accounted for.

    Args:
        arch: the architecture that is expected; None takes the file's.
        encoder: which network, where a file holds several; None takes the family's rule.
        family: the layout, where a file fits more than one.
        trust_pickle: read files that hold more than tensors; still none of their code is run.

    Raises:
        UserError: the file cannot be read, fits no layout or several, holds another architecture or
            encoder than asked, or its tensors do not match the network one to one (the message lists
            the difference).
    """
    file = read_file(path, trust_pickle=trust_pickle)
    found = identify(file, arch=arch, encoder=encoder, family=family)
    backbone = build_backbone(found.arch)
    if found.stride == "1x1":
        stride_in_1x1(backbone)
    load_exactly(backbone, found.state, path)
    try:
        signs = signs_of_no_training(found.state)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    for sign in signs:
        log.warning("%s: %s", path, sign)
    provenance = Provenance(
        source=str(path),
        family=found.row.name,
        encoder=found.encoder.name,
        arch=found.arch,
        sha256=file.sha256,
        tensors=found.taken,
        image_size=found.image_size,
        normalization=found.normalization,
        stride=found.stride,
        details=dict(found.details),
        notes=found.notes,
        warnings=signs,
    )
    return backbone.eval(), provenance


def random_backbone(arch: str, *, seed: int, image_size: int = 0) -> tuple[ResNet, Provenance]:
    """The untrained twin: the same architecture as initialized by ``seed``, in eval mode."""
    backbone = build_backbone(arch, seed=seed)
    digest = hashlib.sha256()
    for value in backbone.state_dict().values():
        digest.update(value.numpy().tobytes())
    provenance = Provenance(
        source="random",
        family="random",
        encoder="initialization",
        arch=arch,
        sha256=digest.hexdigest(),
        tensors=len(backbone.state_dict()),
        image_size=image_size,
        normalization=IMAGENET,
        stride="3x3",
        details={"seed": seed},
        warnings=("an untrained network, as asked for",),
    )
    return backbone.eval(), provenance


def load_exactly(module: torch.nn.Module, state: Mapping[str, Tensor], source: Path | str) -> None:
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
        raise UserError(f"{source} does not fit {type(module).__name__}:\n" + "\n".join(shown))
    module.load_state_dict(state)


def file_sha256(path: Path) -> str:
    """Of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
