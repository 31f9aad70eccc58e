"""A row of FORMATS held against a file: is it there, and what is every key of it?"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from msbreg.backbones import BACKBONES
from msbreg.formats.content import matches, state_at
from msbreg.formats.names import COUNTER, place, shapes, table
from msbreg.formats.row import Encoder, Entry, Format

ENOUGH = 20  # tensors under a prefix by which an encoder counts as present: a third of a ResNet-18

PUBLISHED = tuple(name for name in BACKBONES if name in ("resnet18", "resnet34", "resnet50"))


@dataclass
class Candidate:
    """A row held against a file.

    Attributes:
        misses: what the row wants and the file has not; empty if the layout is recognised.
        found: tensors of the row's own names, of all its encoders.
        present: encoders that are in the file.
        encoder: the one that is taken.
        state: torchvision name -> tensor of the encoder taken, as in the file.
        keys: torchvision name -> key in the file, without wrapper tokens.
        dropped: reason -> keys.
        unexplained: keys that no part of the row accounts for.
    """

    row: Format
    misses: list[str] = field(default_factory=list)
    found: int = 0
    total: int = 0
    present: list[Encoder] = field(default_factory=list)
    encoder: Encoder | None = None
    state: dict[str, Any] = field(default_factory=dict)
    keys: dict[str, str] = field(default_factory=dict)
    dropped: dict[str, list[str]] = field(default_factory=dict)
    unexplained: list[str] = field(default_factory=list)


def hold_against(row: Format, content: Mapping[str, Any], encoder: str | None) -> Candidate:
    """Recognise a row's layout in a file and, if it is there, account for every key.

    Args:
        encoder: name of the one to take; None takes the family's.
    """
    candidate = Candidate(row)
    candidate.misses += [f"the entry {entry!r}" for entry in row.top if entry not in content]
    candidate.misses += [f"no entry {entry!r}" for entry in row.top_without if entry in content]
    states = {e.name: state_at(content, _entries(row, e)) for e in row.encoders}
    main = states[row.encoders[0].name] or {}
    candidate.total = len(main)
    for one in row.encoders:
        state = states[one.name] or {}
        found = len(_taken(row, one, state))
        candidate.found += found
        if found >= ENOUGH:
            candidate.present.append(one)
    for pattern in row.marks:
        if not any(matches(key, (pattern,)) for key in main):
            candidate.misses.append(f"a key {pattern!r}")
    for pattern in row.without:
        if any(matches(key, (pattern,)) for key in main):
            candidate.misses.append(f"no key {pattern!r}")
    if not candidate.present:
        first = row.encoders[0]
        where = ".".join(map(str, _entries(row, first)[0]))
        wanted = f"keys '{first.prefix}{_example(row)}'" + (f" in {where!r}" if where else "")
        candidate.misses.append(wanted)
    if not candidate.misses:
        _account(candidate, states, encoder)
    return candidate


def _example(row: Format) -> str:
    return "..." if row.by_order else next(iter(table(row.names)))


def _entries(row: Format, encoder: Encoder) -> tuple[Entry, ...]:
    return encoder.entry or (row.entry,)


def _taken(row: Format, encoder: Encoder, state: Mapping[str, Any]) -> dict[str, str]:
    """torchvision name -> key, for the tensors of an encoder."""
    if row.by_order:
        return _by_order(state)
    names = table(row.names)
    cut = len(encoder.prefix)
    return {
        names[key[cut:]]: key
        for key in state
        if key.startswith(encoder.prefix) and key[cut:] in names
    }


def _by_order(state: Mapping[str, Any]) -> dict[str, str]:
    """Names in torchvision's order, if the shapes and the last parts of the names agree one to one."""
    keys = [key for key, value in state.items() if isinstance(value, Tensor)]
    seen = [(key.rpartition(".")[2], tuple(state[key].shape)) for key in keys]
    for arch in PUBLISHED:
        wanted = shapes(arch)
        if [(name.rpartition(".")[2], shape) for name, shape in wanted.items()] == seen:
            return dict(zip(wanted, keys, strict=True))
    return {}


def _account(
    candidate: Candidate, states: Mapping[str, dict[str, Any] | None], asked: str | None
) -> None:
    row = candidate.row
    encoder = next((e for e in row.encoders if e.name == asked), row.encoders[0])
    candidate.encoder = encoder
    state = states[encoder.name] or {}
    candidate.keys = _taken(row, encoder, state)
    candidate.state = {name: state[key] for name, key in candidate.keys.items()}
    if row.hwio:
        candidate.state = {n: _from_hwio(n, value) for n, value in candidate.state.items()}
    taken = set(candidate.keys.values())
    others = [e for e in row.encoders if e is not encoder and not e.entry]
    for key in state:
        if key in taken:
            continue
        reason = _reason(key, row, encoder, others)
        if reason:
            candidate.dropped.setdefault(reason, []).append(key)
        else:
            candidate.unexplained.append(key)
    _check_aliases(candidate, state)


def _from_hwio(name: str, value: Any) -> Any:
    if not isinstance(value, Tensor) or value.ndim != 4:
        return value
    return value.flatten() if place(name).norm else value.permute(3, 2, 0, 1)


def _reason(key: str, row: Format, encoder: Encoder, others: list[Encoder]) -> str | None:
    """Why a key is not taken; None if the row does not say."""
    if key.startswith(encoder.prefix) and matches(key[len(encoder.prefix) :], row.heads):
        return "head"
    names = table(row.names)
    for other in others:
        rest = key.removeprefix(other.prefix)
        if rest != key and (rest in names or matches(rest, row.heads)):
            return f"other encoder ({other.name})"
    for alias in row.aliases:
        rest = key.removeprefix(alias)
        if rest != key and rest in names:
            return "saved twice"
        if rest != key and matches(rest, row.heads):
            return "head"
    return "not part of the backbone" if matches(key, row.dropped) else None


def _check_aliases(candidate: Candidate, state: Mapping[str, Any]) -> None:
    """A second copy has to hold the same tensors, or it is not explained by being a copy."""
    if candidate.encoder is not candidate.row.encoders[0]:
        return
    names = table(candidate.row.names)
    for key in candidate.dropped.get("saved twice", []):
        alias = next(a for a in candidate.row.aliases if key.startswith(a))
        twin = candidate.state.get(names[key.removeprefix(alias)])
        value = state[key]
        if not (isinstance(twin, Tensor) and isinstance(value, Tensor) and twin.equal(value)):
            candidate.unexplained.append(key)


def fit(state: Mapping[str, Any], arch: str) -> list[str]:
    """Lines that say where a state differs from an architecture's tensors; empty if it fits."""
    wanted = shapes(arch)
    lines = []
    counted = any(name.endswith(COUNTER) for name in state)
    for name, shape in wanted.items():
        value = state.get(name)
        if name not in state:
            if counted or not name.endswith(COUNTER):
                lines.append(f"missing      {name} {shape}")
        elif not isinstance(value, Tensor):
            lines.append(f"no tensor    {name} is a {type(value).__name__}")
        elif tuple(value.shape) != shape:
            lines.append(f"wrong shape  {name} {tuple(value.shape)}, expected {shape}")
        elif value.is_floating_point() and not torch.isfinite(value).all():
            lines.append(f"not finite   {name}: {int((~torch.isfinite(value)).sum())} values")
    lines += [f"unexpected   {name}" for name in state if name not in wanted]
    return lines


def nearest(state: Mapping[str, Any], archs: tuple[str, ...] = PUBLISHED) -> str:
    """The architecture whose tensors agree best in name and shape."""

    def agreement(arch: str) -> float:
        wanted = shapes(arch)
        same = sum(
            isinstance(value, Tensor) and tuple(value.shape) == wanted.get(name)
            for name, value in state.items()
        )
        return same / max(len(wanted), len(state))

    return max(archs, key=agreement)


def completed(state: Mapping[str, Tensor], arch: str) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The state in the module's order, in float32, counters filled in; and notes on what was done."""
    notes = []
    if not any(name.endswith(COUNTER) for name in state):
        notes.append(f"{COUNTER} is absent (set to 0; evaluation does not use it)")
    made = {}
    types = set()
    for name in shapes(arch):
        value = state.get(name, torch.tensor(0))
        if value.is_floating_point() and value.dtype != torch.float32:
            types.add(str(value.dtype).removeprefix("torch."))
            value = value.float()
        made[name] = value.detach().contiguous().clone()
    if types:
        notes.append(f"weights were stored as {', '.join(sorted(types))}; they are used as float32")
    return made, tuple(notes)
