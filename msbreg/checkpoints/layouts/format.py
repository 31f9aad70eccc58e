"""Format: what one row of FORMATS says about a checkpoint layout, and how a file is held against it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor

from msbreg.backbones.architectures import PUBLISHED
from msbreg.backbones.spec import IMAGENET, Normalization
from msbreg.checkpoints.layouts.names import Dialect, place, shapes, table, torchvision
from msbreg.checkpoints.layouts.tensors import Entry, matches, networks, state_at, unwrapped
from msbreg.checkpoints.read.inert import printable

ZERO_TO_ONE = Normalization((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
"""Pixels / 255 and nothing else (SimCLR in TensorFlow, sthalles, Spijkervet)."""

SWAV = Normalization((0.485, 0.456, 0.406), (0.228, 0.224, 0.225))
"""SwAV's standard deviations (facebookresearch/swav, multicropdataset.py)."""

CAFFE2 = Normalization((0.406, 0.456, 0.485), (0.225, 0.224, 0.229), "BGR")
"""ImageNet's statistics in the order of OpenCV (fair_self_supervision_benchmark, image_dataset.py)."""

MSRA = Normalization((103.53 / 255, 116.28 / 255, 123.675 / 255), (1 / 255,) * 3, "BGR")
"""Caffe's: BGR in [0, 255], mean only (Detectron2's default PIXEL_MEAN and PIXEL_STD)."""


@dataclass(frozen=True)
class Encoder:
    """One network in a file.

    Attributes:
        name: what records call it, and what ``--encoder`` takes.
        prefix: of its tensors, after wrapper tokens (``module.``) are taken away; with its dot.
        entry: where its state dict is, if not at the row's; several are joined.
    """

    name: str
    prefix: str
    entry: tuple[Entry, ...] = ()


@dataclass(frozen=True)
class Format:
    """One checkpoint layout found in the wild.

    Patterns are shell-style (``*`` also matches dots) and see keys without wrapper tokens.

    Attributes:
        name: of the family, in records and for ``--family``.
        covers: methods and files that come in this layout.
        source: repository and file in which the layout was read; [?] where only a file could prove it.
        encoders: networks that may be in the file; the first is the family's rule.
        why: why that one.
        entry: keys that lead from the file's content to the state dict.
        names: dialect of the tensors behind the prefix.
        hwio: convolutions are stored (height, width, in, out) and norms (1, 1, 1, C), as TensorFlow does.
        by_order: names carry no meaning; tensors come in torchvision's order.
        top: entries that the file's content must have.
        top_without: entries that it must not have.
        values: entries and the values that they must have.
        absent: places and patterns that must match no key there.
        marks: patterns, each of which must match a key: what tells the layout from its neighbors.
        without: patterns that must match no key.
        heads: patterns behind an encoder's prefix that are dropped on purpose.
        dropped: patterns of whole keys that are dropped on purpose.
        aliases: prefixes under which the same tensors are saved again; they must be equal.
        normalization: of the input.
        stride: where a bottleneck has stride 2: in the 3x3 (v1.5, torchvision) or the 1x1 (v1, Caffe).
        states_arch: the file names its architecture, in our terms.
        note: what else a user should know.
    """

    name: str
    covers: str
    source: str
    encoders: tuple[Encoder, ...]
    why: str = "the file holds one network"
    entry: Entry = ()
    names: Dialect = torchvision
    hwio: bool = False
    by_order: bool = False
    top: tuple[str, ...] = ()
    top_without: tuple[str, ...] = ()
    values: tuple[tuple[str, str], ...] = ()
    absent: tuple[tuple[Entry, str], ...] = ()
    marks: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    heads: tuple[str, ...] = ("fc.*",)
    dropped: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    normalization: Normalization = IMAGENET
    stride: Literal["3x3", "1x1"] = "3x3"
    states_arch: bool = False
    note: str = ""


# ---- Compare a row of FORMATS with a file: does it have the layout, and what is each of its


EVERYTHING = ("*",)  # dropped where a user points at the network

ENOUGH = 20  # tensors below a prefix, from which on an encoder counts as present


@dataclass
class Candidate:
    """A row compared with a file.

    Attributes:
        misses: what the row requires and the file lacks; empty if the layout is recognized.
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


States = dict[tuple[tuple[Entry, ...], bool], tuple[dict[str, Any] | None, str]]


def hold_against(
    row: Format, content: Mapping[str, Any], encoder: str | None, states_at: States
) -> Candidate:
    """Look for a row's layout in a file and, if it is there, account for every key.

    Args:
        encoder: name of the one to take; None takes the family's.
        states_at: flattened state dicts of this content, kept between rows.
    """
    candidate = Candidate(row)
    candidate.misses += [f"the entry {entry!r}" for entry in row.top if entry not in content]
    candidate.misses += [f"no entry {entry!r}" for entry in row.top_without if entry in content]
    for entry, value in row.values:
        if content.get(entry) != value:
            candidate.misses.append(f"the entry {entry} = {value!r}")
    states: dict[str, dict[str, Any] | None] = {}
    for one in row.encoders:
        entries = (_entries(row, one), row.hwio)
        if entries not in states_at:
            states_at[entries] = state_at(content, entries[0], nested=row.hwio)
        state, problem = states_at[entries]
        states[one.name] = state
        candidate.misses += [problem] if problem else []
        found = len(_taken(row, one, state or {}))
        candidate.found += found
        if found >= ENOUGH:
            candidate.present.append(one)
    main = states[row.encoders[0].name] or {}
    candidate.total = len(main)
    _check_marks(candidate, main, content)
    if not candidate.present:
        first = row.encoders[0]
        where = ".".join(map(str, _entries(row, first)[0]))
        wanted = f"keys '{first.prefix}{_example(row)}'" + (f" in {where!r}" if where else "")
        candidate.misses.append(wanted)
    if not candidate.misses:
        _account(candidate, states, encoder)
    return candidate


def _check_marks(candidate: Candidate, main: Mapping[str, Any], content: Mapping[str, Any]) -> None:
    row = candidate.row
    for pattern in row.marks:
        if not any(matches(key, (pattern,)) for key in main):
            candidate.misses.append(f"a key {pattern!r}")
    for pattern in row.without:
        if any(matches(key, (pattern,)) for key in main):
            candidate.misses.append(f"no key {pattern!r}")
    for entry, pattern in row.absent:
        elsewhere = state_at(content, (entry,))[0] or {}
        if any(matches(key, (pattern,)) for key in elsewhere):
            candidate.misses.append(f"no key {pattern!r} in {'.'.join(map(str, entry))}")


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
    # A pattern that drops a head must not hide a network of a name that nobody thought of.
    known = tuple(e.prefix for e in row.encoders) + row.aliases
    if row.dropped == EVERYTHING:
        return
    for reason in ("head", "not part of the backbone"):
        for prefix, keys in networks(candidate.dropped.get(reason, [])).items():
            if prefix not in known:
                candidate.unexplained += keys


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
    """A second copy must hold the same tensors; otherwise its keys stay unexplained."""
    if candidate.encoder is not candidate.row.encoders[0]:
        return
    names = table(candidate.row.names)
    for key in candidate.dropped.get("saved twice", []):
        alias = next(a for a in candidate.row.aliases if key.startswith(a))
        twin = candidate.state.get(names[key.removeprefix(alias)])
        value = state[key]
        if not (isinstance(twin, Tensor) and isinstance(value, Tensor) and twin.equal(value)):
            candidate.unexplained.append(key)


def elsewhere(candidate: Candidate, content: Mapping[str, Any]) -> Iterator[str]:
    """Entries of the file that hold a network the row does not know: one sentence each."""
    row = candidate.row
    used = {entry for e in row.encoders for entry in _entries(row, e)}
    if () in used:
        return
    for key, value in content.items():
        if isinstance(value, Mapping) and not any(entry[0] == key for entry in used):
            for prefix in networks(unwrapped(str(k)) for k in value):
                where = printable(f"{key}: {prefix}*")
                yield f"the file contains another network, which was ignored ({where})"
