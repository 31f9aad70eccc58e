"""Extract flat state dicts from the content of a file, and compare them with architectures."""

import re
from collections.abc import Iterable, Iterator, Mapping
from fnmatch import translate
from functools import cache
from typing import Any

import torch
from torch import Tensor

from msbreg.backbones.architectures import PUBLISHED
from msbreg.backbones.vit_architectures import VITS
from msbreg.checkpoints.layouts import vit_names
from msbreg.checkpoints.layouts.names import (
    COUNTER,
    Dialect,
    children,
    detectron2,
    huggingface,
    obow,
    shapes,
    table,
    torchvision,
)
from msbreg.checkpoints.layouts.vit_names import TransformerNames
from msbreg.checkpoints.read.inert import printable
from msbreg.run.errors import UserError

Entry = tuple[str | int, ...]
"""A location in nested mappings and lists: the keys and indices that lead to it."""

# Added by DataParallel and DDP, torch.compile, FSDP and activation checkpointing, at the start of a key
# or in the middle if a submodule was wrapped.
WRAPPERS = {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}


MAX_KEYS = 20_000
"""Limit per state dict: a ResNet-200 has 1,218 tensors, the largest training files about 5,000 keys."""


def matches(key: str, patterns: tuple[str, ...]) -> bool:
    """Whether one of the shell-style patterns matches the whole key."""
    return bool(patterns) and _compiled(patterns).match(key) is not None


@cache
def _compiled(patterns: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile("|".join(map(translate, patterns)))


def unwrapped(key: str) -> str:
    """The key without wrapper tokens."""
    return ".".join(part for part in key.split(".") if part not in WRAPPERS)


def entry_of(content: Any, entry: Entry) -> Any:
    """The value at a location; None if there is none."""
    for step in entry:
        named = isinstance(content, Mapping) and step in content
        numbered = isinstance(content, (list, tuple)) and step in range(len(content))
        if not named and not numbered:
            return None
        content = content[step]
    return content


def state_at(
    content: Any, entries: tuple[Entry, ...], *, nested: bool = False
) -> tuple[dict[str, Any] | None, str]:
    """Merge the state dicts at the given locations. Values other than tensors are kept.

    Args:
        nested: join the keys of nested mappings with slashes, as in haiku.

    Returns:
        The state, or None if a location is absent, and a problem, or an empty string: two keys that
        differ only in wrapper tokens.

    Raises:
        UserError: there are more than MAX_KEYS keys.
    """
    state: dict[str, Any] = {}
    for entry in entries:
        found = entry_of(content, entry)
        if not isinstance(found, Mapping):
            return None, ""
        for key, value in _leaves(found) if nested else found.items():
            bare = unwrapped(str(key))
            if bare in state:
                return (
                    state,
                    f"{printable(bare)} only once (it occurs twice without wrapper tokens)",
                )
            state[bare] = value
            if len(state) > MAX_KEYS:
                where = ".".join(map(str, entry)) or "the top level"
                raise UserError(
                    f"a state dict ({where}) has more than {MAX_KEYS:,} keys; expected the tensors of "
                    "a ResNet and its heads. Save only the network."
                )
    return state, ""


def _leaves(tree: Mapping[Any, Any], path: str = "", depth: int = 3) -> Iterator[tuple[str, Any]]:
    """Keys and values of a haiku tree, which has two levels, or three for moving averages."""
    for key, value in tree.items():
        if isinstance(value, Mapping) and depth:
            yield from _leaves(value, f"{path}{key}/", depth - 1)
        else:
            yield f"{path}{key}", value


def groups(keys: list[str], depth: int = 1) -> dict[str, list[str]]:
    """Group keys by their first ``depth`` components, in order of appearance."""
    grouped: dict[str, list[str]] = {}
    for key in keys:
        parts = key.split(".")
        head = ".".join(parts[:depth]) + (".*" if len(parts) > depth else "")
        grouped.setdefault(head, []).append(key)
    return grouped


def overview(content: Any) -> str:
    """A one-line summary of the content of a file, for error messages."""
    if not isinstance(content, Mapping):
        return f"a {type(content).__name__}, not a dict"
    tensors = [printable(str(k)) for k, value in content.items() if isinstance(value, Tensor)]
    parts = [f"{head} ({len(keys)})" for head, keys in groups(tensors).items()]
    for key, value in content.items():
        if isinstance(value, Mapping):
            inside = list(groups([printable(unwrapped(str(k))) for k in value]))
            more = ", ..." if len(inside) > 4 else ""
            parts.append(f"{printable(str(key))} with {', '.join(inside[:4])}{more}")
        elif not isinstance(value, Tensor):
            parts.append(printable(str(key)))
    return "; ".join(parts[:8]) + ("; ..." if len(parts) > 8 else "") if parts else "nothing"


# ---- Compare a state dict with architectures, and recognize networks by their names


MIN_CONVOLUTIONS = 12  # a ResNet-18 has 17 outside its shortcuts; some have ambiguous names

MAX_COMPONENTS = 12  # of a name in any dialect; Hugging Face's have 9

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
INTEGERS = (torch.int64, torch.int32, torch.int16, torch.uint8)


@cache
def _unmistakable() -> frozenset[str]:
    """Names of weights in all dotted dialects, by which a network is recognized under any prefix.

    They are those of convolutions of ResNets, and of attention of vision transformers.
    """
    dialects = (torchvision, children, obow, detectron2, huggingface)
    convolutions = {
        name for d in dialects for name in table(d) if "conv" in name and name.count(".") > 1
    }
    attention = {
        name
        for names in (vit_names.timm, vit_names.huggingface_vit)
        for name in table(names)
        if ".att" in name and name.endswith(".weight")
    }
    return frozenset(convolutions | attention)


def networks(keys: Iterable[str]) -> dict[str, list[str]]:
    """Prefix -> keys of its convolutions or attention, for every prefix that seems to contain a network."""
    found: dict[str, list[str]] = {}
    known = _unmistakable()
    for key in keys:
        parts = key.split(".")
        for cut in range(max(0, len(parts) - MAX_COMPONENTS), len(parts)):
            if ".".join(parts[cut:]) in known:
                prefix = "".join(f"{part}." for part in parts[:cut])
                found.setdefault(prefix, []).append(key)
                break
    return {prefix: own for prefix, own in found.items() if len(own) >= MIN_CONVOLUTIONS}


Names = Dialect | TransformerNames


def wanted_shapes(
    state: Mapping[str, Any], arch: str, names: Names = torchvision
) -> dict[str, tuple[int, ...]]:
    """Our name -> shape of every tensor that a file with this architecture contains.

    Position embeddings may belong to any image size; the size that the state shows is taken.
    """
    if isinstance(names, TransformerNames):
        a = VITS[arch]
        return names.parts(a, names.image_size(a, state))
    return shapes(arch)


def mismatches(state: Mapping[str, Any], arch: str, names: Names = torchvision) -> list[str]:
    """One line per difference between a state and an architecture's tensors; empty if they match."""
    wanted = wanted_shapes(state, arch, names)
    counted = any(name.endswith(COUNTER) for name in state)
    lines = []
    for name, shape in wanted.items():
        if name in state:
            line = _tensor_problem(name, state[name], shape)
            lines += [line] if line else []
        elif counted or not name.endswith(COUNTER):
            lines.append(f"missing      {name} {shape}")
    return lines + [f"unexpected   {printable(name)}" for name in state if name not in wanted]


NOT_FINITE = "not finite"
"""Start of the line about a tensor with NaN or infinity."""


def _tensor_problem(name: str, value: Any, shape: tuple[int, ...]) -> str:
    if not isinstance(value, Tensor):
        return f"not a tensor {name} is a {type(value).__name__}"
    if tuple(value.shape) != shape:
        return f"wrong shape  {name} {tuple(value.shape)}, expected {shape}"
    kind = str(value.dtype).removeprefix("torch.")
    plain = value.layout == torch.strided and not value.is_quantized and value.device.type == "cpu"
    if name.endswith(COUNTER):
        if not plain or value.dtype not in INTEGERS:
            return f"wrong type   {name} is {kind}, expected an integer type"
        return ""
    if not plain or value.dtype not in FLOATS:
        form = "" if plain else f" ({value.layout}, {value.device.type})".replace("torch.", "")
        return f"wrong type   {name} is {kind}{form}, expected a floating-point type"
    single = value.float()
    if all_finite(single):
        return ""
    return f"{NOT_FINITE}   {name}: {int((~torch.isfinite(single)).sum())} values"


def all_finite(value: Tensor) -> bool:
    """Whether a floating-point tensor has neither NaN nor infinity.

    Both survive a sum, which is many times as fast as a comparison of every value; a sum of large finite
    values may overflow, and only then are the values compared.

    >>> all_finite(torch.tensor([3e38, 3e38])), all_finite(torch.tensor([1.0, float("nan")]))
    (True, False)
    """
    return bool(torch.isfinite(value.sum())) or bool(torch.isfinite(value).all())


def nearest_arch(
    state: Mapping[str, Any], names: Names = torchvision, archs: tuple[str, ...] = ()
) -> str:
    """The published architecture whose tensors agree best in name and shape.

    Args:
        archs: for vision transformers, patterns of the architectures to consider; the first pattern wins
            where several agree equally, because tensors do not show the number of heads.
    """
    found = {k: tuple(v.shape) for k, v in state.items() if isinstance(v, Tensor)}

    def agreement(arch: str) -> float:
        wanted = wanted_shapes(state, arch, names)
        same = sum(found.get(name) == shape for name, shape in wanted.items())
        return same / max(len(wanted), len(state))

    if not isinstance(names, TransformerNames):
        return max(PUBLISHED, key=agreement)
    known = dict.fromkeys(arch for pattern in archs for arch in VITS if matches(arch, (pattern,)))
    # The size of patches and tokens first: all else is alike in networks with and without LayerScale.
    patches = "patch_embed.proj.weight"
    return max(
        known,
        key=lambda arch: (
            found.get(patches) == wanted_shapes(state, arch, names)[patches],
            agreement(arch),
        ),
    )


def complete(
    state: Mapping[str, Tensor], arch: str, names: Names = torchvision
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The state in the module's order, in float32, with missing counters set to 0; and notes on changes."""
    notes = []
    counters = not isinstance(names, TransformerNames)
    if counters and not any(name.endswith(COUNTER) for name in state):
        notes.append(f"{COUNTER} is absent (set to 0; evaluation does not use it)")
    made = {}
    types = set()
    for name in wanted_shapes(state, arch, names):
        value = state.get(name, torch.tensor(0))
        if name.endswith(COUNTER):
            value = value.long()
        if value.is_floating_point() and value.dtype != torch.float32:
            types.add(str(value.dtype).removeprefix("torch."))
            value = value.float()
        made[name] = value.detach().contiguous().clone()
    if types:
        notes.append(f"weights were stored as {', '.join(sorted(types))} and converted to float32")
    if isinstance(names, TransformerNames):
        made = names.assembled(made, VITS[arch])
    return made, tuple(notes)
