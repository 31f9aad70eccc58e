"""identify(): exactly one row of FORMATS for a file, or an error that shows the difference."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from msbreg.backbones import BACKBONES
from msbreg.errors import UserError
from msbreg.formats import FORMATS
from msbreg.formats.account import PUBLISHED, Candidate, completed, fit, hold_against, nearest
from msbreg.formats.content import groups, matches, overview, unwrapped
from msbreg.formats.names import table
from msbreg.formats.row import Encoder, Format
from msbreg.reading import FileContent
from msbreg.reading.inert import plain
from msbreg.transforms import Normalisation

LOOK = "Look at it with:  python tools/inspect_checkpoint.py {path}"

# What a file is that holds no plain ResNet: pattern of its keys -> sentence.
HINTS = {
    "*patch_embed*": "It holds a vision transformer; this suite evaluates ResNets.",
    "*encoder1.conv1.weight": "CMC splits Lab images over two half networks: there is no RGB ResNet in it.",
    "*conv1.0.weight": "It holds a deep stem (ResNet-C or -D): that is not the ResNet-50 of the papers.",
    "*stem.0.weight": "It holds a deep stem (ResNet-C or -D): that is not the ResNet-50 of the papers.",
}


@dataclass(frozen=True)
class Match:
    """The backbone of a file, and what every other key of it is.

    Attributes:
        row: the layout.
        encoder: the network that is taken.
        present: names of all networks of the row that are in the file.
        arch: name in BACKBONES.
        state: torchvision name -> tensor, complete, finite, float32.
        taken: number of tensors that the file had of it.
        dropped: reason -> keys without wrapper tokens.
        normalisation: of the input: the file's own statement, else the family's.
        stride: where a bottleneck has stride 2.
        notes: what a user should know.
    """

    row: Format
    encoder: Encoder
    present: tuple[str, ...]
    arch: str
    state: dict[str, Tensor]
    taken: int
    dropped: dict[str, tuple[str, ...]]
    normalisation: Normalisation
    stride: Literal["3x3", "1x1"]
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
        UserError: no row or more than one fits, the encoder or architecture is another one, a tensor is
            missing, left over, of another shape, or not finite.
    """
    content = contents(file)
    known = {row.name: row for row in FORMATS}
    if family is not None and family not in known:
        raise UserError(f"family {family!r} is unknown; expected one of: {', '.join(known)}")
    rows = FORMATS if family is None else (known[family],)
    held = [hold_against(row, content, encoder) for row in rows]
    candidate = _the_one([c for c in held if not c.misses], held, file, content)
    row = candidate.row
    _check_encoder(candidate, encoder, file)
    assert candidate.encoder is not None
    stated = _stated(content, row)
    found = stated.get("arch") or nearest(candidate.state)
    if found not in BACKBONES:
        raise UserError(
            f"{file.path} holds the unknown architecture {found!r}; known: {', '.join(BACKBONES)}"
        )
    difference = fit(candidate.state, found)
    if arch is not None and arch != found and not difference:
        raise UserError(
            f"{file.path} holds a {found}, but a {arch} was asked for.\n"
            f"Leave out --arch, or give the checkpoint of a {arch}."
        )
    if difference or candidate.unexplained:
        raise UserError(_difference(candidate, arch or found, difference, file, content))
    state, notes = completed(candidate.state, found)
    normalisation, stride, more = _input(row, file, stated)
    return Match(
        row=row,
        encoder=candidate.encoder,
        present=tuple(e.name for e in candidate.present),
        arch=found,
        state=state,
        taken=len(candidate.state),
        dropped={reason: tuple(keys) for reason, keys in candidate.dropped.items()},
        normalisation=normalisation,
        stride=stride,
        notes=(*((row.note,) if row.note else ()), *notes, *more),
    )


def contents(file: FileContent) -> Mapping[str, Any]:
    """The file's entries; those of our own published files carry their description along.

    Raises:
        UserError: the file does not hold entries at all.
    """
    content = plain(file.content) if file.stubbed else file.content
    if "msbreg" in file.metadata:
        return {"msbreg": json.loads(file.metadata["msbreg"]), "state": content}
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
        raise UserError(_no_layout(held, file, content))
    fewest = min(len(c.unexplained) for c in fitting)
    best = [c for c in fitting if len(c.unexplained) == fewest]
    if len(best) == 1:
        return best[0]
    width = max(len(c.row.name) for c in best)
    lines = [
        f"  --family {c.row.name:<{width}}  {c.row.covers}; input {_seen(c.row.normalisation)}"
        for c in best
    ]
    raise UserError(
        f"{file.path} fits {len(best)} layouts, and its keys cannot tell which; say it:\n"
        + "\n".join(lines)
    )


def _seen(n: Normalisation) -> str:
    mean, std = (", ".join(f"{v:.4g}" for v in values) for values in (n.mean, n.std))
    return f"{n.channels}, mean {mean}, std {std}"


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


def _difference(
    candidate: Candidate,
    arch: str,
    lines: list[str],
    file: FileContent,
    content: Mapping[str, Any],
) -> str:
    """The error of a file of known layout whose tensors do not fit."""
    row = candidate.row
    assert candidate.encoder is not None
    if not row.states_arch and len(fit(candidate.state, arch)) > len(candidate.state) // 2:
        lines = [*_stages(candidate.state), *lines]
    for head, keys in groups(candidate.unexplained).items():
        lines.append(f"unexplained  {head} ({len(keys)} keys), such as {keys[0]}")
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
            f"{file.path} has the layout {row.name} ({candidate.encoder.name}), but does not fit {arch}:",
            *shown,
            *([hint] if hint else []),
            LOOK.format(path=file.path),
        ]
    )


def _stages(state: Mapping[str, Any]) -> list[str]:
    """What network it is instead, as far as names and shapes say."""
    blocks = [
        len({name.split(".")[1] for name in state if name.startswith(f"layer{s}.")})
        for s in range(1, 5)
    ]
    conv1 = state.get("conv1.weight")
    shape = tuple(conv1.shape) if isinstance(conv1, Tensor) else "absent"
    return [f"holds        {blocks} blocks in its four stages, conv1 {shape}"]


def _no_layout(held: list[Candidate], file: FileContent, content: Mapping[str, Any]) -> str:
    """The error of a file that no row recognises: the nearest rows, and what each of them wants."""
    near = sorted(held, key=lambda c: (-(c.found >= len(table(c.row.names)) // 6), len(c.misses)))
    near = near[:6]
    width = max(len(c.row.name) for c in near)
    lines = []
    for c in near:
        found = f"    found {c.found} of {c.total}" if c.total else "    absent"
        lines.append(f"  {c.row.name:<{width}}  wants {c.misses[0]}{found}")
    if len(held) > len(near):
        lines.append(f"  ... and {len(held) - len(near)} more (tools/inspect_checkpoint.py --list)")
    hint = _hint(content)
    return "\n".join(
        [
            f"{file.path} matches no known checkpoint layout.",
            *lines,
            f"It holds: {overview(content)}.",
            *([hint] if hint else []),
            LOOK.format(path=file.path),
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


def _stated(content: Mapping[str, Any], row: Format) -> Mapping[str, Any]:
    """What our own files say of themselves."""
    if not row.states_arch:
        entry = content.get("msbreg")  # a conversion of ours to another tool box's layout
        return entry.get("provenance", {}) if isinstance(entry, Mapping) else {}
    described = content.get("msbreg", content)
    assert isinstance(described, Mapping)
    return described


def _input(
    row: Format, file: FileContent, stated: Mapping[str, Any]
) -> tuple[Normalisation, Literal["3x3", "1x1"], tuple[str, ...]]:
    """Normalisation and stride: the file's statement, that of a config.json beside it, or the family's."""
    normalisation, stride = row.normalisation, row.stride
    notes: list[str] = []
    if "normalisation" in stated:
        said = stated["normalisation"]
        normalisation = Normalisation(tuple(said["mean"]), tuple(said["std"]), said["channels"])
        stride = stated["stride"]
    if row.name in ("torchvision", "huggingface", "huggingface-base"):
        beside = file.sidecar.get("pretrained_cfg", {})
        mean, std = beside.get("mean"), beside.get("std")
        processor = file.sidecar.get("preprocessor", {})
        mean, std = processor.get("image_mean", mean), processor.get("image_std", std)
        if mean and std:
            normalisation = Normalisation(tuple(mean), tuple(std))
            notes.append("the normalisation is that of the configuration beside the file")
        if file.sidecar.get("downsample_in_bottleneck"):
            stride = "1x1"
            notes.append("stride in the 1x1 convolutions: downsample_in_bottleneck in config.json")
    return normalisation, stride, tuple(notes)


__all__ = ["PUBLISHED", "Match", "contents", "identify"]
