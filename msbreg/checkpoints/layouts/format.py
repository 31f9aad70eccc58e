"""Format: the description of a checkpoint layout (one row of FORMATS), and matching a file with it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor

from msbreg.backbones.architectures import PUBLISHED
from msbreg.backbones.spec import IMAGENET, Interpolation, Normalization
from msbreg.backbones.vit_architectures import Positions
from msbreg.checkpoints.layouts.names import Dialect, place, shapes, table, torchvision
from msbreg.checkpoints.layouts.tensors import Entry, matches, networks, state_at, unwrapped
from msbreg.checkpoints.layouts.vit_names import TransformerNames
from msbreg.checkpoints.read.inert import printable

ZERO_TO_ONE = Normalization((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
"""Pixels / 255 only (SimCLR in TensorFlow, sthalles, Spijkervet)."""

SWAV = Normalization((0.485, 0.456, 0.406), (0.228, 0.224, 0.225))
"""SwAV's standard deviations (facebookresearch/swav, multicropdataset.py)."""

CAFFE2 = Normalization((0.406, 0.456, 0.485), (0.225, 0.224, 0.229), "BGR")
"""ImageNet's statistics in BGR order (fair_self_supervision_benchmark, image_dataset.py)."""

MSRA = Normalization((103.53 / 255, 116.28 / 255, 123.675 / 255), (1 / 255,) * 3, "BGR")
"""Caffe: BGR in [0, 255], minus the mean (Detectron2's default PIXEL_MEAN and PIXEL_STD)."""


@dataclass(frozen=True)
class Encoder:
    """One network in a file.

    Attributes:
        name: name in records and for ``--encoder``.
        prefix: prefix of its tensors after wrapper tokens (``module.``) are removed, including the dot.
        entry: location of its state dict if it differs from the row's; several are merged.
    """

    name: str
    prefix: str
    entry: tuple[Entry, ...] = ()


@dataclass(frozen=True)
class Format:
    """One checkpoint layout.

    Patterns are shell-style (``*`` also matches dots) and apply to keys without wrapper tokens.

    Attributes:
        name: name of the family in records and for ``--family``.
        covers: methods and files with this layout.
        source: repository and file that define the layout; [?] marks what was not checked with a file.
        encoders: networks that may be in the file; the first is the default.
        why: reason for the default.
        entry: keys that lead from the file's content to the state dict.
        names: dialect of the tensor names after the prefix; it decides between ResNets and ViTs.
        archs: for ViTs, patterns of the architectures that such files contain. Where tensors do not decide,
            the first pattern does.
        hwio: whether convolutions are stored as (height, width, in, out) and norms as (1, 1, 1, C), as
            in TensorFlow.
        by_order: whether names are meaningless and tensors follow torchvision's order.
        top: entries that the file's content must have.
        top_without: entries that it must not have.
        values: entries and their required values.
        absent: locations and patterns that must not match any key there.
        marks: patterns that must each match a key; they distinguish similar layouts.
        without: patterns that must not match any key.
        heads: patterns after an encoder's prefix whose keys are dropped on purpose.
        dropped: patterns whose keys are dropped on purpose.
        aliases: prefixes of second copies of the same tensors; the copies must be equal.
        normalization: input normalization.
        stride: the convolution with stride 2 in a bottleneck: 3x3 (v1.5, torchvision) or 1x1 (v1, Caffe).
        positions: for ViTs, how the source adapts position embeddings to other image sizes.
        interpolation: how the source resizes evaluation images; None is the default of the network.
        on_request: whether the layout is only used if the user names it.
        states_arch: whether the file states its architecture under our name.
        note: anything else a user should know.
    """

    name: str
    covers: str
    source: str
    encoders: tuple[Encoder, ...]
    why: str = "the file contains one network"
    entry: Entry = ()
    names: Dialect | TransformerNames = torchvision
    archs: tuple[str, ...] = ()
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
    positions: Positions | None = None
    interpolation: Interpolation | None = None
    on_request: bool = False
    states_arch: bool = False
    note: str = ""


# ---- Match a row of FORMATS with a file and account for every key


EVERYTHING = ("*",)  # ``dropped`` of a layout that the user specifies

MIN_TENSORS = 20  # an encoder is present if at least this many of its tensors are


@dataclass
class Candidate:
    """The result of matching a row with a file.

    Attributes:
        misses: requirements of the row that the file does not meet; empty if the layout matches.
        found: number of tensors under the row's names, over all its encoders.
        total: number of keys in the state dict of the default encoder.
        present: encoders that are in the file.
        encoder: the selected encoder.
        state: our name (torchvision's or timm's) -> tensor of the selected encoder, as in the file.
        keys: our name -> key in the file, without wrapper tokens.
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


def match_row(
    row: Format, content: Mapping[str, Any], encoder: str | None, states_at: States
) -> Candidate:
    """Match a row with a file and, if the layout fits, account for every key.

    Args:
        encoder: name of the encoder to use; None uses the family's default.
        states_at: cache of the flattened state dicts of this content, shared between rows.
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
        found = len(_keys_of(row, one, state or {}))
        candidate.found += found
        if found >= MIN_TENSORS:
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
        _account_for_keys(candidate, states, encoder)
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
        other_state = state_at(content, (entry,))[0] or {}
        if any(matches(key, (pattern,)) for key in other_state):
            candidate.misses.append(f"no key {pattern!r} in {'.'.join(map(str, entry))}")


def _example(row: Format) -> str:
    return "..." if row.by_order else next(iter(table(row.names)))


def _entries(row: Format, encoder: Encoder) -> tuple[Entry, ...]:
    return encoder.entry or (row.entry,)


def _keys_of(row: Format, encoder: Encoder, state: Mapping[str, Any]) -> dict[str, str]:
    """torchvision name -> key in the file, for the tensors of an encoder."""
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
    """torchvision name -> key by position; empty unless shapes and last name parts agree one to one."""
    keys = [key for key, value in state.items() if isinstance(value, Tensor)]
    seen = [(key.rpartition(".")[2], tuple(state[key].shape)) for key in keys]
    for arch in PUBLISHED:
        wanted = shapes(arch)
        if [(name.rpartition(".")[2], shape) for name, shape in wanted.items()] == seen:
            return dict(zip(wanted, keys, strict=True))
    return {}


def _account_for_keys(
    candidate: Candidate, states: Mapping[str, dict[str, Any] | None], requested: str | None
) -> None:
    row = candidate.row
    encoder = next((e for e in row.encoders if e.name == requested), row.encoders[0])
    candidate.encoder = encoder
    state = states[encoder.name] or {}
    candidate.keys = _keys_of(row, encoder, state)
    candidate.state = {name: state[key] for name, key in candidate.keys.items()}
    if row.hwio:
        candidate.state = {n: _from_hwio(n, value) for n, value in candidate.state.items()}
    taken = set(candidate.keys.values())
    others = [e for e in row.encoders if e is not encoder and not e.entry]
    for key in state:
        if key in taken:
            continue
        reason = _drop_reason(key, row, encoder, others)
        if reason:
            candidate.dropped.setdefault(reason, []).append(key)
        else:
            candidate.unexplained.append(key)
    _check_aliases(candidate, state)
    # A pattern that drops heads must not hide a network under an unexpected name.
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


def _drop_reason(key: str, row: Format, encoder: Encoder, others: list[Encoder]) -> str | None:
    """Why a key is not used; None if the row does not explain it."""
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
    """Mark the keys of a second copy as unexplained where its tensors differ from the first."""
    if candidate.encoder is not candidate.row.encoders[0]:
        return
    names = table(candidate.row.names)
    for key in candidate.dropped.get("saved twice", []):
        alias = next(a for a in candidate.row.aliases if key.startswith(a))
        twin = candidate.state.get(names[key.removeprefix(alias)])
        value = state[key]
        if not (isinstance(twin, Tensor) and isinstance(value, Tensor) and twin.equal(value)):
            candidate.unexplained.append(key)


def ignored_networks(candidate: Candidate, content: Mapping[str, Any]) -> Iterator[str]:
    """One sentence per network in entries of the file that the row does not cover."""
    row = candidate.row
    used = {entry for e in row.encoders for entry in _entries(row, e)}
    if () in used:
        return
    for key, value in content.items():
        if isinstance(value, Mapping) and not any(entry[0] == key for entry in used):
            for prefix in networks(unwrapped(str(k)) for k in value):
                where = printable(f"{key}: {prefix}*")
                yield f"the file contains another network, which was ignored ({where})"
