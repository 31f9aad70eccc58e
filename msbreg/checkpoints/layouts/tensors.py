"""Compare the tensors of a state with an architecture's, and recognize networks by their names."""

from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

import torch
from torch import Tensor

from msbreg.backbones.architectures import PUBLISHED
from msbreg.checkpoints.layouts.names import (
    COUNTER,
    children,
    detectron2,
    huggingface,
    obow,
    shapes,
    table,
    torchvision,
)
from msbreg.checkpoints.read.inert import printable

CONVOLUTIONS = 12  # a ResNet-18 has 17 outside its shortcuts; some have no unmistakable name

LONGEST = 12  # components of a name of any dialect; Hugging Face's have 9

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
INTEGERS = (torch.int64, torch.int32, torch.int16, torch.uint8)


@cache
def _unmistakable() -> frozenset[str]:
    """Names of convolutions in all dialects with dots: what a network is known by, whatever its prefix."""
    dialects = (torchvision, children, obow, detectron2, huggingface)
    return frozenset(
        name for d in dialects for name in table(d) if "conv" in name and name.count(".") > 1
    )


def networks(keys: Iterable[str]) -> dict[str, list[str]]:
    """Prefix -> keys of its convolutions, for every prefix under which a whole ResNet seems to be."""
    found: dict[str, list[str]] = {}
    known = _unmistakable()
    for key in keys:
        parts = key.split(".")
        for cut in range(max(0, len(parts) - LONGEST), len(parts)):
            if ".".join(parts[cut:]) in known:
                prefix = "".join(f"{part}." for part in parts[:cut])
                found.setdefault(prefix, []).append(key)
                break
    return {prefix: own for prefix, own in found.items() if len(own) >= CONVOLUTIONS}


def fit(state: Mapping[str, Any], arch: str) -> list[str]:
    """Lines that say where a state differs from an architecture's tensors; empty if it fits."""
    wanted = shapes(arch)
    counted = any(name.endswith(COUNTER) for name in state)
    lines = []
    for name, shape in wanted.items():
        if name in state:
            line = _tensor_problem(name, state[name], shape)
            lines += [line] if line else []
        elif counted or not name.endswith(COUNTER):
            lines.append(f"missing      {name} {shape}")
    return lines + [f"unexpected   {printable(name)}" for name in state if name not in wanted]


def _tensor_problem(name: str, value: Any, shape: tuple[int, ...]) -> str:
    if not isinstance(value, Tensor):
        return f"no tensor    {name} is a {type(value).__name__}"
    if tuple(value.shape) != shape:
        return f"wrong shape  {name} {tuple(value.shape)}, expected {shape}"
    kind = str(value.dtype).removeprefix("torch.")
    plain = value.layout == torch.strided and not value.is_quantized and value.device.type == "cpu"
    if name.endswith(COUNTER):
        if not plain or value.dtype not in INTEGERS:
            return f"wrong type   {name} is {kind}, expected a whole number"
        return ""
    if not plain or value.dtype not in FLOATS:
        form = "" if plain else f" ({value.layout}, {value.device.type})".replace("torch.", "")
        return f"wrong type   {name} is {kind}{form}, expected floating point"
    finite = torch.isfinite(value.float())
    return "" if finite.all() else f"not finite   {name}: {int((~finite).sum())} values"


def nearest(state: Mapping[str, Any]) -> str:
    """The published architecture whose tensors agree best in name and shape."""

    found = {k: tuple(v.shape) for k, v in state.items() if isinstance(v, Tensor)}

    def agreement(arch: str) -> float:
        wanted = shapes(arch)
        same = sum(found.get(name) == shape for name, shape in wanted.items())
        return same / max(len(wanted), len(state))

    return max(PUBLISHED, key=agreement)


def completed(state: Mapping[str, Tensor], arch: str) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The state in the module's order, in float32, counters filled in; and notes on what was done."""
    notes = []
    if not any(name.endswith(COUNTER) for name in state):
        notes.append(f"{COUNTER} is absent (set to 0; evaluation does not use it)")
    made = {}
    types = set()
    for name in shapes(arch):
        value = state.get(name, torch.tensor(0))
        if name.endswith(COUNTER):
            value = value.long()
        if value.is_floating_point() and value.dtype != torch.float32:
            types.add(str(value.dtype).removeprefix("torch."))
            value = value.float()
        made[name] = value.detach().contiguous().clone()
    if types:
        notes.append(f"weights were stored as {', '.join(sorted(types))}; they are used as float32")
    return made, tuple(notes)
