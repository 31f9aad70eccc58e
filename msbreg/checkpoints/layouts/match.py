"""identify(): exactly one row of FORMATS for a file, or an error that shows the difference."""

import json
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from msbreg.backbones.architectures import ARCHITECTURES
from msbreg.backbones.spec import IMAGENET, BackboneSpec, Normalization
from msbreg.checkpoints.layouts import FORMATS
from msbreg.checkpoints.layouts.format import (
    EVERYTHING,
    ZERO_TO_ONE,
    Candidate,
    Encoder,
    Format,
    States,
    elsewhere,
    hold_against,
)
from msbreg.checkpoints.layouts.stated import stated_by
from msbreg.checkpoints.layouts.tensors import (
    completed,
    fit,
    groups,
    matches,
    nearest,
    overview,
    unwrapped,
)
from msbreg.checkpoints.read import FileContent
from msbreg.checkpoints.read.inert import plain, printable
from msbreg.run.errors import UserError

LOOK = "Look at it with:  python tools/inspect_checkpoint.py {path}"

# Files that do not contain a plain ResNet: pattern of a key -> sentence.
HINTS = {
    "*patch_embed*": "It holds a vision transformer; this suite evaluates ResNets.",
    "*encoder1.conv1.weight": "CMC splits Lab images over two half networks: there is no RGB ResNet in it.",
    "*conv1.0.weight": "It holds a deep stem (ResNet-C or -D): that is not the ResNet-50 of the papers.",
    "*_flat_param": "FSDP flattened it and its tensors cannot be told apart: save the FULL_STATE_DICT.",
    "*backbone.1.layers.*.shortcut*": "It holds lightly's ResNetGenerator, a network for small images.",
    "*stem.0.weight": "It holds a deep stem (ResNet-C or -D): that is not the ResNet-50 of the papers.",
}


def difference_of(
    candidate: Candidate,
    arch: str,
    lines: list[str],
    path: Path,
    content: Mapping[str, Any],
) -> str:
    """The error of a file of known layout whose tensors do not fit."""
    row = candidate.row
    assert candidate.encoder is not None
    if not row.states_arch and len(fit(candidate.state, arch)) > len(candidate.state) // 2:
        lines = [*_stages(candidate.state), *lines]
    for head, keys in groups(candidate.unexplained).items():
        shown_head, example = printable(head), printable(keys[0])
        lines.append(f"unexplained  {shown_head} ({len(keys)} keys), such as {example}")
    conv1 = candidate.state.get("conv1.weight")
    hint = _hint(content)
    if isinstance(conv1, Tensor) and tuple(conv1.shape[1:]) == (3, 3, 3) and not row.states_arch:
        hint = (
            "Its 3x3 stem is one for small images; stride, padding and pooling of such a stem are not in "
            "the weights, so it is not guessed."
        )
    shown = [f"  {line}" for line in lines[:12]]
    shown += [f"  ... and {len(lines) - 12} more"] if len(lines) > 12 else []
    return "\n".join(
        [
            f"{path} has the layout {row.name} ({candidate.encoder.name}), but does not fit {arch}:",
            *shown,
            *([hint] if hint else []),
            LOOK.format(path=path),
        ]
    )


def _stages(state: Mapping[str, Any]) -> list[str]:
    """Which network it is instead, as far as names and shapes tell."""
    blocks = [
        len({name.split(".")[1] for name in state if name.startswith(f"layer{s}.")})
        for s in range(1, 5)
    ]
    conv1 = state.get("conv1.weight")
    shape = tuple(conv1.shape) if isinstance(conv1, Tensor) else "absent"
    return [f"holds        {blocks} blocks in its four stages, conv1 {shape}"]


def no_layout(held: list[Candidate], path: Path, content: Mapping[str, Any]) -> str:
    """The error of a file that no row recognizes: the nearest rows, and what each of them wants."""
    near = sorted(held, key=lambda c: (-c.found, len(c.misses)))[:6]
    width = max(len(c.row.name) for c in near)
    lines = []
    for c in near:
        found = f"    found {c.found} of {c.total}" if c.total else "    absent"
        lines.append(f"  {c.row.name:<{width}}  wants {c.misses[0]}{found}")
    if len(held) > len(near):
        lines.append(f"  ... and {len(held) - len(near)} more (tools/inspect_checkpoint.py --list)")
    hint = _hint(content) or (
        "If it holds a ResNet with torchvision's names, say where:  --family other --encoder "
        "ENTRY:PREFIX  (input normalized as ImageNet's; other-zero-one: pixels / 255)"
    )
    return "\n".join(
        [
            f"{path} matches no known checkpoint layout.",
            *lines,
            f"It holds: {overview(content)}.",
            hint,
            LOOK.format(path=path),
        ]
    )


def _hint(content: Mapping[str, Any]) -> str:
    if content.get("type") == "shard_list" or "shards" in content:
        return "VISSL wrote it in shards of FSDP: consolidate it with VISSL first."
    keys = [str(key) for key in content]
    for value in content.values():
        keys += [str(key) for key in value] if isinstance(value, Mapping) else []
    for pattern, sentence in HINTS.items():
        if any(matches(unwrapped(key), (pattern,)) for key in keys):
            return sentence
    return ""


def seen(normalization: Normalization) -> str:
    """An input normalization in words."""
    n = normalization
    mean, std = (", ".join(f"{v:.4g}" for v in values) for values in (n.mean, n.std))
    return f"{n.channels} / 255, mean {mean}, std {std}"


# ---- Find the one row of FORMATS that a file fits, or fail with an error that shows the dif


@dataclass(frozen=True)
class Match:
    """The backbone of a file, and what every other key of it is.

    Attributes:
        row: the layout.
        encoder: the network that is taken.
        present: names of all networks of the row that are in the file.
        spec: architecture, input and stride: the file's own statement, else the family's.
        state: torchvision name -> tensor, complete, finite, float32.
        taken: number of tensors that the file had of it.
        dropped: reason -> keys without wrapper tokens.
        details: how it was trained, as far as the file says.
        notes: what a user should know.
    """

    row: Format
    encoder: Encoder
    present: tuple[str, ...]
    spec: BackboneSpec
    state: dict[str, Tensor]
    taken: int
    dropped: dict[str, tuple[str, ...]]
    details: Mapping[str, Any]
    notes: tuple[str, ...]


def identify(
    file: FileContent,
    *,
    arch: str | None = None,
    encoder: str | None = None,
    family: str | None = None,
) -> Match:
    """The backbone in a file, every key accounted for.

    Args:
        arch: the architecture that is expected.
        encoder: name of the network to take; None takes the family's.
        family: name of the only row to consider.

    Raises:
        UserError: no row or more than one fits, the encoder or architecture is another one, or a tensor
            is missing, left over, of another shape or type, or not finite.
    """
    content = contents(file)
    rows = _rows(family, encoder)
    states: States = {}
    try:
        held = [hold_against(row, content, encoder, states) for row in rows]
    except UserError as error:
        raise UserError(f"{file.path}: {error}") from error
    candidate = _the_one([c for c in held if not c.misses], held, file, content)
    row = candidate.row
    _check_encoder(candidate, encoder, file)
    assert candidate.encoder is not None
    stated = stated_by(file, content, row)
    found = stated.arch or nearest(candidate.state)
    if found not in ARCHITECTURES:
        raise UserError(
            f"{file.path} holds the unknown architecture {found!r}; known: {', '.join(ARCHITECTURES)}"
        )
    lines = fit(candidate.state, found)
    if arch is not None and arch != found and not lines:
        raise UserError(
            f"{file.path} holds a {found}, but a {arch} was asked for.\n"
            f"Leave out --arch, or give the checkpoint of a {arch}."
        )
    if lines or candidate.unexplained:
        raise UserError(difference_of(candidate, arch or found, lines, file.path, content))
    state, notes = completed(candidate.state, found)
    said = [row.note] if row.note and stated.normalization is None else []
    return Match(
        row=row,
        encoder=candidate.encoder,
        present=tuple(e.name for e in candidate.present),
        spec=BackboneSpec(
            arch=found,
            normalization=stated.normalization or row.normalization,
            stride_in_1x1=(stated.stride or row.stride) == "1x1",
            image_size=stated.image_size,
        ),
        state=state,
        taken=len(candidate.state),
        dropped={reason: tuple(keys) for reason, keys in candidate.dropped.items()},
        details=stated.details,
        notes=(*said, *notes, *stated.notes, *elsewhere(candidate, content), *_bias(content)),
    )


def _rows(family: str | None, encoder: str | None) -> tuple[Format, ...]:
    known = {row.name: row for row in FORMATS}
    if family in OTHERS:
        return (other(family, encoder),)
    if family is not None and family not in known:
        raise UserError(
            f"family {family!r} is unknown; expected one of: {', '.join((*known, *OTHERS))}"
        )
    return FORMATS if family is None else (known[family],)


# ---- A layout that no row knows: the user says where the network is and what its input was


OTHERS = {"other": IMAGENET, "other-zero-one": ZERO_TO_ONE}


def other(family: str, encoder: str | None) -> Format:
    """A row for torchvision's names at a place that the user gives; never chosen automatically.

    Args:
        family: ``other`` for ImageNet's normalization, ``other-zero-one`` for pixels / 255.
        encoder: ``ENTRY:PREFIX``, such as ``model.student:backbone.`` or ``:`` for the file itself.

    Raises:
        UserError: the place is not written like that.
    """
    entry, colon, prefix = (encoder or "").partition(":")
    if not colon or (prefix and not prefix.endswith(".")):
        raise UserError(
            f"--family {family} needs to know the network: --encoder is {encoder!r}; expected "
            "ENTRY:PREFIX, such as state_dict:student.backbone. with the prefix's last dot, or "
            "':' for a bare state dict"
        )
    return Format(
        family,
        covers="a network with torchvision's names, where the user says it is",
        source="the user",
        encoders=(Encoder(f"{entry}:{prefix}", prefix),),
        why="the user said so",
        entry=tuple(entry.split(".")) if entry else (),
        dropped=EVERYTHING,
        normalization=OTHERS[family],
        note="layout and normalization are as stated by the user",
    )


# ---- Details of identify


def _bias(content: Mapping[str, Any]) -> tuple[str, ...]:
    """Caffe's stem has a bias that Detectron2 leaves out in front of the norm, and so does the table."""
    bias = content.get("conv1_b")
    if isinstance(bias, Tensor) and bias.any():
        return ("conv1_b is not zero; it is left out, as Detectron2 leaves it out",)
    return ()


def contents(file: FileContent) -> Mapping[str, Any]:
    """The file's entries; those of our own published files carry their description along.

    Raises:
        UserError: the file does not hold entries at all, or its description cannot be read.
    """
    try:
        content = plain(file.content) if file.stubbed else file.content
    except pickle.UnpicklingError as error:
        raise UserError(f"{file.path} holds objects that hold themselves: {error}") from error
    if "msbreg" in file.metadata:
        try:
            said = json.loads(file.metadata["msbreg"])
        except (ValueError, RecursionError) as error:
            raise UserError(f"{file.path}: its description is not JSON: {error}") from error
        return {"msbreg": said, "state": content}
    if not isinstance(content, Mapping):
        raise UserError(
            f"{file.path} holds {overview(content)}; expected a checkpoint: a dict of tensors, or of "
            "entries with such a dict among them"
        )
    return content


def _the_one(
    fitting: list[Candidate], held: list[Candidate], file: FileContent, content: Mapping[str, Any]
) -> Candidate:
    """The candidate that leaves the fewest keys unexplained; it has to be one alone."""
    if not fitting:
        raise UserError(no_layout(held, file.path, content))
    fewest = min(len(c.unexplained) for c in fitting)
    best = [c for c in fitting if len(c.unexplained) == fewest]
    if len(best) == 1:
        return best[0]
    width = max(len(c.row.name) for c in best)
    lines = [
        f"  --family {c.row.name:<{width}}  {c.row.covers}; input {seen(c.row.normalization)}"
        for c in best
    ]
    raise UserError(
        f"{file.path} fits {len(best)} layouts, and its keys cannot tell which; say it:\n"
        + "\n".join(lines)
    )


def _check_encoder(candidate: Candidate, asked: str | None, file: FileContent) -> None:
    row = candidate.row
    present = [e.name for e in candidate.present]
    wanted = asked or row.encoders[0].name
    if wanted in present:
        return
    if wanted not in (known := [e.name for e in row.encoders]):
        raise UserError(
            f"--encoder is {asked!r}, but {row.name} files may hold: {', '.join(known)}.\n"
            f"In {file.path}: {', '.join(present)}."
        )
    raise UserError(
        f"{file.path} has the layout {row.name}, but not its {wanted} network.\n"
        f"  taken by rule   {wanted} ({row.why})\n"
        f"  in the file     {', '.join(present)}\n"
        f"To evaluate that one all the same, add  --encoder '{present[0]}'"
    )
