"""Error messages of identify(): the nearest layouts, and where the file differs from them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from msbreg.backbones.spec import Normalization
from msbreg.checkpoints.layouts.account import Candidate
from msbreg.checkpoints.layouts.content import groups, matches, overview, unwrapped
from msbreg.checkpoints.layouts.tensors import fit
from msbreg.checkpoints.read.inert import printable

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
