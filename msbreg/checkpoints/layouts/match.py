"""identify(): the one row of FORMATS that matches a file, or an error that lists the differences."""

import json
import pickle
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from msbreg.backbones.architectures import ARCHITECTURES
from msbreg.backbones.spec import IMAGENET, BackboneSpec, describe_input
from msbreg.backbones.vit_architectures import VITS
from msbreg.checkpoints.layouts import FORMATS
from msbreg.checkpoints.layouts.format import (
    EVERYTHING,
    ZERO_TO_ONE,
    Candidate,
    Encoder,
    Format,
    States,
    ignored_networks,
    match_row,
)
from msbreg.checkpoints.layouts.stated import stated_by
from msbreg.checkpoints.layouts.tensors import (
    NOT_FINITE,
    complete,
    groups,
    matches,
    mismatches,
    nearest_arch,
    overview,
    unwrapped,
)
from msbreg.checkpoints.layouts.vit_names import TransformerNames
from msbreg.checkpoints.read import FileContent
from msbreg.checkpoints.read.inert import plain, printable
from msbreg.run.errors import UserError, did_you_mean

INSPECT_HINT = "Inspect it with:  python tools/inspect_checkpoint.py {path}"

OTHER_OF_TIMM = (
    "For a model of timm that is not among the architectures here, give --arch timm/NAME."
)

# Files without a plain ResNet: key pattern -> explanation.
HINTS = {
    "*mlp.w12.weight": "It contains DINOv2's ViT-g, whose SwiGLU blocks this suite does not build.",
    "*fc_norm.weight": "It contains a transformer with a norm after its pooling: give --arch timm/NAME.",
    "*patch_embed*": f"It contains a vision transformer. {OTHER_OF_TIMM}",
    "*encoder1.conv1.weight": "CMC splits Lab images over two half networks: there is no RGB ResNet in it.",
    "*conv1.0.weight": "It contains a deep stem (ResNet-C or -D), which is not the ResNet-50 of the papers.",
    "*_flat_param": "FSDP flattened its tensors, which cannot be separated again: save the FULL_STATE_DICT.",
    "*backbone.1.layers.*.shortcut*": "It contains lightly's ResNetGenerator, a network for small images.",
    "*roi_heads.*": "It contains a whole detector: evaluate it with transfer/detection.py --eval-only. For "
    "other protocols, give the checkpoint of its backbone.",
    "*stem.0.weight": "It contains a deep stem (ResNet-C or -D), which is not the ResNet-50 of the papers.",
}


def mismatch_message(
    candidate: Candidate,
    arch: str,
    lines: list[str],
    path: Path,
    content: Mapping[str, Any],
) -> str:
    """The error message for a file with a known layout whose tensors do not match."""
    row = candidate.row
    assert candidate.encoder is not None
    layout = f"{path} has the layout {row.name} ({candidate.encoder.name})"
    inspect = INSPECT_HINT.format(path=path)
    if lines and not candidate.unexplained and all(line.startswith(NOT_FINITE) for line in lines):
        return "\n".join(
            [
                f"{layout} and the tensors of {arch}, but {len(lines)} of {len(candidate.state)} contain "
                "NaN or infinity:",
                *_first(lines, 3),
                "Its training diverged, or the file is damaged: give an earlier or another checkpoint.",
                inspect,
            ]
        )
    if arch in VITS and (sizes := _other_sizes(candidate.state, arch)):
        return "\n".join(
            [
                f"{layout}, but another size than the architectures known for it:",
                *sizes,
                _hint(content) or OTHER_OF_TIMM,
                inspect,
            ]
        )
    known = mismatches(candidate.state, arch, row.names)
    if not row.states_arch and len(known) > len(candidate.state) // 2 and arch not in VITS:
        lines = [*_stages(candidate.state), *lines]
    for head, keys in groups(candidate.unexplained).items():
        shown_head, example = printable(head), printable(keys[0])
        lines.append(f"unexplained  {shown_head} ({len(keys)} keys), such as {example}")
    conv1 = candidate.state.get("conv1.weight")
    hint = _hint(content)
    if isinstance(conv1, Tensor) and tuple(conv1.shape[1:]) == (3, 3, 3) and not row.states_arch:
        hint = (
            "Its 3x3 stem is for small images. Weights do not determine the stride, padding and pooling "
            "of such a stem, so it is not guessed."
        )
    return "\n".join(
        [
            f"{layout}, but does not match {arch}:",
            *_first(lines),
            *([hint] if hint else []),
            inspect,
        ]
    )


def _first(lines: list[str], count: int = 12) -> list[str]:
    """The first lines, indented, and how many more there are."""
    more = [f"  ... and {len(lines) - count} more"] if len(lines) > count else []
    return [*(f"  {line}" for line in lines[:count]), *more]


def _stages(state: Mapping[str, Any]) -> list[str]:
    """The actual network, as far as names and shapes determine it."""
    blocks = [
        len({name.split(".")[1] for name in state if name.startswith(f"layer{s}.")})
        for s in range(1, 5)
    ]
    conv1 = state.get("conv1.weight")
    shape = tuple(conv1.shape) if isinstance(conv1, Tensor) else "absent"
    return [f"contains     {blocks} blocks in its four stages, conv1 {shape}"]


def _other_sizes(state: Mapping[str, Any], arch: str) -> list[str]:
    """One line per size in which a vision transformer differs from the nearest known one."""
    a = VITS[arch]
    projection = state.get("patch_embed.proj.weight")
    shape = tuple(projection.shape) if isinstance(projection, Tensor) else ()
    if len(shape) != 4:
        return []
    blocks = [int(name.split(".")[1]) for name in state if name.startswith("blocks.")]
    sizes = {
        "patch": (shape[2], a.patch),
        "width": (shape[0], a.width),
        "depth": (max(blocks, default=-1) + 1, a.depth),
    }
    return [
        f"  {name}  {size}; the nearest one, {arch}, has {wanted}"
        for name, (size, wanted) in sizes.items()
        if size != wanted
    ]


def unknown_layout_message(
    candidates: list[Candidate], path: Path, content: Mapping[str, Any]
) -> str:
    """The error message for an unknown layout: the closest rows and what each of them requires."""
    near = sorted(candidates, key=lambda c: (-c.found, len(c.misses)))[:6]
    width = max(len(c.row.name) for c in near)
    lines = []
    for c in near:
        found = f"    found {c.found} of {c.total}" if c.total else "    absent"
        lines.append(f"  {c.row.name:<{width}}  expects {c.misses[0]}{found}")
    if len(candidates) > len(near):
        lines.append(
            f"  ... and {len(candidates) - len(near)} more (tools/inspect_checkpoint.py --list)"
        )
    hint = _hint(content) or (
        "If it contains a ResNet with torchvision's names, say where:  --family other --encoder "
        "ENTRY:PREFIX  (ImageNet normalization; other-zero-one: pixels / 255)"
    )
    return "\n".join(
        [
            f"{path} matches no known checkpoint layout.",
            *lines,
            f"It contains: {overview(content)}.",
            hint,
            INSPECT_HINT.format(path=path),
        ]
    )


def _hint(content: Mapping[str, Any]) -> str:
    if content.get("type") == "shard_list" or "shards" in content:
        return "VISSL wrote it as FSDP shards: consolidate them with VISSL first."
    keys = [str(key) for key in content]
    for value in content.values():
        keys += [str(key) for key in value] if isinstance(value, Mapping) else []
    for pattern, sentence in HINTS.items():
        if any(matches(unwrapped(key), (pattern,)) for key in keys):
            return sentence
    return ""


# ---- Find the one row of FORMATS that matches a file, or fail with the differences


@dataclass(frozen=True)
class Match:
    """The backbone in a file, with every other key accounted for.

    Attributes:
        row: the layout.
        encoder: the selected network.
        present: names of all of the row's networks that are in the file.
        spec: architecture, input and stride, as stated by the file or else by the family.
        state: our name (torchvision's or timm's) -> tensor; complete, finite, in float32.
        tensor_count: number of these tensors that were in the file.
        dropped: reason -> keys without wrapper tokens.
        details: how the network was trained, as far as the file states it.
        notes: what a user should know.
    """

    row: Format
    encoder: Encoder
    present: tuple[str, ...]
    spec: BackboneSpec
    state: dict[str, Tensor]
    tensor_count: int
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
    """Find the backbone in a file and account for every key.

    Args:
        arch: expected architecture; None accepts any.
        encoder: name of the network to use; None uses the family's default.
        family: name of the only row to consider; None considers all.

    Raises:
        UserError: no row or more than one matches, the encoder or architecture is not the requested
            one, or a tensor is missing, unexpected, of the wrong shape or type, or not finite.
    """
    content = contents(file)
    rows = _rows(family, encoder)
    states: States = {}
    try:
        candidates = [match_row(row, content, encoder, states) for row in rows]
    except UserError as error:
        raise UserError(f"{file.path}: {error}") from error
    candidate = _select([c for c in candidates if not c.misses], candidates, file, content)
    row = candidate.row
    _check_encoder(candidate, encoder, file)
    assert candidate.encoder is not None
    stated = stated_by(file, content, row)
    found = stated.arch or nearest_arch(candidate.state, row.names, row.archs)
    if found not in ARCHITECTURES and found not in VITS:
        raise UserError(
            f"{file.path} contains the unknown architecture {found!r}; known: {', '.join(ARCHITECTURES)}"
        )
    if arch in VITS and found in VITS and _differ_only_in_heads(arch, found):
        found = arch  # tensors do not show the number of heads
    lines = mismatches(candidate.state, found, row.names)
    if arch is not None and arch != found and not lines:
        raise UserError(
            f"{file.path} contains a {found}, but a {arch} was requested.\n"
            f"Omit --arch, or pass a checkpoint of a {arch}."
        )
    if lines or candidate.unexplained:
        raise UserError(mismatch_message(candidate, arch or found, lines, file.path, content))
    state, notes = complete(candidate.state, found, row.names)
    image_size = stated.image_size
    if isinstance(row.names, TransformerNames):
        image_size = row.names.image_size(VITS[found], candidate.state)
    row_notes = [row.note] if row.note and stated.normalization is None else []
    return Match(
        row=row,
        encoder=candidate.encoder,
        present=tuple(e.name for e in candidate.present),
        spec=BackboneSpec(
            arch=found,
            normalization=stated.normalization or row.normalization,
            stride_in_1x1=(stated.stride or row.stride) == "1x1",
            image_size=image_size,
            positions=row.positions,
            interpolation=row.interpolation,
        ),
        state=state,
        tensor_count=len(candidate.state),
        dropped={reason: tuple(keys) for reason, keys in candidate.dropped.items()},
        details=stated.details,
        notes=(
            *row_notes,
            *notes,
            *stated.notes,
            *ignored_networks(candidate, content),
            *_stem_bias_note(content),
        ),
    )


def _rows(family: str | None, encoder: str | None) -> tuple[Format, ...]:
    known = {row.name: row for row in FORMATS}
    if family in OTHERS:
        return (other(family, encoder),)
    if family is not None and family not in known:
        every = (*known, *OTHERS)
        raise UserError(
            f"--family {family!r} is unknown{did_you_mean(family, every) or '.'}\n"
            f"Expected one of: {', '.join(every)}"
        )
    if family is None:
        return tuple(row for row in FORMATS if not row.on_request)
    return (known[family],)


# ---- A layout specified by the user: where the network is, and its input


OTHERS = {"other": IMAGENET, "other-zero-one": ZERO_TO_ONE}


def other(family: str, encoder: str | None) -> Format:
    """A row for torchvision's names at a location given by the user; never selected automatically.

    Args:
        family: ``other`` for ImageNet's normalization, ``other-zero-one`` for pixels / 255.
        encoder: ``ENTRY:PREFIX``, such as ``model.student:backbone.`` or ``:`` for the file itself.

    Raises:
        UserError: the location does not have this form.
    """
    entry, colon, prefix = (encoder or "").partition(":")
    if not colon or (prefix and not prefix.endswith(".")):
        raise UserError(
            f"--family {family} needs the location of the network: --encoder is {encoder!r}; expected "
            "ENTRY:PREFIX, such as state_dict:student.backbone. (with the trailing dot), or ':' for "
            "a bare state dict"
        )
    return Format(
        family,
        covers="a network with torchvision's names at a location given by the user",
        source="the user",
        encoders=(Encoder(f"{entry}:{prefix}", prefix),),
        why="selected by the user",
        entry=tuple(entry.split(".")) if entry else (),
        dropped=EVERYTHING,
        normalization=OTHERS[family],
        note="layout and normalization are as stated by the user",
    )


# ---- Details of identify


def _differ_only_in_heads(one: str, other: str) -> bool:
    return replace(VITS[one], heads=VITS[other].heads) == VITS[other]


def _stem_bias_note(content: Mapping[str, Any]) -> tuple[str, ...]:
    """A note if the bias of Caffe's stem, which is dropped as in Detectron2, is not zero."""
    bias = content.get("conv1_b")
    if isinstance(bias, Tensor) and bias.any():
        return ("conv1_b is not zero; it is dropped, as in Detectron2",)
    return ()


def contents(file: FileContent) -> Mapping[str, Any]:
    """The entries of a file; our own published files have their description in ``msbreg``.

    Raises:
        UserError: the file has no entries, or its description cannot be read.
    """
    try:
        content = plain(file.content) if file.stubbed else file.content
    except pickle.UnpicklingError as error:
        raise UserError(f"{file.path} contains objects that contain themselves: {error}") from error
    if "msbreg" in file.metadata:
        try:
            said = json.loads(file.metadata["msbreg"])
        except (ValueError, RecursionError) as error:
            raise UserError(f"{file.path}: its description is not JSON: {error}") from error
        return {"msbreg": said, "state": content}
    if not isinstance(content, Mapping):
        raise UserError(
            f"{file.path} contains {overview(content)}; expected a checkpoint: a dict of tensors, or a "
            "dict with such a dict among its entries"
        )
    return content


def _select(
    fitting: list[Candidate],
    candidates: list[Candidate],
    file: FileContent,
    content: Mapping[str, Any],
) -> Candidate:
    """The candidate with the fewest unexplained keys; a tie is an error."""
    if not fitting:
        raise UserError(unknown_layout_message(candidates, file.path, content))
    fewest = min(len(c.unexplained) for c in fitting)
    best = [c for c in fitting if len(c.unexplained) == fewest]
    if len(best) == 1:
        return best[0]
    width = max(len(c.row.name) for c in best)
    lines = [
        f"  --family {c.row.name:<{width}}  {c.row.covers}; input {describe_input(c.row.normalization)}"
        for c in best
    ]
    raise UserError(
        f"{file.path} matches {len(best)} layouts, and its keys do not decide between them. Pass one of:\n"
        + "\n".join(lines)
    )


def _check_encoder(candidate: Candidate, requested: str | None, file: FileContent) -> None:
    row = candidate.row
    present = [e.name for e in candidate.present]
    wanted = requested or row.encoders[0].name
    if wanted in present:
        return
    if wanted not in (known := [e.name for e in row.encoders]):
        raise UserError(
            f"--encoder is {requested!r}, but {row.name} files contain: {', '.join(known)}.\n"
            f"In {file.path}: {', '.join(present)}."
        )
    raise UserError(
        f"{file.path} has the layout {row.name}, but not its {wanted} network.\n"
        f"  default         {wanted} ({row.why})\n"
        f"  in the file     {', '.join(present)}\n"
        f"To use another network, add  --encoder '{present[0]}'"
    )
