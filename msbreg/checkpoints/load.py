"""Load backbones from any checkpoint without running its code; save and load our own checkpoints."""

import hashlib
import io
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from msbreg.backbones.backbone_interface import Backbone
from msbreg.backbones.networks import build_network
from msbreg.backbones.resnet import ResNet
from msbreg.backbones.spec import Provenance
from msbreg.backbones.trained import signs_of_no_training
from msbreg.backbones.twin import random_backbone
from msbreg.backbones.vit_architectures import TIMM, check_backbone_name, no_resnet
from msbreg.checkpoints.layouts.match import identify
from msbreg.checkpoints.layouts.rows_libraries import KIND
from msbreg.checkpoints.layouts.stated import SCHEMA
from msbreg.checkpoints.layouts.tensors import all_finite, overview
from msbreg.checkpoints.read import FileContent, read_file
from msbreg.run.errors import UserError
from msbreg.run.files import write_atomically

__all__ = [
    "Provenance",
    "file_sha256",
    "load_backbone",
    "load_checkpoint",
    "load_exactly",
    "load_resnet",
    "random_backbone",
    "save_checkpoint",
]

log = logging.getLogger("msbreg")
ONCE = {"once": True}
"""Many runs of one process read the same file; the terminal shows such a line once, the logs each time."""


def save_checkpoint(path: Path, content: Mapping[str, Any]) -> None:
    """Write a checkpoint atomically: the previous file is kept until the new one is complete.

    Raises:
        RunFailed: the file cannot be written (disk full, no permission).
    """
    buffer = io.BytesIO()
    torch.save({"schema": SCHEMA, "kind": KIND, **content}, buffer)
    write_atomically(path, buffer.getvalue())


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read one of our own checkpoints to resume from it. No code in the file is run.

    Raises:
        UserError: the file is missing, truncated, not one of our checkpoints, or has another schema.
    """
    content = read_file(path).content
    if not isinstance(content, dict) or content.get("kind") != KIND:
        raise UserError(
            f"{path} is not a checkpoint of pretrain/run.py. It contains: {overview(content)}.\n"
            f"Expected the entry kind = {KIND!r}."
        )
    if content.get("schema") != SCHEMA:
        raise UserError(
            f"{path} has checkpoint schema {content.get('schema')!r}; this version reads {SCHEMA}"
        )
    return content


def load_backbone(
    path: str | os.PathLike[str],
    *,
    arch: str | None = None,
    encoder: str | None = None,
    family: str | None = None,
    trust_pickle: bool = False,
) -> tuple[Backbone, Provenance]:
    """Load the backbone of any checkpoint whose layout is in FORMATS.

    Every key of the file is accounted for. Returns the backbone in eval mode and its provenance;
    ``provenance.spec`` describes the input that the network expects.

    Args:
        path: path of the checkpoint.
        arch: expected architecture; None accepts any. ``timm/NAME`` is a model of timm, whose file is in
            timm's layout.
        encoder: which network to use if the file contains several; None uses the family's default.
        family: the layout, if the file matches more than one.
        trust_pickle: also read files that contain objects; none of their code is run.

    Raises:
        UserError: the file cannot be read, matches no layout or several, contains another
            architecture or encoder than requested, or its tensors do not match the network one to
            one (the message lists the differences).
    """
    path = Path(path)
    if arch is not None:
        check_backbone_name(arch)
    file = read_file(path, trust_pickle=trust_pickle)
    if arch is not None and arch.startswith(TIMM):
        return _load_timm_model(file, arch, encoder, family)
    found = identify(file, arch=arch, encoder=encoder, family=family)
    backbone = build_network(found.spec, initialize=False)
    load_exactly(backbone, found.state, path)
    try:
        signs = signs_of_no_training(found.state)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    for sign in signs:
        log.warning("%s: %s", path, sign, extra=ONCE)
    provenance = Provenance(
        source=str(path),
        family=found.row.name,
        encoder=found.encoder.name,
        spec=found.spec,
        sha256=file.sha256,
        tensors=found.tensor_count,
        details=dict(found.details),
        notes=found.notes,
        warnings=signs,
    )
    return backbone.eval(), provenance


def _load_timm_model(
    file: FileContent, arch: str, encoder: str | None, family: str | None
) -> tuple[Backbone, Provenance]:
    """Load a file in timm's layout into the model that ``timm/NAME`` names."""
    from msbreg.backbones.timm_model import TimmModel, timm_spec  # import all of timm's models
    from msbreg.checkpoints.timm_file import timm_weights

    if family not in (None, "timm"):
        raise UserError(f"--family is {family}, but --arch {arch} expects a file in timm's layout")
    backbone, spec = TimmModel(arch), timm_spec(arch)
    weights = timm_weights(file, backbone, encoder)
    load_exactly(backbone.model, weights.state, file.path)
    signs = signs_of_no_training(backbone.model.state_dict())
    for sign in signs:
        log.warning("%s: %s", file.path, sign, extra=ONCE)
    provenance = Provenance(
        source=str(file.path),
        family="timm",
        encoder=weights.encoder,
        spec=spec,
        sha256=file.sha256,
        tensors=len(weights.state),
        details={},
        notes=weights.notes,
        warnings=signs,
    )
    return backbone.eval(), provenance


def load_resnet(
    path: str | os.PathLike[str],
    *,
    arch: str | None = None,
    encoder: str | None = None,
    family: str | None = None,
    trust_pickle: bool = False,
) -> tuple[ResNet, Provenance]:
    """Like ``load_backbone``, for the tasks that only ResNets can do.

    Raises:
        UserError: as ``load_backbone``; or the file contains another network, and the message says which
            tasks accept it.
    """
    backbone, provenance = load_backbone(
        path, arch=arch, encoder=encoder, family=family, trust_pickle=trust_pickle
    )
    if not isinstance(backbone, ResNet):
        raise UserError(f"{path}: {no_resnet(provenance.arch)}")
    return backbone, provenance


def load_exactly(module: torch.nn.Module, state: Mapping[str, Tensor], source: Path | str) -> None:
    """Load a state dict with exactly the module's keys and shapes, or list the differences.

    Raises:
        UserError: a tensor is missing, unexpected, has the wrong shape, or is not finite.
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
        elif value.is_floating_point() and not all_finite(value):
            lines.append(f"  not finite   {key}: {int((~torch.isfinite(value)).sum())} values")
    if lines:
        shown = lines[:12] + ([f"  ... and {len(lines) - 12} more"] if len(lines) > 12 else [])
        raise UserError(f"{source} does not fit {type(module).__name__}:\n" + "\n".join(shown))
    module.load_state_dict(state)


def file_sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
