"""The weights in a file of timm's layout, for the model that the user names (``--arch timm/NAME``)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from msbreg.backbones.timm_model import TimmModel
from msbreg.checkpoints.layouts.match import contents
from msbreg.checkpoints.layouts.tensors import Entry, matches, overview, state_at
from msbreg.checkpoints.read import FileContent
from msbreg.run.errors import UserError

ENTRIES: dict[str, Entry] = {
    "file": (),
    "state_dict": ("state_dict",),
    "average": ("state_dict_ema",),
    "model": ("model",),
}
"""Encoder -> where timm and programs that use it store a state dict; the first in the file is the default."""


@dataclass(frozen=True)
class TimmWeights:
    """The weights for a model of timm.

    Attributes:
        encoder: name of the entry that they are from.
        state: key -> tensor, without the classifier; not yet compared with the model.
        notes: what a user should know.
    """

    encoder: str
    state: dict[str, Tensor]
    notes: tuple[str, ...]


def timm_weights(file: FileContent, backbone: TimmModel, encoder: str | None) -> TimmWeights:
    """The state dict of a file; the tensors of the classifier that timm names are dropped.

    Args:
        encoder: name in ENTRIES; None is the first that the file has.

    Raises:
        UserError: the entry is unknown, or the file has no such state dict.
    """
    name, state = _state(file, encoder)
    stated = backbone.config.get("classifier") or ()
    heads = (stated,) if isinstance(stated, str) else tuple(stated)
    patterns, own = tuple(f"{head}.*" for head in heads), set(backbone.model.state_dict())
    dropped = [key for key in state if key not in own and matches(key, patterns)]
    kept = {key: value for key, value in state.items() if key not in dropped}
    floats = {str(v.dtype).removeprefix("torch.") for v in kept.values() if v.is_floating_point()}
    other = ", ".join(sorted(floats - {"float32"}))
    notes = [f"dropped the classifier: {', '.join(dropped)}"] if dropped else []
    notes += [f"weights were stored as {other} and converted to float32"] if other else []
    return TimmWeights(name, kept, tuple(notes))


def _state(file: FileContent, encoder: str | None) -> tuple[str, dict[str, Tensor]]:
    """Name and state dict of the requested entry, or of the first that has only tensors."""
    if encoder is not None and encoder not in ENTRIES:
        raise UserError(
            f"--encoder is {encoder!r}; for a model of timm, expected {', '.join(ENTRIES)}"
        )
    content: Mapping[str, Any] = contents(file)
    for name in [encoder] if encoder else ENTRIES:
        state, problem = state_at(content, (ENTRIES[name],))
        if problem:
            raise UserError(f"{file.path}: expected {problem}")
        if state and all(isinstance(value, Tensor) for value in state.values()):
            return name, state
    raise UserError(
        f"{file.path} has no state dict of timm"
        + (f" in {encoder!r}" if encoder else "")
        + f". It contains: {overview(content)}"
    )
